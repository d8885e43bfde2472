// A section of recurrent convolutions: its operands, checked, and what inference, training and gradients share.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <optional>
#include <string>

#include "maps_band.h"
#include "recurrent_conv2d_kernel.h"
#include "strip.h"
#include "tensor_io.h"

namespace mer_fast {

struct Section {
  const char* op;
  Tensor input, input_weight, recurrent_weights;
  int64_t batch, channels, maps, height, width, steps;
  bool fed;  // injection "input": the input is fed to every convolution; otherwise its convolution is added behind each

  Section(
      const char* name, const Tensor& input_any, const Tensor& first, const Tensor& recurrent, int64_t steps_given,
      const std::string& injection)
      : op(name), input(contiguous(input_any)), input_weight(contiguous(first)), recurrent_weights(contiguous(recurrent)),
          steps(steps_given) {
    check_rank(op, "input", input, 4);
    check_rank(op, "input_weight", input_weight, 4);
    check_rank(op, "recurrent_weights", recurrent_weights, 5);
    MER_FAST_CHECK(input.scalar_type() == ScalarType::Float, op, ": input must be float32 on a CPU; convert it with .to(torch.float32)");
    check_same_dtype(op, "input", input, "input_weight", input_weight);
    check_same_dtype(op, "input", input, "recurrent_weights", recurrent_weights);
    MER_FAST_CHECK(injection == "input" || injection == "feedforward", op, ": injection must be 'input' or 'feedforward', got ", injection);
    fed = injection == "input";
    batch = input.size(0), channels = input.size(1), height = input.size(2), width = input.size(3), maps = input_weight.size(0);
    MER_FAST_CHECK(steps >= 1 && steps < 1 << 20, op, ": steps must be at least 1, got ", steps);
    MER_FAST_CHECK(channels >= 1 && maps >= 1, op, ": input_weight must not be empty, got ", shape_text(input_weight));
    MER_FAST_CHECK(
        input_weight.size(1) == channels && (!fed || maps == channels), op, ": input_weight ", shape_text(input_weight),
        " does not fit input ", shape_text(input));
    const int64_t weights = recurrent_weights.size(0);
    MER_FAST_CHECK(
        (weights == 1 || weights == steps) && recurrent_weights.size(1) == maps && recurrent_weights.size(2) == maps, op,
        ": recurrent_weights must have shape (1 or ", steps, ", ", maps, ", ", maps, ", kh, kw), got ", shape_text(recurrent_weights));
    for (const int64_t side : {input_weight.size(2), input_weight.size(3), recurrent_weights.size(3), recurrent_weights.size(4)}) {
      MER_FAST_CHECK(side % 2 == 1, op, ": kernels must have odd sides, got ", side);
    }
  }

  bool empty() const { return input.numel() == 0; }
  int64_t padded_maps() const { return padded(maps); }
  int64_t padded_channels() const { return padded(channels); }
  int64_t plane() const { return height * width; }
  Filter first_filter(bool exact) const { return filter_of(input_weight.size(2), input_weight.size(3), exact); }
  Filter filter(bool exact) const { return filter_of(recurrent_weights.size(3), recurrent_weights.size(4), exact); }

  const float* image(int64_t n) const { return static_cast<const float*>(input.const_data_ptr()) + n * channels * plane(); }
  const float* first_weight() const { return static_cast<const float*>(input_weight.const_data_ptr()); }
  int64_t weight_of(int64_t step) const { return recurrent_weights.size(0) == 1 ? 0 : step; }
  // Of step 0, 1, ... after the first state.
  const float* weight(int64_t step) const {
    return static_cast<const float*>(recurrent_weights.const_data_ptr()) +
        weight_of(step) * maps * maps * recurrent_weights.size(3) * recurrent_weights.size(4);
  }

  // Row h of image n of the input, or of another tensor of planes, as pixels.
  void input_row(int64_t n, int64_t h, float* pixels) const {
    MER_FAST_DISPATCH(pixels_from_planes, {image(n) + h * width, pixels, channels, width, plane(), padded_channels()});
  }

  void check_norm(const char* name, const std::optional<Tensor>& t) const {
    if (!t) return;
    MER_FAST_CHECK(
        t->scalar_type() == ScalarType::Float && t->dim() == 2 && t->size(0) == steps + 1 && t->size(1) == maps, op, ": ", name,
        " must be float32 of shape (", steps + 1, ", ", maps, "), got ", shape_text(*t));
  }

  // A value of each channel of each state, padded; `otherwise` where there is no tensor. [state][padded channel]
  std::vector<float> of_norm(const std::optional<Tensor>& t, float otherwise) const {
    std::vector<float> values(static_cast<size_t>((steps + 1) * padded_maps()), 0.0f);
    const std::optional<Tensor> dense = t ? std::optional<Tensor>(contiguous(*t)) : std::nullopt;
    for (int64_t k = 0; k <= steps; ++k) {
      float* row = values.data() + k * padded_maps();
      std::fill_n(row, maps, otherwise);
      if (dense) std::copy_n(static_cast<const float*>(dense->const_data_ptr()) + k * maps, maps, row);
    }
    return values;
  }
};

// The bank of a weight (outputs, inputs, kh, kw); `backward` gives that of the gradient of its input.
inline Bank bank_for(const Filter& filter, int64_t outputs, int64_t inputs, bool backward) {
  const int64_t depth = padded(backward ? outputs : inputs), columns = padded(backward ? inputs : outputs);
  return Bank(filter, depth, columns, kWidestBlock, kChunk);
}
inline void fill_bank(Bank& bank, const float* weight, int64_t outputs, int64_t inputs, int64_t taps, bool backward) {
  const auto kernel = [=](int64_t o, int64_t i) { return o < outputs && i < inputs ? weight + (o * inputs + i) * taps : nullptr; };
  backward ? bank.fill(kernel, true) : bank.fill([&](int64_t i, int64_t o) { return kernel(o, i); }, false);
}

}  // namespace mer_fast
