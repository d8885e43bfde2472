"""Launches kernels/triton/conv3d.py: torch.ops.mer_fast.conv3d of CUDA tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from . import kernels, launch
from ._implicit_gemm import ACTIVATIONS, Convolution, Ints, cdiv, gathered, is_wide, packed, serves_cuda, tile


@serves_cuda("conv3d")
def conv3d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    activation: str,
    exact: bool,  # sums always go in the order of the formula here
) -> torch.Tensor:
    if input.dtype == torch.float64:  # a check, not a workload: the library's operations, one after the other
        full = F.conv3d(input, weight, bias, stride, padding, dilation, groups)
        return ACTIVATIONS[activation](full).contiguous()
    shape = Convolution(stride, padding, dilation, groups)
    out_size = shape.output_size(input.shape[2:], weight.shape[2:])
    output = input.new_empty((input.shape[0], weight.shape[0], *out_size))
    if output.numel() == 0:
        return output
    outputs, rows = weight.shape[0] // groups, output.numel() // weight.shape[0]
    config, blocks = tile("conv3d", outputs, input, ("BLOCK_M", "BLOCK_O", "BLOCK_K"))
    with torch.cuda.device_of(input):
        input = gathered(input, weight.shape[1])
        launch(
            kernels("conv3d").conv3d, cdiv(rows, config.rows) * cdiv(outputs, config.columns) * groups,
            input, packed(weight), None if bias is None else bias.contiguous(), output,
            rows, outputs, groups, *input.stride(), tuple(input.shape[2:]), out_size,
            **shape.constants(weight), ACTIVATION=activation, WIDE=is_wide(input, output), **blocks,
        )  # fmt: skip
    return output
