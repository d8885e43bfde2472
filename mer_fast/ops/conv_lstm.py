"""Convolutional LSTM: one layer, one direction, over time."""

from __future__ import annotations

import torch

from .. import reference
from ..reference.conv_lstm import running
from ._cell_kernels import Tensors, register_cell, run, why_not_kernel
from ._composed import lstm_segment, over_time
from ._conv import exact, wants_gradient
from ._recurrent import (
    Lengths,
    cast,
    check_cell,
    check_lengths,
    chosen,
    require_operands,
    require_shape,
    without_autocast,
)


def conv_lstm(
    input: torch.Tensor,
    weight_ih: torch.Tensor,
    weight_hh: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    peephole: torch.Tensor | None = None,
    h0: torch.Tensor | None = None,
    c0: torch.Tensor | None = None,
    lengths: Lengths | None = None,
    reverse: bool = False,
    checkpoint: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A convolutional LSTM over time: `c' = f c + i g`, `h' = o tanh(c')`.

    The gates i, f, g, o are four parts of `W_ih * x + W_hh * h + b`, with a sigmoid on i, f and o and tanh on g; with
    `peephole` p, `p_i c` goes into i, `p_f c` into f and `p_o c'` into o. Convolutions keep height and width.

    Args:
        input: (T, N, C, H, W), float64, float32, float16 or bfloat16.
        weight_ih: (4 * hidden, C, kh, kw), kernel sizes odd.
        weight_hh: (4 * hidden, hidden, kh, kw), kernel sizes odd.
        bias: (4 * hidden,) or None.
        peephole: (3, hidden, 1, 1), or (3, hidden, H, W) as published, for i, f and o; None for none.
        h0, c0: first states (N, hidden, H, W); zeros unless given.
        lengths: steps of each sequence, from 0 to T, a list or an integer tensor (N,). The output behind a sequence's end is
            zero, and the states are those at its end; what the input holds there is not used. On a GPU, and in compiled code,
            values are not checked, and those out of range count as 0 or T.
        reverse: from the last step (of each sequence) to the first.
        checkpoint: keep only states, at every eighth step, for the backward pass, which computes the gates again.

    Returns:
        output (T, N, hidden, H, W), and the last h and c (N, hidden, H, W), in the dtype of `input`; under autocast in
        autocast's. Below float32 states and gates are float32 inside. Differentiable, also twice. One kernel
        runs all steps: on a CPU in float32 (3x3 and 5x5 kernels as Winograd convolutions, except under
        `torch.use_deterministic_algorithms(True)`) and, without gradient and where the processor has matrix units (AMX), in
        bfloat16; on a GPU in every dtype. The rest (other dtypes on a CPU, kernels of two sizes, very many channels,
        torch.func's derivatives) runs the library's convolutions.

    Raises:
        MerFastError: no steps, operands, states or lengths that do not fit, even kernels, mixed dtypes or devices.

    Source: Shi, Chen, Wang, Yeung, Wong, Woo, "Convolutional LSTM network: a machine learning approach for precipitation
    nowcasting", NeurIPS 2015.
    """
    op = "conv_lstm"
    input, weight_ih, weight_hh, bias, peephole, h0, c0 = cast(input, weight_ih, weight_hh, bias, peephole, h0, c0)
    check_cell(op, 4, input, weight_ih, weight_hh, {"bias": bias}, {"h0": h0, "c0": c0})
    hidden = weight_hh.shape[1]
    require_operands(op, input, {"peephole": peephole})
    require_shape(op, "peephole", peephole, (3, hidden, 1, 1), (3, hidden, *input.shape[3:]))
    ends = check_lengths(op, input, lengths)
    operands = input, weight_ih, weight_hh, bias, peephole, h0, c0
    gradient = wants_gradient(*operands)
    reason = why_not_kernel(input, weight_ih, weight_hh, gradient)
    if peephole is not None and peephole.shape[2:] != (1, 1):
        reason = "for peepholes of one weight a channel"
    with without_autocast(input):
        how = chosen(op, input, operands, reason)
        if how == "reference":
            return reference.conv_lstm(
                input, weight_ih, weight_hh, bias, peephole=peephole, h0=h0, c0=c0, lengths=ends, reverse=reverse
            )
        if how == "kernel":
            return run(op, operands, ends, reverse, gradient, checkpoint, exact())[:3]  # type: ignore[return-value]
        return _composed(operands, ends, reverse, gradient, checkpoint)


def _composed(
    operands: Tensors, ends: torch.Tensor | None, reverse: bool, gradient: bool = True, checkpoint: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    input, weight_ih, weight_hh, bias, peephole, h0, c0 = operands
    assert input is not None and weight_ih is not None and weight_hh is not None
    segment = lstm_segment(weight_ih, weight_hh, bias, peephole, reverse=reverse, in_place=not gradient)
    values = input.shape[1] * weight_hh.shape[0] * input.shape[3] * input.shape[4]
    output, (h, c) = over_time(
        segment, input, (h0, c0), running(input, ends), values, reverse=reverse, gradient=gradient, checkpoint=checkpoint
    )
    assert h is not None and c is not None
    return output, h.contiguous(), c.to(input.dtype).contiguous()


register_cell("conv_lstm", states=2, gates=4, operands=7, plain=_composed)
