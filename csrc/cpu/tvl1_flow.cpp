// torch.ops.mer_fast.tvl1_flow on a CPU: a thread per pair while there are pairs enough, several threads a pair else.
#include "tvl1_flow.h"

#include <torch/csrc/stable/library.h>

#include <cmath>
#include <limits>
#include <vector>

#include "pairs.h"
#include "tensor_io.h"
#include "tvl1_flow_kernel.h"

namespace mer_fast {
namespace {

constexpr int64_t kMinSide = 16;

struct Size {
  int64_t height, width;
};

// Sizes of the pyramid, full size first; it ends before a side falls below 16 pixels.
std::vector<Size> pyramid_sizes(int64_t height, int64_t width, const Tvl1Params& params) {
  std::vector<Size> sizes{{height, width}};
  const double step = static_cast<double>(params.scale_step);
  while (static_cast<int>(sizes.size()) < params.scales) {
    const Size next{std::lrint(static_cast<double>(sizes.back().height) * step), std::lrint(static_cast<double>(sizes.back().width) * step)};
    if (next.height < kMinSide || next.width < kMinSide) break;
    sizes.push_back(next);
  }
  return sizes;
}

// The memory that a team needs for one pair, laid out once and used for one pair after the other.
class Workspace {
 public:
  Workspace(const std::vector<Size>& sizes, const Tvl1Params& params, int members, Arena& arena) : levels_(sizes.size()) {
    const int64_t height = sizes[0].height, width = sizes[0].width;
    const int64_t rows = (height + members - 1) / members;
    int64_t total = align(tvl1_texture_size(height, width)) + 2 * align(height * kTvl1MaxLanes);
    for (const Size& s : sizes) total += 4 * align(s.height * s.width);
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

// Below the public function's own checks: a bad parameter here would overrun the workspace.
void check_parameters(const Tvl1Params& p) {
  const auto positive = [](const char* name, float value) {
    MER_FAST_CHECK(std::isnormal(value) && value > 0, "tvl1_flow: ", name, " must be positive and finite, got ", value);
  };
  positive("tau", p.tau);
  positive("lam", p.lam);
  positive("theta", p.theta);
  positive("scale_step", p.scale_step);
  MER_FAST_CHECK(p.scale_step < 1, "tvl1_flow: scale_step must lie between 0 and 1, got ", p.scale_step);
  MER_FAST_CHECK(std::isfinite(p.epsilon) && p.epsilon >= 0, "tvl1_flow: epsilon must be finite and not negative, got ", p.epsilon);
  MER_FAST_CHECK(
      p.scales >= 1 && p.warps >= 1 && p.inner_iterations >= 1 && p.outer_iterations >= 1,
      "tvl1_flow: scales, warps, inner_iterations and outer_iterations must be at least 1");
  MER_FAST_CHECK(
      p.median == 0 || p.median == 1 || p.median == 3 || p.median == 5, "tvl1_flow: median must be 0, 1, 3 or 5, got ", p.median);
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
  check_parameters(batch.params);
  check_values(batch);
  const std::vector<Size> sizes = pyramid_sizes(batch.height, batch.width, batch.params);
  // A member's rows on the smallest level must feed its neighbours' halos.
  const int64_t most = sizes.back().height / (2 * kTvl1Halo);
  solve_pairs(
      batch.pairs, most, [&](int members, Arena& arena) { return Workspace(sizes, batch.params, members, arena); },
      [&](Workspace& space, int64_t pair, int rank) { solve_pair(space, batch, pair, rank); });
}

namespace {

Tensor tvl1_flow(
    const Tensor& frame0_any, const Tensor& frame1_any, std::optional<Tensor> initial_any, double tau, double lam, double theta,
    int64_t scales, double scale_step, int64_t warps, double epsilon, int64_t inner_iterations, int64_t outer_iterations, int64_t median) {
  const char* op = "tvl1_flow";
  check_rank(op, "frame0", frame0_any, 3);
  check_same_shape(op, "frame0", frame0_any, "frame1", frame1_any);
  check_same_dtype(op, "frame0", frame0_any, "frame1", frame1_any);
  const ScalarType type = frame0_any.scalar_type();
  MER_FAST_CHECK(type == ScalarType::Byte || type == ScalarType::Float, "tvl1_flow: frame0 must be uint8 or float32");
  const Tensor frame0 = contiguous(frame0_any), frame1 = contiguous(frame1_any);
  const int64_t pairs = frame0.size(0), height = frame0.size(1), width = frame0.size(2);
  MER_FAST_CHECK(height >= kMinSide && width >= kMinSide, "tvl1_flow: frame0 must be at least 16 pixels a side, got ", height, "x", width);
  std::optional<Tensor> initial;
  if (initial_any) {
    MER_FAST_CHECK(
        initial_any->dim() == 4 && initial_any->size(0) == pairs && initial_any->size(1) == 2 && initial_any->size(2) == height &&
            initial_any->size(3) == width && initial_any->scalar_type() == ScalarType::Float,
        "tvl1_flow: initial_flow must be float32 of shape (N, 2, H, W), got ", shape_text(*initial_any));
    initial = contiguous(*initial_any);
  }
  Tensor flow = torch::stable::empty({pairs, 2, height, width}, ScalarType::Float, std::nullopt, frame0.device());
  if (pairs == 0) return flow;
  const bool bytes = type == ScalarType::Byte;
  for (const int64_t count : {scales, warps, inner_iterations, outer_iterations, median}) {
    MER_FAST_CHECK(count <= std::numeric_limits<int>::max(), "tvl1_flow: a count of ", count, " is too large");
  }
  const Tvl1Params params{
      static_cast<float>(tau), static_cast<float>(lam), static_cast<float>(theta), static_cast<int>(scales), static_cast<float>(scale_step),
      static_cast<int>(warps), static_cast<float>(epsilon), static_cast<int>(inner_iterations), static_cast<int>(outer_iterations),
      static_cast<int>(median)};
  tvl1_flow_batch(
      {params, frame0.const_data_ptr(), frame1.const_data_ptr(), bytes,
       initial ? static_cast<const float*>(initial->const_data_ptr()) : nullptr, static_cast<float*>(flow.mutable_data_ptr()), pairs,
       height, width});
  return flow;
}

}  // namespace
}  // namespace mer_fast

STABLE_TORCH_LIBRARY_IMPL(mer_fast, CPU, m) { m.impl("tvl1_flow", TORCH_BOX(&mer_fast::tvl1_flow)); }
