// A few threads that work on one problem side by side and meet at barriers far too often for a sleeping one.
#pragma once

#include <sched.h>

#include <cstdint>

namespace mer_fast {

struct Team {
  int size = 1;
  alignas(64) int arrived = 0;
  alignas(64) int phase = 0;

  // Everything written before the barrier by any member is visible to all after it.
  void barrier() {
    if (size == 1) return;
    const int now = __atomic_load_n(&phase, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&arrived, 1, __ATOMIC_ACQ_REL) == size) {
      __atomic_store_n(&arrived, 0, __ATOMIC_RELAXED);
      __atomic_store_n(&phase, now + 1, __ATOMIC_RELEASE);
      return;
    }
    for (int spins = 0; __atomic_load_n(&phase, __ATOMIC_ACQUIRE) == now; ++spins) {
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
      if (spins > 2000) sched_yield();  // more threads than cores: let the one we wait for run
    }
  }
};

}  // namespace mer_fast
