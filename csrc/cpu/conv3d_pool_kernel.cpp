#include "conv3d_pool_kernel.h"

#include "activation.h"
#include "transpose.h"

namespace mer_fast::MER_ISA {

namespace {

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
  VecOf<Real> value, winner, second, squares;  // squares: their sum, not finite where a value is not (or is huge)
};

// The largest value; its place and the second largest only where asked. Exact as long as every value is finite.
template <typename Real, bool kWinner, bool kSecond>
inline Best<Real> largest(const Window<Real>& window) {
  Best<Real> best = {};
  window.visit([&](const Real* at, int place) {
    const VecOf<Real> value = vload(at);
    best.squares += value * value;
    if (place == 0) {
      best.value = value;
      best.second = vsplat(static_cast<Real>(-__builtin_inf()));
      return;
    }
    const auto above = value > best.value;
    if constexpr (kSecond) {
      const VecOf<Real> lesser = above ? best.value : value;
      best.second = lesser > best.second ? lesser : best.second;
    }
    best.value = above ? value : best.value;
    if constexpr (kWinner) best.winner = above ? vsplat(static_cast<Real>(place)) : best.winner;
  });
  return best;
}

// Notes the lanes in which the two largest values are so near that rounding may have exchanged them.
template <typename Real>
inline void note_close(const Best<Real>& best, int places, int64_t first, CloseCalls& close) {
  const VecOf<Real> gap = best.value - best.second;
  const Real share = static_cast<Real>(CloseCalls::kTolerance * CloseCalls::kTolerance / places);
  const auto near = (gap * gap <= best.squares * share) & (gap > 0);  // equal ones are as good as each other
  bool any = false;
  for (int i = 0; i < lanes_of<Real>; ++i) any |= near[i] != 0;
  if (!any) return;
  for (int i = 0; i < lanes_of<Real> && close.count < CloseCalls::kMost; ++i) {
    if (near[i]) close.index[close.count++] = first + i;
  }
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
    high.squares += value * value;
  });
  high.value += bias;
  low.value += bias;
  for (int i = 0; i < lanes_of<Real>; ++i) {
    if (high.value[i] >= 0 || low.value[i] == high.value[i]) continue;
    const Real g_high = gelu<Real>(high.value[i]), g_low = gelu<Real>(low.value[i]);
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
  const bool off = window.rows.activation == Activation::relu && best <= 0;
  *value = window.rows.activation == Activation::gelu ? best_before : best;
  if (winner) *winner = static_cast<Real>(off ? kNobody : best_place);
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
          best = !rows.winners ? largest<Real, false, false>(window)
              : rows.close     ? largest<Real, true, true>(window)
                               : largest<Real, true, false>(window);
          if (rows.winners && rows.close) {
            note_close(best, static_cast<int>(rows.kernel[0] * rows.kernel[1] * rows.kernel[2]), out, *rows.close);
          }
          best.value = activate_vector<Real>(best.value + bias, rows.activation);
        }
        vstore(rows.values + out, best.value);
        if (rows.activation == Activation::relu) best.winner = best.value <= 0 ? vsplat(Real(kNobody)) : best.winner;
        if (rows.winners) vstore(rows.winners + out, best.winner);
        if (!all_finite<Real>(best.squares * Real(0))) {
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

// What happens to values on the way: nothing, or an epilogue.
template <typename Real>
struct Nothing {
  inline VecOf<Real> vector(VecOf<Real> x, int64_t) { return x; }
  inline Real one(Real x, int64_t) { return x; }
};

template <typename Real, Activation kActivation>
struct Finish {
  const Epilogue<Real>& epilogue;
  VecOf<Real> zeros = {};

  inline VecOf<Real> vector(VecOf<Real> x, int64_t column) {
    zeros += x * Real(0);
    x += vsplat(epilogue.bias[column]);
    return activate_vector<Real>(x, kActivation);
  }
  inline Real one(Real x, int64_t column) {
    zeros[0] += x * Real(0);
    x += epilogue.bias[column];
    return activate(x, kActivation);
  }
};

// lanes x lanes elements from `column` on, of which the first `many` columns are wanted.
template <typename Real, typename Way>
inline void transpose_part(const Turn<Real>& turn, int64_t row, int64_t column, int64_t many, Way& way) {
  constexpr int lanes = lanes_of<Real>;
  const Real* in = turn.in + row * turn.row_step + column;
  VecOf<Real> square[lanes];
#pragma GCC unroll 16
  for (int k = 0; k < lanes; ++k) square[k] = vload(in + k * turn.row_step);
  transpose_square<Real>(square);
  const auto put = [&](int k) {
    const int64_t place = (column + k) * turn.out_step + row;
    vstore(turn.out + place, way.vector(square[k], column + k));
  };
  if (many == lanes) {
#pragma GCC unroll 16
    for (int k = 0; k < lanes; ++k) put(k);
  } else {
    for (int k = 0; k < many; ++k) put(k);
  }
}

template <typename Real, typename Way>
void transpose(const Turn<Real>& turn, Way& way) {
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
        for (int64_t i = 0; i < turn.rows; ++i) {
          const int64_t place = k * turn.out_step + i;
          turn.out[place] = way.one(turn.in[i * turn.row_step + k], k);
        }
      }
      continue;
    }
    for (int64_t i = 0; i < turn.rows; i += lanes) {
      transpose_part(turn, i + lanes <= turn.rows ? i : turn.rows - lanes, column, many, way);
    }
  }
}

template <typename Real, Activation kActivation>
bool finish(const Turn<Real>& turn, const Epilogue<Real>& epilogue) {
  Finish<Real, kActivation> way{epilogue};
  transpose(turn, way);
  return all_finite<Real>(way.zeros);
}

template <typename Real>
bool finish_as(const Turn<Real>& turn, const Epilogue<Real>& epilogue) {
  switch (epilogue.activation) {
    case Activation::relu: return finish<Real, Activation::relu>(turn, epilogue);
    case Activation::leaky_relu: return finish<Real, Activation::leaky_relu>(turn, epilogue);
    case Activation::gelu: return finish<Real, Activation::gelu>(turn, epilogue);
    default: return finish<Real, Activation::none>(turn, epilogue);
  }
}

}  // namespace

#define MER_FAST_DEFINE(Real)                                                                                                  \
  bool pool_rows(const PoolRows<Real>& rows, int vectors) { return vectors == 1 ? pool<Real, 1>(rows) : pool<Real, 2>(rows); } \
  void transpose_block(const Turn<Real>& turn) {                                                                               \
    Nothing<Real> way;                                                                                                         \
    transpose(turn, way);                                                                                                      \
  }                                                                                                                            \
  bool finish_block(const Turn<Real>& turn, const Epilogue<Real>& epilogue) { return finish_as(turn, epilogue); }

MER_FAST_DEFINE(float)
MER_FAST_DEFINE(double)

}  // namespace mer_fast::MER_ISA
