// The gradient of a convolutional cell over time. From the states before each segment of steps, those between are computed
// again, from the gates where these were kept, else with the convolutions; then the steps run backwards.
#pragma once

#include <cmath>

#include "conv_cell_forward.h"

namespace mer_fast {

struct CellGradients {
  float *input, *weight_ih, *weight_hh, *bias, *peephole, *h0, *c0;  // null where not needed; weights zero on entry; bias by slots
};

template <typename Kind>
class CellBackward {
 public:
  CellBackward(
      const CellOperands<Kind>& o, const Tensor& grad_output, const Tensor& grad_h, const std::optional<Tensor>& grad_c,
          const CellKept& kept,
      const CellGradients& to, bool exact)
      : o_(o), grad_output_(steady(grad_output)), grad_h_(contiguous(grad_h)), grad_c_(dense(grad_c)), kept_(kept), to_(to),
        grid_(o.filter(exact), o.height, o.width, kSlots * o.padded_hidden(), o.depth(), o.batch < slots_.count() ? slots_.count() : 1),
        banks_(o, grid_.filter) {}

  // False, and nothing written but what will be written again, where a gradient is not finite, which Winograd's transforms spread.
  bool run() {
    int64_t elements = banks_.to_state.elements();
    if (to_.input) elements += banks_.to_input.elements();
    if (!kept_.gates) elements += banks_.forward.elements();
    shared_arena().reserve<float>({elements});
    banks_.to_state.place(shared_arena());
    banks_.fill_backward(false);
    if (to_.input) banks_.to_input.place(shared_arena()), banks_.fill_backward(true);
    if (!kept_.gates) banks_.forward.place(shared_arena()), banks_.fill_forward();
    place();
    if (o_.batch >= slots_.count()) {
      slots_.share(o_.batch, [&](int64_t slot, int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; ++n) run_image(n, images_[static_cast<size_t>(slot)], slot);
      });
    } else {
      for (int64_t n = 0; n < o_.batch; ++n) run_image(n, images_[0], -1);
    }
    for (size_t i = 1; i < workers_.size(); ++i) {
      for (int64_t c = 0; c < kSlots * hidden(); ++c) workers_[0].bias[c] += workers_[i].bias[c];
    }
    if (grid_.filter.m && !std::all_of(workers_[0].bias, workers_[0].bias + kSlots * hidden(),
        [](float x) { return std::isfinite(x); })) return false;
    finish();
    return true;
  }

 private:
  struct Worker {
    CellStep<Kind> step;
    Band back;  // of the gradient of the gates
    WeightSums sums;
    float *bias, *peephole, *grad;  // sums so far, and a row of the output's gradient
  };
  struct Image {
    std::vector<Map> h;        // before every step of a segment
    float *c, *gates;          // likewise; gates where they were not kept
    float *grad_h, *grad_c;
    Map grad;                  // of what went into the gates
  };

  static Tensor steady(const Tensor& t) {
    bool one = true;  // the same value everywhere, as behind a sum
    for (int64_t d = 0; d < t.dim(); ++d) one &= t.stride(d) == 0;
    return one ? t : contiguous(t);
  }
  int64_t hidden() const { return o_.padded_hidden(); }
  int64_t row() const { return o_.width * hidden(); }
  int64_t rows() const { return o_.plane() * hidden(); }
  // States that are held at a time: before every step of a segment, and where its gates are computed again, those behind it.
  int64_t held() const { return std::min(kept_.segment, o_.steps) + (kept_.gates ? 0 : 1); }

  void place() {
    const int64_t states = held(), map = grid_.map_elements(hidden()), wide = grid_.map_elements(kSlots * hidden());
    const int64_t widest = std::max(banks_.to_state.widest(), to_.input ? banks_.to_input.widest() : 0);
    const CellStep<Kind> step(o_, grid_, banks_, kept_.gates ? 0 : banks_.forward.widest());
    const Band back(grid_, kSlots * hidden(), widest);
    const WeightSums sums(grid_, o_.depth(), kSlots * hidden());
    const int64_t image = 64 * (states + 8) + states * (map + rows()) + (kept_.gates ? 0 : states * kSlots * rows()) + 2 * rows() + wide;
    slots_.reserve(step.elements() + back.elements() + sums.elements() + (kSlots + 3) * hidden() + row() + 128, image, o_.batch);
    for (int64_t i = 0; i < slots_.count(); ++i) {
      Arena& arena = slots_.arena(i);
      workers_.push_back({step, back, sums, nullptr, nullptr, nullptr});
      Worker& w = workers_.back();
      w.step.place(arena), w.back.place(arena), w.sums.place(arena);
      w.sums.clear();
      w.bias = arena.take<float>(kSlots * hidden());
      w.peephole = arena.take<float>(3 * hidden());
      w.grad = arena.take<float>(row());
      std::fill_n(w.bias, kSlots * hidden(), 0.0f);
      std::fill_n(w.peephole, 3 * hidden(), 0.0f);
      if (!slots_.holds(i, o_.batch)) continue;
      Image m{{}, arena.take<float>(states * rows()), kept_.gates ? nullptr : arena.take<float>(states * kSlots * rows()),
              arena.take<float>(rows()), arena.take<float>(rows()), Map(arena.take<float>(wide), grid_, kSlots * hidden())};
      for (int64_t k = 0; k < states; ++k) {
        m.h.emplace_back(arena.take<float>(map), grid_, hidden());
        m.h.back().clear_border();
      }
      m.grad.clear_border();
      images_.push_back(m);
    }
  }

  // body(row) for all rows, or body(band, worker) for all bands: by this slot alone, or (-1) by all of them.
  template <typename Body>
  void each_band(int64_t slot, const Body& body) {
    const auto some = [&](int64_t by, int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) body(b, workers_[static_cast<size_t>(by)]);
    };
    slot >= 0 ? some(slot, 0, grid_.bands) : slots_.share(grid_.bands, some);
  }
  int64_t first_row(int64_t b) const { return std::min(o_.height, grid_.first(b) * grid_.filter.tile()); }

  void run_image(int64_t n, Image& image, int64_t slot) {
    for (int64_t y = 0; y < o_.height; ++y) {
      rows_from_planes(floats(grad_h_) + n * o_.hidden * o_.plane(), o_.hidden, o_.width, o_.plane(), y, image.grad_h + y * row());
      if (grad_c_) rows_from_planes(floats(grad_c_) + n * o_.hidden * o_.plane(), o_.hidden, o_.width, o_.plane(), y,
          image.grad_c + y * row());
    }
    const int64_t running = o_.length(n);
    for (int64_t first = (running - 1) / kept_.segment * kept_.segment; running > 0 && first >= 0; first -= kept_.segment) {
      const int64_t count = std::min(kept_.segment, running - first);
      restore(n, first, count, image, slot);
      for (int64_t k = count - 1; k >= 0; --k) step_back(n, first + k, k, image, slot);
    }
    for (int64_t t = running; t < o_.steps && to_.input; ++t) std::fill_n(grad_frame(t, n), o_.channels * o_.plane(), 0.0f);
    for (int64_t y = 0; y < o_.height; ++y) {
      if (to_.h0) rows_to_planes(image.grad_h + y * row(), hidden(), o_.hidden, o_.width, o_.plane(), y,
          to_.h0 + n * o_.hidden * o_.plane());
      if (to_.c0) rows_to_planes(image.grad_c + y * row(), hidden(), o_.hidden, o_.width, o_.plane(), y,
          to_.c0 + n * o_.hidden * o_.plane());
    }
  }

  float* grad_frame(int64_t t, int64_t n) const { return to_.input + (t * o_.batch + n) * o_.channels * o_.plane(); }
  const float* gates(int64_t n, int64_t s, int64_t k, const Image& image) const {
    return kept_.gates ? kept_.gates + (s * o_.batch + n) * kSlots * rows() : image.gates + k * kSlots * rows();
  }

  // The states before each of `count` steps, and their gates.
  void restore(int64_t n, int64_t first, int64_t count, Image& image, int64_t slot) {
    const float* states = kept_.states + (first / kept_.segment * Kind::kStates * o_.batch + n) * rows();
    for (int64_t y = 0; y < o_.height; ++y) std::copy_n(states + y * row(), row(), image.h[0].pixels(y));
    if (Kind::kStates == 2) std::copy_n(states + o_.batch * rows(), rows(), image.c);
    for (int64_t k = 0; k < count - (kept_.gates ? 1 : 0); ++k) {
      Map &h = image.h[static_cast<size_t>(k)], &next = image.h[static_cast<size_t>(k + 1)];
      float *c = image.c + k * rows(), *c_next = c + rows();
      each_band(slot, [&](int64_t b, Worker& w) {
        if (!kept_.gates) {
          const bool has_state = first + k > 0 || o_.h0;
          w.step.load(n, o_.time(n, first + k), b, has_state ? &h : nullptr);
          w.step.run(h, c, next, c_next, image.gates + k * kSlots * rows(), has_state);
          return;
        }
        for (int64_t y = first_row(b); y < first_row(b + 1); ++y) {
          const StateOfGates f{gates(n, first + k, k, image) + y * kSlots * row(), kSlots * hidden(), hidden(), h.pixels(y), c + y * row(),
                               next.pixels(y), c_next + y * row(), hidden(), hidden(), hidden(), o_.width, hidden()};
          Kind::states(f);
        }
      });
    }
  }

  void step_back(int64_t n, int64_t s, int64_t k, Image& image, int64_t slot) {
    const int64_t t = o_.time(n, s);
    const Map& h = image.h[static_cast<size_t>(k)];
    each_band(slot, [&](int64_t b, Worker& w) {
      for (int64_t y = first_row(b); y < first_row(b + 1); ++y) gates_back(n, s, t, k, y, image, w);
    });
    const bool has_state = s > 0 || o_.h0;
    each_band(slot, [&](int64_t b, Worker& w) {
      w.step.load(n, t, b, has_state ? &h : nullptr);
      w.sums.add(w.step.band(), image.grad.pixels(first_row(b)), image.grad.row_step(), [&](int64_t at) { return Kind::met(at > 0,
          hidden()); });
      w.back.begin(b);
      w.back.take(image.grad.band(w.back.first_tile_row()), image.grad.row_step(), kSlots * hidden(), 0);
      if (has_state) convolve(banks_.to_state, Kind::met(true, hidden()), w, [&](int64_t y, int64_t first, int64_t width,
          const float* values) {
        float* to = image.grad_h + y * row() + first;
        for (int64_t i = 0; i < o_.width; ++i) {
          for (int64_t c = 0; c < width; ++c) to[i * hidden() + c] += values[i * width + c];
        }
      });
      if (to_.input) convolve(banks_.to_input, Kind::met(false, hidden()), w, [&](int64_t y, int64_t first, int64_t width,
          const float* values) {
        const int64_t wanted = std::min(width, o_.channels - first);
        if (wanted > 0) rows_to_planes(values, width, wanted, o_.width, o_.plane(), y, grad_frame(t, n) + first * o_.plane());
      });
    });
  }

  void gates_back(int64_t n, int64_t s, int64_t t, int64_t k, int64_t y, Image& image, Worker& w) {
    const float* grads = floats(grad_output_);
    const bool one = grad_output_.stride(4) == 0 && o_.width > 0 && !grad_output_.is_contiguous();
    if (one) {
      std::fill_n(w.grad, row(), *grads);
    } else {
      rows_from_planes(grads + (t * o_.batch + n) * o_.hidden * o_.plane(), o_.hidden, o_.width, o_.plane(), y, w.grad);
    }
    const CellGradient f{gates(n, s, k, image) + y * kSlots * row(), kSlots * hidden(), hidden(),
        o_.peephole.empty() ? nullptr : o_.peephole.data(),
                         image.h[static_cast<size_t>(k)].pixels(y), image.c + k * rows() + y * row(), hidden(), hidden(), w.grad, hidden(),
                         image.grad_h + y * row(), image.grad_c + y * row(), hidden(), image.grad.pixels(y), kSlots * hidden(), w.bias,
                         w.peephole,
                         o_.width, hidden()};
    Kind::gradient(f);
  }

  template <typename Sink>
  void convolve(const Bank& bank, const Depths& met, Worker& w, const Sink& sink) {
    for (int64_t block = 0; block < bank.blocks(); ++block) {
      const int64_t first = bank.first(block), width = bank.width(block);
      w.back.convolve(bank, block, [&](int64_t) { return met; }, [&](int64_t y, int64_t many, const float* values, int64_t step) {
        for (int64_t r = 0; r < many; ++r) sink(y + r, first, width, values + r * step);
      });
    }
  }

  void finish() {
    for (size_t i = 1; i < workers_.size(); ++i) {
      workers_[0].sums.add(workers_[i].sums);
      for (int64_t c = 0; c < 3 * hidden(); ++c) workers_[0].peephole[c] += workers_[i].peephole[c];
    }
    const int64_t inputs = o_.padded_channels(), taps = o_.taps();
    workers_[0].sums.finish([&](int64_t k, int64_t column) -> float* {
      const bool input = k < inputs;
      const int64_t at = banks_.weight_row(column, input), i = input ? k : k - inputs, many = input ? o_.channels : o_.hidden;
      return at >= 0 && i < many ? (input ? to_.weight_ih : to_.weight_hh) + (at * many + i) * taps : nullptr;
    });
    std::copy_n(workers_[0].bias, kSlots * hidden(), to_.bias);
    if (to_.peephole) {
      for (int64_t p = 0; p < 3; ++p) std::copy_n(workers_[0].peephole + p * hidden(), o_.hidden, to_.peephole + p * o_.hidden);
    }
  }

  Slots slots_;
  const CellOperands<Kind>& o_;
  Tensor grad_output_, grad_h_;
  std::optional<Tensor> grad_c_;
  CellKept kept_;
  CellGradients to_;
  Grid grid_;
  CellBanks<Kind> banks_;
  std::vector<Worker> workers_;
  std::vector<Image> images_;
};

// A tensor for a gradient, or one without elements; zeros unless all of it will be written.
inline Tensor zeros_like_if(bool wanted, const Tensor& like, bool zero = true) {
  Tensor t = wanted ? torch::stable::empty_like(like) : torch::stable::new_empty(like, {0});
  return zero && wanted ? torch::stable::fill_(t, 0) : t;
}

template <typename Kind>
void check_cell_gradient(const CellOperands<Kind>& o, const Tensor& grad_output, const Tensor& gates, const Tensor& states,
    int64_t segment) {
  check_same_dtype(o.op, "grad_output", grad_output, "input", o.input);
  const int64_t wanted[] = {o.steps, o.batch, o.hidden, o.height, o.width};
  for (int64_t d = 0; d < 5; ++d) {
    MER_FAST_CHECK(
        grad_output.dim() == 5 && grad_output.size(d) == wanted[d], o.op, ": grad_output must have the shape of the output, got ",
        shape_text(grad_output));
  }
  const int64_t rows = o.batch * o.plane() * o.padded_hidden(), segments = segments_of(o.steps, segment);
  MER_FAST_CHECK(
      segment > 0 && states.is_contiguous() && states.scalar_type() == ScalarType::Float &&
          states.numel() == segments * Kind::kStates * rows &&
          gates.is_contiguous() && gates.scalar_type() == ScalarType::Float &&
              (gates.numel() == 0 || gates.numel() == o.steps * kSlots * rows),
      o.op, ": gates and states are not those of the forward pass, got ", shape_text(gates), " and ", shape_text(states));
}

inline CellKept kept_of(const Tensor& gates, const Tensor& states, int64_t segment) {
  const auto data = [](const Tensor& t) { return t.numel() ? static_cast<float*>(const_cast<void*>(t.const_data_ptr())) : nullptr; };
  return {data(gates), data(states), segment};  // which are only read
}

}  // namespace mer_fast
