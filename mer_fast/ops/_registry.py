"""Every op and the kernels it has: one line an op. Tests, benchmarks, `make kernels` and `make gpu-check` go through it."""

from __future__ import annotations

from typing import NamedTuple


class Op(NamedTuple):
    """An op of `mer_fast.ops`; `mer_fast.reference` has its plain PyTorch form under the same name."""

    kernels: tuple[str, ...]  # implementations besides the reference: "cpu", "cuda", "triton"
    backward: tuple[str, ...] = ()  # operators of torch.ops.mer_fast that only its gradient calls


OPS: dict[str, Op] = {
    "tvl1_flow": Op(("cpu", "cuda")),
    "farneback_flow": Op(("cpu", "cuda")),
    "optical_strain": Op(("cpu", "cuda"), backward=("optical_strain_backward",)),
    "tim": Op(("cpu", "cuda")),
    "conv3d": Op(("cpu", "triton")),
    "conv3d_pool": Op(("cpu", "triton"), backward=("conv3d_pool_backward",)),
    "recurrent_conv2d": Op(("cpu", "triton"), backward=("recurrent_conv2d_train", "recurrent_conv2d_backward")),
    "conv_lstm": Op(("cpu", "triton"), backward=("conv_lstm_backward",)),
    "conv_gru": Op(("cpu", "triton"), backward=("conv_gru_backward",)),
    "conv_norm_pool": Op(("cpu", "triton"), backward=("conv_norm_pool_backward",)),
}
