// torch.ops.mer_fast.conv_norm_pool on a CPU.
#include "conv_norm_pool.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "conv3d_pool_kernel.h"

namespace mer_fast {
namespace {

template <typename Real>
class Forward {
 public:
  // `mean` and `variance`: running statistics (F, O); without them the batch's are taken.
  Forward(const FoldBlocks<Real>& s, std::optional<Tensor> shift, std::optional<Tensor> mean, std::optional<Tensor> variance,
          Real* output, Real* winners, Real* statistics)
      : s_(s), shift_(std::move(shift)), mean_(std::move(mean)), variance_(std::move(variance)), output_(output),
        winners_(winners), statistics_(statistics) {}

  void run() {
    const auto sums = static_cast<size_t>(2 * s_.padded());
    const auto fold = [&](int64_t f) {
      std::vector<double> total(sums, 0.0), part(sums);
      for (int64_t k = 0; k < s_.chunks(); ++k) {
        std::fill(part.begin(), part.end(), 0.0);
        maps(f, k, part.data());
        add(part.data(), total.data());
      }
      finish(f, total.data());
      for (int64_t k = 0; k < s_.chunks(); ++k) write(f, k);
    };
    if (folds_side_by_side(s_.folds, fold)) return;
    std::vector<double> parts(sums * static_cast<size_t>(s_.folds * s_.chunks()), 0.0);
    const auto part = [&](int64_t f, int64_t k) { return parts.data() + sums * static_cast<size_t>(f * s_.chunks() + k); };
    chunks_side_by_side(s_.folds, s_.chunks(), [&](int64_t f, int64_t k) { maps(f, k, part(f, k)); });
    for (int64_t f = 0; f < s_.folds; ++f) {
      std::vector<double> total(sums, 0.0);
      for (int64_t k = 0; k < s_.chunks(); ++k) add(part(f, k), total.data());
      finish(f, total.data());
    }
    chunks_side_by_side(s_.folds, s_.chunks(), [&](int64_t f, int64_t k) { write(f, k); });
  }

 private:
  void add(const double* part, double* total) const {
    for (int64_t i = 0; i < 2 * s_.padded(); ++i) total[i] += part[i];
  }
  Real* winners(int64_t f, int64_t b) const { return winners_ + (f * s_.slots + b) * s_.windows() * s_.padded(); }

  // The winners of a chunk's examples, and the moments of their maps, added to [2][padded].
  void maps(int64_t f, int64_t chunk, double* moments) {
    const Framed<Real> frame = s_.frame();
    const int64_t n = s_.padded();
    Arena& arena = worker_arena();
    arena.template reserve<Real>(
        {frame.channels * frame.plane, s_.packed_elements(), held_elements(frame.width), n, n, n, 2 * kGroup});
    Real* data = arena.template take<Real>(frame.channels * frame.plane);
    Real* packed = arena.template take<Real>(s_.packed_elements());
    Real* held = arena.template take<Real>(held_elements(frame.width));
    Real *start = arena.template take<Real>(n), *least = arena.template take<Real>(n), *sign = arena.template take<Real>(n);
    Real* sums = arena.template take<Real>(2 * kGroup);
    s_.clear(frame, data);
    s_.pack(f, packed);
    const bool all_positive = levels(f, start, least, sign);
    for (int64_t b = chunk * kChunk; b < std::min(s_.slots, (chunk + 1) * kChunk); ++b) {
      const Real* example = s_.example(f, b);
      if (!example) continue;
      MER_FAST_DISPATCH(frame_example, frame, example, s_.next(f, b, example), data);
      for (int64_t g = 0; g < s_.groups(); ++g) {
        const int64_t first = g * kGroup;
        BlockForward<Real> block{s_.block(frame, data, packed, g, start, least, held), sign + first, all_positive,
                                 winners(f, b) + first, n, mean_ ? nullptr : sums};
        std::fill_n(sums, 2 * kGroup, Real(0));
        MER_FAST_DISPATCH(block_forward, block);
        for (int64_t c = 0; c < kGroup; ++c) {
          moments[first + c] += sums[c];
          moments[n + first + c] += sums[kGroup + c];
        }
      }
    }
  }

  // Fills arrays of the padded channels; true if no norm turns its map around.
  bool levels(int64_t f, Real* start, Real* least, Real* sign) const {
    std::fill_n(start, s_.padded(), Real(0));
    std::fill_n(least, s_.padded(), Real(0));
    std::fill_n(sign, s_.padded(), Real(1));
    bool all_positive = true;
    for (int64_t o = 0; o < s_.outputs; ++o) {
      const Real pivot = mean_ ? Real(0) : s_.pivot(f, o), scale = s_.scale(f, o);
      start[o] = s_.bias(f, o) - pivot;
      least[o] = Real(0) - pivot;
      sign[o] = static_cast<Real>((scale > 0) - (scale < 0));
      all_positive &= scale > 0;
    }
    return all_positive;
  }

  // From moments to statistics: mean less pivot, biased variance, pivot.
  void finish(int64_t f, const double* moments) {
    const double count = static_cast<double>(s_.examples(f) * s_.map_height() * s_.map_width());
    Real* to = statistics_ + f * 3 * s_.outputs;
    for (int64_t o = 0; o < s_.outputs; ++o) {
      double mean = 0, variance = 0, pivot = 0;
      if (mean_) {
        mean = s_.value(*mean_, f, o), variance = s_.value(*variance_, f, o);
      } else if (count > 0) {
        pivot = s_.pivot(f, o);
        mean = moments[o] / count;
        variance = moments[s_.padded() + o] / count - mean * mean;
        if (variance < 0) variance = 0;  // NaN stays
      }
      to[o] = static_cast<Real>(mean);
      to[s_.outputs + o] = static_cast<Real>(variance);
      to[2 * s_.outputs + o] = static_cast<Real>(pivot);
    }
  }

  // A chunk's output from its winners.
  void write(int64_t f, int64_t chunk) {
    const int64_t n = s_.padded(), windows = s_.windows();
    Arena& arena = worker_arena();
    arena.template reserve<Real>({n, n, windows * n});
    Real *scale = arena.template take<Real>(n), *shift = arena.template take<Real>(n);
    Real* closed = arena.template take<Real>(windows * n);
    std::fill_n(scale, n, Real(0));
    std::fill_n(shift, n, Real(0));
    const Real* statistics = statistics_ + f * 3 * s_.outputs;
    for (int64_t o = 0; o < s_.outputs; ++o) {
      const double a = s_.scale(f, o) / std::sqrt(statistics[s_.outputs + o] + s_.eps());
      scale[o] = static_cast<Real>(a);
      shift[o] = static_cast<Real>((shift_ ? s_.value(*shift_, f, o) : 0) - statistics[o] * a);
    }
    for (int64_t b = chunk * kChunk; b < std::min(s_.slots, (chunk + 1) * kChunk); ++b) {
      Real* out = output_ + (f * s_.slots + b) * s_.outputs * s_.averages();
      if (!s_.example(f, b)) {
        std::fill_n(winners(f, b), windows * n, Real(0));
        std::fill_n(out, s_.outputs * s_.averages(), Real(0));
        continue;
      }
      MER_FAST_DISPATCH(close_windows, s_.windows(f, b), winners(f, b), scale, shift, closed);
      const Turn<Real> turn{closed, s_.averages(), s_.outputs, n, n, out, s_.averages()};
      MER_FAST_DISPATCH(transpose_block, turn);
    }
  }

  const FoldBlocks<Real>& s_;
  std::optional<Tensor> shift_, mean_, variance_;
  Real *output_, *winners_, *statistics_;
};

std::tuple<Tensor, Tensor, Tensor> conv_norm_pool(
    const Tensor& input, const std::optional<Tensor>& index, const Tensor& weight, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& norm_weight, const std::optional<Tensor>& norm_bias, const std::optional<Tensor>& running_mean,
    const std::optional<Tensor>& running_var, double eps, int64_t padding, std::vector<int64_t> pool, double dropout,
    const std::optional<Tensor>& dropout_key, int64_t average) {
  constexpr const char* op = "conv_norm_pool";
  const BlockOperands operands{input, index, weight, bias, norm_weight, eps, padding, pool, dropout, dropout_key, average};
  return for_real(op, input, [&]<typename Real>(Real) {
    const FoldBlocks<Real> s(op, operands);
    const auto shift = s.channel_values("norm_bias", norm_bias), mean = s.channel_values("running_mean", running_mean),
               variance = s.channel_values("running_var", running_var);
    MER_FAST_CHECK(mean.has_value() == variance.has_value(), op, ": running_mean and running_var must both be given, or neither");
    Tensor output = torch::stable::new_empty(s.like(), s.output_shape());
    Tensor winners = torch::stable::new_empty(s.like(), {s.folds, s.slots, s.windows(), s.padded()});
    Tensor statistics = torch::stable::new_empty(s.like(), {s.folds, 3, s.outputs});
    Forward<Real>(s, shift, mean, variance, static_cast<Real*>(output.mutable_data_ptr()),
                  static_cast<Real*>(winners.mutable_data_ptr()), static_cast<Real*>(statistics.mutable_data_ptr())).run();
    return std::tuple(output, winners, statistics);
  });
}

}  // namespace
}  // namespace mer_fast

STABLE_TORCH_LIBRARY_IMPL(mer_fast, CPU, m) {
  m.impl("conv_norm_pool", TORCH_BOX(&mer_fast::conv_norm_pool));
}
