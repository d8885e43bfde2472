// torch.ops.mer_fast.farneback_flow on a CPU: a thread per pair while there are pairs enough, several threads a pair else.
#include <torch/csrc/stable/library.h>

#include <vector>

#include "../farneback_arguments.h"
#include "farneback_flow_kernel.h"
#include "pairs.h"
#include "tensor_io.h"

namespace mer_fast {
namespace {

// The memory that a team needs for one pair, laid out once and used for one pair after the other.
class Workspace {
 public:
  Workspace(const FarnebackPlan& plan, int members, Arena& arena) {
    for (const FarnebackScale& s : plan.scales) {
      const std::vector<double> taps = s.blur.taps();
      blur_.emplace_back(taps.begin(), taps.end());
      level_.push_back({s.height, s.width, farneback_pitch(s.width), s.blur.radius, blur_.back().data()});
    }
    if (plan.params.gaussian) {
      const std::vector<double> taps = plan.window.taps();
      window_.assign(taps.begin() + plan.window.radius, taps.end());
    }
    work.expansion = {plan.params.poly_n, plan.smooth.data(), plan.slope.data(), plan.curve.data()};
    work.window = {plan.window.radius, window_.empty() ? nullptr : window_.data(), plan.regularizer};
    work.iterations = static_cast<int>(plan.params.iterations);
    work.initial_scale = plan.initial_scale;
    work.growth = plan.growth;
    work.levels = static_cast<int>(level_.size());
    work.level = level_.data();
    work.team.size = members;
    lay_out(members, arena);
  }

  FarnebackWork work{};

 private:
  void lay_out(int members, Arena& arena) {
    const int64_t height = level_[0].height, width = level_[0].width;
    const int64_t sizes[4] = {
        farneback_full_size(height, width), farneback_image_size(height, width), farneback_expanded_size(height, width),
        farneback_moving_size(height, width)};
    const int64_t scratch =
        farneback_scratch_size(width, level_.back().blur_radius, work.expansion.radius, work.window.radius);
    int64_t total = members * farneback_pitch(scratch);
    for (const int64_t size : sizes) total += 2 * farneback_pitch(size);
    arena.reserve<float>({total});
    float* next = arena.take<float>(total);
    const auto take = [&](int64_t floats) {
      float* const array = next;
      next += farneback_pitch(floats);
      return array;
    };
    float** arrays[4] = {work.full, work.image, work.expanded, work.moving};
    for (int k = 0; k < 4; ++k) {
      for (int frame = 0; frame < 2; ++frame) arrays[k][frame] = take(sizes[k]);
    }
    for (int k = 0; k < members; ++k) scratch_.push_back(take(scratch));
    work.scratch = scratch_.data();
  }

  std::vector<FarnebackLevel> level_;
  std::vector<std::vector<float>> blur_;
  std::vector<float> window_;
  std::vector<float*> scratch_;
};

void solve_pair(Workspace& space, FlowFrames& frames, int64_t pair, int rank) {
  FarnebackWork& work = space.work;
  if (rank == 0) {
    const int64_t pixels = frames.height * frames.width, bytes = pixels * (frames.bytes ? 1 : 4);
    const Tensor* both[2] = {&frames.frame0, &frames.frame1};
    for (int k = 0; k < 2; ++k) work.frame[k] = {static_cast<const char*>(both[k]->const_data_ptr()) + pair * bytes, frames.bytes};
    work.initial_flow = frames.initial() ? frames.initial() + 2 * pair * pixels : nullptr;
    work.flow = frames.result() + 2 * pair * pixels;
  }
  work.team.barrier();
  MER_FAST_DISPATCH(farneback_solve, work, rank);
}

void check_values(const FlowFrames& frames) {
  const int64_t pixels = frames.pairs * frames.height * frames.width;
  if (!frames.bytes) {
    check_frame_values("farneback_flow", "frame0", floats(frames.frame0), pixels);
    check_frame_values("farneback_flow", "frame1", floats(frames.frame1), pixels);
  }
  if (frames.initial()) check_flow_values("farneback_flow", frames.initial(), 2 * pixels);
}

Tensor farneback_flow(
    const Tensor& frame0, const Tensor& frame1, std::optional<Tensor> initial_flow, double pyr_scale, int64_t levels, int64_t winsize,
    int64_t iterations, int64_t poly_n, double poly_sigma, bool gaussian) {
  FlowFrames frames = flow_frames("farneback_flow", frame0, frame1, initial_flow, 1);
  const FarnebackParams params{pyr_scale, levels, winsize, iterations, poly_n, poly_sigma, gaussian};
  farneback_check_parameters(params);
  check_values(frames);
  if (frames.pairs == 0) return frames.flow;
  const FarnebackPlan plan = farneback_plan(frames.height, frames.width, params);
  const int64_t most = plan.scales.back().height / kFarnebackLeastRows;
  solve_pairs(
      frames.pairs, most, [&](int members, Arena& arena) { return Workspace(plan, members, arena); },
      [&](Workspace& space, int64_t pair, int rank) { solve_pair(space, frames, pair, rank); });
  return frames.flow;
}

}  // namespace
}  // namespace mer_fast

STABLE_TORCH_LIBRARY_IMPL(mer_fast, CPU, m) { m.impl("farneback_flow", TORCH_BOX(&mer_fast::farneback_flow)); }
