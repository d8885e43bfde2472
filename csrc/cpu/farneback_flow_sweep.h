// One iteration over a band of rows in one pass: matrices, their sums over the window, and the new flow.
//
// The vertical sums of a box need three additions a row whatever its side, and no subtraction that would leave the rounding
// of a strong texture behind: rows are grouped in blocks as tall as the window, and a window is the tail of one block and the
// head of the next. The blocks are those of the image, whatever the band, so that bands give the same bits.
#pragma once

#include "farneback_flow_window.h"

namespace mer_fast::MER_ISA {
namespace {

template <int64_t Value>
struct Constant {
  static constexpr int64_t value = Value;
};

class Sweep {
 public:
  Sweep(const Fields& fields, const FarnebackLevel& level, const FarnebackWindow& window, Scratch scratch)
      : fields_(fields), level_(level), window_(window), line_(fields.line()), side_(2 * window.radius + 1),
        block_(scratch.take(side_ * line_)), head_(scratch.take(line_)), zeros_(scratch.take(line_)),
        border_weight_(scratch.take(level_.pitch)), side_weight_(scratch.take(level_.pitch)) {
    const int64_t stride = farneback_bordered(level_.width, window.radius);
    for (FiveRows& sums : sums_) sums = {scratch.take(kChannels * stride) + farneback_pitch(window.radius), stride};
    partial_ = {scratch.take(kChannels * stride), stride};
    clear(zeros_);
    border_row(level_, level_.height / 2, side_weight_);
  }

  // The new flow of these rows. Rows of matrices begin a radius before them and end a radius behind. A row is cut and solved
  // after the matrices of the next one, when what was stored for it has left the processor's store buffer.
  void run(Rows rows, const Flow& out) {
    if (rows.begin == rows.end) return;
    const int64_t radius = window_.radius, begin = rows.begin - radius;
    int64_t first = rows.begin % side_;  // place of the first row in its block
    clear(head_);
    for (int64_t y = begin, place = first; y < rows.end + radius; ++y) {
      const bool full = y >= rows.begin + radius;  // the window around row y - radius is complete
      if (window_.weight) {
        weighted_row(y, place, y > begin, full);
      } else {
        box_row(y, place, y > begin, full);
      }
      if (y > rows.begin + radius) solve_row(out, y - radius - 1);
      if (full) cut_row();
      if (++place == side_) {
        if (!window_.weight) close_block(first);
        place = first = 0;
      }
    }
    solve_row(out, rows.end - 1);
  }

 private:
  void clear(float* line) const { std::memset(line, 0, static_cast<size_t>(line_) * sizeof(float)); }
  float* row(int64_t place) const { return block_ + place * line_; }

  // Row y of the matrices, vector by vector, to put(channel, x, value). Beyond the image the row at its edge repeats.
  template <typename Put>
  void matrix_row(int64_t y, const float* before, const Put& put) {
    const int64_t inside = clamp_row(y, level_.height), pitch = level_.pitch;
    if (before && inside == clamp_row(y - 1, level_.height)) {
      for (int c = 0; c < kChannels; ++c) {
        for (int64_t x = 0; x < pitch; x += kLanes) put(c, x, load(before + c * pitch + x));
      }
      return;
    }
    const bool border = border_row(level_, inside, border_weight_);
    const float* const weight = border ? border_weight_ : side_weight_;
    const Fields fields = fields_;  // of its own: what is stored does not touch it
    const int64_t weighted_from = level_.width - kBorder - kLanes;
    for (int64_t x = 0; x < pitch; x += kLanes) {
      const bool weighted = border || x < kBorder || x > weighted_from;
      const Five m = matrices(fields, x, inside, weighted ? weight : nullptr);
      for (int c = 0; c < kChannels; ++c) put(c, x, m.at[c]);
    }
  }

  // Row y into its block, added to the block's head; the window's sums are that and the tail of the block before.
  void box_row(int64_t y, int64_t place, bool has_before, bool full) {
    const float* const before = has_before ? row(place ? place - 1 : side_ - 1) : nullptr;
    const float* const tail = full && place + 1 < side_ ? row(place + 1) : zeros_;
    matrix_row(y, before, [pitch = level_.pitch, here = row(place), head = head_, tail, sums = sums_[turn_]](int c, int64_t x, Vec value) {
      const int64_t at = c * pitch + x;
      const Vec sum = load(head + at) + value;
      store(here + at, value);
      store(head + at, sum);
      store(sums(c) + x, load(tail + at) + sum);
    });
  }

  // Turns the rows of a block, from `first` on, into the sums of each and all behind it.
  void close_block(int64_t first) {
    for (int64_t place = side_ - 2; place >= (first > 1 ? first : 1); --place) {
      float *here = row(place), *behind = here + line_;
      for (int64_t i = 0; i < line_; i += kLanes) store(here + i, load(here + i) + load(behind + i));
    }
    clear(head_);
  }

  // Row y into its place, and the weighted sums of all rows in their places around the middle one.
  void weighted_row(int64_t y, int64_t place, bool has_before, bool full) {
    const float* const before = has_before ? row(place ? place - 1 : side_ - 1) : nullptr;
    matrix_row(y, before, [pitch = level_.pitch, here = row(place)](int c, int64_t x, Vec value) { store(here + c * pitch + x, value); });
    if (!full) return;
    const int64_t radius = window_.radius;
    for (int c = 0; c < kChannels; ++c) {
      float* const out = sums_[turn_](c);
      for (int64_t k = 0; k <= radius; ++k) {
        const float* above = row((place + 2 * side_ - radius - k) % side_) + c * level_.pitch;
        const float* below = row((place + side_ - radius + k) % side_) + c * level_.pitch;
        const float weight = window_.weight[k];
        for (int64_t x = 0; x < level_.pitch; x += kLanes) {
          if (k == 0) {
            store(out + x, weight * load(above + x));
          } else {
            store(out + x, load(out + x) + weight * (load(above + x) + load(below + x)));
          }
        }
      }
    }
  }

  // Calls work with the side of a usual box as a constant, else with 0.
  template <typename Work>
  void with_side(const Work& work) const {
    if (side_ == 15) return work(Constant<15>{});
    if (side_ == 13) return work(Constant<13>{});
    work(Constant<0>{});
  }

  // The sums just made get their borders, and are cut into pieces; the next row's go elsewhere.
  void cut_row() {
    const FiveRows& sums = sums_[turn_];
    for (int c = 0; c < kChannels; ++c) replicate_border(sums(c), level_.width, window_.radius);
    if (!window_.weight) with_side([&](auto side) { cut_box<side.value>(sums, partial_, level_, window_); });
    turn_ ^= 1;
  }

  void solve_row(const Flow& out, int64_t y) const {
    float *u = out.u + y * level_.pitch, *v = out.v + y * level_.pitch;
    const FiveRows& sums = sums_[turn_ ^ 1];
    if (window_.weight) {
      solve_weighted(sums, level_, window_, u, v);
    } else {
      with_side([&](auto side) { solve_box<side.value>(sums, partial_, level_, window_, u, v); });
    }
    for (int64_t x = level_.width; x < level_.pitch; ++x) {  // places of these lanes stay near the others'
      u[x] = u[level_.width - 1];
      v[x] = v[level_.width - 1];
    }
  }

  const Fields& fields_;
  const FarnebackLevel& level_;
  const FarnebackWindow& window_;
  int64_t line_, side_;
  float *block_, *head_, *zeros_, *border_weight_, *side_weight_;
  int turn_ = 0;
  FiveRows sums_[2]{}, partial_{};  // sums over the columns of a window, with borders, and pieces of rows of them
};

}  // namespace
}  // namespace mer_fast::MER_ISA
