// Every operator of torch.ops.mer_fast on one page. Kernels register themselves in cpu/<op>.cpp and cuda/<op>.cu.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(mer_fast, m) {
  // frames (N, H, W) uint8, or float32 nominally 0..1; initial_flow (N, 2, H, W) float32 -> (N, 2, H, W) float32
  m.def(
      "tvl1_flow(Tensor frame0, Tensor frame1, Tensor? initial_flow, float tau, float lam, float theta, int scales, "
      "float scale_step, int warps, float epsilon, int inner_iterations, int outer_iterations, int median) -> Tensor");
  // flow (N, 2, H, W) -> (N, 1, H, W)
  m.def("optical_strain(Tensor flow, str derivative, float shear) -> Tensor");
  m.def("optical_strain_backward(Tensor grad, Tensor flow, str derivative, float shear) -> Tensor");
  // interpolates along `dim`; `adjoint` applies the transposed weights (num_frames is then the length before them)
  m.def("tim(Tensor clip, int num_frames, int dim, bool adjoint) -> Tensor");
}
