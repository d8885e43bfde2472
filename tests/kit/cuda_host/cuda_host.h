// Stands in for the CUDA built-ins that the kernels use: the same .cuh compiles with a host compiler and runs block by
// block, thread by thread, where the sanitizers see every access. Include it first.
#pragma once

#include <math.h>

#include <cstring>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

// The threads of a block run one after another here, so what they would wait for has not happened yet.
#define MER_FAST_NO_BARRIERS \
  static_assert(false, "the CUDA stand-in runs threads one by one: kernels with barriers or shuffles need fibers")
#define __syncthreads() MER_FAST_NO_BARRIERS
#define __syncwarp(...) MER_FAST_NO_BARRIERS
#define __shfl_sync(...) MER_FAST_NO_BARRIERS
#define __shfl_up_sync(...) MER_FAST_NO_BARRIERS
#define __shfl_down_sync(...) MER_FAST_NO_BARRIERS
#define __shfl_xor_sync(...) MER_FAST_NO_BARRIERS
#define __shared__ MER_FAST_NO_BARRIERS;

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

template <typename T>
T min(T a, T b) {
  return b < a ? b : a;
}
template <typename T>
T max(T a, T b) {
  return a < b ? b : a;
}

template <typename To, typename From>
To same_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}
inline float __uint_as_float(unsigned bits) { return same_bits<float>(bits); }
inline unsigned __float_as_uint(float value) { return same_bits<unsigned>(value); }

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline double sinpi(double x) { return sin(3.14159265358979323846 * fmod(x, 2.0)); }

namespace mer_fast {

inline float half_to_float(unsigned short bits) { return static_cast<float>(same_bits<_Float16>(bits)); }
inline unsigned short float_to_half(float value) { return same_bits<unsigned short>(static_cast<_Float16>(value)); }
inline unsigned short float_to_bfloat16(float value) {
  const unsigned bits = __float_as_uint(value);
  return static_cast<unsigned short>(value != value ? 0x7FC0u : (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

}  // namespace mer_fast
