"""Random changes of a batch that leave its classes as they are. Every clip is changed by a draw of its own, all frames alike.

Inputs of pixels have four dimensions or more, (N, ..., H, W); one of three is ATNet's feature (`data.apex_time_sequence`).
Floats (N, 2 or 3, H, W) are taken for flow, with strain or without: none of the networks reads as few gray frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from ..data.apex_time import GRID, ROWS, mirrored
from ..data.temporal import drop_frames
from ..ops._checks import require
from .batches import Inputs

Augmentation = Callable[[Inputs, torch.Generator], Inputs]

DEGREES = 5.0
LEVELS = 10 / 255


def mirror(inputs: Inputs, generator: torch.Generator) -> Inputs:
    """Half of the clips left to right: inputs of gray pixels, and ATNet's feature with them.

    Raises:
        MerFastError: flow, whose u would need the other sign, or another input.
    """
    for x in inputs:
        require(not _is_flow(x), "mirror", "inputs", "must be gray pixels, got {}, which is flow: take mirror_flow", x.shape)
        fits = _has_pixels(x) or x.shape[1:] == (ROWS, 2 * GRID * GRID)
        require(fits, "mirror", "inputs", "must be gray pixels (N, ..., H, W) or ATNet's feature, got {}", x.shape)
    flipped = torch.rand(len(inputs[0]), generator=generator) < 0.5
    return tuple(_where(flipped, x.flip(-1) if _has_pixels(x) else mirrored(x), x) for x in inputs)


def mirror_flow(inputs: Inputs, generator: torch.Generator) -> Inputs:
    """Half of the clips left to right: flow (N, C, H, W) whose first channel is u, which changes its sign.

    Raises:
        MerFastError: other inputs.
    """
    fits = len(inputs) == 1 and _is_flow(inputs[0])
    require(fits, "mirror_flow", "inputs", "must be flow, floats (N, 2 or 3, H, W), got {}: take mirror for gray pixels",
            [tuple(x.shape) for x in inputs])  # fmt: skip
    (flow,) = inputs
    sign = torch.ones(flow.shape[1], 1, 1)
    sign[0] = -1
    flipped = torch.rand(len(flow), generator=generator) < 0.5
    return (_where(flipped, flow.flip(-1) * sign, flow),)


def rotate(inputs: Inputs, generator: torch.Generator) -> Inputs:
    """Turned about the middle by up to 5 degrees either way: inputs of pixels, borders repeated."""
    count = len(inputs[0])
    angle = (2 * torch.rand(count, generator=generator) - 1) * math.radians(DEGREES)
    turned = []
    for x in inputs:
        if not _has_pixels(x):
            turned.append(x)
            continue
        height, width = x.shape[-2:]
        images = x.reshape(count, -1, height, width).float()
        cos, sin, zero = angle.cos(), angle.sin(), torch.zeros(count)
        # affine_grid has both sides go from -1 to 1, so a turn in pixels is sheared where they differ.
        rows = [torch.stack([cos, -sin * height / width, zero], 1), torch.stack([sin * width / height, cos, zero], 1)]
        grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
        out = F.grid_sample(images, grid, padding_mode="border", align_corners=False).reshape(x.shape)
        turned.append(_as(out, x.dtype))
    return tuple(turned)


def intensity(inputs: Inputs, generator: torch.Generator) -> Inputs:
    """Lighter or darker by up to 10 of 255 gray levels: inputs of pixels, uint8 or of a range of 1."""
    shift = (2 * torch.rand(len(inputs[0]), generator=generator) - 1) * LEVELS
    lit = []
    for x in inputs:
        if not _has_pixels(x):
            lit.append(x)
            continue
        by = shift.view(-1, *[1] * (x.dim() - 1))
        lit.append(_as(x.float() + 255 * by, x.dtype) if x.dtype == torch.uint8 else x + by.to(x.dtype))
    return tuple(lit)


def dropped_frames(inputs: Inputs, generator: torch.Generator) -> Inputs:
    """A share of each clip's frames left out at random, and resampled to as many (`data.drop_frames`).

    Inputs of gray clips (N, T, H, W) or (N, 1, T, H, W); several inputs lose the same frames.

    Raises:
        MerFastError: inputs without frames.
    """
    state = generator.get_state()
    out = []
    for x in inputs:
        fits = are_gray_clips(x) and (x.dim() == 5 or x.shape[1] > 1)
        require(fits, "dropped_frames", "inputs", "must be gray clips (N, T, H, W) or (N, 1, T, H, W), got {}", x.shape)
        generator.set_state(state)
        dim = x.dim() - 3
        out.append(drop_frames(x, x.shape[dim], dim=dim, generator=generator))
    return tuple(out)


AUGMENTATIONS: dict[str, Augmentation] = {
    "mirror": mirror,
    "mirror_flow": mirror_flow,
    "rotate": rotate,
    "intensity": intensity,
    "dropped_frames": dropped_frames,
}


def augment(inputs: Inputs, names: tuple[str, ...] | Augmentation, generator: torch.Generator) -> Inputs:
    """One augmentation after the other."""
    if not isinstance(names, tuple):
        return names(inputs, generator)
    for name in names:
        inputs = AUGMENTATIONS[name](inputs, generator)
    return inputs


def _has_pixels(x: torch.Tensor) -> bool:
    return x.dim() >= 4


def are_gray_clips(x: torch.Tensor) -> bool:
    """Whether it has frames: (N, T, H, W) or (N, 1, T, H, W)."""
    return (x.dim() == 4 and not _is_flow(x)) or (x.dim() == 5 and x.shape[1] == 1)


def _is_flow(x: torch.Tensor) -> bool:
    return x.dim() == 4 and x.shape[1] in (2, 3) and x.is_floating_point()


def _where(chosen: torch.Tensor, changed: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    return torch.where(chosen.view(-1, *[1] * (before.dim() - 1)), changed, before)


def _as(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return values.round().clamp(0, 255).to(torch.uint8) if dtype == torch.uint8 else values.to(dtype)
