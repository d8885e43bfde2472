// Blocks of convolution, ReLU, batch norm and max-pool of several folds: their operands, checked, and what forward and backward
// share. A fold's examples are taken in chunks of kChunk slots, whatever the number of threads and of other folds, so that
// neither changes a sum.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "arena.h"
#include "conv_norm_pool_kernel.h"
#include "tensor_io.h"

namespace mer_fast {

constexpr int64_t kChunk = 32;
constexpr int64_t kMostChannels = 64;

// Operands of both directions, as the schema has them.
struct BlockOperands {
  const Tensor& input;  // (M, C, H, W), clips that all folds share, or (F, B, C, H, W)
  const std::optional<Tensor>& index;
  const Tensor& weight;
  const std::optional<Tensor>&bias, &norm_weight;
  double eps;
  int64_t padding;
  const std::vector<int64_t>& pool;
  double dropout;
  const std::optional<Tensor>& dropout_key;
  int64_t average;
};

template <typename Real>
class FoldBlocks {
 public:
  FoldBlocks(const char* op, const BlockOperands& o)
      : op_(op), input_(contiguous(o.input)), weight_(contiguous(o.weight)), eps_(o.eps), border_(o.padding), dropout_(o.dropout) {
    average = o.average;
    check_rank(op, "weight", weight_, 5);
    folds = weight_.size(0), outputs = weight_.size(1), channels = weight_.size(2);
    MER_FAST_CHECK(weight_.size(3) == 3 && weight_.size(4) == 3, op, ": weight must have 3x3 kernels, got ", shape_text(weight_));
    MER_FAST_CHECK(channels >= 1 && outputs >= 1 && std::max(channels, outputs) <= kMostChannels, op, ": weight must have 1 to ",
                   kMostChannels, " channels in and out, got ", shape_text(weight_));
    MER_FAST_CHECK(border_ >= 0 && border_ <= 2, op, ": padding must be 0, 1 or 2, got ", border_);
    MER_FAST_CHECK(eps_ >= 0 && dropout_ >= 0 && dropout_ <= 1, op, ": eps must be at least 0 and dropout lie in 0..1");
    take_input(o);
    take_pool(o.pool);
    MER_FAST_CHECK(average >= 1 && average <= std::min(pool.height, pool.width), op, ": average must lie in 1..",
                   std::min(pool.height, pool.width), ", got ", average);
    bias_ = channel_values("bias", o.bias);
    scale_ = channel_values("norm_weight", o.norm_weight);
    if (dropout_ > 0) {
      MER_FAST_CHECK(o.dropout_key && o.dropout_key->scalar_type() == ScalarType::Long && o.dropout_key->dim() == 1 &&
                         o.dropout_key->size(0) == folds,
                     op, ": dropout_key must be int64 of shape (", folds, "), one a fold");
      key_ = contiguous(*o.dropout_key);
    }
  }

  int64_t folds, slots, channels, outputs, height, width, average;  // height and width of the input
  Pool pool;

  const Tensor& like() const { return input_; }
  const char* op() const { return op_; }
  int64_t map_height() const { return height + 2 * border_ - 2; }
  int64_t map_width() const { return width + 2 * border_ - 2; }
  int64_t windows() const { return pool.height * pool.width; }
  std::vector<int64_t> output_shape() const { return {folds, slots, outputs, pool.height / average, pool.width / average}; }
  int64_t averages() const { return (pool.height / average) * (pool.width / average); }
  int64_t groups() const { return (outputs + kGroup - 1) / kGroup; }
  int64_t padded() const { return groups() * kGroup; }
  int64_t chunks() const { return (slots + kChunk - 1) / kChunk; }
  double eps() const { return eps_; }
  int64_t border() const { return border_; }

  // Where an example of a fold begins, or null in an empty slot.
  const Real* example(int64_t f, int64_t b) const {
    const int64_t i = index_ ? static_cast<const int64_t*>(index_->const_data_ptr())[f * slots + b] : 0;
    if (i < 0) return nullptr;
    return static_cast<const Real*>(input_.const_data_ptr()) + (shared_ ? i : f * slots + b) * channels * height * width;
  }
  // The first example behind slot b, or `otherwise`.
  const Real* next(int64_t f, int64_t b, const Real* otherwise) const {
    for (++b; b < slots; ++b) {
      if (const Real* x = example(f, b)) return x;
    }
    return otherwise;
  }
  int64_t examples(int64_t f) const {
    int64_t count = 0;
    for (int64_t b = 0; b < slots; ++b) count += example(f, b) != nullptr;
    return count;
  }
  const Real* weight(int64_t f) const {
    return static_cast<const Real*>(weight_.const_data_ptr()) + f * outputs * channels * kTaps;
  }
  // Of a channel, or `otherwise` where there is no such tensor.
  Real bias(int64_t f, int64_t o) const { return bias_ ? value(*bias_, f, o) : Real(0); }
  Real scale(int64_t f, int64_t o) const { return scale_ ? value(*scale_, f, o) : Real(1); }
  Real value(const Tensor& t, int64_t f, int64_t o) const { return static_cast<const Real*>(t.const_data_ptr())[f * outputs + o]; }

  // Of (F, O) in the dtype of the input.
  std::optional<Tensor> channel_values(const char* name, const std::optional<Tensor>& t) const {
    if (!t) return std::nullopt;
    check_same_dtype(op_, "input", input_, name, *t);
    MER_FAST_CHECK(t->dim() == 2 && t->size(0) == folds && t->size(1) == outputs, op_, ": ", name, " must have shape (", folds, ", ",
                   outputs, "), got ", shape_text(*t));
    return contiguous(*t);
  }

  Windows<Real> windows(int64_t f, int64_t b) const {
    const double p = dropout_;
    const Dropout dropout{p > 0, p > 0 ? static_cast<uint64_t>(static_cast<const int64_t*>(key_->const_data_ptr())[f]) : 0,
                          static_cast<uint32_t>(std::min(std::floor(p * 4294967296.0), 4294967295.0)), p < 1 ? 1 / (1 - p) : 0};
    return {pool, padded(), average, dropout, static_cast<uint32_t>(b * outputs * windows())};
  }

  // A frame for examples of `many` channels whose convolution with a border has this size.
  static Framed<Real> frame(int64_t many, int64_t in_height, int64_t in_width, int64_t border) {
    Framed<Real> x{};
    x.channels = many, x.border = border, x.in_height = in_height, x.in_width = in_width;
    x.height = in_height + 2 * border - 2, x.width = in_width + 2 * border - 2;
    x.row = tiles(x.width) * kTile + 2;
    x.plane = (tiles(x.height) * kTile + 2) * x.row;
    return x;
  }
  Framed<Real> frame() const { return frame(channels, height, width, border_); }
  // A frame's zeros stay: only what is inside of them changes from example to example.
  static void clear(const Framed<Real>& x, Real* memory) { std::fill_n(memory, x.channels * x.plane, Real(0)); }
  int64_t packed_elements() const { return padded() * channels * kTaps; }
  // [group][channel][tap][output]
  void pack(int64_t f, Real* to) const {
    std::fill_n(to, packed_elements(), Real(0));
    for (int64_t o = 0; o < outputs; ++o) {
      const Real* from = weight(f) + o * channels * kTaps;
      Real* at = to + o / kGroup * kGroup * channels * kTaps + o % kGroup;
      for (int64_t i = 0; i < channels * kTaps; ++i) at[i * kGroup] = from[i];
    }
  }
  // For the input's gradient: [group of channels][output][tap from the last to the first][channel]
  int64_t flipped_elements() const { return (channels + kGroup - 1) / kGroup * kGroup * outputs * kTaps; }
  void pack_flipped(int64_t f, Real* to) const {
    std::fill_n(to, flipped_elements(), Real(0));
    for (int64_t o = 0; o < outputs; ++o) {
      for (int64_t c = 0; c < channels; ++c) {
        const Real* from = weight(f) + (o * channels + c) * kTaps;
        Real* at = to + c / kGroup * kGroup * outputs * kTaps + o * kTaps * kGroup + c % kGroup;
        for (int64_t t = 0; t < kTaps; ++t) at[t * kGroup] = from[kTaps - 1 - t];
      }
    }
  }

  // A group of channels; arrays are of all padded channels.
  Block<Real> block(
      Framed<Real> x, const Real* data, const Real* packed, int64_t g, const Real* start, const Real* least, Real* held) const {
    const int64_t first = g * kGroup;
    x.data = data;
    return {x, pool, std::min(kGroup, outputs - first), packed + first * channels * kTaps, start + first, least + first, held};
  }

  // A value near which a channel's map lies: that of the fold's first example in the middle. 0 where it is none.
  Real pivot(int64_t f, int64_t o) const {
    const Real* x = nullptr;
    for (int64_t b = 0; b < slots && !x; ++b) x = example(f, b);
    if (!x) return Real(0);
    double sum = bias(f, o);
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t t = 0; t < kTaps; ++t) {
        const int64_t h = map_height() / 2 + t / 3 - border_, w = map_width() / 2 + t % 3 - border_;
        if (h < 0 || h >= height || w < 0 || w >= width) continue;
        sum += static_cast<double>(weight(f)[(o * channels + c) * kTaps + t]) * x[(c * height + h) * width + w];
      }
    }
    return sum > 0 && std::isfinite(static_cast<Real>(sum)) ? static_cast<Real>(sum) : Real(0);
  }

 private:
  void take_input(const BlockOperands& o) {
    shared_ = input_.dim() == 4;
    MER_FAST_CHECK(shared_ || input_.dim() == 5, op_, ": input must have shape (M, C, H, W) or (F, B, C, H, W), got ", shape_text(input_));
    check_same_dtype(op_, "input", input_, "weight", weight_);
    const int64_t d = shared_ ? 1 : 2;
    MER_FAST_CHECK(input_.size(d) == channels && (shared_ || input_.size(0) == folds), op_, ": input ", shape_text(input_),
                   " does not fit weight ", shape_text(weight_));
    height = input_.size(d + 1), width = input_.size(d + 2);
    MER_FAST_CHECK(map_height() >= 1 && map_width() >= 1, op_, ": input ", shape_text(input_), " with padding ", border_,
                   " must hold a 3x3 kernel");
    MER_FAST_CHECK(o.index || !shared_, op_, ": index must be given with clips (M, C, H, W)");
    slots = shared_ ? o.index->size(1) : input_.size(1);
    if (!o.index) return;
    MER_FAST_CHECK(o.index->scalar_type() == ScalarType::Long && o.index->dim() == 2 && o.index->size(0) == folds &&
                       o.index->size(1) == slots,
                   op_, ": index must be int64 of shape (", folds, ", ", slots, "), got ", shape_text(*o.index));
    index_ = contiguous(*o.index);
    const auto* at = static_cast<const int64_t*>(index_->const_data_ptr());
    for (int64_t i = 0; shared_ && i < folds * slots; ++i) {
      MER_FAST_CHECK(at[i] >= -1 && at[i] < input_.size(0), op_, ": index must lie in -1..", input_.size(0) - 1, ", got ", at[i]);
    }
  }

  void take_pool(const std::vector<int64_t>& given) {
    MER_FAST_CHECK(given.size() == 3, op_, ": pool must be kernel, stride and padding");
    pool.kernel = given[0], pool.stride = given[1], pool.padding = given[2];
    MER_FAST_CHECK((pool.kernel == 2 || pool.kernel == 3) && pool.stride >= 1 && pool.padding >= 0 && 2 * pool.padding <= pool.kernel,
                   op_, ": pool must have a kernel of 2 or 3, a stride from 1 on and a padding of at most half the kernel, got ",
                   pool.kernel, ", ", pool.stride, ", ", pool.padding);
    const auto size = [&](int64_t n) {
      const int64_t wide = n + 2 * pool.padding;
      return wide < pool.kernel ? 0 : (wide - pool.kernel) / pool.stride + 1;
    };
    pool.height = size(map_height()), pool.width = size(map_width());
    MER_FAST_CHECK(windows() > 0, op_, ": pool of ", pool.kernel, " is larger than the map of ", map_height(), "x", map_width());
  }

  const char* op_;
  Tensor input_, weight_;
  std::optional<Tensor> index_, bias_, scale_, key_;
  double eps_;
  int64_t border_;
  double dropout_;
  bool shared_ = false;
};

// run(Real{}) for the type of a tensor.
template <typename Run>
auto for_real(const char* op, const Tensor& input, const Run& run) {
  MER_FAST_CHECK(input.scalar_type() == ScalarType::Float || input.scalar_type() == ScalarType::Double, op,
                 ": input must be float32 or float64 on a CPU; convert it with .to(torch.float32)");
  return input.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
}

// run(fold) for all, a fold a thread, where there are folds enough; otherwise false.
template <typename Run>
bool folds_side_by_side(int64_t folds, const Run& run) {
  constexpr int64_t kEnough = 4;  // for each thread
  if (folds < kEnough * static_cast<int64_t>(torch::stable::get_num_threads())) return false;
  torch::stable::parallel_for(0, folds, 1, [&](int64_t begin, int64_t end) {
    for (int64_t f = begin; f < end; ++f) run(f);
  });
  return true;
}

// run(fold, chunk) for all, in any order.
template <typename Run>
void chunks_side_by_side(int64_t folds, int64_t chunks, const Run& run) {
  torch::stable::parallel_for(0, folds * chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) run(i / chunks, i % chunks);
  });
}

}  // namespace mer_fast
