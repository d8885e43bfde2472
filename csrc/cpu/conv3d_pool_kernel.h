// What follows a convolution's frames: bias, activation and max-pool, or bias and activation alone; and the way out.
#pragma once

#include <cstdint>

#include "isa.h"

namespace mer_fast {

enum class Activation { none, relu, leaky_relu, gelu };

constexpr double kLeakySlope = 0.01;
constexpr int kNobody = 255;  // the winner of a window in which ReLU is off: nothing flows back through it

// Windows whose two largest values differ by no more than rounding, for the caller to decide; those beyond kMost are left.
struct CloseCalls {
  static constexpr int kMost = 16;
  static constexpr double kTolerance = 4e-6;  // of the root mean square of the window's values
  int64_t index[kMost];  // in PoolRows::values
  int count = 0;
};

// Pools rows of convolution values. With gelu the winner is chosen by it, and its value before the activation written.
template <typename Real>
struct PoolRows {
  const Real* const* frames;  // one a place of the window in time, each [row][position][block]
  int64_t row_step;
  int64_t kernel[3];          // t, h, w
  int64_t stride_h, stride_w;
  int64_t rows, width;        // pooled
  const Real* bias;           // [block]
  Activation activation;
  Real* values;               // [row * width][block]
  Real* winners;              // as values, places in the window or kNobody; nullptr where nobody asks
  CloseCalls* close;          // where the values are rounded more than the formula's; nullptr elsewhere
};

// in[row][column] to out[column][row].
template <typename Real>
struct Turn {
  const Real* in;
  int64_t rows, columns, readable;  // readable: columns that may be read, at least `columns`
  int64_t row_step;
  Real* out;
  int64_t out_step;
};

// What is done to convolution values on the way out: activation(value + bias).
template <typename Real>
struct Epilogue {
  const Real* bias;    // [column]
  Activation activation;
};

// pool_rows and finish_block return whether every convolution value that they saw was finite. transpose_block turns a
// matrix as it is, finish_block with an epilogue.
#define MER_FAST_POOL_KERNELS(Real)                                          \
  bool pool_rows(const PoolRows<Real>& rows, int vectors);                   \
  void transpose_block(const Turn<Real>& turn);                              \
  bool finish_block(const Turn<Real>& turn, const Epilogue<Real>& epilogue)

MER_FAST_DECLARE_KERNEL(MER_FAST_POOL_KERNELS(float))
MER_FAST_DECLARE_KERNEL(MER_FAST_POOL_KERNELS(double))

}  // namespace mer_fast
