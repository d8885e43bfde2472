// Squares of vectors, turned in registers.
#pragma once

#include "vec.h"

namespace mer_fast::MER_ISA {

template <typename Real>
struct Index {
  typedef int32_t Int;
};
template <>
struct Index<double> {
  typedef int64_t Int;
};

// Which places of two vectors, the second's counted on, make the first and the second of a pair S rows apart. Tables, since
// the compiler would build such vectors anew, number by number.
template <typename Real, int S>
struct Exchange {
  static constexpr int kLanes = lanes_of<Real>;
  typedef typename Index<Real>::Int Int;
  typedef Int Places __attribute__((vector_size(kVecBytes)));
  alignas(kVecBytes) Int low[kLanes], high[kLanes];

  constexpr Exchange() : low(), high() {
    for (int j = 0; j < kLanes; ++j) {
      low[j] = j & S ? kLanes + j - S : j;
      high[j] = j & S ? kLanes + j : j + S;
    }
  }
  static inline Places of(const Int* table) {
    Places places;
    std::memcpy(&places, table, sizeof places);
    return places;
  }
};

template <typename Real, int S = 1>
inline void transpose_square(VecOf<Real>* rows) {
  constexpr int lanes = lanes_of<Real>;
  if constexpr (S < lanes) {
    static constexpr Exchange<Real, S> table;
    const auto low = table.of(table.low), high = table.of(table.high);
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) {
      if (i & S) continue;
      const VecOf<Real> a = rows[i], b = rows[i + S];
      rows[i] = __builtin_shuffle(a, b, low);
      rows[i + S] = __builtin_shuffle(a, b, high);
    }
    transpose_square<Real, 2 * S>(rows);
  }
}

}  // namespace mer_fast::MER_ISA
