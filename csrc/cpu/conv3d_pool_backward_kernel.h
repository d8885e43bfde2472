// The backward pass of conv3d_pool works on the values that won their windows: each has a gradient and a patch of input.
//
// A patch is a few rows of consecutive elements, each row a few vectors wide (the last one may reach past the row's end).
#pragma once

#include "conv3d_pool_kernel.h"

namespace mer_fast {

// A box of windows of one channel, and where their patches begin.
template <typename Real>
struct WindowBox {
  const Real* grad;      // at the box's first window
  const uint8_t* winners;
  int64_t size[3], step[3];          // windows, and from one to the next in grad and winners: t, h, w
  int64_t patch, patch_step[3];      // the first window's first patch, and from a window's to the next one's
  const int64_t* places;             // from a window's first patch to that of each place; kNobody + 1 of them
};

template <typename Real>
struct Winners {
  Real* grad;      // never 0
  int64_t* patch;  // where the patch begins
  int64_t count;
};

struct PatchShape {
  const int64_t* rows;  // where each row begins, from the patch's beginning
  int64_t num_rows, vectors;
};

// collect lists a box's winners and returns the sum of their gradients. gather adds grad * patch over all winners to
// sums[row][vector]; scatter adds grad * weight[row][vector] to every winner's patch.
#define MER_FAST_WINNER_KERNELS(Real)                                                                       \
  double collect(const WindowBox<Real>& box, Winners<Real>& winners);                                       \
  void gather(const Winners<Real>& winners, const Real* input, const PatchShape& patch, Real* sums);        \
  void scatter(const Winners<Real>& winners, const Real* weight, const PatchShape& patch, Real* grad_input)

MER_FAST_DECLARE_KERNEL(MER_FAST_WINNER_KERNELS(float))
MER_FAST_DECLARE_KERNEL(MER_FAST_WINNER_KERNELS(double))

}  // namespace mer_fast
