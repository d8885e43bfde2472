// The arithmetic of 2-D convolutions of maps that keep height and width: maps have their channels side by side in memory
// ("channels-last", padded to kPad of them), so that every transform of Winograd's works on whole vectors of channels.
#pragma once

#include <cstdint>

#include "isa.h"

namespace mer_fast {

constexpr int64_t kPad = 16;  // a vector of any instruction set is a part of it
inline int64_t padded(int64_t channels) { return (channels + kPad - 1) / kPad * kPad; }

// Winograd's transforms of the input of a band, first down the columns, which neighbouring tiles share:
// half[a][tile row][column][channel] for the points a of a column; of a gradient's tiles the columns are not shared.
struct MapColumns {
  const float* maps;  // the first pixel of the first tile, halo included (of a gradient: without one)
  int64_t row_step, pixel_step;
  int64_t tile_rows, columns, channels;
  float* half;
  int64_t half_point, half_pixel;
};

// ... then along the rows, for one a: tiles[b][tile][channel].
struct MapRows {
  const float* half;
  int64_t half_pixel;
  int64_t tile_rows, columns, tiles_wide, channels;
  float* tiles;
  int64_t point_step, tile_step;
};

// c[p][i][j] = (add: +) sum over k of a[p][i][k] * b[p][k][j]: for i along `rows`, k along `depth`, j along `columns`.
struct MapProducts {
  const float* a;
  int64_t a_point, a_row, a_step;
  const float* b;
  int64_t b_point, b_step;
  float* c;
  int64_t c_point, c_row;
  int64_t points, rows, depth, columns;
  bool add;
};

// The way back: from products[b][tile][channel] of one a to half[tile][place in a row of the tile][channel], ...
struct HalfOutputs {
  const float* products;
  int64_t point_step, tile_step;
  int64_t tiles, channels;
  float* half;
  int64_t half_tile, half_pixel;
};

// ... and from half[a][tile][...] to one row of tiles: rows of pixels.
struct TileOutputs {
  const float* half;
  int64_t half_point, half_tile, half_pixel;
  int64_t tiles_wide, channels;
  float* out;
  int64_t row_step, pixel_step;
};

// What a section does with its convolution: ReLU((z + before) * scale + shift) + after, for `rows` rows of `pixels` of a tile row.
struct TileStates {
  const float *scale, *shift;               // [channel]
  const float *before, *after;              // null for none
  int64_t before_row, before_pixel, after_row, after_pixel;
  int64_t rows, pixels;
};

// One row of an image between planes [channel][pixel] and pixels [pixel][channel].
struct PlaneRow {
  const float* in;
  float* out;
  int64_t channels, pixels;
  int64_t plane_step, pixel_step;
};

// The largest of each window of `height` rows by `width` pixels, in one row of windows.
struct PixelPool {
  const float* in;
  int64_t row_step, pixel_step, height, width, windows, channels;
  float* out;  // [window][channel]
};

#define MER_FAST_MAP_KERNELS                                                                                             \
  void map_columns(int m, const MapColumns& f);                                                                          \
  void map_rows(int m, const MapRows& f);                                                                                \
  void map_gradient_columns(int m, const MapColumns& f);                                                                 \
  void map_gradient_rows(int m, const MapRows& f);                                                                       \
  void map_products(const MapProducts& f);                                                                               \
  void map_half_outputs(int m, const HalfOutputs& f);                                                                    \
  void map_outputs(int m, const TileOutputs& f);                                                                         \
  bool map_states(int m, const TileOutputs& f, const TileStates& s);                                                     \
  void map_weights(int m, const float* taps, int64_t tap_step, float* points, int64_t point_step, int64_t count);        \
  void map_weight_gradient(int m, const float* points, int64_t point_step, float* taps, int64_t tap_step, int64_t count); \
  void pool_pixels(const PixelPool& f);                                                                                  \
  void pixels_from_planes(const PlaneRow& row);                                                                          \
  void planes_from_pixels(const PlaneRow& row);                                                                          \
  void add_planes_from_pixels(const PlaneRow& row)

// map_states: map_outputs with what follows; false where an output is not finite. map_weights: kernels [tap][k] to [point][k], k <
// count, a multiple of kPad; map_weight_gradient goes back.
MER_FAST_DECLARE_KERNEL(MER_FAST_MAP_KERNELS)

}  // namespace mer_fast
