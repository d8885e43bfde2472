// Argument checks shared by the operators' host code: each names the operator and the argument.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <sstream>
#include <stdexcept>
#include <string>

// Raises RuntimeError with the words given, and nothing of the source file, unless `condition` holds.
#define MER_FAST_CHECK(condition, ...)                                     \
  do {                                                                     \
    if (!(condition)) throw std::runtime_error(::mer_fast::words(__VA_ARGS__)); \
  } while (false)

namespace mer_fast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename... Words>
std::string words(const Words&... all) {
  std::ostringstream text;
  (text << ... << all);
  return text.str();
}

inline std::string shape_text(const Tensor& t) {
  std::string text = "(";
  for (int64_t d = 0; d < t.dim(); ++d) {
    text += (d ? ", " : "") + std::to_string(t.size(d));
  }
  return text + ")";
}

inline void check_rank(const char* op, const char* name, const Tensor& t, int64_t rank) {
  MER_FAST_CHECK(t.dim() == rank, op, ": ", name, " must have ", rank, " dimensions, got shape ", shape_text(t));
}

inline void check_same_shape(const char* op, const char* name_a, const Tensor& a, const char* name_b, const Tensor& b) {
  bool same = a.dim() == b.dim();
  for (int64_t d = 0; same && d < a.dim(); ++d) {
    same = a.size(d) == b.size(d);
  }
  MER_FAST_CHECK(
      same, op, ": ", name_a, " and ", name_b, " must have one shape, got ", shape_text(a), " and ", shape_text(b));
}

inline void check_same_dtype(const char* op, const char* name_a, const Tensor& a, const char* name_b, const Tensor& b) {
  MER_FAST_CHECK(
      a.scalar_type() == b.scalar_type(), op, ": ", name_a, " and ", name_b, " must have one dtype; convert one with .to()");
}

inline void check_same_device(const char* op, const char* name_a, const Tensor& a, const char* name_b, const Tensor& b) {
  MER_FAST_CHECK(
      a.is_cuda() == b.is_cuda() && a.get_device_index() == b.get_device_index(),
      op, ": ", name_a, " and ", name_b, " must be on one device; move one with .to()");
}

inline bool is_float(ScalarType type) {
  return type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::Half || type == ScalarType::BFloat16;
}

}  // namespace mer_fast
