// What happens to the pixels of a recurrent section between its convolutions: norms, ReLU, injections, and their gradients.
// Rows are [pixel][channel]; `_step` is the way from a pixel to the next.
#pragma once

#include <cstdint>

#include "isa.h"

namespace mer_fast {

struct Pixels {
  const float* data;
  int64_t step;
};

// ReLU((z + before) * scale + shift) + after.
struct StateRows {
  Pixels z, before, after;          // before and after: null for none
  const float *scale, *shift;       // [channel]
  float* out;
  int64_t out_step, pixels, channels;
};

// z + before, and for each channel the sums over pixels of (it - pivot) and of its square.
struct MomentRows {
  Pixels z, before;
  float* out;
  int64_t out_step, pixels, channels;
  const float* pivot;
  float *sums, *squares;
};

// Of a norm and its ReLU: the gradient of the state, what went into the norm.
struct NormRows {
  Pixels grad, z;
  const float *scale, *shift;   // [channel], as forward
  const float *mean, *inverse;  // and one over the deviation
  int64_t pixels, channels;
};

#define MER_FAST_RECURRENT_KERNELS                                                                                  \
  bool state_rows(const StateRows& f);                                                                               \
  void moment_rows(const MomentRows& f);                                                                             \
  void norm_sums(const NormRows& f, float* grads, float* products);                                                  \
  void norm_gradient(const NormRows& f, const float* mean_grad, const float* mean_product, float* out, int64_t out_step)

// state_rows: false where z is not finite. norm_sums: of the gradient behind ReLU, and of its products with the normalised z.
MER_FAST_DECLARE_KERNEL(MER_FAST_RECURRENT_KERNELS)

}  // namespace mer_fast
