// The inner iterations of TV-L1 on a band of rows, several in one pass over memory.
//
// Per pixel and iteration (u = (u, v) in units of theta / tau, n = grad / |grad|, r0 and bound likewise scaled):
//   t  = clamp(r0 + n . u, -bound, bound)                 the thresholding step, exact for every case of it
//   u' = u - t n + tau div p                              for both components
//   p' = (p + grad u') / (1 + |grad u'|)
// An iteration needs u' of a row and of the one below before it can update p of the row, and p of the row and of the one
// above before it can update u. So iteration k + 1 may follow iteration k one row behind, in place, and a block of
// iterations needs a handful of rows in the first-level cache.
#pragma once

#include "simd.h"
#include "tvl1_flow_kernel.h"

namespace mer_fast::MER_ISA {
namespace {

enum Field { kNx, kNy, kResidual, kBound, kU, kV, kP11, kP12, kP21, kP22 };

// Rows [first, last) of a level in memory: the member's own rows [begin, end) and a halo on each side inside the image.
struct Band {
  float* base;  // row `first`; the row before it exists and is zero where first is 0
  int64_t stride, field, height, width, begin, end, first, last;

  float* row(int64_t y) const { return base + (y - first) * stride; }
  float* row(int64_t y, Field f) const { return row(y) + f * field; }
};

struct Error {
  Vec sum;
  Vec last_lanes;  // 1 where the last vector of a row has pixels
};

inline Vec last_lanes(int64_t width) {
  Vec mask{};
  for (int i = 0; i < kLanes; ++i) mask[i] = (width - 1) % kLanes >= i ? 1.0f : 0.0f;
  return mask;
}

struct Updated {
  Vec u, v;
};

template <int64_t Width, bool WithError>
inline Updated update_flow(float* here, Vec p12_above, Vec p22_above, int64_t width, int64_t x, float tau, Vec lanes, Error& error) {
  const int64_t f = Width ? Width : width;
  const Vec u = load(here + kU * f + x), v = load(here + kV * f + x);
  const Vec nx = load(here + kNx * f + x), ny = load(here + kNy * f + x);
  const Vec t = clamp_magnitude(load(here + kResidual * f + x) + nx * u + ny * v, load(here + kBound * f + x));
  const Vec div_u = (load(here + kP11 * f + x) - load(here + kP11 * f + x - 1)) + (load(here + kP12 * f + x) - p12_above);
  const Vec div_v = (load(here + kP21 * f + x) - load(here + kP21 * f + x - 1)) + (load(here + kP22 * f + x) - p22_above);
  const Vec new_u = (u - t * nx) + tau * div_u, new_v = (v - t * ny) + tau * div_v;
  store(here + kU * f + x, new_u);
  store(here + kV * f + x, new_v);
  if constexpr (WithError) {
    const Vec du = (new_u - u) * lanes, dv = (new_v - v) * lanes;
    error.sum += du * du;
    error.sum += dv * dv;
  }
  return {new_u, new_v};
}

struct Slope {
  Vec x, y, length;  // the forward gradient, and 1 + its length
};

inline Slope slope(const float* flow, Vec below, int64_t x) {
  const Vec here = load(flow + x);
  const Vec gx = load(flow + x + 1) - here, gy = below - here;
  const Vec square = 1e-20f + gx * gx + gy * gy;  // never zero: its inverse root is finite
  return {gx, gy, 1.0f + square * approximate_rsqrt(square)};
}

// The dual variables of both components share one reciprocal: 1/a = b / (a b).
template <int64_t Width>
inline void update_dual(float* row, Updated below, Vec p12, Vec p22, int64_t width, int64_t x) {
  const int64_t f = Width ? Width : width;
  const Slope u = slope(row + kU * f, below.u, x), v = slope(row + kV * f, below.v, x);
  const Vec shrink = reciprocal(u.length * v.length);
  const Vec shrink_u = shrink * v.length, shrink_v = shrink * u.length;
  store(row + kP11 * f + x, (load(row + kP11 * f + x) + u.x) * shrink_u);
  store(row + kP12 * f + x, (p12 + u.y) * shrink_u);
  store(row + kP21 * f + x, (load(row + kP21 * f + x) + v.x) * shrink_v);
  store(row + kP22 * f + x, (p22 + v.y) * shrink_v);
}

// Updates the flow of row `here` and the dual variables of the row above it, either or both. Width: the distance of the
// fields where it is known at compile time, else 0.
template <int64_t Width, bool Flow, bool Dual, bool WithError>
inline void row_step(const Band& band, float* here, float tau, Error& error) {
  const int64_t f = Width ? Width : band.field;
  float* above = here - kTvl1Fields * f;
  const auto step = [&](int64_t x, Vec lanes) {
    // A level of narrow rows stays in the second-level cache; of wider ones the next row is fetched a row ahead.
    if constexpr (Flow && Width != 80 && Width != 144) {
      for (int k = 0; k < kTvl1Fields; ++k) __builtin_prefetch(here + (kTvl1Fields + k) * f + x);
    }
    const Vec p12 = load(above + kP12 * f + x), p22 = load(above + kP22 * f + x);
    Updated below;
    if constexpr (Flow) {
      below = update_flow<Width, WithError>(here, p12, p22, f, x, tau, lanes, error);
    } else {  // the last row has nothing below: its vertical gradient is zero
      below = {load(above + kU * f + x), load(above + kV * f + x)};
    }
    if constexpr (Dual) update_dual<Width>(above, below, p12, p22, f, x);
  };
  const int64_t tail = (band.width - 1) / kLanes * kLanes;
  for (int64_t x = 0; x < tail; x += kLanes) step(x, Vec{} + 1.0f);
  step(tail, error.last_lanes);
  if constexpr (Flow) {  // the horizontal gradient of the last column is zero
    here[kU * f + band.width] = here[kU * f + band.width - 1];
    here[kV * f + band.width] = here[kV * f + band.width - 1];
  }
}

// Which rows iteration k (from 0) of a block can still update: inside the image a halo loses one on each side a turn.
inline int64_t first_row(const Band& band, int k) { return band.first == 0 ? 0 : band.first + k + 1; }
inline int64_t last_row(const Band& band, int k) { return band.last == band.height ? band.height : band.last - k; }

template <int64_t Width, bool WithError>
inline void step_at(const Band& band, int64_t y, int k, float tau, Error& error) {
  const int64_t low = first_row(band, k), high = last_row(band, k);
  if (y < low || y > high) return;
  if (y == high) {
    if (high == band.height) row_step<Width, false, true, false>(band, band.row(y), tau, error);
  } else if (y == low) {
    row_step<Width, true, false, WithError>(band, band.row(y), tau, error);
  } else {
    row_step<Width, true, true, WithError>(band, band.row(y), tau, error);
  }
}

template <int64_t Width>
inline void sweep_width(const Band& band, int count, float tau, float* row_error) {
  Error error{Vec{}, last_lanes(band.width)};
  for (int64_t front = band.first; front <= band.last + count - 1; ++front) {
    for (int k = 0; k + 1 < count; ++k) step_at<Width, false>(band, front - k, k, tau, error);
    const int64_t y = front - (count - 1);
    error.sum = Vec{};
    step_at<Width, true>(band, y, count - 1, tau, error);
    if (y >= band.begin && y < band.end) store(row_error + y * kTvl1MaxLanes, error.sum);
  }
}

// `count` iterations (at most kTvl1Halo where the band has halos). The change of the flow in the last one is left in
// row_error, a vector a row, of the member's own rows.
inline void sweep(const Band& band, int count, float tau, float* row_error) {
  switch (band.field) {
    case 80: return sweep_width<80>(band, count, tau, row_error);
    case 144: return sweep_width<144>(band, count, tau, row_error);
    case 272: return sweep_width<272>(band, count, tau, row_error);
    default: return sweep_width<0>(band, count, tau, row_error);
  }
}

}  // namespace
}  // namespace mer_fast::MER_ISA
