// The matrix units of some x86 processors (AMX), which multiply tiles of bfloat16 many times faster than vectors do.
#pragma once

#include "isa.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace mer_fast {

inline bool detect_matrix_units() {
#if defined(__x86_64__) && defined(__linux__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kTiles = 1u << 24, kBfloat16 = 1u << 22;  // leaf 7, EDX
  if (isa() != Isa::avx512 || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kTiles) == 0 || (d & kBfloat16) == 0) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // of the process, from the kernel, which saves the tiles' state
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

inline bool matrix_units() {
  static const bool there = detect_matrix_units();
  return there;
}

}  // namespace mer_fast
