// torch.ops.mer_fast.farneback_flow on a GPU: one allocation, then the launches of farneback_flow_schedule.h.
#include <torch/csrc/stable/library.h>

#include "../farneback_arguments.h"
#include "farneback_flow_schedule.h"
#include "workspace.h"

namespace mer_fast {
namespace {

constexpr int kBlocksAProcessor = 4;  // as many as shared memory holds at once with the usual windows

template <typename Element>
void solve(const OnDevice& device, FlowFrames& frames, const FarnebackParams& params) {
  const FarnebackProblem<Element> problem{
      farneback_plan(frames.height, frames.width, params), frames.pairs,
      {device.shared_bytes(), static_cast<Index>(kBlocksAProcessor) * device.processors()},
      static_cast<const Element*>(frames.frame0.const_data_ptr()), static_cast<const Element*>(frames.frame1.const_data_ptr()),
      frames.initial(), frames.result()};
  run_schedule<FarnebackSchedule<Element, Launcher>>(device, frames.flow, problem);
}

Tensor farneback_flow(
    const Tensor& frame0, const Tensor& frame1, std::optional<Tensor> initial_flow, double pyr_scale, int64_t levels, int64_t winsize,
    int64_t iterations, int64_t poly_n, double poly_sigma, bool gaussian) {
  const OnDevice device("farneback_flow", frame0);
  FlowFrames frames = flow_frames("farneback_flow", frame0, frame1, initial_flow, 1);
  MER_FAST_CHECK(
      frames.height <= kFarnebackMostSide && frames.width <= kFarnebackMostSide, "farneback_flow: frame0 must be at most ", kFarnebackMostSide,
      " pixels a side on a GPU, got ", frames.height, "x", frames.width);
  const FarnebackParams params{pyr_scale, levels, winsize, iterations, poly_n, poly_sigma, gaussian};
  farneback_check_parameters(params);
  if (frames.pairs == 0) return frames.flow;
  if (frames.bytes) {
    solve<unsigned char>(device, frames, params);
  } else {
    solve<float>(device, frames, params);
  }
  return frames.flow;
}

}  // namespace
}  // namespace mer_fast

STABLE_TORCH_LIBRARY_IMPL(mer_fast, CUDA, m) { m.impl("farneback_flow", TORCH_BOX(&mer_fast::farneback_flow)); }
