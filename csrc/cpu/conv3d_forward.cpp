#include "conv3d_forward.h"

#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <cmath>

#include "arena.h"
#include "conv3d_plan.h"
#include "conv3d_pointwise.h"

namespace mer_fast {
namespace {

// Weights as the kernels read them, for every group and block: [tap][block], or [point][tap][block]; `each` elements a block.
template <typename Real>
const Real* packed_weight(const ConvShape& conv, const Plan& plan, int64_t each, const Real* weight) {
  const int64_t area = conv.kernel[1] * conv.kernel[2], deep = conv.channels * conv.kernel[0];
  const int64_t all = conv.groups * plan.blocks * each, plain = conv.taps() * plan.block;
  Arena& arena = shared_arena();
  arena.reserve<Real>({all, plain});
  Real *packed = arena.take<Real>(all), *square = arena.take<Real>(plain);
  for (int64_t i = 0; i < conv.groups * plan.blocks; ++i) {
    const int64_t b = i % plan.blocks, first = b * plan.block, width = plan.block_of(b), many = std::min(width, conv.outputs - first);
    Real* out = plan.winograd ? square : packed + i * each;
    if (many < width) std::fill_n(out, conv.taps() * width, Real(0));
    for (int64_t o = 0; o < many; ++o) {
      const Real* from = weight + (i / plan.blocks * conv.outputs + first + o) * conv.taps();
      for (int64_t k = 0; k < deep; ++k) {
        for (int64_t s = 0; s < area; ++s) {
          const int64_t tap = plan.winograd ? s * deep + k : k * area + s;
          out[tap * width + o] = from[k * area + s];
        }
      }
    }
    if (plan.winograd) MER_FAST_DISPATCH(winograd_weight, plan.winograd, out, packed + i * each, deep, width);
  }
  return packed;
}

template <typename Real>
std::vector<int64_t> tap_offsets(const ConvShape& conv, const Plan& plan) {
  std::vector<int64_t> taps;
  const PackedShape& p = plan.packed;
  for (int64_t c = 0; c < conv.channels; ++c) {
    for (int64_t t = 0; t < conv.kernel[0]; ++t) {
      if (plan.winograd) {
        taps.push_back((c * p.frames + plan.place_of_frame(t * conv.dilation[0])) * plan.tiles_frame());
        continue;
      }
      for (int64_t h = 0; h < conv.kernel[1]; ++h) {
        for (int64_t w = 0; w < conv.kernel[2]; ++w) {
          const int64_t column = w * conv.dilation[2];
          taps.push_back(
              c * p.channel() + t * conv.dilation[0] * p.frame() + h * conv.dilation[1] * p.row() +
              column % p.phases * p.width + column / p.phases);
        }
      }
    }
  }
  return taps;
}

template <typename Real>
struct Prepared {
  Plan plan;
  const Real* given;   // the weights as they came
  int64_t each;        // elements of a block's, as the kernels read them
  const Real* weight;  // in the calling thread's memory
  std::vector<int64_t> taps;
  Prepared(const ConvCall& call, const Real* given, int winograd)
      : plan(best_plan<Real>(call, winograd)), given(given), each(plan.weights / static_cast<int64_t>(sizeof(Real))),
        weight(packed_weight(call.conv, plan, each, given)), taps(tap_offsets<Real>(call.conv, plan)) {}
};

// What one thread works with; made once for all the tasks it takes.
template <typename Real>
class Worker {
 public:
  Worker(const ConvCall& call, const Prepared<Real>& prepared, const Real* bias)
      : call_(call), plan_(prepared.plan), prepared_(prepared), bias_(bias), packer_(call.conv, call.type, call.input) {
    const bool winograd = plan_.winograd != 0;
    const int64_t most = plan_.rows * call.pool.out[2] * plan_.block;
    const int64_t packed = plan_.packed.size(), ring = plan_.ring * plan_.frame_size(plan_.block);
    const int64_t tiles = winograd ? points() * point_step() + 64 : 0;
    const int64_t products = winograd ? points() * plan_.tiles_at_once * plan_.block : 0;
    const int64_t scratch = winograd ? winograd_scratch(plan_.winograd, plan_.packed.width) : 0;
    Arena& arena = worker_arena();
    arena.reserve<Real>({packed, ring, plan_.block, tiles, products, scratch, most, most, most});
    packed_ = arena.take<Real>(packed);
    ring_ = arena.take<Real>(ring);
    block_bias_ = arena.take<Real>(plan_.block);
    tiles_ = arena.take<Real>(tiles);
    products_ = arena.take<Real>(products);
    scratch_ = arena.take<Real>(scratch);
    values_ = arena.take<Real>(most);
    winners_ = arena.take<Real>(most);
    turned_ = arena.take<Real>(most);
    std::fill_n(block_bias_, plan_.block, Real(0));
  }

  // One piece of the output. False if a value was not finite and Winograd would hide where it came from.
  bool run(int64_t task) {
    const int64_t h = task % plan_.tasks_h * plan_.rows, t = task / plan_.tasks_h % plan_.tasks_t * plan_.frames;
    const int64_t image_group = task / plan_.tasks_h / plan_.tasks_t;
    const PoolShape& pool = call_.pool;
    if (plan_.packed.image) {
      const int64_t corner = t * pool.stride[0] * call_.conv.stride[0] * plan_.packed.frame() +
          h * pool.stride[1] * call_.conv.stride[1] * plan_.packed.row();
      input_ = static_cast<const Real*>(call_.input) + image_group * plan_.packed.channels * plan_.packed.channel() + corner;
    } else {
      packer_.pack(image_group / call_.conv.groups, image_group % call_.conv.groups, t * pool.stride[0], h * pool.stride[1],
                   plan_.packed, packed_);
      input_ = packed_;
    }
    if (plan_.winograd) transform();
    bool finite = true;
    for (int64_t b = 0; b < plan_.blocks && (finite || !plan_.winograd); ++b) {
      finite &= run_block(image_group, b, t, h, std::min(plan_.frames, pool.out[0] - t), std::min(plan_.rows, pool.out[1] - h));
    }
    return finite;
  }

 private:
  int64_t width() const { return plan_.block_of(block_); }
  int64_t frame_size() const { return plan_.frame_size(width()); }
  int64_t points() const { return winograd_points(plan_.winograd); }
  int64_t point_step() const { return plan_.packed.channels * plan_.packed.frames * plan_.tiles_frame() + kTilePad; }

  void transform() {
    for (int64_t p = 0; p < points(); ++p) std::fill_n(tiles_ + (p + 1) * point_step() - kTilePad, kTilePad, Real(0));
    for (int64_t c = 0; c < plan_.packed.channels; ++c) {
      // In the order of their places: each may write a little past its end.
      for (int64_t i = 0, t = 0, residue = 0; i < plan_.packed.frames; ++i, t += plan_.stride_t) {
        if (t >= plan_.packed.frames) t = ++residue;
        const int64_t place = (c * plan_.packed.frames + plan_.place_of_frame(t)) * plan_.tiles_frame();
        MER_FAST_DISPATCH(
            winograd_input, plan_.winograd,
            WinogradInput<Real>{packed_ + c * plan_.packed.channel() + t * plan_.packed.frame(), plan_.packed.width,
                                tiles_ + place, point_step(), plan_.tile_rows(), plan_.tiles_wide(), scratch_});
      }
    }
  }

  // Frames t, t + 1, ... of the convolution (of this task) for one block of channels.
  void convolve_frames(int64_t t, int64_t frames, const Real* weight, Real* out) {
    const int64_t taps = static_cast<int64_t>(prepared_.taps.size()), frame_step = call_.conv.stride[0] * plan_.packed.frame();
    if (plan_.winograd) {
      MER_FAST_DISPATCH(
          winograd_frames, plan_.winograd,
          WinogradFrames<Real>{tiles_ + t * plan_.tiles_frame(), point_step(), prepared_.taps.data(), taps, weight,
                               plan_.tiles_at_once, products_, out, frames, plan_.tile_rows(), plan_.tiles_wide()},
          plan_.vectors_of(block_));
    } else {
      MER_FAST_DISPATCH(
          conv_frames,
          ConvFrames<Real>{input_ + t * frame_step, prepared_.taps.data(), taps, frame_step,
                           call_.conv.stride[1] * plan_.packed.row(),
                           plan_.positions == 1 ? 1 : call_.conv.stride[2] / plan_.packed.phases, weight, out, frames,
                           plan_.conv_rows, plan_.positions},
          plan_.vectors_of(block_));
    }
  }

  // Computes the frames up to `last` that are missing; frame k stays at place k % ring.
  void complete(int64_t last, const Real* weight) {
    while (computed_ <= last) {
      const int64_t place = computed_ % plan_.ring, many = std::min(last + 1 - computed_, plan_.ring - place);
      convolve_frames(computed_, many, weight, ring_ + place * frame_size());
      computed_ += many;
    }
  }

  bool run_block(int64_t image_group, int64_t b, int64_t first_t, int64_t first_h, int64_t frames, int64_t rows) {
    const PoolShape& pool = call_.pool;
    block_ = b;
    group_ = image_group % call_.conv.groups;
    const int64_t first = b * plan_.block;
    const int64_t channels = std::min(width(), call_.conv.outputs - first);
    const Real* weight = prepared_.weight + (group_ * plan_.blocks + b) * prepared_.each;
    std::copy_n(bias_ + group_ * call_.conv.outputs + first, channels, block_bias_);
    bool finite = true;
    computed_ = 0;
    for (int64_t t = 0; t < frames; ++t) {
      const int64_t begin = t * pool.stride[0], together = std::min(frames, t - t % plan_.pooled_at_once + plan_.pooled_at_once);
      computed_ = std::max(computed_, begin);  // frames between windows are skipped
      first_frame_ = begin;
      complete((together - 1) * pool.stride[0] + pool.kernel[0] - 1, weight);
      window_.clear();
      for (int64_t k = begin; k < begin + pool.kernel[0]; ++k) window_.push_back(ring_ + k % plan_.ring * frame_size());
      const int64_t channel = image_group * call_.conv.outputs + first;
      const int64_t out = ((channel * pool.out[0] + first_t + t) * pool.out[1] + first_h) * pool.out[2];
      finite &= call_.pooled ? pool_frame(rows, channels, out) : finish_frame(rows, channels, out);
    }
    return finite;
  }

  bool pool_frame(int64_t rows, int64_t channels, int64_t out) {
    const PoolShape& pool = call_.pool;
    CloseCalls close;
    const bool finite = MER_FAST_DISPATCH(
        pool_rows,
        PoolRows<Real>{window_.data(), plan_.frame_width() * width(), {pool.kernel[0], pool.kernel[1], pool.kernel[2]},
                       pool.stride[1], pool.stride[2], rows, pool.out[2], block_bias_, call_.activation, values_,
                       call_.winners ? winners_ : nullptr, plan_.winograd && call_.activation != Activation::gelu ? &close : nullptr},
        plan_.vectors_of(block_));
    for (int i = 0; i < close.count && finite; ++i) decide(close.index[i]);
    const int64_t count = rows * pool.out[2];
    write(values_, count, channels, out, false);
    if (call_.winners) write_winners(count, channels, out);
    return finite;
  }

  // The winner of a window whose largest values Winograd cannot tell apart: by the formula, in double.
  void decide(int64_t index) {
    const PoolShape& pool = call_.pool;
    const int64_t lane = index % width(), window = index / width(), first = block_ * plan_.block;
    if (lane >= call_.conv.outputs - first || winners_[index] == kNobody) return;
    const int64_t h0 = window / pool.out[2] * pool.stride[1], w0 = window % pool.out[2] * pool.stride[2];
    const auto value = [&](int64_t t, int64_t h, int64_t w) {
      return window_[static_cast<size_t>(t)][((h0 + h) * plan_.frame_width() + w0 + w) * width() + lane];
    };
    double largest = -INFINITY, squares = 0, exact = -INFINITY;
    const auto each_place = [&](const auto& visit) {
      for (int64_t p = 0; p < pool.places(); ++p) {
        visit(p, p / (pool.kernel[1] * pool.kernel[2]), p / pool.kernel[2] % pool.kernel[1], p % pool.kernel[2]);
      }
    };
    each_place([&](int64_t, int64_t t, int64_t h, int64_t w) {
      const double v = value(t, h, w);
      largest = std::max(largest, v);
      squares += v * v;
    });
    const double nearly = largest - 2 * CloseCalls::kTolerance * std::sqrt(squares / static_cast<double>(pool.places()));
    each_place([&](int64_t place, int64_t t, int64_t h, int64_t w) {
      if (value(t, h, w) < nearly) return;
      const double sum = by_the_formula(group_ * call_.conv.outputs + first + lane, first_frame_ + t, h0 + h, w0 + w);
      if (sum > exact) {
        exact = sum;
        winners_[index] = static_cast<Real>(place);
      }
    });
  }

  // The convolution of this task at one position, from the packed input.
  double by_the_formula(int64_t output, int64_t t, int64_t h, int64_t w) const {
    const ConvShape& conv = call_.conv;
    const PackedShape& p = plan_.packed;
    const Real* weight = prepared_.given + output * conv.taps();
    double sum = 0;
    for (int64_t c = 0; c < conv.channels; ++c) {
      for (int64_t kt = 0; kt < conv.kernel[0]; ++kt) {
        const Real* frame = packed_ + c * p.channel() + (t * conv.stride[0] + kt * conv.dilation[0]) * p.frame();
        for (int64_t kh = 0; kh < conv.kernel[1]; ++kh) {
          for (int64_t kw = 0; kw < conv.kernel[2]; ++kw) {
            const int64_t column = w + kw;
            sum += static_cast<double>(*weight++) * frame[(h + kh) * p.row() + column % p.phases * p.width + column / p.phases];
          }
        }
      }
    }
    return sum;
  }

  bool finish_frame(int64_t rows, int64_t channels, int64_t out) {
    bool finite = true;
    const int64_t columns = call_.pool.out[2], row = plan_.frame_width() * width();
    const bool whole = plan_.frame_width() == columns;  // rows lie end to end
    for (int64_t h = 0; h < (whole ? 1 : rows); ++h) {
      finite &= write(window_[0] + h * row, whole ? rows * columns : columns, channels, out + h * columns, true);
    }
    return finite;
  }

  int64_t channel_step() const { return call_.pool.out[0] * call_.pool.out[1] * call_.pool.out[2]; }

  // values[count][block] to the output, with bias and activation where they are the convolution's own.
  bool write(const Real* values, int64_t count, int64_t channels, int64_t out, bool finish) {
    const bool same = element_size(call_.type) == sizeof(Real);
    Turn<Real> turn{values, count, channels, width(), width(), same ? static_cast<Real*>(call_.output) + out : turned_,
                    same ? channel_step() : count};
    bool finite = true;
    if (finish) {
      const Epilogue<Real> epilogue{block_bias_, call_.activation};
      finite = MER_FAST_DISPATCH(finish_block, turn, epilogue);
    } else {
      MER_FAST_DISPATCH(transpose_block, turn);
    }
    if constexpr (sizeof(Real) == 4) {
      for (int64_t c = 0; c < (same ? 0 : channels); ++c) {
        char* target = static_cast<char*>(call_.output) + (out + c * channel_step()) * element_size(call_.type);
        MER_FAST_DISPATCH(narrow, call_.type, turned_ + c * count, target, count);
      }
    }
    return finite;
  }

  void write_winners(int64_t count, int64_t channels, int64_t out) {
    MER_FAST_DISPATCH(transpose_block, Turn<Real>{winners_, count, channels, width(), width(), turned_, count});
    for (int64_t c = 0; c < channels; ++c) {
      uint8_t* target = call_.winners + out + c * channel_step();
      for (int64_t i = 0; i < count; ++i) target[i] = static_cast<uint8_t>(turned_[c * count + i]);
    }
  }

  const ConvCall& call_;
  const Plan& plan_;
  const Prepared<Real>& prepared_;
  const Real* bias_;
  Packer<Real> packer_;
  Real *packed_, *ring_, *block_bias_, *tiles_, *products_, *scratch_, *values_, *winners_, *turned_;  // in the thread's arena
  const Real* input_ = nullptr;  // the task's, packed or in place
  std::vector<const Real*> window_;
  int64_t group_ = 0, block_ = 0;  // the block at hand
  int64_t first_frame_ = 0;        // of the window at hand, in this task
  int64_t computed_ = 0;  // and its frames so far
};

// False if Winograd met a value that was not finite.
template <typename Real>
bool run_tasks(const ConvCall& call, const Real* weight, const Real* bias, int winograd) {
  const Prepared<Real> prepared(call, weight, winograd);
  const int64_t tasks = call.conv.batch * call.conv.groups * prepared.plan.tasks_t * prepared.plan.tasks_h;
  std::atomic<bool> finite{true};
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t first, int64_t last) {
    Worker<Real> worker(call, prepared, bias);
    for (int64_t task = first; task < last && finite; ++task) {
      if (!worker.run(task) && winograd) finite = false;
    }
  });
  return finite;
}

template <typename Real>
void convolve_as(const ConvCall& call, const char* op, const Tensor& weight, const std::optional<Tensor>& bias) {
  const AsReal<Real> weights(op, "weight", weight);
  std::vector<Real> biases(static_cast<size_t>(call.conv.groups * call.conv.outputs), Real(0));
  if (bias) {
    const AsReal<Real> given(op, "bias", *bias);
    std::copy_n(given.data(), biases.size(), biases.data());
  }
  if (suits_pointwise(call)) return convolve_pointwise(call, weights.data(), biases.data());
  // Infinity and NaN would spread over Winograd's tiles: where there are any, everything is computed by the formula.
  const int tile = winograd_tile(call);
  if (tile && run_tasks(call, weights.data(), biases.data(), tile)) return;
  run_tasks(call, weights.data(), biases.data(), 0);
}

}  // namespace

void convolve(const ConvCall& call, const char* op, const Tensor& weight, const std::optional<Tensor>& bias) {
  if (call.type == Element::f64) {
    convolve_as<double>(call, op, weight, bias);
  } else {
    convolve_as<float>(call, op, weight, bias);
  }
}

}  // namespace mer_fast
