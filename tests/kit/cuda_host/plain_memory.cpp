// Memory of the sanitized build: the address sanitizer watches it, and nothing is kept about who touched what.
#include <cstdlib>

#include "runtime.h"

// Null where the program is built without it.
extern "C" __attribute__((weak)) void __asan_poison_memory_region(const volatile void* address, size_t bytes);

namespace mer_fast::host {
namespace {

constexpr size_t kAlignment = 256;  // cudaMalloc's

void* aligned(size_t bytes) {
  void* memory = nullptr;
  if (posix_memalign(&memory, kAlignment, bytes) != 0) end_program("out of memory");
  return memory;
}

}  // namespace

void* allocate(const char*, size_t bytes, size_t before) {
  auto* memory = static_cast<unsigned char*>(aligned(before + bytes));
  if (__asan_poison_memory_region != nullptr) __asan_poison_memory_region(memory, before);
  return memory + before;
}
void release(void*) {}  // programs are short
void host_writes(void*, size_t) {}
void host_reads(const void*, size_t) {}
unsigned char* allocate_shared(int, size_t bytes) { return static_cast<unsigned char*>(aligned(bytes)); }
void release_shared(int, unsigned char* memory) { std::free(memory); }

void grid_begins(const void*, size_t, int) {}
void grid_ends() {}
void cluster_begins() {}
void block_synchronised(Block&) {}
void warp_synchronised(Block&, Warp&, unsigned) {}
void thread_arrived(Thread&) {}
void thread_waited(Thread&) {}
void thread_ends(Thread&) {}
void thread_fence() {}
void atomic_access(const void*, size_t, const void*) {}

}  // namespace mer_fast::host
