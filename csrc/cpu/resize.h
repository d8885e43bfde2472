// Bilinear resizing with pixel centres aligned, as OpenCV's resize.
#pragma once

#include "simd.h"

namespace mer_fast::MER_ISA {
namespace {

// Where output pixel i falls between two input pixels.
struct Between {
  int64_t low, high;
  float weight;  // of `high`
};

inline Between between(int64_t i, double scale, int64_t size) {
  const double at = (static_cast<double>(i) + 0.5) * scale - 0.5;
  const int64_t low = static_cast<int64_t>(__builtin_floor(at));
  if (low < 0) return {0, 0, 0.0f};
  if (low >= size - 1) return {size - 1, size - 1, 0.0f};
  return {low, low + 1, static_cast<float>(at - static_cast<double>(low))};
}

// The columns of a row, laid out once for all rows. Memory: 2 * width.
class Columns {
 public:
  Columns(int64_t from, int64_t width, double scale, float* memory)
      : width_(width), weight_(memory), low_(reinterpret_cast<int32_t*>(memory + width)) {
    for (int64_t x = 0; x < width; ++x) {
      const Between columns = between(x, scale, from);
      low_[x] = static_cast<int32_t>(columns.low);
      weight_[x] = columns.weight;
    }
  }

  // `row` has one number more than pixels; it is read with weight zero.
  void resize(const float* row, float* out) const {
    for (int64_t x = 0; x < width_; ++x) out[x] = row[low_[x]] + weight_[x] * (row[low_[x] + 1] - row[low_[x]]);
  }

 private:
  int64_t width_;
  float* weight_;
  int32_t* low_;
};

struct Plane {
  const float* data;
  int64_t height, width, stride;
};

// Resizes row after row. Memory is scratch: a row of the source and one number more, and 2 * width.
class Resizer {
 public:
  Resizer(const Plane& source, int64_t width, double scale_y, double scale_x, float factor, float* scratch)
      : source_(source), scale_y_(scale_y), factor_(factor), mixed_(scratch),
        columns_(source.width, width, scale_x, scratch + source.width + 1) {
    mixed_[source.width] = 0.0f;
  }

  // Row y of the result, times the factor.
  void row(int64_t y, float* out) const {
    const Between rows = between(y, scale_y_, source_.height);
    const float *low = source_.data + rows.low * source_.stride, *high = source_.data + rows.high * source_.stride;
    float* const mixed = mixed_;
    for (int64_t x = 0; x < source_.width; ++x) mixed[x] = factor_ * (low[x] + rows.weight * (high[x] - low[x]));
    columns_.resize(mixed, out);
  }

 private:
  Plane source_;
  double scale_y_;
  float factor_;
  float* mixed_;
  Columns columns_;
};

}  // namespace
}  // namespace mer_fast::MER_ISA
