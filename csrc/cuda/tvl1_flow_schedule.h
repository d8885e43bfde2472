// The launches of TV-L1 flow, one after another: what csrc/cuda/tvl1_flow.cu gives a GPU, and the tests the CUDA stand-in.
// None of them depends on the number of pairs: 1 for the frames, 1 a further level of the pyramid, then a level's own: 1
// where it is resident, else (2 + ceil(inner / kTvl1Steps) * outer) a warp. An initial flow takes 1 a level more.
#pragma once

#include <algorithm>
#include <vector>

#include "../tvl1_pyramid.h"
#include "tvl1_flow.cuh"

namespace mer_fast {

// What a GPU grants a level.
struct Tvl1Limits {
  int blocks, shared_bytes;
};

template <typename Element>
struct Tvl1Problem {
  Tvl1Params params;
  double scale_step;
  Index pairs;
  std::vector<Tvl1Size> sizes;
  std::vector<Tvl1Limits> limits;  // a level
  const Element *frame0, *frame1;  // (pairs, height, width)
  const float* initial_flow;       // (pairs, 2, height, width), or null
  float* flow;                     // (pairs, 2, height, width)

  Tvl1Fit fit(size_t s) const {
    return tvl1_fit(static_cast<int>(sizes[s].height), static_cast<int>(sizes[s].width), limits[s].blocks, limits[s].shared_bytes);
  }
  Index tiles(size_t s) const { return divide_up(sizes[s].height, kTvl1CoreRows) * divide_up(sizes[s].width, kTvl1CoreColumns); }
};

// Launches of a warp of a tiled level, but for two.
inline int64_t tvl1_turns(const Tvl1Params& p) {
  return (static_cast<int64_t>(p.inner_iterations) + kTvl1Steps - 1) / kTvl1Steps * p.outer_iterations;
}
constexpr int64_t kTvl1MostTurns = 1 << 20;  // more would never end

// Launcher: launch<kernel>(blocks, threads, bytes of shared memory, blocks of a cluster, arguments...), and zero(pointer,
// count). Memory: take<T>(name, count).
template <typename Element, typename Launcher>
class Tvl1Schedule {
 public:
  template <typename Memory>
  Tvl1Schedule(const Tvl1Problem<Element>& problem, Launcher& launcher, Memory& memory) : p_(problem), launcher_(launcher) {
    Index largest = 0, most_tiles = 0;
    bad_ = memory.template take<unsigned>("bad", p_.pairs);
    for (size_t s = 0; s < p_.sizes.size(); ++s) {
      const Index pixels = 2 * p_.pairs * p_.sizes[s].pixels();
      images_.push_back(memory.template take<float>("images", pixels));
      flows_.push_back(s == 0 ? p_.flow : memory.template take<float>("flow", pixels));
      starts_.push_back(s > 0 && p_.initial_flow ? memory.template take<float>("start", pixels) : nullptr);
      if (p_.fit(s).blocks == 0) {
        largest = std::max<Index>(largest, p_.sizes[s].pixels());
        most_tiles = std::max<Index>(most_tiles, p_.tiles(s));
      }
    }
    tiles_.fixed = memory.template take<Tvl1Fixed>("fixed", p_.pairs * largest);
    tiles_.state0 = memory.template take<Tvl1State>("state0", p_.pairs * largest);
    tiles_.state1 = memory.template take<Tvl1State>("state1", p_.pairs * largest);
    tiles_.errors0 = memory.template take<float>("errors0", p_.pairs * kTvl1Steps * most_tiles);
    tiles_.errors1 = memory.template take<float>("errors1", p_.pairs * kTvl1Steps * most_tiles);
    tiles_.progress0 = memory.template take<Tvl1Progress>("progress0", p_.pairs);
    tiles_.progress1 = memory.template take<Tvl1Progress>("progress1", p_.pairs);
  }

  void run() {
    build_pyramid();
    for (size_t s = p_.sizes.size(); s-- > 0;) {
      const Tvl1Level level = this->level(s);
      const Tvl1Fit fit = p_.fit(s);
      if (fit.blocks == 0) {
        run_tiled(level, s);
      } else {
        switch (fit.depth) {
          case 8: solve<8>(level, fit); break;
          case 16: solve<16>(level, fit); break;
          default: solve<24>(level, fit); break;
        }
      }
    }
  }

 private:
  // OpenCV steps by exactly 1 / scale_step on the way down, by the ratio of the sizes on the way up.
  Tvl1Resize resize(size_t from, size_t to, float factor) const {
    const Tvl1Size in = p_.sizes[from], out = p_.sizes[to];
    const bool up = to < from, same = in.height == out.height && in.width == out.width;  // then OpenCV copies
    const double scale_y = same ? 1.0 : up ? static_cast<double>(in.height) / static_cast<double>(out.height) : 1.0 / p_.scale_step;
    const double scale_x = same ? 1.0 : up ? static_cast<double>(in.width) / static_cast<double>(out.width) : 1.0 / p_.scale_step;
    return {static_cast<int>(in.height), static_cast<int>(in.width), static_cast<int>(out.height), static_cast<int>(out.width),
            scale_y, scale_x, factor};
  }

  static Index pixel_blocks(Index pixels) { return divide_up(pixels, kTvl1Threads); }

  void shrink(const float* from, float* to, size_t s, float factor) {
    const Index planes = 2 * p_.pairs;
    launcher_.template launch<tvl1_resize>(
        pixel_blocks(planes * p_.sizes[s].pixels()), kTvl1Threads, 0, 1, from, to, planes, resize(s - 1, s, factor));
  }

  void build_pyramid() {
    const Index pixels = p_.sizes[0].pixels(), blocks = pixel_blocks(2 * p_.pairs * pixels);
    launcher_.zero(bad_, p_.pairs);
    launcher_.template launch<tvl1_load<Element>>(blocks, kTvl1Threads, 0, 1, p_.frame0, p_.frame1, images_[0], bad_, p_.pairs, pixels);
    if (p_.initial_flow) launcher_.template launch<tvl1_check>(blocks, kTvl1Threads, 0, 1, p_.initial_flow, bad_, p_.pairs, pixels);
    for (size_t s = 1; s < p_.sizes.size(); ++s) {
      shrink(images_[s - 1], images_[s], s, 1.0f);
      if (p_.initial_flow) shrink(s == 1 ? p_.initial_flow : starts_[s - 1], starts_[s], s, p_.params.scale_step);
    }
  }

  Tvl1Level level(size_t s) const {
    const bool coarsest = s + 1 == p_.sizes.size();
    const float scale = p_.params.tau / p_.params.theta;
    Tvl1Start start{nullptr, {}};
    if (!coarsest) {
      start = {flows_[s + 1], resize(s + 1, s, 1.0f / p_.params.scale_step)};
    } else if (p_.initial_flow) {
      start = {s == 0 ? p_.initial_flow : starts_[s], resize(s, s, scale)};
    }
    return {p_.pairs, static_cast<int>(p_.sizes[s].height), static_cast<int>(p_.sizes[s].width), images_[s], start, flows_[s], s == 0 ? 1.0f / scale : 1.0f,
            s == 0 ? bad_ : nullptr};
  }

  template <int kRows>
  void solve(const Tvl1Level& level, const Tvl1Fit& fit) {
    launcher_.template launch<tvl1_solve<kRows>>(
        p_.pairs * fit.blocks, fit.grid.threads(), fit.shared_bytes(), fit.blocks, level, p_.params, fit.grid);
  }

  void run_tiled(const Tvl1Level& level, size_t s) {
    Tvl1Tiles tiles = tiles_;
    tiles.down = static_cast<int>(divide_up(level.height, kTvl1CoreRows));
    tiles.across = static_cast<int>(divide_up(level.width, kTvl1CoreColumns));
    constexpr Tvl1Grid grid = tvl1_tile_grid();
    constexpr int kShared = 4 * tvl1_shared_floats(grid, grid.depth(), kTvl1Steps);
    const int turns = static_cast<int>(tvl1_turns(p_.params));
    int slot = 0;
    for (int warp = 0; warp < p_.params.warps; ++warp, slot = 1 - slot) {
      launcher_.template launch<tvl1_warp>(
          p_.pairs * pixel_blocks(p_.sizes[s].pixels()), kTvl1Threads, 0, 1, level, p_.params, tiles, slot, warp == 0);
      for (int turn = 0; turn <= turns; ++turn) {
        slot = 1 - slot;
        launcher_.template launch<tvl1_iterate>(
            p_.pairs * tiles.down * tiles.across, grid.threads(), kShared, 1, level, p_.params, tiles, slot, turn,
            turn == turns && warp + 1 == p_.params.warps);
      }
    }
  }

  const Tvl1Problem<Element>& p_;
  Launcher& launcher_;
  unsigned* bad_;
  std::vector<float*> images_, flows_, starts_;
  Tvl1Tiles tiles_{};
};

}  // namespace mer_fast
