// torch.ops.mer_fast.recurrent_step on a CPU: a convolution whose epilogue makes the next step's input.
#include <torch/csrc/stable/library.h>

#include "conv3d_forward.h"

namespace mer_fast {
namespace {

constexpr const char* kOp = "recurrent_step";

// `term` contiguous and of the output's shape, or nothing.
std::optional<Tensor> checked_term(const char* name, const std::optional<Tensor>& term, const Tensor& output) {
  if (!term) return std::nullopt;
  check_same_shape(kOp, name, *term, "the output", output);
  check_same_dtype(kOp, name, *term, "input", output);
  return contiguous(*term);
}

Tensor recurrent_step(
    const Tensor& input_any, const Tensor& weight_any, const std::optional<Tensor>& shift, const std::optional<Tensor>& before_any,
    const std::optional<Tensor>& after_any, const std::string& activation, bool exact) {
  check_rank(kOp, "input", input_any, 4);
  check_rank(kOp, "weight", weight_any, 4);
  const std::vector<int64_t> side{1, weight_any.size(2), weight_any.size(3)}, ones{1, 1, 1};
  MER_FAST_CHECK(side[1] % 2 == 1 && side[2] % 2 == 1, kOp, ": weight must have odd sides, got ", shape_text(weight_any));
  const Tensor input = torch::stable::unsqueeze(contiguous(input_any), 2), weight = torch::stable::unsqueeze(weight_any, 2);
  ConvCall call{};
  call.conv = conv_shape(kOp, input, weight, ones, {0, side[1] / 2, side[2] / 2}, ones, 1);
  call.pool.out = call.conv.out;
  call.activation = activation_of(kOp, activation);
  call.exact = exact;
  check_bias(kOp, input, shift, weight.size(0));
  Tensor output = torch::stable::new_empty(input, {call.conv.batch, weight.size(0), call.conv.out[1], call.conv.out[2]});
  const std::optional<Tensor> before = checked_term("before", before_any, output), after = checked_term("after", after_any, output);
  if (output.numel() == 0) return output;
  call.type = element_of(kOp, "input", input);
  MER_FAST_CHECK(element_size(call.type) >= 4, kOp, ": input must be float32 or float64; the library serves 16 bits");
  call.input = input.const_data_ptr();
  call.output = output.mutable_data_ptr();
  call.before = before ? before->const_data_ptr() : nullptr;
  call.after = after ? after->const_data_ptr() : nullptr;
  convolve(call, kOp, weight, shift);
  return output;
}

}  // namespace
}  // namespace mer_fast

STABLE_TORCH_LIBRARY_IMPL(mer_fast, CPU, m) {
  m.impl("recurrent_step", TORCH_BOX(&mer_fast::recurrent_step));
}
