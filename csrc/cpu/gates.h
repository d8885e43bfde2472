// The gates of recurrent cells: logistic function and hyperbolic tangent, good to a few units in the last place of a float
// relative to their values, small ones too. NaN passes.
#pragma once

#include "simd.h"

namespace mer_fast::MER_ISA {

// exp(x) - 1 and 2^n for the whole number n nearest x / ln 2, |x| < 87: exp(x) - 1 = 2^n * *part + (2^n - 1).
static inline Vec exp_parts(Vec x, Vec* part) {
  const Vec shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the whole number is in the last bits
  const Vec n = shifted - 12582912.0f;
  const Vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  // Taylor's series to the 7th power on [-0.35, 0.35]
  const Vec p = ((((1.9841270e-4f * r + 1.3888889e-3f) * r + 8.3333333e-3f) * r + 4.1666667e-2f) * r + 1.6666667e-1f) * r + 0.5f;
  *part = r * r * p + r;
  IVec bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits << 23) + 0x3f800000;
  Vec power;
  std::memcpy(&power, &bits, sizeof power);
  return power;
}

static inline Vec between(Vec x, float limit) {
  x = x > limit ? splat(limit) : x;
  return x < -limit ? splat(-limit) : x;
}

static inline Vec logistic(Vec x) {
  Vec part;
  const Vec power = exp_parts(between(-x, 80.0f), &part);
  return reciprocal(power * part + power + 1.0f);
}

static inline Vec hyperbolic_tangent(Vec x) {
  Vec part;
  const Vec power = exp_parts(between(2.0f * x, 40.0f), &part);
  const Vec less = power * part + (power - 1.0f);  // exp(2 x) - 1
  return less * reciprocal(less + 2.0f);
}

}  // namespace mer_fast::MER_ISA
