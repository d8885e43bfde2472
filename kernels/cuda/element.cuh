// What lies in memory (uint8, half, bfloat16, float, double) and what it is computed in (float; double for double).
// Half and bfloat16 are raw 16 bits with one conversion instruction each way: no header that NVRTC or a host compiler
// would have to find. Off CUDA, the stand-in (tests/kit/cuda_host) has the four conversions and comes first.
#pragma once

namespace mer_fast {

using Index = long long;

struct Half {
  unsigned short bits;
};
struct Bfloat16 {
  unsigned short bits;
};

template <typename Element>
struct ComputeType {
  using type = float;
};
template <>
struct ComputeType<double> {
  using type = double;
};
template <typename Element>
using Compute = typename ComputeType<Element>::type;

// kCount neighbours that one instruction moves.
template <typename Element, int kCount>
struct alignas(sizeof(Element) * kCount) Pack {
  Element at[kCount];
};

#ifdef __CUDACC__
__device__ __forceinline__ float half_to_float(unsigned short bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}
__device__ __forceinline__ unsigned short float_to_half(float value) {
  unsigned short bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}
__device__ __forceinline__ unsigned short float_to_bfloat16(float value) {
  unsigned short bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}
#endif

// A byte below the 24 bits of 2^23 is an integer's float already; the conversion unit is 8 times slower than these two.
__device__ __forceinline__ float widen(unsigned char x) { return __uint_as_float(0x4B000000u | x) - 8388608.0f; }
__device__ __forceinline__ float widen(Half x) { return half_to_float(x.bits); }
__device__ __forceinline__ float widen(Bfloat16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }
__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }

template <typename Element>
struct Narrow {
  static __device__ __forceinline__ Element from(Element x) { return x; }
};
template <>
struct Narrow<unsigned char> {  // saturated; the addition rounds half to even
  static __device__ __forceinline__ unsigned char from(float x) {
    return static_cast<unsigned char>(__float_as_uint(fminf(fmaxf(x, 0.0f), 255.0f) + 8388608.0f));
  }
};
template <>
struct Narrow<Half> {
  static __device__ __forceinline__ Half from(float x) { return {float_to_half(x)}; }
};
template <>
struct Narrow<Bfloat16> {
  static __device__ __forceinline__ Bfloat16 from(float x) { return {float_to_bfloat16(x)}; }
};

__host__ __device__ constexpr Index divide_up(Index a, Index b) { return (a + b - 1) / b; }

}  // namespace mer_fast
