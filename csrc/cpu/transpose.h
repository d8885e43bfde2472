// Squares of vectors, turned in registers.
#pragma once

#include "vec.h"

namespace mer_fast::MER_ISA {

template <typename Real>
inline void transpose_square(VecOf<Real>* rows) {
  constexpr int lanes = lanes_of<Real>;
  typedef decltype(VecOf<Real>{} > VecOf<Real>{}) Places;
#pragma GCC unroll 4
  for (int s = 1; s < lanes; s *= 2) {
    Places low, high;
    for (int j = 0; j < lanes; ++j) {
      low[j] = j & s ? lanes + j - s : j;
      high[j] = j & s ? lanes + j : j + s;
    }
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) {
      if (i & s) continue;
      const VecOf<Real> a = rows[i], b = rows[i + s];
      rows[i] = __builtin_shuffle(a, b, low);
      rows[i + s] = __builtin_shuffle(a, b, high);
    }
  }
}

}  // namespace mer_fast::MER_ISA
