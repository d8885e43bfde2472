"""float64 on a GPU, where it serves checks and not work: conv3d_pool by the library's operations, one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from ._implicit_gemm import ACTIVATIONS, NOBODY

if TYPE_CHECKING:
    from .conv3d_pool import ConvolutionPool


def forward(
    shape: ConvolutionPool, activation: str, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(output, winners) of torch.ops.mer_fast.conv3d_pool."""
    full = F.conv3d(input, weight, bias, shape.stride, shape.padding, shape.dilation, shape.groups).contiguous()
    pooled, flat = F.max_pool3d(
        ACTIVATIONS[activation](full), list(shape.pool_kernel), list(shape.pool_stride), return_indices=True
    )
    if activation == "gelu":
        pooled = full.flatten(2).gather(2, flat.flatten(2)).view(pooled.shape)
    places = torch.zeros_like(flat)
    rest = flat
    for dim in (4, 3, 2):  # the position of the winner in its window, w first
        size, step = full.shape[dim], shape.pool_stride[dim - 2]
        corner = step * torch.arange(flat.shape[dim], device=flat.device).view(-1, *[1] * (4 - dim))
        stride = 1
        for behind in shape.pool_kernel[dim - 1 :]:
            stride *= behind
        places += (rest % size - corner) * stride
        rest = rest // size
    if activation == "relu":
        places = torch.where(pooled <= 0, NOBODY, places)
    return pooled.contiguous(), places.to(torch.uint8)


def backward(
    shape: ConvolutionPool, grad: torch.Tensor, winners: torch.Tensor, input: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Gradients of input, weight and bias; `grad` is that of the forward's output."""
    full = grad.new_zeros((*grad.shape[:2], *shape.output_size(input.shape[2:], weight.shape[2:])))
    _, kh, kw = shape.pool_kernel
    for place in range(shape.pool_kernel[0] * kh * kw):  # windows overlap, the same place of them never does
        first = place // (kh * kw), place // kw % kh, place % kw
        span = [slice(f, f + s * (n - 1) + 1, s) for f, s, n in zip(first, shape.pool_stride, grad.shape[2:], strict=True)]
        full[:, :, span[0], span[1], span[2]] += torch.where(winners == place, grad, 0)
    return torch.ops.aten.convolution_backward(
        full, input, weight, [weight.shape[0]], list(shape.stride), list(shape.padding), list(shape.dilation),
        False, [0, 0, 0], shape.groups, [True, True, True],
    )  # fmt: skip
