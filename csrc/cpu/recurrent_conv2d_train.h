// The training step of a section: what its forward and backward pass share. Only what goes into each norm is kept; states are
// computed again from it, row by row, where a convolution or a gradient needs them.
#pragma once

#include <cmath>

#include "recurrent_conv2d.h"

namespace mer_fast {

// Of every state: what its norm does to a channel, padded with zeros.
struct Norms {
  int64_t channels;
  std::vector<float> mean, inverse, scale, shift;  // [state][channel]

  Norms(const Section& s, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias)
      : channels(s.padded_maps()), mean(s.of_norm({}, 0)), inverse(s.of_norm({}, 1)), scale(s.of_norm(weight, 1)),
          shift(s.of_norm(bias, 0)),
        weight_(scale), bias_(shift) {}

  void set(int64_t k, int64_t c, double m, double variance, double eps) {
    const size_t i = static_cast<size_t>(k * channels + c);
    const double one = 1 / std::sqrt(variance + eps);
    mean[i] = static_cast<float>(m);
    inverse[i] = static_cast<float>(one);
    scale[i] = static_cast<float>(weight_[i] * one);
    shift[i] = static_cast<float>(bias_[i] - weight_[i] * one * m);
  }
  const float* of(const std::vector<float>& values, int64_t k, int64_t first = 0) const { return values.data() + k * channels + first; }

 private:
  std::vector<float> weight_, bias_;
};

// What forward and backward share: the maps kept, and rows of states made from them.
class Training {
 public:
  Training(const Section& s, Norms& norms, float* maps, bool exact)
      : s_(s), norms_(norms), maps_(maps), width_(s.padded_maps()), first_grid_(s.first_filter(exact), s.height, s.width,
          s.padded_channels(), width_),
        grid_(s.filter(exact), s.height, s.width, width_, width_) {}

 protected:
  const Grid& grid(int64_t k) const { return k == 0 ? first_grid_ : grid_; }
  int64_t depth(int64_t k) const { return k == 0 ? s_.padded_channels() : width_; }
  float* map_row(int64_t k, int64_t n, int64_t h) const { return maps_ + (((k * s_.batch + n) * s_.height + h) * s_.width) * width_; }

  // Row h of what state k's convolution takes; `scratch` holds a row of the input.
  void source_row(int64_t k, int64_t n, int64_t h, float* out, float* scratch) const {
    if (k == 0) return s_.input_row(n, h, out);
    if (s_.fed) s_.input_row(n, h, scratch);
    const StateRows rows{{map_row(k - 1, n, h), width_}, {nullptr, 0}, {s_.fed ? scratch : nullptr, width_}, norms_.of(norms_.scale, k - 1),
                         norms_.of(norms_.shift, k - 1), out, width_, s_.width, width_};
    MER_FAST_DISPATCH(state_rows, rows);
  }

  const Section& s_;
  Norms& norms_;
  float* maps_;
  int64_t width_;
  Grid first_grid_, grid_;
  Slots slots_;
};

}  // namespace mer_fast
