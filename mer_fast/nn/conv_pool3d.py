"""3-D convolution, activation and max-pool as one layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from .. import ops
from ..ops._conv import triple
from .conv3d import Conv3d

Triple = int | Sequence[int]


class ConvPool3d(Conv3d):
    """A 3-D convolution, an activation and a max-pool in one pass; the convolution's full output is never stored.

    The same as `torch.nn.Sequential(torch.nn.Conv3d(...), torch.nn.ReLU(), torch.nn.MaxPool3d(pool_kernel, pool_stride))`.
    `weight` and `bias` are those of the `torch.nn.Conv3d`: under one seed, the same initial values.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, device, dtype: the convolution's, as
            in `torch.nn.Conv3d`; padding is with zeros.
        activation: None, "relu", "leaky_relu" (slope 0.01) or "gelu" (exact).
        pool_kernel, pool_stride: the pool's window and step, a number or (t, h, w); the step is the window unless given.

    Shape: (N, C, T, H, W) or (C, T, H, W) -> (N, O, T', H', W') or (O, T', H', W').

    Raises:
        MerFastError: unknown activation, or a pool that is not of positive size; at a call, an input that does not fit.

    Source: Reddy, Karri, Dubey, Mukherjee, "Spontaneous facial micro-expression recognition using 3D spatiotemporal
    convolutional neural networks", IJCNN 2019.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Triple,
        stride: Triple = 1,
        padding: Triple | str = 0,
        dilation: Triple = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        activation: str | None = "relu",
        pool_kernel: Triple = 3,
        pool_stride: Triple | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            activation=activation, device=device, dtype=dtype,
        )  # fmt: skip
        self.pool_kernel = tuple(triple("ConvPool3d", "pool_kernel", pool_kernel, 1))
        step = pool_kernel if pool_stride is None else pool_stride
        self.pool_stride = tuple(triple("ConvPool3d", "pool_stride", step, 1))

    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if input.is_meta:  # the shape alone is wanted
            return F.max_pool3d(super()._conv_forward(input, weight, bias), self.pool_kernel, self.pool_stride)
        batch, padding = self.padded(input)
        out = ops.conv3d_pool(
            batch, weight, bias, stride=self.stride, padding=padding, dilation=self.dilation, groups=self.groups,
            activation=self.activation, pool_kernel=self.pool_kernel, pool_stride=self.pool_stride,
        )  # fmt: skip
        return out if batch.dim() == input.dim() else out.squeeze(0)

    def extra_repr(self) -> str:
        return super().extra_repr() + f", pool_kernel={self.pool_kernel}, pool_stride={self.pool_stride}"
