// torch.ops.mer_fast.tvl1_flow on a CPU: a thread per pair while there are pairs enough, several threads a pair else.
#include "tvl1_flow.h"

#include <torch/csrc/stable/library.h>

#include <vector>

#include "../tvl1_arguments.h"
#include "pairs.h"
#include "tvl1_flow_kernel.h"

namespace mer_fast {
namespace {

// The memory that a team needs for one pair, laid out once and used for one pair after the other.
class Workspace {
 public:
  Workspace(const std::vector<Tvl1Size>& sizes, const Tvl1Params& params, int members, Arena& arena) : levels_(sizes.size()) {
    const int64_t height = sizes[0].height, width = sizes[0].width;
    const int64_t rows = (height + members - 1) / members;
    int64_t total = align(tvl1_texture_size(height, width)) + 2 * align(height * kTvl1MaxLanes);
    for (const Tvl1Size& s : sizes) total += 4 * align(s.height * s.width);
    total += members * (align(tvl1_band_size(rows, width)) + align(tvl1_scratch_size(width)) + align(tvl1_exchange_size(width)));
    arena.reserve<float>({total});
    next_ = arena.take<float>(total);
    for (size_t s = 0; s < sizes.size(); ++s) {
      const int64_t n = sizes[s].height * sizes[s].width;
      levels_[s] = {sizes[s].height, sizes[s].width, take(n), take(n), take(n), take(n)};
    }
    for (int k = 0; k < members; ++k) {
      band_.push_back(take(tvl1_band_size(rows, width)));
      scratch_.push_back(take(tvl1_scratch_size(width)));
      exchange_.push_back(take(tvl1_exchange_size(width)));
    }
    work.params = params;
    work.levels = static_cast<int>(sizes.size());
    work.level = levels_.data();
    work.texture = take(tvl1_texture_size(height, width));
    work.row_error[0] = take(height * kTvl1MaxLanes);
    work.row_error[1] = take(height * kTvl1MaxLanes);
    work.team.size = members;
    work.band = band_.data();
    work.scratch = scratch_.data();
    work.exchange = exchange_.data();
  }

  Tvl1Work work{};

 private:
  static int64_t align(int64_t floats) { return (floats + 15) / 16 * 16; }
  float* take(int64_t floats) {
    float* p = next_;
    next_ += align(floats);
    return p;
  }
  float* next_ = nullptr;
  std::vector<Tvl1Level> levels_;
  std::vector<float*> band_, scratch_, exchange_;
};

void solve_pair(Workspace& space, const Tvl1Batch& batch, int64_t pair, int rank) {
  const int64_t pixels = batch.height * batch.width, bytes = pixels * (batch.bytes ? 1 : 4);
  if (rank == 0) {
    space.work.frame0 = {static_cast<const char*>(batch.frame0) + pair * bytes, batch.bytes};
    space.work.frame1 = {static_cast<const char*>(batch.frame1) + pair * bytes, batch.bytes};
    space.work.initial_flow = batch.initial_flow ? batch.initial_flow + 2 * pair * pixels : nullptr;
    space.work.flow = batch.flow + 2 * pair * pixels;
  }
  space.work.team.barrier();
  MER_FAST_DISPATCH(tvl1_solve, space.work, rank);
}

void check_values(const Tvl1Batch& batch) {
  const int64_t pixels = batch.pairs * batch.height * batch.width;
  if (!batch.bytes) {
    check_frame_values("tvl1_flow", "frame0", static_cast<const float*>(batch.frame0), pixels);
    check_frame_values("tvl1_flow", "frame1", static_cast<const float*>(batch.frame1), pixels);
  }
  if (batch.initial_flow) check_flow_values("tvl1_flow", batch.initial_flow, 2 * pixels);
}

}  // namespace

void tvl1_flow_batch(const Tvl1Batch& batch) {
  tvl1_check_parameters(batch.params, static_cast<double>(batch.params.scale_step), batch.params.scales);
  check_values(batch);
  const std::vector<Tvl1Size> sizes =
      tvl1_pyramid(batch.height, batch.width, batch.params.scales, static_cast<double>(batch.params.scale_step));
  // A member's rows on the smallest level must feed its neighbours' halos.
  const int64_t most = sizes.back().height / (2 * kTvl1Halo);
  solve_pairs(
      batch.pairs, most, [&](int members, Arena& arena) { return Workspace(sizes, batch.params, members, arena); },
      [&](Workspace& space, int64_t pair, int rank) { solve_pair(space, batch, pair, rank); });
}

namespace {

Tensor tvl1_flow(
    const Tensor& frame0, const Tensor& frame1, std::optional<Tensor> initial_flow, double tau, double lam, double theta,
    int64_t scales, double scale_step, int64_t warps, double epsilon, int64_t inner_iterations, int64_t outer_iterations, int64_t median) {
  FlowFrames frames = flow_frames("tvl1_flow", frame0, frame1, initial_flow, kTvl1MinSide);
  const Tvl1Params params{
      static_cast<float>(tau), static_cast<float>(lam), static_cast<float>(theta), tvl1_count(scales), static_cast<float>(scale_step),
      tvl1_count(warps), static_cast<float>(epsilon), tvl1_count(inner_iterations), tvl1_count(outer_iterations), tvl1_count(median)};
  if (frames.pairs != 0) {
    tvl1_flow_batch(
        {params, frames.frame0.const_data_ptr(), frames.frame1.const_data_ptr(), frames.bytes, frames.initial(), frames.result(),
         frames.pairs, frames.height, frames.width});
  }
  return frames.flow;
}

}  // namespace
}  // namespace mer_fast

STABLE_TORCH_LIBRARY_IMPL(mer_fast, CPU, m) { m.impl("tvl1_flow", TORCH_BOX(&mer_fast::tvl1_flow)); }
