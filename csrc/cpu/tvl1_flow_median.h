// Median filter of 3x3 or 5x5 pixels with a replicated border, by networks of minima and maxima.
#pragma once

#include "simd.h"
#include "tvl1_flow_kernel.h"
#include "tvl1_flow_sweep.h"

namespace mer_fast::MER_ISA {
namespace {

inline void sort2(Vec& a, Vec& b) {
  const Vec low = min(a, b);
  b = max(a, b);
  a = low;
}

inline void sort3(Vec (&a)[3]) {
  sort2(a[0], a[1]);
  sort2(a[1], a[2]);
  sort2(a[0], a[1]);
}

inline void sort5(Vec (&a)[5]) {
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
inline void merge2(Vec a0, Vec a1, Vec b0, Vec b1, Vec (&out)[4]) {
  sort2(a0, b0);
  sort2(a1, b1);
  sort2(a1, b0);
  out[0] = a0;
  out[1] = a1;
  out[2] = b0;
  out[3] = b1;
}

inline void merge3(const Vec a0, const Vec a1, const Vec a2, const Vec b0, const Vec b1, const Vec b2, Vec (&out)[6]) {
  Vec even[4], odd[2] = {a1, b1};
  merge2(a0, a2, b0, b2, even);
  sort2(odd[0], odd[1]);
  sort2(odd[0], even[1]);
  sort2(odd[1], even[2]);
  out[0] = even[0];
  out[1] = odd[0];
  out[2] = even[1];
  out[3] = odd[1];
  out[4] = even[2];
  out[5] = even[3];
}

inline void merge5(const Vec (&a)[5], const Vec (&b)[5], Vec (&out)[10]) {
  Vec even[6], odd[4];
  merge3(a[0], a[2], a[4], b[0], b[2], b[4], even);
  merge2(a[1], a[3], b[1], b[3], odd);
  out[0] = even[0];
  for (int i = 0; i < 4; ++i) {
    sort2(odd[i], even[i + 1]);
    out[2 * i + 1] = odd[i];
    out[2 * i + 2] = even[i + 1];
  }
  out[9] = even[5];
}

// The three largest of a sequence that rises, then falls, in order. (Padded to twelve with one -infinity at each end it
// stays so; halving such a sequence by pairwise maxima keeps the largest, first six of them, then three.)
inline void top3(const Vec (&s)[10], Vec (&out)[3]) {
  out[0] = max(s[5], max(s[2], s[8]));
  out[1] = max(max(s[0], s[6]), max(s[3], s[9]));
  out[2] = max(max(s[1], s[7]), s[4]);
  sort3(out);
}

inline void bottom3(const Vec (&s)[10], Vec (&out)[3]) {
  out[0] = min(s[5], min(s[2], s[8]));
  out[1] = min(min(s[0], s[6]), min(s[3], s[9]));
  out[2] = min(min(s[1], s[7]), s[4]);
  sort3(out);
}

// The median of 25: two sorted lists of ten and one of five. It is among the ranks 8 to 13 of the twenty.
inline Vec median25(const Vec (&a)[10], const Vec (&b)[10], const Vec (&c)[5]) {
  Vec lower[10], upper[10], top[3], bottom[3];
  for (int i = 0; i < 10; ++i) {
    lower[i] = min(a[i], b[9 - i]);
    upper[i] = max(a[i], b[9 - i]);
  }
  top3(lower, top);
  bottom3(upper, bottom);
  const Vec middle[6] = {top[0], top[1], top[2], bottom[0], bottom[1], bottom[2]};
  Vec median = middle[5];
  for (int i = 0; i < 5; ++i) median = min(median, max(middle[i], c[4 - i]));
  return median;
}

// Scratch rows: two pixels of border, at an aligned address, then the row.
struct MedianRows {
  static constexpr int kBorder = 2;
  float* base;
  int64_t stride;
  float* row(int i) const { return base + i * stride + kBorder; }
};

inline void copy_with_border(const float* source, int64_t width, int radius, float* target) {
  std::memcpy(target, source, static_cast<size_t>(width) * sizeof(float));
  for (int i = 1; i <= radius; ++i) {
    target[-i] = source[0];
    target[width - 1 + i] = source[width - 1];
  }
}

// Columns of five sorted (rows 0 to 4 of `sorted`), pairs of neighbouring columns merged (rows 0 to 9 of `merged`).
inline void median_row5(const MedianRows& ring, const MedianRows& sorted, const MedianRows& merged, int64_t width, float* out) {
  for (int64_t x = -2; x < width + 2; x += kLanes) {
    Vec column[5];
    for (int i = 0; i < 5; ++i) column[i] = load(ring.row(i) + x);
    sort5(column);
    for (int i = 0; i < 5; ++i) store(sorted.row(i) + x, column[i]);
  }
  for (int64_t x = -2; x < width + 1; x += kLanes) {
    Vec left[5], right[5], pair[10];
    for (int i = 0; i < 5; ++i) {
      left[i] = load(sorted.row(i) + x);
      right[i] = load(sorted.row(i) + x + 1);
    }
    merge5(left, right, pair);
    for (int i = 0; i < 10; ++i) store(merged.row(i) + x, pair[i]);
  }
  for (int64_t x = 0; x < width; x += kLanes) {
    Vec a[10], b[10], c[5];
    for (int i = 0; i < 10; ++i) {
      a[i] = load(merged.row(i) + x - 2);
      b[i] = load(merged.row(i) + x);
    }
    for (int i = 0; i < 5; ++i) c[i] = load(sorted.row(i) + x + 2);
    store(out + x, median25(a, b, c));
  }
}

inline void median_row3(const MedianRows& ring, const MedianRows& sorted, int64_t width, float* out) {
  for (int64_t x = -2; x < width + 1; x += kLanes) {
    Vec column[3];
    for (int i = 0; i < 3; ++i) column[i] = load(ring.row(i) + x);
    sort3(column);
    for (int i = 0; i < 3; ++i) store(sorted.row(i) + x, column[i]);
  }
  for (int64_t x = 0; x < width; x += kLanes) {
    Vec low[3], middle[3], high[3];
    for (int i = 0; i < 3; ++i) {
      low[i] = load(sorted.row(0) + x + i - 1);
      middle[i] = load(sorted.row(1) + x + i - 1);
      high[i] = load(sorted.row(2) + x + i - 1);
    }
    sort3(middle);
    Vec three[3] = {max(low[0], max(low[1], low[2])), middle[1], min(high[0], min(high[1], high[2]))};
    sort3(three);
    store(out + x, three[1]);
  }
}

// Filters the member's own rows of one component of the flow in place; a ring keeps the rows as they were.
inline void median_filter(const Band& band, Field field, int size, float* scratch) {
  const int radius = size / 2;
  const int64_t stride = tvl1_field_width(band.width) + kTvl1MaxLanes;
  const MedianRows ring{scratch, stride}, sorted{scratch + 5 * stride, stride}, merged{scratch + 10 * stride, stride};
  for (int64_t y = band.begin - radius; y < band.end + radius; ++y) {
    const int64_t source = y < 0 ? 0 : y >= band.height ? band.height - 1 : y;
    const int slot = static_cast<int>((y + size) % size);
    copy_with_border(band.row(source, field), band.width, radius, ring.row(slot));
    if (y < band.begin + radius) continue;
    float* out = merged.row(9) + stride;  // a row of its own: the last vector would run into the next field
    if (size == 5) {
      median_row5(ring, sorted, merged, band.width, out);
    } else {
      median_row3(ring, sorted, band.width, out);
    }
    std::memcpy(band.row(y - radius, field), out, static_cast<size_t>(band.width) * sizeof(float));
  }
}

}  // namespace
}  // namespace mer_fast::MER_ISA
