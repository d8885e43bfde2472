#include "conv3d_kernel.h"

#include "conv3d_tile.h"

namespace mer_fast::MER_ISA {

namespace {

template <typename Real>
void frame_rows(const ConvFrame<Real>& f, int vectors) {
  const Pieces pieces(f.positions);
  const Tile<Real> run = tile_of<Real>(pieces.width, vectors);
  const int64_t block = vectors * lanes_of<Real>;
  for (int64_t r = 0; r < f.rows; ++r) {
    for (int64_t i = 0; i < pieces.count; ++i) {
      const int64_t w = pieces.begin(i);
      run(f.input + r * f.row_step + w, f.taps, f.num_taps, f.weight, f.out + r * f.out_row_step + w * block);
    }
  }
}

// --- Winograd F(3x3, 3x3), points 0, 1, -1, 2 and infinity -----------------------------------------------------------
template <typename T>
inline void input_points(const T* d, T* o) {
  o[0] = 2 * (d[0] - d[2]) - d[1] + d[3];
  o[1] = d[3] - d[2] - 2 * d[1];
  o[2] = d[3] + 2 * d[1] - 3 * d[2];
  o[3] = d[3] - d[1];
  o[4] = d[4] - d[2] - 2 * (d[3] - d[1]);
}

template <typename T>
inline void weight_points(const T* g, T* o) {
  o[0] = g[0] / 2;
  o[1] = -(g[0] + g[1] + g[2]) / 2;
  o[2] = (g[1] - g[0] - g[2]) / 6;
  o[3] = (g[0] + 2 * g[1] + 4 * g[2]) / 6;
  o[4] = g[2];
}

template <typename T>
inline void output_values(const T* m, T* y) {
  const T sum = m[1] + m[2];
  y[0] = m[0] + sum + m[3];
  y[1] = m[1] - m[2] + 2 * m[3];
  y[2] = sum + 4 * m[3] + m[4];
}

template <typename Real>
void transform_weight(const Real* weight, Real* out, int64_t num_taps, int64_t block) {
  const int64_t step = num_taps * block;
  for (int64_t i = 0; i < step; i += lanes_of<Real>) {
    VecOf<Real> half[3][5], column[3], points[5];
    for (int kh = 0; kh < 3; ++kh) {
      for (int kw = 0; kw < 3; ++kw) column[kw] = vload(weight + (kh * 3 + kw) * step + i);
      weight_points(column, half[kh]);
    }
    for (int b = 0; b < 5; ++b) {
      for (int kh = 0; kh < 3; ++kh) column[kh] = half[kh][b];
      weight_points(column, points);
      for (int a = 0; a < 5; ++a) vstore(out + (a * 5 + b) * step + i, points[a]);
    }
  }
}

template <typename Real>
void transform_input(const WinogradInput<Real>& f) {
  constexpr int lanes = lanes_of<Real>;
  const int64_t width = kTile * f.phase_width;
  const int64_t step = (width + lanes - 1) / lanes * lanes;
  for (int64_t r = 0; r < f.tile_rows; ++r) {
    const Real* rows = f.rows + r * kTile * width;
    for (int64_t q = 0; q < width; q += lanes) {  // down the columns; what lies past the end of a row is not used
      VecOf<Real> d[5], o[5];
      for (int a = 0; a < 5; ++a) d[a] = vload(rows + a * width + q);
      input_points(d, o);
      for (int a = 0; a < 5; ++a) vstore(f.scratch + a * step + q, o[a]);
    }
    for (int a = 0; a < 5; ++a) {
      const Real* row = f.scratch + a * step;
      for (int64_t k = 0; k < f.tiles_wide; k += lanes) {
        VecOf<Real> d[5], o[5];
        for (int b = 0; b < 5; ++b) d[b] = vload(row + b % kTile * f.phase_width + b / kTile + k);
        input_points(d, o);
        Real* target = f.tiles + a * 5 * f.point_step + r * f.tiles_wide + k;
        for (int b = 0; b < 5; ++b) vstore(target + b * f.point_step, o[b]);
      }
    }
  }
}

template <typename Real>
inline void tile_outputs(const Real* products, int64_t point_step, Real* out, int64_t row_step, int64_t position_step) {
  VecOf<Real> half[5][3], m[5], y[3];
#pragma GCC unroll 5
  for (int a = 0; a < 5; ++a) {
#pragma GCC unroll 5
    for (int b = 0; b < 5; ++b) m[b] = vload(products + (a * 5 + b) * point_step);
    output_values(m, half[a]);
  }
#pragma GCC unroll 3
  for (int j = 0; j < 3; ++j) {
#pragma GCC unroll 5
    for (int a = 0; a < 5; ++a) m[a] = half[a][j];
    output_values(m, y);
#pragma GCC unroll 3
    for (int i = 0; i < 3; ++i) vstore(out + i * row_step + j * position_step, y[i]);
  }
}

// Their products, of all points, should stay in the first-level cache.
constexpr int64_t kTilesAtOnce = kWidest < 12 ? kWidest : 12;

template <typename Real>
void multiply_frame(const WinogradFrame<Real>& f, int vectors) {
  constexpr int lanes = lanes_of<Real>;
  const Pieces pieces(f.tile_rows * f.tiles_wide, kTilesAtOnce);
  const Tile<Real> run = tile_of<Real>(pieces.width, vectors);
  const int64_t block = vectors * lanes, row_step = kTile * f.tiles_wide * block, point_step = pieces.width * block;
  for (int64_t i = 0; i < pieces.count; ++i) {
    const int64_t first = pieces.begin(i);
    for (int p = 0; p < kPoints; ++p) {
      run(f.tiles + p * f.point_step + first, f.taps, f.num_taps, f.weight + p * f.num_taps * block, f.products + p * point_step);
    }
    for (int64_t k = 0; k < pieces.width; ++k) {
      const int64_t row = (first + k) / f.tiles_wide, column = (first + k) % f.tiles_wide;
      for (int v = 0; v < vectors; ++v) {
        Real* out = f.out + row * kTile * row_step + column * kTile * block + v * lanes;
        tile_outputs(f.products + k * block + v * lanes, point_step, out, row_step, block);
      }
    }
  }
}

template <typename Real>
void split_phases(const Real* row, Real* out, int64_t phases, int64_t width) {
  if (phases == 3) {
    for (int64_t q = 0; q < width; ++q) {
      out[q] = row[3 * q];
      out[width + q] = row[3 * q + 1];
      out[2 * width + q] = row[3 * q + 2];
    }
  } else if (phases == 2) {
    for (int64_t q = 0; q < width; ++q) {
      out[q] = row[2 * q];
      out[width + q] = row[2 * q + 1];
    }
  } else {
    for (int64_t p = 0; p < phases; ++p) {
      for (int64_t q = 0; q < width; ++q) out[p * width + q] = row[q * phases + p];
    }
  }
}

}  // namespace

int64_t vector_lanes(int64_t element_bytes) { return kVecBytes / element_bytes; }

#define MER_FAST_DEFINE(Real)                                                                             \
  void conv_frame(const ConvFrame<Real>& frame, int vectors) { frame_rows(frame, vectors); }              \
  void winograd_weight(const Real* weight, Real* out, int64_t num_taps, int64_t block) {                  \
    transform_weight(weight, out, num_taps, block);                                                       \
  }                                                                                                       \
  void winograd_input(const WinogradInput<Real>& frame) { transform_input(frame); }                       \
  void winograd_frame(const WinogradFrame<Real>& frame, int vectors) { multiply_frame(frame, vectors); }  \
  void deinterleave(const Real* row, Real* out, int64_t phases, int64_t phase_width) {                    \
    split_phases(row, out, phases, phase_width);                                                          \
  }

MER_FAST_DEFINE(float)
MER_FAST_DEFINE(double)

}  // namespace mer_fast::MER_ISA
