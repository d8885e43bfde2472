// Every operator of torch.ops.mer_fast on one page. Kernels register themselves in cpu/<op>.cpp and cuda/<op>.cu.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(mer_fast, m) {
  // frames (N, H, W) uint8, or float32 nominally 0..1; initial_flow (N, 2, H, W) float32 -> (N, 2, H, W) float32
  m.def(
      "tvl1_flow(Tensor frame0, Tensor frame1, Tensor? initial_flow, float tau, float lam, float theta, int scales, "
      "float scale_step, int warps, float epsilon, int inner_iterations, int outer_iterations, int median) -> Tensor");
  // frames and initial_flow as above -> (N, 2, H, W) float32; the window is a box, or Gaussian
  m.def(
      "farneback_flow(Tensor frame0, Tensor frame1, Tensor? initial_flow, float pyr_scale, int levels, int winsize, int iterations, "
      "int poly_n, float poly_sigma, bool gaussian) -> Tensor");
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
  // A section of recurrent convolutions on input (N, C, H, W): convolutions with input_weight (K, C, a, b) and recurrent_weights
  // (1 or steps, K, K, kh, kw), each followed by ReLU(scale_k * z + shift_k), scale and shift (steps + 1, K) float32;
  // injection "feedforward" adds the convolved input to every z, "input" adds the input before every convolution; then a
  // max-pool of windows `pool` -> (N, K, H', W')
  m.def(
      "recurrent_conv2d(Tensor input, Tensor input_weight, Tensor recurrent_weights, Tensor? scale, Tensor? shift, int steps, "
      "str injection, int[] pool, bool exact) -> Tensor");
  // The same with batch statistics -> (output, maps, statistics): what goes into each norm, (steps + 1, N, H, W, K), and its mean
  // and biased variance, (steps + 1, 2, K) float32; norm_weight and norm_bias (steps + 1, K) float32. Without `normalise` it is
  // ReLU alone, and statistics are empty.
  m.def(
      "recurrent_conv2d_train(Tensor input, Tensor input_weight, Tensor recurrent_weights, Tensor? norm_weight, Tensor? norm_bias, "
      "int steps, str injection, bool normalise, float eps, bool exact) -> (Tensor, Tensor, Tensor)");
  // grad of the output -> gradients of input (empty unless needed), input_weight, recurrent_weights, norm_weight, norm_bias (empty
  // where there is none)
  m.def(
      "recurrent_conv2d_backward(Tensor grad, Tensor input, Tensor input_weight, Tensor recurrent_weights, Tensor? norm_weight, "
      "Tensor? norm_bias, Tensor maps, Tensor statistics, int steps, str injection, bool normalise, float eps, bool need_input, "
      "bool exact) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  // A convolutional LSTM over input (T, N, C, H, W), gates i, f, g, o; weight_ih (4D, C, kh, kw), weight_hh (4D, D, kh, kw),
  // bias (4D), peephole (3, D, 1, 1), h0 and c0 (N, D, H, W), lengths (N) int64 -> (output (T, N, D, H, W), h, c, gates, states).
  // For the gradient, unless `segment` is 0: states (ceil(T / segment), 2, N, H, W, D) float32, h and c before every segment-th step
  // (in the order in which the steps run), and, if keep_gates, gates (T, N, H, W, 4D) behind their activations; else empty.
  m.def(
      "conv_lstm(Tensor input, Tensor weight_ih, Tensor weight_hh, Tensor? bias, Tensor? peephole, Tensor? h0, Tensor? c0, "
      "Tensor? lengths, bool reverse, int segment, bool keep_gates, bool exact) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  // gradients of output, h and c -> those of input (empty unless need_input), weight_ih, weight_hh, bias, peephole, h0, c0 (empty
  // where there is none)
  m.def(
      "conv_lstm_backward(Tensor grad_output, Tensor grad_h, Tensor grad_c, Tensor input, Tensor weight_ih, Tensor weight_hh, "
      "Tensor? bias, Tensor? peephole, Tensor? h0, Tensor? c0, Tensor? lengths, Tensor gates, Tensor states, bool reverse, "
      "int segment, bool need_input, bool exact) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  // A convolutional GRU: gates r, z, n, weights (3D, ...), biases (3D); the gates kept are r, z, n and the state's share of n,
  // W_hn h + b_hn; states (ceil(T / segment), N, H, W, D) float32, h before every segment-th step -> (output, h, gates, states)
  m.def(
      "conv_gru(Tensor input, Tensor weight_ih, Tensor weight_hh, Tensor? bias_ih, Tensor? bias_hh, Tensor? h0, Tensor? lengths, "
      "bool reverse, int segment, bool keep_gates, bool exact) -> (Tensor, Tensor, Tensor, Tensor)");
  // -> gradients of input, weight_ih, weight_hh, bias_ih, bias_hh, h0, as above
  m.def(
      "conv_gru_backward(Tensor grad_output, Tensor grad_h, Tensor input, Tensor weight_ih, Tensor weight_hh, Tensor? bias_ih, "
      "Tensor? bias_hh, Tensor? h0, Tensor? lengths, Tensor gates, Tensor states, bool reverse, int segment, bool need_input, bool exact) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  // For each fold, with weights of its own: convolution of input with weight (F, O, C, 3, 3), bias (F, O), ReLU, batch norm, max-pool
  // of kernel, stride and padding `pool`, dropout, means of average x average -> (output (F, B, O, H', W'), winners, statistics (F, 3, O)). input is (M, C, H,
  // W), of which fold f takes index[f], or (F, B, C, H, W); index (F, B) int64, negative in empty slots, whose output is 0. With
  // running_mean and running_var, (F, O), the norm's statistics are these, else those of the fold's examples. winners: what wins in
  // each window before the norm, as the device's backward wants it; statistics: mean less pivot, biased variance, pivot.
  m.def(
      "conv_norm_pool(Tensor input, Tensor? index, Tensor weight, Tensor? bias, Tensor? norm_weight, Tensor? norm_bias, "
      "Tensor? running_mean, Tensor? running_var, float eps, int padding, int[] pool, float dropout, Tensor? dropout_key, "
      "int average) -> (Tensor, Tensor, Tensor)");
  // grad of the output -> gradients of the examples (F, B, C, H, W) (empty unless need_input), weight, bias, norm_weight, norm_bias
  m.def(
      "conv_norm_pool_backward(Tensor grad, Tensor input, Tensor? index, Tensor weight, Tensor? bias, Tensor? norm_weight, "
      "Tensor winners, Tensor statistics, bool batch_statistics, float eps, int padding, int[] pool, float dropout, "
      "Tensor? dropout_key, int average, bool need_input) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  // whether this processor's matrix units serve bfloat16 (see cpu/matrix_units.h)
  m.def("matrix_units() -> bool");
}
