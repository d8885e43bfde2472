// torch.ops.mer_fast.farneback_flow on a CPU: a thread per pair while there are pairs enough, several threads a pair else.
#include <torch/csrc/stable/library.h>

#include <vector>

#include "../farneback_plan.h"
#include "farneback_flow_kernel.h"
#include "pairs.h"
#include "tensor_io.h"

namespace mer_fast {
namespace {

struct Batch {
  const void* frame[2];       // (pairs, height, width), uint8 where `bytes`, else float nominally 0..1
  bool bytes;
  const float* initial_flow;  // (pairs, 2, height, width), or null
  float* flow;                // (pairs, 2, height, width)
  int64_t pairs, height, width;
};

// The memory that a team needs for one pair, laid out once and used for one pair after the other.
class Workspace {
 public:
  Workspace(const FarnebackPlan& plan, int members, Arena& arena) {
    for (const FarnebackScale& s : plan.scales) {
      level_.push_back({s.height, s.width, farneback_pitch(s.width), static_cast<int64_t>(s.blur.size() / 2), s.blur.data()});
    }
    const int64_t height = level_[0].height, width = level_[0].width;
    const int64_t sizes[4] = {
        farneback_full_size(height, width), farneback_image_size(height, width), farneback_expanded_size(height, width),
        farneback_moving_size(height, width)};
    const int64_t scratch = farneback_scratch_size(width, level_.back().blur_radius, plan.radius(), plan.window_radius());
    const int64_t total = 2 * (aligned(sizes[0]) + aligned(sizes[1]) + aligned(sizes[2]) + aligned(sizes[3])) + members * aligned(scratch);
    arena.reserve<float>({total});
    float* next = arena.take<float>(total);
    const auto take = [&](int64_t floats) {
      float* const array = next;
      next += aligned(floats);
      return array;
    };
    float** arrays[4] = {work.full, work.image, work.expanded, work.moving};
    for (int k = 0; k < 4; ++k) {
      for (int frame = 0; frame < 2; ++frame) arrays[k][frame] = take(sizes[k]);
    }
    for (int k = 0; k < members; ++k) scratch_.push_back(take(scratch));
    work.expansion = {plan.radius(), plan.smooth.data(), plan.slope.data(), plan.curve.data()};
    work.window = {plan.window_radius(), plan.window.empty() ? nullptr : plan.window.data(), plan.regularizer};
    work.iterations = plan.iterations;
    work.initial_scale = plan.initial_scale;
    work.growth = plan.growth;
    work.levels = static_cast<int>(level_.size());
    work.level = level_.data();
    work.team.size = members;
    work.scratch = scratch_.data();
  }

  FarnebackWork work{};

 private:
  static int64_t aligned(int64_t floats) { return farneback_pitch(floats); }
  std::vector<FarnebackLevel> level_;
  std::vector<float*> scratch_;
};

void solve_pair(Workspace& space, const Batch& batch, int64_t pair, int rank) {
  FarnebackWork& work = space.work;
  if (rank == 0) {
    const int64_t pixels = batch.height * batch.width, bytes = pixels * (batch.bytes ? 1 : 4);
    for (int k = 0; k < 2; ++k) work.frame[k] = {static_cast<const char*>(batch.frame[k]) + pair * bytes, batch.bytes};
    work.initial_flow = batch.initial_flow ? batch.initial_flow + 2 * pair * pixels : nullptr;
    work.flow = batch.flow + 2 * pair * pixels;
  }
  work.team.barrier();
  MER_FAST_DISPATCH(farneback_solve, work, rank);
}

void check_values(const Batch& batch) {
  const int64_t pixels = batch.pairs * batch.height * batch.width;
  if (!batch.bytes) {
    check_frame_values("farneback_flow", "frame0", static_cast<const float*>(batch.frame[0]), pixels);
    check_frame_values("farneback_flow", "frame1", static_cast<const float*>(batch.frame[1]), pixels);
  }
  if (batch.initial_flow) check_flow_values("farneback_flow", batch.initial_flow, 2 * pixels);
}

Tensor farneback_flow(
    const Tensor& frame0_any, const Tensor& frame1_any, std::optional<Tensor> initial_any, double pyr_scale, int64_t levels,
    int64_t winsize, int64_t iterations, int64_t poly_n, double poly_sigma, bool gaussian) {
  farneback_check_frames(frame0_any, frame1_any, initial_any);
  const Tensor frame0 = contiguous(frame0_any), frame1 = contiguous(frame1_any);
  std::optional<Tensor> initial;
  if (initial_any) initial = contiguous(*initial_any);
  const int64_t pairs = frame0.size(0), height = frame0.size(1), width = frame0.size(2);
  const FarnebackPlan plan = farneback_plan(height, width, pyr_scale, levels, winsize, iterations, poly_n, poly_sigma, gaussian);
  Tensor flow = torch::stable::empty({pairs, 2, height, width}, ScalarType::Float, std::nullopt, frame0.device());
  if (pairs == 0) return flow;
  const Batch batch{
      {frame0.const_data_ptr(), frame1.const_data_ptr()}, frame0.scalar_type() == ScalarType::Byte, initial ? floats(*initial) : nullptr,
      static_cast<float*>(flow.mutable_data_ptr()), pairs, height, width};
  check_values(batch);
  const int64_t most = plan.scales.back().height / kFarnebackLeastRows;
  solve_pairs(
      pairs, most, [&](int members, Arena& arena) { return Workspace(plan, members, arena); },
      [&](Workspace& space, int64_t pair, int rank) { solve_pair(space, batch, pair, rank); });
  return flow;
}

}  // namespace
}  // namespace mer_fast

STABLE_TORCH_LIBRARY_IMPL(mer_fast, CPU, m) { m.impl("farneback_flow", TORCH_BOX(&mer_fast::farneback_flow)); }
