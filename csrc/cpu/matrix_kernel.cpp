#include "matrix_kernel.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace mer_fast::MER_ISA {

#if defined(__AVX512F__)

namespace {

struct alignas(64) Config {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};
};

// Tiles 0 to 3 hold sums of four runs of pixels; 4 to 6 their inputs and 7 the weights.
__attribute__((target("amx-tile,amx-bf16"))) void four_runs(const MatrixRows& f, const int64_t* run, int64_t tile) {
  const int64_t taps = f.kernel_h * f.kernel_w, columns = f.column_tiles * kTileColumns;
  const uint16_t* weights = f.weights + tile * taps * (f.inputs[0].depth + f.inputs[1].depth) / kTileDepth * kTileElements;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int k = 0; k < 2; ++k) {
    const MatrixInput& in = f.inputs[k];
    const int64_t depth_tiles = in.depth / kTileDepth;
    if (!(f.inputs_of[tile] >> k & 1)) {
      weights += taps * depth_tiles * kTileElements;
      continue;
    }
    const int64_t stride = in.pixel_step * 2;
    const uint16_t* first[4];
    for (int i = 0; i < 4; ++i) first[i] = in.maps + run[i] / f.row_tiles * in.row_step +
        run[i] % f.row_tiles * kTilePixels * in.pixel_step;
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t at = tap / f.kernel_w * in.row_step + tap % f.kernel_w * in.pixel_step;
      for (int64_t d = 0; d < depth_tiles; ++d, weights += kTileElements) {
        const int64_t from = at + d * kTileDepth;
        _tile_loadd(7, weights, 64);
        _tile_loadd(4, first[0] + from, stride);
        _tile_loadd(5, first[1] + from, stride);
        _tile_loadd(6, first[2] + from, stride);
        _tile_dpbf16ps(0, 4, 7);
        _tile_loadd(4, first[3] + from, stride);
        _tile_dpbf16ps(1, 5, 7);
        _tile_dpbf16ps(2, 6, 7);
        _tile_dpbf16ps(3, 4, 7);
      }
    }
  }
  float* out = f.out + tile * kTileColumns;
  const int64_t bytes = columns * static_cast<int64_t>(sizeof(float));
  _tile_stored(0, out + run[0] * kTilePixels * columns, bytes);
  _tile_stored(1, out + run[1] * kTilePixels * columns, bytes);
  _tile_stored(2, out + run[2] * kTilePixels * columns, bytes);
  _tile_stored(3, out + run[3] * kTilePixels * columns, bytes);
}

}  // namespace

__attribute__((target("amx-tile,amx-bf16"))) void matrix_rows(const MatrixRows& f) {
  Config config;
  for (int i = 0; i < 8; ++i) {
    config.bytes[i] = 64;
    config.rows[i] = 16;
  }
  _tile_loadconfig(&config);
  const int64_t runs = f.rows * f.row_tiles;
  for (int64_t first = 0; first < runs; first += 4) {
    int64_t run[4];
    for (int i = 0; i < 4; ++i) run[i] = first + i < runs ? first + i : runs - 1;  // the last one again
    for (int64_t tile = 0; tile < f.column_tiles; ++tile) four_runs(f, run, tile);
  }
  _tile_release();
}

#else

void matrix_rows(const MatrixRows&) {}

#endif

}  // namespace mer_fast::MER_ISA
