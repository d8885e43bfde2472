// A 3x3 convolution with few channels, ReLU, batch norm and max-pool of one example, without its map in memory: the map is
// computed in strips of kTile rows, of which the last two are held. What each window keeps is the value that wins in it.
//
// Values of the map are held less a pivot, near which they lie, so that their variance does not drown in their mean:
// `start` is the bias less the pivot, and `least` (zero less the pivot) what ReLU leaves of less than zero.
#pragma once

#include <cstdint>

#include "isa.h"

namespace mer_fast {

constexpr int64_t kTile = 3;         // rows and columns of the map that are computed at a time
constexpr int64_t kStrips = 2;       // held: a pool of up to 4 rows reaches back into no more
constexpr int64_t kGroup = 16;       // channels side by side: a multiple of the lanes of every vector
constexpr int64_t kTaps = 9;

inline int64_t tiles(int64_t size) { return (size + kTile - 1) / kTile; }

// An example between zeros, and the size of its convolution.
template <typename Real>
struct Framed {
  const Real* data;  // [channel][row][column]: `border` zeros, the example, zeros up to the end of the last tile's input
  int64_t channels, plane, row;
  int64_t border, in_height, in_width;
  int64_t height, width;  // of the map
};

struct Pool {
  int64_t kernel, stride, padding, height, width;
};

// The block of an example and of kGroup channels, of which `outputs` are there. Arrays of channels have kGroup places.
template <typename Real>
struct Block {
  Framed<Real> in;
  Pool pool;
  int64_t outputs;
  const Real *weights;          // [in channel][tap][channel]
  const Real *start, *least;
  Real* held;                   // kStrips strips of the map, [row][column][channel], see held_elements
};

inline int64_t held_elements(int64_t width) { return kStrips * kTile * tiles(width) * kTile * kGroup; }

template <typename Real>
struct BlockForward {
  Block<Real> block;
  const Real* sign;  // of the norm's scale: where it is negative the least value wins, where it is 0 the first
  bool all_positive;
  Real* winners;     // [window][step]
  int64_t step;
  Real* moments;     // [2][channel]: the sums of the map's values and of their squares; null where nobody asks
};

// Of the map before ReLU: where it is above zero `constant` + `slope` * its value + the gradients of the windows it wins.
template <typename Real>
struct BlockBackward {
  Block<Real> block;
  const Real *constant, *slope;
  const Real *winners, *grads;    // [window][step]
  int64_t step;
  Real* held_grads;               // as `held`
  Real *weight_grad, *bias_grad;  // [in channel][tap][channel] and [channel], added to
  Real* map_grad;                 // [channel][row][column], where it is wanted
  int64_t map_plane, map_row;
};

// The convolution alone, to planes: [channel][row][column].
template <typename Real>
struct PlainConvolution {
  Block<Real> block;
  Real* out;
};

// Which elements stay, by a hash of a fold's key and of the element's place in its fold; those are scaled, the others are 0.
struct Dropout {
  bool on;
  uint64_t key;
  uint32_t threshold;  // of 2^32
  double scale;        // 0 where nothing stays
};

// What follows the winners of an example's windows, channels side by side: [window][step]. The norm is a scale and a shift; then
// come dropout and the mean of average x average windows, of which there are `averages`, [average][step].
template <typename Real>
struct Windows {
  Pool pool;
  int64_t step, average;
  Dropout dropout;
  uint32_t first;  // place of the example's first element: channel 0 of window 0; a channel has all its windows one after another

  int64_t count() const { return pool.height * pool.width; }
  int64_t averages_high() const { return pool.height / average; }
  int64_t averages_wide() const { return pool.width / average; }
  int64_t averages() const { return averages_high() * averages_wide(); }
};

#define MER_FAST_BLOCK_KERNELS(Real)                                                                                             \
  void frame_example(const Framed<Real>& x, const Real* example, const Real* next, Real* to);                                    \
  void block_forward(const BlockForward<Real>& f);                                                                               \
  void block_backward(const BlockBackward<Real>& f);                                                                             \
  void block_convolution(const PlainConvolution<Real>& f);                                                                       \
  void close_windows(const Windows<Real>& w, const Real* winners, const Real* scale, const Real* shift, Real* averages);         \
  void open_windows(const Windows<Real>& w, const Real* average_grads, Real* grads);                                             \
  void sum_windows(const Windows<Real>& w, const Real* winners, const Real* grads, Real* sums, Real* products);                  \
  void scale_windows(const Windows<Real>& w, const Real* winners, const Real* least, const Real* scale, Real* grads)

// frame_example: puts an example between its zeros, and fetches the next one ahead. close_windows: from winners to averages;
// open_windows: from the averages' gradients to those of the windows. sum_windows: over windows the gradients and their products
// with the winners, added to [step]. scale_windows: gradients times `scale`, and 0 where ReLU holds the winner at `least`.
MER_FAST_DECLARE_KERNEL(MER_FAST_BLOCK_KERNELS(float))
MER_FAST_DECLARE_KERNEL(MER_FAST_BLOCK_KERNELS(double))

}  // namespace mer_fast
