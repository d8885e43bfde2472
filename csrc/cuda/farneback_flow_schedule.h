// The launches of Farneback's flow, one after another: what csrc/cuda/farneback_flow.cu gives a GPU, and the tests the CUDA
// stand-in. For any batch they are 2 + iterations a level, and 1 more for an initial flow.
#pragma once

#include <algorithm>

#include "../farneback_plan.h"
#include "farneback_flow.cuh"

namespace mer_fast {

constexpr int64_t kFarnebackMostSide = 32767;  // positions between pixels are products of two sides in 32 bits

struct FarnebackLimits {
  int shared_bytes;   // of a block at most
  Index blocks;       // that fill a GPU: pairs are cut into more tiles until there are as many
};

template <typename Element>
struct FarnebackProblem {
  FarnebackPlan plan;
  Index pairs;
  FarnebackLimits limits;
  const Element *frame0, *frame1;  // (pairs, height, width)
  const float* initial_flow;       // (pairs, 2, height, width), or null
  float* flow;                     // (pairs, 2, height, width)

  int height(size_t s) const { return static_cast<int>(plan.scales[s].height); }
  int width(size_t s) const { return static_cast<int>(plan.scales[s].width); }
  Index pixels(size_t s) const { return static_cast<Index>(height(s)) * width(s); }
};

// As few tiles across as shared memory allows, first with two blocks to a processor; where even narrow ones do not fit, wide
// ones off chip. More tiles down where the batch is small: each costs the window's side in rows made twice.
inline FarnebackTiles farneback_tiles(FarnebackStep step, bool gaussian, const FarnebackLimits& limits) {
  const auto cut = [&](int columns) {
    FarnebackTiles& t = step.tiles;
    t.across = static_cast<int>(divide_up(step.width, columns));
    t.columns = static_cast<int>(divide_up(step.width, t.across));
    t.matrix_columns = std::min(step.width, t.columns + 2 * step.window.radius);
    return 4 * step.memory_floats(gaussian);
  };
  const auto fits = [&](int bytes) { return cut(128) <= bytes || cut(64) <= bytes || cut(32) <= bytes; };
  if (!fits(limits.shared_bytes / 2) && !fits(limits.shared_bytes)) cut(128);
  const Index wanted = divide_up(limits.blocks, step.pairs * step.tiles.across);
  const Index most = std::max<Index>(1, step.height / step.window.side());
  step.tiles.rows = static_cast<int>(divide_up(step.height, std::min(wanted, most)));
  step.tiles.down = static_cast<int>(divide_up(step.height, step.tiles.rows));
  return step.tiles;
}

// As in the CPU kernel: pieces of about the side's root.
inline FarnebackWindow farneback_window(const FarnebackPlan& plan) {
  FarnebackWindow window{
      static_cast<int>(plan.window.radius), 1, 1, 0, plan.regularizer, static_cast<float>(plan.window.decay()),
      static_cast<float>(plan.window.middle())};
  int least = window.side();
  for (int piece = 1; piece * piece <= 2 * window.side(); ++piece) {
    const int pieces = window.side() / piece, rest = window.side() % piece;
    if (piece > 1 && piece + pieces + rest >= least) continue;
    least = piece + pieces + rest;
    window.piece = piece, window.pieces = pieces, window.rest = rest;
  }
  return window;
}

// Launcher: launch<kernel>(blocks, threads, bytes of shared memory, blocks of a cluster, arguments...), and zero(pointer,
// count). Memory: take<T>(name, count).
template <typename Element, typename Launcher>
class FarnebackSchedule {
 public:
  template <typename Memory>
  FarnebackSchedule(const FarnebackProblem<Element>& problem, Launcher& launcher, Memory& memory) : p_(problem), launcher_(launcher) {
    const Index frames = 2 * p_.pairs, pixels = p_.pixels(0);
    bad_ = memory.template take<unsigned>("bad", p_.pairs);
    images_ = memory.template take<float>("images", frames * pixels);
    quads_ = memory.template take<float4>("quads", frames * pixels);
    twists_ = memory.template take<float>("twists", frames * pixels);
    for (float*& flow : flows_) flow = memory.template take<float>("flows", frames * pixels);
    Index off_chip = 0;
    for (size_t s = 0; s < p_.plan.scales.size(); ++s) {
      const FarnebackStep step = this->step(s);
      if (!on_chip(step)) off_chip = std::max(off_chip, step_blocks(step) * step.memory_floats(gaussian()));
    }
    off_chip_ = memory.template take<float>("off chip", off_chip);
  }

  void run() {
    launcher_.zero(bad_, p_.pairs);
    const size_t coarsest = p_.plan.scales.size() - 1;
    FarnebackFrom from{nullptr, p_.height(coarsest), p_.width(coarsest), 1.0f};
    if (p_.initial_flow) from.flow = start(coarsest);
    for (size_t s = p_.plan.scales.size(); s-- > 0;) {
      make_images(s);
      expand(s);
      for (int64_t k = 0; k < p_.plan.params.iterations; ++k) iterate(s, k + 1 == p_.plan.params.iterations, from);
      from.growth = p_.plan.growth;  // on the way to the next level, even one of the same size
    }
  }

 private:
  bool gaussian() const { return p_.plan.params.gaussian; }
  bool on_chip(const FarnebackStep& step) const { return 4 * step.memory_floats(gaussian()) <= p_.limits.shared_bytes; }

  // Off chip a block takes one tile after the other, in memory that does not grow with their number.
  Index step_blocks(const FarnebackStep& step) const {
    return on_chip(step) ? step.tile_count() : std::min(step.tile_count(), p_.limits.blocks);
  }

  float* start(size_t s) {
    const FarnebackStart start{p_.pairs, p_.height(0), p_.width(0), p_.height(s), p_.width(s), p_.plan.initial_scale};
    launcher_.template launch<farneback_start>(
        divide_up(start.values(), kFarnebackThreads), kFarnebackThreads, 0, 1, p_.initial_flow, flows_[0], bad_, start);
    turn_ = 1;
    return flows_[0];
  }

  // A tile of 64 x 8 pixels of the level; smaller where it needs more of the full size than shared memory holds everywhere.
  FarnebackImage image(size_t s) const {
    const FarnebackGaussian& blur = p_.plan.scales[s].blur;
    FarnebackImage image{p_.pairs, p_.height(0), p_.width(0), p_.height(s), p_.width(s), static_cast<int>(blur.radius),
                         static_cast<float>(blur.decay()), static_cast<float>(blur.middle()), 8, 64, 0};
    const auto fits = [&] {
      const Index reach = divide_up(static_cast<Index>(image.columns) * image.full_width, image.width);
      image.span = static_cast<int>(std::min<Index>(reach, image.full_width) + 2 * image.radius + 3);
      return 4 * image.shared_floats() <= 48 * 1024;
    };
    while (!fits() && image.rows > 1) image.rows /= 2;
    while (!fits() && image.columns > 1) image.columns /= 2;
    return image;
  }

  void make_images(size_t s) {
    const FarnebackImage image = this->image(s);
    launcher_.template launch<farneback_image<Element>>(
        image.blocks(), kFarnebackThreads, 4 * image.shared_floats(), 1, p_.frame0, p_.frame1, images_, s == 0 ? bad_ : nullptr, image);
  }

  void expand(size_t s) {
    FarnebackFilters filters{};
    filters.radius = static_cast<int>(p_.plan.params.poly_n);
    std::copy(p_.plan.smooth.begin(), p_.plan.smooth.end(), filters.smooth);
    std::copy(p_.plan.slope.begin(), p_.plan.slope.end(), filters.slope);
    std::copy(p_.plan.curve.begin(), p_.plan.curve.end(), filters.curve);
    const Index blocks = farneback_expand_blocks(2 * p_.pairs, p_.height(s), p_.width(s));
    const int shared = 4 * farneback_expand_floats(filters.radius);
    if (filters.radius == 5) {
      launcher_.template launch<farneback_expand<5>>(
          blocks, kFarnebackThreads, shared, 1, images_, quads_, twists_, p_.height(s), p_.width(s), filters);
    } else {
      launcher_.template launch<farneback_expand<0>>(
          blocks, kFarnebackThreads, shared, 1, images_, quads_, twists_, p_.height(s), p_.width(s), filters);
    }
  }

  FarnebackStep step(size_t s) const {
    FarnebackStep step{p_.pairs, p_.height(s), p_.width(s), farneback_window(p_.plan), {}, quads_, twists_, {}, nullptr, nullptr, nullptr};
    step.tiles = farneback_tiles(step, gaussian(), p_.limits);
    return step;
  }

  // Moves `from` on to the flow that it makes.
  void iterate(size_t s, bool last, FarnebackFrom& from) {
    FarnebackStep step = this->step(s);
    const bool finest = last && s == 0;
    step.from = from;
    step.flow = finest ? p_.flow : flows_[turn_];
    step.bad = finest ? bad_ : nullptr;
    step.memory = off_chip_;
    const int threads = std::min(kFarnebackThreads, (step.tiles.matrix_columns + 31) / 32 * 32);
    const int shared = on_chip(step) ? static_cast<int>(4 * step.memory_floats(gaussian())) : 0;
    const Index blocks = step_blocks(step);
    if (gaussian()) {
      shared ? launcher_.template launch<farneback_iterate<true, true>>(blocks, threads, shared, 1, step)
             : launcher_.template launch<farneback_iterate<true, false>>(blocks, threads, 0, 1, step);
    } else {
      shared ? launcher_.template launch<farneback_iterate<false, true>>(blocks, threads, shared, 1, step)
             : launcher_.template launch<farneback_iterate<false, false>>(blocks, threads, 0, 1, step);
    }
    from = {step.flow, step.height, step.width, 1.0f};
    turn_ ^= 1;
  }

  const FarnebackProblem<Element>& p_;
  Launcher& launcher_;
  unsigned* bad_;
  float *images_, *twists_, *flows_[2], *off_chip_;
  float4* quads_;
  int turn_ = 0;
};

}  // namespace mer_fast
