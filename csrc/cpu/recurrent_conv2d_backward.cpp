// torch.ops.mer_fast.recurrent_conv2d_backward on a CPU: the gradients of a section with the batch's statistics.
#include <torch/csrc/stable/library.h>

#include "recurrent_conv2d_train.h"

namespace mer_fast {
namespace {

struct Gradients {
  float *input, *input_weight, *recurrent_weights, *norm_weight, *norm_bias;  // zeros on entry; input null where not needed
};

class Backward : Training {
 public:
  Backward(const Section& s, Norms& norms, float* maps, const float* grad, const Gradients& to, bool normalise, bool exact)
      : Training(s, norms, maps, exact), grad_(grad), to_(to), normalise_(normalise) {}

  // False where a gradient is not finite, which Winograd's transforms spread.
  bool run() {
    const int64_t map = s_.batch * s_.plane() * width_;
    Tensor memory = torch::stable::new_empty(s_.input, {(s_.fed ? 2 : 3) * map});
    float* all = static_cast<float*>(memory.mutable_data_ptr());
    incoming_ = all, outgoing_ = all + map, fed_forward_ = s_.fed ? nullptr : all + 2 * map;
    mean_grad_.assign(static_cast<size_t>(width_), 0), mean_product_ = mean_grad_;
    turn_grad();
    for (int64_t k = s_.steps; k >= 0 && (finite_ || !(first_grid_.filter.m || grid_.filter.m)); --k) {
      step(k);
      std::swap(incoming_, outgoing_);
    }
    return finite_;
  }

 private:
  struct Worker {
    Band forward, back;  // of the source, and of the gradient
    Strip source, gradient;
    WeightSums sums;
    float *scratch, *channel;  // a row of the input, and sums of channels
  };

  float* row_of(float* maps, int64_t n, int64_t h) const { return maps + ((n * s_.height + h) * s_.width) * width_; }
  double* task_sums(int64_t task) { return sums_.data() + task * 2 * width_; }

  // The gradient of the output, as pixels, and its sums.
  void turn_grad() {
    const Grid& g = grid_;
    sums_.assign(static_cast<size_t>(s_.batch * g.bands * 2 * width_), 0.0);
    slots_.reserve(2 * width_ + 32);
    slots_.share(s_.batch * g.bands, [&](int64_t slot, int64_t begin, int64_t end) {
      float* channel = slots_.arena(slot).take<float>(2 * width_);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t n = i / g.bands, last = std::min(s_.height, g.first(i % g.bands + 1) * g.filter.tile());
        for (int64_t h = g.first(i % g.bands) * g.filter.tile(); h < last; ++h) {
          float* row = row_of(incoming_, n, h);
          MER_FAST_DISPATCH(pixels_from_planes, {grad_ + n * s_.maps * s_.plane() + h * s_.width, row, s_.maps, s_.width, s_.plane(),
              width_});
          add_sums(s_.steps, n, h, i, 0, width_, row, channel);
        }
      }
    });
    gather(s_.steps, s_.batch * g.bands);
  }

  NormRows norm_rows(int64_t k, int64_t n, int64_t h, const float* grad, int64_t first, int64_t width) const {
    return {{grad, width_}, {map_row(k, n, h) + first, width_}, norms_.of(norms_.scale, k, first), norms_.of(norms_.shift, k, first),
            norms_.of(norms_.mean, k, first), norms_.of(norms_.inverse, k, first), s_.width, width};
  }

  void add_sums(int64_t k, int64_t n, int64_t h, int64_t task, int64_t first, int64_t width, const float* grad, float* channel) {
    MER_FAST_DISPATCH(norm_sums, norm_rows(k, n, h, grad, first, width), channel + first, channel + width_ + first);
    for (int64_t c = first; c < first + width; ++c) {
      task_sums(task)[c] += channel[c];
      task_sums(task)[width_ + c] += channel[width_ + c];
    }
  }

  // The gradients of norm k, and what its input's gradient needs.
  void gather(int64_t k, int64_t tasks) {
    for (const double sum : sums_) finite_ &= std::isfinite(sum);
    if (!normalise_) return;
    const double count = static_cast<double>(s_.batch * s_.plane());
    for (int64_t c = 0; c < s_.maps; ++c) {
      double grads = 0, products = 0;
      for (int64_t i = 0; i < tasks; ++i) grads += task_sums(i)[c], products += task_sums(i)[width_ + c];
      mean_grad_[static_cast<size_t>(c)] = static_cast<float>(grads / count);
      mean_product_[static_cast<size_t>(c)] = static_cast<float>(products / count);
      if (to_.norm_weight) to_.norm_weight[k * s_.maps + c] = static_cast<float>(products);
      if (to_.norm_bias) to_.norm_bias[k * s_.maps + c] = static_cast<float>(grads);
    }
  }

  // The gradient of what goes into norm k.
  void norm_row(int64_t k, int64_t n, int64_t h, float* out) {
    MER_FAST_DISPATCH(norm_gradient, norm_rows(k, n, h, row_of(incoming_, n, h), 0, width_), mean_grad_.data(), mean_product_.data(),
        out, width_);
  }

  // State k: gradients of its weight and of what its convolution takes.
  void step(int64_t k) {
    const Grid& g = grid(k);
    const int64_t inputs = k == 0 ? s_.channels : s_.maps, tasks = s_.batch * g.bands;
    const bool back = k > 0 || to_.input;
    if (k == 0 && !s_.fed) finish_fed_forward();
    Bank bank = bank_for(g.filter, s_.maps, inputs, true);
    shared_arena().reserve<float>({back ? bank.elements() : 0});
    bank.place(shared_arena());
    if (back) fill_bank(bank, k == 0 ? s_.first_weight() : s_.weight(k - 1), s_.maps, inputs, g.filter.taps(), true);
    sums_.assign(static_cast<size_t>(tasks * 2 * width_), 0.0);
    const Worker plan{Band(g, depth(k), 0), Band(g, width_, bank.widest()), Strip(g, depth(k)), Strip(g, width_), WeightSums(g,
        depth(k), width_), nullptr, nullptr};
    const int64_t row = s_.width * std::max(width_, depth(k));
    slots_.reserve(plan.forward.elements() + plan.back.elements() + plan.source.elements() + plan.gradient.elements() +
        plan.sums.elements() + row +
                   2 * width_ + 96);
    std::vector<Worker> workers(static_cast<size_t>(slots_.count()), plan);
    const int64_t parts = std::min(tasks, slots_.count());
    slots_.share(tasks, [&](int64_t slot, int64_t begin, int64_t end) {
      Arena& arena = slots_.arena(slot);
      Worker& w = workers[static_cast<size_t>(slot)];
      w.forward.place(arena), w.back.place(arena), w.source.place(arena), w.gradient.place(arena), w.sums.place(arena);
      w.scratch = arena.take<float>(row);
      w.channel = arena.take<float>(2 * width_);
      w.sums.clear();
      for (int64_t i = begin; i < end; ++i) band(k, i, w, back ? &bank : nullptr);
    });
    for (int64_t i = 1; i < parts; ++i) workers[0].sums.add(workers[static_cast<size_t>(i)].sums);
    const int64_t taps = g.filter.taps();
    float* weight = k == 0 ? to_.input_weight : to_.recurrent_weights + s_.weight_of(k - 1) * s_.maps * s_.maps * taps;
    workers[0].sums.finish([&](int64_t i, int64_t o) { return i < inputs && o < s_.maps ? weight + (o * inputs + i) * taps : nullptr; });
    if (k > 0) gather(k - 1, tasks);
  }

  void band(int64_t k, int64_t task, Worker& w, const Bank* bank) {
    const Grid& g = grid(k);
    const int64_t n = task / g.bands;
    w.forward.begin(task % g.bands);
    w.source.fill(w.forward, [&](int64_t h, float* out) { source_row(k, n, h, out, w.scratch); });
    w.gradient.fill(w.forward, [&](int64_t h, float* out) {
      if (k == 0 && !s_.fed) {
        std::copy_n(row_of(fed_forward_, n, h), s_.width * width_, out);
      } else {
        norm_row(k, n, h, out);
      }
    });
    if (k > 0 && !s_.fed) add_fed_forward(k, n, w);
    w.forward.take(w.source.data(), w.source.row_step(), depth(k), 0);
    w.sums.add(w.forward, w.gradient.inside(), w.gradient.row_step(), [&](int64_t) { return Depths{0, width_}; });
    if (!bank) return;
    w.back.begin(task % g.bands);
    w.back.take(w.gradient.data(), w.gradient.row_step(), width_, 0);
    for (int64_t block = 0; block < bank->blocks(); ++block) {
      const auto all = [&](int64_t) { return Depths{0, width_}; };
      w.back.convolve(*bank, block, all, [&](int64_t h, int64_t rows, const float* values, int64_t step) {
        for (int64_t r = 0; r < rows; ++r) hand_on(k, n, task, h + r, bank->first(block), bank->width(block), values + r * step, w);
      });
    }
  }

  // A row of the gradient of what state k's convolution took: that of state k - 1, and of the input.
  void hand_on(int64_t k, int64_t n, int64_t task, int64_t h, int64_t first, int64_t width, const float* values, Worker& w) {
    if (k > 0) {
      float* row = row_of(outgoing_, n, h) + first;
      for (int64_t i = 0; i < s_.width; ++i) std::copy_n(values + i * width, width, row + i * width_);
      add_sums(k - 1, n, h, task, first, width, row, w.channel);
      if (!s_.fed) return;
    }
    if (!to_.input || first >= s_.channels) return;
    float* planes = to_.input + (n * s_.channels + first) * s_.plane() + h * s_.width;
    const PlaneRow turned{values, planes, std::min(width, s_.channels - first), s_.width, s_.plane(), width};
    MER_FAST_DISPATCH(add_planes_from_pixels, turned);
  }

  // The input's convolution is added to every state: its gradient is the sum of theirs.
  void add_fed_forward(int64_t k, int64_t n, const Worker& w) {
    for (int64_t h = w.forward.first_row(); h < w.forward.first_row() + w.forward.rows(); ++h) {
      float* sum = row_of(fed_forward_, n, h);
      const float* row = w.gradient.pixels(w.forward, h);
      for (int64_t i = 0; i < s_.width * width_; ++i) sum[i] = (k == s_.steps ? 0 : sum[i]) + row[i];
    }
  }
  void finish_fed_forward() {
    slots_.reserve(s_.width * width_ + 16);
    slots_.share(s_.batch * s_.height, [&](int64_t slot, int64_t begin, int64_t end) {
      float* row = slots_.arena(slot).take<float>(s_.width * width_);
      for (int64_t i = begin; i < end; ++i) {
        norm_row(0, i / s_.height, i % s_.height, row);
        float* sum = row_of(fed_forward_, i / s_.height, i % s_.height);
        for (int64_t j = 0; j < s_.width * width_; ++j) sum[j] += row[j];
      }
    });
  }

  const float* grad_;
  Gradients to_;
  bool normalise_, finite_ = true;
  float *incoming_ = nullptr, *outgoing_ = nullptr, *fed_forward_ = nullptr;  // [image][row][pixel][channel]
  std::vector<float> mean_grad_, mean_product_;
  std::vector<double> sums_;
};

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& grad_any, const Tensor& input, const Tensor& input_weight, const Tensor& recurrent_weights,
    const std::optional<Tensor>& norm_weight, const std::optional<Tensor>& norm_bias, const Tensor& maps, const Tensor& statistics,
    int64_t steps, const std::string& injection, bool normalise, double eps, bool need_input, bool exact) {
  const char* op = "recurrent_conv2d_backward";
  const Section s(op, input, input_weight, recurrent_weights, steps, injection);
  s.check_norm("norm_weight", norm_weight);
  s.check_norm("norm_bias", norm_bias);
  const Tensor grad = contiguous(grad_any);
  check_same_dtype(op, "grad", grad, "input", s.input);
  MER_FAST_CHECK(
      grad.dim() == 4 && grad.size(0) == s.batch && grad.size(1) == s.maps && grad.size(2) == s.height && grad.size(3) == s.width, op,
      ": grad must have the shape of the output, got ", shape_text(grad));
  MER_FAST_CHECK(
      maps.dim() == 5 && maps.is_contiguous() && maps.scalar_type() == ScalarType::Float &&
          maps.numel() == (steps + 1) * s.batch * s.plane() * s.padded_maps(),
      op, ": maps are not those of the forward pass, got ", shape_text(maps));
  MER_FAST_CHECK(
      statistics.scalar_type() == ScalarType::Float && statistics.numel() == (normalise ? (steps + 1) * 2 * s.maps : 0), op,
      ": statistics are not those of the forward pass, got ", shape_text(statistics));
  const auto zeros = [&](const Tensor& like, bool wanted) {
    std::vector<int64_t> shape;
    for (int64_t d = 0; wanted && d < like.dim(); ++d) shape.push_back(like.size(d));
    Tensor t = torch::stable::new_empty(s.input, wanted ? shape : std::vector<int64_t>{0});
    return torch::stable::fill_(t, 0);
  };
  Tensor of_input = zeros(s.input, need_input), of_first = zeros(s.input_weight, true), of_rest = zeros(s.recurrent_weights, true);
  Tensor of_weight = norm_weight ? zeros(*norm_weight, true) : zeros(s.input, false);
  Tensor of_bias = norm_bias ? zeros(*norm_bias, true) : zeros(s.input, false);
  if (!s.empty()) {
    Norms norms(s, norm_weight, norm_bias);
    const Tensor dense = contiguous(statistics);
    const float* values = static_cast<const float*>(dense.const_data_ptr());
    for (int64_t k = 0; normalise && k <= steps; ++k) {
      for (int64_t c = 0; c < s.maps; ++c) norms.set(k, c, values[2 * k * s.maps + c], values[(2 * k + 1) * s.maps + c], eps);
    }
    const auto data = [](Tensor& t, bool wanted) { return wanted ? static_cast<float*>(t.mutable_data_ptr()) : nullptr; };
    const Gradients to{data(of_input, need_input), data(of_first, true), data(of_rest, true), data(of_weight, bool(norm_weight)),
        data(of_bias, bool(norm_bias))};
    float* kept = static_cast<float*>(const_cast<void*>(maps.const_data_ptr()));  // which are only read
    const auto run = [&](bool direct) { return Backward(s, norms, kept, floats(grad), to, normalise, direct).run(); };
    if (!exact && !run(false)) {
      for (Tensor* t : {&of_input, &of_first, &of_rest, &of_weight, &of_bias}) torch::stable::fill_(*t, 0);
      exact = true;
    }
    if (exact) run(true);
  }
  return {of_input, of_first, of_rest, of_weight, of_bias};
}

}  // namespace
}  // namespace mer_fast

STABLE_TORCH_LIBRARY_IMPL(mer_fast, CPU, m) {
  m.impl("recurrent_conv2d_backward", TORCH_BOX(&mer_fast::backward));
}
