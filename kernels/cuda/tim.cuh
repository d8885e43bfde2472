// Temporal interpolation (TIM): out[o, t, j] = sum_i weight[t, i] clip[o, i, j], the weights in closed form.
//
// Floor: (in + out) * sizeof(Element) bytes and in * out multiply-adds a pixel, everything moved once. Where a GPU does
// about 7 multiply-adds in the time of a byte, bytes bind up to in * out / (in + out) = 7 * sizeof(Element): 60 -> 10
// frames (8.6) in float and half should run at 0.8 to 0.9 of the copy bandwidth, in uint8 at the multiply-add rate.
// Above 16 output frames the clip is read once a tile of them, by neighbouring blocks, so from the second-level cache.
#pragma once

#include "element.cuh"

namespace mer_fast {

struct TimShape {  // clip (outer, in, inner) -> out (outer, out, inner)
  Index outer, in, out, inner;
};

constexpr int kTimThreads = 128;
constexpr int kTimAhead = 4;  // input frames asked for before the first is used

// Pixels of a thread: with 16 frames, 64 float registers of sums. They are neighbours where the layout allows (a pack
// moved at once: 16 bytes of float, 8 of half, 4 of uint8; wider packs would not fit), else a block's width apart.
template <typename Element>
__host__ __device__ constexpr int tim_pixels() {
  return sizeof(Compute<Element>) == 8 ? 2 : 4;
}

// Output frames whose sums a thread keeps in registers: the fewest tiles, and of those the smallest that holds their
// frames (one too many costs arithmetic, not bytes).
__host__ __device__ constexpr int tim_tile(Index out) {
  const Index frames = divide_up(out, divide_up(out, 16));
  return frames <= 4 ? 4 : frames <= 10 ? 10 : 16;
}

// Weights lie as (tile, input frame, row), a row being a tile's output frames padded to 4: a thread reads its row in
// 16-byte pieces, every thread of a block the same.
__host__ __device__ constexpr int tim_row(int tile) { return (tile + 3) / 4 * 4; }

__host__ __device__ constexpr Index tim_tiles(const TimShape& shape, int tile) { return divide_up(shape.out, tile); }

__host__ __device__ constexpr Index tim_weight_count(const TimShape& shape, int tile) {
  return tim_tiles(shape, tile) * shape.in * tim_row(tile);
}

__host__ __device__ constexpr Index tim_weight_blocks(const TimShape& shape, int tile) {
  return divide_up(tim_weight_count(shape, tile), kTimThreads);
}

__host__ __device__ constexpr Index tim_frame_blocks(const TimShape& shape, int tile, int pixels) {
  return divide_up(shape.outer * shape.inner, static_cast<Index>(kTimThreads) * pixels) * tim_tiles(shape, tile);
}

// 1/2 + sum_{k=1}^{n-1} cos(k pi x)
__device__ __forceinline__ double tim_dirichlet(double x, Index n) {
  return x == 0.0 ? n - 0.5 : sinpi((n - 0.5) * x) / (2.0 * sinpi(0.5 * x));
}

// Weight of input frame i (of n) in the output frame that stands at input position s, 0 <= s <= n - 1.
__device__ __forceinline__ double tim_weight(Index i, double s, Index n) {
  return (tim_dirichlet((i - s) / n, n) + tim_dirichlet((i + s + 1.0) / n, n)) / n;
}

// A thread a weight. `adjoint`: those of the op from `out` to `in` frames, transposed.
template <typename Real>
__global__ void __launch_bounds__(kTimThreads) tim_weights(Real* __restrict__ weights, TimShape shape, int tile, bool adjoint) {
  const Index k = static_cast<Index>(blockIdx.x) * kTimThreads + threadIdx.x;
  if (k >= tim_weight_count(shape, tile)) return;
  const int row = tim_row(tile);
  const Index line = k / row, column = k - line * row, part = line / shape.in;
  const Index i = line - part * shape.in, t = part * tile + column;
  const Index n = adjoint ? shape.out : shape.in, m = adjoint ? shape.in : shape.out;
  const Index from = adjoint ? t : i, to = adjoint ? i : t;
  const double s = m == 1 ? 0.0 : static_cast<double>(to) * (n - 1) / (m - 1);
  weights[k] = column < tile && t < shape.out ? static_cast<Real>(tim_weight(from, s, n)) : Real(0);
}

// The sums of one thread: kTile output frames of kRuns packs of kWidth pixels.
template <typename Element, int kTile, int kWidth>
struct TimSums {
  using Real = Compute<Element>;
  static constexpr int kRuns = tim_pixels<Element>() / kWidth;
  using Frame = Pack<Element, kWidth>[kRuns];

  Real sum[kTile][kRuns][kWidth];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int t = 0; t < kTile; ++t)
#pragma unroll
      for (int r = 0; r < kRuns; ++r)
#pragma unroll
        for (int w = 0; w < kWidth; ++w) sum[t][r][w] = 0;
  }

  __device__ __forceinline__ void add(const Frame& frame, const Real* __restrict__ row) {
    Real pixel[kRuns][kWidth];
#pragma unroll
    for (int r = 0; r < kRuns; ++r)
#pragma unroll
      for (int w = 0; w < kWidth; ++w) pixel[r][w] = widen(frame[r].at[w]);
#pragma unroll
    for (int q = 0; q < tim_row(kTile) / 4; ++q) {
      const Pack<Real, 4> weight = reinterpret_cast<const Pack<Real, 4>*>(row)[q];
#pragma unroll
      for (int t = 4 * q; t < (4 * q + 4 < kTile ? 4 * q + 4 : kTile); ++t)
#pragma unroll
        for (int r = 0; r < kRuns; ++r)
#pragma unroll
          for (int w = 0; w < kWidth; ++w) sum[t][r][w] += weight.at[t - 4 * q] * pixel[r][w];
    }
  }

  __device__ __forceinline__ Pack<Element, kWidth> narrowed(int t, int r) const {
    Pack<Element, kWidth> pack;
#pragma unroll
    for (int w = 0; w < kWidth; ++w) pack.at[w] = Narrow<Element>::from(sum[t][r][w]);
    return pack;
  }
};

// kWidth is tim_pixels where `inner` is a multiple of it and both pointers are aligned to a pack, else 1.
// Blocks of one stretch of pixels stand side by side, one a tile of output frames.
template <typename Element, int kTile, int kWidth>
__global__ void __launch_bounds__(kTimThreads)
    tim_frames(const Element* __restrict__ clip, const Compute<Element>* __restrict__ weights, Element* __restrict__ out,
               TimShape shape) {
  using Sums = TimSums<Element, kTile, kWidth>;
  using Packed = Pack<Element, kWidth>;
  const Index frame_packs = shape.inner / kWidth, packs = shape.outer * frame_packs;
  const Index tiles = tim_tiles(shape, kTile), tile = blockIdx.x % tiles;
  const Index first = blockIdx.x / tiles * (kTimThreads * Sums::kRuns) + threadIdx.x;
  if (first >= packs) return;

  const Packed* source[Sums::kRuns];
#pragma unroll
  for (int r = 0; r < Sums::kRuns; ++r) {  // a pack beyond the end reads the last one, and is not written
    const Index pack = min(first + r * kTimThreads, packs - 1), o = pack / frame_packs;
    source[r] = reinterpret_cast<const Packed*>(clip) + o * shape.in * frame_packs + (pack - o * frame_packs);
  }

  Sums sums;
  sums.clear();
  const Compute<Element>* row = weights + tile * shape.in * tim_row(kTile);
  Index i = 0;
  for (; i + kTimAhead <= shape.in; i += kTimAhead) {
    typename Sums::Frame ahead[kTimAhead];
#pragma unroll
    for (int a = 0; a < kTimAhead; ++a)
#pragma unroll
      for (int r = 0; r < Sums::kRuns; ++r) {
        ahead[a][r] = *source[r];
        source[r] += frame_packs;
      }
#pragma unroll
    for (int a = 0; a < kTimAhead; ++a) sums.add(ahead[a], row + a * tim_row(kTile));
    row += kTimAhead * tim_row(kTile);
  }
  for (; i < shape.in; ++i, row += tim_row(kTile)) {
    typename Sums::Frame frame;
#pragma unroll
    for (int r = 0; r < Sums::kRuns; ++r) {
      frame[r] = *source[r];
      source[r] += frame_packs;
    }
    sums.add(frame, row);
  }

#pragma unroll
  for (int r = 0; r < Sums::kRuns; ++r) {
    const Index pack = first + r * kTimThreads, o = pack / frame_packs;
    if (pack >= packs) break;
    Packed* target =
        reinterpret_cast<Packed*>(out) + (o * shape.out + tile * kTile) * frame_packs + (pack - o * frame_packs);
#pragma unroll
    for (int t = 0; t < kTile; ++t) {
      if (tile * kTile + t < shape.out) *target = sums.narrowed(t, r);
      target += frame_packs;
    }
  }
}

}  // namespace mer_fast
