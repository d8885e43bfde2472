// torch.ops.mer_fast.optical_strain and its gradient on a GPU.
#include "optical_strain.cuh"

#include <torch/csrc/stable/library.h>

#include <limits>
#include <string>
#include <type_traits>

#include "launch.h"

namespace mer_fast {
namespace {

// Calls work with the derivative as a constant.
template <typename Work>
void with_derivative(const std::string& name, const Work& work) {
  if (name == "central") return work(std::integral_constant<Derivative, Derivative::central>{});
  if (name == "forward") return work(std::integral_constant<Derivative, Derivative::forward>{});
  MER_FAST_CHECK(
      name == "sobel", "optical_strain: derivative must be \"central\", \"forward\" or \"sobel\", got \"", name, "\"");
  work(std::integral_constant<Derivative, Derivative::sobel>{});
}

StrainShape shape_of(const Tensor& flow) {
  check_rank("optical_strain", "flow", flow, 4);
  MER_FAST_CHECK(flow.size(1) == 2, "optical_strain: flow must have 2 channels (u, v), got shape ", shape_text(flow));
  constexpr int64_t kLongest = std::numeric_limits<int32_t>::max() - kStrainRows;
  MER_FAST_CHECK(
      flow.size(2) <= kLongest && flow.size(3) <= kLongest,
      "optical_strain: flow must have no side above 2^31 - 9 pixels, got shape ", shape_text(flow));
  return {flow.size(0), static_cast<int>(flow.size(2)), static_cast<int>(flow.size(3))};
}

Tensor optical_strain_forward(const Tensor& flow_any, const std::string& derivative, double shear) {
  const StrainShape shape = shape_of(flow_any);
  const Tensor flow = contiguous(flow_any);
  Tensor strain = torch::stable::new_empty(flow, {shape.images, 1, shape.height, shape.width});
  with_float("optical_strain", "flow", flow, [&](auto element) {
    using Element = decltype(element);
    with_derivative(derivative, [&](auto kind) {
      if (strain.numel() == 0) return;
      OnDevice("optical_strain", flow)
          .launch(
              optical_strain<Element, decltype(kind)::value>, strain_blocks(shape), kStrainThreads,
              static_cast<const Element*>(flow.const_data_ptr()), static_cast<Element*>(strain.mutable_data_ptr()), shape,
              static_cast<Compute<Element>>(shear));
    });
  });
  return strain;
}

Tensor optical_strain_gradient(const Tensor& grad_any, const Tensor& flow_any, const std::string& derivative, double shear) {
  const StrainShape shape = shape_of(flow_any);
  check_same_dtype("optical_strain_backward", "grad", grad_any, "flow", flow_any);
  check_same_device("optical_strain_backward", "grad", grad_any, "flow", flow_any);
  MER_FAST_CHECK(
      grad_any.dim() == 4 && grad_any.size(0) == shape.images && grad_any.size(1) == 1 && grad_any.size(2) == shape.height &&
          grad_any.size(3) == shape.width,
      "optical_strain_backward: grad must have shape (N, 1, H, W) for the flow's (N, 2, H, W), got ", shape_text(grad_any));
  const Tensor grad = contiguous(grad_any), flow = contiguous(flow_any);
  Tensor grad_flow = torch::stable::new_empty(flow, {shape.images, 2, shape.height, shape.width});
  with_float("optical_strain", "flow", flow, [&](auto element) {
    using Element = decltype(element);
    with_derivative(derivative, [&](auto kind) {
      if (grad_flow.numel() == 0) return;
      OnDevice("optical_strain_backward", flow)
          .launch(
              optical_strain_backward<Element, decltype(kind)::value>, strain_blocks(shape), kStrainThreads,
              static_cast<const Element*>(grad.const_data_ptr()), static_cast<const Element*>(flow.const_data_ptr()),
              static_cast<Element*>(grad_flow.mutable_data_ptr()), shape, static_cast<Compute<Element>>(shear));
    });
  });
  return grad_flow;
}

}  // namespace
}  // namespace mer_fast

STABLE_TORCH_LIBRARY_IMPL(mer_fast, CUDA, m) {
  m.impl("optical_strain", TORCH_BOX(&mer_fast::optical_strain_forward));
  m.impl("optical_strain_backward", TORCH_BOX(&mer_fast::optical_strain_gradient));
}
