// From stable-ABI tensors to what the kernels take.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "../checks.h"
#include "convert.h"

namespace mer_fast {

inline Element element_of(const char* op, const char* name, const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Byte: return Element::u8;
    case ScalarType::Half: return Element::f16;
    case ScalarType::BFloat16: return Element::bf16;
    case ScalarType::Float: return Element::f32;
    case ScalarType::Double: return Element::f64;
    default: break;
  }
  MER_FAST_CHECK(false, op, ": ", name, " must be uint8 or a float type; convert it with .to(torch.float32)");
}

inline const float* floats(const Tensor& t) { return static_cast<const float*>(t.const_data_ptr()); }

}  // namespace mer_fast
