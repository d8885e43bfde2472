"""Launches kernels/triton/conv_norm_pool*.py: a block of several folds' networks, and its gradients, on CUDA tensors.

However many folds and slots: three launches forward (maps and winners, statistics, output), two with running statistics; three
backward (windows, maps, sum of the weights' gradient), one more above 16 outputs or 3 channels and one more for the input's
gradient. Around them a few of the library, for zeros around the input and for layouts. Here `winners` is (2, F, B, O, windows):
the values, and their places in their windows; and `statistics` are the mean's low part, the biased variance, the mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ..errors import MerFastError
from . import _double_blocks, kernels, launch
from ._implicit_gemm import Ints, cdiv, is_wide, serves_cuda, tile

# With as few outputs, and weights of each, the weights' gradient is summed where the map's is made, and that is never stored.
FUSED_OUTPUTS, FUSED_WEIGHTS = 16, 32
SPLIT = 64  # blocks of places in one split of the weight gradient's sum otherwise: the same however many there are
WORD = 0xFFFFFFFF

Given = torch.Tensor | None


@dataclass(frozen=True)
class FoldBlocks:
    """What both directions share of a block."""

    input: torch.Tensor  # (M, C, H, W) or (F, B, C, H, W)
    index: Given  # (F, B)
    weight: torch.Tensor  # (F, O, C, 3, 3)
    eps: float
    padding: int
    pool: tuple[int, int, int]  # kernel, stride, padding
    dropout: float
    key: Given  # None where nothing drops out
    average: int

    @property
    def folds(self) -> int:
        return self.weight.shape[0]

    @property
    def outputs(self) -> int:
        return self.weight.shape[1]

    @property
    def channels(self) -> int:
        return self.weight.shape[2]

    @property
    def slots(self) -> int:
        return self.input.shape[1] if self.index is None else self.index.shape[1]

    @property
    def shared(self) -> bool:
        return self.input.dim() == 4

    @property
    def map_size(self) -> tuple[int, int]:
        return self.input.shape[-2] + 2 * self.padding - 2, self.input.shape[-1] + 2 * self.padding - 2

    @property
    def pooled(self) -> tuple[int, int]:
        kernel, stride, around = self.pool
        height, width = ((n + 2 * around - kernel) // stride + 1 for n in self.map_size)
        return height, width

    @property
    def cells(self) -> tuple[int, int]:
        """As large as the pool's stride, from its first window on: all of them together are the map."""
        _, stride, around = self.pool
        height, width = (cdiv(n + around, stride) for n in self.map_size)
        return height, width

    @property
    def closed(self) -> tuple[int, int]:
        return self.pooled[0] // self.average, self.pooled[1] // self.average

    def framed(self) -> torch.Tensor:
        """The input between zeros."""
        return F.pad(self.input, [self.padding] * 4) if self.padding else self.input.contiguous()

    def dropouts(self) -> tuple[Given, int, float]:
        """Keys, the hash below which an element drops out, and what the others are multiplied by."""
        stretch = 1 / (1 - self.dropout) if self.dropout < 1 else 0.0
        return self.key, min(int(self.dropout * 2**32), WORD), stretch

    def products(self, kernel: str, outputs: int) -> dict[str, Any]:
        """The blocks of a kernel with products; all its outputs are one block."""
        config, blocks = tile(kernel, outputs, self.input, ("BLOCK_M", "BLOCK_O", "BLOCK_K"))
        return {**blocks, "BLOCK_O": FUSED_OUTPUTS if outputs <= FUSED_OUTPUTS else config.columns}

    def pointwise(self, kernel: str, *names: str) -> dict[str, Any]:
        """The blocks of a kernel without products."""
        _, blocks = tile(kernel, self.outputs, self.input, ("BLOCK_M", "BLOCK_O", "BLOCK_K"))
        return {name: blocks[name] for name in (*names, "num_warps", "num_stages")}


def _blocks(
    op: str, input: torch.Tensor, index: Given, weight: torch.Tensor, eps: float, padding: int, pool: Ints, dropout: float,
    key: Given, average: int,
) -> FoldBlocks:  # fmt: skip
    if input.dtype not in (torch.float32, torch.float64):
        raise MerFastError(f"{op}: input must be float32 or float64, got {input.dtype}; convert it with .to(torch.float32)")
    kernel, stride, around = pool
    index = None if index is None else index.contiguous()
    key = key.contiguous() if key is not None and dropout > 0 else None
    return FoldBlocks(input, index, weight.contiguous(), eps, padding, (kernel, stride, around), dropout, key, average)


def _dense(*tensors: Given) -> list[Given]:
    return [None if one is None else one.contiguous() for one in tensors]


# --- forward --------------------------------------------------------------------------------------------------------------
@serves_cuda("conv_norm_pool")
def conv_norm_pool(
    input: torch.Tensor,
    index: Given,
    weight: torch.Tensor,
    bias: Given,
    norm_weight: Given,
    norm_bias: Given,
    running_mean: Given,
    running_var: Given,
    eps: float,
    padding: int,
    pool: Ints,
    dropout: float,
    dropout_key: Given,
    average: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    s = _blocks("conv_norm_pool", input, index, weight, eps, padding, pool, dropout, dropout_key, average)
    output = input.new_empty((s.folds, s.slots, s.outputs, *s.closed))
    winners = input.new_empty((2, s.folds, s.slots, s.outputs, math.prod(s.pooled)))
    bias, scale, shift = _dense(bias, norm_weight, norm_bias)
    running = None
    if running_mean is not None and running_var is not None:
        running = torch.stack((torch.zeros_like(running_mean), running_var, running_mean), 1)
    if output.numel() == 0:
        return output, winners, input.new_zeros((s.folds, 3, s.outputs)) if running is None else running
    if input.dtype == torch.float64:
        return _double_blocks.forward(s, bias, scale, shift, running)
    with torch.cuda.device_of(input):
        statistics = _maps(s, bias, scale, winners, running)
        blocks, count = s.pointwise("conv_norm_pool_close", "BLOCK_M"), math.prod(output.shape[1:])
        launch(
            kernels("conv_norm_pool").conv_norm_pool_close, s.folds * cdiv(count, blocks["BLOCK_M"]),
            winners, s.index, statistics, scale, shift, s.dropouts()[0], output, count, s.slots, s.pooled, s.eps,
            *s.dropouts()[1:], OUTPUTS=s.outputs, AVERAGE=average, **blocks,
        )  # fmt: skip
    return output, winners, statistics


def _maps(s: FoldBlocks, bias: Given, scale: Given, winners: torch.Tensor, running: Given) -> torch.Tensor:
    """Fills the winners; the statistics, which are `running` where that is given."""
    x = s.framed()
    blocks = s.products("conv_norm_pool_maps", s.outputs)
    rows = s.slots * math.prod(s.cells)
    row_blocks = cdiv(rows, blocks["BLOCK_M"])
    partial = x.new_empty((s.folds, row_blocks, 3, s.outputs)) if running is None else None
    launch(
        kernels("conv_norm_pool").conv_norm_pool_maps, s.folds * row_blocks,
        x, s.index, s.weight, bias, scale, winners, partial, rows, s.folds, s.slots, len(x), tuple(x.shape[-2:]), s.map_size,
        s.cells, s.pooled, CHANNELS=s.channels, OUTPUTS=s.outputs, POOL=s.pool, SHARED=s.shared, WIDE=is_wide(x), **blocks,
    )  # fmt: skip
    if partial is None:
        assert running is not None
        return running
    statistics = x.new_empty((s.folds, 3, s.outputs))
    launch(
        kernels("conv_norm_pool").conv_norm_pool_statistics, s.folds, partial, statistics, row_blocks, OUTPUTS=s.outputs,
        **s.pointwise("conv_norm_pool_statistics", "BLOCK_M"), BLOCK_O=blocks["BLOCK_O"],
    )  # fmt: skip
    return statistics


# --- backward -------------------------------------------------------------------------------------------------------------
@serves_cuda("conv_norm_pool_backward")
def conv_norm_pool_backward(
    grad: torch.Tensor,
    input: torch.Tensor,
    index: Given,
    weight: torch.Tensor,
    bias: Given,
    norm_weight: Given,
    winners: torch.Tensor,
    statistics: torch.Tensor,
    batch_statistics: bool,
    eps: float,
    padding: int,
    pool: Ints,
    dropout: float,
    dropout_key: Given,
    average: int,
    need_input: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    s = _blocks("conv_norm_pool_backward", input, index, weight, eps, padding, pool, dropout, dropout_key, average)
    shapes: list[tuple[int, ...]] = [weight.shape, *[weight.shape[:2]] * 3]
    of_input = input.new_empty((s.folds, s.slots, *input.shape[-3:]) if need_input else (0,))
    if grad.numel() == 0:
        of_weight, of_bias, of_scale, of_shift = (input.new_zeros(shape) for shape in shapes)
        return of_input.zero_(), of_weight, of_bias, of_scale, of_shift
    bias, scale = _dense(bias, norm_weight)
    grad, winners, statistics = grad.contiguous(), winners.contiguous(), statistics.contiguous()
    if input.dtype == torch.float64:
        return _double_blocks.backward(s, grad, bias, scale, winners, statistics, batch_statistics, need_input)
    of_weight, of_bias, of_scale, of_shift = (input.new_empty(shape) for shape in shapes)
    with torch.cuda.device_of(input):
        pulled, slopes = torch.empty_like(winners[0]), torch.empty_like(statistics)
        key, *numbers = s.dropouts()
        launch(
            kernels("conv_norm_pool_backward").conv_norm_pool_open, s.folds * s.outputs,
            grad, s.index, winners, statistics, scale, key, pulled, of_scale, of_shift, slopes, s.slots,
            math.prod(s.map_size), s.pooled, s.eps, *numbers, OUTPUTS=s.outputs, AVERAGE=average, BATCH=batch_statistics,
            **s.pointwise("conv_norm_pool_open", "BLOCK_M"),
        )  # fmt: skip
        partial, maps = _map_gradients(s, bias, winners, pulled, statistics, slopes, need_input)
        blocks = s.pointwise("conv_norm_pool_total", "BLOCK_M", "BLOCK_O")
        launch(
            kernels("conv_norm_pool_backward").conv_norm_pool_total, s.folds * cdiv(partial[0, 0].numel(), blocks["BLOCK_O"]),
            partial, of_weight, of_bias, partial.shape[1], K=9 * s.channels, OUTPUTS=s.outputs, **blocks,
        )  # fmt: skip
        if maps is not None and need_input:
            _input_gradient(s, maps, of_input)
    return of_input, of_weight, of_bias, of_scale, of_shift


def _map_gradients(
    s: FoldBlocks, bias: Given, winners: torch.Tensor, pulled: torch.Tensor, statistics: torch.Tensor, slopes: torch.Tensor,
    need_input: bool,
) -> tuple[torch.Tensor, Given]:  # fmt: skip
    """Splits of the gradients of weights and bias (F, splits, O, K + 1), and the maps' gradients where they are stored."""
    x, weights = s.framed(), 9 * s.channels
    fused = s.outputs <= FUSED_OUTPUTS and weights <= FUSED_WEIGHTS
    maps = None
    if need_input or not fused:  # zeros around, as many as the convolution back to the input wants
        maps = x.new_zeros((s.folds, s.slots, s.outputs, s.input.shape[-2] + 2, s.input.shape[-1] + 2))
    blocks = s.products("conv_norm_pool_map_gradient", s.outputs) | ({"BLOCK_K": FUSED_WEIGHTS} if fused else {})
    rows = s.slots * math.prod(s.cells)
    row_blocks = cdiv(rows, blocks["BLOCK_M"])
    partial = x.new_empty((s.folds, row_blocks, s.outputs, weights + 1)) if fused else None
    sizes, border = (tuple(x.shape[-2:]), s.map_size), 2 - s.padding
    launch(
        kernels("conv_norm_pool_backward").conv_norm_pool_map_gradient, s.folds * row_blocks,
        x, s.index, s.weight, bias, winners, pulled, statistics, slopes, maps, partial, rows, s.folds, s.slots, len(x), border,
        *sizes, s.cells, s.pooled, CHANNELS=s.channels, OUTPUTS=s.outputs, POOL=s.pool, SHARED=s.shared, WIDE=is_wide(x),
        **blocks,
    )  # fmt: skip
    if partial is not None:
        return partial, maps
    blocks = s.products("conv_norm_pool_weight_gradient", s.outputs)
    rows, split = s.slots * math.prod(s.map_size), SPLIT * blocks["BLOCK_M"]
    partial = x.new_empty((s.folds, cdiv(rows, split), s.outputs, weights + 1))
    launch(
        kernels("conv_norm_pool_backward").conv_norm_pool_weight_gradient,
        s.folds * partial.shape[1] * cdiv(weights, blocks["BLOCK_K"]),
        x, s.index, maps, partial, rows, split, s.slots, len(x), border, *sizes,
        CHANNELS=s.channels, OUTPUTS=s.outputs, SHARED=s.shared, WIDE=is_wide(x), **blocks,
    )  # fmt: skip
    return partial, maps


def _input_gradient(s: FoldBlocks, maps: torch.Tensor, of_input: torch.Tensor) -> None:
    """Fills the gradients of the examples: the maps' convolved with the weights turned around."""
    blocks = s.products("conv_norm_pool_input_gradient", s.channels)
    rows = s.slots * s.input.shape[-2] * s.input.shape[-1]
    launch(
        kernels("conv_norm_pool_backward").conv_norm_pool_input_gradient, s.folds * cdiv(rows, blocks["BLOCK_M"]),
        maps, s.weight.flip(3, 4).transpose(1, 2).contiguous(), of_input, rows, s.slots, tuple(maps.shape[-2:]),
        CHANNELS=s.channels, OUTPUTS=s.outputs, WIDE=is_wide(maps, of_input), **blocks,
    )  # fmt: skip
