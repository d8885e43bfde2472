// The inner iterations of TV-L1 on a tile of an image that one thread block, or a cluster of them, holds on chip.
//
// Per pixel and iteration (u = (u, v) in units of theta / tau, n = grad / |grad|, r0 and bound likewise scaled):
//   t  = clamp(r0 + n . u, -bound, bound)                 the thresholding step, exact for every case of it
//   u' = u - t n + tau div p                              for both components
//   p' = (p + grad u') / (1 + |grad u'|)
// A warp holds 32 columns of up to kRows rows. What iterations change (u, v and the four dual variables) stays in the
// registers of the pixel's thread; what they only read (n, r0, bound) lies in shared memory. Neighbours in the column are
// registers of the same thread, those in the row one shuffle away, those beyond the warp's edge in shared memory: 8 floats
// of shared memory traffic a pixel and iteration (4 read, 4 shuffled), 68 instructions, 3 of them on the special function
// unit.
#pragma once

#include "block.cuh"
#include "element.cuh"

namespace mer_fast {

struct Tvl1Params {
  float tau, lam, theta, scale_step, epsilon;
  int warps, inner_iterations, outer_iterations, median;
};

constexpr int kTvl1Warps = 8;   // of a block at most: 256 threads leave 255 registers each, 144 of them for 24 rows
constexpr int kTvl1Border = 2;  // rows that a median of 5 needs on each side

// How a tile lies on the warps of a block: `groups` of 32 columns, `strips` above one another.
struct Tvl1Grid {
  int rows, columns;  // of the largest tile
  int groups, strips;

  __host__ __device__ constexpr int stride() const { return 32 * groups; }
  __host__ __device__ constexpr int threads() const { return 32 * groups * strips; }
  // Rows of the longest strip.
  __host__ __device__ constexpr int depth() const { return (rows + strips - 1) / strips; }
  // Floats of one component of the flow with the rows beyond its edges, or of one value for every row of every thread.
  __host__ __device__ constexpr int plane(int depth) const {
    const int tile = (rows + 2 * kTvl1Border) * stride(), own = threads() * depth;
    return tile > own ? tile : own;
  }
};

struct alignas(8) Tvl1Pair {  // two fields of a pixel
  float x, y;
};
struct alignas(16) Tvl1Fixed {  // what the iterations after a warp only read
  float nx, ny, residual, bound;
};

// What threads keep for themselves lies as (warp, row of the strip, lane), at distances known to the compiler: addresses
// of a row are then one register and a constant, and 16 rows do not cost 16 registers.
struct Tvl1Shared {
  Tvl1Fixed* fixed;  // threads x kRows, each thread's own
  float* own;        // threads x kRows, each thread's own
  float* plane;      // (rows + 4) x stride: a component of the flow for the median, with its border rows
  Tvl1Pair* below;   // (strips + 1) x stride: u, v of the first row of each strip; the last entry belongs to the block below
  Tvl1Pair* above;   // (strips + 1) x stride: p12, p22 of the row above each strip
  Tvl1Pair* right;   // warps x kRows: u, v of each warp's first column
  Tvl1Pair* left;    // (1 + warps) x kRows: zeros, then p11, p21 of each warp's last column
  float* error;      // kTvl1Warps an iteration
  float* total;      // 16: of each block of the cluster
};

// Floats of shared memory, in that order, with kRows rows a thread and the errors of `errors` iterations.
__host__ __device__ constexpr int tvl1_shared_floats(const Tvl1Grid& g, int depth, int errors) {
  return 5 * g.threads() * depth + g.plane(depth) + 4 * (g.strips + 1) * g.stride() +
         2 * (2 * g.groups * g.strips + 1) * depth + errors * kTvl1Warps + 16;
}

__device__ __forceinline__ Tvl1Shared tvl1_shared(float* memory, const Tvl1Grid& g, int depth, int errors) {
  Tvl1Shared s;
  s.fixed = reinterpret_cast<Tvl1Fixed*>(memory);
  s.own = memory + 4 * g.threads() * depth;
  s.plane = s.own + g.threads() * depth;
  s.below = reinterpret_cast<Tvl1Pair*>(s.plane + g.plane(depth));
  s.above = s.below + (g.strips + 1) * g.stride();
  s.right = s.above + (g.strips + 1) * g.stride();
  s.left = s.right + g.groups * g.strips * depth;
  s.error = reinterpret_cast<float*>(s.left + (g.groups * g.strips + 1) * depth);
  s.total = s.error + errors * kTvl1Warps;
  return s;
}

// The tile of one block. Its edges are edges of the image, or of a halo whose values go stale by one row and column an
// iteration, or (rows above and below) the blocks of the same cluster before and after this one.
struct Tvl1Tile {
  Tvl1Shared memory;
  int rows, columns, stride, groups, strips;
  int core_top, core_bottom, core_left, core_right;  // what of a tile with a halo counts
  unsigned rank, blocks;                             // in the cluster
  int rows_above;                                    // of the tile of the block before

  __device__ __forceinline__ bool has_above() const { return rank > 0; }
  __device__ __forceinline__ bool has_below() const { return rank + 1 < blocks; }
  __device__ __forceinline__ void sync() const {
    if (blocks > 1) {
      cluster_sync();
    } else {
      __syncthreads();
    }
  }
};

// What a thread holds: a column of `count` rows from row `first` of the tile. Rows from `count` to kRows are computed as
// all others, so that shuffles stand in straight code, and count for nothing.
template <int kRows>
struct Tvl1Strip {
  int warp, lane, group, strip, column, first, count;
  int own;  // of this thread's values of row 0 of the strip, those of the next row 32 further on
  float u[kRows], v[kRows], p11[kRows], p12[kRows], p21[kRows], p22[kRows];

  __device__ __forceinline__ explicit Tvl1Strip(const Tvl1Tile& tile) {
    warp = static_cast<int>(threadIdx.x) / 32;
    lane = static_cast<int>(threadIdx.x) % 32;
    group = warp % tile.groups;
    strip = warp / tile.groups;
    column = 32 * group + lane;
    first = tile.rows * strip / tile.strips;
    count = tile.rows * (strip + 1) / tile.strips - first;
    own = 32 * kRows * warp + lane;
  }

  __device__ __forceinline__ void clear_dual() {
#pragma unroll
    for (int r = 0; r < kRows; ++r) p11[r] = p12[r] = p21[r] = p22[r] = 0.0f;
  }
};

#ifdef __CUDACC__
// What is computed from x is computed behind this, not before the loops around it.
__device__ __forceinline__ void pin(int& x) { asm volatile("" : "+r"(x)); }

// One instruction each, 1 to 2 units in the last place; without .ftz the compiler adds three to save denormal numbers.
__device__ __forceinline__ float approximate_rsqrt(float x) {
  float y;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float approximate_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
#else
inline void pin(int&) {}
inline float approximate_rsqrt(float x) { return 1.0f / sqrtf(x); }
inline float approximate_reciprocal(float x) { return 1.0f / x; }
#endif

constexpr unsigned kTvl1AllLanes = 0xFFFFFFFFu;

__device__ __forceinline__ float tvl1_clamp(float x, float bound) { return fminf(fmaxf(x, -bound), bound); }

// What the strips tell each other of the dual variables, and what lies beyond the tile: all zero.
__device__ __forceinline__ void tvl1_clear_edges(const Tvl1Tile& tile, int depth) {
  for (int k = static_cast<int>(threadIdx.x); k < (tile.strips + 1) * tile.stride; k += static_cast<int>(blockDim.x)) {
    tile.memory.above[k] = {0.0f, 0.0f};
  }
  for (int k = static_cast<int>(threadIdx.x); k < (1 + tile.groups * tile.strips) * depth; k += static_cast<int>(blockDim.x)) {
    tile.memory.left[k] = {0.0f, 0.0f};
  }
}

// Tells the neighbours the edges of dual variables that were read from memory.
template <int kRows>
__device__ __forceinline__ void tvl1_tell_dual(const Tvl1Tile& tile, const Tvl1Strip<kRows>& s) {
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const float p11 = s.p11[r], p12 = s.p12[r], p21 = s.p21[r], p22 = s.p22[r];
    if (s.lane == 31) tile.memory.left[kRows * (1 + s.warp) + r] = {p11, p21};
    if (r == s.count - 1) tile.memory.above[(s.strip + 1) * tile.stride + s.column] = {p12, p22};
  }
}

// First half of an iteration: the flow. The change of the warp's pixels, squared and summed, goes to memory.error[turn].
// kCore: only what lies in the core counts.
template <bool kCore, int kRows>
__device__ __forceinline__ void tvl1_update_flow(const Tvl1Tile& tile, Tvl1Strip<kRows>& s, float tau, int turn) {
  const Tvl1Shared& m = tile.memory;
  const Tvl1Pair* left = m.left + (s.group == 0 ? 0 : kRows * s.warp);
  Tvl1Pair* right = m.right + kRows * s.warp;
  Tvl1Pair above = m.above[s.strip * tile.stride + s.column];
  const bool ends = s.strip == tile.strips - 1 && !tile.has_below();
  Tvl1Pair* end = m.below + tile.strips * tile.stride + s.column;
  float sum = 0.0f;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const float shifted1 = __shfl_up_sync(kTvl1AllLanes, s.p11[r], 1), shifted2 = __shfl_up_sync(kTvl1AllLanes, s.p21[r], 1);
    const Tvl1Pair edge = left[r];
    const float left1 = s.lane == 0 ? edge.x : shifted1, left2 = s.lane == 0 ? edge.y : shifted2;
    const Tvl1Fixed c = m.fixed[s.own + 32 * r];
    const float t = tvl1_clamp(c.residual + c.nx * s.u[r] + c.ny * s.v[r], c.bound);
    const float div_u = (s.p11[r] - left1) + (s.p12[r] - above.x), div_v = (s.p21[r] - left2) + (s.p22[r] - above.y);
    const float u = (s.u[r] - t * c.nx) + tau * div_u, v = (s.v[r] - t * c.ny) + tau * div_v;
    const float du = u - s.u[r], dv = v - s.v[r];
    const int row = s.first + r;
    if (r < s.count && (!kCore || (row >= tile.core_top && row < tile.core_bottom))) sum += du * du + dv * dv;
    s.u[r] = u;
    s.v[r] = v;
    above = {s.p12[r], s.p22[r]};
    if (s.lane == 0) right[r] = {u, v};
    if (r == s.count - 1 && ends) *end = {u, v};  // nothing further down: a gradient of zero
  }
  m.below[s.strip * tile.stride + s.column] = {s.u[0], s.v[0]};
  if (s.strip == 0 && tile.has_above()) {
    cluster_map(m.below, tile.rank - 1)[tile.strips * tile.stride + s.column] = {s.u[0], s.v[0]};
  }
  if (kCore ? s.column < tile.core_left || s.column >= tile.core_right : s.column >= tile.columns) sum = 0.0f;
#pragma unroll
  for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(kTvl1AllLanes, sum, d);
  if (s.lane == 0) m.error[turn * kTvl1Warps + s.warp] = sum;
}

// 1 + |gradient|. The square is never zero: its inverse root is finite.
__device__ __forceinline__ float tvl1_length(float gx, float gy) {
  const float square = 1e-20f + gx * gx + gy * gy;
  return 1.0f + square * approximate_rsqrt(square);
}

// Second half of an iteration: the dual variables. Both components share one reciprocal: 1/a = b / (a b).
template <int kRows>
__device__ __forceinline__ void tvl1_update_dual(const Tvl1Tile& tile, Tvl1Strip<kRows>& s) {
  const Tvl1Shared& m = tile.memory;
  const bool inner = s.column + 1 < tile.columns, last_strip = s.strip == tile.strips - 1;
  const Tvl1Pair* right = m.right + kRows * (s.group + 1 < tile.groups ? s.warp + 1 : s.warp);
  Tvl1Pair* left = m.left + kRows * (1 + s.warp);
  const Tvl1Pair under = m.below[(s.strip + 1) * tile.stride + s.column];
  Tvl1Pair* above = m.above + (s.strip + 1) * tile.stride + s.column;  // the last strip's own is read by nobody
  if (last_strip && tile.has_below()) above = cluster_map(m.above, tile.rank + 1) + s.column;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const float shifted_u = __shfl_down_sync(kTvl1AllLanes, s.u[r], 1), shifted_v = __shfl_down_sync(kTvl1AllLanes, s.v[r], 1);
    const Tvl1Pair edge = right[r];
    const float right_u = s.lane == 31 ? edge.x : shifted_u, right_v = s.lane == 31 ? edge.y : shifted_v;
    const bool last = r == s.count - 1;
    const int next = r + 1 < kRows ? r + 1 : r;
    const float next_u = s.u[next], next_v = s.v[next];  // read before they are chosen: an array in registers has no address
    const float below_u = last ? under.x : next_u, below_v = last ? under.y : next_v;
    const float ux = inner ? right_u - s.u[r] : 0.0f, vx = inner ? right_v - s.v[r] : 0.0f;
    const float uy = below_u - s.u[r], vy = below_v - s.v[r];
    const float length_u = tvl1_length(ux, uy), length_v = tvl1_length(vx, vy);
    const float shrink = approximate_reciprocal(length_u * length_v);
    const float shrink_u = shrink * length_v, shrink_v = shrink * length_u;
    const float p11 = (s.p11[r] + ux) * shrink_u, p12 = (s.p12[r] + uy) * shrink_u;
    const float p21 = (s.p21[r] + vx) * shrink_v, p22 = (s.p22[r] + vy) * shrink_v;
    if (s.lane == 31) left[r] = {p11, p21};
    if (last) *above = {p12, p22};
    s.p11[r] = p11;
    s.p12[r] = p12;
    s.p21[r] = p21;
    s.p22[r] = p22;
  }
}

// The sum of one iteration's error over the warps of the block, in every thread.
__device__ __forceinline__ float tvl1_block_error(const Tvl1Tile& tile, int lane, int turn) {
  float sum = lane < tile.groups * tile.strips ? tile.memory.error[turn * kTvl1Warps + lane] : 0.0f;
#pragma unroll
  for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(kTvl1AllLanes, sum, d);
  return sum;
}

// One iteration by all blocks of the cluster; returns the change of the flow over all of them, the same in every thread.
template <int kRows>
__device__ __forceinline__ float tvl1_iteration(const Tvl1Tile& tile, Tvl1Strip<kRows>& s, float tau) {
  tvl1_update_flow<false>(tile, s, tau, 0);
  tile.sync();
  const float sum = tvl1_block_error(tile, s.lane, 0);
  if (threadIdx.x < tile.blocks) {
    float* total = tile.blocks > 1 ? cluster_map(tile.memory.total, threadIdx.x) : tile.memory.total;
    total[tile.rank] = sum;
  }
  tvl1_update_dual(tile, s);
  tile.sync();
  float error = 0.0f;
  for (unsigned b = 0; b < tile.blocks; ++b) error += tile.memory.total[b];
  return error;
}

}  // namespace mer_fast
