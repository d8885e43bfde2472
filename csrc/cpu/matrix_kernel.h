// A convolution of channels-last maps of bfloat16 on matrix units: 16 pixels of a row times 16 columns at a time, summed in
// float over taps and kDepth channels each. Call it only where matrix_units() says that there are any.
#pragma once

#include <cstdint>

#include "isa.h"

namespace mer_fast {

constexpr int64_t kTilePixels = 16, kTileColumns = 16, kTileDepth = 32;
constexpr int64_t kTileElements = kTileColumns * kTileDepth;  // of a tile of weights, [depth / 2][column][2]

struct MatrixInput {
  const uint16_t* maps;  // the first pixel of the first row, halo included
  int64_t row_step, pixel_step;
  int64_t depth;         // channels, a multiple of kTileDepth
};

struct MatrixRows {
  MatrixInput inputs[2];
  const uint16_t* weights;  // [column tile][input][tap][depth tile]
  int64_t kernel_h, kernel_w;
  const uint8_t* inputs_of;  // of each column tile: bit 0 and bit 1 for the inputs that it takes
  int64_t column_tiles, rows, row_tiles;  // row_tiles: of pixels, in a row
  float* out;  // [row][row_tiles * kTilePixels][column_tiles * kTileColumns]
};

MER_FAST_DECLARE_KERNEL(void matrix_rows(const MatrixRows& f))

}  // namespace mer_fast
