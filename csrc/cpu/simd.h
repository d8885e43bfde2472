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

#elif defined(__AVX2__)

static inline Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
static inline Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
static inline Vec clamp_magnitude(Vec a, Vec b) { return max(min(a, b), -b); }
static inline Vec square_root(Vec a) { return _mm256_sqrt_ps(a); }
static inline Vec floor(Vec a) { return _mm256_floor_ps(a); }
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
static inline Vec approximate_rsqrt(Vec a) { return 1.0f / square_root(a); }
static inline Vec reciprocal(Vec a) { return 1.0f / a; }

#endif

}  // namespace mer_fast::MER_ISA
