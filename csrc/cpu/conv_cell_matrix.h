// A convolutional cell over time in bfloat16 on matrix units, without what a gradient needs. Convolutions take bfloat16 and sum
// in float; the gates, and the state that a cell carries on (c of an LSTM, h of a GRU), are float.
#pragma once

#include "conv_cell.h"
#include "matrix_kernel.h"

namespace mer_fast {

struct HalfResults {
  void *output, *h, *c;
};

template <typename Kind>
class CellMatrix {
 public:
  CellMatrix(const CellOperands<Kind>& o, const HalfResults& to)
      : o_(o), to_(to), halo_h_(o.weight_hh.size(2) / 2), halo_w_(o.weight_hh.size(3) / 2),
          row_tiles_((o.width + kTilePixels - 1) / kTilePixels),
        columns_(kSlots * o.padded_hidden()), inputs_(deep(o.channels)), states_(deep(o.hidden)) {
    const int64_t bands = o.batch < slots_.count() ? slots_.count() : 1;
    band_rows_ = std::clamp<int64_t>(kNear / (row_tiles_ * kTilePixels * columns_), 1, (o.height + bands - 1) / bands);
  }

  void run() {
    fill_weights();
    const int64_t work = 16 + band_rows_ * row_tiles_ * kTilePixels * columns_ + 2 * o_.width * (o_.padded_hidden() + o_.padded_channels());
    const int64_t maps = (map_elements(inputs_) + 2 * map_elements(states_)) / 2 + 64;
    slots_.reserve(work + 96, maps + o_.plane() * o_.padded_hidden() + 96, o_.batch);
    for (int64_t i = 0; i < slots_.count(); ++i) {
      Arena& arena = slots_.arena(i);
      workers_.push_back({arena.take<float>(band_rows_ * row_tiles_ * kTilePixels * columns_),
                          arena.take<float>(o_.width * std::max(o_.padded_hidden(), o_.padded_channels())),
                          arena.take<float>(o_.width * std::max(o_.padded_hidden(), o_.padded_channels()))});
      if (!slots_.holds(i, o_.batch)) continue;
      images_.push_back({arena.take<uint16_t>(map_elements(inputs_)), {arena.take<uint16_t>(map_elements(states_)),
          arena.take<uint16_t>(map_elements(states_))},
                         arena.take<float>(o_.plane() * o_.padded_hidden())});
      Image& image = images_.back();
      std::fill_n(image.input, map_elements(inputs_), uint16_t{0});
      for (uint16_t* h : image.h) std::fill_n(h, map_elements(states_), uint16_t{0});
    }
    if (o_.batch >= slots_.count()) {
      slots_.share(o_.batch, [&](int64_t slot, int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; ++n) run_image(n, images_[static_cast<size_t>(slot)], slot);
      });
    } else {
      for (int64_t n = 0; n < o_.batch; ++n) run_image(n, images_[0], -1);
    }
  }

 private:
  static constexpr int64_t kNear = 65536;  // sums of a band, which should stay in the second-level cache
  struct Worker {
    float *sums, *row, *planes;
  };
  struct Image {
    uint16_t *input, *h[2];
    float* state;
  };

  static int64_t deep(int64_t channels) { return (channels + kTileDepth - 1) / kTileDepth * kTileDepth; }
  int64_t map_row(int64_t depth) const { return (row_tiles_ * kTilePixels + 2 * halo_w_) * depth; }
  int64_t map_elements(int64_t depth) const { return (o_.height + 2 * halo_h_) * map_row(depth) + kTileDepth; }
  uint16_t* pixels(uint16_t* map, int64_t depth, int64_t h) const { return map + (h + halo_h_) * map_row(depth) + halo_w_ * depth; }
  int64_t hidden() const { return o_.padded_hidden(); }

  // [column tile][input, state][tap][depth tile] of tiles [depth / 2][column][2].
  void fill_weights() {
    const int64_t taps = o_.taps(), depth = inputs_ + states_, tiles = columns_ / kTileColumns;
    shared_arena().reserve<uint16_t>({columns_ * taps * depth + 64});
    weights_ = shared_arena().take<uint16_t>(columns_ * taps * depth);
    inputs_of_.assign(static_cast<size_t>(tiles), 0);
    torch::stable::parallel_for(0, tiles, 1, [&](int64_t begin, int64_t end) {
      std::vector<float> row(static_cast<size_t>(taps * depth * kTileColumns));
      for (int64_t tile = begin; tile < end; ++tile) {
        const int64_t slot = tile * kTileColumns / hidden();
        for (int64_t k = 0; k < 2; ++k) inputs_of_[static_cast<size_t>(tile)] |= static_cast<uint8_t>((gate(slot, k == 0) >= 0) << k);
        float* to = row.data();
        for (const bool input : {true, false}) {
          for (int64_t tap = 0; tap < taps; ++tap) {
            for (int64_t i = 0; i < (input ? inputs_ : states_) * kTileColumns; ++i) {  // depth / 2, column, 2
              const int64_t pair = i / (2 * kTileColumns), column = i / 2 % kTileColumns;
              *to++ = weight(slot, (tile * kTileColumns + column) % hidden(), 2 * pair + i % 2, tap, input);
            }
          }
        }
        MER_FAST_DISPATCH(narrow, Element::bf16, row.data(), weights_ + tile * taps * depth * kTileColumns, taps * depth * kTileColumns);
      }
    });
  }
  static int64_t gate(int64_t slot, bool input) { return input ? Kind::input_gate(slot) : Kind::state_gate(slot); }
  float weight(int64_t slot, int64_t d, int64_t k, int64_t tap, bool input) const {
    const int64_t row = gate(slot, input), channels = input ? o_.channels : o_.hidden;
    if (row < 0 || d >= o_.hidden || k >= channels) return 0;
    return floats(input ? o_.weight_ih : o_.weight_hh)[((row * o_.hidden + d) * channels + k) * o_.taps() + tap];
  }

  // body(rows, worker) for parts of an image: by this slot alone, or (-1) by all of them.
  template <typename Body>
  void each_band(int64_t slot, const Body& body) {
    const int64_t bands = (o_.height + band_rows_ - 1) / band_rows_;
    const auto some = [&](int64_t by, int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) body(b * band_rows_, std::min(o_.height, (b + 1) * band_rows_),
          workers_[static_cast<size_t>(by)]);
    };
    slot >= 0 ? some(slot, 0, bands) : slots_.share(bands, some);
  }

  void run_image(int64_t n, Image& image, int64_t slot) {
    Worker& first = workers_[static_cast<size_t>(std::max<int64_t>(slot, 0))];
    for (int64_t y = 0; y < o_.height; ++y) begin_row(n, y, image, first);
    const int64_t running = o_.length(n), bytes = o_.hidden * o_.plane() * 2;
    for (int64_t s = 0; s < running; ++s) run_step(n, s, image, slot);
    for (int64_t t = running; t < o_.steps; ++t) std::memset(frame(to_.output, t * o_.batch + n), 0, static_cast<size_t>(bytes));
    // The last states: h from its map, where an LSTM's is kept alone.
    for (int64_t y = 0; y < o_.height; ++y) {
      float* carried = image.state + y * o_.width * hidden();
      if (Kind::kStates == 2) write_planes(carried, y, first, frame(to_.c, n));
      if (Kind::kStates == 2) load_pixels(pixels(image.h[running % 2], states_, y), first.row);
      write_planes(Kind::kStates == 2 ? first.row : carried, y, first, frame(to_.h, n));
    }
  }

  uint16_t* frame(void* all, int64_t k) const { return static_cast<uint16_t*>(all) + k * o_.hidden * o_.plane(); }

  // The first states of a row.
  void begin_row(int64_t n, int64_t y, Image& image, Worker& w) const {
    const auto load = [&](const std::optional<Tensor>& state, float* to) {
      if (state) {
        MER_FAST_DISPATCH(pixels_from_planes, {floats(state) + n * o_.hidden * o_.plane() + y * o_.width, to, o_.hidden, o_.width,
            o_.plane(), hidden()});
      } else {
        std::fill_n(to, o_.width * hidden(), 0.0f);
      }
    };
    float* carried = image.state + y * o_.width * hidden();
    load(Kind::kStates == 2 ? o_.c0 : o_.h0, carried);
    if (Kind::kStates == 2) load(o_.h0, w.row);
    store_pixels(Kind::kStates == 2 ? w.row : carried, hidden(), pixels(image.h[0], states_, y), states_);
  }

  // A row of pixels in float to one in bfloat16, and back.
  void store_pixels(const float* row, int64_t step, uint16_t* to, int64_t depth) const {
    if (step == depth) return MER_FAST_DISPATCH(narrow, Element::bf16, row, to, o_.width * step);
    for (int64_t i = 0; i < o_.width; ++i) MER_FAST_DISPATCH(narrow, Element::bf16, row + i * step, to + i * depth, step);
  }
  void load_pixels(const uint16_t* from, float* row) const {
    for (int64_t i = 0; i < o_.width; ++i) MER_FAST_DISPATCH(widen, Element::bf16, from + i * states_, row + i * hidden(), hidden());
  }
  // A row of pixels to planes of bfloat16.
  void write_planes(const float* row, int64_t y, Worker& w, uint16_t* planes) const {
    MER_FAST_DISPATCH(planes_from_pixels, {row, w.planes, o_.hidden, o_.width, o_.width, hidden()});
    for (int64_t c = 0; c < o_.hidden; ++c) {
      MER_FAST_DISPATCH(narrow, Element::bf16, w.planes + c * o_.width, planes + c * o_.plane() + y * o_.width, o_.width);
    }
  }
  void load_input(int64_t n, int64_t t, int64_t y, Image& image, Worker& w) const {
    const uint16_t* planes = static_cast<const uint16_t*>(o_.input.const_data_ptr()) + (t * o_.batch + n) * o_.channels * o_.plane() +
        y * o_.width;
    for (int64_t c = 0; c < o_.channels; ++c) MER_FAST_DISPATCH(widen, Element::bf16, planes + c * o_.plane(), w.planes + c * o_.width,
        o_.width);
    MER_FAST_DISPATCH(pixels_from_planes, {w.planes, w.row, o_.channels, o_.width, o_.width, o_.padded_channels()});
    store_pixels(w.row, o_.padded_channels(), pixels(image.input, inputs_, y), inputs_);
  }

  void run_step(int64_t n, int64_t s, Image& image, int64_t slot) {
    const int64_t t = o_.time(n, s);
    uint16_t *h = image.h[s % 2], *next = image.h[(s + 1) % 2];
    each_band(slot, [&](int64_t begin, int64_t end, Worker& w) {
      for (int64_t y = begin; y < end; ++y) load_input(n, t, y, image, w);
    });
    each_band(slot, [&](int64_t begin, int64_t end, Worker& w) {
      const MatrixRows f{{{image.input + begin * map_row(inputs_), map_row(inputs_), inputs_, inputs_}, {h + begin * map_row(states_),
          map_row(states_), states_, states_}},
                         weights_, o_.weight_hh.size(2), o_.weight_hh.size(3), inputs_of_.data(), columns_ / kTileColumns, end - begin,
                         row_tiles_, w.sums};
      MER_FAST_DISPATCH(matrix_rows, f);
      for (int64_t y = begin; y < end; ++y) {
        float* carried = image.state + y * o_.width * hidden();
        float* h_next = Kind::kStates == 2 ? w.row : carried;
        const CellRows rows{w.sums + (y - begin) * row_tiles_ * kTilePixels * columns_, columns_, hidden(), o_.bias.data(),
                            o_.peephole.empty() ? nullptr : o_.peephole.data(), hidden(), carried, carried, h_next, carried, hidden(),
                            hidden(), hidden(),
                            nullptr, 0, o_.width, hidden()};
        Kind::rows(rows);
        clear_padding(carried, hidden(), o_.width, o_.hidden, hidden());
        clear_padding(h_next, hidden(), o_.width, o_.hidden, hidden());
        store_pixels(h_next, hidden(), pixels(next, states_, y), states_);
        write_planes(h_next, y, w, frame(to_.output, t * o_.batch + n));
      }
    });
  }

  Slots slots_;
  const CellOperands<Kind>& o_;
  HalfResults to_;
  int64_t halo_h_, halo_w_, row_tiles_, columns_, inputs_, states_, band_rows_;
  uint16_t* weights_ = nullptr;
  std::vector<uint8_t> inputs_of_;
  std::vector<Worker> workers_;
  std::vector<Image> images_;
};

}  // namespace mer_fast
