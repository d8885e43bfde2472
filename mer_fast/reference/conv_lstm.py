"""Convolutional LSTM (Shi et al., NeurIPS 2015): one layer, one direction, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .recurrent_conv2d import same

Lengths = torch.Tensor | Sequence[int]


def running(input: torch.Tensor, lengths: Lengths | None) -> torch.Tensor | None:
    """(T, N, 1, 1, 1) bool, whether a sequence still runs at a step; None where all run to the end."""
    if lengths is None:
        return None
    ends = torch.as_tensor(lengths, device=input.device)
    return (torch.arange(input.shape[0], device=input.device)[:, None] < ends).view(*input.shape[:2], 1, 1, 1)


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
    """See `mer_fast.ops.conv_lstm`; `checkpoint` changes nothing here."""
    steps, batch, _, height, width = input.shape
    zero = input.new_zeros(batch, weight_hh.shape[1], height, width)
    h, c = (zero if state is None else state for state in (h0, c0))
    mask = running(input, lengths)
    if mask is not None:
        input = torch.where(mask, input, 0)
    outputs = [zero] * steps
    for t in reversed(range(steps)) if reverse else range(steps):
        gates = F.conv2d(input[t], weight_ih, bias, padding=same(weight_ih)) + F.conv2d(h, weight_hh, padding=same(weight_hh))
        i, f, g, o = gates.chunk(4, 1)
        if peephole is not None:
            i, f = i + peephole[0] * c, f + peephole[1] * c
        next_c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        if peephole is not None:
            o = o + peephole[2] * next_c
        next_h = o.sigmoid() * next_c.tanh()
        if mask is None:
            h, c, outputs[t] = next_h, next_c, next_h
        else:
            h, c = torch.where(mask[t], next_h, h), torch.where(mask[t], next_c, c)
            outputs[t] = torch.where(mask[t], next_h, 0)
    return torch.stack(outputs), h, c
