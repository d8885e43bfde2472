// torch.ops.mer_fast.conv3d on a CPU: for the shapes on which it beats the library (mer_fast/ops/conv3d.py chooses).
#include <torch/csrc/stable/library.h>

#include "conv3d_forward.h"

namespace mer_fast {
namespace {

constexpr const char* kOp = "conv3d";

Tensor conv3d(
    const Tensor& input_any, const Tensor& weight, const std::optional<Tensor>& bias, std::vector<int64_t> stride,
    std::vector<int64_t> padding, std::vector<int64_t> dilation, int64_t groups, const std::string& activation, bool exact) {
  ConvCall call{};
  call.conv = conv_shape(kOp, input_any, weight, stride, padding, dilation, groups);
  call.pool.out = call.conv.out;
  call.activation = activation_of(kOp, activation);
  call.exact = exact;
  check_bias(kOp, input_any, bias, weight.size(0));
  const Tensor input = contiguous(input_any);
  const Triple& out = call.conv.out;
  Tensor output = torch::stable::new_empty(input, {call.conv.batch, weight.size(0), out[0], out[1], out[2]});
  if (output.numel() == 0) return output;
  call.type = element_of(kOp, "input", input);
  call.input = input.const_data_ptr();
  call.output = output.mutable_data_ptr();
  convolve(call, kOp, weight, bias);
  return output;
}

}  // namespace
}  // namespace mer_fast

STABLE_TORCH_LIBRARY_IMPL(mer_fast, CPU, m) {
  m.impl("conv3d", TORCH_BOX(&mer_fast::conv3d));
}
