// torch.ops.mer_fast.conv_gru and its gradient on a CPU.
#include <torch/csrc/stable/library.h>

#include "conv_cell_backward.h"
#include "conv_cell_matrix.h"

namespace mer_fast {
namespace {

// Slots r, z, n (of the input alone) and q (the state's share of n); their gradients stand in the order n, r, z, q, so that
// what meets the input, and what meets the state, lies side by side.
struct Gru {
  static constexpr int64_t kGates = 3, kStates = 1;
  static constexpr bool kUniform = false;
  static int64_t input_gate(int64_t slot) { return slot == 3 ? -1 : slot; }
  static int64_t state_gate(int64_t slot) { return slot == 2 ? -1 : slot == 3 ? 2 : slot; }
  static int64_t gradient_slot(int64_t slot) { return slot == 3 ? 3 : (slot + 2) % 3; }
  static Depths depths(int64_t slot, int64_t inputs, int64_t all) {
    return slot == 2 ? Depths{0, inputs} : slot == 3 ? Depths{inputs, all} : Depths{0, all};
  }
  static Depths met(bool state, int64_t hidden) { return state ? Depths{hidden, 4 * hidden} : Depths{0, 3 * hidden}; }
  static bool rows(const CellRows& f) { return MER_FAST_DISPATCH(gru_rows, f); }
  static void states(const StateOfGates& f) { MER_FAST_DISPATCH(gru_states, f); }
  static void gradient(const CellGradient& f) { MER_FAST_DISPATCH(gru_gradient, f); }
};

using Operands = CellOperands<Gru>;

Operands operands(
    const char* op, const Tensor& input, const Tensor& weight_ih, const Tensor& weight_hh, const std::optional<Tensor>& bias_ih,
    const std::optional<Tensor>& bias_hh, const std::optional<Tensor>& h0, const std::optional<Tensor>& lengths, bool reverse) {
  Operands o(op, input, weight_ih, weight_hh, h0, std::nullopt, lengths, reverse);
  o.check_bias("bias_ih", bias_ih);
  o.check_bias("bias_hh", bias_hh);
  for (int64_t slot = 0; slot < kSlots; ++slot) {
    if (Gru::input_gate(slot) >= 0) o.add_bias(bias_ih, Gru::input_gate(slot), slot);
    if (Gru::state_gate(slot) >= 0) o.add_bias(bias_hh, Gru::state_gate(slot), slot);
  }
  return o;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> conv_gru(
    const Tensor& input, const Tensor& weight_ih, const Tensor& weight_hh, const std::optional<Tensor>& bias_ih,
    const std::optional<Tensor>& bias_hh, const std::optional<Tensor>& h0, const std::optional<Tensor>& lengths, bool reverse,
        int64_t segment,
    bool keep_gates, bool exact) {
  check_segment("conv_gru", segment);
  const Operands o = operands("conv_gru", input, weight_ih, weight_hh, bias_ih, bias_hh, h0, lengths, reverse);
  Tensor output = torch::stable::new_empty(o.input, {o.steps, o.batch, o.hidden, o.height, o.width});
  Tensor h = torch::stable::new_empty(o.input, {o.batch, o.hidden, o.height, o.width});
  const int64_t segments = segments_of(o.steps, segment), kept = o.padded_hidden();
  Tensor gates = torch::stable::new_empty(o.input, {segment > 0 && keep_gates ? o.steps : 0, o.batch, o.height, o.width, kSlots * kept});
  Tensor states = torch::stable::new_empty(o.input, {segments, o.batch, o.height, o.width, kept}, ScalarType::Float);
  if (o.empty()) return {output, h, gates, states};
  if (o.is_half()) {
    MER_FAST_CHECK(segment == 0, o.op, ": gradients take float32 on a CPU; convert input and weights");
    CellMatrix<Gru>(o, {output.mutable_data_ptr(), h.mutable_data_ptr(), nullptr}).run();
    return {output, h, gates, states};
  }
  const auto data = [](Tensor& t) { return static_cast<float*>(t.mutable_data_ptr()); };
  const CellKept keep{segment > 0 && keep_gates ? data(gates) : nullptr, segment > 0 ? data(states) : nullptr, segment};
  const CellResults to{data(output), data(h), nullptr};
  if (exact || !CellForward<Gru>(o, to, keep, false).run()) CellForward<Gru>(o, to, keep, true).run();
  return {output, h, gates, states};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> conv_gru_backward(
    const Tensor& grad_output, const Tensor& grad_h, const Tensor& input, const Tensor& weight_ih, const Tensor& weight_hh,
    const std::optional<Tensor>& bias_ih, const std::optional<Tensor>& bias_hh, const std::optional<Tensor>& h0,
        const std::optional<Tensor>& lengths,
    const Tensor& gates, const Tensor& states, bool reverse, int64_t segment, bool need_input, bool exact) {
  const char* op = "conv_gru_backward";
  const Operands o = operands(op, input, weight_ih, weight_hh, bias_ih, bias_hh, h0, lengths, reverse);
  MER_FAST_CHECK(!o.is_half(), op, ": gradients take float32 on a CPU");
  check_cell_gradient(o, grad_output, gates, states, segment);
  o.check_state("grad_h", grad_h);
  Tensor of_input = zeros_like_if(need_input, o.input, false), of_ih = zeros_like_if(true, o.weight_ih), of_hh = zeros_like_if(true,
      o.weight_hh);
  Tensor of_bias_ih = bias_ih ? zeros_like_if(true, *bias_ih) : zeros_like_if(false, o.input);
  Tensor of_bias_hh = bias_hh ? zeros_like_if(true, *bias_hh) : zeros_like_if(false, o.input);
  Tensor of_h0 = h0 ? zeros_like_if(true, *o.h0) : zeros_like_if(false, o.input);
  if (!o.empty()) {
    std::vector<float> by_slot(static_cast<size_t>(kSlots * o.padded_hidden()));
    const auto data = [](Tensor& t) { return t.numel() ? static_cast<float*>(t.mutable_data_ptr()) : nullptr; };
    const CellGradients to{need_input ? data(of_input) : nullptr, data(of_ih), data(of_hh), by_slot.data(), nullptr, data(of_h0), nullptr};
    const auto run = [&](bool direct) { return CellBackward<Gru>(o, grad_output, grad_h, std::nullopt, kept_of(gates, states, segment),
        to, direct).run(); };
    if (exact || !run(false)) run(true);
    for (int64_t slot = 0; slot < kSlots; ++slot) {
      const int64_t of = Gru::gradient_slot(slot);
      const float* sums = by_slot.data() + slot * o.padded_hidden();
      if (bias_ih && Gru::input_gate(of) >= 0) std::copy_n(sums, o.hidden, data(of_bias_ih) + Gru::input_gate(of) * o.hidden);
      if (bias_hh && Gru::state_gate(of) >= 0) std::copy_n(sums, o.hidden, data(of_bias_hh) + Gru::state_gate(of) * o.hidden);
    }
  }
  return {of_input, of_ih, of_hh, of_bias_ih, of_bias_hh, of_h0};
}

}  // namespace
}  // namespace mer_fast

STABLE_TORCH_LIBRARY_IMPL(mer_fast, CPU, m) {
  m.impl("conv_gru", TORCH_BOX(&mer_fast::conv_gru));
  m.impl("conv_gru_backward", TORCH_BOX(&mer_fast::conv_gru_backward));
}
