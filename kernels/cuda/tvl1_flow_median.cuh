// Median filter of 3x3 or 5x5 pixels with a replicated border, by networks of minima and maxima: of 5x5 each pixel takes
// 25 reads of shared memory and 190 minima and maxima (five sorted columns, two pairs of them merged).
#pragma once

#include "tvl1_flow_tile.cuh"

namespace mer_fast {

__device__ __forceinline__ void sort2(float& a, float& b) {
  const float low = fminf(a, b);
  b = fmaxf(a, b);
  a = low;
}

__device__ __forceinline__ void sort3(float (&a)[3]) {
  sort2(a[0], a[1]);
  sort2(a[1], a[2]);
  sort2(a[0], a[1]);
}

__device__ __forceinline__ void sort5(float (&a)[5]) {
  sort2(a[0], a[1]);
  sort2(a[3], a[4]);
  sort2(a[2], a[4]);
  sort2(a[2], a[3]);
  sort2(a[1], a[4]);
  sort2(a[0], a[3]);
  sort2(a[0], a[2]);
  sort2(a[1], a[3]);
  sort2(a[1], a[2]);
}

// Batcher's odd-even merges of two sorted lists.
__device__ __forceinline__ void merge2(float a0, float a1, float b0, float b1, float (&out)[4]) {
  sort2(a0, b0);
  sort2(a1, b1);
  sort2(a1, b0);
  out[0] = a0;
  out[1] = a1;
  out[2] = b0;
  out[3] = b1;
}

__device__ __forceinline__ void merge3(float a0, float a1, float a2, float b0, float b1, float b2, float (&out)[6]) {
  float even[4];
  merge2(a0, a2, b0, b2, even);
  sort2(a1, b1);
  sort2(a1, even[1]);
  sort2(b1, even[2]);
  out[0] = even[0];
  out[1] = a1;
  out[2] = even[1];
  out[3] = b1;
  out[4] = even[2];
  out[5] = even[3];
}

__device__ __forceinline__ void merge5(const float (&a)[5], const float (&b)[5], float (&out)[10]) {
  float even[6], odd[4];
  merge3(a[0], a[2], a[4], b[0], b[2], b[4], even);
  merge2(a[1], a[3], b[1], b[3], odd);
  out[0] = even[0];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    sort2(odd[i], even[i + 1]);
    out[2 * i + 1] = odd[i];
    out[2 * i + 2] = even[i + 1];
  }
  out[9] = even[5];
}

// The median of 25: two sorted lists of ten and one of five. It is among the ranks 8 to 13 of the twenty: of the pairwise
// minima of one list with the other reversed, which rise and then fall, the three largest, and of the maxima the smallest.
__device__ __forceinline__ float median25(const float (&a)[10], const float (&b)[10], const float (&c)[5]) {
  float l[10], h[10];
#pragma unroll
  for (int i = 0; i < 10; ++i) {
    l[i] = fminf(a[i], b[9 - i]);
    h[i] = fmaxf(a[i], b[9 - i]);
  }
  float top[3] = {fmaxf(l[5], fmaxf(l[2], l[8])), fmaxf(fmaxf(l[0], l[6]), fmaxf(l[3], l[9])), fmaxf(fmaxf(l[1], l[7]), l[4])};
  float bottom[3] = {fminf(h[5], fminf(h[2], h[8])), fminf(fminf(h[0], h[6]), fminf(h[3], h[9])), fminf(fminf(h[1], h[7]), h[4])};
  sort3(top);
  sort3(bottom);
  float median = bottom[2];
  median = fminf(median, fmaxf(top[0], c[4]));
  median = fminf(median, fmaxf(top[1], c[3]));
  median = fminf(median, fmaxf(top[2], c[2]));
  median = fminf(median, fmaxf(bottom[0], c[1]));
  return fminf(median, fmaxf(bottom[1], c[0]));
}

// One component of the flow as the filter reads it: rows beyond the tile are there where another block has them.
struct Tvl1Plane {
  const float* first;  // of the tile's row 0
  int stride, columns, low, high;

  __device__ __forceinline__ explicit Tvl1Plane(const Tvl1Tile& tile)
      : first(tile.memory.plane + kTvl1Border * tile.stride), stride(tile.stride), columns(tile.columns),
        low(tile.has_above() ? -kTvl1Border : 0), high(tile.rows - 1 + (tile.has_below() ? kTvl1Border : 0)) {}

  // Sorted column x of the kSize rows around `row`.
  template <int kSize>
  __device__ __forceinline__ void column(int row, int x, float (&out)[kSize]) const {
    const int inside = min(max(x, 0), columns - 1);
#pragma unroll
    for (int j = 0; j < kSize; ++j) out[j] = first[min(max(row + j - kSize / 2, low), high) * stride + inside];
    if constexpr (kSize == 5) {
      sort5(out);
    } else {
      sort3(out);
    }
  }

  __device__ __forceinline__ float median5(int row, int x) const {
    float a[10], b[10], c[5], d[5];
    column(row, x - 2, c);
    column(row, x - 1, d);
    merge5(c, d, a);
    column(row, x, c);
    column(row, x + 1, d);
    merge5(c, d, b);
    column(row, x + 2, c);
    return median25(a, b, c);
  }

  __device__ __forceinline__ float median3(int row, int x) const {
    float a[3], b[3], c[3];
    column(row, x - 1, a);
    column(row, x, b);
    column(row, x + 1, c);
    float middle[3] = {a[1], b[1], c[1]};
    sort3(middle);
    float three[3] = {fmaxf(a[0], fmaxf(b[0], c[0])), middle[1], fminf(a[2], fminf(b[2], c[2]))};
    sort3(three);
    return three[1];
  }
};

// Filters one component, in place. All threads of the tile call it. Where there are several blocks, strips have at least
// kTvl1Border rows.
template <int kRows>
__device__ __forceinline__ void tvl1_median_component(const Tvl1Tile& tile, const Tvl1Strip<kRows>& s, float (&values)[kRows], int size) {
  int stride = tile.stride;
  pin(stride);  // else the addresses of all rows are kept from one call to the next
  float* column = tile.memory.plane + kTvl1Border * stride + s.column;
  float* at = column + s.first * stride;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (r < s.count) *at = values[r];
    at += stride;
  }
  // The blocks before and after want this one's outermost rows behind their own.
  for (int k = 0; k < kTvl1Border; ++k) {
    if (s.strip == 0 && tile.has_above()) cluster_map(column, tile.rank - 1)[(tile.rows_above + k) * stride] = column[k * stride];
    const int row = tile.rows - kTvl1Border + k;
    if (s.strip == tile.strips - 1 && tile.has_below()) cluster_map(column, tile.rank + 1)[(k - kTvl1Border) * stride] = column[row * stride];
  }
  tile.sync();
  const Tvl1Plane plane(tile);
  float* own = tile.memory.own + s.own;
#pragma unroll 1
  for (int r = 0; r < s.count; ++r) {
    own[32 * r] = size == 5 ? plane.median5(s.first + r, s.column) : plane.median3(s.first + r, s.column);
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (r < s.count) values[r] = own[32 * r];
  }
  tile.sync();  // the plane is read
}

template <int kRows>
__device__ __forceinline__ void tvl1_median(const Tvl1Tile& tile, Tvl1Strip<kRows>& s, int size) {
  tvl1_median_component(tile, s, s.u, size);
  tvl1_median_component(tile, s, s.v, size);
}

}  // namespace mer_fast
