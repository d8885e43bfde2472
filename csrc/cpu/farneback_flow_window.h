// The sums of the matrices over the window around every pixel, and the flow that solves them.
#pragma once

#include "farneback_flow_matrices.h"

namespace mer_fast::MER_ISA {
namespace {

// One row of the five channels each, `stride` floats apart.
struct FiveRows {
  float* data;
  int64_t stride;

  float* operator()(int c) const { return data + c * stride; }
};

// A window as wide as `side` summed from pieces: `piece` pixels, `pieces` of them, and `rest` single pixels.
struct Pieces {
  int64_t piece, pieces, rest;
};

inline Pieces pieces_of(int64_t side) {
  Pieces best{1, side, 0};
  for (int64_t piece = 2; piece * piece <= 2 * side; ++piece) {
    const Pieces next{piece, side / piece, side % piece};
    if (next.piece + next.pieces + next.rest < best.piece + best.pieces + best.rest) best = next;
  }
  return best;
}

// out[x] = sum of in[x .. x + side) in two steps of about sqrt(side) additions. `partial` has room for a bordered row.
template <int64_t Side>
inline Vec window_sum(const float* in, const float* partial, const Pieces& given, int64_t x) {
  constexpr Pieces known = Side == 15 ? Pieces{3, 5, 0} : Pieces{3, 4, 1};
  const Pieces p = Side ? known : given;
  Vec sum = load(partial + x);
  for (int64_t k = 1; k < p.pieces; ++k) sum += load(partial + x + k * p.piece);
  for (int64_t k = 0; k < p.rest; ++k) sum += load(in + x + p.pieces * p.piece + k);
  return sum;
}

template <int64_t Side>
inline void piece_sums(const float* in, const Pieces& given, int64_t pitch, float* partial) {
  const int64_t piece = Side ? 3 : given.piece, count = pitch + (given.pieces - 1) * piece;
  for (int64_t x = 0; x < count; x += kLanes) {
    Vec sum = load(in + x);
    for (int64_t k = 1; k < piece; ++k) sum += load(in + x + k);
    store(partial + x, sum);
  }
}

// The flow of a pixel from its sums. They are sums of squares, so that the determinant is negative only by rounding.
inline void solve(const Five& sum, float regularizer, float* u, float* v) {
  const Vec xx = sum.at[0], xy = sum.at[1], yy = sum.at[2], x = sum.at[3], y = sum.at[4];
  const Vec inverse = reciprocal(max(xx * yy - xy * xy, Vec{}) + regularizer);
  store(u, (yy * x - xy * y) * inverse);
  store(v, (xx * y - xy * x) * inverse);
}

// The first step of a box: pieces of every row of sums.
template <int64_t Side>
inline void cut_box(const FiveRows& sums, const FiveRows& partial, const FarnebackLevel& level, const FarnebackWindow& w) {
  const Pieces p = pieces_of(2 * w.radius + 1);
  for (int c = 0; c < kChannels; ++c) piece_sums<Side>(sums(c) - w.radius, p, level.pitch, partial(c));
}

template <int64_t Side>
inline void solve_box(const FiveRows& sums, const FiveRows& partial, const FarnebackLevel& level, const FarnebackWindow& w, float* u, float* v) {
  const Pieces p = pieces_of(2 * w.radius + 1);
  for (int64_t x = 0; x < level.pitch; x += kLanes) {
    Five sum;
    for (int c = 0; c < kChannels; ++c) sum.at[c] = window_sum<Side>(sums(c) - w.radius, partial(c), p, x);
    solve(sum, w.regularizer, u + x, v + x);
  }
}

inline void solve_weighted(const FiveRows& sums, const FarnebackLevel& level, const FarnebackWindow& w, float* u, float* v) {
  for (int64_t x = 0; x < level.pitch; x += kLanes) {
    Five sum;
    for (int c = 0; c < kChannels; ++c) {
      const float* at = sums(c) + x;
      sum.at[c] = w.weight[0] * load(at);
      for (int64_t k = 1; k <= w.radius; ++k) sum.at[c] += w.weight[k] * (load(at + k) + load(at - k));
    }
    solve(sum, w.regularizer, u + x, v + x);
  }
}

}  // namespace
}  // namespace mer_fast::MER_ISA
