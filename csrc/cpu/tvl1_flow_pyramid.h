// The image pyramid and the way of the flow from level to level: bilinear, pixel centres aligned, as OpenCV's resize.
#pragma once

#include "simd.h"
#include "tvl1_flow_kernel.h"

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

struct Plane {
  const float* data;
  int64_t height, width;
};

// Resizes row after row. The columns are laid out once; memory is scratch of two rows of each width.
class Resizer {
 public:
  Resizer(const Plane& source, int64_t width, double scale_y, double scale_x, float factor, float* scratch)
      : source_(source), width_(width), scale_y_(scale_y), factor_(factor), mixed_(scratch), weight_(scratch + source.width + 1),
        low_(reinterpret_cast<int32_t*>(weight_ + width)) {
    for (int64_t x = 0; x < width; ++x) {
      const Between columns = between(x, scale_x, source.width);
      low_[x] = static_cast<int32_t>(columns.low);
      weight_[x] = columns.weight;
    }
    mixed_[source.width] = 0.0f;  // read with weight zero behind the last column
  }

  // Row y of the result, times the factor.
  void row(int64_t y, float* out) const {
    const Between rows = between(y, scale_y_, source_.height);
    const float *low = source_.data + rows.low * source_.width, *high = source_.data + rows.high * source_.width;
    float* const mixed = mixed_;
    for (int64_t x = 0; x < source_.width; ++x) mixed[x] = factor_ * (low[x] + rows.weight * (high[x] - low[x]));
    for (int64_t x = 0; x < width_; ++x) out[x] = mixed[low_[x]] + weight_[x] * (mixed[low_[x] + 1] - mixed[low_[x]]);
  }

 private:
  Plane source_;
  int64_t width_;
  double scale_y_;
  float factor_;
  float *mixed_, *weight_;
  int32_t* low_;
};

inline void load_frame(const Tvl1Frame& frame, int64_t count, float* image) {
  if (frame.bytes) {
    const uint8_t* bytes = static_cast<const uint8_t*>(frame.data);
    for (int64_t i = 0; i < count; ++i) image[i] = bytes[i];
  } else {
    const float* values = static_cast<const float*>(frame.data);
    for (int64_t i = 0; i < count; ++i) image[i] = 255.0f * values[i];
  }
}

// OpenCV steps by exactly 1 / scale_step on the way down, by the ratio of the sizes on the way up.
inline void shrink(const Tvl1Level& from, const Tvl1Level& to, float* Tvl1Level::*plane, double step, float factor, float* scratch) {
  const Resizer resizer({from.*plane, from.height, from.width}, to.width, 1.0 / step, 1.0 / step, factor, scratch);
  for (int64_t y = 0; y < to.height; ++y) resizer.row(y, to.*plane + y * to.width);
}

}  // namespace
}  // namespace mer_fast::MER_ISA
