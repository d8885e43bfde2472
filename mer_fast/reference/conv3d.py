"""3-D convolution with an activation behind it, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

Triple = int | Sequence[int]

ACTIVATIONS: dict[str | None, Callable[[torch.Tensor], torch.Tensor]] = {
    None: lambda x: x,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,  # slope 0.01
    "gelu": F.gelu,  # exact: x times the normal distribution function
}


def conv3d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    stride: Triple = 1,
    padding: Triple = 0,
    dilation: Triple = 1,
    groups: int = 1,
    activation: str | None = None,
) -> torch.Tensor:
    """See `mer_fast.ops.conv3d`."""
    return ACTIVATIONS[activation](F.conv3d(input, weight, bias, stride, padding, dilation, groups))
