// The arguments of tvl1_flow as its operators take them, on a CPU and on a GPU. Below the public function's own checks: a
// bad one here would overrun memory.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cmath>
#include <limits>
#include <optional>

#include "checks.h"
#include "tvl1_pyramid.h"

namespace mer_fast {

// Params: the kernels' own struct, on either device.
template <typename Params>
void tvl1_check_parameters(const Params& p, double scale_step, int64_t scales) {
  const auto positive = [](const char* name, float value) {
    MER_FAST_CHECK(std::isnormal(value) && value > 0, "tvl1_flow: ", name, " must be positive and finite, got ", value);
  };
  positive("tau", p.tau);
  positive("lam", p.lam);
  positive("theta", p.theta);
  positive("scale_step", static_cast<float>(scale_step));
  MER_FAST_CHECK(scale_step < 1, "tvl1_flow: scale_step must lie between 0 and 1, got ", scale_step);
  MER_FAST_CHECK(std::isfinite(p.epsilon) && p.epsilon >= 0, "tvl1_flow: epsilon must be finite and not negative, got ", p.epsilon);
  MER_FAST_CHECK(
      scales >= 1 && p.warps >= 1 && p.inner_iterations >= 1 && p.outer_iterations >= 1,
      "tvl1_flow: scales, warps, inner_iterations and outer_iterations must be at least 1");
  MER_FAST_CHECK(
      p.median == 0 || p.median == 1 || p.median == 3 || p.median == 5, "tvl1_flow: median must be 0, 1, 3 or 5, got ", p.median);
}

// A count as the kernels take it.
inline int tvl1_count(int64_t count) {
  MER_FAST_CHECK(count <= std::numeric_limits<int>::max(), "tvl1_flow: a count of ", count, " is too large");
  return static_cast<int>(count);
}

struct Tvl1Frames {
  Tensor frame0, frame1;  // (pairs, height, width), contiguous, uint8 where `bytes`, else float32
  std::optional<Tensor> initial_flow;  // (pairs, 2, height, width), contiguous float32
  Tensor flow;                         // the same, uninitialised
  int64_t pairs, height, width;
  bool bytes;

  const float* initial() const { return initial_flow ? static_cast<const float*>(initial_flow->const_data_ptr()) : nullptr; }
  float* result() { return static_cast<float*>(flow.mutable_data_ptr()); }
};

inline Tvl1Frames tvl1_frames(const Tensor& frame0, const Tensor& frame1, const std::optional<Tensor>& initial_flow) {
  const char* op = "tvl1_flow";
  check_rank(op, "frame0", frame0, 3);
  check_same_shape(op, "frame0", frame0, "frame1", frame1);
  check_same_dtype(op, "frame0", frame0, "frame1", frame1);
  check_same_device(op, "frame0", frame0, "frame1", frame1);
  const ScalarType type = frame0.scalar_type();
  MER_FAST_CHECK(type == ScalarType::Byte || type == ScalarType::Float, "tvl1_flow: frame0 must be uint8 or float32");
  const int64_t pairs = frame0.size(0), height = frame0.size(1), width = frame0.size(2);
  MER_FAST_CHECK(
      height >= kTvl1MinSide && width >= kTvl1MinSide, "tvl1_flow: frame0 must be at least 16 pixels a side, got ", height, "x", width);
  std::optional<Tensor> initial;
  if (initial_flow) {
    MER_FAST_CHECK(
        initial_flow->dim() == 4 && initial_flow->size(0) == pairs && initial_flow->size(1) == 2 && initial_flow->size(2) == height &&
            initial_flow->size(3) == width && initial_flow->scalar_type() == ScalarType::Float,
        "tvl1_flow: initial_flow must be float32 of shape (N, 2, H, W), got ", shape_text(*initial_flow));
    check_same_device(op, "frame0", frame0, "initial_flow", *initial_flow);
    initial = contiguous(*initial_flow);
  }
  Tensor flow = torch::stable::empty({pairs, 2, height, width}, ScalarType::Float, std::nullopt, frame0.device());
  return {contiguous(frame0), contiguous(frame1), initial, flow, pairs, height, width, type == ScalarType::Byte};
}

}  // namespace mer_fast
