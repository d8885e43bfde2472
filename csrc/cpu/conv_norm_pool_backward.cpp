// torch.ops.mer_fast.conv_norm_pool_backward on a CPU. The map is computed again: it takes less time than to write and read it.
#include "conv_norm_pool.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "conv3d_pool_kernel.h"

namespace mer_fast {
namespace {

// Where the gradients go; `input` is null where nobody asks.
template <typename Real>
struct Gradients {
  Real *input, *weight, *bias, *norm_weight, *norm_bias;
};

template <typename Real>
class Backward {
 public:
  Backward(const FoldBlocks<Real>& s, bool batch_statistics, const Real* grad, const Real* winners, const Real* statistics,
           const Gradients<Real>& to)
      : s_(s), batch_statistics_(batch_statistics), grad_(grad), winners_(winners), statistics_(statistics), to_(to) {}

  void run() {
    const int64_t sums = 2 * s_.padded(), weights = s_.packed_elements() + s_.padded();
    const auto fold = [&](int64_t f) {
      std::vector<double> total(static_cast<size_t>(std::max(sums, weights))), part(total.size());
      const auto all = [&](int64_t size, const auto& run_chunk) {
        std::fill(total.begin(), total.end(), 0.0);
        for (int64_t k = 0; k < s_.chunks(); ++k) {
          std::fill(part.begin(), part.end(), 0.0);
          run_chunk(f, k, part.data());
          add(size, part.data(), total.data());
        }
      };
      all(sums, [&](int64_t f, int64_t k, double* to) { winner_totals(f, k, to); });
      write_norm(f, total.data());
      all(weights, [&](int64_t f, int64_t k, double* to) { maps(f, k, to); });
      write_weights(f, total.data());
    };
    if (folds_side_by_side(s_.folds, fold)) return;
    reduce(sums, [&](int64_t f, int64_t k, double* to) { winner_totals(f, k, to); },
           [&](int64_t f, const double* total) { write_norm(f, total); });
    reduce(weights, [&](int64_t f, int64_t k, double* to) { maps(f, k, to); },
           [&](int64_t f, const double* total) { write_weights(f, total); });
  }

 private:
  static void add(int64_t size, const double* part, double* total) {
    for (int64_t i = 0; i < size; ++i) total[i] += part[i];
  }

  template <typename Chunk, typename Finish>
  void reduce(int64_t size, const Chunk& run_chunk, const Finish& finish) {
    std::vector<double> parts(static_cast<size_t>(size * s_.folds * s_.chunks()), 0.0);
    const auto part = [&](int64_t f, int64_t k) { return parts.data() + size * (f * s_.chunks() + k); };
    chunks_side_by_side(s_.folds, s_.chunks(), [&](int64_t f, int64_t k) { run_chunk(f, k, part(f, k)); });
    for (int64_t f = 0; f < s_.folds; ++f) {
      std::vector<double> total(static_cast<size_t>(size), 0.0);
      for (int64_t k = 0; k < s_.chunks(); ++k) add(size, part(f, k), total.data());
      finish(f, total.data());
    }
  }

  const Real* winners(int64_t f, int64_t b) const { return winners_ + (f * s_.slots + b) * s_.windows() * s_.padded(); }
  const Real* statistics(int64_t f) const { return statistics_ + f * 3 * s_.outputs; }
  double inverse(int64_t f, int64_t o) const { return 1 / std::sqrt(statistics(f)[s_.outputs + o] + s_.eps()); }
  double mean(int64_t f, int64_t o) const { return statistics(f)[o]; }

  // The gradients of an example's windows, [window][padded], through `averages`, as large, whose channels that there are not are 0.
  void grads_of(int64_t f, int64_t b, Real* averages, Real* grads) const {
    const int64_t count = s_.averages();
    const Turn<Real> turn{grad_ + (f * s_.slots + b) * s_.outputs * count, s_.outputs, count, count, count, averages, s_.padded()};
    MER_FAST_DISPATCH(transpose_block, turn);
    MER_FAST_DISPATCH(open_windows, s_.windows(f, b), averages, grads);
  }

  // Over a chunk's windows the sums of gradients and of their products with the winners, [2][padded].
  void winner_totals(int64_t f, int64_t chunk, double* totals) const {
    const int64_t n = s_.padded(), windows = s_.windows();
    Arena& arena = worker_arena();
    arena.template reserve<Real>({windows * n, windows * n, 2 * n});
    Real *averages = arena.template take<Real>(windows * n), *grads = arena.template take<Real>(windows * n);
    Real* sums = arena.template take<Real>(2 * n);
    std::fill_n(averages, windows * n, Real(0));
    for (int64_t b = chunk * kChunk; b < std::min(s_.slots, (chunk + 1) * kChunk); ++b) {
      if (!s_.example(f, b)) continue;
      grads_of(f, b, averages, grads);
      std::fill_n(sums, 2 * n, Real(0));
      MER_FAST_DISPATCH(sum_windows, s_.windows(f, b), winners(f, b), grads, sums, sums + n);
      for (int64_t i = 0; i < 2 * n; ++i) totals[i] += sums[i];
    }
  }

  void write_norm(int64_t f, const double* totals) {
    for (int64_t o = 0; o < s_.outputs; ++o) {
      const double sum = totals[o], product = totals[s_.padded() + o];
      to_.norm_bias[f * s_.outputs + o] = static_cast<Real>(sum);
      to_.norm_weight[f * s_.outputs + o] = static_cast<Real>((product - mean(f, o) * sum) * inverse(f, o));
    }
  }

  // What a place of the map gets: scale times its windows' gradients, and constant + slope times its value (less the pivot).
  void slopes(int64_t f, Real* start, Real* least, Real* scale, Real* constant, Real* slope) const {
    for (Real* array : {start, least, scale, constant, slope}) std::fill_n(array, s_.padded(), Real(0));
    const double count = static_cast<double>(s_.examples(f) * s_.map_height() * s_.map_width());
    for (int64_t o = 0; o < s_.outputs; ++o) {
      const Real pivot = statistics(f)[2 * s_.outputs + o];
      start[o] = s_.bias(f, o) - pivot;
      least[o] = Real(0) - pivot;
      const double a = s_.scale(f, o) * inverse(f, o);
      scale[o] = static_cast<Real>(a);
      if (!batch_statistics_ || count == 0) continue;
      const double b = -a * inverse(f, o) * to_.norm_weight[f * s_.outputs + o] / count;
      slope[o] = static_cast<Real>(b);
      constant[o] = static_cast<Real>(-a * to_.norm_bias[f * s_.outputs + o] / count - b * mean(f, o));
    }
  }

  // A chunk's share of the weights' and the bias's gradients, added to [group][channel][tap][output] and [output] behind it; and
  // its examples' gradients.
  void maps(int64_t f, int64_t chunk, double* totals) const {
    const Framed<Real> frame = s_.frame(), turned = s_.frame(s_.outputs, frame.height, frame.width, 2 - s_.border());
    const int64_t n = s_.padded(), windows = s_.windows(), weights = s_.packed_elements();
    const int64_t back = to_.input ? turned.channels * turned.plane : 0, flipped = to_.input ? s_.flipped_elements() : 0;
    const int64_t held = std::max(held_elements(frame.width), held_elements(turned.width));
    Arena& arena = worker_arena();
    arena.template reserve<Real>({frame.channels * frame.plane, weights, held, held, windows * n, windows * n, n, n, n, n, n, weights + n,
                                  back, flipped, kGroup});
    const auto take = [&](int64_t count) { return arena.template take<Real>(count); };
    Real *data = take(frame.channels * frame.plane), *packed = take(weights), *values = take(held), *held_grads = take(held);
    Real *averages = take(windows * n), *grads = take(windows * n);
    Real *start = take(n), *least = take(n), *scale = take(n), *constant = take(n), *slope = take(n), *sums = take(weights + n);
    Real *map_grad = take(back), *flipped_weights = take(flipped), *zeros = take(kGroup);
    s_.clear(frame, data);
    s_.pack(f, packed);
    slopes(f, start, least, scale, constant, slope);
    std::fill_n(averages, windows * n, Real(0));
    if (to_.input) {
      s_.clear(turned, map_grad);
      s_.pack_flipped(f, flipped_weights);
      std::fill_n(zeros, kGroup, Real(0));
    }
    for (int64_t b = chunk * kChunk; b < std::min(s_.slots, (chunk + 1) * kChunk); ++b) {
      const int64_t size = s_.channels * s_.height * s_.width;
      Real* input_grad = to_.input ? to_.input + (f * s_.slots + b) * size : nullptr;
      const Real* example = s_.example(f, b);
      if (!example) {
        if (input_grad) std::fill_n(input_grad, size, Real(0));
        continue;
      }
      MER_FAST_DISPATCH(frame_example, frame, example, s_.next(f, b, example), data);
      grads_of(f, b, averages, grads);
      MER_FAST_DISPATCH(scale_windows, s_.windows(f, b), winners(f, b), least, scale, grads);
      std::fill_n(sums, weights + n, Real(0));
      for (int64_t g = 0; g < s_.groups(); ++g) {
        const int64_t c = g * kGroup;
        Real* plane = input_grad ? map_grad + c * turned.plane + turned.border * (turned.row + 1) : nullptr;
        const BlockBackward<Real> block{s_.block(frame, data, packed, g, start, least, values), constant + c, slope + c,
                                        winners(f, b) + c, grads + c, n, held_grads, sums + c * s_.channels * kTaps,
                                        sums + weights + c, plane, turned.plane, turned.row};
        MER_FAST_DISPATCH(block_backward, block);
      }
      for (int64_t i = 0; i < weights + n; ++i) totals[i] += sums[i];
      if (input_grad) input_gradient(turned, map_grad, flipped_weights, zeros, values, input_grad);
    }
  }

  // The convolution of the map's gradient with the weights turned around.
  void input_gradient(Framed<Real> x, const Real* map_grad, const Real* weights, const Real* zeros, Real* held, Real* to) const {
    x.data = map_grad;
    for (int64_t c = 0; c < s_.channels; c += kGroup) {
      const Block<Real> block{x, s_.pool, std::min(kGroup, s_.channels - c), weights + c * s_.outputs * kTaps, zeros, zeros, held};
      const PlainConvolution<Real> plain{block, to + c * s_.height * s_.width};
      MER_FAST_DISPATCH(block_convolution, plain);
    }
  }

  void write_weights(int64_t f, const double* totals) {
    const int64_t patch = s_.channels * kTaps;
    for (int64_t o = 0; o < s_.outputs; ++o) {
      const double* from = totals + o / kGroup * kGroup * patch + o % kGroup;
      for (int64_t i = 0; i < patch; ++i) to_.weight[(f * s_.outputs + o) * patch + i] = static_cast<Real>(from[i * kGroup]);
      to_.bias[f * s_.outputs + o] = static_cast<Real>(totals[s_.packed_elements() + o]);
    }
  }

  const FoldBlocks<Real>& s_;
  bool batch_statistics_;
  const Real *grad_, *winners_, *statistics_;
  Gradients<Real> to_;
};

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> conv_norm_pool_backward(
    const Tensor& grad_any, const Tensor& input, const std::optional<Tensor>& index, const Tensor& weight,
    const std::optional<Tensor>& bias, const std::optional<Tensor>& norm_weight, const Tensor& winners_any,
    const Tensor& statistics_any, bool batch_statistics, double eps, int64_t padding, std::vector<int64_t> pool, double dropout,
    const std::optional<Tensor>& dropout_key, int64_t average, bool need_input) {
  constexpr const char* op = "conv_norm_pool_backward";
  const BlockOperands operands{input, index, weight, bias, norm_weight, eps, padding, pool, dropout, dropout_key, average};
  return for_real(op, input, [&]<typename Real>(Real) {
    const FoldBlocks<Real> s(op, operands);
    const auto fits = [&](const char* name, const Tensor& t, std::vector<int64_t> shape) {
      check_same_dtype(op, "input", input, name, t);
      bool same = t.dim() == static_cast<int64_t>(shape.size());
      for (size_t d = 0; same && d < shape.size(); ++d) same = t.size(static_cast<int64_t>(d)) == shape[d];
      MER_FAST_CHECK(same, op, ": ", name, " must be as the forward gives it, got ", shape_text(t));
      return contiguous(t);
    };
    const Tensor grad = fits("grad", grad_any, s.output_shape());
    const Tensor winners = fits("winners", winners_any, {s.folds, s.slots, s.windows(), s.padded()});
    const Tensor statistics = fits("statistics", statistics_any, {s.folds, 3, s.outputs});
    const auto made = [&](std::vector<int64_t> shape) { return torch::stable::new_empty(s.like(), shape); };
    const std::vector<int64_t> of_input{s.folds, s.slots, s.channels, s.height, s.width};
    Tensor to_input = made(need_input ? of_input : std::vector<int64_t>{0});
    Tensor to_weight = made({s.folds, s.outputs, s.channels, 3, 3}), to_bias = made({s.folds, s.outputs});
    Tensor to_norm_weight = made({s.folds, s.outputs}), to_norm_bias = made({s.folds, s.outputs});
    const auto at = [](Tensor& t) { return static_cast<Real*>(t.mutable_data_ptr()); };
    const auto from = [](const Tensor& t) { return static_cast<const Real*>(t.const_data_ptr()); };
    const Gradients<Real> to{need_input ? at(to_input) : nullptr, at(to_weight), at(to_bias), at(to_norm_weight), at(to_norm_bias)};
    Backward<Real>(s, batch_statistics, from(grad), from(winners), from(statistics), to).run();
    return std::tuple(to_input, to_weight, to_bias, to_norm_weight, to_norm_bias);
  });
}

}  // namespace
}  // namespace mer_fast

STABLE_TORCH_LIBRARY_IMPL(mer_fast, CPU, m) {
  m.impl("conv_norm_pool_backward", TORCH_BOX(&mer_fast::conv_norm_pool_backward));
}
