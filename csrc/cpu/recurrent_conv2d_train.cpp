// torch.ops.mer_fast.recurrent_conv2d_train on a CPU: a section with the batch's statistics.
#include "recurrent_conv2d_train.h"

#include <torch/csrc/stable/library.h>

#include <atomic>

namespace mer_fast {
namespace {

class Forward : Training {
 public:
  Forward(const Section& s, Norms& norms, float* maps, bool normalise, double eps, bool exact)
      : Training(s, norms, maps, exact), normalise_(normalise), eps_(eps) {}

  bool run(float* output, float* statistics) {
    for (int64_t k = 0; k <= s_.steps && goes_on(); ++k) {
      state(k);
      if (normalise_) gather(k, statistics);
    }
    if (goes_on()) write(output);
    return finite_;
  }

 private:
  // By the formula, what is not finite stays where it belongs.
  bool goes_on() const { return finite_ || !(first_grid_.filter.m || grid_.filter.m); }

  void state(int64_t k) {
    const Grid& g = grid(k);
    Bank bank = bank_for(g.filter, s_.maps, k == 0 ? s_.channels : s_.maps, false);
    shared_arena().reserve<float>({bank.elements()});
    bank.place(shared_arena());
    fill_bank(bank, k == 0 ? s_.first_weight() : s_.weight(k - 1), s_.maps, k == 0 ? s_.channels : s_.maps, g.filter.taps(), false);
    sums_.assign(static_cast<size_t>(s_.batch * g.bands * 2 * width_), 0.0);
    const Band band(g, depth(k), bank.widest());
    const Strip strip(g, depth(k));
    const int64_t row = s_.width * std::max(width_, depth(k));
    slots_.reserve(band.elements() + strip.elements() + row + 3 * width_ + 96);
    slots_.share(s_.batch * g.bands, [&](int64_t slot, int64_t begin, int64_t end) {
      Arena& arena = slots_.arena(slot);
      Band b = band;
      Strip source = strip;
      b.place(arena);
      source.place(arena);
      float *scratch = arena.take<float>(row), *moments = arena.take<float>(3 * width_);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t n = i / g.bands;
        b.begin(i % g.bands);
        source.fill(b, [&](int64_t h, float* out) { source_row(k, n, h, out, scratch); });
        b.take(source.data(), source.row_step(), depth(k), 0);
        for (int64_t block = 0; block < bank.blocks(); ++block) {
          const int64_t first = bank.first(block), width = bank.width(block);
          const auto all = [&](int64_t) { return Depths{0, depth(k)}; };
          b.convolve(bank, block, all, [&](int64_t h, int64_t rows, const float* z, int64_t step) {
            for (int64_t r = 0; r < rows; ++r) keep_row(k, n, i, h + r, first, width, z + r * step, moments, h + r == b.first_row());
          });
        }
      }
    });
  }

  void keep_row(int64_t k, int64_t n, int64_t task, int64_t h, int64_t first, int64_t width, const float* z, float* moments, bool begins) {
    const float* u = k > 0 && !s_.fed ? map_row(0, n, h) + first : nullptr;
    float *pivot = moments + first, *sums = moments + width_ + first, *squares = moments + 2 * width_ + first;
    for (int64_t c = 0; begins && c < width; ++c) pivot[c] = z[c] + (u ? u[c] : 0);
    const MomentRows rows{{z, width}, {u, width_}, map_row(k, n, h) + first, width_, s_.width, width, pivot, sums, squares};
    MER_FAST_DISPATCH(moment_rows, rows);
    clear_padding(rows.out, width_, s_.width, s_.maps - first, width);
    // As sum and sum of squares around zero, in double.
    double* to = sums_.data() + task * 2 * width_ + first;
    float zeros = 0;
    for (int64_t c = 0; c < std::min(width, s_.maps - first); ++c) {
      const double d = sums[c], p = pivot[c], count = static_cast<double>(s_.width);
      to[c] += d + p * count;
      to[width_ + c] += squares[c] + 2 * p * d + p * p * count;
      zeros += sums[c] * 0.0f;
    }
    if (!(zeros == 0)) finite_ = false;
  }

  void gather(int64_t k, float* statistics) {
    const double count = static_cast<double>(s_.batch * s_.plane());
    const int64_t tasks = s_.batch * grid(k).bands;
    std::vector<double> total(static_cast<size_t>(2 * width_), 0.0);
    for (int64_t i = 0; i < tasks; ++i) {
      for (int64_t c = 0; c < 2 * width_; ++c) total[static_cast<size_t>(c)] += sums_[static_cast<size_t>(i * 2 * width_ + c)];
    }
    for (int64_t c = 0; c < s_.maps; ++c) {
      const double mean = total[static_cast<size_t>(c)] / count;
      const double variance = std::max(0.0, total[static_cast<size_t>(width_ + c)] / count - mean * mean);
      statistics[2 * k * s_.maps + c] = static_cast<float>(mean);
      statistics[(2 * k + 1) * s_.maps + c] = static_cast<float>(variance);
      norms_.set(k, c, mean, variance, eps_);
    }
  }

  void write(float* output) {
    const int64_t row = s_.width * width_, k = s_.steps;
    slots_.reserve(row + 16);
    slots_.share(s_.batch * s_.height, [&](int64_t slot, int64_t begin, int64_t end) {
      float* state = slots_.arena(slot).take<float>(row);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t n = i / s_.height, h = i % s_.height;
        const StateRows rows{{map_row(k, n, h), width_}, {nullptr, 0}, {nullptr, 0}, norms_.of(norms_.scale, k), norms_.of(norms_.shift, k),
                             state, width_, s_.width, width_};
        MER_FAST_DISPATCH(state_rows, rows);
        const PlaneRow turned{state, output + n * s_.maps * s_.plane() + h * s_.width, s_.maps, s_.width, s_.plane(), width_};
        MER_FAST_DISPATCH(planes_from_pixels, turned);
      }
    });
  }

  bool normalise_;
  double eps_;
  std::vector<double> sums_;  // of every task: sums and sums of squares, [task][2][channel]
  std::atomic<bool> finite_{true};
};

std::tuple<Tensor, Tensor, Tensor> train(
    const Tensor& input, const Tensor& input_weight, const Tensor& recurrent_weights, const std::optional<Tensor>& norm_weight,
    const std::optional<Tensor>& norm_bias, int64_t steps, const std::string& injection, bool normalise, double eps, bool exact) {
  const Section s("recurrent_conv2d_train", input, input_weight, recurrent_weights, steps, injection);
  s.check_norm("norm_weight", norm_weight);
  s.check_norm("norm_bias", norm_bias);
  Tensor output = torch::stable::new_empty(s.input, {s.batch, s.maps, s.height, s.width});
  Tensor maps = torch::stable::new_empty(s.input, {s.steps + 1, s.batch, s.height, s.width, s.padded_maps()});
  Tensor statistics = torch::stable::new_empty(s.input, {normalise ? s.steps + 1 : 0, 2, s.maps});
  if (s.empty()) return {output, maps, torch::stable::fill_(statistics, 0)};
  const auto run = [&](bool direct) {
    Norms norms(s, norm_weight, norm_bias);
    return Forward(s, norms, static_cast<float*>(maps.mutable_data_ptr()), normalise, eps, direct)
        .run(static_cast<float*>(output.mutable_data_ptr()), static_cast<float*>(statistics.mutable_data_ptr()));
  };
  if (exact || !run(false)) run(true);
  return {output, maps, statistics};
}

}  // namespace
}  // namespace mer_fast

STABLE_TORCH_LIBRARY_IMPL(mer_fast, CPU, m) {
  m.impl("recurrent_conv2d_train", TORCH_BOX(&mer_fast::train));
}
