// TV-L1 flow of a batch of pairs in plain memory: what the operator and the NumPy door share.
#pragma once

#include "tvl1_flow_kernel.h"

namespace mer_fast {

struct Tvl1Batch {
  Tvl1Params params;
  const void *frame0, *frame1;  // (pairs, height, width), uint8 where `bytes`, else float nominally 0..1
  bool bytes;
  const float* initial_flow;    // (pairs, 2, height, width), or null
  float* flow;                  // (pairs, 2, height, width)
  int64_t pairs, height, width;
};

// Uses torch's threads. Frames are at least 16 pixels a side; the values are the caller's to check.
__attribute__((visibility("default"))) void tvl1_flow_batch(const Tvl1Batch& batch);

}  // namespace mer_fast
