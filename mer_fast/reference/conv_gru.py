"""Convolutional GRU (Ballas et al., ICLR 2016, with the gates of torch.nn.GRU): one layer, one direction, in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .conv_lstm import Lengths, running
from .recurrent_conv2d import same


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
    """See `mer_fast.ops.conv_gru`; `checkpoint` changes nothing here."""
    steps, batch, _, height, width = input.shape
    zero = input.new_zeros(batch, weight_hh.shape[1], height, width)
    h = zero if h0 is None else h0
    mask = running(input, lengths)
    if mask is not None:
        input = torch.where(mask, input, 0)
    outputs = [zero] * steps
    for t in reversed(range(steps)) if reverse else range(steps):
        input_r, input_z, input_n = F.conv2d(input[t], weight_ih, bias_ih, padding=same(weight_ih)).chunk(3, 1)
        state_r, state_z, state_n = F.conv2d(h, weight_hh, bias_hh, padding=same(weight_hh)).chunk(3, 1)
        r, z = (input_r + state_r).sigmoid(), (input_z + state_z).sigmoid()
        n = (input_n + r * state_n).tanh()
        next_h = (1 - z) * n + z * h
        h = next_h if mask is None else torch.where(mask[t], next_h, h)
        outputs[t] = next_h if mask is None else torch.where(mask[t], next_h, 0)
    return torch.stack(outputs), h
