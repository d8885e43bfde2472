// The vector types and the arithmetic built-ins of CUDA, for the host. Results are the nearest float, where a GPU's
// approximate instructions may be a few bits off.
#pragma once

#include <math.h>

#include <cstring>
#include <limits>

#define MER_FAST_VECTORS(T, Name)                                         \
  struct alignas(2 * sizeof(T)) Name##2 { T x, y; };                      \
  struct Name##3 { T x, y, z; };                                          \
  struct alignas(4 * sizeof(T)) Name##4 { T x, y, z, w; };                \
  inline Name##2 make_##Name##2(T x, T y) { return {x, y}; }              \
  inline Name##3 make_##Name##3(T x, T y, T z) { return {x, y, z}; }      \
  inline Name##4 make_##Name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
MER_FAST_VECTORS(char, char)
MER_FAST_VECTORS(unsigned char, uchar)
MER_FAST_VECTORS(short, short)
MER_FAST_VECTORS(unsigned short, ushort)
MER_FAST_VECTORS(int, int)
MER_FAST_VECTORS(unsigned, uint)
MER_FAST_VECTORS(float, float)
#undef MER_FAST_VECTORS
struct alignas(16) double2 { double x, y; };
inline double2 make_double2(double x, double y) { return {x, y}; }

// As on a GPU, of a number and a NaN the number.
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
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
inline float __int_as_float(int bits) { return same_bits<float>(bits); }
inline unsigned __float_as_uint(float value) { return same_bits<unsigned>(value); }
inline int __float_as_int(float value) { return same_bits<int>(value); }
inline double __longlong_as_double(long long bits) { return same_bits<double>(bits); }
inline long long __double_as_longlong(double value) { return same_bits<long long>(value); }

// NaN gives 0, what does not fit the nearest number that does.
template <typename Integer>
Integer saturated(double value) {
  using Limits = std::numeric_limits<Integer>;
  if (value != value) return 0;
  if (value <= static_cast<double>(Limits::min())) return Limits::min();
  return value >= static_cast<double>(Limits::max()) ? Limits::max() : static_cast<Integer>(value);
}
inline int __float2int_rn(float x) { return saturated<int>(nearbyint(x)); }
inline int __float2int_rd(float x) { return saturated<int>(floor(x)); }
inline int __float2int_ru(float x) { return saturated<int>(ceil(x)); }
inline int __float2int_rz(float x) { return saturated<int>(trunc(x)); }
inline unsigned __float2uint_rn(float x) { return saturated<unsigned>(nearbyint(x)); }
inline unsigned __float2uint_rd(float x) { return saturated<unsigned>(floor(x)); }
inline unsigned __float2uint_rz(float x) { return saturated<unsigned>(trunc(x)); }
inline int __double2int_rn(double x) { return saturated<int>(nearbyint(x)); }
inline int __double2int_rd(double x) { return saturated<int>(floor(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __frsqrt_rn(float x) { return static_cast<float>(1.0 / sqrt(static_cast<double>(x))); }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline float __saturatef(float x) { return x > 0.0f ? fminf(x, 1.0f) : 0.0f; }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __powf(float x, float y) { return powf(x, y); }

inline double sinpi(double x) { return sin(M_PI * fmod(x, 2.0)); }
inline double cospi(double x) { return cos(M_PI * fmod(x, 2.0)); }
inline float sinpif(float x) { return static_cast<float>(sinpi(x)); }
inline float cospif(float x) { return static_cast<float>(cospi(x)); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32); }
inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int k = 0; k < 32; ++k) reversed |= (x >> k & 1u) << (31 - k);
  return reversed;
}

namespace mer_fast {

inline float half_to_float(unsigned short bits) { return static_cast<float>(same_bits<_Float16>(bits)); }
inline unsigned short float_to_half(float value) { return same_bits<unsigned short>(static_cast<_Float16>(value)); }
inline unsigned short float_to_bfloat16(float value) {
  const unsigned bits = __float_as_uint(value);
  return static_cast<unsigned short>(value != value ? 0x7FC0u : (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

}  // namespace mer_fast
