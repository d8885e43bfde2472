// Sampling of TV-L1: bilinear between the levels of the pyramid (pixel centres aligned, as OpenCV's resize), bicubic
// (a = -0.75, zero outside the image) for the second frame and its gradient at x + u, and what the iterations need of that.
#pragma once

#include "tvl1_flow_tile.cuh"

namespace mer_fast {

// A resize of planes, and the factor that their values get.
struct Tvl1Resize {
  int in_height, in_width, out_height, out_width;
  double scale_y, scale_x;  // input pixels a step of the output
  float factor;
};

struct Tvl1Between {  // two neighbours, and the weight of the second
  int low, high;
  float weight;
};

__device__ __forceinline__ Tvl1Between tvl1_between(int i, double scale, int size) {
  const double at = (static_cast<double>(i) + 0.5) * scale - 0.5;
  const int low = static_cast<int>(floor(at));
  if (low < 0) return {0, 0, 0.0f};
  if (low >= size - 1) return {size - 1, size - 1, 0.0f};
  return {low, low + 1, static_cast<float>(at - static_cast<double>(low))};
}

__device__ __forceinline__ float tvl1_resized(const float* __restrict__ plane, const Tvl1Resize& r, int y, int x) {
  const Tvl1Between rows = tvl1_between(y, r.scale_y, r.in_height), columns = tvl1_between(x, r.scale_x, r.in_width);
  const float *low = plane + static_cast<Index>(rows.low) * r.in_width, *high = plane + static_cast<Index>(rows.high) * r.in_width;
  const float first = low[columns.low] + rows.weight * (high[columns.low] - low[columns.low]);
  const float second = low[columns.high] + rows.weight * (high[columns.high] - low[columns.high]);
  return r.factor * (first + columns.weight * (second - first));
}

// The flow that a level starts from: zero, the caller's, or the coarser level's, grown. (pairs, 2, in_height, in_width)
struct Tvl1Start {
  const float* flow;  // null: zero
  Tvl1Resize resize;

  __device__ __forceinline__ Tvl1Pair at(Index pair, int y, int x) const {
    if (flow == nullptr) return {0.0f, 0.0f};
    const Index pixels = static_cast<Index>(resize.in_height) * resize.in_width;
    const float* u = flow + 2 * pair * pixels;
    return {tvl1_resized(u, resize, y, x), tvl1_resized(u + pixels, resize, y, x)};
  }
};

// The whole part of a position, held where all taps of it are outside at the most, and the fraction. NaN lands outside.
__device__ __forceinline__ int tvl1_split(float at, int size, float* fraction) {
  const float low = fmaxf(fminf(floorf(at), static_cast<float>(size + 1)), -3.0f);
  *fraction = at - low;
  return static_cast<int>(low);
}

// Bicubic weights of the four taps around a position, zero for those outside the image. The taps and their gradients
// (central differences, replicated border) touch the six pixels from `first` on, held inside the image.
struct Tvl1Taps {
  float weight[4];
  int first, last;  // last: of the image

  __device__ __forceinline__ Tvl1Taps(float position, int size) {
    float t;
    first = tvl1_split(position, size, &t) - 2;
    last = size - 1;
    weight[0] = ((-0.75f * t + 1.5f) * t - 0.75f) * t;
    weight[1] = (1.25f * t - 2.25f) * t * t + 1.0f;
    weight[2] = ((-1.25f * t + 1.5f) * t + 0.75f) * t;
    weight[3] = (0.75f * t - 0.75f) * t * t;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (first + 1 + k < 0 || first + 1 + k > last) weight[k] = 0.0f;
    }
  }
  __device__ __forceinline__ int at(int k) const { return min(max(first + k, 0), last); }
};

struct Tvl1Image {
  const float *first, *second;  // (height, width) each
  int height, width;
};

// What the iterations read at pixel (y, x) once the second frame is warped by (u, v), both in units of theta / tau:
// unit gradient, residual r0 = (I1w - I0 - grad . u) / |grad| and bound lambda theta |grad|, the latter two times
// tau / theta. Without a gradient the data term says nothing: all are zero.
__device__ __forceinline__ Tvl1Fixed tvl1_warped(const Tvl1Image& image, const Tvl1Params& p, int y, int x, float u, float v) {
  const float scale = p.tau / p.theta, unscale = p.theta / p.tau;
  const Tvl1Taps columns(static_cast<float>(x) + unscale * u, image.width), rows(static_cast<float>(y) + unscale * v, image.height);
  int at[6];
#pragma unroll
  for (int i = 0; i < 6; ++i) at[i] = columns.at(i);
  float value = 0.0f, gx = 0.0f, gy = 0.0f, before = 0.0f, here = 0.0f;  // weights of the taps above and at row k
  float next[4] = {rows.weight[0], rows.weight[1], rows.weight[2], rows.weight[3]};
  // Two rows at a time: twelve reads under way, and no more registers than dual variables leave.
#pragma unroll 2
  for (int k = 0; k < 6; ++k) {
    const float* line = image.second + static_cast<Index>(rows.at(k)) * image.width;
    float pixel[6], sum = 0.0f, slope = 0.0f;
#pragma unroll
    for (int i = 0; i < 6; ++i) pixel[i] = line[at[i]];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sum += columns.weight[i] * pixel[i + 1];
      slope += columns.weight[i] * (0.5f * (pixel[i + 2] - pixel[i]));
    }
    value += here * sum;
    gx += here * slope;
    gy += 0.5f * (before - next[0]) * sum;
    before = here;
    here = next[0];
    next[0] = next[1];
    next[1] = next[2];
    next[2] = next[3];
    next[3] = 0.0f;
  }
  const float square = gx * gx + gy * gy;
  const float inverse = square > 1e-30f ? rsqrtf(square) : square * 0.0f;  // NaN stays NaN
  const float nx = gx * inverse, ny = gy * inverse;
  const float difference = value - image.first[static_cast<Index>(y) * image.width + x];
  return {nx, ny, scale * inverse * difference - (nx * u + ny * v), scale * p.lam * p.theta * square * inverse};
}

}  // namespace mer_fast
