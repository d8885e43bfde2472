// The arithmetic of 3-D convolutions on packed input: positions along a row times channels in vectors.
//
// A block of channels is one or two vectors wide ("block"). Packed input holds, for one image and group, the values that a
// piece of the output needs, with zeros where the padding is: [channel][t][h][phase][w / phases]. Column w of the padded
// input stands in phase w % phases, so that a row of output positions reads each tap from consecutive addresses.
#pragma once

#include <cstdint>

#include "isa.h"

namespace mer_fast {

// One row: output positions w of a row, all taps. Widths are in elements of Real.
template <typename Real>
struct ConvFrame {
  const Real* input;    // packed input at the first tap of the first position
  const int64_t* taps;  // where each tap lies from there
  int64_t num_taps;
  int64_t row_step;     // from an output row to the next, in packed input
  const Real* weight;   // [tap][block]
  Real* out;            // [row][position][block]
  int64_t rows, positions;
  int64_t out_row_step;
};

// Winograd's minimal filtering F(3x3, 3x3), Lavin and Gray (CVPR 2016): 3x3 outputs from a 5x5 tile with 25 products.
constexpr int kTile = 3;                                  // outputs of a tile, a side; also the phases of its packed input
constexpr int kPoints = (kTile + 2) * (kTile + 2);        // products of a tile
constexpr int kTilePad = 16;                              // elements that rows of tiles may be written past their end

// Input transform of one channel's frame: rows of tiles from packed rows.
template <typename Real>
struct WinogradInput {
  const Real* rows;  // [kTile * tile_rows + 2][phase][phase_width]
  int64_t phase_width;
  Real* tiles;       // point p of tile k of row r at tiles[p * point_step + r * tiles_wide + k]
  int64_t point_step;
  int64_t tile_rows, tiles_wide;
  Real* scratch;     // winograd_scratch(phase_width) elements
};

// One frame of a band: products over taps (channel, t) for each of the points, then the outputs.
template <typename Real>
struct WinogradFrame {
  const Real* tiles;    // transformed input at the first tap of this frame
  int64_t point_step;
  const int64_t* taps;
  int64_t num_taps;
  const Real* weight;   // [point][tap][block]
  Real* products;       // kPoints * kMostPositions * block elements
  Real* out;            // [kTile * tile_rows][kTile * tiles_wide][block]
  int64_t tile_rows, tiles_wide;
};

constexpr int kMostPositions = 14;

inline int64_t winograd_scratch(int64_t phase_width) { return (kTile + 2) * (kTile * phase_width + 16) + 64; }

#define MER_FAST_CONV_KERNELS(Real)                                                                            \
  void conv_frame(const ConvFrame<Real>& frame, int vectors);                                                  \
  void winograd_weight(const Real* weight, Real* out, int64_t num_taps, int64_t block);                        \
  void winograd_input(const WinogradInput<Real>& frame);                                                       \
  void winograd_frame(const WinogradFrame<Real>& frame, int vectors);                                          \
  void deinterleave(const Real* row, Real* out, int64_t phases, int64_t phase_width)

// winograd_weight: [3x3][tap][block] -> [point][tap][block]. deinterleave: out[p][q] = row[q * phases + p].
MER_FAST_DECLARE_KERNEL(MER_FAST_CONV_KERNELS(float))
MER_FAST_DECLARE_KERNEL(MER_FAST_CONV_KERNELS(double))
MER_FAST_DECLARE_KERNEL(int64_t vector_lanes(int64_t element_bytes))

}  // namespace mer_fast
