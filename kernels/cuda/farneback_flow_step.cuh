// One iteration of Farneback's flow for every pair: matrices, their sums over the window, and the flow that solves them.
//
// A block takes a tile of a pair and marches down its rows, a thread a column: the thread makes the matrices of a pixel and
// keeps the vertical sums of its column by itself, so that only the horizontal sums need barriers, two a row. Vertical sums
// are made as in csrc/cpu/farneback_flow_sweep.h: rows are grouped in blocks as tall as the window, and a window is the tail
// of one block and the head of the next; three additions a row, no subtraction, and the same bits in every tile.
#pragma once

#include "farneback_flow_image.cuh"

namespace mer_fast {

constexpr int kFarnebackChannels = 5;  // of the matrices: xx, xy, yy, and the right side x, y

// Where the flow of an iteration comes from: (pairs, 2, height, width), grown to the level where its size is another; null
// for none.
struct FarnebackFrom {
  const float* flow;
  int height, width;
  float growth;
};

// A box 2 * radius + 1 wide is summed from `pieces` pieces of `piece` pixels and `rest` single ones; a Gaussian window has
// taps middle * exp(-decay * i^2).
struct FarnebackWindow {
  int radius, piece, pieces, rest;
  float regularizer, decay, middle;

  __host__ __device__ int side() const { return 2 * radius + 1; }
};

struct FarnebackTiles {
  int rows, columns;  // of flow in a tile
  int down, across;   // tiles of a pair
  int matrix_columns; // at most, in a tile: with the window's radius on either side, inside the image
};

struct FarnebackStep {
  Index pairs;
  int height, width;
  FarnebackWindow window;
  FarnebackTiles tiles;
  const float4* quads;   // (pairs, 2, height, width)
  const float* twists;
  FarnebackFrom from;
  float* flow;           // (pairs, 2, height, width)
  const unsigned* bad;   // a pair's flow is NaN where this is not zero; null below the finest level
  float* memory;         // memory_floats() for each block where it is not on chip

  __host__ __device__ Index tile_count() const { return pairs * tiles.down * tiles.across; }
  __host__ __device__ int piece_columns() const { return tiles.columns + (window.pieces - 1) * window.piece; }
  // A ring of rows of matrices and two rows of sums; for a box a head and pieces, else the taps.
  __host__ __device__ Index memory_floats(bool gaussian) const {
    const Index line = kFarnebackChannels * static_cast<Index>(tiles.matrix_columns);
    return line * (window.side() + 2) + (gaussian ? window.radius + 1 : line + kFarnebackChannels * piece_columns());
  }
};

// A block's memory: rows of five channels, `stride` floats apart.
struct FarnebackMemory {
  int stride;
  float *ring, *head, *sums, *pieces, *taps;

  __device__ __forceinline__ FarnebackMemory(const FarnebackStep& s, float* memory) : stride(s.tiles.matrix_columns) {
    ring = memory;
    sums = ring + static_cast<Index>(s.window.side()) * line();
    head = sums + 2 * line();
    taps = head;
    pieces = head + line();
  }
  __device__ __forceinline__ int line() const { return kFarnebackChannels * stride; }
};

// The part of a pair that a block works on: flow of rows [y0, y1) and columns [x0, x1), matrices of `columns` from `left` on.
struct FarnebackTile {
  Index pair;
  int y0, y1, x0, x1, left, columns;

  __device__ __forceinline__ FarnebackTile(const FarnebackStep& s, Index tile) {
    const int down = s.tiles.down, across = s.tiles.across, radius = s.window.radius;
    pair = tile / (down * across);
    const int place = static_cast<int>(tile - pair * (down * across)), row = place / across;
    y0 = row * s.tiles.rows;
    y1 = y0 + s.tiles.rows < s.height ? y0 + s.tiles.rows : s.height;
    x0 = (place - row * across) * s.tiles.columns;
    x1 = x0 + s.tiles.columns < s.width ? x0 + s.tiles.columns : s.width;
    left = x0 > radius ? x0 - radius : 0;
    columns = (x1 + radius < s.width ? x1 + radius : s.width) - left;
  }
  __device__ __forceinline__ int column(int x, int width) const { return farneback_clamp(x, width) - left; }
};

// --- matrices ---------------------------------------------------------------------------------------------------------

// Where an image has fewer than ten rows or columns OpenCV's test whether a pixel is near a border wraps around.
__device__ __forceinline__ bool farneback_near_border(int i, int size) {
  return size < 10 ? i < 5 && i >= size - 5 : i < 5 || i >= size - 5;
}

__device__ __forceinline__ float farneback_end_weight(int i) { return i < 2 ? 0.14f : i < 5 ? 0.4472f : 1.0f; }

__device__ __forceinline__ float farneback_border_weight(int y, int x, int height, int width) {
  if (!farneback_near_border(y, height) && !farneback_near_border(x, width)) return 1.0f;
  return farneback_end_weight(y) * farneback_end_weight(height - 1 - y) * farneback_end_weight(x) * farneback_end_weight(width - 1 - x);
}

__device__ __forceinline__ float2 farneback_flow_at(const FarnebackStep& s, Index pair, int y, int x) {
  const FarnebackFrom& from = s.from;
  if (from.flow == nullptr) return make_float2(0.0f, 0.0f);
  const Index pixels = static_cast<Index>(from.height) * from.width;
  const float* const u = from.flow + 2 * pair * pixels;
  if (from.height == s.height && from.width == s.width) {
    const Index at = static_cast<Index>(y) * s.width + x;
    return make_float2(from.growth * u[at], from.growth * u[pixels + at]);
  }
  const FarnebackBetween rows = farneback_between(y, from.height, s.height), columns = farneback_between(x, from.width, s.width);
  const Index at = static_cast<Index>(rows.low) * from.width + columns.low;
  const int below = rows.weight > 0.0f ? from.width : 0, right = columns.weight > 0.0f ? 1 : 0;
  const auto grown = [&](const float* plane) {
    const float* const p = plane + at;
    const float upper = p[0] + columns.weight * (p[right] - p[0]);
    const float lower = p[below] + columns.weight * (p[below + right] - p[below]);
    return from.growth * (upper + rows.weight * (lower - upper));
  };
  return make_float2(grown(u), grown(u + pixels));
}

struct FarnebackExpansion {
  float4 quad;  // b_y / 2, b_x / 2, a_yy / 2, a_xx / 2
  float twist;  // a_xy / 4
};

// The other frame's expansion where the flow points to; outside the frame the own curvature stands for both, and the other
// slope is zero.
__device__ __forceinline__ FarnebackExpansion farneback_meet(
    const FarnebackStep& s, const FarnebackExpansion& own, const float4* __restrict__ quads, const float* __restrict__ twists, float y, float x) {
  const float top = floorf(y), left = floorf(x);
  const bool inside = top >= 0.0f && top < static_cast<float>(s.height - 1) && left >= 0.0f && left < static_cast<float>(s.width - 1);
  if (!inside) return {make_float4(0.0f, 0.0f, own.quad.z, own.quad.w), own.twist};
  const Index at = static_cast<Index>(static_cast<int>(top)) * s.width + static_cast<int>(left);
  const float down = y - top, across = x - left;
  const float weight[4] = {(1.0f - down) * (1.0f - across), (1.0f - down) * across, down * (1.0f - across), down * across};
  const Index corner[4] = {at, at + 1, at + s.width, at + s.width + 1};
  FarnebackExpansion sum{make_float4(0.0f, 0.0f, 0.0f, 0.0f), 0.0f};
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const float4 q = quads[corner[k]];
    sum.quad.x += weight[k] * q.x;
    sum.quad.y += weight[k] * q.y;
    sum.quad.z += weight[k] * q.z;
    sum.quad.w += weight[k] * q.w;
    sum.twist += weight[k] * twists[corner[k]];
  }
  return sum;
}

__device__ __forceinline__ void farneback_matrices(const FarnebackStep& s, Index pair, int y, int x, float (&matrix)[kFarnebackChannels]) {
  const Index pixels = static_cast<Index>(s.height) * s.width, own_at = 2 * pair * pixels + static_cast<Index>(y) * s.width + x;
  const float2 flow = farneback_flow_at(s, pair, y, x);
  const FarnebackExpansion own{s.quads[own_at], s.twists[own_at]};
  const Index other_at = (2 * pair + 1) * pixels;
  const FarnebackExpansion other = farneback_meet(
      s, own, s.quads + other_at, s.twists + other_at, static_cast<float>(y) + flow.y, static_cast<float>(x) + flow.x);
  const float weight = farneback_border_weight(y, x, s.height, s.width);
  float yy = own.quad.z + other.quad.z, xx = own.quad.w + other.quad.w, xy = own.twist + other.twist;
  const float right_y = weight * (own.quad.x - other.quad.x + yy * flow.y + xy * flow.x);
  const float right_x = weight * (own.quad.y - other.quad.y + xy * flow.y + xx * flow.x);
  yy *= weight;
  xx *= weight;
  xy *= weight;
  matrix[0] = xx * xx + xy * xy;
  matrix[1] = (xx + yy) * xy;
  matrix[2] = yy * yy + xy * xy;
  matrix[3] = xx * right_x + xy * right_y;
  matrix[4] = xy * right_x + yy * right_y;
}

// --- sums -------------------------------------------------------------------------------------------------------------

// Where a row of matrices stands: its place in its block of rows, and the first place that has been filled.
struct FarnebackPlace {
  int at, first;
};

// The row's matrix of one column joins the head of its block; the window's sum is that and the tail of the block before.
__device__ __forceinline__ void farneback_box_column(
    const FarnebackStep& s, const FarnebackMemory& m, int column, const FarnebackPlace& place, bool full, const float (&matrix)[kFarnebackChannels],
    float* sums) {
  const int side = s.window.side();
#pragma unroll
  for (int c = 0; c < kFarnebackChannels; ++c) {
    const int at = c * m.stride + column;
    const float head = m.head[at] + matrix[c];
    m.head[at] = head;
    if (full) sums[at] = place.at + 1 < side ? head + m.ring[(place.at + 1) * m.line() + at] : head;
  }
  if (place.at + 1 < side) return;
#pragma unroll
  for (int c = 0; c < kFarnebackChannels; ++c) {  // the block is full: each place gets the sum of it and all behind it
    const int at = c * m.stride + column;
    float behind = matrix[c];
    for (int k = side - 2; k >= 1 && k >= place.first; --k) {
      float* const here = m.ring + k * m.line() + at;
      behind += *here;
      *here = behind;
    }
    m.head[at] = 0.0f;
  }
}

__device__ __forceinline__ void farneback_weighted_column(
    const FarnebackStep& s, const FarnebackMemory& m, int column, const FarnebackPlace& place, float* sums) {
  const int side = s.window.side(), radius = s.window.radius;
  const int middle = (place.at + side - radius) % side;
  for (int c = 0; c < kFarnebackChannels; ++c) {
    const float* const ring = m.ring + c * m.stride + column;
    float sum = m.taps[0] * ring[middle * m.line()];
    for (int k = 1; k <= radius; ++k) {
      const int below = middle + k < side ? middle + k : middle + k - side, above = middle >= k ? middle - k : middle - k + side;
      sum += m.taps[k] * (ring[below * m.line()] + ring[above * m.line()]);
    }
    sums[c * m.stride + column] = sum;
  }
}

// Row y of the matrices of a tile, or of the image's edge beyond it, and, where the window is full, the sums of its columns.
template <bool kGaussian>
__device__ __forceinline__ void farneback_row(
    const FarnebackStep& s, const FarnebackMemory& m, const FarnebackTile& tile, int y, const FarnebackPlace& place, bool full, float* sums) {
  const int inside = farneback_clamp(y, s.height);
  const bool repeats = y > tile.y0 - s.window.radius && inside == farneback_clamp(y - 1, s.height);
  const float* const before = m.ring + (place.at > 0 ? place.at - 1 : s.window.side() - 1) * m.line();
  float* const here = m.ring + place.at * m.line();
  for (int column = threadIdx.x; column < tile.columns; column += blockDim.x) {
    float matrix[kFarnebackChannels];
    if (!repeats) {
      farneback_matrices(s, tile.pair, inside, tile.left + column, matrix);
    } else {
#pragma unroll
      for (int c = 0; c < kFarnebackChannels; ++c) matrix[c] = before[c * m.stride + column];
    }
#pragma unroll
    for (int c = 0; c < kFarnebackChannels; ++c) here[c * m.stride + column] = matrix[c];
    if constexpr (!kGaussian) {
      farneback_box_column(s, m, column, place, full, matrix, sums);
    } else if (full) {
      farneback_weighted_column(s, m, column, place, sums);
    }
  }
}

// --- the flow ---------------------------------------------------------------------------------------------------------

// The first step of a box: pieces[x] is the sum of `piece` sums of columns from x - radius on.
__device__ __forceinline__ void farneback_cut(const FarnebackStep& s, const FarnebackMemory& m, const FarnebackTile& tile, const float* sums) {
  const int count = tile.x1 - tile.x0 + (s.window.pieces - 1) * s.window.piece, stride = s.piece_columns();
  for (int x = threadIdx.x; x < count; x += blockDim.x) {
    float sum[kFarnebackChannels] = {};
    for (int k = 0; k < s.window.piece; ++k) {
      const int column = tile.column(tile.x0 - s.window.radius + x + k, s.width);
#pragma unroll
      for (int c = 0; c < kFarnebackChannels; ++c) sum[c] += sums[c * m.stride + column];
    }
#pragma unroll
    for (int c = 0; c < kFarnebackChannels; ++c) m.pieces[c * stride + x] = sum[c];
  }
}

__device__ __forceinline__ void farneback_box_sum(
    const FarnebackStep& s, const FarnebackMemory& m, const FarnebackTile& tile, const float* sums, int x, float (&sum)[kFarnebackChannels]) {
  const FarnebackWindow& w = s.window;
  const int stride = s.piece_columns();
  for (int k = 0; k < w.pieces; ++k) {
#pragma unroll
    for (int c = 0; c < kFarnebackChannels; ++c) sum[c] += m.pieces[c * stride + x - tile.x0 + k * w.piece];
  }
  for (int k = w.pieces * w.piece; k < w.side(); ++k) {
    const int column = tile.column(x - w.radius + k, s.width);
#pragma unroll
    for (int c = 0; c < kFarnebackChannels; ++c) sum[c] += sums[c * m.stride + column];
  }
}

__device__ __forceinline__ void farneback_weighted_sum(
    const FarnebackStep& s, const FarnebackMemory& m, const FarnebackTile& tile, const float* sums, int x, float (&sum)[kFarnebackChannels]) {
  for (int k = -s.window.radius; k <= s.window.radius; ++k) {
    const int column = tile.column(x + k, s.width);
    const float weight = m.taps[k < 0 ? -k : k];
#pragma unroll
    for (int c = 0; c < kFarnebackChannels; ++c) sum[c] += weight * sums[c * m.stride + column];
  }
}

template <bool kGaussian>
__device__ __forceinline__ void farneback_solve_row(
    const FarnebackStep& s, const FarnebackMemory& m, const FarnebackTile& tile, const float* sums, int y) {
  const Index pixels = static_cast<Index>(s.height) * s.width;
  float* const out = s.flow + 2 * tile.pair * pixels + static_cast<Index>(y) * s.width;
  const bool is_bad = s.bad != nullptr && s.bad[tile.pair] != 0;
  for (int x = tile.x0 + static_cast<int>(threadIdx.x); x < tile.x1; x += blockDim.x) {
    float sum[kFarnebackChannels] = {};
    if constexpr (kGaussian) {
      farneback_weighted_sum(s, m, tile, sums, x, sum);
    } else {
      farneback_box_sum(s, m, tile, sums, x, sum);
    }
    // Sums of squares: the determinant is negative only by rounding.
    const float determinant = fmaxf(sum[0] * sum[2] - sum[1] * sum[1], 0.0f) + s.window.regularizer;
    const float u = (sum[2] * sum[3] - sum[1] * sum[4]) / determinant, v = (sum[0] * sum[4] - sum[1] * sum[3]) / determinant;
    out[x] = is_bad ? __uint_as_float(0x7FC00000u) : u;
    out[pixels + x] = is_bad ? __uint_as_float(0x7FC00000u) : v;
  }
}

template <bool kGaussian>
__device__ __forceinline__ void farneback_march(const FarnebackStep& s, const FarnebackMemory& m, const FarnebackTile& tile) {
  const int radius = s.window.radius;
  if constexpr (!kGaussian) {
    for (int column = threadIdx.x; column < tile.columns; column += blockDim.x) {
#pragma unroll
      for (int c = 0; c < kFarnebackChannels; ++c) m.head[c * m.stride + column] = 0.0f;
    }
  }
  FarnebackPlace place{tile.y0 % s.window.side(), tile.y0 % s.window.side()};
  for (int y = tile.y0 - radius; y < tile.y1 + radius; ++y) {
    const bool full = y >= tile.y0 + radius;
    float* const sums = m.sums + (y & 1) * m.line();  // the row before may still be read
    farneback_row<kGaussian>(s, m, tile, y, place, full, sums);
    if (full) {
      __syncthreads();
      if constexpr (!kGaussian) {
        farneback_cut(s, m, tile, sums);
        __syncthreads();
      }
      farneback_solve_row<kGaussian>(s, m, tile, sums, y - radius);
    }
    if (++place.at == s.window.side()) place = {0, 0};
  }
}

template <bool kGaussian, bool kOnChip>
__global__ void __launch_bounds__(kFarnebackThreads, 2) farneback_iterate(FarnebackStep s) {
  const FarnebackMemory m(s, kOnChip ? dynamic_shared<float>() : s.memory + blockIdx.x * s.memory_floats(kGaussian));
  if constexpr (kGaussian) {
    for (int k = threadIdx.x; k <= s.window.radius; k += blockDim.x) {
      m.taps[k] = s.window.middle * expf(-s.window.decay * static_cast<float>(k * k));
    }
    __syncthreads();
  }
  for (Index tile = blockIdx.x; tile < s.tile_count(); tile += gridDim.x) {
    farneback_march<kGaussian>(s, m, FarnebackTile(s, tile));
    __syncthreads();  // the next tile's sums
  }
}

}  // namespace mer_fast
