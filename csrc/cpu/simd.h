// Names for vectors of float, and what needs instructions of its own. See vec.h for the rule of files that include it.
#pragma once

#include "vec.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace mer_fast::MER_ISA {

constexpr int kLanes = lanes_of<float>;

typedef VecOf<float> Vec;
typedef int32_t IVec __attribute__((vector_size(kLanes * sizeof(int32_t))));

static inline Vec load(const float* p) { return vload(p); }
static inline void store(float* p, Vec v) { vstore(p, v); }
static inline Vec splat(float x) { return vsplat(x); }

// Else a value used twice is loaded twice, as an operand in memory.
static inline void keep_in_register(Vec& v) {
#if defined(__AVX512F__)
  asm("" : "+v"(v));
#elif defined(__x86_64__)
  asm("" : "+x"(v));
#endif
}

// approximate_rsqrt is good to 14 bits, reciprocal, with its Newton step, to 22.
#if defined(__AVX512F__)

static inline Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
static inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
// The sign of a on the smaller of |a| and |b|: one instruction clamps a to [-b, b].
static inline Vec clamp_magnitude(Vec a, Vec b) { return _mm512_range_ps(a, b, 0b0010); }
static inline Vec approximate_rsqrt(Vec a) { return _mm512_rsqrt14_ps(a); }
static inline Vec reciprocal(Vec a) {
  const Vec r = _mm512_rcp14_ps(a);
  return r * (2.0f - a * r);
}
static inline Vec square_root(Vec a) { return _mm512_sqrt_ps(a); }
static inline Vec floor(Vec a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
static inline Vec absolute(Vec a) { return _mm512_abs_ps(a); }
// Lane by lane the element `index` of low and high, one behind the other.
static inline Vec pick(Vec low, Vec high, IVec index) {
  return _mm512_permutex2var_ps(low, reinterpret_cast<__m512i>(index), high);
}
// Whether every lane lies in 0..most.
static inline bool all_up_to(IVec a, int32_t most) {
  return _mm512_cmpgt_epu32_mask(reinterpret_cast<__m512i>(a), _mm512_set1_epi32(most)) == 0;
}

#elif defined(__AVX2__)

static inline Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
static inline Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
static inline Vec clamp_magnitude(Vec a, Vec b) { return max(min(a, b), -b); }
static inline Vec square_root(Vec a) { return _mm256_sqrt_ps(a); }
static inline Vec floor(Vec a) { return _mm256_floor_ps(a); }
static inline Vec absolute(Vec a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
static inline Vec pick(Vec low, Vec high, IVec index) {
  const __m256i lane = reinterpret_cast<__m256i>(index);
  const Vec from_low = _mm256_permutevar8x32_ps(low, lane), from_high = _mm256_permutevar8x32_ps(high, lane);
  return _mm256_blendv_ps(from_low, from_high, _mm256_castsi256_ps(_mm256_slli_epi32(lane, 28)));
}
static inline bool all_up_to(IVec a, int32_t most) {
  const __m256i lane = reinterpret_cast<__m256i>(a);
  return _mm256_movemask_epi8(_mm256_cmpeq_epi32(_mm256_min_epu32(lane, _mm256_set1_epi32(most)), lane)) == -1;
}
static inline Vec approximate_rsqrt(Vec a) {
  const Vec r = _mm256_rsqrt_ps(a);
  return r * (1.5f - 0.5f * a * r * r);
}
static inline Vec reciprocal(Vec a) {
  const Vec r = _mm256_rcp_ps(a);
  return r * (2.0f - a * r);
}

#else

static inline Vec min(Vec a, Vec b) { return a < b ? a : b; }
static inline Vec max(Vec a, Vec b) { return a > b ? a : b; }
static inline Vec clamp_magnitude(Vec a, Vec b) { return max(min(a, b), -b); }
static inline Vec square_root(Vec a) {
  for (int i = 0; i < kLanes; ++i) a[i] = __builtin_sqrtf(a[i]);
  return a;
}
static inline Vec floor(Vec a) {
  for (int i = 0; i < kLanes; ++i) a[i] = __builtin_floorf(a[i]);
  return a;
}
static inline Vec absolute(Vec a) { return max(a, -a); }
static inline Vec pick(Vec low, Vec high, IVec index) {
  Vec out{};
  for (int i = 0; i < kLanes; ++i) out[i] = index[i] < kLanes ? low[index[i]] : high[index[i] - kLanes];
  return out;
}
static inline bool all_up_to(IVec a, int32_t most) {
  bool all = true;
  for (int i = 0; i < kLanes; ++i) all &= static_cast<uint32_t>(a[i]) <= static_cast<uint32_t>(most);
  return all;
}
static inline Vec approximate_rsqrt(Vec a) { return 1.0f / square_root(a); }
static inline Vec reciprocal(Vec a) { return 1.0f / a; }

#endif

}  // namespace mer_fast::MER_ISA
