"""Convolutional LSTM: layers over time, and a single cell."""

from __future__ import annotations

from typing import Any

import torch

from .. import ops
from ..ops._checks import require, require_count
from ..ops._recurrent import Lengths, odd_kernel
from ._conv_recurrent import ConvRecurrent, Size, init_uniform

State = tuple[torch.Tensor, torch.Tensor]


class ConvLSTM(ConvRecurrent):
    """A convolutional LSTM over time, as `torch.nn.LSTM` with convolutions that keep height and width.

    Gates are i, f, g, o in this order. Parameters of layer k, with `_reverse` appended for the way back: `weight_ih_l{k}`
    (4 * hidden, C, kh, kw), `weight_hh_l{k}` (4 * hidden, hidden, kh, kw), and **one** bias `bias_l{k}` (4 * hidden), which is
    the sum of the two of torch.nn.LSTM; with peepholes `peephole_l{k}` (3, hidden, 1, 1) for i, f and o. Initial values are
    uniform within 1 / sqrt(hidden * kh * kw): those of torch.nn.LSTM for a kernel of 1.

    Args:
        in_channels, hidden_channels: C of the input, and of the state.
        kernel_size: odd, a number or (h, w).
        num_layers: layers, each on the output of the one before.
        bias: whether gates have a bias.
        batch_first: input and output are (N, T, C, H, W); states are not changed by it.
        bidirectional: a second way from the end to the beginning; the output has both, one after the other, in its channels.
        peephole: gates see the cell's state, one weight a channel.
        checkpoint: keep only states, at every eighth step, for the backward pass, which computes the gates again.

    Shape: x (T, N, C, H, W), state (h, c), each (layers * directions, N, hidden, H, W), zeros unless given, lengths a list or
    an integer tensor (N,) -> (output (T, N, hidden * directions, H, W), (h, c)). With lengths, the output behind a sequence's
    end is zero, h and c are those at its end, and the way back begins there.

    Raises:
        MerFastError: an even kernel, counts below 1; at a call, no steps, channels, states or lengths that do not fit.

    Source: Shi, Chen, Wang, Yeung, Wong, Woo, "Convolutional LSTM network: a machine learning approach for precipitation
    nowcasting", NeurIPS 2015.
    """

    gates = 4

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        kernel_size: Size,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        bidirectional: bool = False,
        peephole: bool = False,
        checkpoint: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.peephole = peephole  # which names the parameters that the base class makes
        super().__init__(
            in_channels, hidden_channels, kernel_size, num_layers, bias, batch_first, bidirectional, checkpoint, device, dtype
        )

    def shapes(self, channels: int) -> dict[str, tuple[int, ...]]:
        shapes = super().shapes(channels)
        if self.bias:
            shapes["bias"] = (4 * self.hidden_channels,)
        if self.peephole:
            shapes["peephole"] = (3, self.hidden_channels, 1, 1)
        return shapes

    def cell(
        self, input: torch.Tensor, weights: dict[str, Any], state: list[torch.Tensor | None], **options: Any
    ) -> tuple[torch.Tensor, ...]:
        return ops.conv_lstm(input, **weights, h0=state[0], c0=state[1], **options)

    def forward(
        self, x: torch.Tensor, state: State | None = None, lengths: Lengths | None = None
    ) -> tuple[torch.Tensor, State]:
        h, c = (None, None) if state is None else _pair("ConvLSTM", state)
        output, (h, c) = self.run(x, {"state h": h, "state c": c}, lengths)
        return output, (h, c)


class ConvLSTMCell(torch.nn.Module):
    """One step of a convolutional LSTM; gates i, f, g, o, initial values as in `ConvLSTM`.

    Parameters: `weight_ih` (4 * hidden, C, kh, kw), `weight_hh` (4 * hidden, hidden, kh, kw), `bias` (4 * hidden).

    Args:
        in_channels, hidden_channels, kernel_size, bias: as in `ConvLSTM`.

    Shape: x (N, C, H, W), state (h, c), each (N, hidden, H, W), zeros unless given -> (h, c).

    Raises:
        MerFastError: an even kernel; at a call, channels or states that do not fit.
    """

    def __init__(
        self, in_channels: int, hidden_channels: int, kernel_size: Size, *, bias: bool = True, device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        require_count("ConvLSTMCell", "in_channels", in_channels)
        require_count("ConvLSTMCell", "hidden_channels", hidden_channels)
        self.in_channels, self.hidden_channels = in_channels, hidden_channels
        self.kernel_size = odd_kernel("ConvLSTMCell", kernel_size)
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        outputs = 4 * hidden_channels
        self.weight_ih = torch.nn.Parameter(torch.empty(outputs, in_channels, *self.kernel_size, **made))
        self.weight_hh = torch.nn.Parameter(torch.empty(outputs, hidden_channels, *self.kernel_size, **made))
        self.bias = torch.nn.Parameter(torch.empty(outputs, **made)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init_uniform(dict(self.named_parameters()), self.weight_hh)

    def forward(self, x: torch.Tensor, state: State | None = None) -> State:
        check_step("ConvLSTMCell", x)
        h, c = (None, None) if state is None else _pair("ConvLSTMCell", state)
        _, h, c = ops.conv_lstm(x.unsqueeze(0), self.weight_ih, self.weight_hh, self.bias, h0=h, c0=c)
        return h, c

    def extra_repr(self) -> str:
        told = f"{self.in_channels}, {self.hidden_channels}, kernel_size={self.kernel_size}"
        return told if self.bias is not None else told + ", bias=False"


def check_step(layer: str, x: torch.Tensor) -> None:
    require(isinstance(x, torch.Tensor) and x.dim() == 4, layer, "x", "must be a tensor of shape (N, C, H, W), got {}",
            getattr(x, "shape", type(x).__name__))  # fmt: skip


def _pair(layer: str, state: State) -> State:
    require(isinstance(state, (tuple, list)) and len(state) == 2, layer, "state", "must be the two tensors (h, c)")
    return state[0], state[1]
