"""3-D convolution, activation and max-pool, one after the other, in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .conv3d import Triple, conv3d


def conv3d_pool(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    stride: Triple = 1,
    padding: Triple = 0,
    dilation: Triple = 1,
    groups: int = 1,
    activation: str | None = "relu",
    pool_kernel: Triple = 3,
    pool_stride: Triple | None = None,
) -> torch.Tensor:
    """See `mer_fast.ops.conv3d_pool`."""
    full = conv3d(
        input, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups, activation=activation
    )
    return F.max_pool3d(full, pool_kernel, pool_stride)  # type: ignore[arg-type]
