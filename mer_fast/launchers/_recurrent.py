"""What the launchers of recurrent_conv2d, conv_lstm and conv_gru share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ..reference.recurrent_conv2d import same
from . import _double_recurrent, kernels, launch
from ._implicit_gemm import Ints, cdiv, is_wide, tile


def wide(dtype: torch.dtype) -> torch.dtype:
    """What states, statistics and sums have."""
    return torch.promote_types(dtype, torch.float32)


def rows_of(maps: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """(N, H, W, C), dense, of (N, C, H, W) with any strides; one copy, or none."""
    view = maps.permute(0, 2, 3, 1)
    if dtype in (None, maps.dtype):
        return view.contiguous()
    return torch.empty(view.shape, dtype=dtype, device=maps.device).copy_(view)


def maps_of(rows: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W), a view of (N, H, W, C)."""
    return rows.permute(0, 3, 1, 2)


def packed(weight: torch.Tensor) -> torch.Tensor:
    """(..., O, K) of (..., O, C, kh, kw): weights in the order (kh, kw, c), that of a patch."""
    return weight.movedim(-3, -1).flatten(-3).contiguous()


def turned(weight: torch.Tensor) -> torch.Tensor:
    """(C, K), packed: the weights with which a convolution is the gradient of the convolution with `weight`."""
    return packed(weight.flip(2, 3).transpose(0, 1))


def orders(steps: int, segment: int, reverse: bool) -> list[list[int]]:
    """The times of each segment's steps, in the order in which they run."""
    times = list(range(steps))[:: -1 if reverse else 1]
    return [times[k : k + segment] for k in range(0, steps, max(1, segment))]


def products(kernel: str, rows: int, columns: int, input: torch.Tensor) -> tuple[int, int, dict[str, Any]]:
    """Of a kernel with products: its row blocks, its programs, and its blocks as arguments."""
    config, blocks = tile(kernel, columns, input, ("BLOCK_M", "BLOCK_O", "BLOCK_K"))
    row_blocks = cdiv(rows, config.rows)
    return row_blocks, row_blocks * cdiv(columns, config.columns), blocks


def pointwise(kernel: str, columns: int, input: torch.Tensor, *names: str) -> dict[str, Any]:
    """The blocks of a kernel without products, as those arguments."""
    _, blocks = tile(kernel, columns, input, ("BLOCK_M", "BLOCK_O", "BLOCK_K"))
    return {name: blocks[name] for name in (*names, "num_warps", "num_stages")}


# --- the library's convolutions -----------------------------------------------------------------------------------------
@contextmanager
def _as_it_is(input: torch.Tensor) -> Iterator[None]:
    """Always in one order, and in the dtype of the operands, also where a gradient is taken under autocast."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        with torch.autocast(input.device.type, enabled=False):
            yield
    finally:
        torch.backends.cudnn.deterministic = before


def convolved(input: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(M, H, W, O): the convolution of (M, C, H, W) by the library, in one call."""
    with _as_it_is(input):
        maps = F.conv2d(input.contiguous(memory_format=torch.channels_last), weight, padding=same(weight))
    return rows_of(maps)


def convolution_gradients(
    grad: torch.Tensor, input: torch.Tensor, weight: torch.Tensor, need_input: bool
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Gradients of input (M, C, H, W) and weight by the library; `grad` (M, H, W, O)."""
    with _as_it_is(input):
        of_input, of_weight, _ = torch.ops.aten.convolution_backward(
            maps_of(grad), input.contiguous(memory_format=torch.channels_last), weight, None,
            [1, 1], same(weight), [1, 1], False, [0, 0], 1, [need_input, True, False],
        )  # fmt: skip
    return of_input if need_input else None, of_weight


class Sum:
    """A sum of tensors in float32, in the order in which they come."""

    def __init__(self) -> None:
        self.total: torch.Tensor | None = None

    def add(self, value: torch.Tensor) -> None:
        self.total = value.to(wide(value.dtype)) if self.total is None else self.total + value

    def result(self, like: torch.Tensor) -> torch.Tensor:
        assert self.total is not None
        return self.total.to(like.dtype).reshape(like.shape).contiguous()


# --- cells over time ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Cell:
    """What the steps of a convolutional LSTM or GRU have in common."""

    weight_ih: torch.Tensor
    weight_hh: torch.Tensor
    lengths: torch.Tensor | None
    reverse: bool
    segment: int  # 0: nothing is kept

    @property
    def hidden(self) -> int:
        return self.weight_hh.shape[1]

    @property
    def kernel(self) -> Ints:
        return self.weight_hh.shape[2:]

    def constants(self) -> dict[str, Any]:
        """What the kernels with products take of these at compile time."""
        return {"HIDDEN": self.hidden, "KERNEL": tuple(self.kernel)}

    def ahead(self, input: torch.Tensor) -> torch.Tensor:
        """(T, N, H, W, gates * D): the input's share of the gates at all steps, from one convolution."""
        return convolved(input.flatten(0, 1), self.weight_ih).unflatten(0, input.shape[:2])

    def running(self, t: int) -> torch.Tensor | None:
        """(N, 1, 1, 1) bool: which sequences have not ended at step t."""
        return None if self.lengths is None else (t < self.lengths).view(-1, 1, 1, 1)

    def seen(self, input: torch.Tensor, first: int) -> torch.Tensor:
        """Inputs from step `first` on, 0 behind the ends: there they may be anything, NaN too."""
        if self.lengths is None:
            return input
        times = torch.arange(first, first + input.shape[0], device=input.device)
        return torch.where((times[:, None] < self.lengths).view(*input.shape[:2], 1, 1, 1), input, 0)

    def states(self, input: torch.Tensor, parts: tuple[int, ...]) -> torch.Tensor:
        """(segments, *parts, N, H, W, D) for what is before every segment; empty where nothing is kept."""
        if self.segment == 0:
            return input.new_empty((0,), dtype=wide(input.dtype))
        steps, batch, _, height, width = input.shape
        shape = (cdiv(steps, self.segment), *parts, batch, height, width, self.hidden)
        return input.new_empty(shape, dtype=wide(input.dtype))

    def kept(self, states: torch.Tensor, k: int) -> torch.Tensor | None:
        """Where the state behind the k-th step is kept: in front of a segment."""
        if self.segment == 0 or (k + 1) % self.segment or (k + 1) // self.segment >= states.shape[0]:
            return None
        return states[(k + 1) // self.segment]

    def first_state(self, after: torch.Tensor, carry: torch.Tensor | None, weight: torch.Tensor) -> torch.Tensor:
        """(N, D, H, W), the gradient of the state before the first step, from that of its gates; `weight` turned around."""
        batch, height, width, gates = after.shape
        output = after.new_empty((batch, self.hidden, height, width))
        if after.dtype == torch.float64:
            return output.copy_(_double_recurrent.carried(after, self.weight_hh, carry))
        rows = batch * height * width
        _, programs, blocks = products("first_state_gradient", rows, self.hidden, after)
        launch(
            kernels("recurrent").first_state_gradient, programs, after, weight, carry, output, rows, (height, width),
            GATES=gates // self.hidden, **self.constants(), WIDE=is_wide(after), **blocks,
        )  # fmt: skip
        return output

    def gradients(self, input: torch.Tensor, need_input: bool) -> Gradients:
        return Gradients(self, input, torch.empty_like(input, memory_format=torch.contiguous_format) if need_input else None)


@dataclass
class Gradients:
    """Gradients of a cell's convolutions, added up over stretches of its steps."""

    cell: Cell
    input: torch.Tensor
    of_input: torch.Tensor | None

    def __post_init__(self) -> None:
        self.ih, self.hh = Sum(), Sum()

    def add(self, first: int, ahead: torch.Tensor, share: torch.Tensor, hidden: torch.Tensor) -> None:
        """Steps from `first` on: gradients of the input's and of the state's share of the gates; the states before the steps."""
        part = self.input[first : first + len(ahead)]
        of_input, of_weight = convolution_gradients(
            ahead.flatten(0, 1), self.cell.seen(part, first).flatten(0, 1), self.cell.weight_ih, self.of_input is not None
        )
        self.ih.add(of_weight)
        if self.of_input is not None and of_input is not None:
            self.of_input[first : first + len(ahead)] = of_input.view(part.shape)
        self.hh.add(convolution_gradients(share.flatten(0, 1), maps_of(hidden.flatten(0, 1)), self.cell.weight_hh, False)[1])
