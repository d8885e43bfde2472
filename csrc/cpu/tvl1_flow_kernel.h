// Duality-based TV-L1 optical flow (Zach, Pock, Bischof 2007), with the discretisation, warps, median filter and stop
// test of OpenCV's DualTVL1OpticalFlow. What the host code lays out, and the kernel that works on it.
#pragma once

#include <cstdint>

#include "isa.h"
#include "team.h"

namespace mer_fast {

struct Tvl1Params {
  float tau, lam, theta;
  int scales;
  float scale_step;
  int warps;
  float epsilon;
  int inner_iterations, outer_iterations, median;
};

// One level of the pyramid, level 0 the full size. Flow is kept multiplied by tau / theta (see the sweep).
struct Tvl1Level {
  int64_t height, width;
  float *image0, *image1, *u, *v;
};

// A frame as it came: uint8 0..255, or float nominally 0..1.
struct Tvl1Frame {
  const void* data;
  bool bytes;
};

constexpr int kTvl1Halo = 4;          // rows that a band recomputes on each side, so also the longest block of iterations
constexpr int kTvl1TexturePad = 4;    // zero border of the warped texture: every tap of a clamped coordinate exists
constexpr int kTvl1Fields = 10;       // normalised gradient (2), residual, bound; flow (2); dual variables (4)
constexpr int kTvl1MaxLanes = 16;

// Floats from one field of a row to the next: the pixels and at least one vector that stays zero. The sizes of faces share
// a few widths, which the sweep knows at compile time: all its addresses are then one pointer and a constant.
inline int64_t tvl1_field_width(int64_t width) {
  if (width <= 80 - kTvl1MaxLanes) return 80;
  if (width <= 144 - kTvl1MaxLanes) return 144;
  if (width <= 272 - kTvl1MaxLanes) return 272;
  return (width + kTvl1MaxLanes - 1) / kTvl1MaxLanes * kTvl1MaxLanes + kTvl1MaxLanes;
}
inline int64_t tvl1_row_stride(int64_t width) { return kTvl1Fields * tvl1_field_width(width); }
inline int64_t tvl1_texture_size(int64_t height, int64_t width) {
  return (height + 2 * kTvl1TexturePad) * (width + 2 * kTvl1TexturePad) * 4;
}
// Floats of a member's own memory: its band, and scratch rows for medians (5 + 5 + 10 + 1), of which warps need 4.
inline int64_t tvl1_band_size(int64_t rows, int64_t width) { return (rows + 2 * kTvl1Halo + 1) * tvl1_row_stride(width); }
inline int64_t tvl1_scratch_size(int64_t width) { return 21 * (tvl1_field_width(width) + kTvl1MaxLanes); }
// Floats that a member hands to its neighbours: two turns, two sides, the six fields that iterations change.
inline int64_t tvl1_exchange_size(int64_t width) { return 2 * 2 * kTvl1Halo * 6 * tvl1_field_width(width); }

// What the members of a team share while they work on one pair.
struct Tvl1Work {
  Tvl1Params params;
  Tvl1Frame frame0, frame1;
  const float* initial_flow;   // (2, H, W), or null
  float* flow;                 // (2, H, W), the result
  int levels;
  Tvl1Level* level;
  float* texture;
  float* row_error[2];         // (H, kTvl1MaxLanes) each, used in turn
  Team team;
  float **band, **scratch, **exchange;  // one each per member
};

// Runs member `rank` of work.team; all members run it at once.
MER_FAST_DECLARE_KERNEL(void tvl1_solve(Tvl1Work& work, int rank))

}  // namespace mer_fast
