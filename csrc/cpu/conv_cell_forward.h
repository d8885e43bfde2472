// A convolutional cell over time: outputs, last states, and what the gradient needs.
#pragma once

#include "conv_cell.h"

namespace mer_fast {

// What is kept for the gradient, null for nothing: [segment][state][image] rows of pixels, and [step][image] gates.
struct CellKept {
  float* gates = nullptr;
  float* states = nullptr;
  int64_t segment = 0;
};

struct CellResults {
  float *output, *h, *c;
};

template <typename Kind>
class CellForward {
 public:
  CellForward(const CellOperands<Kind>& o, const CellResults& to, const CellKept& kept, bool exact)
      : o_(o), to_(to), kept_(kept),
        grid_(o.filter(exact), o.height, o.width, o.depth(), kSlots * o.padded_hidden(), o.batch < slots_.count() ? slots_.count() : 1),
        banks_(o, grid_.filter) {}

  // False where something was not finite, which Winograd's transforms spread.
  bool run() {
    shared_arena().reserve<float>({banks_.forward.elements()});
    banks_.forward.place(shared_arena());
    banks_.fill_forward();
    const CellStep<Kind> step(o_, grid_, banks_, banks_.forward.widest());
    const int64_t map = grid_.map_elements(o_.padded_hidden()), rows = o_.plane() * o_.padded_hidden();
    slots_.reserve(step.elements(), 2 * map + (Kind::kStates == 2 ? rows : 0) + 64, o_.batch);
    for (int64_t i = 0; i < slots_.count(); ++i) {
      Arena& arena = slots_.arena(i);
      steps_.push_back(step);
      steps_.back().place(arena);
      if (!slots_.holds(i, o_.batch)) continue;
      images_.push_back({{Map(arena.take<float>(map), grid_, o_.padded_hidden()), Map(arena.take<float>(map), grid_, o_.padded_hidden())},
                         Kind::kStates == 2 ? arena.take<float>(rows) : nullptr});
      for (Map& h : images_.back().h) h.clear_border();
    }
    if (o_.batch >= slots_.count()) {
      slots_.share(o_.batch, [&](int64_t slot, int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end && goes_on(); ++n) run_image(n, images_[static_cast<size_t>(slot)], slot);
      });
    } else {
      for (int64_t n = 0; n < o_.batch && goes_on(); ++n) run_image(n, images_[0], -1);
    }
    return finite_;
  }

 private:
  struct Image {
    Map h[2];
    float* c;
  };

  int64_t row() const { return o_.width * o_.padded_hidden(); }
  // By the formula, what is not finite stays where it belongs.
  bool goes_on() const { return finite_ || !grid_.filter.m; }

  void run_image(int64_t n, Image& image, int64_t slot) {
    begin(n, image);
    const int64_t running = o_.length(n);
    for (int64_t s = 0; s < running; ++s) {
      if (kept_.segment && s % kept_.segment == 0) keep_states(n, s / kept_.segment, image, s);
      run_step(n, s, image, slot);
    }
    for (int64_t t = running; t < o_.steps; ++t) std::fill_n(output(t, n), o_.hidden * o_.plane(), 0.0f);
    clear_unused(n, running);
    Map& h = image.h[running % 2];
    for (int64_t y = 0; y < o_.height; ++y) {
      rows_to_planes(h.pixels(y), o_.padded_hidden(), o_.hidden, o_.width, o_.plane(), y, to_.h + n * o_.hidden * o_.plane());
      if (image.c) rows_to_planes(image.c + y * row(), o_.padded_hidden(), o_.hidden, o_.width, o_.plane(), y,
          to_.c + n * o_.hidden * o_.plane());
    }
  }

  float* output(int64_t t, int64_t n) const { return to_.output + (t * o_.batch + n) * o_.hidden * o_.plane(); }

  void begin(int64_t n, Image& image) {
    for (int64_t y = 0; y < o_.height; ++y) {
      load_state(o_.h0, n, y, image.h[0].pixels(y));
      if (image.c) load_state(o_.c0, n, y, image.c + y * row());
    }
  }
  void load_state(const std::optional<Tensor>& state, int64_t n, int64_t y, float* pixels) const {
    if (state) {
      rows_from_planes(floats(state) + n * o_.hidden * o_.plane(), o_.hidden, o_.width, o_.plane(), y, pixels);
    } else {
      std::fill_n(pixels, row(), 0.0f);
    }
  }

  // What is kept of steps that do not run is zero.
  void clear_unused(int64_t n, int64_t running) const {
    const int64_t rows = o_.plane() * o_.padded_hidden(), segment = kept_.segment;
    for (int64_t s = running; kept_.gates && s < o_.steps; ++s) std::fill_n(kept_.gates + (s * o_.batch + n) * kSlots * rows,
        kSlots * rows, 0.0f);
    for (int64_t k = segment ? (running + segment - 1) / segment : 0; k < segments_of(o_.steps, segment); ++k) {
      for (int64_t i = 0; i < Kind::kStates; ++i) std::fill_n(kept_.states + ((k * Kind::kStates + i) * o_.batch + n) * rows, rows, 0.0f);
    }
  }

  void keep_states(int64_t n, int64_t segment, Image& image, int64_t s) const {
    const int64_t rows = o_.plane() * o_.padded_hidden();
    float* to = kept_.states + (segment * Kind::kStates * o_.batch + n) * rows;
    for (int64_t y = 0; y < o_.height; ++y) std::copy_n(image.h[s % 2].pixels(y), row(), to + y * row());
    if (image.c) std::copy_n(image.c, rows, to + o_.batch * rows);
  }

  void run_step(int64_t n, int64_t s, Image& image, int64_t slot) {
    Map &h = image.h[s % 2], &next = image.h[(s + 1) % 2];
    const int64_t t = o_.time(n, s);
    const bool has_state = s > 0 || o_.h0;
    float* gates = kept_.gates ? kept_.gates + (s * o_.batch + n) * o_.plane() * kSlots * o_.padded_hidden() : nullptr;
    const auto some = [&](int64_t by, int64_t begin, int64_t end) {
      CellStep<Kind>& step = steps_[static_cast<size_t>(by)];
      for (int64_t b = begin; b < end; ++b) {
        step.load(n, t, b, has_state ? &h : nullptr);
        if (!step.run(h, image.c, next, image.c, gates, has_state)) finite_ = false;
        const int64_t first = step.band().first_row();
        for (int64_t y = first; y < first + step.band().rows(); ++y) {
          rows_to_planes(next.pixels(y), o_.padded_hidden(), o_.hidden, o_.width, o_.plane(), y, output(t, n));
        }
      }
    };
    slot >= 0 ? some(slot, 0, grid_.bands) : slots_.share(grid_.bands, some);
  }

  Slots slots_;
  const CellOperands<Kind>& o_;
  CellResults to_;
  CellKept kept_;
  Grid grid_;
  CellBanks<Kind> banks_;
  std::vector<CellStep<Kind>> steps_;
  std::vector<Image> images_;
  std::atomic<bool> finite_{true};
};

}  // namespace mer_fast
