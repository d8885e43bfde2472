// Which instruction set a kernel runs with: kernel files (*_kernel.cpp) are compiled once per set, each into its own
// namespace, and the best one that this processor has is chosen at run time, so that one wheel serves all.
#pragma once

#include <cstdlib>
#include <cstring>

namespace mer_fast {

enum class Isa { generic, avx2, avx512 };

inline Isa detect_isa() {
#if defined(__x86_64__)
  // MER_FAST_ISA lowers the choice, so that every path can be tested on one machine; it never raises it.
  const char* wanted = std::getenv("MER_FAST_ISA");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool below_avx512 = wanted && (!std::strcmp(wanted, "avx2") || !std::strcmp(wanted, "generic"));
  const bool below_avx2 = wanted && !std::strcmp(wanted, "generic");
  if (avx512 && !below_avx512) return Isa::avx512;
  if (avx2 && !below_avx2) return Isa::avx2;
#endif
  return Isa::generic;
}

inline Isa isa() {
  static const Isa chosen = detect_isa();
  return chosen;
}

inline const char* isa_name() {
  switch (isa()) {
    case Isa::avx512: return "avx512";
    case Isa::avx2: return "avx2";
    default: return "generic";
  }
}

}  // namespace mer_fast

#if defined(__x86_64__)
// Calls kernel function `name` of the namespace compiled for this processor.
#define MER_FAST_DISPATCH(name, ...)                                        \
  (::mer_fast::isa() == ::mer_fast::Isa::avx512 ? avx512::name(__VA_ARGS__) \
   : ::mer_fast::isa() == ::mer_fast::Isa::avx2 ? avx2::name(__VA_ARGS__)   \
                                                : generic::name(__VA_ARGS__))
#else
#define MER_FAST_DISPATCH(name, ...) generic::name(__VA_ARGS__)
#endif

// Declares a kernel in every namespace it is compiled into.
#define MER_FAST_DECLARE_KERNEL(...)         \
  namespace generic {                        \
  __VA_ARGS__;                               \
  }                                          \
  namespace avx2 {                           \
  __VA_ARGS__;                               \
  }                                          \
  namespace avx512 {                         \
  __VA_ARGS__;                               \
  }
