// What a Farneback flow works out once a call, on a CPU and on a GPU: its checks, the sizes of the pyramid, and every filter.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "checks.h"

namespace mer_fast {

constexpr int64_t kFarnebackMinSide = 32;     // of a level other than the first
constexpr int64_t kFarnebackMostWindow = 1023, kFarnebackMostPolynomial = 63;

struct FarnebackScale {
  int64_t height, width;
  std::vector<float> blur;  // taps of the filter before sampling, an odd number
};

struct FarnebackPlan {
  std::vector<FarnebackScale> scales;      // full size first
  std::vector<float> smooth, slope, curve; // taps at 0..poly_n of the expansion's filters (cpu/farneback_flow_expand.h)
  int64_t winsize;
  std::vector<float> window;               // taps at 0..radius of a Gaussian window; empty for a box, summed and not divided
  float regularizer;                       // added to the determinant, in the units of the sums
  int iterations;
  float initial_scale, growth;             // of a given flow on the coarsest level; of the flow from level to level

  int64_t radius() const { return static_cast<int64_t>(smooth.size()) - 1; }
  int64_t window_radius() const { return winsize / 2; }
};

// exp(-i^2 / (2 sigma^2)) for i = -radius..radius, of sum 1.
inline std::vector<double> farneback_gaussian(int64_t radius, double sigma) {
  std::vector<double> taps;
  double sum = 0;
  for (int64_t i = -radius; i <= radius; ++i) {
    taps.push_back(i == 0 ? 1.0 : std::exp(-static_cast<double>(i * i) / (2 * sigma * sigma)));
    sum += taps.back();
  }
  for (double& tap : taps) tap /= sum;
  return taps;
}

// Full size first; a side of a further level has at least 32 pixels. Each is blurred by (1 / scale - 1) / 2 pixels before it
// is sampled from the full size, which itself is blurred a little too.
inline std::vector<FarnebackScale> farneback_scales(int64_t height, int64_t width, double pyr_scale, int64_t levels) {
  std::vector<FarnebackScale> scales{{height, width, {0.25f, 0.5f, 0.25f}}};
  double scale = pyr_scale;
  for (int64_t k = 0; k < levels; ++k, scale *= pyr_scale) {
    const double tall = static_cast<double>(height) * scale, wide = static_cast<double>(width) * scale;
    if (tall < kFarnebackMinSide || wide < kFarnebackMinSide) break;
    const double sigma = (1 / scale - 1) * 0.5;
    const int64_t size = std::max<int64_t>(std::lrint(sigma * 5) | 1, 3);
    const std::vector<double> taps = farneback_gaussian(size / 2, sigma);
    scales.push_back({std::lrint(tall), std::lrint(wide), {taps.begin(), taps.end()}});
  }
  return scales;
}

inline void farneback_filters(FarnebackPlan& plan, int64_t poly_n, double poly_sigma) {
  const std::vector<double> g = farneback_gaussian(poly_n, poly_sigma > 0 ? poly_sigma : 0.3 * static_cast<double>(poly_n));
  double m2 = 0, m4 = 0;
  for (int64_t i = -poly_n; i <= poly_n; ++i) {
    const double square = static_cast<double>(i * i), weight = g[static_cast<size_t>(i + poly_n)];
    m2 += weight * square;
    m4 += weight * square * square;
  }
  for (int64_t i = 0; i <= poly_n; ++i) {
    const double at = static_cast<double>(i), weight = g[static_cast<size_t>(i + poly_n)];
    plan.smooth.push_back(static_cast<float>(weight));
    plan.slope.push_back(static_cast<float>(0.5 * at * weight / m2));
    plan.curve.push_back(static_cast<float>(0.5 * (at * at - m2) * weight / (m4 - m2 * m2)));
  }
}

// Below the public function's own checks: a bad parameter here would overrun memory, or never end.
inline void farneback_check_parameters(
    double pyr_scale, int64_t levels, int64_t winsize, int64_t iterations, int64_t poly_n, double poly_sigma) {
  const char* op = "farneback_flow: ";
  MER_FAST_CHECK(pyr_scale > 0 && pyr_scale < 1, op, "pyr_scale must lie between 0 and 1, got ", pyr_scale);
  MER_FAST_CHECK(levels >= 0, op, "levels must not be negative, got ", levels);
  MER_FAST_CHECK(
      winsize >= 2 && winsize <= kFarnebackMostWindow, op, "winsize must lie between 2 and ", kFarnebackMostWindow, ", got ", winsize);
  MER_FAST_CHECK(iterations >= 1 && iterations < (int64_t{1} << 31), op, "iterations must be at least 1 (and below 2^31), got ", iterations);
  MER_FAST_CHECK(
      poly_n >= 1 && poly_n <= kFarnebackMostPolynomial, op, "poly_n must lie between 1 and ", kFarnebackMostPolynomial, ", got ", poly_n);
  MER_FAST_CHECK(
      poly_sigma == 0 || (poly_sigma >= 0.1 && poly_sigma <= 1e6), op, "poly_sigma must be at least 0.1, or 0 for 0.3 poly_n, got ", poly_sigma);
}

inline FarnebackPlan farneback_plan(
    int64_t height, int64_t width, double pyr_scale, int64_t levels, int64_t winsize, int64_t iterations, int64_t poly_n,
    double poly_sigma, bool gaussian) {
  farneback_check_parameters(pyr_scale, levels, winsize, iterations, poly_n, poly_sigma);
  FarnebackPlan plan;
  plan.scales = farneback_scales(height, width, pyr_scale, levels);
  farneback_filters(plan, poly_n, poly_sigma);
  plan.winsize = winsize;
  plan.iterations = static_cast<int>(iterations);
  plan.initial_scale = static_cast<float>(std::pow(pyr_scale, static_cast<double>(plan.scales.size() - 1)));
  plan.growth = static_cast<float>(1 / pyr_scale);
  const double area = static_cast<double>(winsize) * static_cast<double>(winsize);
  plan.regularizer = static_cast<float>(gaussian ? 1e-3 : 1e-3 * area * area);
  if (gaussian) {
    const int64_t radius = plan.window_radius();
    const std::vector<double> taps = farneback_gaussian(radius, 0.3 * static_cast<double>(radius));
    plan.window.assign(taps.begin() + radius, taps.end());
  }
  return plan;
}

inline void farneback_check_frames(const Tensor& frame0, const Tensor& frame1, const std::optional<Tensor>& initial) {
  const char* op = "farneback_flow";
  check_rank(op, "frame0", frame0, 3);
  check_same_shape(op, "frame0", frame0, "frame1", frame1);
  check_same_dtype(op, "frame0", frame0, "frame1", frame1);
  check_same_device(op, "frame0", frame0, "frame1", frame1);
  const ScalarType type = frame0.scalar_type();
  MER_FAST_CHECK(type == ScalarType::Byte || type == ScalarType::Float, op, ": frame0 must be uint8 or float32");
  MER_FAST_CHECK(frame0.size(1) >= 1 && frame0.size(2) >= 1, op, ": frame0 has no pixels, its shape is ", shape_text(frame0));
  if (!initial) return;
  check_same_device(op, "frame0", frame0, "initial_flow", *initial);
  MER_FAST_CHECK(
      initial->dim() == 4 && initial->size(0) == frame0.size(0) && initial->size(1) == 2 && initial->size(2) == frame0.size(1) &&
          initial->size(3) == frame0.size(2) && initial->scalar_type() == ScalarType::Float,
      op, ": initial_flow must be float32 of shape (N, 2, H, W), got ", shape_text(*initial));
}

}  // namespace mer_fast
