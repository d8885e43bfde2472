// Vectors of float or double as wide as the instruction set this file is compiled for (MER_ISA: generic, avx2 or avx512).
// Files that include it must not instantiate templates of the standard library: the linker would keep one copy,
// perhaps the one with instructions that the processor at hand lacks.
#pragma once

#include <cstdint>
#include <cstring>

namespace mer_fast::MER_ISA {

#if defined(__AVX512F__)
constexpr int kVecBytes = 64;
constexpr int kVecRegisters = 32;
#elif defined(__AVX2__)
constexpr int kVecBytes = 32;
constexpr int kVecRegisters = 16;
#else
constexpr int kVecBytes = 16;
constexpr int kVecRegisters = 16;
#endif

template <typename Real>
struct VecType {
  typedef Real Vec __attribute__((vector_size(kVecBytes)));
};
template <>
struct VecType<double> {
  typedef double Vec __attribute__((vector_size(kVecBytes)));
};
template <typename Real>
using VecOf = typename VecType<Real>::Vec;

template <typename Real>
constexpr int lanes_of = kVecBytes / static_cast<int>(sizeof(Real));

template <typename Real>
static inline VecOf<Real> vload(const Real* p) {
  VecOf<Real> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

template <typename Real>
static inline void vstore(Real* p, VecOf<Real> v) {
  std::memcpy(p, &v, sizeof v);
}

template <typename Real>
static inline VecOf<Real> vsplat(Real x) {
  return x - VecOf<Real>{};  // x + 0 would be computed, since it is not x where x is -0
}

}  // namespace mer_fast::MER_ISA
