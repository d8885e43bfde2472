#include "conv3d_pointwise.h"

#include <torch/csrc/stable/ops.h>

#include "arena.h"
#include "conv3d_pointwise_kernel.h"

namespace mer_fast {
namespace {

template <typename Real>
void run(const ConvCall& call, const Real* weight, const Real* bias) {
  const ConvShape& s = call.conv;
  const int64_t width = MER_FAST_DISPATCH(pointwise_width, s.outputs), rows = (s.outputs + width - 1) / width;
  const int64_t taps = s.taps(), pixels = s.out[1] * s.out[2];
  // [group][row][t][channel][width]: the taps of a moment together, so that those in the padding can be left out.
  std::vector<Real> packed(static_cast<size_t>(s.groups * rows * taps * width), Real(0));
  for (int64_t o = 0; o < s.groups * s.outputs; ++o) {
    const int64_t row = o / s.outputs * rows + o % s.outputs / width;
    for (int64_t c = 0; c < s.channels; ++c) {
      for (int64_t t = 0; t < s.kernel[0]; ++t) {
        const int64_t tap = t * s.channels + c;
        packed[static_cast<size_t>((row * taps + tap) * width + o % s.outputs % width)] = weight[(o * s.channels + c) * s.kernel[0] + t];
      }
    }
  }
  torch::stable::parallel_for(0, s.batch * s.groups * s.out[0], 1, [&](int64_t begin, int64_t end) {
    std::vector<const Real*> frames;
    Arena& arena = worker_arena();
    arena.reserve<Real>({taps * kPointwiseNear});
    Real* near = arena.take<Real>(taps * kPointwiseNear);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t t = task % s.out[0], image_group = task / s.out[0], group = image_group % s.groups;
      frames.clear();
      int64_t skipped = 0;
      for (int64_t k = 0; k < s.kernel[0]; ++k) {
        const int64_t from = t * s.stride[0] - s.padding[0] + k * s.dilation[0];
        if (from < 0 || from >= s.in[0]) {
          skipped += frames.empty();
          continue;
        }
        for (int64_t c = 0; c < s.channels; ++c) {
          frames.push_back(static_cast<const Real*>(call.input) + ((image_group * s.channels + c) * s.in[0] + from) * pixels);
        }
      }
      const int64_t out = (image_group * s.outputs * s.out[0] + t) * pixels;
      const PointwiseFrame<Real> frame{
          frames.data(), static_cast<int64_t>(frames.size()), packed.data() + (group * rows * taps + skipped * s.channels) * width,
          s.outputs, width, taps * width, bias + group * s.outputs, call.activation,
          static_cast<Real*>(call.output) + out, s.out[0] * pixels, pixels, near};
      MER_FAST_DISPATCH(pointwise_frame, frame);
    }
  });
}

}  // namespace

bool suits_pointwise(const ConvCall& call) {
  const ConvShape& s = call.conv;
  for (int d = 1; d < 3; ++d) {
    if (s.kernel[d] != 1 || s.stride[d] != 1 || s.padding[d] != 0) return false;
  }
  const int64_t size = element_size(call.type);
  return !call.pooled && size >= 4 && s.out[1] * s.out[2] >= MER_FAST_DISPATCH(pointwise_pixels, size);
}

void convolve_pointwise(const ConvCall& call, const float* weight, const float* bias) { run(call, weight, bias); }
void convolve_pointwise(const ConvCall& call, const double* weight, const double* bias) { run(call, weight, bias); }

}  // namespace mer_fast
