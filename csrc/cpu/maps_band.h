// One thread's work on one band: tiles of the input, their products with a bank of weights, the outputs row by row.
#pragma once

#include "maps.h"

namespace mer_fast {

struct Depths {
  int64_t from, to;  // channels of the input
};

class Band {
 public:
  // depth: channels of all inputs together; widest: columns of the widest block of any bank.
  Band(const Grid& grid, int64_t depth, int64_t widest) : grid_(&grid), depth_(depth), widest_(widest) {}

  int64_t elements() const { return columns_elements() + points_elements() + half_elements() + rows_elements() + 64; }
  void place(Arena& arena) {
    columns_ = arena.take<float>(columns_elements());
    points_ = arena.take<float>(points_elements());
    half_ = arena.take<float>(half_elements());
    rows_ = arena.take<float>(rows_elements());
  }

  void begin(int64_t band) {
    first_ = grid_->first(band);
    tile_rows_ = grid_->first(band + 1) - first_;
    parts_.clear();
  }
  int64_t first_tile_row() const { return first_; }
  int64_t tile_rows() const { return tile_rows_; }
  int64_t first_row() const { return first_ * grid_->filter.tile(); }
  int64_t rows() const { return std::min(grid_->height, (first_ + tile_rows_) * grid_->filter.tile()) - first_row(); }

  // Input channels `at` and on: from the band's first pixel, halo included.
  void take(const float* maps, int64_t row_step, int64_t channels, int64_t at) {
    parts_.push_back({maps, row_step, channels, at});
    if (grid_->filter.m) {
      const MapColumns f{maps, row_step, channels, tile_rows_, grid_->columns(), channels, columns_ + at, columns_point(), depth_};
      MER_FAST_DISPATCH(map_columns, grid_->filter.m, f);
    }
  }

  // The convolution's output in a block of columns, [pixel][width]: sink(first row, rows, values, from a row to the next).
  // depths(column) tells which channels of the input meet a chunk that begins there.
  template <typename Depth, typename Sink>
  void convolve(const Bank& bank, int64_t block, const Depth& depths, const Sink& sink) {
    if (!grid_->filter.m) return by_the_formula(bank, block, depths, sink);
    multiply(bank, block, depths);
    const int64_t width = bank.width(block), step = grid_->filter.m * grid_->tiles_wide * width;
    each_tile_row(width, [&](int64_t h, int64_t rows, TileOutputs f) {
      f.out = rows_, f.row_step = step, f.pixel_step = width;
      MER_FAST_DISPATCH(map_outputs, grid_->filter.m, f);
      sink(h, rows, static_cast<const float*>(rows_), step);
    });
  }

  // The same for Winograd's filters alone, tile row by tile row before its last transform: sink(first row, rows, what is left
  // to do but for where it goes).
  template <typename Depth, typename Sink>
  void convolve_halves(const Bank& bank, int64_t block, const Depth& depths, const Sink& sink) {
    multiply(bank, block, depths);
    each_tile_row(bank.width(block), sink);
  }

 private:
  friend class WeightSums;
  static constexpr int64_t kSide = 6;
  struct Part {
    const float* maps;
    int64_t row_step, channels, at;
  };

  template <typename Depth>
  void multiply(const Bank& bank, int64_t block, const Depth& depths) {
    const int64_t width = bank.width(block), tiles = tile_rows_ * grid_->tiles_wide, side = grid_->filter.m;
    float* products = points_ + kSide * points_step();
    for (int64_t a = 0; a < kSide; ++a) {
      transform(a);
      for (int64_t column = 0; column < width; column += bank.chunk()) {
        const int64_t wide = bank.chunk_width(block, column);
        const Depths depth = depths(bank.first(block) + column);
        const MapProducts f{points_ + depth.from, points_step(), depth_, 1,
                            bank.weights(block, column) + a * kSide * bank.point_step(block) + depth.from * wide,
                            bank.point_step(block), wide, products, products_step(), wide, kSide, tiles, depth.to - depth.from, wide,
                            false};
        MER_FAST_DISPATCH(map_products, f);
        const HalfOutputs back{products, products_step(), wide, tiles, wide, half_ + a * half_point() + column, side * width, width};
        MER_FAST_DISPATCH(map_half_outputs, grid_->filter.m, back);
      }
    }
  }

  template <typename Sink>
  void each_tile_row(int64_t width, const Sink& sink) {
    const int64_t side = grid_->filter.m;
    for (int64_t r = 0; r < tile_rows_; ++r) {
      const int64_t h = (first_ + r) * side;
      sink(h, std::min(side, grid_->height - h),
           TileOutputs{half_ + r * side * grid_->tiles_wide * width, half_point(), side * width, width, grid_->tiles_wide, width,
               nullptr, 0, 0});
    }
  }

  // Point row a of all tiles and channels.
  void transform(int64_t a) {
    const MapRows f{columns_ + a * columns_point(), depth_, tile_rows_, grid_->columns(), grid_->tiles_wide, depth_, points_,
        points_step(), depth_};
    MER_FAST_DISPATCH(map_rows, grid_->filter.m, f);
  }

  template <typename Depth, typename Sink>
  void by_the_formula(const Bank& bank, int64_t block, const Depth& depths, const Sink& sink) {
    const int64_t width = bank.width(block), taps = grid_->filter.taps();
    for (int64_t column = 0; column < width; column += bank.chunk()) {
      const int64_t wide = bank.chunk_width(block, column);
      const Depths depth = depths(bank.first(block) + column);
      bool add = false;
      for (const Part& part : parts_) {
        const int64_t from = std::max(part.at, depth.from), to = std::min(part.at + part.channels, depth.to);
        if (from >= to) continue;
        for (int64_t i = 0; i < taps * tile_rows_; ++i) {
          const int64_t tap = i / tile_rows_, h = i % tile_rows_;
          const MapProducts f{part.maps + (h + tap / grid_->filter.width) * part.row_step + tap % grid_->filter.width * part.channels +
              from - part.at,
                              0, part.channels, 1, bank.weights(block, column) + tap * bank.point_step(block) + from * wide, 0, wide,
                              rows_ + h * grid_->width * width + column, 0, width, 1, grid_->width, to - from, wide, add || tap};
          MER_FAST_DISPATCH(map_products, f);
        }
        add = true;
      }
      for (int64_t i = 0; i < (add ? 0 : tile_rows_ * grid_->width); ++i) std::fill_n(rows_ + i * width + column, wide, 0.0f);
    }
    sink(first_, tile_rows_, static_cast<const float*>(rows_), grid_->width * width);
  }

  // Planes of points must not lie a multiple of a cache way apart.
  int64_t columns_point() const { return grid_->band_rows * grid_->columns() * depth_ + kPad; }
  int64_t points_step() const { return grid_->tiles() * depth_ + kPad; }
  int64_t products_step() const { return grid_->tiles() * kChunk + kPad; }
  int64_t half_point() const { return grid_->tiles() * grid_->filter.m * widest_ + kPad; }
  int64_t columns_elements() const { return grid_->filter.m ? kSide * columns_point() : 0; }
  int64_t points_elements() const { return grid_->filter.m ? kSide * (points_step() + products_step()) : 0; }
  int64_t half_elements() const { return grid_->filter.m ? kSide * half_point() : 0; }
  int64_t rows_elements() const {
    return (grid_->filter.m ? grid_->filter.m * grid_->filter.m * grid_->tiles_wide : grid_->tiles()) * widest_;
  }

  const Grid* grid_;
  int64_t depth_, widest_;
  float *columns_ = nullptr, *points_ = nullptr, *half_ = nullptr, *rows_ = nullptr;
  int64_t first_ = 0, tile_rows_ = 0;
  std::vector<Part> parts_;
};

// The gradient of a bank's weights, summed by one slot: [point][depth][column].
class WeightSums {
 public:
  WeightSums(const Grid& grid, int64_t depth, int64_t columns) : grid_(&grid), depth_(depth), columns_(columns) {}

  int64_t elements() const { return sums_elements() + half_elements() + points_elements() + 48; }
  void place(Arena& arena) {
    sums_ = arena.take<float>(sums_elements());
    half_ = arena.take<float>(half_elements());
    points_ = arena.take<float>(points_elements());
  }
  void clear() { std::fill_n(sums_, sums_elements(), 0.0f); }

  // Adds the products of a band's input with the gradient of its output, which begins at its first pixel (no halo).
  // columns(first channel of an input part) tells which columns of the gradient a part meets.
  template <typename Columns>
  void add(Band& band, const float* maps, int64_t row_step, const Columns& columns) {
    if (!grid_->filter.m) return by_the_formula(band, maps, row_step, columns);
    const int64_t m = grid_->filter.m, across = m * grid_->tiles_wide, tiles = band.tile_rows_ * grid_->tiles_wide;
    const MapColumns f{maps, row_step, columns_, band.tile_rows_, across, columns_, half_, half_point(), columns_};
    MER_FAST_DISPATCH(map_gradient_columns, grid_->filter.m, f);
    for (int64_t a = 0; a < kSide; ++a) {
      band.transform(a);
      const MapRows rows{half_ + a * half_point(), columns_, band.tile_rows_, across, grid_->tiles_wide, columns_, points_,
          points_step(), columns_};
      MER_FAST_DISPATCH(map_gradient_rows, grid_->filter.m, rows);
      for (const Band::Part& part : band.parts_) {
        const Depths met = columns(part.at);
        const MapProducts products{band.points_ + part.at, band.points_step(), 1, band.depth_, points_ + met.from, points_step(), columns_,
                                   sums_ + (a * kSide * depth_ + part.at) * columns_ + met.from, depth_ * columns_, columns_, kSide,
                                   part.channels, tiles, met.to - met.from, true};
        MER_FAST_DISPATCH(map_products, products);
      }
    }
  }

  void add(const WeightSums& other) {
    for (int64_t i = 0; i < sums_elements(); ++i) sums_[i] += other.sums_[i];
  }

  // kernel(k, column): where the gradient of those taps is added to, or null.
  template <typename Kernel>
  void finish(const Kernel& kernel) const {
    const int64_t taps = grid_->filter.taps(), count = columns_;
    torch::stable::parallel_for(0, depth_, 8, [&](int64_t begin, int64_t end) {
      std::vector<float> turned(static_cast<size_t>(taps * count));
      for (int64_t k = begin; k < end; ++k) {
        const float* row = sums_ + k * columns_;
        if (grid_->filter.m) {
          MER_FAST_DISPATCH(map_weight_gradient, grid_->filter.m, row, depth_ * columns_, turned.data(), count, count);
        } else {
          for (int64_t t = 0; t < taps; ++t) std::copy_n(row + t * depth_ * columns_, count, turned.data() + t * count);
        }
        for (int64_t n = 0; n < count; ++n) {
          float* to = kernel(k, n);
          for (int64_t t = 0; to && t < taps; ++t) to[t] += turned[static_cast<size_t>(t * count + n)];
        }
      }
    });
  }

 private:
  static constexpr int64_t kSide = 6;

  template <typename Columns>
  void by_the_formula(Band& band, const float* maps, int64_t row_step, const Columns& columns) {
    for (const Band::Part& part : band.parts_) {
      const Depths met = columns(part.at);
      for (int64_t i = 0; i < grid_->filter.taps() * band.tile_rows_; ++i) {
        const int64_t tap = i / band.tile_rows_, h = i % band.tile_rows_;
        const MapProducts f{part.maps + (h + tap / grid_->filter.width) * part.row_step + tap % grid_->filter.width * part.channels,
                            0, 1, part.channels, maps + h * row_step + met.from, 0, columns_,
                            sums_ + (tap * depth_ + part.at) * columns_ + met.from, 0, columns_, 1, part.channels, grid_->width,
                            met.to - met.from, true};
        MER_FAST_DISPATCH(map_products, f);
      }
    }
  }

  int64_t half_point() const { return grid_->tiles() * grid_->filter.m * columns_ + kPad; }
  int64_t points_step() const { return grid_->tiles() * columns_ + kPad; }
  int64_t sums_elements() const { return grid_->filter.points() * depth_ * columns_; }
  int64_t half_elements() const { return grid_->filter.m ? kSide * half_point() : 0; }
  int64_t points_elements() const { return grid_->filter.m ? kSide * points_step() : 0; }

  const Grid* grid_;
  int64_t depth_, columns_;
  float *sums_ = nullptr, *half_ = nullptr, *points_ = nullptr;
};

}  // namespace mer_fast
