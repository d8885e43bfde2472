"""A section whose norms are fixed, each step one kernel: convolution, shift, ReLU, and the terms before and after it.

On a CPU in float32, where no gradient is wanted; 3x3 convolutions run as in ops/conv3d.py, as Winograd convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .. import _library
from ._conv import beyond_kernels, exact
from ._dispatch import kernel, over_examples, register

MOST_CHANNELS = 224  # whose transformed weights fit the second-level cache


def fuses(input: torch.Tensor, *weights: torch.Tensor) -> bool:
    """Whether the kernel serves these operands, and is faster than the library's convolutions."""
    here = input.device.type == "cpu" and input.dtype == torch.float32 and _library.MISSING is None
    return here and input.shape[1] <= MOST_CHANNELS and not beyond_kernels(input, *weights)


def fused_section(
    input: torch.Tensor,
    input_weight: torch.Tensor,
    recurrent_weights: Sequence[torch.Tensor],
    steps: int,
    injection: str,
    folds: Sequence[tuple[torch.Tensor, torch.Tensor]] | None,
) -> torch.Tensor:
    """(N, C, H, W) -> (N, K, H, W); `folds` are scale and shift of each state's norm, None where there is no norm."""

    def step(
        maps: torch.Tensor, weight: torch.Tensor, k: int, before: torch.Tensor | None, after: torch.Tensor | None
    ) -> torch.Tensor:
        if folds is None:
            return kernel("recurrent_step")(maps, weight, None, before, after, "relu", exact())
        scale, shift = (value.to(maps.dtype) for value in folds[k])
        term = None if before is None else before * scale.view(-1, 1, 1)
        return kernel("recurrent_step")(maps, weight * scale.view(-1, 1, 1, 1), shift, term, after, "relu", exact())

    weights = [recurrent_weights[k % len(recurrent_weights)] for k in range(steps)]
    if injection == "input":  # each step's epilogue adds what the next one's convolution takes
        y = step(input, input_weight, 0, None, input)
        for k, weight in enumerate(weights):
            y = step(y, weight, k + 1, None, input if k + 1 < steps else None)
        return y
    u = kernel("recurrent_step")(input, input_weight, None, None, None, "none", exact())
    y = u if folds is None else torch.addcmul(folds[0][1].to(u).view(-1, 1, 1), u, folds[0][0].to(u).view(-1, 1, 1))
    y = y.relu()
    for k, weight in enumerate(weights):
        y = step(y, weight, k + 1, u, None)
    return y


def _fake(input: torch.Tensor, weight: torch.Tensor, *_: object) -> torch.Tensor:
    return input.new_empty([input.shape[0], weight.shape[0], *input.shape[2:]])


register("recurrent_step", fake=_fake, vmap=over_examples("recurrent_step"))
