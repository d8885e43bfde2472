// Convolutions with kernels kt x 1 x 1: no packing, no transposition.
#pragma once

#include "conv3d_forward.h"

namespace mer_fast {

// Whether `call` is one that this way takes.
bool suits_pointwise(const ConvCall& call);

void convolve_pointwise(const ConvCall& call, const float* weight, const float* bias);
void convolve_pointwise(const ConvCall& call, const double* weight, const double* bias);

}  // namespace mer_fast
