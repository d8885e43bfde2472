"""float64 on a GPU, where it serves checks and not work: recurrent_conv2d by the library's operations, one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from ..reference.recurrent_conv2d import same

if TYPE_CHECKING:
    from .recurrent_conv2d import Section

Maybe = torch.Tensor | None


def _column(values: Maybe, k: int) -> torch.Tensor | float:
    return 1.0 if values is None else values[k].view(-1, 1, 1)


def _convolved(section: Section, maps: torch.Tensor, k: int) -> torch.Tensor:
    weight = section.weight(k)
    return F.conv2d(maps + section.input if k > 0 and section.injection == "input" else maps, weight, padding=same(weight))


def forward(section: Section, scale: Maybe, shift: Maybe, output: torch.Tensor) -> torch.Tensor:
    y = section.input
    for k in range(section.steps + 1):
        z = _convolved(section, y, k)
        if k == 0:
            u = z
        elif section.injection == "feedforward":
            z = z + u
        y = (z * _column(scale, k) + (0 if shift is None else _column(shift, k))).relu()
    return output.copy_(y)


def train(
    section: Section, norm_weight: Maybe, norm_bias: Maybe, normalise: bool, eps: float, output: torch.Tensor, maps: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(output, maps, statistics) of torch.ops.mer_fast.recurrent_conv2d_train."""
    statistics = maps.new_empty((section.steps + 1 if normalise else 0, 2, section.maps))
    y = section.input
    for k in range(section.steps + 1):
        z = _convolved(section, y, k)
        if k > 0 and section.injection == "feedforward":
            z = z + maps[0].permute(0, 3, 1, 2)
        maps[k] = z.permute(0, 2, 3, 1)
        if normalise:
            variance, mean = torch.var_mean(z, (0, 2, 3), correction=0)
            statistics[k, 0], statistics[k, 1] = mean, variance
            z = (z - mean.view(-1, 1, 1)) * (variance + eps).rsqrt().view(-1, 1, 1) * _column(norm_weight, k)
            z = z + (0 if norm_bias is None else _column(norm_bias, k))
        y = z.relu()
    return output.copy_(y), maps, statistics


def _normalised(maps: torch.Tensor, fold: Maybe) -> torch.Tensor:
    return maps if fold is None else (maps - fold[0]) * fold[1] + fold[2]


def state(section: Section, maps: torch.Tensor, fold: Maybe, added: Maybe, output: torch.Tensor) -> None:
    y = _normalised(maps, fold).relu()
    output.copy_(y if added is None else y + added)


def through_norm(
    section: Section, grad: torch.Tensor, maps: torch.Tensor, fold: Maybe, sums: Maybe, total: Maybe
) -> torch.Tensor:
    grad = torch.where(_normalised(maps, fold) <= 0, 0, grad)
    if fold is not None and sums is not None:
        normal = (maps - fold[0]) * fold[3]
        sums[0], sums[1] = grad.sum((0, 1, 2)), (grad * normal).sum((0, 1, 2))
        grad = fold[1] * (grad - sums[0] / section.rows - normal * (sums[1] / section.rows))
    if total is not None:
        total += grad
    return grad
