// The inner loop of every convolution: P positions of a row, S elements apart, by V vectors of channels, held in
// registers over the taps. With `add` they begin with what is in `out`.
#pragma once

#include "vec.h"

namespace mer_fast::MER_ISA {

// Accumulators, the weights and one broadcast value must fit into the registers.
constexpr int kWidest = kVecRegisters == 32 ? 14 : 6;

template <typename Real, int P, int V, int S>
static void tile(const Real* x, const int64_t* taps, int64_t num_taps, const Real* weight, Real* out, bool add) {
  constexpr int lanes = lanes_of<Real>;
  VecOf<Real> sum[P][V] = {};
  if (add) {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sum[p][v] = vload(out + (p * V + v) * lanes);
    }
  }
  for (int64_t k = 0; k < num_taps; ++k) {
    const Real* at = x + taps[k];
    VecOf<Real> w[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) w[v] = vload(weight + v * lanes);
    weight += V * lanes;
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
      const VecOf<Real> value = vsplat(at[p * S]);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sum[p][v] += value * w[v];
    }
  }
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) vstore(out + (p * V + v) * lanes, sum[p][v]);
  }
}

template <typename Real>
using Tile = void (*)(const Real*, const int64_t*, int64_t, const Real*, Real*, bool);

template <typename Real, int V, int S, int P = kWidest>
static Tile<Real> tile_of(int64_t positions) {
  if constexpr (P == 1) {
    return tile<Real, 1, V, S>;
  } else {
    return positions == P ? tile<Real, P, V, S> : tile_of<Real, V, S, P - 1>(positions);
  }
}

// `stride`: elements from a position to the next, 1 or 2.
template <typename Real>
static Tile<Real> tile_of(int64_t positions, int vectors, int64_t stride = 1) {
  if (stride == 2) return vectors == 1 ? tile_of<Real, 1, 2>(positions) : tile_of<Real, 2, 2>(positions);
  return vectors == 1 ? tile_of<Real, 1, 1>(positions) : tile_of<Real, 2, 1>(positions);
}

// A row of `positions`, cut into equal pieces; the last one begins early where they do not fit, and repeats a few.
struct Pieces {
  int64_t count, width, positions;
  explicit Pieces(int64_t n, int64_t widest = kWidest) : count((n + widest - 1) / widest), width((n + count - 1) / count), positions(n) {}
  int64_t begin(int64_t i) const { return i * width + width <= positions ? i * width : positions - width; }
};

}  // namespace mer_fast::MER_ISA
