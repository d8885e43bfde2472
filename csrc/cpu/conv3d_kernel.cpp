#include "conv3d_kernel.h"

#include "conv3d_tile.h"
#include "winograd.h"

namespace mer_fast::MER_ISA {

namespace {

// Taps whose weights, and the input under them, stay in the first-level cache while all rows pass.
constexpr int64_t kTapsAtOnce = 160;

template <typename Real>
void direct(const ConvFrames<Real>& f, int vectors) {
  const Pieces pieces(f.positions);
  const Tile<Real> run = tile_of<Real>(pieces.width, vectors, f.stride);
  const int64_t block = vectors * lanes_of<Real>, parts = (f.num_taps + kTapsAtOnce - 1) / kTapsAtOnce;
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t first = f.num_taps * part / parts, count = f.num_taps * (part + 1) / parts - first;
    for (int64_t r = 0; r < f.frames * f.rows; ++r) {
      const Real* row = f.input + r / f.rows * f.frame_step + r % f.rows * f.row_step;
      for (int64_t i = 0; i < pieces.count; ++i) {
        const int64_t w = pieces.begin(i);
        // Where the last piece repeats positions, their sums so far would be added to twice.
        const int64_t again = part > 0 && i > 0 ? pieces.begin(i - 1) + pieces.width - w : 0;
        Real* out = f.out + (r * f.positions + w) * block;
        if (again > 0) {
          tile_of<Real>(pieces.width - again, vectors, f.stride)(
              row + (w + again) * f.stride, f.taps + first, count, f.weight + first * block, out + again * block, true);
        } else {
          run(row + w * f.stride, f.taps + first, count, f.weight + first * block, out, part > 0);
        }
      }
    }
  }
}

template <typename Real, int M>
void transform_weight(const Real* weight, Real* out, int64_t num_taps, int64_t block) {
  constexpr int side = winograd_side(M), r = winograd_kernel(M);
  const int64_t step = num_taps * block;
  for (int64_t i = 0; i < step; i += lanes_of<Real>) {
    VecOf<Real> half[r][side], column[r], points[side];
    for (int kh = 0; kh < r; ++kh) {
      for (int kw = 0; kw < r; ++kw) column[kw] = vload(weight + (kh * r + kw) * step + i);
      Winograd<M>::weight(column, half[kh]);
    }
    for (int b = 0; b < side; ++b) {
      for (int kh = 0; kh < r; ++kh) column[kh] = half[kh][b];
      Winograd<M>::weight(column, points);
      for (int a = 0; a < side; ++a) vstore(out + (a * side + b) * step + i, points[a]);
    }
  }
}

template <typename Real, int M>
void transform_input(const WinogradInput<Real>& f) {
  constexpr int lanes = lanes_of<Real>, side = winograd_side(M);
  const int64_t width = M * f.phase_width;
  const int64_t step = (width + lanes - 1) / lanes * lanes;
  for (int64_t r = 0; r < f.tile_rows; ++r) {
    const Real* rows = f.rows + r * M * width;
    for (int64_t q = 0; q < width; q += lanes) {  // down the columns; what lies past the end of a row is not used
      VecOf<Real> d[side], o[side];
      for (int a = 0; a < side; ++a) d[a] = vload(rows + a * width + q);
      Winograd<M>::input(d, o);
      for (int a = 0; a < side; ++a) vstore(f.scratch + a * step + q, o[a]);
    }
    for (int a = 0; a < side; ++a) {
      const Real* row = f.scratch + a * step;
      for (int64_t k = 0; k < f.tiles_wide; k += lanes) {
        VecOf<Real> d[side], o[side];
        for (int b = 0; b < side; ++b) d[b] = vload(row + b % M * f.phase_width + b / M + k);
        Winograd<M>::input(d, o);
        Real* target = f.tiles + a * side * f.point_step + r * f.tiles_wide + k;
        for (int b = 0; b < side; ++b) vstore(target + b * f.point_step, o[b]);
      }
    }
  }
}

template <typename Real, int M>
inline void tile_outputs(const Real* products, int64_t point_step, Real* out, int64_t row_step, int64_t position_step) {
  constexpr int side = winograd_side(M);
  VecOf<Real> half[side][M], m[side], y[M];
#pragma GCC unroll 6
  for (int a = 0; a < side; ++a) {
#pragma GCC unroll 6
    for (int b = 0; b < side; ++b) m[b] = vload(products + (a * side + b) * point_step);
    Winograd<M>::output(m, half[a]);
  }
#pragma GCC unroll 4
  for (int j = 0; j < M; ++j) {
#pragma GCC unroll 6
    for (int a = 0; a < side; ++a) m[a] = half[a][j];
    Winograd<M>::output(m, y);
#pragma GCC unroll 4
    for (int i = 0; i < M; ++i) vstore(out + i * row_step + j * position_step, y[i]);
  }
}

template <typename Real, int M>
void multiply(const WinogradFrames<Real>& f, int vectors) {
  constexpr int lanes = lanes_of<Real>;
  const int64_t block = vectors * lanes, row_step = M * f.tiles_wide * block, tiles = f.frames * f.tile_rows * f.tiles_wide;
  const int64_t groups = (tiles + f.tiles_at_once - 1) / f.tiles_at_once;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t begin = tiles * g / groups, count = tiles * (g + 1) / groups - begin, point_step = count * block;
    const Pieces pieces(count);
    const Tile<Real> run = tile_of<Real>(pieces.width, vectors);
    for (int p = 0; p < winograd_points(M); ++p) {
      const Real* weight = f.weight + p * f.num_taps * block;
      for (int64_t i = 0; i < pieces.count; ++i) {
        const int64_t first = pieces.begin(i);
        Real* products = f.products + p * point_step + first * block;
        run(f.tiles + p * f.point_step + begin + first, f.taps, f.num_taps, weight, products, false);
      }
    }
    for (int64_t k = 0; k < count; ++k) {
      const int64_t row = (begin + k) / f.tiles_wide, column = (begin + k) % f.tiles_wide;  // rows of all frames
      for (int v = 0; v < vectors; ++v) {
        Real* out = f.out + row * M * row_step + column * M * block + v * lanes;
        tile_outputs<Real, M>(f.products + k * block + v * lanes, point_step, out, row_step, block);
      }
    }
  }
}

// Every kPhases-th element of a row from `first` on, `width` of them and up to a vector more.
template <typename Real, int kPhases>
inline void every(const Real* row, Real* out, int64_t width) {
  constexpr int lanes = lanes_of<Real>;
  typedef decltype(VecOf<Real>{} > VecOf<Real>{}) Places;
  Places low, high, both;  // places in the first two vectors, in the last two, and in those picked from each
  constexpr int last = (kPhases - 2) * lanes;
  for (int i = 0; i < lanes; ++i) {
    const int place = kPhases * i;
    low[i] = place < 2 * lanes ? place : 0;
    high[i] = place < last ? 0 : place - last;
    both[i] = place < 2 * lanes ? i : lanes + i;
  }
  for (int64_t q = 0; q < width; q += lanes) {
    const Real* at = row + q * kPhases;
    VecOf<Real> picked = __builtin_shuffle(vload(at), vload(at + lanes), low);
    if (kPhases > 2) {
      picked = __builtin_shuffle(picked, __builtin_shuffle(vload(at + last), vload(at + last + lanes), high), both);
    }
    vstore(out + q, picked);
  }
}

template <typename Real>
void split_phases(const Real* row, Real* out, int64_t phases, int64_t width) {
  for (int64_t p = 0; p < phases; ++p) {
    if (phases == 2) {
      every<Real, 2>(row + p, out + p * width, width);
    } else if (phases == 3) {
      every<Real, 3>(row + p, out + p * width, width);
    } else if (phases == 4) {
      every<Real, 4>(row + p, out + p * width, width);
    } else {
      for (int64_t q = 0; q < width; ++q) out[p * width + q] = row[q * phases + p];
    }
  }
}

template <typename Real>
void pack(const PackRows<Real>& f) {
  constexpr int lanes = lanes_of<Real>;
  const int64_t size = f.phases * f.width;
  for (int64_t r = 0; r < f.rows; ++r) {
    const Real* in = f.in + r * f.row_step;
    Real* out = f.out + r * size;
    if (f.phases > 1 && f.padding == 0 && r * f.row_step + size + 4 * lanes <= f.readable) {
      split_phases(in, out, f.phases, f.width);
      continue;
    }
    Real* line = f.phases == 1 ? out : f.line;
    if (f.phases == 1) {
      for (int64_t i = 0; i < f.padding; ++i) line[i] = 0;
      for (int64_t i = f.padding + f.columns; i < size; ++i) line[i] = 0;
    }
    int64_t i = 0;
    for (; i + lanes <= f.columns; i += lanes) vstore(line + f.padding + i, vload(in + i));
    if (f.columns >= lanes) {
      vstore(line + f.padding + f.columns - lanes, vload(in + f.columns - lanes));
    } else {
      for (; i < f.columns; ++i) line[f.padding + i] = in[i];
    }
    if (f.phases > 1) split_phases(line, out, f.phases, f.width);
  }
}

}  // namespace

int64_t vector_lanes(int64_t element_bytes) { return kVecBytes / element_bytes; }

#define MER_FAST_WINOGRAD(step, Real, m) (m == 4 ? step<Real, 4> : m == 3 ? step<Real, 3> : step<Real, 2>)

#define MER_FAST_DEFINE(Real)                                                                             \
  void conv_frames(const ConvFrames<Real>& frames, int vectors) { direct(frames, vectors); }              \
  void winograd_weight(int m, const Real* weight, Real* out, int64_t num_taps, int64_t block) {           \
    MER_FAST_WINOGRAD(transform_weight, Real, m)(weight, out, num_taps, block);                           \
  }                                                                                                       \
  void winograd_input(int m, const WinogradInput<Real>& frame) {                                          \
    MER_FAST_WINOGRAD(transform_input, Real, m)(frame);                                                   \
  }                                                                                                       \
  void winograd_frames(int m, const WinogradFrames<Real>& frames, int vectors) {                          \
    MER_FAST_WINOGRAD(multiply, Real, m)(frames, vectors);                                                \
  }                                                                                                       \
  void pack_rows(const PackRows<Real>& rows) { pack(rows); }

MER_FAST_DEFINE(float)
MER_FAST_DEFINE(double)

}  // namespace mer_fast::MER_ISA
