// kTile x kTile places of a 3x3 convolution, and its weights' gradient from them. All of a tile stays in registers: for each
// channel nine weights (or nine sums) are loaded once, and each of the 5x5 inputs once for up to nine products.
#pragma once

#include "conv_norm_pool_kernel.h"
#include "vec.h"

namespace mer_fast::MER_ISA {

// Sides on which the outer two of a tile's inputs are zeros, and are left out.
enum Edge { kTop = 1, kBottom = 2, kLeft = 4, kRight = 8 };

template <typename Real>
using Tile = VecOf<Real>[kTile][kTile];

template <int k>
struct Constant {
  static constexpr int value = k;
};

// Calls visit(row, column) for the inputs that count; both are constants to the compiler.
template <int kEdges, typename Visit>
[[gnu::always_inline]] inline void for_inputs(const Visit& visit) {
  constexpr int begin_r = kEdges & kTop ? 2 : 0, end_r = kTile + 2 - (kEdges & kBottom ? 2 : 0);
  constexpr int begin_s = kEdges & kLeft ? 2 : 0, end_s = kTile + 2 - (kEdges & kRight ? 2 : 0);
#pragma GCC unroll 8
  for (int r = begin_r; r < end_r; ++r) {
#pragma GCC unroll 8
    for (int s = begin_s; s < end_s; ++s) visit(r, s);
  }
}

// Calls each(i, j, tap) for the places of a tile that input (r, s) reaches through a tap.
template <typename Each>
[[gnu::always_inline]] inline void for_places(int r, int s, const Each& each) {
#pragma GCC unroll 3
  for (int h = 0; h < 3; ++h) {
#pragma GCC unroll 3
    for (int w = 0; w < 3; ++w) {
      const int i = r - h, j = s - w;
      if (i >= 0 && i < kTile && j >= 0 && j < kTile) each(i, j, 3 * h + w);
    }
  }
}

// `in`: the tile's first input; `weights`: of the first channel.
template <typename Real, int kEdges>
[[gnu::always_inline]] inline void convolve_tile(const Framed<Real>& x, const Real* in, const Real* weights, Tile<Real>& sums) {
  for (int64_t c = 0; c < x.channels; ++c, in += x.plane, weights += kTaps * kGroup) {
    VecOf<Real> w[kTaps];
#pragma GCC unroll 9
    for (int t = 0; t < kTaps; ++t) w[t] = vload(weights + t * kGroup);
    const Real* const rows[kTile + 2] = {in, in + x.row, in + 2 * x.row, in + 3 * x.row, in + 4 * x.row};
    for_inputs<kEdges>([&](int r, int s) __attribute__((always_inline)) {
      const VecOf<Real> v = vsplat(rows[r][s]);
      for_places(r, s, [&](int i, int j, int tap) __attribute__((always_inline)) { sums[i][j] += w[tap] * v; });
    });
  }
}

template <typename Real, int kEdges>
[[gnu::always_inline]] inline void weight_gradient_tile(const Framed<Real>& x, const Real* in, const Tile<Real>& grads, Real* weight_grad) {
  for (int64_t c = 0; c < x.channels; ++c, in += x.plane, weight_grad += kTaps * kGroup) {
    VecOf<Real> w[kTaps];
#pragma GCC unroll 9
    for (int t = 0; t < kTaps; ++t) w[t] = vload(weight_grad + t * kGroup);
    const Real* const rows[kTile + 2] = {in, in + x.row, in + 2 * x.row, in + 3 * x.row, in + 4 * x.row};
    for_inputs<kEdges>([&](int r, int s) __attribute__((always_inline)) {
      const VecOf<Real> v = vsplat(rows[r][s]);
      for_places(r, s, [&](int i, int j, int tap) __attribute__((always_inline)) { w[tap] += grads[i][j] * v; });
    });
#pragma GCC unroll 9
    for (int t = 0; t < kTaps; ++t) vstore(weight_grad + t * kGroup, w[t]);
  }
}

// Calls tile(edges, column) for the tiles of the strip that begins at row `top`; edges are a constant to the compiler.
template <int kRows, typename Real, typename EachTile>
[[gnu::always_inline]] inline void tiles_of_strip(const Framed<Real>& x, const EachTile& tile) {
  const int64_t last = (tiles(x.width) - 1) * kTile;
  const bool left = x.border >= 2, right = last + kTile >= x.border + x.in_width;
  for (int64_t w = 0; w <= last; w += kTile) {
    if (w == 0 && left) {
      tile(Constant<kRows | kLeft>{}, w);
    } else if (w == last && right) {
      tile(Constant<kRows | kRight>{}, w);
    } else {
      tile(Constant<kRows>{}, w);
    }
  }
}

template <typename Real, typename EachTile>
[[gnu::always_inline]] inline void tiles_of_strip(const Framed<Real>& x, int64_t top, const EachTile& tile) {
  if (top == 0 && x.border >= 2) {
    tiles_of_strip<kTop>(x, tile);
  } else if (top + kTile >= x.border + x.in_height) {
    tiles_of_strip<kBottom>(x, tile);
  } else {
    tiles_of_strip<0>(x, tile);
  }
}

}  // namespace mer_fast::MER_ISA
