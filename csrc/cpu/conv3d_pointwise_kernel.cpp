#include "conv3d_pointwise_kernel.h"

#include "activation.h"

namespace mer_fast::MER_ISA {

namespace {

constexpr int kMost = kVecRegisters == 32 ? 8 : 4;  // outputs side by side in registers
constexpr int kVectors = 3;                         // of pixels

// P outputs by kVectors vectors of pixels.
template <typename Real, int P>
inline void outputs_of(const PointwiseFrame<Real>& f, const Real* weight, const Real* bias, const Real* near, int64_t place) {
  constexpr int lanes = lanes_of<Real>;
  VecOf<Real> sum[P][kVectors];
#pragma GCC unroll 8
  for (int o = 0; o < P; ++o) {
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) sum[o][v] = vsplat(bias[o]);
  }
  for (int64_t k = 0; k < f.num_taps; ++k) {
    const Real* at = near + k * kPointwiseNear;
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
      vstore(f.out + at, activate_vector<Real>(sum[o][v], f.activation));
    }
  }
}

template <typename Real, int P = kMost>
void outputs_of(int64_t many, const PointwiseFrame<Real>& f, const Real* weight, const Real* bias, const Real* near, int64_t place) {
  if constexpr (P > 1) {
    if (many < P) return outputs_of<Real, P - 1>(many, f, weight, bias, near, place);
  }
  outputs_of<Real, P>(f, weight, bias, near, place);
}

template <typename Real>
void frame_of(const PointwiseFrame<Real>& f) {
  constexpr int64_t lanes = lanes_of<Real>, at_once = kVectors * lanes, stretch = kPointwiseNear / at_once * at_once;
  for (int64_t begin = 0; begin < f.pixels; begin += stretch) {
    // The last stretch, and the last piece of one, may begin earlier and repeat some.
    const int64_t left = f.pixels - begin < stretch ? f.pixels - begin : stretch;
    const int64_t count = left < at_once ? at_once : left, first = f.pixels - begin < at_once ? f.pixels - at_once : begin;
    for (int64_t k = 0; k < f.num_taps; ++k) {
      const Real* from = f.taps[k] + first;
      Real* near = f.near + k * kPointwiseNear;
      int64_t i = 0;
      for (; i + lanes <= count; i += lanes) vstore(near + i, vload(from + i));
      for (; i < count; ++i) near[i] = from[i];
    }
    for (int64_t row = 0; row * f.width < f.outputs; ++row) {
      const int64_t o = row * f.width, many = f.outputs - o < f.width ? f.outputs - o : f.width;
      for (int64_t i = 0; i < count; i += at_once) {
        const int64_t pixel = i + at_once <= count ? i : count - at_once;
        outputs_of<Real>(many, f, f.weight + row * f.weight_step, f.bias + o, f.near + pixel, o * f.out_step + first + pixel);
      }
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
