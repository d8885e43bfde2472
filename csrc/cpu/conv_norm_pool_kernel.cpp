#include "conv_norm_pool_kernel.h"

#include "conv3d_pool_kernel.h"
#include "conv_norm_pool_tile.h"
#include "lanes.h"

namespace mer_fast::MER_ISA {

namespace {

constexpr int64_t kHeldRows = kStrips * kTile;

// The rows that are held of a map, and of its gradient.
template <typename Real>
struct Held {
  Real* data;
  int64_t row;

  Held(Real* first, int64_t width) : data(first), row(tiles(width) * kTile * kGroup) {}
  inline Real* at(int64_t h, int64_t w) const { return data + h % kHeldRows * row + w * kGroup; }
};

// The rows of a strip: those of a map are held in strips, whose rows lie one behind the other.
template <typename Real>
struct Strip {
  Real* data;
  int64_t row;

  Strip(const Held<Real>& held, int64_t top) : data(held.at(top, 0)), row(held.row) {}
  inline Real* at(int64_t i, int64_t w) const { return data + i * row + w * kGroup; }
};

struct Span {
  int64_t begin, end;
};

// Rows (or columns) of the map in a row (or column) of windows.
inline Span span_of(const Pool& pool, int64_t window, int64_t size) {
  const int64_t begin = window * pool.stride - pool.padding, end = begin + pool.kernel;
  return {begin < 0 ? 0 : begin, end > size ? size : end};
}

// Calls each(place, columns behind it), first place of each row, for a window; constant to the compiler where it is whole.
template <int64_t kKernel, typename EachRow>
[[gnu::always_inline]] inline void rows_of_whole(int64_t first, const EachRow& each) {
#pragma GCC unroll 4
  for (int64_t i = 0; i < kKernel; ++i) each(first + i, kKernel);
}

template <typename EachRow>
[[gnu::always_inline]] inline void rows_of_window(const Span& h, const Span& w, const EachRow& each) {
  const int64_t high = h.end - h.begin, wide = w.end - w.begin;
  if (high == 3 && wide == 3) {
    rows_of_whole<3>(h.begin, each);
  } else if (high == 2 && wide == 2) {
    rows_of_whole<2>(h.begin, each);
  } else {
    for (int64_t i = h.begin; i < h.end; ++i) each(i, wide);
  }
}

// The block from a channel of its group on.
template <typename Real>
inline Block<Real> from(Block<Real> b, int64_t lane) {
  b.outputs -= lane;
  b.weights += lane;
  b.start += lane;
  b.least += lane;
  b.held += lane;
  return b;
}

template <typename Real, int kEdges>
[[gnu::always_inline]] inline void map_tile(const Block<Real>& b, int64_t top, int64_t w, Tile<Real>& d) {
  const VecOf<Real> start = vload(b.start);
#pragma GCC unroll 3
  for (int i = 0; i < kTile; ++i) {
#pragma GCC unroll 3
    for (int j = 0; j < kTile; ++j) d[i][j] = start;
  }
  convolve_tile<Real, kEdges>(b.in, b.in.data + top * b.in.row + w, b.weights, d);
}

// --- forward -----------------------------------------------------------------------------------------------------------
template <typename Real>
struct Moments {
  VecOf<Real> sum = {}, squares = {};

  [[gnu::always_inline]] inline void add(const Tile<Real>& d) {
    VecOf<Real> s[kTile], q[kTile];
#pragma GCC unroll 3
    for (int i = 0; i < kTile; ++i) {
      s[i] = d[i][0] + d[i][1] + d[i][2];
      q[i] = d[i][0] * d[i][0];
      q[i] += d[i][1] * d[i][1];
      q[i] += d[i][2] * d[i][2];
    }
    sum += s[0] + s[1] + s[2];
    squares += q[0] + q[1] + q[2];
  }
  [[gnu::always_inline]] inline void add(VecOf<Real> d) {
    sum += d;
    squares += d * d;
  }
};

template <typename Real, bool kMoments>
inline void forward_strip(const Block<Real>& b, int64_t top, Moments<Real>& moments) {
  const Strip<Real> held(Held<Real>(b.held, b.in.width), top);
  const VecOf<Real> least = vload(b.least);
  const int64_t rows = b.in.height - top;
  tiles_of_strip(b.in, top, [&](auto edges, int64_t w) __attribute__((always_inline)) {
    Tile<Real> d;
    map_tile<Real, decltype(edges)::value>(b, top, w, d);
#pragma GCC unroll 3
    for (int i = 0; i < kTile; ++i) {
#pragma GCC unroll 3
      for (int j = 0; j < kTile; ++j) {
        d[i][j] = larger<Real>(least, d[i][j]);  // NaN stays
        vstore(held.at(i, w + j), d[i][j]);
      }
    }
    if constexpr (kMoments) {
      const int64_t columns = b.in.width - w;
      if (rows >= kTile && columns >= kTile) {
        moments.add(d);
      } else {
        for (int64_t i = 0; i < rows && i < kTile; ++i) {
          for (int64_t j = 0; j < columns && j < kTile; ++j) moments.add(vload(held.at(i, w + j)));
        }
      }
    }
  });
}

template <typename Real>
inline void largest_of_row(const BlockForward<Real>& f, const Block<Real>& b, int64_t lane, int64_t ph) {
  const Held<Real> held(b.held, b.in.width);
  const Span h = span_of(f.block.pool, ph, b.in.height);
  Real* out = f.winners + ph * f.block.pool.width * f.step + lane;
  for (int64_t pw = 0; pw < f.block.pool.width; ++pw, out += f.step) {
    const Span w = span_of(f.block.pool, pw, b.in.width);
    VecOf<Real> best = vload(held.at(h.begin, w.begin));
    rows_of_window(h, w, [&](int64_t i, int64_t wide) __attribute__((always_inline)) {
      const Real* at = held.at(i, w.begin);
#pragma GCC unroll 4
      for (int64_t j = 0; j < wide; ++j) best = larger<Real>(vload(at + j * kGroup), best);
    });
    vstore(out, best);
  }
}

// Of any sign, and NaN wins, as in the library. (In training it is in the statistics, and so in all that the norm gives.)
template <typename Real>
inline void winners_of_row(const BlockForward<Real>& f, const Block<Real>& b, int64_t lane, int64_t ph) {
  const Held<Real> held(b.held, b.in.width);
  const Span h = span_of(f.block.pool, ph, b.in.height);
  const VecOf<Real> sign = vload(f.sign + lane);
  Real* out = f.winners + ph * f.block.pool.width * f.step + lane;
  for (int64_t pw = 0; pw < f.block.pool.width; ++pw, out += f.step) {
    const Span w = span_of(f.block.pool, pw, b.in.width);
    const VecOf<Real> first = vload(held.at(h.begin, w.begin));
    VecOf<Real> most = first, least = first;
    for (int64_t i = h.begin; i < h.end; ++i) {
      for (int64_t j = w.begin; j < w.end; ++j) {
        const VecOf<Real> d = vload(held.at(i, j));
        most = (d > most) | (d != d) ? d : most;
        least = (d < least) | (d != d) ? d : least;
      }
    }
    const VecOf<Real> any = most != most ? most : first;
    vstore(out, sign > 0 ? most : sign < 0 ? least : any);
  }
}

template <typename Real, bool kMoments>
void forward(const BlockForward<Real>& f) {
  for (int64_t lane = 0; lane < f.block.outputs; lane += lanes_of<Real>) {
    const Block<Real> b = from(f.block, lane);
    Moments<Real> moments;
    int64_t ph = 0;
    for (int64_t top = 0; top < b.in.height; top += kTile) {
      forward_strip<Real, kMoments>(b, top, moments);
      const int64_t there = top + kTile < b.in.height ? top + kTile : b.in.height;
      for (; ph < b.pool.height && span_of(b.pool, ph, b.in.height).end <= there; ++ph) {
        kMoments && f.all_positive ? largest_of_row(f, b, lane, ph) : winners_of_row(f, b, lane, ph);
      }
    }
    if constexpr (kMoments) {
      vstore(f.moments + lane, moments.sum);
      vstore(f.moments + kGroup + lane, moments.squares);
    }
  }
}

// --- backward ----------------------------------------------------------------------------------------------------------
// The map again, and what every place of it that ReLU lets through gets from the statistics.
template <typename Real>
inline void repeat_strip(const BlockBackward<Real>& f, const Block<Real>& b, int64_t lane, int64_t top) {
  const Strip<Real> held(Held<Real>(b.held, b.in.width), top), grads(Held<Real>(f.held_grads + lane, b.in.width), top);
  const VecOf<Real> least = vload(b.least), constant = vload(f.constant + lane), slope = vload(f.slope + lane);
  const int64_t rows = b.in.height - top;
  tiles_of_strip(b.in, top, [&](auto edges, int64_t w) __attribute__((always_inline)) {
    Tile<Real> d;
    map_tile<Real, decltype(edges)::value>(b, top, w, d);
#pragma GCC unroll 3
    for (int i = 0; i < kTile; ++i) {
#pragma GCC unroll 3
      for (int j = 0; j < kTile; ++j) {
        const VecOf<Real> value = larger<Real>(least, d[i][j]);
        vstore(held.at(i, w + j), value);
        vstore(grads.at(i, w + j), unless_least<Real>(value, least, constant + slope * value));
      }
    }
    const int64_t columns = b.in.width - w;
    if (rows < kTile || columns < kTile) {  // places that there are not
      for (int64_t i = 0; i < kTile; ++i) {
        for (int64_t j = i < rows ? columns : 0; j < kTile; ++j) vstore(grads.at(i, w + j), VecOf<Real>{});
      }
    }
  });
}

// To each window's winner, the first of those places that have its value, the window's gradient.
template <typename Real>
inline void credit_row(const BlockBackward<Real>& f, const Block<Real>& b, int64_t lane, int64_t ph) {
  const Held<Real> held(b.held, b.in.width), to(f.held_grads + lane, b.in.width);
  const Span h = span_of(b.pool, ph, b.in.height);
  const int64_t first = ph * b.pool.width * f.step + lane;
  const Real *winner = f.winners + first, *grad = f.grads + first;
  for (int64_t pw = 0; pw < b.pool.width; ++pw, winner += f.step, grad += f.step) {
    const Span w = span_of(b.pool, pw, b.in.width);
    FirstEqual<Real> search(vload(winner), vload(grad));
    rows_of_window(h, w, [&](int64_t i, int64_t wide) __attribute__((always_inline)) {
      const Real* at = held.at(i, w.begin);
      Real* grads = to.at(i, w.begin);
#pragma GCC unroll 4
      for (int64_t j = 0; j < wide; ++j) {
        vstore(grads + j * kGroup, search.add_where_found(vload(at + j * kGroup), vload(grads + j * kGroup)));
      }
    });
  }
}

template <typename Real>
inline void weights_of_strip(const BlockBackward<Real>& f, const Block<Real>& b, int64_t lane, int64_t top) {
  const Strip<Real> held(Held<Real>(f.held_grads + lane, b.in.width), top);
  VecOf<Real> bias = vload(f.bias_grad + lane);
  tiles_of_strip(b.in, top, [&](auto edges, int64_t w) __attribute__((always_inline)) {
    Tile<Real> grads;
    VecOf<Real> sums[kTile];
#pragma GCC unroll 3
    for (int i = 0; i < kTile; ++i) {
#pragma GCC unroll 3
      for (int j = 0; j < kTile; ++j) grads[i][j] = vload(held.at(i, w + j));
      sums[i] = grads[i][0] + grads[i][1] + grads[i][2];
    }
    bias += sums[0] + sums[1] + sums[2];
    weight_gradient_tile<Real, decltype(edges)::value>(b.in, b.in.data + top * b.in.row + w, grads, f.weight_grad + lane);
  });
  vstore(f.bias_grad + lane, bias);
  if (!f.map_grad) return;
  const int64_t wanted = b.outputs < lanes_of<Real> ? b.outputs : lanes_of<Real>;
  for (int64_t h = top; h < b.in.height && h < top + kTile; ++h) {
    transpose_block({held.at(h - top, 0), b.in.width, wanted, kGroup - lane, kGroup,
                     f.map_grad + lane * f.map_plane + h * f.map_row, f.map_plane});
  }
}

template <typename Real>
void backward(const BlockBackward<Real>& f) {
  for (int64_t lane = 0; lane < f.block.outputs; lane += lanes_of<Real>) {
    const Block<Real> b = from(f.block, lane);
    int64_t ph = 0;
    for (int64_t top = 0; top < b.in.height; top += kTile) {
      repeat_strip(f, b, lane, top);
      const int64_t there = top + kTile < b.in.height ? top + kTile : b.in.height;
      for (; ph < b.pool.height && span_of(b.pool, ph, b.in.height).end <= there; ++ph) credit_row(f, b, lane, ph);
      // No window to come reaches above this strip.
      if (top > 0) weights_of_strip(f, b, lane, top - kTile);
    }
    weights_of_strip(f, b, lane, (tiles(b.in.height) - 1) * kTile);
  }
}

// --- the input's gradient ------------------------------------------------------------------------------------------------
template <typename Real>
void convolution(const PlainConvolution<Real>& f) {
  for (int64_t lane = 0; lane < f.block.outputs; lane += lanes_of<Real>) {
    const Block<Real> b = from(f.block, lane);
    const Held<Real> all(b.held, b.in.width);
    const int64_t wanted = b.outputs < lanes_of<Real> ? b.outputs : lanes_of<Real>, plane = b.in.height * b.in.width;
    for (int64_t top = 0; top < b.in.height; top += kTile) {
      const Strip<Real> held(all, top);
      tiles_of_strip(b.in, top, [&](auto edges, int64_t w) __attribute__((always_inline)) {
        Tile<Real> d;
        map_tile<Real, decltype(edges)::value>(b, top, w, d);
#pragma GCC unroll 3
        for (int i = 0; i < kTile; ++i) {
#pragma GCC unroll 3
          for (int j = 0; j < kTile; ++j) vstore(held.at(i, w + j), d[i][j]);
        }
      });
      for (int64_t h = top; h < b.in.height && h < top + kTile; ++h) {
        transpose_block({held.at(h - top, 0), b.in.width, wanted, kGroup - lane, kGroup, f.out + lane * plane + h * b.in.width, plane});
      }
    }
  }
}

}  // namespace

#define MER_FAST_DEFINE(Real)                                                                                       \
  void block_forward(const BlockForward<Real>& f) { f.moments ? forward<Real, true>(f) : forward<Real, false>(f); } \
  void block_backward(const BlockBackward<Real>& f) { backward(f); }                                                \
  void block_convolution(const PlainConvolution<Real>& f) { convolution(f); }

MER_FAST_DEFINE(float)
MER_FAST_DEFINE(double)

}  // namespace mer_fast::MER_ISA
