// Polynomial expansion: around every pixel the image is fitted, with Gaussian weights, by
//   f(x, y) = c + b_y y + b_x x + a_yy y^2 + a_xx x^2 + a_xy x y.
// Under these weights 1, x, y, xy, x^2 - m2 and y^2 - m2 are orthogonal, so that every coefficient is one separable filter:
// with smooth g, slope x g / m2 and curve (x^2 - m2) g / (m4 - m2^2), each of the latter two halved,
//   b_y / 2 = smooth_x slope_y, b_x / 2 = slope_x smooth_y, a_yy / 2 = smooth_x curve_y, a_xx / 2 = curve_x smooth_y,
//   a_xy / 4 = slope_x slope_y,
// and these are the 5 channels, halved as the matrices want them.
#pragma once

#include "farneback_flow_rows.h"

namespace mer_fast::MER_ISA {
namespace {

enum Channel { kSlopeY, kSlopeX, kCurveY, kCurveX, kTwist };

struct Filtered {
  Vec smooth, slope, curve;
};

// One pair of taps of the three filters, at distances k and -k.
inline void add_taps(Filtered& sum, const FarnebackExpansion& e, int64_t k, Vec ahead, Vec behind) {
  const Vec both = ahead + behind;
  sum.smooth += e.smooth[k] * both;
  sum.slope += e.slope[k] * (ahead - behind);
  sum.curve += e.curve[k] * both;
}

// The three filters down the columns at one row: `row` has the 2 * radius + 1 rows around it.
template <int Radius>
inline void filter_columns(const float* const* row, const FarnebackExpansion& e, int64_t pitch, float* const (&out)[3]) {
  const int64_t radius = Radius ? Radius : e.radius;
  for (int64_t x = 0; x < pitch; x += kLanes) {
    const Vec middle = load(row[radius] + x);
    Filtered sum{e.smooth[0] * middle, Vec{}, e.curve[0] * middle};
    for (int64_t k = 1; k <= radius; ++k) add_taps(sum, e, k, load(row[radius + k] + x), load(row[radius - k] + x));
    store(out[0] + x, sum.smooth);
    store(out[1] + x, sum.slope);
    store(out[2] + x, sum.curve);
  }
}

// The filters along the rows: `in` has a row smoothed, sloped and curved down the columns, with borders.
template <int Radius>
inline void filter_rows(const float* const (&in)[3], const FarnebackExpansion& e, int64_t pitch, float* out) {
  const int64_t radius = Radius ? Radius : e.radius;
  for (int64_t x = 0; x < pitch; x += kLanes) {
    const Vec smooth = load(in[0] + x);
    Vec slope_y = e.smooth[0] * load(in[1] + x), curve_y = e.smooth[0] * load(in[2] + x), curve_x = e.curve[0] * smooth;
    Vec slope_x{}, twist{};
    for (int64_t k = 1; k <= radius; ++k) {
      const Vec ahead = load(in[0] + x + k), behind = load(in[0] + x - k);
      slope_x += e.slope[k] * (ahead - behind);
      curve_x += e.curve[k] * (ahead + behind);
      const Vec sloped_ahead = load(in[1] + x + k), sloped_behind = load(in[1] + x - k);
      slope_y += e.smooth[k] * (sloped_ahead + sloped_behind);
      twist += e.slope[k] * (sloped_ahead - sloped_behind);
      curve_y += e.smooth[k] * (load(in[2] + x + k) + load(in[2] + x - k));
    }
    store(out + kSlopeY * pitch + x, slope_y);
    store(out + kSlopeX * pitch + x, slope_x);
    store(out + kCurveY * pitch + x, curve_y);
    store(out + kCurveX * pitch + x, curve_x);
    store(out + kTwist * pitch + x, twist);
  }
}

template <int Radius>
inline void expand_rows(const float* image, const FarnebackLevel& level, const FarnebackExpansion& e, Rows rows, Scratch scratch, float* out) {
  const float** around = scratch.take_rows(2 * e.radius + 1);
  float* const filtered[3] = {
      take_bordered(scratch, level.width, e.radius), take_bordered(scratch, level.width, e.radius),
      take_bordered(scratch, level.width, e.radius)};
  const float* const bordered[3] = {filtered[0], filtered[1], filtered[2]};
  for (int64_t y = rows.begin; y < rows.end; ++y) {
    for (int64_t k = -e.radius; k <= e.radius; ++k) around[e.radius + k] = image + clamp_row(y + k, level.height) * level.pitch;
    filter_columns<Radius>(around, e, level.pitch, filtered);
    for (float* row : filtered) replicate_border(row, level.width, e.radius);
    filter_rows<Radius>(bordered, e, level.pitch, out + y * kChannels * level.pitch);
  }
}

// image (height, pitch) -> out (height, 5, pitch), in these rows. The usual radii are known at compile time.
inline void expand(const float* image, const FarnebackLevel& level, const FarnebackExpansion& e, Rows rows, Scratch scratch, float* out) {
  switch (e.radius) {
    case 5: return expand_rows<5>(image, level, e, rows, scratch, out);
    case 7: return expand_rows<7>(image, level, e, rows, scratch, out);
    default: return expand_rows<0>(image, level, e, rows, scratch, out);
  }
}

}  // namespace
}  // namespace mer_fast::MER_ISA
