#include "conv3d_pool_kernel.h"

#include "vec.h"

namespace mer_fast::MER_ISA {

namespace {

inline float erf_of(float x) { return __builtin_erff(x); }
inline double erf_of(double x) { return __builtin_erf(x); }

template <typename Real>
inline Real gelu(Real x) {
  return x * Real(0.5) * (1 + erf_of(x * Real(0.70710678118654752440)));
}

template <typename Real>
inline Real activate(Real x, Activation activation) {
  switch (activation) {
    case Activation::relu: return x < 0 ? Real(0) : x;  // NaN stays
    case Activation::leaky_relu: return x < 0 ? x * Real(kLeakySlope) : x;
    case Activation::gelu: return gelu(x);
    default: return x;
  }
}

template <typename Real>
inline VecOf<Real> activate_vector(VecOf<Real> x, Activation activation) {
  switch (activation) {
    case Activation::relu: return x < 0 ? VecOf<Real>{} : x;
    case Activation::leaky_relu: return x < 0 ? x * Real(kLeakySlope) : x;
    case Activation::gelu:
      for (int i = 0; i < lanes_of<Real>; ++i) x[i] = gelu(x[i]);
      return x;
    default: return x;
  }
}

template <typename Real>
inline bool all_finite(VecOf<Real> zeros) {  // sums of products with zero: NaN where one factor was not finite
  const auto bad = zeros != zeros;
  bool any = false;
  for (int i = 0; i < lanes_of<Real>; ++i) any |= bad[i] != 0;
  return !any;
}

// The values of one window and one vector of channels.
template <typename Real>
struct Window {
  const PoolRows<Real>& rows;
  int64_t first;  // from a frame's start to the window's first value
  int64_t block;

  template <typename Visit>
  inline void visit(const Visit& each) const {
    int place = 0;
    for (int64_t t = 0; t < rows.kernel[0]; ++t) {
      for (int64_t h = 0; h < rows.kernel[1]; ++h) {
        const Real* at = rows.frames[t] + first + h * rows.row_step;
        for (int64_t w = 0; w < rows.kernel[2]; ++w) each(at + w * block, place++);
      }
    }
  }
};

template <typename Real>
struct Best {
  VecOf<Real> value, winner, zeros;
};

// The largest value; winners only where asked. Exact as long as every value is finite.
template <typename Real, bool kWinner>
inline Best<Real> largest(const Window<Real>& window) {
  Best<Real> best = {};
  window.visit([&](const Real* at, int place) {
    const VecOf<Real> value = vload(at);
    if (place == 0) best.value = value;
    const auto above = value > best.value;
    best.value = above ? value : best.value;
    if constexpr (kWinner) best.winner = above ? vsplat(static_cast<Real>(place)) : best.winner;
    best.zeros += value * Real(0);
  });
  return best;
}

// gelu falls, then rises: its largest value is at the largest or at the smallest argument. Adds the bias.
template <typename Real>
inline Best<Real> largest_gelu(const Window<Real>& window, VecOf<Real> bias) {
  Best<Real> high = {}, low = {};
  window.visit([&](const Real* at, int place) {
    const VecOf<Real> value = vload(at), here = vsplat(static_cast<Real>(place));
    if (place == 0) high.value = low.value = value;
    const auto above = value > high.value, below = value < low.value;
    high.value = above ? value : high.value;
    high.winner = above ? here : high.winner;
    low.value = below ? value : low.value;
    low.winner = below ? here : low.winner;
    high.zeros += value * Real(0);
  });
  high.value += bias;
  low.value += bias;
  for (int i = 0; i < lanes_of<Real>; ++i) {
    if (high.value[i] >= 0 || low.value[i] == high.value[i]) continue;
    const Real g_high = gelu(high.value[i]), g_low = gelu(low.value[i]);
    if (g_low > g_high || (g_low == g_high && low.winner[i] < high.winner[i])) {
      high.value[i] = low.value[i];
      high.winner[i] = low.winner[i];
    }
  }
  return high;
}

// One lane with whatever is in it: the first of equal values wins, a NaN over everything before it.
template <typename Real>
inline void any_value(const Window<Real>& window, int lane, Real bias, Real* value, Real* winner) {
  Real best = 0, best_before = 0;
  int best_place = 0;
  window.visit([&](const Real* at, int place) {
    const Real before = at[lane] + bias, now = activate(before, window.rows.activation);
    if (place == 0 || now > best || now != now) {
      best = now;
      best_before = before;
      best_place = place;
    }
  });
  *value = window.rows.activation == Activation::gelu ? best_before : best;
  if (winner) *winner = static_cast<Real>(best_place);
}

template <typename Real, int kVectors>
bool pool(const PoolRows<Real>& rows) {
  constexpr int lanes = lanes_of<Real>, block = kVectors * lanes;
  bool finite = true;
  for (int64_t r = 0; r < rows.rows; ++r) {
    for (int64_t w = 0; w < rows.width; ++w) {
      for (int v = 0; v < kVectors; ++v) {
        const int64_t out = (r * rows.width + w) * block + v * lanes;
        const Window<Real> window{rows, r * rows.stride_h * rows.row_step + w * rows.stride_w * block + v * lanes, block};
        const VecOf<Real> bias = vload(rows.bias + v * lanes);
        Best<Real> best;
        if (rows.activation == Activation::gelu) {
          best = largest_gelu(window, bias);
        } else {  // these activations never fall, and neither does adding the bias
          best = rows.winners ? largest<Real, true>(window) : largest<Real, false>(window);
          best.value = activate_vector<Real>(best.value + bias, rows.activation);
        }
        vstore(rows.values + out, best.value);
        if (rows.winners) vstore(rows.winners + out, best.winner);
        if (!all_finite<Real>(best.zeros)) {
          finite = false;
          for (int i = 0; i < lanes; ++i) {
            any_value(window, i, bias[i], rows.values + out + i, rows.winners ? rows.winners + out + i : nullptr);
          }
        }
      }
    }
  }
  return finite;
}

template <typename Real>
bool finish(Real* values, int64_t count, const Real* bias, Activation activation, int vectors) {
  constexpr int lanes = lanes_of<Real>;
  VecOf<Real> zeros = {};
  for (int v = 0; v < vectors; ++v) {
    const VecOf<Real> b = vload(bias + v * lanes);
    for (int64_t i = 0; i < count; ++i) {
      Real* at = values + (i * vectors + v) * lanes;
      const VecOf<Real> value = vload(at);
      zeros += value * Real(0);
      vstore(at, activate_vector<Real>(value + b, activation));
    }
  }
  return all_finite<Real>(zeros);
}

template <typename Real>
inline void transpose_square(VecOf<Real>* rows) {
  constexpr int lanes = lanes_of<Real>;
  typedef decltype(VecOf<Real>{} > VecOf<Real>{}) Places;
#pragma GCC unroll 4
  for (int s = 1; s < lanes; s *= 2) {
    Places low, high;
    for (int j = 0; j < lanes; ++j) {
      low[j] = j & s ? lanes + j - s : j;
      high[j] = j & s ? lanes + j : j + s;
    }
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) {
      if (i & s) continue;
      const VecOf<Real> a = rows[i], b = rows[i + s];
      rows[i] = __builtin_shuffle(a, b, low);
      rows[i + s] = __builtin_shuffle(a, b, high);
    }
  }
}

// lanes x lanes elements, of which the first `many` columns are wanted.
template <typename Real>
inline void transpose_part(const Real* rows, int64_t row_step, Real* out, int64_t out_step, int64_t many) {
  constexpr int lanes = lanes_of<Real>;
  VecOf<Real> square[lanes];
#pragma GCC unroll 16
  for (int k = 0; k < lanes; ++k) square[k] = vload(rows + k * row_step);
  transpose_square<Real>(square);
  if (many == lanes) {
#pragma GCC unroll 16
    for (int k = 0; k < lanes; ++k) vstore(out + k * out_step, square[k]);
  } else {
    for (int k = 0; k < many; ++k) vstore(out + k * out_step, square[k]);
  }
}

template <typename Real>
void transpose(const Turn<Real>& turn) {
  constexpr int64_t lanes = lanes_of<Real>;
  for (int64_t c = 0; c < turn.columns; c += lanes) {
    // Where a vector would reach past what may be read, or past the last row, it begins earlier and repeats some.
    int64_t column = c, many = turn.columns - c < lanes ? turn.columns - c : lanes;
    if (c + lanes > turn.readable && turn.columns >= lanes) {
      column = turn.columns - lanes;
      many = lanes;
    }
    if (column + lanes > turn.readable || turn.rows < lanes) {
      for (int64_t k = column; k < column + many; ++k) {
        for (int64_t i = 0; i < turn.rows; ++i) turn.out[k * turn.out_step + i] = turn.in[i * turn.row_step + k];
      }
      continue;
    }
    for (int64_t i = 0; i < turn.rows; i += lanes) {
      const int64_t row = i + lanes <= turn.rows ? i : turn.rows - lanes;
      transpose_part(turn.in + row * turn.row_step + column, turn.row_step, turn.out + column * turn.out_step + row, turn.out_step, many);
    }
  }
}

}  // namespace

#define MER_FAST_DEFINE(Real)                                                                                            \
  bool pool_rows(const PoolRows<Real>& rows, int vectors) { return vectors == 1 ? pool<Real, 1>(rows) : pool<Real, 2>(rows); } \
  bool finish_rows(Real* values, int64_t count, const Real* bias, Activation activation, int vectors) {                  \
    return finish(values, count, bias, activation, vectors);                                                             \
  }                                                                                                                      \
  void transpose_block(const Turn<Real>& turn) { transpose(turn); }

MER_FAST_DEFINE(float)
MER_FAST_DEFINE(double)

}  // namespace mer_fast::MER_ISA
