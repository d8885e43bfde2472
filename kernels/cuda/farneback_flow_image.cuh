// What a level of Farneback's flow is made of: its images, sampled from the blurred full-size frames, and their polynomial
// expansions, b_y / 2, b_x / 2, a_yy / 2, a_xx / 2 in a quad and a_xy / 4 beside it.
#pragma once

#include "block.cuh"
#include "frames.cuh"

namespace mer_fast {

constexpr int kFarnebackThreads = 256;

// --- sampling ---------------------------------------------------------------------------------------------------------

// Where output pixel i of `out` falls between two of `in` input pixels, centres aligned, ends replicated.
struct FarnebackBetween {
  int low;
  float weight;  // of the pixel behind `low`
};

// In whole numbers, so that no position is rounded; sides are below 2^15.
__device__ __forceinline__ FarnebackBetween farneback_between(int i, int in, int out) {
  const int at = (2 * i + 1) * in - out;  // in units of 1 / (2 out)
  if (at < 0) return {0, 0.0f};
  const unsigned unit = 2u * static_cast<unsigned>(out), low = static_cast<unsigned>(at) / unit;
  if (static_cast<int>(low) >= in - 1) return {in - 1, 0.0f};
  return {static_cast<int>(low), static_cast<float>(static_cast<unsigned>(at) - low * unit) / static_cast<float>(unit)};
}

__device__ __forceinline__ int farneback_clamp(int i, int size) { return i < 0 ? 0 : i >= size ? size - 1 : i; }

// Mirrored without repeating the edge, by less than the size.
__device__ __forceinline__ int farneback_reflect(int i, int size) {
  const int inside = i < 0 ? -i : i;
  return farneback_clamp(inside < size ? inside : 2 * size - 2 - inside, size);
}

// --- images -----------------------------------------------------------------------------------------------------------

struct FarnebackImage {
  Index pairs;
  int full_height, full_width, height, width;
  int radius;             // of the blur
  float decay, middle;    // its taps are middle * exp(-decay * i^2)
  int rows, columns;      // of the level that a block makes
  int span;               // columns of the full size that it needs at most

  __host__ __device__ int down() const { return (height + rows - 1) / rows; }
  __host__ __device__ int across() const { return (width + columns - 1) / columns; }
  __host__ __device__ Index blocks() const { return 2 * pairs * down() * across(); }
  __host__ __device__ int shared_floats() const { return 2 * radius + 1 + rows * span; }
};

// A level's tile of one frame, which a block makes.
struct FarnebackImageTile {
  Index frame;  // 2 * pair + (0 or 1)
  int y0, y1, x0, x1;

  __device__ __forceinline__ explicit FarnebackImageTile(const FarnebackImage& s) {
    const unsigned tiles = static_cast<unsigned>(s.down()) * static_cast<unsigned>(s.across());
    const unsigned tile = blockIdx.x % tiles, row = tile / static_cast<unsigned>(s.across());
    frame = blockIdx.x / tiles;
    y0 = static_cast<int>(row) * s.rows;
    x0 = static_cast<int>(tile - row * static_cast<unsigned>(s.across())) * s.columns;
    y1 = y0 + s.rows < s.height ? y0 + s.rows : s.height;
    x1 = x0 + s.columns < s.width ? x0 + s.columns : s.width;
  }
};

// One blurred pixel between two rows of a frame; *bad is set where a value that it needs is no gray level.
template <typename Element>
__device__ __forceinline__ float farneback_blur_down(
    const Element* __restrict__ column, const FarnebackImage& s, const float* taps, const FarnebackBetween& rows, bool* bad) {
  float sum = 0.0f;
  const int count = 2 * s.radius + (rows.weight > 0.0f ? 2 : 1);
  for (int j = 0; j < count; ++j) {
    float weight = j <= 2 * s.radius ? (1.0f - rows.weight) * taps[j] : 0.0f;
    if (j > 0 && rows.weight > 0.0f) weight += rows.weight * taps[j - 1];
    const Element value = column[static_cast<Index>(farneback_reflect(rows.low - s.radius + j, s.full_height)) * s.full_width];
    *bad |= is_bad_gray(value);
    sum += weight * gray(value);
  }
  return sum;
}

// Frames (pairs, full height, full width) -> images (pairs, 2, height, width). Blurs down the columns, at the level's rows
// alone, into shared memory, then along the rows. `bad`, where it is not null, is set for a pair with a bad value.
template <typename Element>
__global__ void __launch_bounds__(kFarnebackThreads) farneback_image(
    const Element* __restrict__ frame0, const Element* __restrict__ frame1, float* __restrict__ images, unsigned* __restrict__ bad,
    FarnebackImage s) {
  float* const taps = dynamic_shared<float>();
  float* const tall = taps + 2 * s.radius + 1;
  const FarnebackImageTile tile(s);
  const Index pixels = static_cast<Index>(s.full_height) * s.full_width;
  const Element* const frame = (tile.frame % 2 ? frame1 : frame0) + tile.frame / 2 * pixels;
  for (int j = threadIdx.x; j <= 2 * s.radius; j += kFarnebackThreads) {
    const float at = static_cast<float>(j - s.radius);
    taps[j] = s.middle * expf(-s.decay * at * at);
  }
  __syncthreads();
  const int left = farneback_between(tile.x0, s.full_width, s.width).low - s.radius;
  const int columns = farneback_between(tile.x1 - 1, s.full_width, s.width).low + 2 + s.radius - left;
  bool is_bad = false;
  for (int k = threadIdx.x; k < (tile.y1 - tile.y0) * columns; k += kFarnebackThreads) {
    const int row = k / columns, column = k - row * columns;
    const FarnebackBetween rows = farneback_between(tile.y0 + row, s.full_height, s.height);
    tall[row * s.span + column] =
        farneback_blur_down(frame + farneback_reflect(left + column, s.full_width), s, taps, rows, &is_bad);
  }
  if (bad != nullptr && is_bad) atomicOr(bad + tile.frame / 2, 1u);
  __syncthreads();
  float* const image = images + tile.frame * s.height * s.width;
  for (int k = threadIdx.x; k < (tile.y1 - tile.y0) * s.columns; k += kFarnebackThreads) {
    const int row = k / s.columns, x = tile.x0 + k - row * s.columns;
    if (x >= tile.x1) continue;
    const FarnebackBetween columns_at = farneback_between(x, s.full_width, s.width);
    const float* const at = tall + row * s.span + columns_at.low - s.radius - left;
    float here = 0.0f, next = 0.0f;
    for (int j = 0; j <= 2 * s.radius; ++j) {
      here += taps[j] * at[j];
      next += taps[j] * at[j + 1];
    }
    image[static_cast<Index>(tile.y0 + row) * s.width + x] = here + columns_at.weight * (next - here);
  }
}

// --- polynomial expansion ---------------------------------------------------------------------------------------------

// Taps at 0..radius; `slope` is odd. See csrc/cpu/farneback_flow_expand.h.
constexpr int kFarnebackMostTaps = 64;
struct FarnebackFilters {
  int radius;
  float smooth[kFarnebackMostTaps], slope[kFarnebackMostTaps], curve[kFarnebackMostTaps];
};

constexpr int kFarnebackExpandColumns = 64, kFarnebackExpandRows = 16;
__host__ __device__ constexpr int farneback_expand_span(int radius) { return kFarnebackExpandColumns + 2 * radius; }
__host__ __device__ constexpr int farneback_expand_floats(int radius) {
  return 3 * kFarnebackExpandRows * farneback_expand_span(radius);
}
__host__ __device__ constexpr Index farneback_expand_blocks(Index frames, int height, int width) {
  return frames * divide_up(height, kFarnebackExpandRows) * divide_up(width, kFarnebackExpandColumns);
}

// The three filters down a column, at row y; out[0], out[plane] and out[2 * plane].
template <int kRadius>
__device__ __forceinline__ void farneback_filter_column(
    const float* __restrict__ column, int y, int height, int width, const FarnebackFilters& f, float* out, int plane) {
  const int radius = kRadius ? kRadius : f.radius;
  const float middle = column[static_cast<Index>(y) * width];
  float smooth = f.smooth[0] * middle, slope = 0.0f, curve = f.curve[0] * middle;
#pragma unroll
  for (int k = 1; k <= radius; ++k) {
    const float ahead = column[static_cast<Index>(farneback_clamp(y + k, height)) * width];
    const float behind = column[static_cast<Index>(farneback_clamp(y - k, height)) * width];
    smooth += f.smooth[k] * (ahead + behind);
    slope += f.slope[k] * (ahead - behind);
    curve += f.curve[k] * (ahead + behind);
  }
  out[0] = smooth;
  out[plane] = slope;
  out[2 * plane] = curve;
}

// The filters along a row: `in` points to the pixel in the smoothed plane.
template <int kRadius>
__device__ __forceinline__ float4 farneback_filter_row(const float* in, int plane, const FarnebackFilters& f, float* twist) {
  const int radius = kRadius ? kRadius : f.radius;
  const float *smooth = in, *slope = in + plane, *curve = in + 2 * plane;
  float slope_y = f.smooth[0] * slope[0], slope_x = 0.0f, curve_y = f.smooth[0] * curve[0], curve_x = f.curve[0] * smooth[0], xy = 0.0f;
#pragma unroll
  for (int k = 1; k <= radius; ++k) {
    slope_x += f.slope[k] * (smooth[k] - smooth[-k]);
    curve_x += f.curve[k] * (smooth[k] + smooth[-k]);
    slope_y += f.smooth[k] * (slope[k] + slope[-k]);
    xy += f.slope[k] * (slope[k] - slope[-k]);
    curve_y += f.smooth[k] * (curve[k] + curve[-k]);
  }
  *twist = xy;
  return make_float4(slope_y, slope_x, curve_y, curve_x);
}

// images (frames, height, width) -> quads and twists, the same shape. kRadius 0: the radius is f's.
template <int kRadius>
__global__ void __launch_bounds__(kFarnebackThreads) farneback_expand(
    const float* __restrict__ images, float4* __restrict__ quads, float* __restrict__ twists, int height, int width, FarnebackFilters f) {
  float* const filtered = dynamic_shared<float>();
  const int radius = kRadius ? kRadius : f.radius, span = farneback_expand_span(radius), plane = kFarnebackExpandRows * span;
  const unsigned across = static_cast<unsigned>(width + kFarnebackExpandColumns - 1) / kFarnebackExpandColumns;
  const unsigned tiles = across * (static_cast<unsigned>(height + kFarnebackExpandRows - 1) / kFarnebackExpandRows);
  const unsigned tile = blockIdx.x % tiles;
  const Index offset = static_cast<Index>(blockIdx.x / tiles) * height * width;
  const int y0 = static_cast<int>(tile / across) * kFarnebackExpandRows, x0 = static_cast<int>(tile % across) * kFarnebackExpandColumns;
  const int rows = height - y0 < kFarnebackExpandRows ? height - y0 : kFarnebackExpandRows;
  for (int k = threadIdx.x; k < rows * span; k += kFarnebackThreads) {
    const int row = k / span, x = farneback_clamp(x0 - radius + k - row * span, width);
    farneback_filter_column<kRadius>(images + offset + x, y0 + row, height, width, f, filtered + k, plane);
  }
  __syncthreads();
  for (int k = threadIdx.x; k < rows * kFarnebackExpandColumns; k += kFarnebackThreads) {
    const int row = k / kFarnebackExpandColumns, x = x0 + k % kFarnebackExpandColumns;
    if (x >= width) continue;
    const Index at = offset + static_cast<Index>(y0 + row) * width + x;
    quads[at] = farneback_filter_row<kRadius>(filtered + row * span + radius + x - x0, plane, f, twists + at);
  }
}

}  // namespace mer_fast
