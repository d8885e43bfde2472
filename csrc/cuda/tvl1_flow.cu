// torch.ops.mer_fast.tvl1_flow on a GPU: one allocation, then the launches of tvl1_flow_schedule.h.
#include <torch/csrc/stable/library.h>

#include "../tvl1_arguments.h"
#include "tvl1_flow_schedule.h"
#include "workspace.h"

namespace mer_fast {
namespace {

// The largest cluster of tvl1_solve that the device can hold on chip at this level; 0 where there is none.
int most_blocks(const OnDevice& device, const Tvl1Size& size, int shared_bytes) {
  if (!device.has_clusters(tvl1_solve<24>)) return 1;
  const Tvl1Fit fit = tvl1_fit(static_cast<int>(size.height), static_cast<int>(size.width), 16, shared_bytes);
  if (fit.blocks <= kPortableCluster) return kPortableCluster;
  const LaunchShape shape{fit.blocks, fit.grid.threads(), fit.shared_bytes(), fit.blocks};
  const bool holds = fit.depth == 8 ? device.holds(tvl1_solve<8>, shape) : fit.depth == 16 ? device.holds(tvl1_solve<16>, shape)
                                                                                        : device.holds(tvl1_solve<24>, shape);
  return holds ? fit.blocks : kPortableCluster;
}

template <typename Element>
void solve(const OnDevice& device, FlowFrames& frames, const Tvl1Params& params, double scale_step, int64_t scales) {
  Tvl1Problem<Element> problem{
      params, scale_step, frames.pairs, tvl1_pyramid(frames.height, frames.width, scales, scale_step), {},
      static_cast<const Element*>(frames.frame0.const_data_ptr()), static_cast<const Element*>(frames.frame1.const_data_ptr()),
      frames.initial(), frames.result()};
  for (const Tvl1Size& size : problem.sizes) {
    problem.limits.push_back({most_blocks(device, size, device.shared_bytes()), device.shared_bytes()});
    MER_FAST_CHECK(
        problem.fit(problem.limits.size() - 1).blocks > 0 || tvl1_turns(params) <= kTvl1MostTurns,
        "tvl1_flow: inner_iterations times outer_iterations is too many for frames of this size on a GPU; ask for at most ",
        kTvl1MostTurns * kTvl1Steps);
  }
  run_schedule<Tvl1Schedule<Element, Launcher>>(device, frames.flow, problem);
}

Tensor tvl1_flow(
    const Tensor& frame0, const Tensor& frame1, std::optional<Tensor> initial_flow, double tau, double lam, double theta,
    int64_t scales, double scale_step, int64_t warps, double epsilon, int64_t inner_iterations, int64_t outer_iterations, int64_t median) {
  const OnDevice device("tvl1_flow", frame0);
  FlowFrames frames = flow_frames("tvl1_flow", frame0, frame1, initial_flow, kTvl1MinSide);
  MER_FAST_CHECK(
      frames.height * frames.width < std::numeric_limits<int32_t>::max(), "tvl1_flow: frame0 has more than 2^31 pixels a frame");
  const Tvl1Params params{
      static_cast<float>(tau), static_cast<float>(lam), static_cast<float>(theta), static_cast<float>(scale_step),
      static_cast<float>(epsilon), tvl1_count(warps), tvl1_count(inner_iterations), tvl1_count(outer_iterations), tvl1_count(median)};
  tvl1_check_parameters(params, scale_step, scales);
  if (frames.pairs == 0) return frames.flow;
  if (frames.bytes) {
    solve<unsigned char>(device, frames, params, scale_step, scales);
  } else {
    solve<float>(device, frames, params, scale_step, scales);
  }
  return frames.flow;
}

}  // namespace
}  // namespace mer_fast

STABLE_TORCH_LIBRARY_IMPL(mer_fast, CUDA, m) { m.impl("tvl1_flow", TORCH_BOX(&mer_fast::tvl1_flow)); }
