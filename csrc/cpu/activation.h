// The activations behind a convolution, for one value and for a vector.
#pragma once

#include "conv3d_pool_kernel.h"
#include "vec.h"

namespace mer_fast::MER_ISA {

static inline float erf_of(float x) { return __builtin_erff(x); }
static inline double erf_of(double x) { return __builtin_erf(x); }

template <typename Real>
static inline Real gelu(Real x) {
  return x * Real(0.5) * (1 + erf_of(x * Real(0.70710678118654752440)));
}

// erf as a rational function fitted on [-3.925, 3.925], beyond which it is 1 in float: absolute error 5e-7.
static inline VecOf<float> erf_of(VecOf<float> x) {
  const VecOf<float> edge = vsplat(3.925f);
  const VecOf<float> a = x > edge ? edge : x, b = a < -edge ? -edge : a, z = b * b;  // NaN passes
  const VecOf<float> p =
      ((((2.0545501e-6f * z + 2.8398819e-4f) * z + 3.7307383e-3f) * z + 5.2639574e-2f) * z + 1.8960942e-1f) * z + 1.1283791f;
  const VecOf<float> q =
      ((((3.8091675e-5f * z + 1.1538996e-3f) * z + 1.4899019e-2f) * z + 1.1377639e-1f) * z + 5.0136983e-1f) * z + 1.0f;
  const VecOf<float> inside = b * p / q;
  return x > edge ? vsplat(1.0f) : x < -edge ? vsplat(-1.0f) : inside;
}

static inline VecOf<float> gelu(VecOf<float> x) { return x * 0.5f * (1.0f + erf_of(x * 0.70710678f)); }

static inline VecOf<double> gelu(VecOf<double> x) {
  for (int i = 0; i < lanes_of<double>; ++i) x[i] = gelu<double>(x[i]);
  return x;
}

template <typename Real>
static inline Real activate(Real x, Activation activation) {
  switch (activation) {
    case Activation::relu: return x < 0 ? Real(0) : x;  // NaN stays
    case Activation::leaky_relu: return x < 0 ? x * Real(kLeakySlope) : x;
    case Activation::gelu: return gelu<Real>(x);
    default: return x;
  }
}

template <typename Real>
static inline VecOf<Real> activate_vector(VecOf<Real> x, Activation activation) {
  switch (activation) {
    case Activation::relu: return x < 0 ? VecOf<Real>{} : x;
    case Activation::leaky_relu: return x < 0 ? x * Real(kLeakySlope) : x;
    case Activation::gelu: return gelu(x);
    default: return x;
  }
}

// Of sums of products with zero: NaN where one factor was not finite.
template <typename Real>
static inline bool all_finite(VecOf<Real> zeros) {
  const auto bad = zeros != zeros;
  bool any = false;
  for (int i = 0; i < lanes_of<Real>; ++i) any |= bad[i] != 0;
  return !any;
}

}  // namespace mer_fast::MER_ISA
