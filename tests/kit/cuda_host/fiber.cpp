#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

// The address sanitizer has to be told about a change of stacks; null where the program is built without it.
extern "C" {
__attribute__((weak)) void __sanitizer_start_switch_fiber(void** shadow_stack, const void* low, size_t bytes);
__attribute__((weak)) void __sanitizer_finish_switch_fiber(void* shadow_stack, const void** low, size_t* bytes);
}

#if defined(__x86_64__)
// Keeps the registers that a call has to keep, and changes stacks.
extern "C" void mer_fast_switch_stack(void** stopped, void* to);
asm(R"(
.text
.type mer_fast_switch_stack, @function
mer_fast_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size mer_fast_switch_stack, .-mer_fast_switch_stack
)");
#endif

namespace mer_fast::host {
namespace {

constexpr size_t kPage = 4096, kStack = 32 * kPage;
Fiber* left = nullptr;  // which fiber the running one was switched to from

void prepare(Fiber& fiber, int index, void (*entry)()) {
#if defined(__x86_64__)
  // Stacks that began at the same place of their pages would share a few lines of the cache.
  const size_t colour = index % 31 * 64;
  auto** top = reinterpret_cast<void**>(fiber.low + fiber.bytes - colour) - 2;
  *top = reinterpret_cast<void*>(entry);
  fiber.stopped = top - 6;
#else
  (void)index;
  getcontext(&fiber.stopped);
  fiber.stopped.uc_stack.ss_sp = fiber.low;
  fiber.stopped.uc_stack.ss_size = fiber.bytes;
  makecontext(&fiber.stopped, entry, 0);
#endif
}

}  // namespace

void make_fibers(Fiber* fibers, int count, void (*entry)()) {
  const size_t stride = kStack + kPage;
  void* memory = mmap(
      nullptr, stride * count, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    std::fprintf(stderr, "no memory for %d threads\n", count);
    std::exit(2);
  }
  for (int k = 0; k < count; ++k) {
    char* guard = static_cast<char*>(memory) + k * stride;
    mprotect(guard, kPage, PROT_NONE);
    fibers[k].low = guard + kPage;
    fibers[k].bytes = kStack;
    prepare(fibers[k], k, entry);
  }
}

void switch_fiber(Fiber& from, Fiber& to) {
  if (__sanitizer_start_switch_fiber != nullptr) __sanitizer_start_switch_fiber(&from.shadow_stack, to.low, to.bytes);
  left = &from;
#if defined(__x86_64__)
  mer_fast_switch_stack(&from.stopped, to.stopped);
#else
  swapcontext(&from.stopped, &to.stopped);
#endif
  if (__sanitizer_finish_switch_fiber != nullptr) __sanitizer_finish_switch_fiber(from.shadow_stack, nullptr, nullptr);
}

void fiber_entered() {
  if (__sanitizer_finish_switch_fiber == nullptr) return;
  const void* low = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(nullptr, &low, &bytes);
  if (left->low == nullptr) {  // the program's own stack, whose place only the sanitizer knows
    left->low = const_cast<char*>(static_cast<const char*>(low));
    left->bytes = bytes;
  }
}

}  // namespace mer_fast::host
