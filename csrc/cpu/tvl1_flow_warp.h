// Warping: the second frame and its gradient sampled at x + u with bicubic weights (a = -0.75, zero outside the image),
// and what the iterations need of them.
#pragma once

#include "simd.h"
#include "tvl1_flow_kernel.h"
#include "tvl1_flow_sweep.h"

namespace mer_fast::MER_ISA {
namespace {

typedef float Taps4 __attribute__((vector_size(64)));  // four taps of a row, four channels each
typedef float Pixel4 __attribute__((vector_size(16)));

// Rows [begin, end) of the texture: (I, I_x, I_y, 0) of every pixel side by side, so that the four taps of a row are one
// load. Gradients are central differences with a replicated border.
inline void build_texture(const Tvl1Level& level, int64_t begin, int64_t end, float* texture) {
  const int64_t height = level.height, width = level.width, pad = kTvl1TexturePad;
  const int64_t stride = (width + 2 * pad) * 4;
  for (int64_t y = begin; y < end; ++y) {
    float* row = texture + y * stride;
    const int64_t source = y - pad;
    if (source < 0 || source >= height) {
      std::memset(row, 0, static_cast<size_t>(stride) * sizeof(float));
      continue;
    }
    std::memset(row, 0, pad * 4 * sizeof(float));
    std::memset(row + (width + pad) * 4, 0, pad * 4 * sizeof(float));
    const float* here = level.image1 + source * width;
    const float* above = source > 0 ? here - width : here;
    const float* below = source < height - 1 ? here + width : here;
    float* out = row + pad * 4;
    const auto pixel = [&](int64_t x, int64_t left, int64_t right) {
      out[4 * x] = here[x];
      out[4 * x + 1] = 0.5f * (here[right] - here[left]);
      out[4 * x + 2] = 0.5f * (below[x] - above[x]);
      out[4 * x + 3] = 0.0f;
    };
    pixel(0, 0, 1);
    for (int64_t x = 1; x < width - 1; ++x) pixel(x, x - 1, x + 1);
    pixel(width - 1, width - 2, width - 1);
  }
}

// The four bicubic weights as cubic polynomials of the fraction t: coefficient of t^power for tap k.
constexpr float kCubic[4][4] = {
    // 1        t       t^2     t^3
    {0.0f, -0.75f, 1.5f, -0.75f},
    {1.0f, 0.0f, -2.25f, 1.25f},
    {0.0f, 0.75f, 1.5f, -1.25f},
    {0.0f, 0.0f, -0.75f, 0.75f},
};

inline Taps4 spread_coefficients(int power) {
  Taps4 c{};
  for (int tap = 0; tap < 4; ++tap) {
    for (int channel = 0; channel < 4; ++channel) c[4 * tap + channel] = kCubic[tap][power];
  }
  return c;
}

// Positions of a run of pixels: whole parts, fractions, vertical weights.
struct Positions {
  int32_t x[kLanes], y[kLanes];
  float fraction[kLanes];
  float weight[4][kLanes];
};

// Splits `at` into a whole part, clamped to where all taps exist, and a fraction. A NaN lands on the border as well.
inline Vec split(Vec at, float limit, int32_t* whole) {
  const Vec low = max(min(floor(at), splat(limit + 1.0f)), splat(-3.0f));
  const IVec i = __builtin_convertvector(low, IVec);
  std::memcpy(whole, &i, sizeof i);
  return at - low;
}

inline void locate(const float* u, const float* v, int64_t x, int64_t y, const Tvl1Level& level, float unscale, Positions& p) {
  Vec column{};
  for (int i = 0; i < kLanes; ++i) column[i] = static_cast<float>(i);
  const Vec fx = split(load(u + x) * unscale + (column + static_cast<float>(x)), static_cast<float>(level.width), p.x);
  const Vec fy = split(load(v + x) * unscale + static_cast<float>(y), static_cast<float>(level.height), p.y);
  store(p.fraction, fx);
  for (int tap = 0; tap < 4; ++tap) {
    const float* c = kCubic[tap];
    store(p.weight[tap], c[0] + fy * (c[1] + fy * (c[2] + fy * c[3])));
  }
}

// The four weighted columns of taps at one position: their sum is (I, I_x, I_y, 0).
inline Taps4 sample(const float* texture, int64_t stride, const Positions& p, int i, const Taps4 (&c)[4]) {
  const float* corner = texture + (p.y[i] - 1 + kTvl1TexturePad) * stride + (p.x[i] - 1 + kTvl1TexturePad) * 4;
  Taps4 sum{};
  for (int tap = 0; tap < 4; ++tap) {
    Taps4 row;
    std::memcpy(&row, corner + tap * stride, sizeof row);
    sum += row * p.weight[tap][i];
  }
  const float t = p.fraction[i];
  return sum * (c[0] + t * (c[1] + t * (c[2] + t * c[3])));
}

struct Warped {
  float image[kLanes], gx[kLanes], gy[kLanes];
};

inline Taps4 add_halves(Taps4 a, Taps4 b) {
  return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
      __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
}

// Sums the columns of four positions together, and sorts the sums by channel.
inline void reduce(const Taps4 (&in)[4], Warped& out, int i) {
  const Taps4 ab = add_halves(in[0], in[1]), cd = add_halves(in[2], in[3]);
  const Taps4 sum = __builtin_shufflevector(ab, cd, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
      __builtin_shufflevector(ab, cd, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
  const Taps4 channels = __builtin_shufflevector(sum, sum, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const Pixel4 image = __builtin_shufflevector(channels, channels, 0, 1, 2, 3);
  const Pixel4 gx = __builtin_shufflevector(channels, channels, 4, 5, 6, 7), gy = __builtin_shufflevector(channels, channels, 8, 9, 10, 11);
  std::memcpy(out.image + i, &image, sizeof image);
  std::memcpy(out.gx + i, &gx, sizeof gx);
  std::memcpy(out.gy + i, &gy, sizeof gy);
}

// Fills the fields that stay fixed during the iterations of one warp, for every row of the band: unit gradient, residual
// r0 = (I1w - I0 - grad . u) / |grad| and bound lambda theta |grad|, both times tau / theta as the flow is. Lanes beyond
// the last pixel get no data term.
inline void warp(const Band& band, const Tvl1Level& level, const float* texture, const Tvl1Params& params, float* image0) {
  const float scale = params.tau / params.theta, bound = scale * params.lam * params.theta;
  const int64_t stride = (level.width + 2 * kTvl1TexturePad) * 4;
  const Taps4 coefficients[4] = {spread_coefficients(0), spread_coefficients(1), spread_coefficients(2), spread_coefficients(3)};
  const Vec inside_last = last_lanes(level.width);
  std::memset(image0 + level.width, 0, kLanes * sizeof(float));
  for (int64_t y = band.first; y < band.last; ++y) {
    std::memcpy(image0, level.image0 + y * level.width, static_cast<size_t>(level.width) * sizeof(float));
    float *row_u = band.row(y, kU), *row_v = band.row(y, kV);
    for (int64_t x = 0; x < level.width; x += kLanes) {
      Positions positions;
      Warped warped;
      locate(row_u, row_v, x, y, level, 1.0f / scale, positions);
      for (int i = 0; i < kLanes; i += 4) {
        Taps4 taps[4];
        for (int k = 0; k < 4; ++k) taps[k] = sample(texture, stride, positions, i + k, coefficients);
        reduce(taps, warped, i);
      }
      const Vec gx = load(warped.gx), gy = load(warped.gy);
      const Vec square = gx * gx + gy * gy;
      // Without a gradient the data term says nothing: every field is zero, and so is the step.
      const Vec inside = x + kLanes > level.width ? inside_last : splat(1.0f);
      const Vec inverse = square > 1e-30f ? inside / square_root(max(square, splat(1e-30f))) : Vec{};
      const Vec nx = gx * inverse, ny = gy * inverse;
      store(band.row(y, kNx) + x, nx);
      store(band.row(y, kNy) + x, ny);
      store(band.row(y, kResidual) + x,
            scale * inverse * (load(warped.image) - load(image0 + x)) - (nx * load(row_u + x) + ny * load(row_v + x)));
      store(band.row(y, kBound) + x, bound * square * inverse);
    }
  }
}

}  // namespace
}  // namespace mer_fast::MER_ISA
