// The image pyramid of TV-L1.
#pragma once

#include "resize.h"
#include "tvl1_flow_kernel.h"

namespace mer_fast::MER_ISA {
namespace {

inline void load_frame(const Tvl1Frame& frame, int64_t count, float* image) {
  if (frame.bytes) {
    const uint8_t* bytes = static_cast<const uint8_t*>(frame.data);
    for (int64_t i = 0; i < count; ++i) image[i] = bytes[i];
  } else {
    const float* values = static_cast<const float*>(frame.data);
    for (int64_t i = 0; i < count; ++i) image[i] = 255.0f * values[i];
  }
}

// OpenCV steps by exactly 1 / scale_step on the way down, by the ratio of the sizes on the way up; a level of the same size is
// a copy.
inline void shrink(const Tvl1Level& from, const Tvl1Level& to, float* Tvl1Level::*plane, double step, float factor, float* scratch) {
  const double scale = from.height == to.height && from.width == to.width ? 1.0 : 1.0 / step;
  const Resizer resizer({from.*plane, from.height, from.width, from.width}, to.width, scale, scale, factor, scratch);
  for (int64_t y = 0; y < to.height; ++y) resizer.row(y, to.*plane + y * to.width);
}

}  // namespace
}  // namespace mer_fast::MER_ISA
