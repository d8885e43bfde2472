// Choices lane by lane, in the fewest instructions that an instruction set has for them. See vec.h for the rule of files that
// include it.
#pragma once

#include "vec.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace mer_fast::MER_ISA {

// The larger; b where either is NaN.
template <typename Real>
static inline VecOf<Real> larger(VecOf<Real> a, VecOf<Real> b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Real) == 4) return _mm512_max_ps(a, b);
  else return _mm512_max_pd(a, b);
#elif defined(__AVX2__)
  if constexpr (sizeof(Real) == 4) return _mm256_max_ps(a, b);
  else return _mm256_max_pd(a, b);
#else
  return a > b ? a : b;
#endif
}

// `value`, but 0 where x is at most `least`; NaN is not.
template <typename Real>
static inline VecOf<Real> unless_least(VecOf<Real> x, VecOf<Real> least, VecOf<Real> value) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Real) == 4) return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, least, _CMP_NLE_UQ), value);
  else return _mm512_maskz_mov_pd(_mm512_cmp_pd_mask(x, least, _CMP_NLE_UQ), value);
#else
  return x <= least ? VecOf<Real>{} : value;
#endif
}

// Goes through places one after another, and adds to the first of each lane that has the wanted value.
template <typename Real>
struct FirstEqual {
  VecOf<Real> wanted, addend;
#if defined(__AVX512F__)
  __mmask16 left = static_cast<__mmask16>(-1);

  FirstEqual(VecOf<Real> value, VecOf<Real> added) : wanted(value), addend(added) {}

  inline VecOf<Real> add_where_found(VecOf<Real> value, VecOf<Real> to) {
    if constexpr (sizeof(Real) == 4) {
      const __mmask16 found = _mm512_mask_cmp_ps_mask(left, value, wanted, _CMP_EQ_OQ);
      left = _kandn_mask16(found, left);
      return _mm512_mask_add_ps(to, found, to, addend);
    } else {
      const __mmask8 found = _mm512_mask_cmp_pd_mask(static_cast<__mmask8>(left), value, wanted, _CMP_EQ_OQ);
      left = static_cast<__mmask16>(left & ~found);
      return _mm512_mask_add_pd(to, found, to, addend);
    }
  }
#else
  decltype(VecOf<Real>{} == VecOf<Real>{}) left;

  FirstEqual(VecOf<Real> value, VecOf<Real> added) : wanted(value), addend(added), left(value == value) {}

  inline VecOf<Real> add_where_found(VecOf<Real> value, VecOf<Real> to) {
    const auto found = (value == wanted) & left;
    left &= ~found;
    return to + (found ? addend : VecOf<Real>{});
  }
#endif
};

}  // namespace mer_fast::MER_ISA
