// The frames of a flow op as its operator takes them, on a CPU and on a GPU. Below the public function's own checks: a bad
// one here would overrun memory.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <optional>

#include "checks.h"

namespace mer_fast {

struct FlowFrames {
  Tensor frame0, frame1;  // (pairs, height, width), contiguous, uint8 where `bytes`, else float32
  std::optional<Tensor> initial_flow;  // (pairs, 2, height, width), contiguous float32
  Tensor flow;                         // the same, uninitialised
  int64_t pairs, height, width;
  bool bytes;

  const float* initial() const { return initial_flow ? static_cast<const float*>(initial_flow->const_data_ptr()) : nullptr; }
  float* result() { return static_cast<float*>(flow.mutable_data_ptr()); }
};

inline FlowFrames flow_frames(
    const char* op, const Tensor& frame0, const Tensor& frame1, const std::optional<Tensor>& initial_flow, int64_t min_side) {
  check_rank(op, "frame0", frame0, 3);
  check_same_shape(op, "frame0", frame0, "frame1", frame1);
  check_same_dtype(op, "frame0", frame0, "frame1", frame1);
  check_same_device(op, "frame0", frame0, "frame1", frame1);
  const ScalarType type = frame0.scalar_type();
  MER_FAST_CHECK(type == ScalarType::Byte || type == ScalarType::Float, op, ": frame0 must be uint8 or float32");
  const int64_t pairs = frame0.size(0), height = frame0.size(1), width = frame0.size(2);
  MER_FAST_CHECK(
      height >= min_side && width >= min_side, op, ": frame0 must be at least ", min_side, " pixels a side, got ", height, "x", width);
  std::optional<Tensor> initial;
  if (initial_flow) {
    MER_FAST_CHECK(
        initial_flow->dim() == 4 && initial_flow->size(0) == pairs && initial_flow->size(1) == 2 && initial_flow->size(2) == height &&
            initial_flow->size(3) == width && initial_flow->scalar_type() == ScalarType::Float,
        op, ": initial_flow must be float32 of shape (N, 2, H, W), got ", shape_text(*initial_flow));
    check_same_device(op, "frame0", frame0, "initial_flow", *initial_flow);
    initial = contiguous(*initial_flow);
  }
  Tensor flow = torch::stable::empty({pairs, 2, height, width}, ScalarType::Float, std::nullopt, frame0.device());
  return {contiguous(frame0), contiguous(frame1), initial, flow, pairs, height, width, type == ScalarType::Byte};
}

}  // namespace mer_fast
