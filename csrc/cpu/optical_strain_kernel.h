// Optical strain sqrt(u_x^2 + v_y^2 + shear (u_y + v_x)^2) and its gradient, a band of rows at a time.
#pragma once

#include <cstdint>

#include "isa.h"

namespace mer_fast {

enum class Derivative { central, forward, sobel };

// Rows [begin, end) of one image of height x width. `u` and `v` point to row 0, of which the rows of the band and
// kStrainHalo more on each side (inside the image) are there to read; likewise for the gradients.
template <typename Real>
struct StrainBand {
  const Real *u, *v;
  int64_t height, width, begin, end;
  Derivative derivative;
  Real shear;
};

constexpr int64_t kStrainHalo = 2;

// Reals of scratch that a band needs.
inline int64_t strain_scratch(int64_t width) { return 16 * width; }

MER_FAST_DECLARE_KERNEL(void strain_forward(const StrainBand<float>& band, float* strain, float* scratch))
MER_FAST_DECLARE_KERNEL(void strain_forward(const StrainBand<double>& band, double* strain, double* scratch))
MER_FAST_DECLARE_KERNEL(
    void strain_backward(const StrainBand<float>& band, const float* grad, float* grad_u, float* grad_v, float* scratch))
MER_FAST_DECLARE_KERNEL(
    void strain_backward(const StrainBand<double>& band, const double* grad, double* grad_u, double* grad_v, double* scratch))

}  // namespace mer_fast
