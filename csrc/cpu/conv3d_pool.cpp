// torch.ops.mer_fast.conv3d_pool on a CPU.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "conv3d_forward.h"

namespace mer_fast {
namespace {

constexpr const char* kOp = "conv3d_pool";

std::tuple<Tensor, Tensor> conv3d_pool(
    const Tensor& input_any, const Tensor& weight, const std::optional<Tensor>& bias, std::vector<int64_t> stride,
    std::vector<int64_t> padding, std::vector<int64_t> dilation, int64_t groups, const std::string& activation,
    std::vector<int64_t> pool_kernel, std::vector<int64_t> pool_stride, bool keep_winners, bool exact) {
  ConvCall call{};
  call.conv = conv_shape(kOp, input_any, weight, stride, padding, dilation, groups);
  call.pool = pool_shape(kOp, call.conv, pool_kernel, pool_stride);
  call.pooled = true;
  call.activation = activation_of(kOp, activation);
  if (call.activation == Activation::leaky_relu) call.activation = Activation::none;  // the same winners; the caller applies it
  call.exact = exact;
  check_bias(kOp, input_any, bias, weight.size(0));
  const Tensor input = contiguous(input_any);
  const PoolShape& pool = call.pool;
  const std::vector<int64_t> shape{call.conv.batch, weight.size(0), pool.out[0], pool.out[1], pool.out[2]};
  Tensor output = torch::stable::new_empty(input, shape);
  Tensor winners = torch::stable::new_empty(input, keep_winners ? shape : std::vector<int64_t>{0}, ScalarType::Byte);
  if (output.numel() == 0) return {output, winners};
  call.type = element_of(kOp, "input", input);
  call.input = input.const_data_ptr();
  call.output = output.mutable_data_ptr();
  if (keep_winners) call.winners = static_cast<uint8_t*>(winners.mutable_data_ptr());
  convolve(call, kOp, weight, bias);
  return {output, winners};
}

}  // namespace
}  // namespace mer_fast

STABLE_TORCH_LIBRARY_IMPL(mer_fast, CPU, m) {
  m.impl("conv3d_pool", TORCH_BOX(&mer_fast::conv3d_pool));
}
