// Convolutional LSTM and GRU over time on a CPU. An image's steps follow one another on one thread, its states in that thread's
// cache; where there are fewer images than threads, all of them share the bands of an image. Input and state meet in one
// convolution, whose outputs the gates take row by row.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <optional>
#include <string>

#include "conv_cell_kernel.h"
#include "maps_band.h"
#include "matrix_units.h"
#include "strip.h"
#include "tensor_io.h"

namespace mer_fast {

inline const float* floats(const std::optional<Tensor>& t) { return t ? floats(*t) : nullptr; }
// A tensor's elements in float: itself, contiguous, or a widened copy.
inline Tensor widened(const Tensor& t) {
  const Tensor given = contiguous(t);
  if (given.scalar_type() != ScalarType::BFloat16) return given;
  std::vector<int64_t> shape;
  for (int64_t d = 0; d < given.dim(); ++d) shape.push_back(given.size(d));
  Tensor wide = torch::stable::new_empty(given, shape, ScalarType::Float);
  MER_FAST_DISPATCH(widen, Element::bf16, given.const_data_ptr(), static_cast<float*>(wide.mutable_data_ptr()), given.numel());
  return wide;
}
inline std::optional<Tensor> widened(const std::optional<Tensor>& t) { return t ? std::optional<Tensor>(widened(*t)) : std::nullopt; }
// Segments of states that are kept; never 1 of a size that may change, which traced code would take for a constant.
inline int64_t segments_of(int64_t steps, int64_t segment) {
  return segment > 0 ? std::max<int64_t>(2, (steps + segment - 1) / segment) : 0;
}
inline void check_segment(const char* op, int64_t segment) {
  MER_FAST_CHECK(segment >= 0 && segment < int64_t{1} << 31, op, ": segment must lie between 0 and 2^31, got ", segment);
}
inline std::optional<Tensor> dense(const std::optional<Tensor>& t) { return t ? std::optional<Tensor>(contiguous(*t)) : std::nullopt; }

// The operands of a cell over time, checked. Kind says what tells an LSTM from a GRU.
template <typename Kind>
struct CellOperands {
  const char* op;
  Tensor input, weight_ih, weight_hh;
  std::optional<Tensor> h0, c0, lengths;
  std::vector<float> bias, peephole;  // [slot][hidden, padded], [3][...] or nothing
  int64_t steps, batch, channels, hidden, height, width;
  bool reverse;

  CellOperands(
      const char* name, const Tensor& x, const Tensor& ih, const Tensor& hh, const std::optional<Tensor>& h, const std::optional<Tensor>& c,
      const std::optional<Tensor>& ends, bool backwards)
      : op(name), input(contiguous(x)), weight_ih(widened(ih)), weight_hh(widened(hh)), h0(widened(h)), c0(widened(c)),
          lengths(dense(ends)),
        reverse(backwards) {
    check_rank(op, "input", input, 5);
    check_rank(op, "weight_ih", weight_ih, 4);
    check_rank(op, "weight_hh", weight_hh, 4);
    MER_FAST_CHECK(
        input.scalar_type() == ScalarType::Float || (input.scalar_type() == ScalarType::BFloat16 && matrix_units()), op,
        ": input must be float32 on a CPU", matrix_units() ? ", or bfloat16 without gradient" : "", "; convert it with .to(torch.float32)");
    check_same_dtype(op, "input", input, "weight_ih", ih);
    check_same_dtype(op, "input", input, "weight_hh", hh);
    if (h) check_same_dtype(op, "input", input, "h0", *h);
    if (c) check_same_dtype(op, "input", input, "c0", *c);
    steps = input.size(0), batch = input.size(1), channels = input.size(2), height = input.size(3), width = input.size(4);
    hidden = weight_hh.size(1);
    MER_FAST_CHECK(
        hidden >= 1 && channels >= 1 && weight_hh.size(0) == Kind::kGates * hidden && weight_ih.size(0) == weight_hh.size(0) &&
            weight_ih.size(1) == channels, op,
        ": weight_ih ", shape_text(weight_ih), " and weight_hh ", shape_text(weight_hh), " do not fit input ", shape_text(input));
    MER_FAST_CHECK(
        weight_ih.size(2) == weight_hh.size(2) && weight_ih.size(3) == weight_hh.size(3) && weight_ih.size(2) % 2 == 1 &&
            weight_ih.size(3) % 2 == 1,
        op, ": weight_ih and weight_hh must have kernels of one size with odd sides, got ", shape_text(weight_ih), " and ",
            shape_text(weight_hh));
    MER_FAST_CHECK(steps >= 1, op, ": input must have at least one step, got ", shape_text(input));
    for (const auto& [told, state] : {std::pair{"h0", &h0}, std::pair{"c0", &c0}}) check_state(told, *state);
    MER_FAST_CHECK(
        !lengths || (lengths->scalar_type() == ScalarType::Long && lengths->dim() == 1 && lengths->size(0) == batch), op,
        ": lengths must be int64 of shape (", batch, ")");
    bias.assign(static_cast<size_t>(kSlots * padded_hidden()), 0.0f);
  }

  void check_state(const char* name, const std::optional<Tensor>& t) const {
    if (!t) return;
    if (!is_half()) check_same_dtype(op, "input", input, name, *t);
    MER_FAST_CHECK(
        t->dim() == 4 && t->size(0) == batch && t->size(1) == hidden && t->size(2) == height && t->size(3) == width, op, ": ", name,
        " must have shape (", batch, ", ", hidden, ", ", height, ", ", width, "), got ", shape_text(*t));
  }
  void check_bias(const char* name, const std::optional<Tensor>& t) const {
    if (!t) return;
    check_same_dtype(op, "input", input, name, *t);
    MER_FAST_CHECK(t->numel() == Kind::kGates * hidden, op, ": ", name, " must have shape (", Kind::kGates * hidden, "), got ",
        shape_text(*t));
  }
  // Adds gate `gate` of a bias to slot `slot`.
  void add_bias(const std::optional<Tensor>& t, int64_t gate, int64_t slot) {
    const std::optional<Tensor> values = widened(t);
    for (int64_t d = 0; values &&
        d < hidden; ++d) bias[static_cast<size_t>(slot * padded_hidden() + d)] += floats(*values)[gate * hidden + d];
  }

  bool is_half() const { return input.scalar_type() == ScalarType::BFloat16; }
  bool empty() const { return batch == 0 || height == 0 || width == 0; }
  int64_t padded_hidden() const { return padded(hidden); }
  int64_t padded_channels() const { return padded(channels); }
  int64_t depth() const { return padded_channels() + padded_hidden(); }
  int64_t plane() const { return height * width; }
  int64_t taps() const { return weight_hh.size(2) * weight_hh.size(3); }
  Filter filter(bool exact) const { return filter_of(weight_hh.size(2), weight_hh.size(3), exact); }
  const float* frame(int64_t t, int64_t n) const { return floats(input) + (t * batch + n) * channels * plane(); }
  int64_t length(int64_t n) const {
    return lengths ? std::clamp<int64_t>(static_cast<const int64_t*>(lengths->const_data_ptr())[n], 0, steps) : steps;
  }
  // The s-th step of image n that runs.
  int64_t time(int64_t n, int64_t s) const { return reverse ? length(n) - 1 - s : s; }
};

// Between planes (hidden, h, w) of an image and rows of pixels.
inline void rows_from_planes(const float* planes, int64_t channels, int64_t width, int64_t plane, int64_t h, float* pixels) {
  MER_FAST_DISPATCH(pixels_from_planes, {planes + h * width, pixels, channels, width, plane, padded(channels)});
}
inline void rows_to_planes(const float* pixels, int64_t step, int64_t channels, int64_t width, int64_t plane, int64_t h, float* planes) {
  MER_FAST_DISPATCH(planes_from_pixels, {pixels, planes + h * width, channels, width, plane, step});
}

// The weights of a cell as banks, gates by slots; a block of columns holds all slots of some channels.
template <typename Kind>
class CellBanks {
 public:
  CellBanks(const CellOperands<Kind>& o, const Filter& filter) : o_(&o) {
    const int64_t groups = o.padded_hidden() / kPad;
    in_block_ = (groups % 4 == 0 ? 4 : groups % 2 == 0 ? 2 : 1) * kPad;
    forward = Bank(filter, o.depth(), kSlots * o.padded_hidden(), kSlots * in_block_, Kind::kUniform ? kChunk : std::min(kChunk,
        in_block_));
    to_input = Bank(filter, kSlots * o.padded_hidden(), o.padded_channels(), kWidestBlock, kChunk);
    to_state = Bank(filter, kSlots * o.padded_hidden(), o.padded_hidden(), kWidestBlock, kChunk);
  }

  int64_t in_block() const { return in_block_; }
  // Of a column of the forward bank: its slot, and its channel of the state.
  int64_t slot(int64_t column) const { return column % (kSlots * in_block_) / in_block_; }
  int64_t channel(int64_t column) const { return column / (kSlots * in_block_) * in_block_ + column % in_block_; }

  void fill_forward() {
    const int64_t taps = o_->taps(), inputs = o_->padded_channels();
    forward.fill([&](int64_t k, int64_t column) -> const float* {
      const int64_t d = channel(column), of_input = k < inputs;
      const int64_t gate = of_input ? Kind::input_gate(slot(column)) : Kind::state_gate(slot(column));
      if (d >= o_->hidden || gate < 0) return nullptr;
      if (of_input) return k < o_->channels ? floats(o_->weight_ih) + ((gate * o_->hidden + d) * o_->channels + k) * taps : nullptr;
      return k - inputs < o_->hidden ? floats(o_->weight_hh) + ((gate * o_->hidden + d) * o_->hidden + k - inputs) * taps : nullptr;
    }, false);
  }
  void fill_backward(bool input) {
    Bank& bank = input ? to_input : to_state;
    const int64_t columns = input ? o_->channels : o_->hidden;
    const float* weights = floats(input ? o_->weight_ih : o_->weight_hh);
    bank.fill([&](int64_t k, int64_t column) {
      const int64_t at = weight_row(k, input);
      return at >= 0 && column < columns ? weights + (at * columns + column) * o_->taps() : nullptr;
    }, true);
  }
  // The row (output) of weight_ih or weight_hh to which channel k of the gates' gradient belongs, or -1.
  int64_t weight_row(int64_t k, bool input) const {
    const int64_t slot = k / o_->padded_hidden(), d = k % o_->padded_hidden();
    const int64_t gate = input ? Kind::input_gate(Kind::gradient_slot(slot)) : Kind::state_gate(Kind::gradient_slot(slot));
    return d < o_->hidden && gate >= 0 ? gate * o_->hidden + d : -1;
  }

  Bank forward, to_input, to_state;

 private:
  const CellOperands<Kind>* o_;
  int64_t in_block_;
};

// One slot's working memory for a step, and the step itself.
template <typename Kind>
class CellStep {
 public:
  CellStep(const CellOperands<Kind>& o, const Grid& grid, const CellBanks<Kind>& banks, int64_t widest)
      : o_(&o), banks_(&banks), band_(grid, o.depth(), widest), strip_(grid, o.padded_channels()) {}
  int64_t elements() const { return band_.elements() + strip_.elements(); }
  void place(Arena& arena) {
    band_.place(arena);
    strip_.place(arena);
  }
  Band& band() { return band_; }

  // Loads what the convolution of step t of image n takes in a band: the frame and, unless it is zero, the state.
  void load(int64_t n, int64_t t, int64_t b, const Map* h) {
    band_.begin(b);
    strip_.fill(band_, [&](int64_t row, float* out) { rows_from_planes(o_->frame(t, n), o_->channels, o_->width, o_->plane(), row, out); });
    band_.take(strip_.data(), strip_.row_step(), o_->padded_channels(), 0);
    if (h) band_.take(h->band(band_.first_tile_row()), h->row_step(), o_->padded_hidden(), o_->padded_channels());
  }

  // The gates and states of the band loaded. Rows of gates go to `gates` (of the image) unless it is null. False where
  // something was not finite.
  bool run(const Map& h, const float* c, Map& h_next, float* c_next, float* gates, bool has_state) {
    const int64_t inputs = o_->padded_channels(), all = has_state ? o_->depth() : inputs, hidden = o_->padded_hidden();
    bool finite = true;
    const auto depths = [&](int64_t column) {
      const Depths wanted = Kind::depths(banks_->slot(column), inputs, o_->depth());
      return Depths{std::min(wanted.from, all), std::min(wanted.to, all)};
    };
    for (int64_t block = 0; block < banks_->forward.blocks(); ++block) {
      const int64_t first = banks_->channel(banks_->forward.first(block)), wide = banks_->in_block(), width = kSlots * wide;
      band_.convolve(banks_->forward, block, depths, [&](int64_t row, int64_t rows, const float* sums, int64_t step) {
        for (int64_t r = 0; r < rows; ++r) {
          const int64_t at = (row + r) * o_->width * hidden + first;
          const CellRows f{sums + r * step, width, wide, o_->bias.data() + first,
              o_->peephole.empty() ? nullptr : o_->peephole.data() + first,
                           hidden, h.pixels(row + r) + first, c ? c + at : nullptr, h_next.pixels(row + r) + first,
                           c_next ? c_next + at : nullptr,
                           hidden, hidden, hidden, gates ? gates + (row + r) * o_->width * kSlots * hidden + first : nullptr,
                           kSlots * hidden,
                           o_->width, wide};
          finite &= Kind::rows(f);
          clear_padding(f, first);
        }
      });
    }
    return finite;
  }

 private:
  void clear_padding(const CellRows& f, int64_t first) const {
    const int64_t used = o_->hidden - first;
    if (used >= f.channels) return;
    mer_fast::clear_padding(f.h_next, f.h_next_step, f.pixels, used, f.channels);
    if (f.c_next) mer_fast::clear_padding(f.c_next, f.c_step, f.pixels, used, f.channels);
    for (int64_t slot = 0; f.gates && slot < kSlots; ++slot) {
      mer_fast::clear_padding(f.gates + slot * f.bias_slot, f.gates_step, f.pixels, used, f.channels);
    }
  }

  const CellOperands<Kind>* o_;
  const CellBanks<Kind>* banks_;
  Band band_;
  Strip strip_;
};

}  // namespace mer_fast
