// Farneback's optical flow by polynomial expansion (SCIA 2003), with the pyramid, borders, weights and windows of OpenCV's
// calcOpticalFlowFarneback, for a batch of pairs. A level takes 2 + iterations launches, whatever the number of pairs:
//
//   farneback_image    both full-size frames, blurred and sampled; at full size it marks the pairs with a bad value
//   farneback_expand   the images' polynomial expansions, 5 floats a pixel
//   farneback_iterate  matrices, window sums and new flow in one pass over shared memory; once an iteration. The first one of
//                      a level samples the coarser level's flow as it goes.
//
// and farneback_start samples an initial flow once. A pair's flow has the same bits in any batch: how it is cut into tiles
// does not show.
//
// Floor, for 128 x 128 at OpenCV's common parameters (21,504 pixels in three levels, 3 iterations, window 15, 15 launches):
// 200 instructions a pixel for image and expansions, 133 an iteration, so 12.9 M a pair, 0.4 us of an H200's 33 T a second:
// 2.5 M pairs a second. These steps move 226 bytes a pixel off chip (frames 2, images 16, expansions written 40, an iteration
// 56: two expansions, flow in and out), 4.9 MB a pair, 1.1 us of 4.3 TB/s, unless a batch of up to 50 pairs stays in the
// second-level cache. Expected: 250,000 pairs a second, a tenth of the first floor and a quarter of the second: addresses
// and shared memory (about 80 accesses a pixel and iteration) make three instructions of one, and with two barriers a row 16
// warps of a processor do not hide every wait.
#pragma once

#include "farneback_flow_step.cuh"

namespace mer_fast {

struct FarnebackStart {
  Index pairs;
  int full_height, full_width, height, width;
  float factor;

  __host__ __device__ Index values() const { return 2 * pairs * height * width; }
};

// A flow (pairs, 2, full height, full width) averaged over the area of each pixel of a level, times `factor`. Marks the pairs
// that have a value that is not finite. Areas are in whole numbers: of units, an input pixel has `height` (`width`) and an
// output pixel `full_height` (`full_width`).
__global__ void __launch_bounds__(kFarnebackThreads) farneback_start(
    const float* __restrict__ initial, float* __restrict__ flow, unsigned* __restrict__ bad, FarnebackStart s) {
  const Index k = static_cast<Index>(blockIdx.x) * kFarnebackThreads + threadIdx.x;
  if (k >= s.values()) return;
  const Index pixels = static_cast<Index>(s.height) * s.width, plane = k / pixels;
  const int pixel = static_cast<int>(k - plane * pixels), y = pixel / s.width, x = pixel - y * s.width;
  const float* const in = initial + plane * s.full_height * s.full_width;
  const int top = y * s.full_height, left = x * s.full_width;
  const int bottom = top + s.full_height, right = left + s.full_width;
  bool is_bad = false;
  float sum = 0.0f;
  for (int i = top / s.height; i * s.height < bottom; ++i) {
    const int tall = min(bottom, (i + 1) * s.height) - max(top, i * s.height);
    float row = 0.0f;
    for (int j = left / s.width; j * s.width < right; ++j) {
      const int wide = min(right, (j + 1) * s.width) - max(left, j * s.width);
      const float value = in[static_cast<Index>(i) * s.full_width + j];
      is_bad |= !(fabsf(value) <= 3.402823466e38f);
      row += static_cast<float>(wide) * value;
    }
    sum += static_cast<float>(tall) * (row / static_cast<float>(s.full_width));
  }
  if (is_bad) atomicOr(bad + plane / 2, 1u);
  flow[k] = s.factor * (sum / static_cast<float>(s.full_height));
}

}  // namespace mer_fast
