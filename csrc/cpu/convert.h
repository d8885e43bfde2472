// Element types that kernels do not compute in (uint8, float16, bfloat16) are widened to float on the way in and
// narrowed on the way out, a stretch of memory that fits the first-level cache at a time.
#pragma once

#include <cstdint>

#include "isa.h"

namespace mer_fast {

enum class Element { u8, f16, bf16, f32, f64 };

inline int64_t element_size(Element type) {
  switch (type) {
    case Element::u8: return 1;
    case Element::f16:
    case Element::bf16: return 2;
    case Element::f32: return 4;
    default: return 8;
  }
}

// widen: `count` elements of `type` to float. narrow: the way back; to uint8 with rounding (half to even) and saturation.
// Neither takes f64, which has kernels of its own.
MER_FAST_DECLARE_KERNEL(void widen(Element type, const void* source, float* target, int64_t count))
MER_FAST_DECLARE_KERNEL(void narrow(Element type, const float* source, void* target, int64_t count))

}  // namespace mer_fast
