// The images of a level: the full-size frame, blurred against aliasing and sampled; and the flow that a level starts from.
#pragma once

#include "farneback_flow_rows.h"
#include "resize.h"

namespace mer_fast::MER_ISA {
namespace {

inline void load_frame(const FarnebackFrame& frame, int64_t begin, int64_t end, float* image) {
  if (frame.bytes) {
    const uint8_t* bytes = static_cast<const uint8_t*>(frame.data);
    for (int64_t i = begin; i < end; ++i) image[i] = bytes[i];
  } else {
    const float* values = static_cast<const float*>(frame.data);
    for (int64_t i = begin; i < end; ++i) image[i] = 255.0f * values[i];
  }
}

// out[x] = sum over taps of weight[j] * row[j][x], for whole vectors that hold `width` pixels.
inline void mix_rows(const float* const* row, const float* weight, int64_t taps, int64_t width, float* out) {
  for (int64_t x = 0; x < width; x += kLanes) {
    Vec sum = weight[0] * load(row[0] + x);
    for (int64_t j = 1; j < taps; ++j) sum += weight[j] * load(row[j] + x);
    store(out + x, sum);
  }
}

// Blurs a full-size frame and samples it for the rows of a level. Blurring down the columns and sampling between two rows
// are one filter, run only where the level has a row.
class Smoother {
 public:
  Smoother(const FarnebackLevel& full, const FarnebackLevel& level, Scratch scratch)
      : full_(full), level_(level), taps_(2 * level.blur_radius + 1),
        tall_(take_bordered(scratch, full.width, level.blur_radius + 1)), wide_(scratch.take(full.width + kLanes + 1)),
        weight_(scratch.take(taps_ + 1)), row_(scratch.take_rows(taps_ + 1)),
        columns_(full.width, level.width, scale(full.width, level.width), scratch.take(2 * level.width)) {}

  void row(const float* frame, int64_t y, float* out) const {
    blur_down(frame, between(y, scale(full_.height, level_.height), full_.height));
    const int64_t radius = level_.blur_radius, width = full_.width;
    for (int64_t x = 1; x <= radius; ++x) {
      tall_[-x] = tall_[reflect(-x, width)];
      tall_[width - 1 + x] = tall_[reflect(width - 1 + x, width)];
    }
    const bool whole = level_.width == width;
    float* const blurred = whole ? out : wide_;
    for (int64_t x = 0; x < width; x += kLanes) {
      Vec sum = level_.blur[0] * load(tall_ + x - radius);
      for (int64_t j = 1; j < taps_; ++j) sum += level_.blur[j] * load(tall_ + x - radius + j);
      store(blurred + x, sum);
    }
    if (whole) return;
    wide_[width] = 0.0f;
    columns_.resize(wide_, out);
  }

 private:
  static double scale(int64_t from, int64_t to) { return static_cast<double>(from) / static_cast<double>(to); }

  void blur_down(const float* frame, const Between& rows) const {
    const int64_t count = rows.weight > 0.0f ? taps_ + 1 : taps_;
    for (int64_t j = 0; j < count; ++j) {
      weight_[j] = j < taps_ ? (1.0f - rows.weight) * level_.blur[j] : 0.0f;
      if (j > 0 && count > taps_) weight_[j] += rows.weight * level_.blur[j - 1];
      row_[j] = frame + reflect(rows.low - level_.blur_radius + j, full_.height) * full_.width;
    }
    mix_rows(row_, weight_, count, full_.width, tall_);
  }

  const FarnebackLevel &full_, &level_;
  int64_t taps_;
  float *tall_, *wide_, *weight_;
  const float** row_;
  Columns columns_;
};

// The part of input pixel i that output pixel [from, to) covers.
inline double overlap(double from, double to, int64_t i) {
  const double low = from > static_cast<double>(i) ? from : static_cast<double>(i);
  const double high = to < static_cast<double>(i + 1) ? to : static_cast<double>(i + 1);
  return high > low ? high - low : 0.0;
}

// Row y of a plane (H, W) averaged over the area of each pixel of a level, times `factor`. Scratch holds a row.
inline void area_row(const float* plane, const FarnebackLevel& full, const FarnebackLevel& level, int64_t y, float factor, float* row, float* out) {
  const double tall = static_cast<double>(full.height) / static_cast<double>(level.height);
  const double wide = static_cast<double>(full.width) / static_cast<double>(level.width);
  const double top = static_cast<double>(y) * tall;
  for (int64_t x = 0; x < full.width; ++x) row[x] = 0.0f;
  for (int64_t i = static_cast<int64_t>(top); i < full.height && static_cast<double>(i) < top + tall; ++i) {
    const float share = static_cast<float>(overlap(top, top + tall, i) / tall);
    for (int64_t x = 0; x < full.width; ++x) row[x] += share * plane[i * full.width + x];
  }
  for (int64_t x = 0; x < level.width; ++x) {
    const double left = static_cast<double>(x) * wide;
    float sum = 0.0f;
    for (int64_t i = static_cast<int64_t>(left); i < full.width && static_cast<double>(i) < left + wide; ++i) {
      sum += static_cast<float>(overlap(left, left + wide, i) / wide) * row[i];
    }
    out[x] = factor * sum;
  }
}

}  // namespace
}  // namespace mer_fast::MER_ISA
