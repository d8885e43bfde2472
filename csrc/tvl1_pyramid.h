// Sizes of the TV-L1 pyramid, on a CPU and on a GPU.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace mer_fast {

constexpr int64_t kTvl1MinSide = 16;

struct Tvl1Size {
  int64_t height, width;
  int64_t pixels() const { return height * width; }
};

// Full size first; the pyramid ends before a side falls below 16 pixels.
inline std::vector<Tvl1Size> tvl1_pyramid(int64_t height, int64_t width, int64_t scales, double scale_step) {
  std::vector<Tvl1Size> sizes{{height, width}};
  while (static_cast<int64_t>(sizes.size()) < scales) {
    const Tvl1Size& last = sizes.back();
    const Tvl1Size next{std::lrint(static_cast<double>(last.height) * scale_step), std::lrint(static_cast<double>(last.width) * scale_step)};
    if (next.height < kTvl1MinSide || next.width < kTvl1MinSide) break;
    sizes.push_back(next);
  }
  return sizes;
}

}  // namespace mer_fast
