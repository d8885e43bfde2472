// Gray frames as the flow kernels read them: uint8, or float nominally 0..1.
#pragma once

#include "element.cuh"

namespace mer_fast {

// Whether a value is no gray level: frames of 0..255 given as floats, or NaN.
__device__ __forceinline__ bool is_bad_gray(unsigned char) { return false; }
__device__ __forceinline__ bool is_bad_gray(float x) { return !(x >= -1.0f && x <= 2.0f); }

// 0..255
__device__ __forceinline__ float gray(unsigned char x) { return widen(x); }
__device__ __forceinline__ float gray(float x) { return 255.0f * x; }

}  // namespace mer_fast
