// What the stages share: a member's scratch memory, rows with borders, and which rows are whose.
#pragma once

#include "farneback_flow_kernel.h"
#include "simd.h"

namespace mer_fast::MER_ISA {
namespace {

constexpr int kChannels = kFarnebackChannels;

// The rows [begin, end) of an image that one member works on.
struct Rows {
  int64_t begin, end;
};

inline Rows rows_of(int64_t height, int rank, int size) { return {height * rank / size, height * (rank + 1) / size}; }

// Hands out a member's memory, in vectors; a stage starts it anew.
class Scratch {
 public:
  explicit Scratch(float* memory) : next_(memory) {}
  float* take(int64_t floats) {
    float* array = next_;
    next_ += farneback_pitch(floats);
    return array;
  }
  static_assert(sizeof(float*) <= 2 * sizeof(float));
  const float** take_rows(int64_t count) {
    return reinterpret_cast<const float**>(take(2 * count));
  }

 private:
  float* next_;
};

// A row with room for a border: `data` points at its first pixel.
inline float* take_bordered(Scratch& scratch, int64_t width, int64_t radius) {
  return scratch.take(farneback_bordered(width, radius)) + farneback_pitch(radius);
}

// Repeats the ends of a row for `radius` pixels, and behind them to the end of the last vector that is read.
inline void replicate_border(float* row, int64_t width, int64_t radius) {
  const Vec first = splat(row[0]), last = splat(row[width - 1]);
  for (int64_t x = farneback_pitch(radius); x > 0; x -= kLanes) store(row - x, first);
  const int64_t end = farneback_pitch(width) + radius + kLanes;
  for (int64_t x = width; x < end; x += kLanes) store(row + x, last);
}

inline int64_t clamp_row(int64_t y, int64_t height) { return y < 0 ? 0 : y >= height ? height - 1 : y; }

// Mirrors without repeating the edge.
inline int64_t reflect(int64_t i, int64_t size) {
  if (i >= 0 && i < size) return i;
  if (size == 1) return 0;
  const int64_t period = 2 * (size - 1);
  const int64_t at = (i % period + period) % period;
  return at < size ? at : period - at;
}

}  // namespace
}  // namespace mer_fast::MER_ISA
