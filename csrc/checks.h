// Argument checks shared by the operators' host code: each names the operator and the argument.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <string>

namespace mer_fast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline std::string shape_text(const Tensor& t) {
  std::string text = "(";
  for (int64_t d = 0; d < t.dim(); ++d) {
    text += (d ? ", " : "") + std::to_string(t.size(d));
  }
  return text + ")";
}

inline void check_rank(const char* op, const char* name, const Tensor& t, int64_t rank) {
  STD_TORCH_CHECK(t.dim() == rank, op, ": ", name, " must have ", rank, " dimensions, got shape ", shape_text(t));
}

inline void check_same_shape(const char* op, const char* name_a, const Tensor& a, const char* name_b, const Tensor& b) {
  bool same = a.dim() == b.dim();
  for (int64_t d = 0; same && d < a.dim(); ++d) {
    same = a.size(d) == b.size(d);
  }
  STD_TORCH_CHECK(
      same, op, ": ", name_a, " and ", name_b, " must have one shape, got ", shape_text(a), " and ", shape_text(b));
}

inline void check_same_dtype(const char* op, const char* name_a, const Tensor& a, const char* name_b, const Tensor& b) {
  STD_TORCH_CHECK(
      a.scalar_type() == b.scalar_type(), op, ": ", name_a, " and ", name_b, " must have one dtype; convert one with .to()");
}

inline void check_same_device(const char* op, const char* name_a, const Tensor& a, const char* name_b, const Tensor& b) {
  STD_TORCH_CHECK(
      a.is_cuda() == b.is_cuda() && a.get_device_index() == b.get_device_index(),
      op, ": ", name_a, " and ", name_b, " must be on one device; move one with .to()");
}

inline bool is_float(ScalarType type) {
  return type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::Half || type == ScalarType::BFloat16;
}

}  // namespace mer_fast
