// What a Farneback flow works out once a call, on a CPU and on a GPU: the sizes of the pyramid, and every filter.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace mer_fast {

constexpr int64_t kFarnebackMinSide = 32;  // of a level other than the first
constexpr int64_t kFarnebackMostWindow = 1023, kFarnebackMostPolynomial = 63;

struct FarnebackParams {
  double pyr_scale;
  int64_t levels, winsize, iterations, poly_n;
  double poly_sigma;
  bool gaussian;
};

// A filter with taps exp(-i^2 / (2 sigma^2)), of sum 1, at -radius..radius.
struct FarnebackGaussian {
  int64_t radius;
  double sigma;

  // 1 / (2 sigma^2), of which a tap is the exponential
  double decay() const { return radius == 0 ? 0.0 : 1 / (2 * sigma * sigma); }

  std::vector<double> taps() const {
    std::vector<double> taps;
    double sum = 0;
    for (int64_t i = -radius; i <= radius; ++i) {
      taps.push_back(std::exp(-decay() * static_cast<double>(i * i)));
      sum += taps.back();
    }
    for (double& tap : taps) tap /= sum;
    return taps;
  }

  double middle() const { return taps()[static_cast<size_t>(radius)]; }
};

// One level: its size, and the filter that is run over the full-size frame before it is sampled.
struct FarnebackScale {
  int64_t height, width;
  FarnebackGaussian blur;
};

struct FarnebackPlan {
  FarnebackParams params;
  std::vector<FarnebackScale> scales;       // full size first
  std::vector<float> smooth, slope, curve;  // taps at 0..poly_n of the expansion's filters (cpu/farneback_flow_expand.h)
  FarnebackGaussian window;                 // of a box only the radius counts
  float regularizer;                        // added to the determinant, in the units of the sums: those of a box are not divided
  float initial_scale, growth;              // of a given flow on the coarsest level; of the flow from level to level
};

// Full size first; a side of a further level has at least 32 pixels. Each is blurred by (1 / scale - 1) / 2 pixels before it
// is sampled from the full size, which itself is blurred a little too: by 1/4, 1/2, 1/4.
inline std::vector<FarnebackScale> farneback_scales(int64_t height, int64_t width, double pyr_scale, int64_t levels) {
  std::vector<FarnebackScale> scales{{height, width, {1, 1 / std::sqrt(2 * std::log(2.0))}}};
  double scale = pyr_scale;
  for (int64_t k = 0; k < levels; ++k, scale *= pyr_scale) {
    const double tall = static_cast<double>(height) * scale, wide = static_cast<double>(width) * scale;
    if (tall < kFarnebackMinSide || wide < kFarnebackMinSide) break;
    const double sigma = (1 / scale - 1) * 0.5;
    const int64_t size = std::max<int64_t>(std::lrint(sigma * 5) | 1, 3);
    scales.push_back({std::lrint(tall), std::lrint(wide), {size / 2, sigma}});
  }
  return scales;
}

inline void farneback_filters(FarnebackPlan& plan) {
  const int64_t radius = plan.params.poly_n;
  const double sigma = plan.params.poly_sigma > 0 ? plan.params.poly_sigma : 0.3 * static_cast<double>(radius);
  const std::vector<double> g = FarnebackGaussian{radius, sigma}.taps();
  double m2 = 0, m4 = 0;
  for (int64_t i = -radius; i <= radius; ++i) {
    const double square = static_cast<double>(i * i), weight = g[static_cast<size_t>(i + radius)];
    m2 += weight * square;
    m4 += weight * square * square;
  }
  for (int64_t i = 0; i <= radius; ++i) {
    const double at = static_cast<double>(i), weight = g[static_cast<size_t>(i + radius)];
    plan.smooth.push_back(static_cast<float>(weight));
    plan.slope.push_back(static_cast<float>(0.5 * at * weight / m2));
    plan.curve.push_back(static_cast<float>(0.5 * (at * at - m2) * weight / (m4 - m2 * m2)));
  }
}

inline FarnebackPlan farneback_plan(int64_t height, int64_t width, const FarnebackParams& params) {
  FarnebackPlan plan{params, farneback_scales(height, width, params.pyr_scale, params.levels), {}, {}, {}, {}, 0, 0, 0};
  farneback_filters(plan);
  const int64_t radius = params.winsize / 2;
  plan.window = {radius, 0.3 * static_cast<double>(radius)};
  const double area = static_cast<double>(params.winsize) * static_cast<double>(params.winsize);
  plan.regularizer = static_cast<float>(params.gaussian ? 1e-3 : 1e-3 * area * area);
  plan.initial_scale = static_cast<float>(std::pow(params.pyr_scale, static_cast<double>(plan.scales.size() - 1)));
  plan.growth = static_cast<float>(1 / params.pyr_scale);
  return plan;
}

}  // namespace mer_fast
