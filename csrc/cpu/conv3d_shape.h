// The numbers of a 3-D convolution and of the pool behind it, checked once for every operator that takes them.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "conv3d_pool_kernel.h"
#include "tensor_io.h"

namespace mer_fast {

using Triple = std::array<int64_t, 3>;  // t, h, w

struct ConvShape {
  int64_t batch, groups;
  int64_t channels, outputs;  // of one group
  Triple in, kernel, stride, padding, dilation, out;

  int64_t taps() const { return channels * kernel[0] * kernel[1] * kernel[2]; }
};

struct PoolShape {
  Triple kernel{1, 1, 1}, stride{1, 1, 1}, out;

  int64_t places() const { return kernel[0] * kernel[1] * kernel[2]; }
};

inline Activation activation_of(const char* op, const std::string& name) {
  if (name == "none") return Activation::none;
  if (name == "relu") return Activation::relu;
  if (name == "leaky_relu") return Activation::leaky_relu;
  MER_FAST_CHECK(
      name == "gelu", op, ": activation must be \"none\", \"relu\", \"leaky_relu\" or \"gelu\", got \"", name, "\"");
  return Activation::gelu;
}

inline Triple triple_of(const char* op, const char* name, const std::vector<int64_t>& values, int64_t least) {
  MER_FAST_CHECK(values.size() == 3, op, ": ", name, " must be three numbers (t, h, w), got ", values.size());
  for (const int64_t value : values) {
    MER_FAST_CHECK(
        value >= least && value < (int64_t{1} << 31), op, ": ", name, " must be at least ", least, " (and below 2^31), got ", value);
  }
  return {values[0], values[1], values[2]};
}

inline ConvShape conv_shape(
    const char* op, const Tensor& input, const Tensor& weight, const std::vector<int64_t>& stride,
    const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation, int64_t groups) {
  check_rank(op, "input", input, 5);
  check_rank(op, "weight", weight, 5);
  MER_FAST_CHECK(is_float(input.scalar_type()), op, ": input must be a float tensor; convert it with .to(torch.float32)");
  check_same_dtype(op, "input", input, "weight", weight);
  MER_FAST_CHECK(
      groups >= 1 && weight.size(0) % groups == 0, op, ": weight must have outputs divisible by ", groups, " groups, got ",
      shape_text(weight));
  MER_FAST_CHECK(
      input.size(1) == weight.size(1) * groups, op, ": input must have ", weight.size(1) * groups, " channels for weight ",
      shape_text(weight), " in ", groups, " group(s), got ", shape_text(input));
  ConvShape s{input.size(0), groups, weight.size(1), weight.size(0) / groups, {}, {}, triple_of(op, "stride", stride, 1),
              triple_of(op, "padding", padding, 0), triple_of(op, "dilation", dilation, 1), {}};
  for (int d = 0; d < 3; ++d) {
    s.in[d] = input.size(d + 2);
    s.kernel[d] = weight.size(d + 2);
    const int64_t room = s.in[d] + 2 * s.padding[d] - s.dilation[d] * (s.kernel[d] - 1) - 1;
    MER_FAST_CHECK(s.kernel[d] >= 1 && room >= 0, op, ": weight ", shape_text(weight), " does not fit into input ", shape_text(input));
    s.out[d] = room / s.stride[d] + 1;
  }
  MER_FAST_CHECK(s.channels >= 1, op, ": weight must not be empty, got ", shape_text(weight));
  return s;
}

inline PoolShape pool_shape(
    const char* op, const ConvShape& conv, const std::vector<int64_t>& kernel, const std::vector<int64_t>& stride) {
  PoolShape p{triple_of(op, "pool_kernel", kernel, 1), triple_of(op, "pool_stride", stride, 1), {}};
  MER_FAST_CHECK(p.places() <= kNobody, op, ": pool_kernel must have at most ", kNobody, " places, got ", p.places());
  for (int d = 0; d < 3; ++d) {
    MER_FAST_CHECK(
        conv.out[d] >= p.kernel[d], op, ": pool_kernel ", p.kernel[d], " is larger than the convolution's output ", conv.out[d]);
    p.out[d] = (conv.out[d] - p.kernel[d]) / p.stride[d] + 1;
  }
  return p;
}

inline void check_bias(const char* op, const Tensor& input, const std::optional<Tensor>& bias, int64_t outputs) {
  if (!bias) return;
  check_same_dtype(op, "input", input, "bias", *bias);
  MER_FAST_CHECK(bias->dim() == 1 && bias->size(0) == outputs, op, ": bias must have shape (", outputs, "), got ", shape_text(*bias));
}

// A tensor's elements as Real: its own memory, or a widened copy.
template <typename Real>
class AsReal {
 public:
  AsReal(const char* op, const char* name, const Tensor& any) : tensor_(contiguous(any)) {
    const Element type = element_of(op, name, tensor_);
    if (element_size(type) == sizeof(Real)) {
      data_ = static_cast<const Real*>(tensor_.const_data_ptr());
    } else if constexpr (sizeof(Real) == 4) {
      copy_.resize(static_cast<size_t>(tensor_.numel()));
      MER_FAST_DISPATCH(widen, type, tensor_.const_data_ptr(), copy_.data(), tensor_.numel());
      data_ = copy_.data();
    }
  }
  const Real* data() const { return data_; }

 private:
  Tensor tensor_;
  std::vector<Real> copy_;
  const Real* data_ = nullptr;
};

}  // namespace mer_fast
