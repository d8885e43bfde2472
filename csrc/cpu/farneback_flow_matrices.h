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
  int64_t height, width, pitch;
  const float *own, *other;  // expansions (height, 5, pitch)
  Flow flow;
  float last_x, last_y;      // of the pixels that have a right and a lower neighbour
  int32_t spacious;          // all bits set where there are such pixels

  Fields(const FarnebackLevel& level, const float* own, const float* other, const Flow& flow)
      : height(level.height), width(level.width), pitch(level.pitch), own(own), other(other), flow(flow), last_x(static_cast<float>(level.width - 2)),
        last_y(static_cast<float>(level.height - 2)), spacious(-static_cast<int32_t>(level.width > 1 && level.height > 1)) {}

  int64_t line() const { return kChannels * pitch; }
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

static inline Places locate(const Fields& f, int64_t x, int64_t y, Vec u, Vec v) {
  Vec ramp{};
  for (int i = 0; i < kLanes; ++i) ramp[i] = static_cast<float>(i);
  const Vec at_x = u + (ramp + static_cast<float>(x)), at_y = v + static_cast<float>(y);
  const Vec left = floor(at_x), top = floor(at_y), zero{};
  // A NaN becomes the limit, and the limit of an image of one row or column 0.
  const Vec column = max(min(left, splat(f.last_x)), zero), row = max(min(top, splat(f.last_y)), zero);
  return {at_y, at_x - left, __builtin_convertvector(column, IVec), __builtin_convertvector(row, IVec),
          (column == left) & (row == top) & f.spacious};
}

// Bilinear interpolation lane by lane, for places far apart.
__attribute__((noinline)) inline Five interpolate_scattered(const Fields& f, Vec y, Vec fraction_x, IVec column, IVec row) {
  Five sum{};
  const int64_t below = f.height > 1 ? f.line() : 0;
  const int64_t right = f.width > 1 ? 1 : 0;
  for (int i = 0; i < kLanes; ++i) {
    const float* at = f.other + row[i] * f.line() + column[i];
    const float down = y[i] - static_cast<float>(row[i]), across = fraction_x[i];
    for (int c = 0; c < kChannels; ++c, at += f.pitch) {
      const float upper = at[0] + across * (at[right] - at[0]), lower = at[below] + across * (at[below + right] - at[below]);
      sum.at[c][i] = (1.0f - down) * upper + down * lower;
    }
  }
  return sum;
}

// Adds one row of the other frame, interpolated along it and weighted. `column` counts from `at`, within two vectors.
static inline void add_row(Five& sum, const float* at, int64_t pitch, IVec column, Vec fraction_x, Vec weight) {
  const Vec weight_right = weight * fraction_x, weight_left = weight - weight_right;
  for (int c = 0; c < kChannels; ++c, at += pitch) {
    Vec low = load(at), high = load(at + kLanes);
    keep_in_register(low);
    keep_in_register(high);
    sum.at[c] += weight_left * pick(low, high, column) + weight_right * pick(low, high, column + 1);
  }
}

// Of places that lie side by side but in several rows.
constexpr int32_t kMostRows = 16;
__attribute__((noinline)) inline Five interpolate_rows(
    const Fields& f, int32_t first_column, Vec y, Vec fraction_x, IVec column, IVec row) {
  int32_t top = row[0], bottom = row[0];
  for (int i = 1; i < kLanes; ++i) {
    top = row[i] < top ? row[i] : top;
    bottom = row[i] > bottom ? row[i] : bottom;
  }
  if (bottom - top >= kMostRows) return interpolate_scattered(f, y, fraction_x, column + first_column, row);
  Five sum{};
  for (int32_t k = top; k <= bottom + 1; ++k) {
    const Vec weight = max(1.0f - absolute(y - static_cast<float>(k)), Vec{});
    add_row(sum, f.other + k * f.line() + first_column, f.pitch, column, fraction_x, weight);
  }
  return sum;
}

// Neighbours mostly point to neighbours: their places lie in two vectors of two to four rows, from which a permutation
// takes each lane's pixel; the weight of a row is zero in the lanes that lie elsewhere.
static inline Five interpolate(const Fields& f, const Places& p) {
  const int32_t first_column = p.column[0] - (kLanes / 2 - 1), first_row = p.row[0] - 1;
  const IVec column = p.column - first_column, row = p.row - first_row;
  if (__builtin_expect(!all_up_to(column, 2 * kLanes - 2) || !f.spacious, 0)) {
    return interpolate_scattered(f, p.y, p.fraction_x, p.column, p.row);
  }
  if (__builtin_expect(!all_up_to(row, 2), 0)) return interpolate_rows(f, first_column, p.y, p.fraction_x, column, p.row);
  const Vec down = p.y - static_cast<float>(first_row), zero{};
  const float* const at = f.other + first_row * f.line() + first_column;
  const int64_t line = f.line(), pitch = f.pitch;
  Five sum{};
  add_row(sum, at + line, pitch, column, p.fraction_x, max(1.0f - absolute(down - 1.0f), zero));
  add_row(sum, at + 2 * line, pitch, column, p.fraction_x, max(1.0f - absolute(down - 2.0f), zero));
  if (!all_up_to(row - 1, 1)) add_row(sum, at, pitch, column, p.fraction_x, max(1.0f - down, zero));
  if (!all_up_to(row, 1)) add_row(sum, at + 3 * line, pitch, column, p.fraction_x, max(down - 2.0f, zero));
  return sum;
}

// --- the matrices -----------------------------------------------------------------------------------------------------
static inline Five matrices(const Fields& f, int64_t x, int64_t y, const float* weight) {
  Five own;
  const float* const here = f.own + y * f.line() + x;
  for (int c = 0; c < kChannels; ++c) own.at[c] = load(here + c * f.pitch);
  const Vec u = load(f.flow.u + y * f.pitch + x), v = load(f.flow.v + y * f.pitch + x);
  const Places places = locate(f, x, y, u, v);
  Five other = interpolate(f, places);
  if (!all_up_to(~places.inside, 0)) {
    // Outside the other frame the own curvature stands for both, and the other slope is zero.
    for (int c = 0; c < kChannels; ++c) other.at[c] = places.inside ? other.at[c] : c < kCurveY ? Vec{} : own.at[c];
  }
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
