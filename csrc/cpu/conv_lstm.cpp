// torch.ops.mer_fast.conv_lstm and its gradient on a CPU.
#include <torch/csrc/stable/library.h>

#include "conv_cell_backward.h"
#include "conv_cell_matrix.h"

namespace mer_fast {
namespace {

struct Lstm {
  static constexpr int64_t kGates = 4, kStates = 2;
  static constexpr bool kUniform = true;  // every gate takes input and state
  static int64_t input_gate(int64_t slot) { return slot; }
  static int64_t state_gate(int64_t slot) { return slot; }
  static int64_t gradient_slot(int64_t slot) { return slot; }
  static Depths depths(int64_t, int64_t, int64_t all) { return {0, all}; }
  static Depths met(bool, int64_t hidden) { return {0, kSlots * hidden}; }  // channels of the gates' gradient
  static bool rows(const CellRows& f) { return MER_FAST_DISPATCH(lstm_rows, f); }
  static void states(const StateOfGates& f) { MER_FAST_DISPATCH(lstm_states, f); }
  static void gradient(const CellGradient& f) { MER_FAST_DISPATCH(lstm_gradient, f); }
};

using Operands = CellOperands<Lstm>;

Operands operands(
    const char* op, const Tensor& input, const Tensor& weight_ih, const Tensor& weight_hh, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& peephole, const std::optional<Tensor>& h0, const std::optional<Tensor>& c0,
        const std::optional<Tensor>& lengths,
    bool reverse) {
  Operands o(op, input, weight_ih, weight_hh, h0, c0, lengths, reverse);
  o.check_bias("bias", bias);
  for (int64_t gate = 0; gate < Lstm::kGates; ++gate) o.add_bias(bias, gate, gate);
  if (peephole) {
    check_same_dtype(op, "input", input, "peephole", *peephole);
    MER_FAST_CHECK(peephole->numel() == 3 * o.hidden, op, ": peephole must have shape (3, ", o.hidden, ", 1, 1), got ",
        shape_text(*peephole));
    const Tensor values = widened(*peephole);
    o.peephole.assign(static_cast<size_t>(3 * o.padded_hidden()), 0.0f);
    for (int64_t p = 0; p < 3; ++p) std::copy_n(floats(values) + p * o.hidden, o.hidden, o.peephole.data() + p * o.padded_hidden());
  }
  return o;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> conv_lstm(
    const Tensor& input, const Tensor& weight_ih, const Tensor& weight_hh, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& peephole, const std::optional<Tensor>& h0, const std::optional<Tensor>& c0,
        const std::optional<Tensor>& lengths,
    bool reverse, int64_t segment, bool keep_gates, bool exact) {
  check_segment("conv_lstm", segment);
  const Operands o = operands("conv_lstm", input, weight_ih, weight_hh, bias, peephole, h0, c0, lengths, reverse);
  Tensor output = torch::stable::new_empty(o.input, {o.steps, o.batch, o.hidden, o.height, o.width});
  Tensor h = torch::stable::new_empty(o.input, {o.batch, o.hidden, o.height, o.width});
  Tensor c = torch::stable::new_empty(o.input, {o.batch, o.hidden, o.height, o.width});
  const int64_t segments = segments_of(o.steps, segment), kept = o.padded_hidden();
  Tensor gates = torch::stable::new_empty(o.input, {segment > 0 && keep_gates ? o.steps : 0, o.batch, o.height, o.width, kSlots * kept});
  Tensor states = torch::stable::new_empty(o.input, {segments, 2, o.batch, o.height, o.width, kept}, ScalarType::Float);
  if (o.empty()) return {output, h, c, gates, states};
  if (o.is_half()) {
    MER_FAST_CHECK(segment == 0, o.op, ": gradients take float32 on a CPU; convert input and weights");
    CellMatrix<Lstm>(o, {output.mutable_data_ptr(), h.mutable_data_ptr(), c.mutable_data_ptr()}).run();
    return {output, h, c, gates, states};
  }
  const auto data = [](Tensor& t) { return static_cast<float*>(t.mutable_data_ptr()); };
  const CellKept keep{segment > 0 && keep_gates ? data(gates) : nullptr, segment > 0 ? data(states) : nullptr, segment};
  const CellResults to{data(output), data(h), data(c)};
  if (exact || !CellForward<Lstm>(o, to, keep, false).run()) CellForward<Lstm>(o, to, keep, true).run();
  return {output, h, c, gates, states};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> conv_lstm_backward(
    const Tensor& grad_output, const Tensor& grad_h, const Tensor& grad_c, const Tensor& input, const Tensor& weight_ih,
        const Tensor& weight_hh,
    const std::optional<Tensor>& bias, const std::optional<Tensor>& peephole, const std::optional<Tensor>& h0,
        const std::optional<Tensor>& c0,
    const std::optional<Tensor>& lengths, const Tensor& gates, const Tensor& states, bool reverse, int64_t segment, bool need_input,
        bool exact) {
  const char* op = "conv_lstm_backward";
  const Operands o = operands(op, input, weight_ih, weight_hh, bias, peephole, h0, c0, lengths, reverse);
  MER_FAST_CHECK(!o.is_half(), op, ": gradients take float32 on a CPU");
  check_cell_gradient(o, grad_output, gates, states, segment);
  o.check_state("grad_h", grad_h);
  o.check_state("grad_c", grad_c);
  Tensor of_input = zeros_like_if(need_input, o.input, false), of_ih = zeros_like_if(true, o.weight_ih), of_hh = zeros_like_if(true,
      o.weight_hh);
  Tensor of_bias = bias ? zeros_like_if(true, *bias) : zeros_like_if(false, o.input);
  Tensor of_peephole = peephole ? zeros_like_if(true, contiguous(*peephole)) : zeros_like_if(false, o.input);
  Tensor of_h0 = h0 ? zeros_like_if(true, *o.h0) : zeros_like_if(false, o.input), of_c0 = c0 ? zeros_like_if(true,
      *o.c0) : zeros_like_if(false, o.input);
  if (!o.empty()) {
    std::vector<float> by_slot(static_cast<size_t>(kSlots * o.padded_hidden()));
    const auto data = [](Tensor& t) { return t.numel() ? static_cast<float*>(t.mutable_data_ptr()) : nullptr; };
    const CellGradients to{need_input ? data(of_input) : nullptr, data(of_ih), data(of_hh), by_slot.data(), data(of_peephole),
        data(of_h0), data(of_c0)};
    const auto run = [&](bool direct) { return CellBackward<Lstm>(o, grad_output, grad_h, grad_c, kept_of(gates, states, segment), to,
        direct).run(); };
    if (exact || !run(false)) run(true);
    for (int64_t gate = 0; bias && gate < Lstm::kGates; ++gate) {
      std::copy_n(by_slot.data() + gate * o.padded_hidden(), o.hidden, data(of_bias) + gate * o.hidden);
    }
  }
  return {of_input, of_ih, of_hh, of_bias, of_peephole, of_h0, of_c0};
}

}  // namespace
}  // namespace mer_fast

STABLE_TORCH_LIBRARY_IMPL(mer_fast, CPU, m) {
  m.impl("conv_lstm", TORCH_BOX(&mer_fast::conv_lstm));
  m.impl("conv_lstm_backward", TORCH_BOX(&mer_fast::conv_lstm_backward));
}
