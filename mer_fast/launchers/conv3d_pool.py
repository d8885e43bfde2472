"""Launches kernels/triton/conv3d_pool.py: torch.ops.mer_fast.conv3d_pool and its gradients, of CUDA tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from . import _double, kernels, launch
from ._implicit_gemm import NOBODY, Convolution, Ints, cdiv, gathered, is_wide, packed, serves_cuda, tile, unpacked

PROGRAMS = 1024  # of the weight gradient, about: enough for every GPU, and the same splits of the sum on each


@dataclass(frozen=True)
class ConvolutionPool(Convolution):
    """A convolution and the pool behind it."""

    pool_kernel: Ints
    pool_stride: Ints

    def pooled_size(self, size: Ints, kernel: Ints) -> tuple[int, ...]:
        every = zip(self.output_size(size, kernel), self.pool_kernel, self.pool_stride, strict=True)
        return tuple((n - k) // s + 1 for n, k, s in every)

    def constants(self, weight: torch.Tensor) -> dict[str, Any]:
        pool = {"POOL_KERNEL": tuple(self.pool_kernel), "POOL_STRIDE": tuple(self.pool_stride)}
        return {**super().constants(weight), **pool}


@serves_cuda("conv3d_pool")
def conv3d_pool(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    activation: str,
    pool_kernel: Ints,
    pool_stride: Ints,
    keep_winners: bool,
    exact: bool,  # sums always go in the order of the formula here
) -> tuple[torch.Tensor, torch.Tensor]:
    if activation == "leaky_relu":  # rises everywhere, so the winners are the same before it, where they are wanted
        activation = "none"
    shape = ConvolutionPool(stride, padding, dilation, groups, pool_kernel, pool_stride)
    out_size = shape.pooled_size(input.shape[2:], weight.shape[2:])
    output = input.new_empty((input.shape[0], weight.shape[0], *out_size))
    winners = output.new_empty(output.shape if keep_winners else (0,), dtype=torch.uint8)
    if output.numel() == 0:
        return output, winners
    if input.dtype == torch.float64:
        output, places = _double.forward(shape, activation, input, weight, bias)
        return output, places if keep_winners else winners
    outputs, rows = weight.shape[0] // groups, output.numel() // weight.shape[0]
    config, blocks = tile("conv3d_pool", outputs, input, ("BLOCK_M", "BLOCK_O", "BLOCK_K"))
    with torch.cuda.device_of(input):
        input = gathered(input, weight.shape[1])
        launch(
            kernels("conv3d_pool").conv3d_pool, cdiv(rows, config.rows) * cdiv(outputs, config.columns) * groups,
            input, packed(weight), None if bias is None else bias.contiguous(), output, winners,
            rows, outputs, groups, *input.stride(), tuple(input.shape[2:]), out_size,
            **shape.constants(weight), ACTIVATION=activation, KEEP_WINNERS=keep_winners, WIDE=is_wide(input, output), **blocks,
        )  # fmt: skip
    return output, winners


def weight_gradient(
    shape: ConvolutionPool, grad: torch.Tensor, winners: torch.Tensor, input: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    outputs, rows = weight.shape[0] // shape.groups, grad.numel() // weight.shape[0]
    config, blocks = tile("conv3d_pool_weight_gradient", outputs, input, ("BLOCK_M", "BLOCK_O", "BLOCK_K"))
    input = gathered(input, weight.shape[1])
    tiles = cdiv(weight[0].numel(), config.reduction) * cdiv(outputs, config.columns) * shape.groups
    in_blocks = cdiv(rows, config.rows)
    rows_of_split = config.rows * cdiv(in_blocks, min(in_blocks, cdiv(PROGRAMS, tiles)))
    splits = cdiv(rows, rows_of_split)
    partial = grad.new_empty((splits, weight.shape[0], weight[0].numel()), dtype=torch.float32)
    launch(
        kernels("conv3d_pool_backward").conv3d_pool_weight_gradient, tiles * splits,
        grad, winners, input, partial,
        rows, rows_of_split, outputs, shape.groups, *input.stride(), tuple(input.shape[2:]), tuple(grad.shape[2:]),
        **shape.constants(weight), WIDE=is_wide(input, grad, partial), **blocks,
    )  # fmt: skip
    return unpacked(partial.sum(0), weight)


def input_gradient(
    shape: ConvolutionPool, grad: torch.Tensor, winners: torch.Tensor, input: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    outputs, channels = weight.shape[0] // shape.groups, weight.shape[1]
    output = torch.empty(input.shape, dtype=input.dtype, device=input.device)
    cell = [p * s for p, s in zip(shape.pool_stride, shape.stride, strict=True)]
    cells = tuple(cdiv(n, c) for n, c in zip(input.shape[2:], cell, strict=True))
    rows, columns = input.shape[0] * cells[0] * cells[1] * cells[2], channels * cell[0] * cell[1] * cell[2]
    config, blocks = tile("conv3d_pool_input_gradient", columns, input, ("BLOCK_M", "BLOCK_N", "BLOCK_O"))
    launch(
        kernels("conv3d_pool_backward").conv3d_pool_input_gradient,
        cdiv(rows, config.rows) * cdiv(columns, config.columns) * shape.groups,
        grad, winners, packed(weight), output,
        rows, outputs, shape.groups, tuple(input.shape[2:]), tuple(grad.shape[2:]), cells,
        **shape.constants(weight), WIDE=is_wide(output, grad), **blocks,
    )  # fmt: skip
    return output


def bias_gradient(grad: torch.Tensor, winners: torch.Tensor) -> torch.Tensor:
    return torch.where(winners == NOBODY, 0, grad).sum((0, 2, 3, 4), dtype=torch.float32).to(grad.dtype)


@serves_cuda("conv3d_pool_backward")
def conv3d_pool_backward(
    grad: torch.Tensor,
    winners: torch.Tensor,
    input: torch.Tensor,
    weight: torch.Tensor,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    pool_kernel: Ints,
    pool_stride: Ints,
    need_input: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    shape = ConvolutionPool(stride, padding, dilation, groups, pool_kernel, pool_stride)
    none = input.new_empty((0,))
    if grad.numel() == 0:
        shapes = input.shape, weight.shape, weight.shape[:1]
        of_input, of_weight, of_bias = (input.new_zeros(s) for s in shapes)
    elif input.dtype == torch.float64:
        of_input, of_weight, of_bias = _double.backward(shape, grad, winners, input, weight)
    else:
        with torch.cuda.device_of(input):
            grad, winners = grad.contiguous(), winners.contiguous()
            of_input = input_gradient(shape, grad, winners, input, weight) if need_input else none
            of_weight = weight_gradient(shape, grad, winners, input, weight) if need_weight else none
            of_bias = bias_gradient(grad, winners) if need_bias else none
    return of_input if need_input else none, of_weight if need_weight else none, of_bias if need_bias else none
