// The arithmetic of 3-D convolutions on packed input: positions along a row times channels in vectors.
//
// A block of channels is one or two vectors wide ("block"). Packed input holds, for one image and group, the values that a
// piece of the output needs, with zeros where the padding is: [channel][t][h][phase][w / phases]. Column w of the padded
// input stands in phase w % phases: a row of output positions reads each tap from addresses that are 1 or 2 apart.
#pragma once

#include <cstdint>

#include "isa.h"

namespace mer_fast {

// Rows of a frame of the input, to be packed.
template <typename Real>
struct PackRows {
  const Real* in;
  int64_t rows, columns, row_step;
  int64_t padding;        // zeros before the first column
  int64_t readable;       // elements that may be read from `in` on; rows followed by enough of them are read in place
  int64_t phases, width;  // width of a phase; what is left of it after the columns is zero
  Real* line;             // phases * width + 4 vectors elements, zero on entry
  Real* out;              // [row][phase][width]; may be written a vector past the end
};

// Some frames of the output, all taps.
template <typename Real>
struct ConvFrames {
  const Real* input;    // packed input at the first tap of the first position
  const int64_t* taps;  // where each tap lies from there
  int64_t num_taps;
  int64_t frame_step, row_step;  // from an output frame or row to the next, in packed input
  int64_t stride;       // from a position to the next, 1 or 2
  const Real* weight;   // [tap][block]
  Real* out;            // [frame][row][position][block]
  int64_t frames, rows, positions;
};

// Winograd's minimal filtering F(m x m, r x r) (Lavin and Gray, CVPR 2016): m x m outputs of an r x r kernel from a tile of
// m + r - 1 inputs a side, with a product for each of them. F(4, 3) and F(3, 3), and F(2, 5) for kernels of 5 x 5; m tells
// them apart, and is also the number of phases of the packed input.
inline constexpr int winograd_kernel(int m) { return m == 2 ? 5 : 3; }
inline constexpr int winograd_side(int m) { return m + winograd_kernel(m) - 1; }
inline constexpr int winograd_points(int m) { return winograd_side(m) * winograd_side(m); }
constexpr int kTilePad = 16;  // elements written past the last tile of a point

// Input transform of one channel's frame: rows of tiles from packed rows.
template <typename Real>
struct WinogradInput {
  const Real* rows;  // [m * tile_rows + r - 1][phase][phase_width]
  int64_t phase_width;
  Real* tiles;       // point p of tile k of row r at tiles[p * point_step + r * tiles_wide + k]
  int64_t point_step;
  int64_t tile_rows, tiles_wide;
  Real* scratch;     // winograd_scratch(phase_width) elements
};

// Some frames of a band: products over taps (channel, t) for each of the points, then the outputs.
template <typename Real>
struct WinogradFrames {
  const Real* tiles;    // transformed input at the first tap of the first frame; the next frame's tiles follow
  int64_t point_step;
  const int64_t* taps;
  int64_t num_taps;
  const Real* weight;   // [point][tap][block]
  int64_t tiles_at_once;
  Real* products;       // points * tiles_at_once * block elements
  Real* out;            // [frame][m * tile_rows][m * tiles_wide][block]
  int64_t frames, tile_rows, tiles_wide;
};

inline int64_t winograd_scratch(int m, int64_t phase_width) { return winograd_side(m) * (m * phase_width + 16) + 64; }

#define MER_FAST_CONV_KERNELS(Real)                                                                            \
  void conv_frames(const ConvFrames<Real>& frames, int vectors);                                                  \
  void winograd_weight(int m, const Real* weight, Real* out, int64_t num_taps, int64_t block);                    \
  void winograd_input(int m, const WinogradInput<Real>& frame);                                                \
  void winograd_frames(int m, const WinogradFrames<Real>& frames, int vectors);                                       \
  void pack_rows(const PackRows<Real>& rows)

// winograd_weight: [r x r][tap][block] -> [point][tap][block].
MER_FAST_DECLARE_KERNEL(MER_FAST_CONV_KERNELS(float))
MER_FAST_DECLARE_KERNEL(MER_FAST_CONV_KERNELS(double))
MER_FAST_DECLARE_KERNEL(int64_t vector_lanes(int64_t element_bytes))

}  // namespace mer_fast
