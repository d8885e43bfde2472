// torch.ops.mer_fast.tim on a GPU: weights in a workspace, then the frames.
#include <torch/csrc/stable/library.h>

#include <vector>

#include "launch.h"
#include "tim.cuh"

namespace mer_fast {
namespace {

template <typename Element, int kTile, int kWidth>
void launch(const Tensor& clip, const Tensor& out, const TimShape& shape, bool adjoint) {
  using Real = Compute<Element>;
  const OnDevice device("tim", clip);
  const Tensor workspace = torch::stable::new_empty(
      clip, {tim_weight_count(shape, kTile)}, sizeof(Real) == 8 ? ScalarType::Double : ScalarType::Float);
  Real* weights = static_cast<Real*>(workspace.mutable_data_ptr());
  device.launch(tim_weights<Real>, tim_weight_blocks(shape, kTile), kTimThreads, weights, shape, kTile, adjoint);
  device.launch(
      tim_frames<Element, kTile, kWidth>, tim_frame_blocks(shape, kTile, tim_pixels<Element>()), kTimThreads,
      static_cast<const Element*>(clip.const_data_ptr()), weights, static_cast<Element*>(out.mutable_data_ptr()), shape);
}

template <typename Element, int kTile>
void launch_width(const Tensor& clip, const Tensor& out, const TimShape& shape, bool adjoint) {
  constexpr int kPixels = tim_pixels<Element>();
  const bool aligned = reinterpret_cast<uintptr_t>(clip.const_data_ptr()) % sizeof(Pack<Element, kPixels>) == 0 &&
                       reinterpret_cast<uintptr_t>(out.const_data_ptr()) % sizeof(Pack<Element, kPixels>) == 0;
  if (aligned && shape.inner % kPixels == 0) {
    launch<Element, kTile, kPixels>(clip, out, shape, adjoint);
  } else {
    launch<Element, kTile, 1>(clip, out, shape, adjoint);
  }
}

template <typename Element>
void launch_tile(const Tensor& clip, const Tensor& out, const TimShape& shape, bool adjoint) {
  switch (tim_tile(shape.out)) {
    case 4: return launch_width<Element, 4>(clip, out, shape, adjoint);
    case 10: return launch_width<Element, 10>(clip, out, shape, adjoint);
    default: return launch_width<Element, 16>(clip, out, shape, adjoint);
  }
}

Tensor tim(const Tensor& clip_any, int64_t num_frames, int64_t dim, bool adjoint) {
  MER_FAST_CHECK(dim >= 0 && dim < clip_any.dim(), "tim: dim ", dim, " is outside the clip's ", clip_any.dim(), " dimensions");
  MER_FAST_CHECK(num_frames >= 1, "tim: num_frames must be at least 1, got ", num_frames);
  const Tensor clip = contiguous(clip_any);
  TimShape shape{1, clip.size(dim), num_frames, 1};
  std::vector<int64_t> sizes;
  for (int64_t d = 0; d < clip.dim(); ++d) {
    if (d < dim) shape.outer *= clip.size(d);
    if (d > dim) shape.inner *= clip.size(d);
    sizes.push_back(d == dim ? num_frames : clip.size(d));
  }
  MER_FAST_CHECK(shape.in >= 1, "tim: clip has no frame along dim ", dim);
  Tensor out = torch::stable::new_empty(clip, sizes);
  if (clip.scalar_type() == ScalarType::Byte) {
    if (out.numel() != 0) launch_tile<unsigned char>(clip, out, shape, adjoint);
    return out;
  }
  with_float("tim", "clip", clip, [&](auto element) {
    if (out.numel() != 0) launch_tile<decltype(element)>(clip, out, shape, adjoint);
  });
  return out;
}

}  // namespace
}  // namespace mer_fast

STABLE_TORCH_LIBRARY_IMPL(mer_fast, CUDA, m) { m.impl("tim", TORCH_BOX(&mer_fast::tim)); }
