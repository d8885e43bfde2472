// How a convolution is cut into tasks that fit the cache, and which algorithm runs.
#pragma once

#include <algorithm>

#include "conv3d_forward.h"
#include "conv3d_pack.h"

namespace mer_fast {

constexpr int64_t kCache = 1 << 20;     // bytes that a task should work in: half of a second-level cache
constexpr int64_t kCacheMost = 8 << 20;  // where the weights alone fill that, a larger task reads them less often

constexpr int64_t kLeastTaps = 4;       // (channels, times t) for which Winograd's transforms are worth their time
constexpr double kWinogradGain = 0.7;   // and the share of the products that must remain at most

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How the output is cut into tasks, and what one task needs.
struct Plan {
  int winograd;                  // outputs of a tile, a side; 0: direct
  int64_t lanes, outputs;        // of a group
  int64_t block, blocks;         // channels side by side in vectors, one or two, and how many such blocks a group has
  int64_t frames, rows;          // pooled, of a task
  int64_t tasks_t, tasks_h;
  int64_t conv_rows, positions;  // of a task's frame; tiles may reach past them
  int64_t stride_t;
  int64_t weights;               // bytes of a block's
  int64_t tiles_at_once;         // Winograd's, for each reading of the weights
  int64_t pooled_at_once;        // pooled frames computed together, so that weights are read less often
  int64_t ring;                  // convolution frames kept for that
  PackedShape packed;

  // The last block may be narrower.
  int vectors_of(int64_t b) const { return outputs - b * block > lanes ? 2 : 1; }
  int64_t block_of(int64_t b) const { return vectors_of(b) * lanes; }
  int64_t tile_rows() const { return divide_up(conv_rows, winograd); }
  int64_t tiles_wide() const { return divide_up(positions, winograd); }
  int64_t tiles_frame() const { return tile_rows() * tiles_wide(); }
  // Transformed frames of one residue modulo the stride in time lie together, so that those of successive outputs do.
  int64_t place_of_frame(int64_t frame) const {
    const int64_t residue = frame % stride_t, before = std::min(residue, packed.frames % stride_t);
    return residue * (packed.frames / stride_t) + before + frame / stride_t;
  }
  int64_t frame_width() const { return winograd ? winograd * tiles_wide() : positions; }
  int64_t frame_size(int64_t width) const { return (winograd ? winograd * tile_rows() : conv_rows) * frame_width() * width; }
};

// Whether every input is under one tap only, so that a packed copy would be read but once.
template <typename Real>
bool read_once(const ConvCall& call) {
  const ConvShape& s = call.conv;
  bool once = element_size(call.type) == sizeof(Real) && s.stride[2] <= 2;
  for (int d = 0; d < 3; ++d) once &= s.padding[d] == 0 && s.stride[d] >= s.dilation[d] * (s.kernel[d] - 1) + 1;
  return once;
}

template <typename Real>
Plan plan_for(const ConvCall& call, int64_t frames, int64_t rows, int winograd) {
  const ConvShape& conv = call.conv;
  const PoolShape& pool = call.pool;
  Plan plan{};
  plan.lanes = MER_FAST_DISPATCH(vector_lanes, sizeof(Real));
  plan.outputs = conv.outputs;
  plan.winograd = winograd;
  plan.stride_t = conv.stride[0];
  plan.block = (conv.outputs > plan.lanes ? 2 : 1) * plan.lanes;
  plan.blocks = divide_up(conv.outputs, plan.block);
  plan.frames = frames;
  plan.rows = rows;
  plan.tasks_t = divide_up(pool.out[0], frames);
  plan.tasks_h = divide_up(pool.out[1], rows);
  plan.conv_rows = (rows - 1) * pool.stride[1] + pool.kernel[1];
  plan.positions = (pool.out[2] - 1) * pool.stride[2] + pool.kernel[2];
  const int64_t conv_frames = (frames - 1) * pool.stride[0] + pool.kernel[0];
  plan.packed.channels = conv.channels;
  plan.packed.frames = (conv_frames - 1) * conv.stride[0] + (conv.kernel[0] - 1) * conv.dilation[0] + 1;
  // Products of a few tiles stay in the first-level cache; weights that do not fit there should be read less often.
  plan.weights = plan.block * static_cast<int64_t>(sizeof(Real)) *
      (winograd ? winograd_points(winograd) * conv.channels * conv.kernel[0] : conv.taps());
  plan.tiles_at_once = plan.weights < (96 << 10) ? 12 : 48;
  const int64_t positions = winograd ? plan.tile_rows() * plan.tiles_wide() : plan.conv_rows * plan.positions;
  const bool few = plan.weights < (winograd ? 96 << 10 : 16 << 10);
  const int64_t wanted = (winograd ? 48 : 160) / (positions * pool.stride[0]);
  plan.pooled_at_once = few ? 1 : std::clamp<int64_t>(wanted, 1, frames);
  plan.ring = pool.kernel[0] + (plan.pooled_at_once - 1) * pool.stride[0];
  if (winograd) {
    plan.packed.rows = winograd * plan.tile_rows() + winograd_kernel(winograd) - 1;
    plan.packed.phases = winograd;
    plan.packed.width = plan.tiles_wide() + (winograd_side(winograd) - 1) / winograd;
  } else {
    plan.packed.rows = (plan.conv_rows - 1) * conv.stride[1] + (conv.kernel[1] - 1) * conv.dilation[1] + 1;
    plan.packed.phases = conv.stride[2] <= 2 || plan.positions == 1 ? 1 : conv.stride[2];
    if (read_once<Real>(call)) plan.packed.image = &conv.in;
    plan.packed.width = divide_up((plan.positions - 1) * conv.stride[2] + (conv.kernel[2] - 1) * conv.dilation[2] + 1, plan.packed.phases);
  }
  return plan;
}

template <typename Real>
int64_t bytes_of(const Plan& plan, const ConvCall& call) {
  const int64_t tiles = plan.winograd ? winograd_points(plan.winograd) * plan.packed.channels * plan.packed.frames * plan.tiles_frame() : 0;
  return (plan.packed.size() + tiles + plan.ring * plan.frame_size(plan.block)) * static_cast<int64_t>(sizeof(Real));
}

// The cheapest cut that fits the cache: few repeated rows and frames, and enough tasks for the threads.
template <typename Real>
Plan best_plan(const ConvCall& call, int winograd) {
  const PoolShape& pool = call.pool;
  const int64_t room = std::clamp(2 * plan_for<Real>(call, 1, 1, winograd).weights, kCache, kCacheMost);
  Plan best{};
  double least = 0;
  for (int64_t frames = pool.out[0]; frames >= 1; frames = frames == 1 ? 0 : (frames + 1) / 2) {
    for (int64_t rows = 1; rows <= std::min<int64_t>(pool.out[1], 16); ++rows) {
      const Plan plan = plan_for<Real>(call, frames, rows, winograd);
      if (bytes_of<Real>(plan, call) > room && (rows > 1 || frames > 1)) continue;
      const int64_t tasks = call.conv.batch * call.conv.groups * plan.tasks_t * plan.tasks_h;
      const int64_t done = winograd ? winograd * plan.tile_rows() : plan.conv_rows;
      const int64_t conv_frames = (frames - 1) * pool.stride[0] + pool.kernel[0];
      // Frames and rows computed, and a share for packing what they need of the input.
      const double cost = static_cast<double>(plan.tasks_t * plan.tasks_h) *
          (static_cast<double>(done * conv_frames) + 0.02 * static_cast<double>(plan.packed.rows * plan.packed.frames)) *
          (tasks < 8 ? 1.5 : 1.0);
      if (best.block == 0 || cost < least) {
        best = plan;
        least = cost;
      }
    }
  }
  return best;
}

// The tile that takes the fewest products, or 0 where the formula itself is faster.
inline int winograd_tile(const ConvCall& call) {
  const ConvShape& s = call.conv;
  const bool dense = s.stride[1] == 1 && s.stride[2] == 1 && s.dilation[1] == 1 && s.dilation[2] == 1;
  if (!dense || s.kernel[1] != s.kernel[2] || call.exact || call.type == Element::f64 || s.channels * s.kernel[0] < kLeastTaps) return 0;
  int best = 0;
  double least = kWinogradGain * static_cast<double>(s.kernel[1] * s.kernel[2]);
  for (const int m : {4, 3, 2}) {
    if (winograd_kernel(m) != s.kernel[1]) continue;
    double products = winograd_points(m);
    for (int d = 1; d < 3; ++d) {
      const int64_t positions = (call.pool.out[d] - 1) * call.pool.stride[d] + call.pool.kernel[d];
      products *= static_cast<double>(divide_up(positions, m)) / static_cast<double>(positions);
    }
    if (products < least) {
      best = m;
      least = products;
    }
  }
  return best;
}

}  // namespace mer_fast
