// The forward pass of conv3d and conv3d_pool: packs pieces of the input, runs the kernels on them, writes the results.
#pragma once

#include "conv3d_shape.h"

namespace mer_fast {

struct ConvCall {
  ConvShape conv;
  PoolShape pool;       // of one place for a convolution alone
  bool pooled;
  Activation activation;
  bool exact;           // sums in the order of the formula, no Winograd
  Element type;         // of input and output
  const void* input;    // contiguous
  void* output;         // (N, O, T', H', W')
  uint8_t* winners;     // as output, or nullptr
};

// Fills output and winners. Errors name `op`.
void convolve(const ConvCall& call, const char* op, const Tensor& weight, const std::optional<Tensor>& bias);

}  // namespace mer_fast
