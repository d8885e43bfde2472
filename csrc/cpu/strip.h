// The input of a band that is made for it, or turned from planes, rather than read from a map.
#pragma once

#include "maps_band.h"

namespace mer_fast {

// The bands of one image of maps, filled row by row: row(h, pixels) for the rows of the image, zeros around them.
class Strip {
 public:
  Strip(const Grid& grid, int64_t channels) : grid_(&grid), channels_(channels) {}
  int64_t elements() const { return grid_->strip_elements(channels_); }
  void place(Arena& arena) { memory_ = arena.take<float>(elements()); }
  int64_t row_step() const { return grid_->columns() * channels_; }
  const float* data() const { return memory_; }
  const float* inside() const { return memory_ + grid_->halo_h() * row_step() + grid_->halo_w() * channels_; }
  float* pixels(const Band& band, int64_t h) const {
    return memory_ + (h - band.first_row() + grid_->halo_h()) * row_step() + grid_->halo_w() * channels_;
  }

  template <typename Row>
  void fill(const Band& band, const Row& row) const {
    const int64_t before = grid_->halo_w() * channels_, inside = grid_->width * channels_;
    const int64_t first = band.first_row() - grid_->halo_h(), rows = band.tile_rows() * grid_->filter.tile() + 2 * grid_->halo_h();
    for (int64_t r = 0; r < rows; ++r) {
      float* out = memory_ + r * row_step();
      if (first + r < 0 || first + r >= grid_->height) {
        std::fill_n(out, row_step(), 0.0f);
        continue;
      }
      std::fill_n(out, before, 0.0f);
      row(first + r, out + before);
      std::fill_n(out + before + inside, row_step() - before - inside, 0.0f);
    }
  }

 private:
  const Grid* grid_;
  int64_t channels_;
  float* memory_ = nullptr;
};

}  // namespace mer_fast
