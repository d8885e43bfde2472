"""Convolutional GRU: one layer, one direction, over time."""

from __future__ import annotations

import torch

from .. import reference
from ..reference.conv_lstm import running
from ._cell_kernels import Tensors, register_cell, run, why_not_kernel
from ._composed import gru_segment, over_time
from ._conv import exact, wants_gradient
from ._recurrent import Lengths, cast, check_cell, check_lengths, chosen, without_autocast


def conv_gru(
    input: torch.Tensor,
    weight_ih: torch.Tensor,
    weight_hh: torch.Tensor,
    bias_ih: torch.Tensor | None = None,
    bias_hh: torch.Tensor | None = None,
    *,
    h0: torch.Tensor | None = None,
    lengths: Lengths | None = None,
    reverse: bool = False,
    checkpoint: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A convolutional GRU over time: `h' = (1 - z) n + z h`, with `n = tanh(W_in * x + b_in + r (W_hn * h + b_hn))`.

    The gates r and z are sigmoids of `W_ih * x + b_ih + W_hh * h + b_hh`; weights hold r, z, n in this order, as
    `torch.nn.GRU`. Convolutions keep height and width.

    Args:
        input: (T, N, C, H, W), float64, float32, float16 or bfloat16.
        weight_ih: (3 * hidden, C, kh, kw), kernel sizes odd.
        weight_hh: (3 * hidden, hidden, kh, kw), kernel sizes odd.
        bias_ih, bias_hh: (3 * hidden,) or None.
        h0: first state (N, hidden, H, W); zeros unless given.
        lengths: steps of each sequence, from 0 to T, a list or an integer tensor (N,). The output behind a sequence's end is
            zero, and the state is that at its end; what the input holds there is not used. On a GPU, and in compiled code,
            values are not checked, and those out of range count as 0 or T.
        reverse: from the last step (of each sequence) to the first.
        checkpoint: keep only states, at every eighth step, for the backward pass, which computes the gates again.

    Returns:
        output (T, N, hidden, H, W) and the last h (N, hidden, H, W), in the dtype of `input`; under autocast in autocast's.
        Below float32 states and gates are float32 inside. Differentiable, also twice. One kernel
        runs all steps: on a CPU in float32 (3x3 and 5x5 kernels as Winograd convolutions, except under
        `torch.use_deterministic_algorithms(True)`) and, without gradient and where the processor has matrix units (AMX), in
        bfloat16; on a GPU in every dtype. The rest (other dtypes on a CPU, kernels of two sizes, very many channels,
        torch.func's derivatives) runs the library's convolutions.

    Raises:
        MerFastError: no steps, operands, states or lengths that do not fit, even kernels, mixed dtypes or devices.

    Source: Ballas, Yao, Pal, Courville, "Delving deeper into convolutional networks for learning video representations",
    ICLR 2016; the gates are those of `torch.nn.GRU`.
    """
    op = "conv_gru"
    input, weight_ih, weight_hh, bias_ih, bias_hh, h0 = cast(input, weight_ih, weight_hh, bias_ih, bias_hh, h0)
    check_cell(op, 3, input, weight_ih, weight_hh, {"bias_ih": bias_ih, "bias_hh": bias_hh}, {"h0": h0})
    ends = check_lengths(op, input, lengths)
    operands = input, weight_ih, weight_hh, bias_ih, bias_hh, h0
    gradient = wants_gradient(*operands)
    with without_autocast(input):
        how = chosen(op, input, operands, why_not_kernel(input, weight_ih, weight_hh, gradient))
        if how == "reference":
            return reference.conv_gru(input, weight_ih, weight_hh, bias_ih, bias_hh, h0=h0, lengths=ends, reverse=reverse)
        if how == "kernel":
            return run(op, operands, ends, reverse, gradient, checkpoint, exact())[:2]  # type: ignore[return-value]
        return _composed(operands, ends, reverse, gradient, checkpoint)


def _composed(
    operands: Tensors, ends: torch.Tensor | None, reverse: bool, gradient: bool = True, checkpoint: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    input, weight_ih, weight_hh, bias_ih, bias_hh, h0 = operands
    assert input is not None and weight_ih is not None and weight_hh is not None
    segment = gru_segment(weight_ih, weight_hh, bias_ih, bias_hh, reverse=reverse, in_place=not gradient)
    values = input.shape[1] * weight_hh.shape[0] * input.shape[3] * input.shape[4]
    output, (h,) = over_time(
        segment, input, (h0,), running(input, ends), values, reverse=reverse, gradient=gradient, checkpoint=checkpoint
    )
    assert h is not None
    return output, h.to(input.dtype).contiguous()


register_cell("conv_gru", states=1, gates=3, operands=6, plain=_composed)
