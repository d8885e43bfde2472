"""A section of recurrent convolutions with one input (Liang & Hu, CVPR 2015; STRCN, Xia et al. 2020), in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

# Local response normalisation as Liang & Hu give it; its window is K // 8 + 1 of K maps.
LRN_ALPHA, LRN_BETA = 0.001, 0.75


def same(weight: torch.Tensor) -> list[int]:
    """The padding that keeps height and width under an odd kernel."""
    return [size // 2 for size in weight.shape[2:]]


def response_norm(maps: torch.Tensor) -> torch.Tensor:
    """Each value over (1 + alpha / n * the sum of squares of the n maps around it) ^ beta; sums at least in float32."""
    wide = maps.to(torch.promote_types(maps.dtype, torch.float32))
    return F.local_response_norm(wide, maps.shape[1] // 8 + 1, LRN_ALPHA, LRN_BETA, 1.0).to(maps.dtype)


def recurrent_conv2d(
    input: torch.Tensor,
    input_weight: torch.Tensor,
    recurrent_weights: Sequence[torch.Tensor],
    *,
    steps: int,
    injection: str = "feedforward",
    norm: str | None = None,
    norm_weights: Sequence[torch.Tensor] | None = None,
    norm_biases: Sequence[torch.Tensor] | None = None,
    running_means: Sequence[torch.Tensor] | None = None,
    running_vars: Sequence[torch.Tensor] | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    groups: int = 1,
    pool: int | Sequence[int] | None = None,
) -> torch.Tensor:
    """See `mer_fast.ops.recurrent_conv2d`."""

    def activated(z: torch.Tensor, k: int) -> torch.Tensor:
        weight = None if norm_weights is None else norm_weights[k]
        bias = None if norm_biases is None else norm_biases[k]
        if norm == "batch":
            mean = None if running_means is None else running_means[k]
            var = None if running_vars is None else running_vars[k]
            return F.relu(F.batch_norm(z, mean, var, weight, bias, training, momentum, eps))
        if norm == "group":
            return F.relu(F.group_norm(z, groups, weight, bias, eps))
        return response_norm(F.relu(z)) if norm == "lrn" else F.relu(z)

    u = F.conv2d(input, input_weight, padding=same(input_weight))
    y = activated(u, 0)
    for k in range(steps):
        weight = recurrent_weights[k % len(recurrent_weights)]
        if injection == "input":
            y = activated(F.conv2d(y + input, weight, padding=same(weight)), k + 1)
        else:
            y = activated(F.conv2d(y, weight, padding=same(weight)) + u, k + 1)
    return y if pool is None else F.max_pool2d(y, pool if isinstance(pool, int) else list(pool))
