// 2-D convolutions of maps of float that keep height and width, cut into bands of rows which threads take: as Winograd
// convolutions for kernels of 3x3 and 5x5, by the formula for others. See maps_kernel.h for the layout of maps.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "arena.h"
#include "maps_kernel.h"

namespace mer_fast {

constexpr int64_t kChunk = 2 * kPad;     // columns of a product at a time, at most
constexpr int64_t kWidestBlock = 256;  // columns for which a thread holds a band's outputs

// Zeros into the channels from `used` to `width` of some pixels. By the formula what is not finite leaves NaN there, which
// would reach every channel of the next step.
inline void clear_padding(float* pixels, int64_t step, int64_t count, int64_t used, int64_t width) {
  for (int64_t i = 0; used < width && i < count; ++i) std::fill_n(pixels + i * step + std::max<int64_t>(used, 0),
      width - std::max<int64_t>(used, 0), 0.0f);
}

struct Filter {
  int64_t height, width;
  int m;  // outputs a side of a Winograd tile; 0: by the formula

  int64_t taps() const { return height * width; }
  int64_t points() const { return m ? 36 : taps(); }
  int64_t tile() const { return m ? m : 1; }
};

inline Filter filter_of(int64_t height, int64_t width, bool exact) {
  const bool square = height == width && !exact;
  return {height, width, square && height == 3 ? 4 : square && height == 5 ? 2 : 0};
}

// How an image is cut: rows of tiles (of one pixel by the formula), some of them a band.
struct Grid {
  Filter filter;
  int64_t height, width, tiles_high, tiles_wide, bands, band_rows;  // band_rows: the most tiles high a band is

  // `depth`: channels of the input; `columns`: of the output. What a band holds of one row of points should stay near the
  // first-level cache, but be as much as the weights of a point, which pass by once a band.
  Grid(const Filter& f, int64_t h, int64_t w, int64_t depth, int64_t columns, int64_t least_bands = 1)
      : filter(f), height(h), width(w), tiles_high((h + f.tile() - 1) / f.tile()), tiles_wide((w + f.tile() - 1) / f.tile()) {
    constexpr int64_t kNear = 1024, kFormula = 65536;  // elements
    const int64_t tiles = f.m ? std::max(kNear, depth * columns * 2 / 5) / depth : kFormula / (depth + columns);
    const int64_t rows = std::clamp<int64_t>(tiles / tiles_wide, 1, tiles_high);
    bands = std::max((tiles_high + rows - 1) / rows, std::min(least_bands, tiles_high));
    band_rows = (tiles_high + bands - 1) / bands;
  }
  int64_t first(int64_t band) const { return tiles_high * band / bands; }
  int64_t halo_h() const { return filter.height / 2; }
  int64_t halo_w() const { return filter.width / 2; }
  int64_t columns() const { return tiles_wide * filter.tile() + 2 * halo_w(); }  // of a map with its border
  int64_t map_elements(int64_t channels) const { return (tiles_high * filter.tile() + 2 * halo_h()) * columns() * channels; }
  int64_t strip_elements(int64_t channels) const { return (band_rows * filter.tile() + 2 * halo_h()) * columns() * channels; }
  int64_t tiles() const { return band_rows * tiles_wide; }
};

// A whole image with a border of zeros as wide as the filter, up to the end of the last tile.
class Map {
 public:
  Map() = default;
  Map(float* memory, const Grid& grid, int64_t channels) : memory_(memory), grid_(&grid), channels_(channels) {}

  // Makes the border zero, and what lies past the image to the end of the last tile.
  void clear_border() {
    const int64_t rows = grid_->map_elements(channels_) / row_step(), left = grid_->halo_w() * channels_;
    const int64_t inside = grid_->width * channels_;
    for (int64_t r = 0; r < rows; ++r) {
      float* row = memory_ + r * row_step();
      if (r < grid_->halo_h() || r >= grid_->halo_h() + grid_->height) {
        std::fill_n(row, row_step(), 0.0f);
      } else {
        std::fill_n(row, left, 0.0f);
        std::fill_n(row + left + inside, row_step() - left - inside, 0.0f);
      }
    }
  }
  int64_t row_step() const { return grid_->columns() * channels_; }
  float* pixels(int64_t h) const { return memory_ + (h + grid_->halo_h()) * row_step() + grid_->halo_w() * channels_; }
  const float* band(int64_t first) const { return memory_ + first * grid_->filter.tile() * row_step(); }

 private:
  float* memory_ = nullptr;
  const Grid* grid_ = nullptr;
  int64_t channels_ = 0;
};

// The weights of a convolution, transformed: for each block of columns (outputs) [point][chunk][depth][column]. A chunk's rows
// lie end to end, so that those of all depths stay in the first-level cache.
class Bank {
 public:
  Bank() = default;
  Bank(const Filter& filter, int64_t depth, int64_t columns, int64_t block, int64_t chunk)
      : filter_(filter), depth_(depth), columns_(columns), block_(block), chunk_(chunk) {}

  int64_t elements() const { return filter_.points() * depth_ * columns_ + kPad; }
  void place(Arena& arena) { memory_ = arena.take<float>(elements()); }
  int64_t depth() const { return depth_; }
  int64_t columns() const { return columns_; }
  int64_t blocks() const { return (columns_ + block_ - 1) / block_; }
  int64_t first(int64_t block) const { return block * block_; }
  int64_t width(int64_t block) const { return std::min(block_, columns_ - first(block)); }
  int64_t widest() const { return std::min(block_, columns_); }
  int64_t point_step(int64_t block) const { return depth_ * width(block); }
  int64_t chunk() const { return chunk_; }
  int64_t chunk_width(int64_t block, int64_t column) const { return std::min(chunk_, width(block) - column); }
  // Of the first point, where a chunk begins.
  const float* weights(int64_t block, int64_t column) const { return memory_ + filter_.points() * depth_ * first(block) + depth_ * column; }

  // kernel(k, column): where the taps of depth k and a column stand, or null for zeros; `flipped` turns them around.
  template <typename Kernel>
  void fill(const Kernel& kernel, bool flipped) {
    constexpr int64_t kRows = 16;
    const int64_t pieces = (depth_ + kRows - 1) / kRows, taps = filter_.taps();
    torch::stable::parallel_for(0, blocks() * pieces, 1, [&](int64_t begin, int64_t end) {
      std::vector<float> turned(static_cast<size_t>(taps * kRows * chunk_));
      for (int64_t i = begin; i < end; ++i) {
        const int64_t block = i / pieces, row = i % pieces * kRows, rows = std::min(kRows, depth_ - row);
        for (int64_t column = 0; column < width(block); column += chunk_) {
          const int64_t wide = chunk_width(block, column), count = rows * wide;
          for (int64_t k = 0; k < rows; ++k) {
            for (int64_t n = 0; n < wide; ++n) {
              const float* from = kernel(row + k, first(block) + column + n);
              float* to = turned.data() + k * wide + n;
              if (taps == 9) {
                spread<9>(from, flipped, to, count);
              } else {
                spread(from, flipped, taps, to, count);
              }
            }
          }
          float* out = memory_ + filter_.points() * depth_ * first(block) + depth_ * column + row * wide;
          if (filter_.m) {
            MER_FAST_DISPATCH(map_weights, filter_.m, turned.data(), count, out, point_step(block), count);
          } else {
            for (int64_t t = 0; t < taps; ++t) std::copy_n(turned.data() + t * count, count, out + t * point_step(block));
          }
        }
      }
    });
  }

 private:
  // A kernel's taps, `step` apart.
  static void spread(const float* from, bool flipped, int64_t taps, float* to, int64_t step) {
    for (int64_t t = 0; t < taps; ++t) to[t * step] = from ? from[flipped ? taps - 1 - t : t] : 0;
  }
  template <int kTaps>
  static void spread(const float* from, bool flipped, float* to, int64_t step) {
    float taps[kTaps] = {};
    if (from) std::memcpy(taps, from, sizeof taps);
    if (flipped) std::reverse(taps, taps + kTaps);
    for (int t = 0; t < kTaps; ++t) to[t * step] = taps[t];
  }

  Filter filter_{};
  int64_t depth_ = 0, columns_ = 0, block_ = 1, chunk_ = 1;
  float* memory_ = nullptr;
};

// The threads' shares: slot s of a parallel loop works alone with what is its own.
class Slots {
 public:
  Slots() : count_(static_cast<int64_t>(torch::stable::get_num_threads())), arenas_(&kept()) {
    if (arenas_->size() < static_cast<size_t>(count_)) arenas_->resize(static_cast<size_t>(count_));
  }
  ~Slots() {
    for (Arena& arena : *arenas_) arena.trim();
  }
  Slots(const Slots&) = delete;
  Slots& operator=(const Slots&) = delete;
  int64_t count() const { return count_; }

  // run(slot, first, last) on parts of [0, items), at once.
  template <typename Run>
  void share(int64_t items, const Run& run) const {
    const int64_t parts = std::min(items, count_);
    torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t s = begin; s < end; ++s) run(s, items * s / parts, items * (s + 1) / parts);
    });
  }

  // Memory of a slot, kept by the thread that made it from call to call.
  Arena& arena(int64_t slot) const { return (*arenas_)[static_cast<size_t>(slot)]; }
  void reserve(int64_t elements) const {
    for (int64_t s = 0; s < count_; ++s) arena(s).reserve<float>({elements});
  }
  // And room for an image, in each slot that works on images of its own: all of them, or, where images are fewer, the first.
  bool holds(int64_t slot, int64_t images) const { return slot == 0 || images >= count_; }
  void reserve(int64_t elements, int64_t image, int64_t images) const {
    for (int64_t s = 0; s < count_; ++s) arena(s).reserve<float>({elements + (holds(s, images) ? image : 0)});
  }

 private:
  static std::vector<Arena>& kept() {
    thread_local std::vector<Arena> arenas;
    return arenas;
  }
  int64_t count_;
  std::vector<Arena>* arenas_;
};

}  // namespace mer_fast
