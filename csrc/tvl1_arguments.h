// The parameters of tvl1_flow as its operators take them, on a CPU and on a GPU. Below the public function's own checks: a
// bad one here would overrun memory.
#pragma once

#include <cmath>
#include <limits>

#include "checks.h"
#include "flow_frames.h"
#include "tvl1_pyramid.h"

namespace mer_fast {

// Params: the kernels' own struct, on either device.
template <typename Params>
void tvl1_check_parameters(const Params& p, double scale_step, int64_t scales) {
  const auto positive = [](const char* name, float value) {
    MER_FAST_CHECK(std::isnormal(value) && value > 0, "tvl1_flow: ", name, " must be positive and finite, got ", value);
  };
  positive("tau", p.tau);
  positive("lam", p.lam);
  positive("theta", p.theta);
  positive("scale_step", static_cast<float>(scale_step));
  MER_FAST_CHECK(scale_step < 1, "tvl1_flow: scale_step must lie between 0 and 1, got ", scale_step);
  MER_FAST_CHECK(std::isfinite(p.epsilon) && p.epsilon >= 0, "tvl1_flow: epsilon must be finite and not negative, got ", p.epsilon);
  MER_FAST_CHECK(
      scales >= 1 && p.warps >= 1 && p.inner_iterations >= 1 && p.outer_iterations >= 1,
      "tvl1_flow: scales, warps, inner_iterations and outer_iterations must be at least 1");
  MER_FAST_CHECK(
      p.median == 0 || p.median == 1 || p.median == 3 || p.median == 5, "tvl1_flow: median must be 0, 1, 3 or 5, got ", p.median);
}

// A count as the kernels take it.
inline int tvl1_count(int64_t count) {
  MER_FAST_CHECK(count <= std::numeric_limits<int>::max(), "tvl1_flow: a count of ", count, " is too large");
  return static_cast<int>(count);
}

}  // namespace mer_fast
