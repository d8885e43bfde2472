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
  // convolution of input (N, C, T, H, W) with weight (O, C / groups, kt, kh, kw), bias (O), then activation
  // (none, relu, leaky_relu, gelu) -> (N, O, T', H', W'); exact: sums in the order of the formula, no Winograd
  m.def(
      "conv3d(Tensor input, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] dilation, int groups, "
      "str activation, bool exact) -> Tensor");
  // the same, then max-pool -> (output, winners): winners, uint8, is the place (t * kh + h) * kw + w in its window of the
  // value that won, or 255 where that is nothing after "relu"; empty unless keep_winners. With "leaky_relu" and "gelu" the
  // output is what goes into the activation at the winner: the caller applies it.
  m.def(
      "conv3d_pool(Tensor input, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] dilation, int groups, "
      "str activation, int[] pool_kernel, int[] pool_stride, bool keep_winners, bool exact) -> (Tensor, Tensor)");
  // grad of the forward's output -> gradients of input, weight and bias, each empty unless needed
  m.def(
      "conv3d_pool_backward(Tensor grad, Tensor winners, Tensor input, Tensor weight, int[] stride, int[] padding, "
      "int[] dilation, int groups, int[] pool_kernel, int[] pool_stride, bool need_input, bool need_weight, bool need_bias) "
      "-> (Tensor, Tensor, Tensor)");
  // one step of a recurrent convolution: input (N, C, H, W), weight (O, C, kh, kw) with odd sides, shift (O), before and after
  // (N, O, H, W) -> activation(conv(input) + shift + before) + after, same height and width
  m.def(
      "recurrent_step(Tensor input, Tensor weight, Tensor? shift, Tensor? before, Tensor? after, str activation, bool exact) "
      "-> Tensor");
}
