// Convolutions whose kernel is one pixel wide and high: a matrix product of weights with whole frames, read where they lie.
#pragma once

#include "conv3d_pool_kernel.h"

namespace mer_fast {

// One output frame: out[o][p] = activation(bias[o] + sum over taps of weight[o][tap] * taps[tap][p]).
template <typename Real>
struct PointwiseFrame {
  const Real* const* taps;  // the input's frame under each tap
  int64_t num_taps;
  const Real* weight;       // [output / width][tap][output % width]
  int64_t outputs, width;   // width: outputs side by side
  int64_t weight_step;      // from one row of `width` outputs to the next
  const Real* bias;         // [output / width][output % width]
  Activation activation;
  Real* out;
  int64_t out_step;         // from an output channel to the next
  int64_t pixels;           // at least pointwise_pixels()
  Real* near;               // num_taps * kPointwiseNear elements: a stretch of every tap's frame, gathered from afar
};

constexpr int64_t kPointwiseNear = 144;

MER_FAST_DECLARE_KERNEL(void pointwise_frame(const PointwiseFrame<float>& frame))
MER_FAST_DECLARE_KERNEL(void pointwise_frame(const PointwiseFrame<double>& frame))
MER_FAST_DECLARE_KERNEL(int64_t pointwise_width(int64_t outputs))
MER_FAST_DECLARE_KERNEL(int64_t pointwise_pixels(int64_t element_bytes))

}  // namespace mer_fast
