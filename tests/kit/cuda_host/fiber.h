// Threads that take turns by hand: each has a stack of its own, and one switches to another by name.
#pragma once

#include <ucontext.h>

#include <cstddef>

namespace mer_fast::host {

// A stack and, while it is not running, where it stopped. The one of the program's own stack is default-constructed.
struct Fiber {
  char* low = nullptr;  // the stack's lowest address
  size_t bytes = 0;
#if defined(__x86_64__)
  void* stopped = nullptr;
#else
  ucontext_t stopped;
#endif
  void* shadow_stack = nullptr;  // the address sanitizer's
};

// As many fibers as asked for, with a page between stacks that nobody may touch.
void make_fibers(Fiber* fibers, int count, void (*entry)());
void switch_fiber(Fiber& from, Fiber& to);
// The first thing that a fiber's entry calls.
void fiber_entered();

}  // namespace mer_fast::host
