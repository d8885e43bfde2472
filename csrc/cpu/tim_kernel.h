// TIM as a matrix product: out[t] = sum_i weights[t * n + i] * frames[i], over a run of pixels.
#pragma once

#include <cstdint>

#include "isa.h"

namespace mer_fast {

// How many pixels a run must be a multiple of; the caller pads.
constexpr int64_t kTimAlign = 32;

template <typename Real>
struct TimRun {
  const Real* frames;      // frame i starts at frames + i * frame_stride
  int64_t frame_stride;
  const Real* weights;     // (num_out, num_in)
  Real* out;               // frame t starts at out + t * out_stride
  int64_t out_stride;
  int64_t num_in, num_out;
  int64_t pixels;          // a multiple of kTimAlign
  bool prefetch;           // the next run lies right behind this one
};

MER_FAST_DECLARE_KERNEL(void tim_run(const TimRun<float>& run))
MER_FAST_DECLARE_KERNEL(void tim_run(const TimRun<double>& run))

}  // namespace mer_fast
