"""Convolutional GRU: layers over time, and a single cell."""

from __future__ import annotations

from typing import Any

import torch

from .. import ops
from ..ops._checks import require_count
from ..ops._recurrent import Lengths, odd_kernel
from ._conv_recurrent import ConvRecurrent, Size, init_uniform
from .conv_lstm import check_step


class ConvGRU(ConvRecurrent):
    """A convolutional GRU over time, as `torch.nn.GRU` with convolutions that keep height and width.

    Gates are r, z, n in this order, with `n = tanh(W_in * x + b_in + r (W_hn * h + b_hn))`. Parameters of layer k, with
    `_reverse` appended for the way back: `weight_ih_l{k}` (3 * hidden, C, kh, kw), `weight_hh_l{k}` (3 * hidden, hidden, kh,
    kw), `bias_ih_l{k}` and `bias_hh_l{k}` (3 * hidden). Initial values are uniform within 1 / sqrt(hidden * kh * kw): those of
    torch.nn.GRU for a kernel of 1.

    Args:
        in_channels, hidden_channels: C of the input, and of the state.
        kernel_size: odd, a number or (h, w).
        num_layers: layers, each on the output of the one before.
        bias: whether gates have biases.
        batch_first: input and output are (N, T, C, H, W); the state is not changed by it.
        bidirectional: a second way from the end to the beginning; the output has both, one after the other, in its channels.
        checkpoint: keep only states, at every eighth step, for the backward pass, which computes the gates again.

    Shape: x (T, N, C, H, W), state h (layers * directions, N, hidden, H, W), zeros unless given, lengths a list or an integer
    tensor (N,) -> (output (T, N, hidden * directions, H, W), h). With lengths, the output behind a sequence's end is zero, h
    is that at its end, and the way back begins there.

    Raises:
        MerFastError: an even kernel, counts below 1; at a call, no steps, channels, states or lengths that do not fit.

    Source: Ballas, Yao, Pal, Courville, "Delving deeper into convolutional networks for learning video representations",
    ICLR 2016; the gates are those of `torch.nn.GRU`.
    """

    gates = 3

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
        checkpoint: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_channels, hidden_channels, kernel_size, num_layers, bias, batch_first, bidirectional, checkpoint, device, dtype
        )

    def shapes(self, channels: int) -> dict[str, tuple[int, ...]]:
        biases = ("bias_ih", "bias_hh") if self.bias else ()
        return super().shapes(channels) | dict.fromkeys(biases, (3 * self.hidden_channels,))

    def cell(
        self, input: torch.Tensor, weights: dict[str, Any], state: list[torch.Tensor | None], **options: Any
    ) -> tuple[torch.Tensor, ...]:
        return ops.conv_gru(input, **weights, h0=state[0], **options)

    def forward(
        self, x: torch.Tensor, state: torch.Tensor | None = None, lengths: Lengths | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        output, (h,) = self.run(x, {"state": state}, lengths)
        return output, h


class ConvGRUCell(torch.nn.Module):
    """One step of a convolutional GRU; gates r, z, n, initial values as in `ConvGRU`.

    Parameters: `weight_ih` (3 * hidden, C, kh, kw), `weight_hh` (3 * hidden, hidden, kh, kw), `bias_ih`, `bias_hh` (3 * hidden).

    Args:
        in_channels, hidden_channels, kernel_size, bias: as in `ConvGRU`.

    Shape: x (N, C, H, W), state h (N, hidden, H, W), zeros unless given -> h.

    Raises:
        MerFastError: an even kernel; at a call, channels or a state that do not fit.
    """

    def __init__(
        self, in_channels: int, hidden_channels: int, kernel_size: Size, *, bias: bool = True, device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        require_count("ConvGRUCell", "in_channels", in_channels)
        require_count("ConvGRUCell", "hidden_channels", hidden_channels)
        self.in_channels, self.hidden_channels = in_channels, hidden_channels
        self.kernel_size = odd_kernel("ConvGRUCell", kernel_size)
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        outputs = 3 * hidden_channels
        self.weight_ih = torch.nn.Parameter(torch.empty(outputs, in_channels, *self.kernel_size, **made))
        self.weight_hh = torch.nn.Parameter(torch.empty(outputs, hidden_channels, *self.kernel_size, **made))
        self.bias_ih, self.bias_hh = (torch.nn.Parameter(torch.empty(outputs, **made)) if bias else None for _ in range(2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init_uniform(dict(self.named_parameters()), self.weight_hh)

    def forward(self, x: torch.Tensor, state: torch.Tensor | None = None) -> torch.Tensor:
        check_step("ConvGRUCell", x)
        _, h = ops.conv_gru(x.unsqueeze(0), self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh, h0=state)
        return h

    def extra_repr(self) -> str:
        told = f"{self.in_channels}, {self.hidden_channels}, kernel_size={self.kernel_size}"
        return told if self.bias_ih is not None else told + ", bias=False"
