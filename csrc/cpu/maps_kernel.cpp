#include "maps_kernel.h"

#include "simd.h"
#include "transpose.h"
#include "winograd.h"

namespace mer_fast::MER_ISA {

namespace {

// --- products --------------------------------------------------------------------------------------------------------
constexpr int kAccumulators = kVecRegisters == 32 ? 24 : 12;
constexpr int kWidest = 4;  // vectors of columns at a time
constexpr int rows_at_once(int vectors) { return vectors == 1 ? kAccumulators / 2 : kAccumulators / vectors; }

template <int P, int V>
void block(const MapProducts& f, const float* a, const float* b, float* c) {
  Vec sum[P][V] = {};
  if (f.add) {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[p][v] = load(c + p * f.c_row + v * kLanes);
    }
  }
  for (int64_t k = 0; k < f.depth; ++k) {
    Vec w[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) w[v] = load(b + v * kLanes);
    b += f.b_step;
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
      const Vec value = splat(a[p * f.a_row]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[p][v] += value * w[v];
    }
    a += f.a_step;
  }
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(c + p * f.c_row + v * kLanes, sum[p][v]);
  }
}

using Block = void (*)(const MapProducts&, const float*, const float*, float*);

template <int V, int P = rows_at_once(V)>
Block block_of(int64_t rows) {
  if constexpr (P == 1) {
    return block<1, V>;
  } else {
    return rows == P ? block<P, V> : block_of<V, P - 1>(rows);
  }
}

Block block_of(int64_t rows, int vectors) {
  switch (vectors) {
    case 1: return block_of<1>(rows);
    case 2: return block_of<2>(rows);
    case 3: return block_of<3>(rows);
    default: return block_of<4>(rows);
  }
}

void multiply(const MapProducts& f) {
  const int64_t vectors = f.columns / kLanes;
  for (int64_t v = 0; v < vectors; v += kWidest) {
    const int wide = static_cast<int>(vectors - v < kWidest ? vectors - v : kWidest);
    const int64_t most = rows_at_once(wide), groups = (f.rows + most - 1) / most, size = f.rows / groups;
    const Block whole = block_of(size, wide), more = f.rows % groups ? block_of(size + 1, wide) : whole;
    for (int64_t p = 0; p < f.points; ++p) {
      const float* b = f.b + p * f.b_point + v * kLanes;
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t row = f.rows * g / groups, count = f.rows * (g + 1) / groups - row;
        const float* a = f.a + p * f.a_point + row * f.a_row;
        (count == size ? whole : more)(f, a, b, f.c + p * f.c_point + row * f.c_row + v * kLanes);
      }
    }
  }
}

// --- transforms ------------------------------------------------------------------------------------------------------
constexpr int kSide = 6;  // of a tile of points

// One dimension of a tile of inputs, or of a gradient of outputs, which has M places.
template <int M, bool kGradient>
constexpr int kPlaces = kGradient ? M : kSide;
template <int M, bool kGradient>
inline void to_points(const Vec* d, Vec* o) {
  if constexpr (kGradient) {
    Winograd<M>::gradient(d, o);
  } else {
    Winograd<M>::input(d, o);
  }
}

template <int M, bool kGradient>
void transform_columns(const MapColumns& f) {
  for (int64_t r = 0; r < f.tile_rows; ++r) {
    for (int64_t w = 0; w < f.columns; ++w) {
      const float* maps = f.maps + r * M * f.row_step + w * f.pixel_step;
      float* half = f.half + (r * f.columns + w) * f.half_pixel;
      for (int64_t c = 0; c < f.channels; c += kLanes) {
        Vec d[kPlaces<M, kGradient>], o[kSide];
#pragma GCC unroll 6
        for (int a = 0; a < kPlaces<M, kGradient>; ++a) d[a] = load(maps + a * f.row_step + c);
        to_points<M, kGradient>(d, o);
#pragma GCC unroll 6
        for (int a = 0; a < kSide; ++a) store(half + a * f.half_point + c, o[a]);
      }
    }
  }
}

// visit(its first pixel, its first point) for every tile.
template <typename Visit>
inline void each_tile(const MapRows& f, int m, const Visit& visit) {
  float* tile = f.tiles;
  for (int64_t r = 0; r < f.tile_rows; ++r) {
    const float* half = f.half + r * f.columns * f.half_pixel;
    for (int64_t k = 0; k < f.tiles_wide; ++k, half += m * f.half_pixel, tile += f.tile_step) visit(half, tile);
  }
}

template <int M, bool kGradient>
void transform_rows(const MapRows& f) {
  each_tile(f, M, [&](const float* half, float* tile) {
    for (int64_t c = 0; c < f.channels; c += kLanes) {
      Vec d[kPlaces<M, kGradient>], o[kSide];
#pragma GCC unroll 6
      for (int b = 0; b < kPlaces<M, kGradient>; ++b) d[b] = load(half + b * f.half_pixel + c);
      to_points<M, kGradient>(d, o);
#pragma GCC unroll 6
      for (int b = 0; b < kSide; ++b) store(tile + b * f.point_step + c, o[b]);
    }
  });
}

template <int M>
void transform_half_outputs(const HalfOutputs& f) {
  for (int64_t k = 0; k < f.tiles; ++k) {
    const float* products = f.products + k * f.tile_step;
    float* half = f.half + k * f.half_tile;
    for (int64_t c = 0; c < f.channels; c += kLanes) {
      Vec d[kSide], o[M];
#pragma GCC unroll 6
      for (int b = 0; b < kSide; ++b) d[b] = load(products + b * f.point_step + c);
      Winograd<M>::output(d, o);
#pragma GCC unroll 4
      for (int j = 0; j < M; ++j) store(half + j * f.half_pixel + c, o[j]);
    }
  }
}

template <int M>
void transform_outputs(const TileOutputs& f) {
  for (int64_t w = 0; w < M * f.tiles_wide; ++w) {
    const float* half = f.half + w / M * f.half_tile + w % M * f.half_pixel;
    float* out = f.out + w * f.pixel_step;
    for (int64_t c = 0; c < f.channels; c += kLanes) {
      Vec d[kSide], o[M];
#pragma GCC unroll 6
      for (int a = 0; a < kSide; ++a) d[a] = load(half + a * f.half_point + c);
      Winograd<M>::output(d, o);
#pragma GCC unroll 4
      for (int i = 0; i < M; ++i) store(out + i * f.row_step + c, o[i]);
    }
  }
}

template <int M, bool kBefore, bool kAfter>
bool transform_states(const TileOutputs& f, const TileStates& s) {
  Vec zeros{};
  for (int64_t c = 0; c < f.channels; c += kLanes) {
    const Vec scale = load(s.scale + c), shift = load(s.shift + c);
    const auto state = [&](Vec z, int i, int64_t w) {
      if (kBefore) z += load(s.before + i * s.before_row + w * s.before_pixel + c);
      zeros += z * 0.0f;
      Vec y = z * scale + shift;
      y = y < 0 ? Vec{} : y;  // NaN stays
      if (kAfter) y += load(s.after + i * s.after_row + w * s.after_pixel + c);
      store(f.out + i * f.row_step + w * f.pixel_step + c, y);
    };
    for (int64_t w = 0; w < s.pixels; ++w) {
      const float* half = f.half + w / M * f.half_tile + w % M * f.half_pixel + c;
      Vec d[kSide], o[M];
#pragma GCC unroll 6
      for (int a = 0; a < kSide; ++a) d[a] = load(half + a * f.half_point);
      Winograd<M>::output(d, o);
      if (s.rows == M) {
#pragma GCC unroll 4
        for (int i = 0; i < M; ++i) state(o[i], i, w);
      } else {
        for (int i = 0; i < s.rows; ++i) state(o[i], i, w);
      }
    }
  }
  bool finite = true;
  for (int i = 0; i < kLanes; ++i) finite &= zeros[i] == 0;
  return finite;
}

template <int M>
bool any_states(const TileOutputs& f, const TileStates& s) {
  if (s.before) return s.after ? transform_states<M, true, true>(f, s) : transform_states<M, true, false>(f, s);
  return s.after ? transform_states<M, false, true>(f, s) : transform_states<M, false, false>(f, s);
}

template <int M, int R>
void transform_weights(const float* taps, int64_t tap_step, float* points, int64_t point_step, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) {
    Vec half[R][kSide], d[R], o[kSide];
    for (int h = 0; h < R; ++h) {
      for (int w = 0; w < R; ++w) d[w] = load(taps + (h * R + w) * tap_step + i);
      Winograd<M>::weight(d, half[h]);
    }
    for (int b = 0; b < kSide; ++b) {
      for (int h = 0; h < R; ++h) d[h] = half[h][b];
      Winograd<M>::weight(d, o);
      for (int a = 0; a < kSide; ++a) store(points + (a * kSide + b) * point_step + i, o[a]);
    }
  }
}

template <int M, int R>
void transform_weight_gradient(const float* points, int64_t point_step, float* taps, int64_t tap_step, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) {
    Vec half[kSide][R], d[kSide], o[R];
    for (int a = 0; a < kSide; ++a) {
      for (int b = 0; b < kSide; ++b) d[b] = load(points + (a * kSide + b) * point_step + i);
      Winograd<M>::weight_gradient(d, half[a]);
    }
    for (int w = 0; w < R; ++w) {
      for (int a = 0; a < kSide; ++a) d[a] = half[a][w];
      Winograd<M>::weight_gradient(d, o);
      for (int h = 0; h < R; ++h) store(taps + (h * R + w) * tap_step + i, o[h]);
    }
  }
}

// --- planes and pixels -----------------------------------------------------------------------------------------------
// Rows to come lie in as many planes as there are channels, more than the processor foresees.
constexpr int64_t kRowsAhead = 4;

void to_pixels(const PlaneRow& f) {
  for (int64_t c = 0; c < padded(f.channels); c += kLanes) {
    const int64_t many = f.channels - c < kLanes ? f.channels - c : kLanes;
    if (f.pixels < kLanes) {
      for (int64_t w = 0; w < f.pixels; ++w) {
        for (int64_t i = 0; i < kLanes; ++i) f.out[w * f.pixel_step + c + i] = i < many ? f.in[(c + i) * f.plane_step + w] : 0;
      }
      continue;
    }
    for (int64_t w = 0; w < f.pixels; w += kLanes) {
      const int64_t at = w + kLanes <= f.pixels ? w : f.pixels - kLanes;  // the last ones overlap
      const float* in = f.in + c * f.plane_step + at;
      float* out = f.out + at * f.pixel_step + c;
      Vec square[kLanes];
      if (many == kLanes) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i, in += f.plane_step) {
          square[i] = load(in);
          __builtin_prefetch(in + kRowsAhead * f.pixels, 0, 2);
        }
      } else {
        for (int i = 0; i < kLanes; ++i) square[i] = i < many ? load(in + i * f.plane_step) : Vec{};
      }
      transpose_square<float>(square);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i, out += f.pixel_step) store(out, square[i]);
    }
  }
}

template <bool kAdd>
void to_planes(const PlaneRow& f) {
  for (int64_t c = 0; c < f.channels; c += kLanes) {
    const int64_t many = f.channels - c < kLanes ? f.channels - c : kLanes;
    int64_t w = 0;
    for (; w + kLanes <= f.pixels || (!kAdd && w < f.pixels && f.pixels >= kLanes); w += kLanes) {
      if (w + kLanes > f.pixels) w = f.pixels - kLanes;  // the last ones overlap
      const float* in = f.in + w * f.pixel_step + c;
      float* out = f.out + c * f.plane_step + w;
      Vec square[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i, in += f.pixel_step) square[i] = load(in);
      transpose_square<float>(square);
      if (many == kLanes) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i, out += f.plane_step) {
          store(out, kAdd ? load(out) + square[i] : square[i]);
          __builtin_prefetch(out + kRowsAhead * f.pixels, 1, 2);
        }
      } else {
        for (int i = 0; i < many; ++i, out += f.plane_step) store(out, kAdd ? load(out) + square[i] : square[i]);
      }
    }
    for (; w < f.pixels; ++w) {
      for (int64_t i = c; i < c + many; ++i) {
        float& out = f.out[i * f.plane_step + w];
        out = (kAdd ? out : 0) + f.in[w * f.pixel_step + i];
      }
    }
  }
}

}  // namespace

void map_columns(int m, const MapColumns& f) { m == 4 ? transform_columns<4, false>(f) : transform_columns<2, false>(f); }
void map_rows(int m, const MapRows& f) { m == 4 ? transform_rows<4, false>(f) : transform_rows<2, false>(f); }
void map_gradient_columns(int m, const MapColumns& f) { m == 4 ? transform_columns<4, true>(f) : transform_columns<2, true>(f); }
void map_gradient_rows(int m, const MapRows& f) { m == 4 ? transform_rows<4, true>(f) : transform_rows<2, true>(f); }
void map_half_outputs(int m, const HalfOutputs& f) { m == 4 ? transform_half_outputs<4>(f) : transform_half_outputs<2>(f); }
void map_products(const MapProducts& f) {
  if (f.rows > 0 && f.columns > 0) multiply(f);
}
void map_outputs(int m, const TileOutputs& f) { m == 4 ? transform_outputs<4>(f) : transform_outputs<2>(f); }
bool map_states(int m, const TileOutputs& f, const TileStates& s) { return m == 4 ? any_states<4>(f, s) : any_states<2>(f, s); }
void map_weights(int m, const float* taps, int64_t tap_step, float* points, int64_t point_step, int64_t count) {
  (m == 4 ? transform_weights<4, 3> : transform_weights<2, 5>)(taps, tap_step, points, point_step, count);
}
void map_weight_gradient(int m, const float* points, int64_t point_step, float* taps, int64_t tap_step, int64_t count) {
  (m == 4 ? transform_weight_gradient<4, 3> : transform_weight_gradient<2, 5>)(points, point_step, taps, tap_step, count);
}
void pool_pixels(const PixelPool& f) {
  for (int64_t k = 0; k < f.windows; ++k) {
    for (int64_t c = 0; c < f.channels; c += kLanes) {
      const float* in = f.in + k * f.width * f.pixel_step + c;
      Vec most = load(in);
      for (int64_t h = 0; h < f.height; ++h) {
        for (int64_t w = 0; w < f.width; ++w) {
          const Vec x = load(in + h * f.row_step + w * f.pixel_step);
          most = (x > most) | (x != x) ? x : most;  // NaN wins, as in the library
        }
      }
      store(f.out + k * f.channels + c, most);
    }
  }
}
void pixels_from_planes(const PlaneRow& row) { to_pixels(row); }
void planes_from_pixels(const PlaneRow& row) { to_planes<false>(row); }
void add_planes_from_pixels(const PlaneRow& row) { to_planes<true>(row); }

}  // namespace mer_fast::MER_ISA
