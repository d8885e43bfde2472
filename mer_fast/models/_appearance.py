"""The pixels that STRCN-A looks at: where faces of the training clips change most."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F

from ..ops._checks import require

PERCENTILE = 0.75


def energy_map(clips: Iterable[torch.Tensor]) -> torch.Tensor:
    """Mean over clips (T, H, W) of `sum_k |I_k - I_1|` over its maximum: (H, W) float64, values 0..1."""
    total, count = torch.empty(0), 0
    for clip in clips:
        require(isinstance(clip, torch.Tensor) and clip.dim() == 3 and clip.numel() > 0, "STRCNA.fit_mask", f"clips[{count}]",
                "must be a tensor of shape (T, H, W), got {}", getattr(clip, "shape", type(clip).__name__))  # fmt: skip
        frames = clip.detach().to("cpu", torch.float64)
        energy = (frames - frames[0]).abs().sum(0)
        require(bool(energy.isfinite().all()), "STRCNA.fit_mask", f"clips[{count}]", "must be finite")
        require(not count or energy.shape == total.shape, "STRCNA.fit_mask", f"clips[{count}]",
                "must have the size of the first clip, {}, got {}", total.shape, energy.shape)  # fmt: skip
        energy = energy / energy.max().clamp_min(1e-300)  # a clip in which nothing moves adds nothing
        total, count = (total + energy if count else energy), count + 1
    require(count > 0, "STRCNA.fit_mask", "clips", "must hold at least one clip")
    return total / count


def disk(radius: int) -> torch.Tensor:
    """(2 radius + 1) squared, True within the radius of the middle."""
    across = torch.arange(-radius, radius + 1).square()
    return across[:, None] + across <= radius * radius


def opened(mask: torch.Tensor, radius: int) -> torch.Tensor:
    """Morphological opening of a bool (H, W) with a disk: the union of the disks that lie in it; no border of the frame."""
    return _dilated(~_dilated(~mask, radius), radius)


def appearance_mask(energy: torch.Tensor) -> torch.Tensor:
    """The published mask of an energy map (H, W): bool (H, W)."""
    rows = energy.shape[0]
    radius = 5 if rows >= 200 else 3 if rows >= 100 else 1
    values = energy.flatten().sort().values
    # torch.quantile takes at most 2^24 values.
    place = PERCENTILE * (len(values) - 1)
    low = values[int(place)]
    threshold = low + (values[min(int(place) + 1, len(values) - 1)] - low) * (place - int(place))
    return opened(energy > threshold, radius)


def _dilated(mask: torch.Tensor, radius: int) -> torch.Tensor:
    return F.conv2d(mask[None, None].double(), disk(radius)[None, None].double(), padding=radius)[0, 0] > 0.5
