// The parameters of farneback_flow as its operators take them, on a CPU and on a GPU. Below the public function's own checks:
// a bad one here would overrun memory, or never end.
#pragma once

#include "checks.h"
#include "farneback_plan.h"
#include "flow_frames.h"

namespace mer_fast {

inline void farneback_check_parameters(const FarnebackParams& p) {
  const char* op = "farneback_flow: ";
  MER_FAST_CHECK(p.pyr_scale > 0 && p.pyr_scale < 1, op, "pyr_scale must lie between 0 and 1, got ", p.pyr_scale);
  MER_FAST_CHECK(p.levels >= 0, op, "levels must not be negative, got ", p.levels);
  MER_FAST_CHECK(
      p.winsize >= 2 && p.winsize <= kFarnebackMostWindow, op, "winsize must lie between 2 and ", kFarnebackMostWindow, ", got ", p.winsize);
  MER_FAST_CHECK(
      p.iterations >= 1 && p.iterations < (int64_t{1} << 31), op, "iterations must be at least 1 (and below 2^31), got ", p.iterations);
  MER_FAST_CHECK(
      p.poly_n >= 1 && p.poly_n <= kFarnebackMostPolynomial, op, "poly_n must lie between 1 and ", kFarnebackMostPolynomial, ", got ", p.poly_n);
  MER_FAST_CHECK(
      p.poly_sigma == 0 || (p.poly_sigma >= 0.1 && p.poly_sigma <= 1e6), op, "poly_sigma must be at least 0.1, or 0 for 0.3 poly_n, got ",
      p.poly_sigma);
}

}  // namespace mer_fast
