"""A chain convolution -> batch norm -> activation -> max-pool whose stages stay modules, and run as one in evaluation.

The stages share a `Chain`. While it folds, the convolution does the work of all of them and the others pass their input
through; while the norm uses batch statistics, each does its own. The norm is folded into the weights at every call: it costs
as much as reading the weights once, nothing can go stale, and gradients flow through it.
"""

from __future__ import annotations

from typing import cast

import torch

from ..nn import ConvPool3d
from ..ops import conv3d


class Chain:
    """Where the stages of a chain are registered: (owner, name) of each, the convolution first and the norm second.

    Places and not modules: when another module has been put in a stage's place, by `convert_sync_batchnorm` for one, the
    chain no longer folds and what remains of it runs in its order.
    """

    def __init__(self, places: tuple[tuple[torch.nn.Module, str], ...]) -> None:
        self.places = places

    def folding_norm(self) -> BatchNorm3d | None:
        """The norm, while the chain folds."""
        stages = [owner._modules.get(name) for owner, name in self.places]
        if not all(getattr(stage, "chain", None) is self for stage in stages):
            return None
        norm = cast(BatchNorm3d, stages[1])
        return norm if not norm.training and norm.running_mean is not None and norm.running_var is not None else None


class FoldedConvPool3d(ConvPool3d):
    """The convolution of a folded chain: all of the chain while it folds, otherwise the convolution alone."""

    chain: Chain

    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        norm = self.chain.folding_norm()
        if norm is not None:
            return super()._conv_forward(input, *folded(weight, bias, norm))
        batch, padding = self.padded(input)
        out = conv3d(batch, weight, bias, stride=self.stride, padding=padding, dilation=self.dilation, groups=self.groups)
        return out if batch.dim() == input.dim() else out.squeeze(0)


def folded(weight: torch.Tensor, bias: torch.Tensor | None, norm: BatchNorm3d) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of the convolution and the norm behind it as one convolution."""
    assert norm.running_mean is not None and norm.running_var is not None
    # At least float32, as the norm itself computes; on the weight's device, where torch.nn.DataParallel has its copies.
    place, precise = weight.device, torch.promote_types(weight.dtype, torch.float32)
    scale = (norm.running_var.to(place, precise) + norm.eps).rsqrt()
    shift = -norm.running_mean.to(place, precise)
    if norm.weight is not None:
        scale = scale * norm.weight.to(place, precise)
    if bias is not None:
        shift = shift + bias
    shift = shift * scale
    if norm.bias is not None:
        shift = shift + norm.bias.to(place, precise)
    return (weight * scale.view(-1, 1, 1, 1, 1)).to(weight.dtype), shift.to(weight.dtype)


class Stage(torch.nn.Module):
    """What stands behind the convolution of a folded chain."""

    chain: Chain

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) if self.chain.folding_norm() is None else input


class BatchNorm3d(Stage, torch.nn.BatchNorm3d):
    """The norm of a folded chain."""


class ReLU(Stage, torch.nn.ReLU):
    """An activation of a folded chain."""


class LeakyReLU(Stage, torch.nn.LeakyReLU):
    """An activation of a folded chain."""


class GELU(Stage, torch.nn.GELU):
    """An activation of a folded chain."""


class MaxPool3d(Stage, torch.nn.MaxPool3d):
    """The pool of a folded chain."""


# What each stage behind the convolution becomes.
STAGES: dict[type[torch.nn.Module], type[Stage]] = {
    torch.nn.BatchNorm3d: BatchNorm3d,
    torch.nn.ReLU: ReLU,
    torch.nn.LeakyReLU: LeakyReLU,
    torch.nn.GELU: GELU,
    torch.nn.MaxPool3d: MaxPool3d,
}
