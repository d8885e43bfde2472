#include "conv3d_pointwise_kernel.h"

#include "activation.h"

namespace mer_fast::MER_ISA {

namespace {

constexpr int kMost = kVecRegisters == 32 ? 8 : 4;  // outputs side by side in registers
constexpr int kVectors = 3;                         // of pixels

// P outputs by kVectors vectors of pixels.
template <typename Real, int P>
inline void outputs_of(const PointwiseFrame<Real>& f, const Real* weight, const Real* bias, int64_t pixel, int64_t place) {
  constexpr int lanes = lanes_of<Real>;
  VecOf<Real> sum[P][kVectors];
#pragma GCC unroll 8
  for (int o = 0; o < P; ++o) {
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) sum[o][v] = vsplat(bias[o]);
  }
  for (int64_t k = 0; k < f.num_taps; ++k) {
    const Real* at = f.taps[k] + pixel;
    VecOf<Real> x[kVectors];
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) x[v] = vload(at + v * lanes);
#pragma GCC unroll 8
    for (int o = 0; o < P; ++o) {
      const VecOf<Real> w = vsplat(weight[k * f.width + o]);
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v) sum[o][v] += w * x[v];
    }
  }
#pragma GCC unroll 8
  for (int o = 0; o < P; ++o) {
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) {
      const int64_t at = place + o * f.out_step + v * lanes;
      if (f.before) sum[o][v] += vload(f.before + at);
      sum[o][v] = activate_vector<Real>(sum[o][v], f.activation);
      if (f.after) sum[o][v] += vload(f.after + at);
      vstore(f.out + at, sum[o][v]);
    }
  }
}

template <typename Real, int P = kMost>
void outputs_of(int64_t many, const PointwiseFrame<Real>& f, const Real* weight, const Real* bias, int64_t pixel, int64_t place) {
  if constexpr (P > 1) {
    if (many < P) return outputs_of<Real, P - 1>(many, f, weight, bias, pixel, place);
  }
  outputs_of<Real, P>(f, weight, bias, pixel, place);
}

template <typename Real>
void frame_of(const PointwiseFrame<Real>& f) {
  constexpr int64_t at_once = kVectors * lanes_of<Real>;
  for (int64_t i = 0; i < f.pixels; i += at_once) {
    const int64_t pixel = i + at_once <= f.pixels ? i : f.pixels - at_once;  // the last repeats some
    for (int64_t row = 0; row * f.width < f.outputs; ++row) {
      const int64_t first = row * f.width, many = f.outputs - first < f.width ? f.outputs - first : f.width;
      // A repeated pixel must not be written before its terms are read, so `before` and `after` are never the output.
      outputs_of<Real>(many, f, f.weight + row * f.weight_step, f.bias + first, pixel, first * f.out_step + pixel);
    }
  }
}

}  // namespace

void pointwise_frame(const PointwiseFrame<float>& frame) { frame_of(frame); }
void pointwise_frame(const PointwiseFrame<double>& frame) { frame_of(frame); }

int64_t pointwise_width(int64_t outputs) {
  const int64_t rows = (outputs + kMost - 1) / kMost;
  return (outputs + rows - 1) / rows;
}

int64_t pointwise_pixels(int64_t element_bytes) { return kVectors * kVecBytes / element_bytes; }

}  // namespace mer_fast::MER_ISA
