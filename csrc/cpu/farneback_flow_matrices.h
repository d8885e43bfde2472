// The normal equations of every pixel under the flow at hand: its own expansion against the other frame's, interpolated
// where the flow points to. The 5 channels are the matrix (xx, xy, yy) and the right side (x, y).
#pragma once

#include "farneback_flow_expand.h"

namespace mer_fast::MER_ISA {
namespace {

struct Flow {
  float *u, *v;  // rows of `pitch` floats
};

// What an iteration reads.
struct Fields {
  const FarnebackLevel& level;
  const float *own, *other;  // expansions (height, 5, pitch)
  Flow flow;

  int64_t line() const { return kChannels * level.pitch; }
};

struct Five {
  Vec at[kChannels];
};

// --- weights near the border of the image -----------------------------------------------------------------------------
constexpr int64_t kBorder = 5;
constexpr float kBorderWeight[kBorder] = {0.14f, 0.14f, 0.4472f, 0.4472f, 0.4472f};

inline bool near_border(int64_t i, int64_t size) {
  if (size < 2 * kBorder) return i < kBorder && i >= size - kBorder;  // OpenCV's test wraps around here
  return i < kBorder || i >= size - kBorder;
}

inline float border_weight(int64_t i, int64_t size) {
  return (i < kBorder ? kBorderWeight[i] : 1.0f) * (size - 1 - i < kBorder ? kBorderWeight[size - 1 - i] : 1.0f);
}

// The weights of row y; whether they may differ from those of a row in the middle.
inline bool border_row(const FarnebackLevel& level, int64_t y, float* weight) {
  const bool row = near_border(y, level.height);
  const float tall = border_weight(y, level.height);
  for (int64_t x = 0; x < level.width; ++x) {
    weight[x] = row || near_border(x, level.width) ? tall * border_weight(x, level.width) : 1.0f;
  }
  for (int64_t x = level.width; x < level.pitch; ++x) weight[x] = 1.0f;
  return row || level.height < 2 * kBorder;
}

// --- the other frame's expansion --------------------------------------------------------------------------------------
// Places in the other frame, of which those outside are moved to its edge.
struct Places {
  Vec y, fraction_x;
  IVec column, row;  // of the pixel up and left
  IVec inside;       // lanes that were not moved: all bits set
};

inline Places locate(const Fields& f, int64_t x, int64_t y, Vec u, Vec v) {
  Vec ramp{};
  for (int i = 0; i < kLanes; ++i) ramp[i] = static_cast<float>(i);
  const Vec at_x = u + (ramp + static_cast<float>(x)), at_y = v + static_cast<float>(y);
  const Vec left = floor(at_x), top = floor(at_y), zero{};
  const float last_x = static_cast<float>(f.level.width - 2), last_y = static_cast<float>(f.level.height - 2);
  // A NaN becomes the limit, and the limit of an image of one row or column 0.
  const Vec column = max(min(left, splat(last_x)), zero), row = max(min(top, splat(last_y)), zero);
  const IVec inside = (column == left) & (row == top) & -static_cast<int32_t>(f.level.width > 1 && f.level.height > 1);
  return {at_y, at_x - left, __builtin_convertvector(column, IVec), __builtin_convertvector(row, IVec), inside};
}

// Bilinear interpolation lane by lane, for places far apart.
inline Five interpolate_scattered(const Fields& f, const Places& p) {
  Five sum{};
  const int64_t below = f.level.height > 1 ? f.line() : 0;
  const int64_t right = f.level.width > 1 ? 1 : 0;
  for (int i = 0; i < kLanes; ++i) {
    const float* at = f.other + p.row[i] * f.line() + p.column[i];
    const float y = p.y[i] - static_cast<float>(p.row[i]), x = p.fraction_x[i];
    for (int c = 0; c < kChannels; ++c, at += f.level.pitch) {
      const float upper = at[0] + x * (at[right] - at[0]), lower = at[below] + x * (at[below + right] - at[below]);
      sum.at[c][i] = (1.0f - y) * upper + y * lower;
    }
  }
  return sum;
}

// Neighbours mostly point to neighbours: their places lie in two vectors of two to four rows, from which a permutation
// takes each lane's pixel; the weight of a row is zero in the lanes that lie elsewhere.
inline Five interpolate(const Fields& f, const Places& p) {
  const int32_t first_column = p.column[0] - (kLanes / 2 - 1), first_row = p.row[0] - 1;
  const IVec column = p.column - first_column, row = p.row - first_row;
  if (!all_up_to(column, 2 * kLanes - 2) || !all_up_to(row, 2)) return interpolate_scattered(f, p);
  const int32_t top = all_up_to(row - 1, 1) ? 1 : 0, bottom = all_up_to(row, 1) ? 2 : 3;
  Five sum{};
  for (int32_t k = top; k <= bottom; ++k) {
    const Vec weight = max(1.0f - absolute(p.y - static_cast<float>(first_row + k)), Vec{});
    const float* at = f.other + (first_row + k) * f.line() + first_column;
    for (int c = 0; c < kChannels; ++c, at += f.level.pitch) {
      const Vec low = load(at), high = load(at + kLanes);
      const Vec left = pick(low, high, column), right = pick(low, high, column + 1);
      sum.at[c] += weight * (left + p.fraction_x * (right - left));
    }
  }
  return sum;
}

// --- the matrices -----------------------------------------------------------------------------------------------------
// Outside the other frame the own curvature stands for both, and the other slope is zero.
inline Five meet(const Fields& f, const Five& own, const Places& p) {
  Five other = interpolate(f, p);
  if (all_up_to(p.inside + 1, 0)) return other;
  for (int c = 0; c < kChannels; ++c) other.at[c] = p.inside ? other.at[c] : c < kCurveY ? Vec{} : own.at[c];
  return other;
}

inline Five matrices(const Fields& f, int64_t x, int64_t y, const float* weight) {
  Five own;
  for (int c = 0; c < kChannels; ++c) own.at[c] = load(f.own + y * f.line() + c * f.level.pitch + x);
  const Vec u = load(f.flow.u + y * f.level.pitch + x), v = load(f.flow.v + y * f.level.pitch + x);
  const Five other = meet(f, own, locate(f, x, y, u, v));
  Vec yy = own.at[kCurveY] + other.at[kCurveY], xx = own.at[kCurveX] + other.at[kCurveX], xy = own.at[kTwist] + other.at[kTwist];
  Vec right_y = (own.at[kSlopeY] - other.at[kSlopeY]) + yy * v + xy * u;
  Vec right_x = (own.at[kSlopeX] - other.at[kSlopeX]) + xy * v + xx * u;
  if (weight) {
    const Vec w = load(weight + x);
    yy *= w, xx *= w, xy *= w, right_y *= w, right_x *= w;
  }
  return {{xx * xx + xy * xy, (xx + yy) * xy, yy * yy + xy * xy, xx * right_x + xy * right_y, xy * right_x + yy * right_y}};
}

}  // namespace
}  // namespace mer_fast::MER_ISA
