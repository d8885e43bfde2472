// Farneback's optical flow by polynomial expansion (SCIA 2003), with the pyramid, borders, weights and windows of OpenCV's
// calcOpticalFlowFarneback. What the host code lays out, and the kernel that works on it.
//
// The floor, a pixel of a level: an iteration reads two expansions of 5 floats and a flow and writes a flow (56 bytes, from the
// second-level cache up to about 250x250), and does about 25 operations to find the place in the other frame, 50 to 75 to
// interpolate 5 channels there, 30 for the matrices, 15 for the vertical sums, 30 for the horizontal ones and 15 to solve: 165 to
// 190, so 5 to 6 cycles with two vector units of 16 lanes. An expansion of radius 5 does 80, 3 cycles. The levels together
// have 4/3 of the full size's pixels, so a pair takes 4/3 * (3 * 6 + 2 * 3) = 32 cycles a pixel with 3 iterations.
#pragma once

#include <cstdint>

#include "isa.h"
#include "team.h"

namespace mer_fast {

constexpr int kFarnebackChannels = 5;  // of an expansion, and of the matrices
constexpr int kFarnebackMaxLanes = 16;
constexpr int64_t kFarnebackLeastRows = 8;  // of the smallest level, for a member: fewer are not worth its barriers

// One level of the pyramid, level 0 the full size. Rows of an expansion or of matrices are 5 rows of `pitch` floats.
struct FarnebackLevel {
  int64_t height, width, pitch;
  int64_t blur_radius;
  const float* blur;  // 2 * blur_radius + 1 taps, run over the full-size frame before it is sampled
};

// Taps at 0..radius of the three one-dimensional filters whose products are the expansion; `slope` is odd.
struct FarnebackExpansion {
  int64_t radius;
  const float *smooth, *slope, *curve;
};

struct FarnebackWindow {
  int64_t radius;
  const float* weight;  // taps at 0..radius; null for a box, which is summed and not divided
  float regularizer;    // what is added to the determinant, in the units of the sums
};

// A frame as it came: uint8 0..255, or float nominally 0..1.
struct FarnebackFrame {
  const void* data;
  bool bytes;
};

// What the members of a team share while they work on one pair.
struct FarnebackWork {
  FarnebackExpansion expansion;
  FarnebackWindow window;
  int iterations;
  float initial_scale;        // of initial_flow on the coarsest level
  float growth;               // of the flow from level to level
  FarnebackFrame frame[2];
  const float* initial_flow;  // (2, H, W), or null
  float* flow;                // (2, H, W), the result
  int levels;
  const FarnebackLevel* level;
  float *full[2], *image[2], *expanded[2], *moving[2];  // see farneback_memory; the flow of a level alternates
  Team team;
  float** scratch;  // one each per member
};

inline int64_t farneback_pitch(int64_t width) { return (width + kFarnebackMaxLanes - 1) / kFarnebackMaxLanes * kFarnebackMaxLanes; }

// Floats of the arrays of a pair, for the full size. Vectors read a little before and behind an expansion.
inline int64_t farneback_full_size(int64_t height, int64_t width) { return height * width + kFarnebackMaxLanes; }
inline int64_t farneback_image_size(int64_t height, int64_t width) { return height * farneback_pitch(width); }
constexpr int64_t kFarnebackBefore = kFarnebackMaxLanes, kFarnebackBehind = 2 * kFarnebackMaxLanes;
inline int64_t farneback_expanded_size(int64_t height, int64_t width) {
  return kFarnebackBefore + height * farneback_pitch(width) * kFarnebackChannels + kFarnebackBehind;
}
inline int64_t farneback_moving_size(int64_t height, int64_t width) { return 2 * height * farneback_pitch(width); }

// Floats of a row with a border of `radius` pixels, which vectors may read a little beyond.
inline int64_t farneback_bordered(int64_t width, int64_t radius) {
  return farneback_pitch(radius) + farneback_pitch(width) + farneback_pitch(radius) + 2 * kFarnebackMaxLanes;
}

// Floats of a member's own memory: the most that one of its stages takes.
inline int64_t farneback_scratch_size(int64_t width, int64_t blur_radius, int64_t expansion_radius, int64_t window_radius) {
  const int64_t pitch = farneback_pitch(width), most = blur_radius > expansion_radius ? blur_radius : expansion_radius;
  const int64_t rows = 4 * (most + 2);  // pointers and taps
  const int64_t smoothing = 2 * farneback_bordered(width, blur_radius + 1) + 3 * pitch + rows;
  const int64_t expanding = 3 * farneback_bordered(width, expansion_radius) + rows;
  const int64_t sweeping = kFarnebackChannels * ((2 * window_radius + 3) * pitch + 3 * farneback_bordered(width, window_radius)) + 2 * pitch;
  const int64_t larger = smoothing > expanding ? smoothing : expanding;
  return (larger > sweeping ? larger : sweeping) + 64 * kFarnebackMaxLanes;
}

// Runs member `rank` of work.team; all members run it at once.
MER_FAST_DECLARE_KERNEL(void farneback_solve(FarnebackWork& work, int rank))

}  // namespace mer_fast
