#include "conv3d_pool_backward_kernel.h"

#include "vec.h"

namespace mer_fast::MER_ISA {

namespace {

constexpr int kHeld = kVecRegisters == 32 ? 27 : 12;  // sums or weights held in registers
constexpr int kMostVectors = 3, kMostRows = 9;

template <typename Real>
double collect_box(const WindowBox<Real>& box, Winners<Real>& winners) {
  double sum = 0;
  int64_t count = 0;
  for (int64_t t = 0; t < box.size[0]; ++t) {
    for (int64_t h = 0; h < box.size[1]; ++h) {
      const int64_t row = t * box.step[0] + h * box.step[1];
      const int64_t patch = box.patch + t * box.patch_step[0] + h * box.patch_step[1];
      Real row_sum = 0;
      for (int64_t w = 0; w < box.size[2]; ++w) {
        const uint8_t winner = box.winners[row + w];
        const Real grad = winner == kNobody ? Real(0) : box.grad[row + w];
        row_sum += grad;
        winners.grad[count] = grad;
        winners.patch[count] = patch + w * box.patch_step[2] + box.places[winner];
        count += grad != 0;
      }
      sum += static_cast<double>(row_sum);
    }
  }
  winners.count = count;
  return sum;
}

template <typename Real, int R, int V>
void gather_part(const Winners<Real>& winners, const Real* input, const int64_t* rows, Real* sums, int64_t row_step) {
  constexpr int lanes = lanes_of<Real>;
  VecOf<Real> sum[R][V];
#pragma GCC unroll 9
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) sum[r][v] = vload(sums + r * row_step + v * lanes);
  }
  for (int64_t i = 0; i < winners.count; ++i) {
    const VecOf<Real> grad = vsplat(winners.grad[i]);
    const Real* patch = input + winners.patch[i];
#pragma GCC unroll 9
    for (int r = 0; r < R; ++r) {
      const Real* at = patch + rows[r];
#pragma GCC unroll 3
      for (int v = 0; v < V; ++v) sum[r][v] += grad * vload(at + v * lanes);
    }
  }
#pragma GCC unroll 9
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) vstore(sums + r * row_step + v * lanes, sum[r][v]);
  }
}

template <typename Real, int R, int V>
void scatter_part(const Winners<Real>& winners, const Real* weight, const int64_t* rows, Real* grad_input, int64_t row_step) {
  constexpr int lanes = lanes_of<Real>;
  VecOf<Real> held[R][V];
#pragma GCC unroll 9
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) held[r][v] = vload(weight + r * row_step + v * lanes);
  }
  for (int64_t i = 0; i < winners.count; ++i) {
    const VecOf<Real> grad = vsplat(winners.grad[i]);
    Real* patch = grad_input + winners.patch[i];
#pragma GCC unroll 9
    for (int r = 0; r < R; ++r) {
      Real* at = patch + rows[r];
#pragma GCC unroll 3
      for (int v = 0; v < V; ++v) vstore(at + v * lanes, vload(at + v * lanes) + grad * held[r][v]);
    }
  }
}

// Calls part<R, V> for the largest R and V, at most those given, that fit the registers.
template <int R, int V, typename Call>
inline void with_part(int64_t rows, int64_t vectors, const Call& call) {
  if constexpr (V > 1) {
    if (vectors < V) return with_part<R, V - 1>(rows, vectors, call);
  }
  if constexpr (R > 1) {
    if (rows < R || R * V > kHeld) return with_part<R - 1, V>(rows, vectors, call);
  }
  call.template operator()<R, V>();
}

// The patch in parts of at most R rows and V vectors: each pass over the winners does one.
template <typename Real, typename Part>
inline void in_parts(const PatchShape& patch, const Part& part) {
  for (int64_t v = 0; v < patch.vectors;) {
    const int64_t vectors = patch.vectors - v < kMostVectors ? patch.vectors - v : kMostVectors;
    for (int64_t r = 0; r < patch.num_rows;) {
      int64_t done = 0;
      with_part<kMostRows, kMostVectors>(patch.num_rows - r, vectors, [&]<int R, int V>() {
        part.template operator()<R, V>(r, v * lanes_of<Real>);
        done = R;
      });
      r += done;
    }
    v += vectors;
  }
}

template <typename Real>
void gather_all(const Winners<Real>& winners, const Real* input, const PatchShape& patch, Real* sums) {
  const int64_t step = patch.vectors * lanes_of<Real>;
  in_parts<Real>(patch, [&]<int R, int V>(int64_t r, int64_t column) {
    gather_part<Real, R, V>(winners, input + column, patch.rows + r, sums + r * step + column, step);
  });
}

template <typename Real>
void scatter_all(const Winners<Real>& winners, const Real* weight, const PatchShape& patch, Real* grad_input) {
  const int64_t step = patch.vectors * lanes_of<Real>;
  in_parts<Real>(patch, [&]<int R, int V>(int64_t r, int64_t column) {
    scatter_part<Real, R, V>(winners, weight + r * step + column, patch.rows + r, grad_input + column, step);
  });
}

}  // namespace

#define MER_FAST_DEFINE(Real)                                                                                \
  double collect(const WindowBox<Real>& box, Winners<Real>& winners) { return collect_box(box, winners); }   \
  void gather(const Winners<Real>& winners, const Real* input, const PatchShape& patch, Real* sums) {        \
    gather_all(winners, input, patch, sums);                                                                 \
  }                                                                                                          \
  void scatter(const Winners<Real>& winners, const Real* weight, const PatchShape& patch, Real* grad_input) { \
    scatter_all(winners, weight, patch, grad_input);                                                         \
  }

MER_FAST_DEFINE(float)
MER_FAST_DEFINE(double)

}  // namespace mer_fast::MER_ISA
