// Duality-based TV-L1 optical flow (Zach, Pock, Bischof 2007), with the discretisation, warps, median filter and stop test
// of OpenCV's DualTVL1OpticalFlow. Two ways through a level of the pyramid, both for the whole batch in each launch:
//
//   resident  tvl1_solve: a cluster of 1 to 16 blocks holds a pair's level on chip and runs all its warps, medians and
//             iterations in one launch, each pair to its own stop test. Up to 256 x 256 pixels on sm_90: a block holds 6144
//             pixels, so 128 x 128 takes 4 blocks, 224 x 224 and 256 x 256 take 16 (more than the 8 that every GPU of sm_90
//             grants; where it does not, and without clusters beyond one block, the level is tiled).
//   tiled     tvl1_warp, then tvl1_iterate ceil(iterations / kTvl1Steps) + 1 times a warp, whatever the image's size. Each
//             launch runs kTvl1Steps iterations on overlapped tiles and leaves the error of each; the next one sums them, and
//             where a pair met the stop test within the last launch runs that again only so far. A pair that has stopped
//             costs its blocks a few reads.
//
// kTvl1Steps = 6: a tile of 64 x 56 pixels (what the 99 KB of shared memory of sm_86 hold) keeps 48 x 40 of them clear of
// its halo of 6, and 2 for the median, 54%; 5 would keep 59% but cost a launch and a trip of 80 bytes a pixel through
// memory more often, 10 keep 36%. It divides the 30 iterations between two medians of OpenCV's defaults, and 300 of IPOL's.
//
// Floor, for 224 x 224 at OpenCV's defaults (124,000 pixels in five levels, 44 of 300 iterations a warp on faces, 3 medians):
// 27 M iterations of a pixel of 68 instructions and 32 bytes of shared memory, 3.7 M medians of 190 minima at half rate
// and 200 bytes, 0.6 M warped samples of 150 instructions: 3.3 G instructions, 100 us of an H200 (33 T a second), so 10,000
// pairs a second; off chip 3 MB, 0.7 us. Expected: a third to a half of that floor, since every iteration waits at two
// barriers of up to 16 blocks, and 8 warps with 255 registers each cannot hide all of it. Launches: 10 for 5 levels, for
// any batch.
#pragma once

#include "frames.cuh"
#include "tvl1_flow_median.cuh"
#include "tvl1_flow_warp.cuh"

namespace mer_fast {

constexpr int kTvl1Threads = 256;  // of the kernels that work pixel by pixel
constexpr int kTvl1Steps = 6;
constexpr int kTvl1Halo = kTvl1Steps + kTvl1Border;
constexpr int kTvl1TileRows = 56, kTvl1TileColumns = 64;
constexpr int kTvl1CoreRows = kTvl1TileRows - 2 * kTvl1Halo, kTvl1CoreColumns = kTvl1TileColumns - 2 * kTvl1Halo;
__host__ __device__ constexpr Tvl1Grid tvl1_tile_grid() { return {kTvl1TileRows, kTvl1TileColumns, 2, 4}; }

// --- frames and pyramid -----------------------------------------------------------------------------------------------

// Frames (pairs, pixels) as 0..255 in images (2, pairs, pixels). A pair with a value that is no gray level of 0..1 is marked.
template <typename Element>
__global__ void __launch_bounds__(kTvl1Threads)
    tvl1_load(const Element* __restrict__ frame0, const Element* __restrict__ frame1, float* __restrict__ images,
              unsigned* __restrict__ bad, Index pairs, Index pixels) {
  const Index k = static_cast<Index>(blockIdx.x) * kTvl1Threads + threadIdx.x;
  if (k >= 2 * pairs * pixels) return;
  const Index in_frame = k < pairs * pixels ? k : k - pairs * pixels;
  const Element value = (k < pairs * pixels ? frame0 : frame1)[in_frame];
  if (is_bad_gray(value)) atomicOr(bad + in_frame / pixels, 1u);
  images[k] = gray(value);
}

// Marks the pairs whose initial flow (pairs, 2, pixels) is not finite.
__global__ void __launch_bounds__(kTvl1Threads)
    tvl1_check(const float* __restrict__ flow, unsigned* __restrict__ bad, Index pairs, Index pixels) {
  const Index k = static_cast<Index>(blockIdx.x) * kTvl1Threads + threadIdx.x;
  if (k < 2 * pairs * pixels && !(fabsf(flow[k]) <= 3.402823466e38f)) atomicOr(bad + k / (2 * pixels), 1u);
}

__global__ void __launch_bounds__(kTvl1Threads)
    tvl1_resize(const float* __restrict__ from, float* __restrict__ to, Index planes, Tvl1Resize resize) {
  const Index k = static_cast<Index>(blockIdx.x) * kTvl1Threads + threadIdx.x;
  const Index pixels = static_cast<Index>(resize.out_height) * resize.out_width;
  if (k >= planes * pixels) return;
  const Index plane = k / pixels;
  const int pixel = static_cast<int>(k - plane * pixels), y = pixel / resize.out_width;
  const float* source = from + plane * resize.in_height * resize.in_width;
  to[k] = tvl1_resized(source, resize, y, pixel - y * resize.out_width);
}

// --- a level ----------------------------------------------------------------------------------------------------------

struct Tvl1Level {
  Index pairs;
  int height, width;
  const float* images;  // (2, pairs, height, width), 0..255
  Tvl1Start start;
  float* flow;          // (pairs, 2, height, width), in units of theta / tau times `factor`
  float factor;
  const unsigned* bad;  // a pair's flow is NaN where this is not zero; null below the finest level

  __device__ __forceinline__ Index pixels() const { return static_cast<Index>(height) * width; }
  __device__ __forceinline__ Tvl1Image image(Index pair) const {
    return {images + pair * pixels(), images + (pairs + pair) * pixels(), height, width};
  }
  __device__ __forceinline__ void write(Index pair, int y, int x, float u, float v) const {
    const bool is_bad = bad != nullptr && bad[pair] != 0;
    float* out = flow + 2 * pair * pixels() + static_cast<Index>(y) * width + x;
    out[0] = is_bad ? __uint_as_float(0x7FC00000u) : factor * u;
    out[pixels()] = is_bad ? __uint_as_float(0x7FC00000u) : factor * v;
  }
};

__device__ __forceinline__ float tvl1_threshold(const Tvl1Level& level, const Tvl1Params& p) {
  const float scale = p.tau / p.theta;
  return p.epsilon * p.epsilon * static_cast<float>(level.height) * static_cast<float>(level.width) * scale * scale;
}

// Where a level is resident: `blocks` of a cluster with `depth` rows a thread (8, 16 or 24); blocks is 0 where it is tiled.
struct Tvl1Fit {
  Tvl1Grid grid;
  int depth, blocks;

  __host__ __device__ constexpr int shared_bytes() const { return 4 * tvl1_shared_floats(grid, depth, 1); }
};

// The fewest blocks that hold a level; they do not depend on the batch, so neither does a pair's flow.
__host__ __device__ constexpr Tvl1Fit tvl1_fit(int height, int width, int most_blocks, int most_shared_bytes) {
  const int groups = (width + 31) / 32;
  for (int blocks = 1; groups <= kTvl1Warps && blocks <= most_blocks; blocks *= 2) {
    const Tvl1Grid grid{(height + blocks - 1) / blocks, width, groups, kTvl1Warps / groups};
    const Tvl1Fit fit{grid, (grid.depth() + 7) / 8 * 8, blocks};
    if (fit.depth <= 24 && fit.shared_bytes() <= most_shared_bytes) return fit;
  }
  return {{0, 0, 0, 0}, 0, 0};
}

// --- resident levels --------------------------------------------------------------------------------------------------

// Between the iterations of two warps a thread keeps its flow in shared memory, where a loop that is not unrolled finds
// it, and leaves its registers to the sampling.
template <int kRows>
struct Tvl1Kept {
  float *u, *v;

  __device__ __forceinline__ Tvl1Kept(const Tvl1Tile& tile, const Tvl1Strip<kRows>& s)
      : u(tile.memory.own + s.own), v(tile.memory.plane + s.own) {}

  __device__ __forceinline__ void store(const Tvl1Strip<kRows>& s) const {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      u[32 * r] = s.u[r];
      v[32 * r] = s.v[r];
    }
  }
  __device__ __forceinline__ void load(Tvl1Strip<kRows>& s) const {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      s.u[r] = u[32 * r];
      s.v[r] = v[32 * r];
    }
  }
};

template <int kRows>
__device__ __forceinline__ void tvl1_iterate_tile(const Tvl1Tile& tile, Tvl1Strip<kRows>& s, const Tvl1Params& p, float threshold) {
  bool running = true;
  for (int outer = 0; outer < p.outer_iterations && running; ++outer) {
    if (p.median > 1) tvl1_median(tile, s, p.median);
    for (int inner = 0; inner < p.inner_iterations && running; ++inner) running = __any_sync(kTvl1AllLanes, tvl1_iteration(tile, s, p.tau) > threshold);
  }
}

// One pair a cluster, one level: kRows rows a thread (grid.depth() of them at most).
template <int kRows>
__global__ void __launch_bounds__(32 * kTvl1Warps, 1) tvl1_solve(Tvl1Level level, Tvl1Params p, Tvl1Grid grid) {
  Tvl1Tile tile;
  tile.memory = tvl1_shared(dynamic_shared<float>(), grid, kRows, 1);
  tile.rank = cluster_rank();
  tile.blocks = cluster_blocks();
  const int rank = static_cast<int>(tile.rank), blocks = static_cast<int>(tile.blocks);
  const Index pair = blockIdx.x / tile.blocks;
  const int top = level.height * rank / blocks;
  tile.rows = level.height * (rank + 1) / blocks - top;
  tile.rows_above = rank > 0 ? top - level.height * (rank - 1) / blocks : 0;
  tile.columns = level.width;
  tile.stride = grid.stride();
  tile.groups = grid.groups;
  tile.strips = grid.strips;

  Tvl1Strip<kRows> s(tile);
  const Tvl1Kept<kRows> kept(tile, s);
  const bool inside = s.column < tile.columns;
#pragma unroll 1
  for (int r = 0; r < kRows; ++r) {
    const Tvl1Pair start = inside && r < s.count ? level.start.at(pair, top + s.first + r, s.column) : Tvl1Pair{0.0f, 0.0f};
    kept.u[32 * r] = start.x;
    kept.v[32 * r] = start.y;
  }
  s.clear_dual();
  tvl1_clear_edges(tile, kRows);
  tile.sync();
  const Tvl1Image image = level.image(pair);
  const float threshold = tvl1_threshold(level, p);
  for (int warp = 0; warp < p.warps; ++warp) {
    Tvl1Fixed* fixed = tile.memory.fixed + s.own;
#pragma unroll 1
    for (int r = 0; r < kRows; ++r) {
      Tvl1Fixed value{0.0f, 0.0f, 0.0f, 0.0f};
      if (inside && r < s.count) value = tvl1_warped(image, p, top + s.first + r, s.column, kept.u[32 * r], kept.v[32 * r]);
      fixed[32 * r] = value;
    }
    kept.load(s);
    tile.sync();  // before a median, of another block too, writes where the flow was kept
    tvl1_iterate_tile(tile, s, p, threshold);
    kept.store(s);
  }
#pragma unroll 1
  for (int r = 0; r < s.count; ++r) {
    if (inside) level.write(pair, top + s.first + r, s.column, kept.u[32 * r], kept.v[32 * r]);
  }
  tile.sync();  // no block ends while another may still write to it
}

// --- tiled levels -----------------------------------------------------------------------------------------------------

// How far a pair is. Each launch on a level reads what the last one left and leaves its own in the other of two slots.
struct Tvl1Progress {
  int from;   // which of the two states the launch read
  int steps;  // iterations that it ran from there: what it wrote is the other state; 0: nothing
  int done;   // the pair has stopped, or its iterations are over
};

struct alignas(8) Tvl1State {  // of a pixel between two launches
  float u, v, p11, p12, p21, p22;
};

struct Tvl1Tiles {
  Tvl1Fixed* fixed;          // (pairs, height, width)
  Tvl1State *state0, *state1;  // (pairs, height, width)
  float *errors0, *errors1;  // (pairs, kTvl1Steps, down * across)
  Tvl1Progress *progress0, *progress1;  // (pairs)
  int down, across;          // tiles of a pair

  __device__ __forceinline__ Tvl1State* state(int which) const { return which ? state1 : state0; }
  __device__ __forceinline__ float* errors(int slot) const { return slot ? errors1 : errors0; }
  __device__ __forceinline__ Tvl1Progress* progress(int slot) const { return slot ? progress1 : progress0; }
};

// The state that holds a pair's flow after the launch that left `last`.
__device__ __forceinline__ int tvl1_current(const Tvl1Progress& last) { return last.steps > 0 ? 1 - last.from : last.from; }

// Warps the second frame by the flow so far; at a level's first warp the flow is the start's, and the dual variables zero.
__global__ void __launch_bounds__(kTvl1Threads) tvl1_warp(Tvl1Level level, Tvl1Params p, Tvl1Tiles tiles, int slot, bool first) {
  const Index blocks = divide_up(level.pixels(), kTvl1Threads), pair = blockIdx.x / blocks;
  const Index pixel = (blockIdx.x - pair * blocks) * kTvl1Threads + threadIdx.x;
  const int current = first ? 0 : tvl1_current(tiles.progress(1 - slot)[pair]);
  if (pixel == 0) tiles.progress(slot)[pair] = {current, 0, 0};
  if (pixel >= level.pixels()) return;
  const int y = static_cast<int>(pixel / level.width), x = static_cast<int>(pixel - static_cast<Index>(y) * level.width);
  Tvl1State& state = tiles.state(current)[pair * level.pixels() + pixel];
  Tvl1Pair flow;
  if (first) {
    flow = level.start.at(pair, y, x);
    state = {flow.x, flow.y, 0.0f, 0.0f, 0.0f, 0.0f};
  } else {
    flow = {state.u, state.v};
  }
  const Tvl1Fixed fixed = tvl1_warped(level.image(pair), p, y, x, flow.x, flow.y);
  tiles.fixed[pair * level.pixels() + pixel] = fixed;
}

// The sum over the tiles of the error of each iteration of the last launch, in an order of its own: warp i of a block sums
// iteration i. Returns how many of them the pair needs: up to the first that meets the stop test, or all and one more.
__device__ __forceinline__ int tvl1_steps_needed(const float* errors, int count, int steps, float threshold, float* sums) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  float sum = 0.0f;
  if (warp < steps) {
    for (int k = lane; k < count; k += 32) sum += errors[static_cast<Index>(warp) * count + k];
  }
#pragma unroll
  for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(kTvl1AllLanes, sum, d);
  if (lane == 0) sums[warp] = sum;
  __syncthreads();
  int needed = 1;
  while (needed <= steps && sums[needed - 1] > threshold) ++needed;
  return needed;
}

// What this launch has to do for its pair.
struct Tvl1Task {
  int from, steps;
  bool done;
};

// `turn`: of this launch among those of the warp. In the last one nothing is left but to run a launch again.
__device__ __forceinline__ Tvl1Task tvl1_task(
    const Tvl1Level& level, const Tvl1Params& p, const Tvl1Tiles& tiles, Index pair, int slot, int turn, float* sums) {
  const Tvl1Progress last = tiles.progress(1 - slot)[pair];
  if (last.done) return {tvl1_current(last), 0, true};
  const int turns = (p.inner_iterations + kTvl1Steps - 1) / kTvl1Steps;  // between two medians
  const int begun = turn % turns * kTvl1Steps;
  const int next = turn < turns * p.outer_iterations ? min(kTvl1Steps, p.inner_iterations - begun) : 0;
  if (last.steps == 0) return {last.from, next, false};
  const int count = tiles.down * tiles.across;
  const float* errors = tiles.errors(1 - slot) + pair * kTvl1Steps * count;
  const int needed = tvl1_steps_needed(errors, count, last.steps, tvl1_threshold(level, p), sums);
  if (needed > last.steps) return {1 - last.from, next, next == 0};
  if (needed == last.steps) return {1 - last.from, 0, true};
  return {last.from, needed, true};
}

// The part of the image that a block holds: its core, where it writes, and a halo inside the image.
__device__ __forceinline__ Tvl1Tile tvl1_tile(const Tvl1Level& level, int core_y, int core_x, int* top, int* left) {
  Tvl1Tile tile;
  constexpr Tvl1Grid grid = tvl1_tile_grid();
  tile.memory = tvl1_shared(dynamic_shared<float>(), grid, grid.depth(), kTvl1Steps);
  *top = max(core_y - kTvl1Halo, 0);
  *left = max(core_x - kTvl1Halo, 0);
  tile.rows = min(core_y + kTvl1CoreRows + kTvl1Halo, level.height) - *top;
  tile.columns = min(core_x + kTvl1CoreColumns + kTvl1Halo, level.width) - *left;
  tile.stride = grid.stride();
  tile.groups = grid.groups;
  tile.strips = grid.strips;
  tile.core_top = core_y - *top;
  tile.core_left = core_x - *left;
  tile.core_bottom = min(core_y + kTvl1CoreRows, level.height) - *top;
  tile.core_right = min(core_x + kTvl1CoreColumns, level.width) - *left;
  tile.rank = 0;
  tile.blocks = 1;
  tile.rows_above = 0;
  return tile;
}

template <int kRows>
__device__ __forceinline__ void tvl1_read_tile(
    const Tvl1Tile& tile, Tvl1Strip<kRows>& s, const Tvl1State* state, const Tvl1Fixed* fixed, int width) {
  const Index first = static_cast<Index>(s.first) * width + s.column;
  state += first;
  fixed += first;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const bool inside = s.column < tile.columns && r < s.count;
    const Tvl1State read = inside ? *state : Tvl1State{0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    s.u[r] = read.u;
    s.v[r] = read.v;
    s.p11[r] = read.p11;
    s.p12[r] = read.p12;
    s.p21[r] = read.p21;
    s.p22[r] = read.p22;
    tile.memory.fixed[s.own + 32 * r] = inside ? *fixed : Tvl1Fixed{0.0f, 0.0f, 0.0f, 0.0f};
    state += width;
    fixed += width;
  }
}

// One launch's iterations on one tile a block. `write_flow`: this is the level's last launch, and gives its flow.
__global__ void __launch_bounds__(32 * kTvl1Warps, 1)
    tvl1_iterate(Tvl1Level level, Tvl1Params p, Tvl1Tiles tiles, int slot, int turn, bool write_flow) {
  const int count = tiles.down * tiles.across;
  const Index pair = blockIdx.x / count;
  const int index = static_cast<int>(blockIdx.x - pair * count), tile_y = index / tiles.across;
  int top, left;
  const Tvl1Tile tile =
      tvl1_tile(level, tile_y * kTvl1CoreRows, (index - tile_y * tiles.across) * kTvl1CoreColumns, &top, &left);
  const Tvl1Task task = tvl1_task(level, p, tiles, pair, slot, turn, tile.memory.total);
  if (index == 0 && threadIdx.x == 0) tiles.progress(slot)[pair] = {task.from, task.steps, task.done};
  if (task.steps == 0 && !write_flow) return;

  constexpr int kDepth = tvl1_tile_grid().depth();
  Tvl1Strip<kDepth> s(tile);
  const Index corner = pair * level.pixels() + static_cast<Index>(top) * level.width + left;
  tvl1_read_tile(tile, s, tiles.state(task.from) + corner, tiles.fixed + corner, level.width);
  if (task.steps > 0) {
    const int turns = (p.inner_iterations + kTvl1Steps - 1) / kTvl1Steps;
    const int run = task.done ? turn - 1 : turn;  // which launch's iterations these are
    tvl1_clear_edges(tile, kDepth);
    __syncthreads();
    tvl1_tell_dual(tile, s);
    __syncthreads();
    if (p.median > 1 && run % turns == 0) tvl1_median(tile, s, p.median);
    for (int step = 0; step < task.steps; ++step) {
      tvl1_update_flow<true>(tile, s, p.tau, step);
      __syncthreads();
      tvl1_update_dual(tile, s);
      __syncthreads();
    }
    Tvl1State* state = tiles.state(1 - task.from) + corner + static_cast<Index>(s.first) * level.width + s.column;
    const bool in_core = s.column >= tile.core_left && s.column < tile.core_right;
#pragma unroll
    for (int r = 0; r < kDepth; ++r) {
      const int row = s.first + r;
      const Tvl1State pixel{s.u[r], s.v[r], s.p11[r], s.p12[r], s.p21[r], s.p22[r]};
      if (in_core && r < s.count && row >= tile.core_top && row < tile.core_bottom) *state = pixel;
      state += level.width;
    }
    const float error = tvl1_block_error(tile, s.lane, min(s.warp, task.steps - 1));
    if (s.lane == 0 && s.warp < task.steps) tiles.errors(slot)[(pair * kTvl1Steps + s.warp) * count + index] = error;
  }
  if (write_flow && s.column >= tile.core_left && s.column < tile.core_right) {
#pragma unroll
    for (int r = 0; r < kDepth; ++r) {
      const int row = s.first + r;
      if (r < s.count && row >= tile.core_top && row < tile.core_bottom) level.write(pair, top + row, left + s.column, s.u[r], s.v[r]);
    }
  }
}

}  // namespace mer_fast
