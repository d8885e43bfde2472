#include "convert.h"
#include "simd.h"

namespace mer_fast::MER_ISA {

namespace {

float from_bfloat16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

uint16_t to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t nearest_even = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return static_cast<uint16_t>(nan ? 0x7fc0u : nearest_even);
}

uint8_t to_uint8(float value) {
  const float saturated = value < 0.0f ? 0.0f : value > 255.0f ? 255.0f : value;
  // Adding 2^23 leaves no room for a fraction: the sum is rounded, half to even.
  return static_cast<uint8_t>(static_cast<int32_t>((saturated + 8388608.0f) - 8388608.0f));
}

void widen_half(const uint16_t* source, float* target, int64_t count) {
  int64_t i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= count; i += 16) {
    store(target + i, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + i))));
  }
#elif defined(__F16C__)
  for (; i + 8 <= count; i += 8) {
    store(target + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source + i))));
  }
#endif
  for (; i < count; ++i) {
    _Float16 half;
    std::memcpy(&half, source + i, sizeof half);
    target[i] = static_cast<float>(half);
  }
}

void narrow_half(const float* source, uint16_t* target, int64_t count) {
  int64_t i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= count; i += 16) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(target + i), _mm512_cvtps_ph(load(source + i), _MM_FROUND_TO_NEAREST_INT));
  }
#elif defined(__F16C__)
  for (; i + 8 <= count; i += 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target + i), _mm256_cvtps_ph(load(source + i), _MM_FROUND_TO_NEAREST_INT));
  }
#endif
  for (; i < count; ++i) {
    const _Float16 half = static_cast<_Float16>(source[i]);
    std::memcpy(target + i, &half, sizeof half);
  }
}

}  // namespace

void widen(Element type, const void* source, float* target, int64_t count) {
  if (type == Element::u8) {
    const uint8_t* bytes = static_cast<const uint8_t*>(source);
    for (int64_t i = 0; i < count; ++i) target[i] = bytes[i];
  } else if (type == Element::bf16) {
    const uint16_t* words = static_cast<const uint16_t*>(source);
    for (int64_t i = 0; i < count; ++i) target[i] = from_bfloat16(words[i]);
  } else if (type == Element::f16) {
    widen_half(static_cast<const uint16_t*>(source), target, count);
  } else {
    std::memcpy(target, source, static_cast<size_t>(count) * sizeof(float));
  }
}

void narrow(Element type, const float* source, void* target, int64_t count) {
  if (type == Element::u8) {
    uint8_t* bytes = static_cast<uint8_t*>(target);
    for (int64_t i = 0; i < count; ++i) bytes[i] = to_uint8(source[i]);
  } else if (type == Element::bf16) {
    uint16_t* words = static_cast<uint16_t*>(target);
    for (int64_t i = 0; i < count; ++i) words[i] = to_bfloat16(source[i]);
  } else if (type == Element::f16) {
    narrow_half(source, static_cast<uint16_t*>(target), count);
  } else {
    std::memcpy(target, source, static_cast<size_t>(count) * sizeof(float));
  }
}

}  // namespace mer_fast::MER_ISA
