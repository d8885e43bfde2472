// torch.ops.mer_fast.conv3d_pool_backward on a CPU: weight, bias and input gradients from the winners of the windows alone.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "arena.h"
#include "conv3d_kernel.h"
#include "conv3d_pool_backward_kernel.h"
#include "conv3d_shape.h"

namespace mer_fast {
namespace {

constexpr const char* kOp = "conv3d_pool_backward";
constexpr int64_t kPieces = 16;  // whatever the number of threads, so that sums do not depend on it
constexpr int64_t kBoxBytes = 48 << 10;  // of input under a box of windows: it is read once for every output channel

// The padded input of one image and group with the axis of the longest run innermost but for the channels, so that a
// winner's patch is a few rows of k * channels consecutive elements.
struct PatchLayout {
  int axis;              // 0 t, 1 h, 2 w; -1: a row is one tap's channels
  int64_t run, vectors;  // elements of a row, and vectors that hold them
  Triple extent, step;   // of the padded input that windows touch; channels have step 1
  std::vector<int64_t> rows, places;
  int64_t size;

  int64_t row_elements(int64_t lanes) const { return vectors * lanes; }
};

// Positions of the padded input under the first `windows` windows along an axis.
int64_t input_span(const ConvShape& conv, const PoolShape& pool, int d, int64_t windows) {
  const int64_t positions = (windows - 1) * pool.stride[d] + pool.kernel[d];
  return (positions - 1) * conv.stride[d] + (conv.kernel[d] - 1) * conv.dilation[d] + 1;
}

PatchLayout layout_for(const ConvShape& conv, const PoolShape& pool, int64_t lanes) {
  PatchLayout best{};
  int64_t least = 0;
  for (const int axis : {2, 0, 1, -1}) {
    if (axis >= 0 && conv.dilation[axis] != 1 && conv.kernel[axis] != 1) continue;
    const int64_t length = axis < 0 ? 1 : conv.kernel[axis];
    const int64_t vectors = (length * conv.channels + lanes - 1) / lanes;
    const int64_t cost = vectors * (conv.kernel[0] * conv.kernel[1] * conv.kernel[2] / length);
    if (least && cost >= least) continue;
    least = cost;
    best.axis = axis;
    best.run = length * conv.channels;
    best.vectors = vectors;
  }
  for (int d = 0; d < 3; ++d) {
    best.extent[d] = input_span(conv, pool, d, pool.out[d]);
  }
  const int inner = best.axis < 0 ? 2 : best.axis;
  int64_t step = conv.channels;
  best.step[inner] = step;
  step *= best.extent[inner];
  for (int d = 2; d >= 0; --d) {
    if (d == inner) continue;
    best.step[d] = step;
    step *= best.extent[d];
  }
  best.size = step + 4 * lanes;  // the last vector of a row may reach past it
  best.places.reserve(kNobody + 1);
  const auto taps = [&](int d) { return d == best.axis ? int64_t{1} : conv.kernel[d]; };
  for (int64_t t = 0; t < taps(0); ++t) {
    for (int64_t h = 0; h < taps(1); ++h) {
      for (int64_t w = 0; w < taps(2); ++w) {
        best.rows.push_back(
            t * conv.dilation[0] * best.step[0] + h * conv.dilation[1] * best.step[1] + w * conv.dilation[2] * best.step[2]);
      }
    }
  }
  for (int64_t t = 0; t < pool.kernel[0]; ++t) {
    for (int64_t h = 0; h < pool.kernel[1]; ++h) {
      for (int64_t w = 0; w < pool.kernel[2]; ++w) {
        best.places.push_back(
            t * conv.stride[0] * best.step[0] + h * conv.stride[1] * best.step[1] + w * conv.stride[2] * best.step[2]);
      }
    }
  }
  best.places.resize(kNobody + 1, 0);
  return best;
}

template <typename Real>
struct Backward {
  const ConvShape& conv;
  const PoolShape& pool;
  const PatchLayout& layout;
  Element type;
  const Real *grad, *input;
  const uint8_t* winners;
  void* grad_input;           // nullptr unless needed
  bool need_weight;
  int64_t lanes;
  int64_t splits, pieces;     // parts of an image along time; and all that is summed apart
  std::vector<Real> weight;   // [output][row][vector]
  std::vector<Real> partial;  // [piece][output][row][vector]
  std::vector<double> bias;   // [piece][output]

  int64_t patch() const { return static_cast<int64_t>(layout.rows.size()) * layout.vectors * lanes; }
  int64_t outputs() const { return conv.groups * conv.outputs; }
};

// Elements of a row of weight gradients, and back: calls each(element of the weight, element of a patch).
template <typename Real, typename Each>
void for_each_tap(const Backward<Real>& b, const Each& each) {
  const ConvShape& conv = b.conv;
  const int axis = b.layout.axis;
  for (int64_t c = 0; c < conv.channels; ++c) {
    int64_t k[3];
    for (k[0] = 0; k[0] < conv.kernel[0]; ++k[0]) {
      for (k[1] = 0; k[1] < conv.kernel[1]; ++k[1]) {
        for (k[2] = 0; k[2] < conv.kernel[2]; ++k[2]) {
          int64_t row = 0;
          for (int d = 0; d < 3; ++d) {
            if (d != axis) row = row * conv.kernel[d] + k[d];
          }
          const int64_t place = axis < 0 ? 0 : k[axis];
          const int64_t tap = ((c * conv.kernel[0] + k[0]) * conv.kernel[1] + k[1]) * conv.kernel[2] + k[2];
          each(tap, row * b.layout.row_elements(b.lanes) + place * conv.channels + c);
        }
      }
    }
  }
}

// What a thread works with.
template <typename Real>
class Worker {
 public:
  explicit Worker(Backward<Real>& b) : b_(b), box_(box_of(b)) {
    const int64_t list = box_[0] * box_[1] * box_[2] + 1, input = b.need_weight ? b.layout.size : 0;
    const int64_t grad_input = b.grad_input ? b.layout.size : 0;
    const bool wide = b.grad_input && element_size(b.type) != sizeof(Real);
    const int64_t image = wide ? b.conv.channels * b.conv.in[0] * b.conv.in[1] * b.conv.in[2] : 0;
    Arena& arena = worker_arena();
    arena.reserve<Real>({list, input, grad_input, image});
    list_grad_ = arena.take<Real>(list);
    input_ = arena.take<Real>(input);
    grad_input_ = arena.take<Real>(grad_input);
    image_ = arena.take<Real>(image);
    list_patch_.resize(size(list));
    if (b.need_weight) std::fill_n(input_, input, Real(0));
  }

  // A run of images, or part of an image along time.
  void run(int64_t piece) {
    if (b_.splits > 1) return run_image(piece, piece / b_.splits, piece % b_.splits);
    const int64_t runs = b_.pieces, images = b_.conv.batch;
    for (int64_t image = images * piece / runs; image < images * (piece + 1) / runs; ++image) run_image(piece, image, 0);
  }

 private:
  static size_t size(int64_t n) { return static_cast<size_t>(n); }

  void run_image(int64_t piece, int64_t image, int64_t split) {
    const int64_t first = b_.pool.out[0] * split / b_.splits, last = b_.pool.out[0] * (split + 1) / b_.splits;
    if (first == last) return;
    for (int64_t group = 0; group < b_.conv.groups; ++group) {
      if (b_.need_weight) pack(image, group, first, last);
      if (b_.grad_input) std::fill_n(grad_input_, b_.layout.size, Real(0));
      for (int64_t t = first; t < last; t += box_[0]) {
        for (int64_t h = 0; h < b_.pool.out[1]; h += box_[1]) {
          for (int64_t w = 0; w < b_.pool.out[2]; w += box_[2]) {
            const Triple size{std::min(box_[0], last - t), std::min(box_[1], b_.pool.out[1] - h), std::min(box_[2], b_.pool.out[2] - w)};
            for (int64_t o = 0; o < b_.conv.outputs; ++o) run_box(piece, image, group * b_.conv.outputs + o, {t, h, w}, size);
          }
        }
      }
      if (b_.grad_input) unpack(image, group);
    }
  }

  // Windows worked on at a time: the whole innermost axis of the layout, and as much of the others as the cache holds.
  static Triple box_of(const Backward<Real>& b) {
    const int inner = b.layout.axis < 0 ? 2 : b.layout.axis;
    Triple box{1, 1, 1};
    box[inner] = b.pool.out[inner];
    const auto bytes = [&] {
      int64_t elements = b.conv.channels;
      for (int d = 0; d < 3; ++d) {
        elements *= input_span(b.conv, b.pool, d, box[d]);
      }
      return elements * static_cast<int64_t>(sizeof(Real));
    };
    for (const int d : {2, 1, 0}) {
      while (box[d] < b.pool.out[d] && bytes() < kBoxBytes) ++box[d];
    }
    return box;
  }

  void run_box(int64_t piece, int64_t image, int64_t output, const Triple& first, const Triple& windows) {
    const PoolShape& pool = b_.pool;
    WindowBox<Real> box{};
    box.step[2] = 1;
    box.step[1] = pool.out[2];
    box.step[0] = pool.out[1] * pool.out[2];
    int64_t begin = (image * b_.outputs() + output) * pool.out[0] * box.step[0];
    for (int d = 0; d < 3; ++d) {
      box.size[d] = windows[d];
      box.patch_step[d] = pool.stride[d] * b_.conv.stride[d] * b_.layout.step[d];
      box.patch += first[d] * box.patch_step[d];
      begin += first[d] * box.step[d];
    }
    box.grad = b_.grad + begin;
    box.winners = b_.winners + begin;
    box.places = b_.layout.places.data();
    Winners<Real> list{list_grad_, list_patch_.data(), 0};
    const double sum = MER_FAST_DISPATCH(collect, box, list);
    b_.bias[size(piece * b_.outputs() + output)] += sum;
    const PatchShape patch{b_.layout.rows.data(), static_cast<int64_t>(b_.layout.rows.size()), b_.layout.vectors};
    if (b_.need_weight) {
      MER_FAST_DISPATCH(gather, list, input_, patch, b_.partial.data() + (piece * b_.outputs() + output) * b_.patch());
    }
    if (b_.grad_input && std::isfinite(sum)) {
      MER_FAST_DISPATCH(scatter, list, b_.weight.data() + output * b_.patch(), patch, grad_input_);
    } else if (b_.grad_input) {
      scatter_exactly(list, b_.weight.data() + output * b_.patch());
    }
  }

  // Within the rows' ends: an infinite gradient times the zeros behind them would be NaN.
  void scatter_exactly(const Winners<Real>& list, const Real* weight) {
    for (int64_t i = 0; i < list.count; ++i) {
      for (size_t r = 0; r < b_.layout.rows.size(); ++r) {
        Real* patch = grad_input_ + list.patch[i] + b_.layout.rows[r];
        const Real* row = weight + static_cast<int64_t>(r) * b_.layout.row_elements(b_.lanes);
        for (int64_t k = 0; k < b_.layout.run; ++k) patch[k] += list.grad[i] * row[k];
      }
    }
  }

  // Rows of the image and where they lie in the layout: each(first element of the image, step to the next row, its place in
  // the layout, rows, columns). Rows that lie side by side in the layout, channels or moments, come together.
  template <typename Each>
  void for_each_rows(int64_t image, int64_t group, int64_t first_t, int64_t end_t, const Each& each) {
    const ConvShape& conv = b_.conv;
    const PatchLayout& layout = b_.layout;
    const int64_t area = conv.in[1] * conv.in[2], begin = (image * conv.groups + group) * conv.channels * conv.in[0] * area;
    const int64_t columns = std::clamp<int64_t>(layout.extent[2] - conv.padding[2], 0, conv.in[2]);
    const int64_t rows = std::clamp<int64_t>(layout.extent[1] - conv.padding[1], 0, conv.in[1]);
    const int64_t from = std::max<int64_t>(first_t - conv.padding[0], 0), until = std::min(end_t - conv.padding[0], conv.in[0]);
    const auto place = [&](int64_t t, int64_t h) {
      return (t + conv.padding[0]) * layout.step[0] + (h + conv.padding[1]) * layout.step[1] + conv.padding[2] * layout.step[2];
    };
    if (layout.axis == 0 && conv.channels == 1) {
      for (int64_t h = 0; h < rows && from < until; ++h) {
        each(begin + from * area + h * conv.in[2], area, place(from, h), until - from, columns);
      }
      return;
    }
    for (int64_t t = from; t < until; ++t) {
      for (int64_t h = 0; h < rows; ++h) {
        each(begin + t * area + h * conv.in[2], conv.in[0] * area, place(t, h), conv.channels, columns);
      }
    }
  }

  void pack(int64_t image, int64_t group, int64_t first, int64_t last) {
    const ConvShape& conv = b_.conv;
    const int64_t from = first * b_.pool.stride[0] * conv.stride[0];
    const int64_t until = input_span(conv, b_.pool, 0, last);
    for_each_rows(image, group, from, until, [&](int64_t source, int64_t step, int64_t place, int64_t rows, int64_t columns) {
      MER_FAST_DISPATCH(
          transpose_block, Turn<Real>{b_.input + source, rows, columns, columns, step, input_ + place, b_.layout.step[2]});
    });
  }

  void unpack(int64_t image, int64_t group) {
    const ConvShape& conv = b_.conv;
    const int64_t count = conv.channels * conv.in[0] * conv.in[1] * conv.in[2], begin = (image * conv.groups + group) * count;
    const bool same = element_size(b_.type) == sizeof(Real);
    Real* target = same ? static_cast<Real*>(b_.grad_input) + begin : image_;
    std::fill_n(target, count, Real(0));
    for_each_rows(image, group, 0, b_.layout.extent[0], [&](int64_t element, int64_t step, int64_t place, int64_t rows, int64_t columns) {
      MER_FAST_DISPATCH(
          transpose_block, Turn<Real>{grad_input_ + place, columns, rows, rows, b_.layout.step[2], target + element - begin, step});
    });
    if constexpr (sizeof(Real) == 4) {
      if (!same) MER_FAST_DISPATCH(narrow, b_.type, target, static_cast<char*>(b_.grad_input) + begin * element_size(b_.type), count);
    }
  }

  Backward<Real>& b_;
  const Triple box_;
  Real *list_grad_, *input_, *grad_input_, *image_;  // in the thread's arena
  std::vector<int64_t> list_patch_;
};

template <typename Real>
void write(Element type, const std::vector<Real>& values, Tensor& target) {
  if (element_size(type) == sizeof(Real)) {
    std::copy(values.begin(), values.end(), static_cast<Real*>(target.mutable_data_ptr()));
  } else if constexpr (sizeof(Real) == 4) {
    MER_FAST_DISPATCH(narrow, type, values.data(), target.mutable_data_ptr(), static_cast<int64_t>(values.size()));
  }
}

template <typename Real>
void run(Backward<Real>& b, Tensor* grad_weight, Tensor* grad_bias) {
  const int64_t pieces = b.pieces, outputs = b.outputs(), taps = b.conv.taps();
  if (b.need_weight) b.partial.assign(static_cast<size_t>(pieces * outputs * b.patch()), Real(0));
  b.bias.assign(static_cast<size_t>(pieces * outputs), 0.0);
  torch::stable::parallel_for(0, pieces, 1, [&](int64_t first, int64_t last) {
    Worker<Real> worker(b);
    for (int64_t piece = first; piece < last; ++piece) worker.run(piece);
  });
  if (grad_weight) {
    std::vector<Real> sums(static_cast<size_t>(outputs * taps));
    torch::stable::parallel_for(0, outputs, 16, [&](int64_t first, int64_t last) {
      for (int64_t o = first; o < last; ++o) {
        for_each_tap(b, [&](int64_t tap, int64_t element) {
          double sum = 0;
          for (int64_t p = 0; p < pieces; ++p) sum += b.partial[static_cast<size_t>((p * outputs + o) * b.patch() + element)];
          sums[static_cast<size_t>(o * taps + tap)] = static_cast<Real>(sum);
        });
      }
    });
    write(b.type, sums, *grad_weight);
  }
  if (grad_bias) {
    std::vector<Real> sums(static_cast<size_t>(outputs));
    for (int64_t o = 0; o < outputs; ++o) {
      double sum = 0;
      for (int64_t p = 0; p < pieces; ++p) sum += b.bias[static_cast<size_t>(p * outputs + o)];
      sums[static_cast<size_t>(o)] = static_cast<Real>(sum);
    }
    write(b.type, sums, *grad_bias);
  }
}

std::tuple<Tensor, Tensor, Tensor> conv3d_pool_backward(
    const Tensor& grad_any, const Tensor& winners_any, const Tensor& input_any, const Tensor& weight,
    std::vector<int64_t> stride, std::vector<int64_t> padding, std::vector<int64_t> dilation, int64_t groups,
    std::vector<int64_t> pool_kernel, std::vector<int64_t> pool_stride, bool need_input, bool need_weight, bool need_bias) {
  const ConvShape conv = conv_shape(kOp, input_any, weight, stride, padding, dilation, groups);
  const PoolShape pool = pool_shape(kOp, conv, pool_kernel, pool_stride);
  check_same_shape(kOp, "grad", grad_any, "winners", winners_any);
  check_same_dtype(kOp, "grad", grad_any, "input", input_any);
  check_rank(kOp, "grad", grad_any, 5);
  const int64_t wanted[5] = {conv.batch, weight.size(0), pool.out[0], pool.out[1], pool.out[2]};
  for (int d = 0; d < 5; ++d) {
    MER_FAST_CHECK(grad_any.size(d) == wanted[d], kOp, ": grad must have the shape of the forward's output, got ", shape_text(grad_any));
  }
  MER_FAST_CHECK(winners_any.scalar_type() == ScalarType::Byte, kOp, ": winners must be uint8");
  const Tensor winners = contiguous(winners_any), input = contiguous(input_any);
  const std::vector<int64_t> none{0}, in{conv.batch, input.size(1), conv.in[0], conv.in[1], conv.in[2]},
      w{weight.size(0), conv.channels, conv.kernel[0], conv.kernel[1], conv.kernel[2]};
  Tensor grad_input = torch::stable::new_empty(input, need_input ? in : none);
  Tensor grad_weight = torch::stable::new_empty(input, need_weight ? w : none);
  Tensor grad_bias = torch::stable::new_empty(input, need_bias ? std::vector<int64_t>{weight.size(0)} : none);
  const Element type = element_of(kOp, "input", input);
  const auto go = [&]<typename Real>(Real) {
    const int64_t lanes = MER_FAST_DISPATCH(vector_lanes, sizeof(Real));
    const PatchLayout layout = layout_for(conv, pool, lanes);
    const AsReal<Real> grads(kOp, "grad", grad_any), inputs(kOp, "input", input);
    // The pieces of an image share its input's gradient, so there is but one where that is needed.
    const int64_t wanted_splits = (kPieces + conv.batch - 1) / std::max<int64_t>(conv.batch, 1);
    const int64_t splits = need_input ? 1 : std::clamp<int64_t>(wanted_splits, 1, std::max<int64_t>(pool.out[0], 1));
    const int64_t pieces = splits > 1 ? conv.batch * splits : std::min(conv.batch, kPieces);
    Backward<Real> b{conv, pool, layout, type, grads.data(), inputs.data(),
                     static_cast<const uint8_t*>(winners.const_data_ptr()),
                     need_input && grad_input.numel() > 0 ? grad_input.mutable_data_ptr() : nullptr, need_weight, lanes, splits,
                     pieces, {}, {}, {}};
    if (b.grad_input) {
      const AsReal<Real> plain(kOp, "weight", weight);
      b.weight.assign(static_cast<size_t>(b.outputs() * b.patch()), Real(0));
      for (int64_t o = 0; o < b.outputs(); ++o) {
        for_each_tap(b, [&](int64_t tap, int64_t element) {
          b.weight[static_cast<size_t>(o * b.patch() + element)] = plain.data()[o * conv.taps() + tap];
        });
      }
    }
    run(b, need_weight ? &grad_weight : nullptr, need_bias ? &grad_bias : nullptr);
  };
  if (type == Element::f64) {
    go(double{});
  } else {
    go(float{});
  }
  return {grad_input, grad_weight, grad_bias};
}

}  // namespace
}  // namespace mer_fast

STABLE_TORCH_LIBRARY_IMPL(mer_fast, CPU, m) {
  m.impl("conv3d_pool_backward", TORCH_BOX(&mer_fast::conv3d_pool_backward));
}
