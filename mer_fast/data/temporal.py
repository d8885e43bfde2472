"""Temporal augmentation of batches of clips: frames dropped at random, and interpolation over several lengths."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..ops._checks import require, require_count, require_float_or_bytes, require_number, require_tensor
from ..reference import tim_weights

DROP_RATIOS = tuple(k / 20 for k in range(12))  # 0, 0.05 ... 0.55, those of STRCN


def drop_frames(
    clips: torch.Tensor,
    num_frames: int,
    *,
    ratio: float | None = None,
    dim: int = 1,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Drops a share of the frames of each clip at random, and resamples what is left to `num_frames` (TIM).

    Args:
        clips: (N, T, ...), uint8 or any float dtype.
        num_frames: frames of the result.
        ratio: share of frames to drop, from 0 to below 1; drawn for each clip from `DROP_RATIOS` unless given.
        dim: the dimension of the frames, T.
        generator: for the same draw again; PyTorch's own unless given.

    Returns:
        `clips` with `num_frames` along `dim`, in its dtype; uint8 rounded and saturated. At least one frame of a clip is kept.

    Raises:
        MerFastError: no frames, another dtype, a ratio outside 0..1.

    Source: Xia, Hong, Gao, Feng, Zhao, "Spatiotemporal recurrent convolutional networks for recognizing spontaneous
    micro-expressions", IEEE TMM 2020.
    """
    dim = _checked("drop_frames", clips, num_frames, dim)
    count, steps = clips.shape[0], clips.shape[dim]
    if ratio is None:
        ratios = [DROP_RATIOS[k] for k in _drawn(len(DROP_RATIOS), count, generator)]
    else:
        require_number("drop_frames", "ratio", ratio, -1e-12, 1)
        ratios = [ratio] * count
    lengths = [max(1, steps - round(share * steps)) for share in ratios]
    of_length = {left: tim_weights(left, num_frames) for left in set(lengths)}
    weights = torch.zeros(count, steps, num_frames, dtype=torch.float64)
    for clip, left in enumerate(lengths):
        order = torch.randperm(steps, generator=generator, device=_device(generator)).cpu()
        weights[clip, order[:left].sort().values] = of_length[left]
    return _weighted(clips, weights, dim)


def tim_lengths(
    clips: torch.Tensor,
    num_frames: int,
    lengths: Sequence[int],
    *,
    dim: int = 1,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Resamples each clip to a length drawn from `lengths`, and from there to `num_frames` (both by TIM).

    A clip in several versions is a batch that repeats it. A length below that of the clip smooths its movement.

    Args:
        clips: (N, T, ...), uint8 or any float dtype.
        num_frames: frames of the result.
        lengths: the lengths to draw from, each from 1 on.
        dim: the dimension of the frames, T.
        generator: for the same draw again; PyTorch's own unless given.

    Returns:
        `clips` with `num_frames` along `dim`, in its dtype; uint8 rounded and saturated.

    Raises:
        MerFastError: no frames, another dtype, no lengths or one below 1.

    Sources: Zhou, Zhao, Pietikainen, "Towards a practical lipreading system", CVPR 2011; Xia et al., IEEE TMM 2020.
    """
    dim = _checked("tim_lengths", clips, num_frames, dim)
    require(isinstance(lengths, (list, tuple)) and len(lengths) > 0, "tim_lengths", "lengths", "must be a list of at least one")
    for length in lengths:
        require_count("tim_lengths", "lengths", length)
    steps = clips.shape[dim]
    each = torch.stack([tim_weights(steps, length) @ tim_weights(length, num_frames) for length in lengths])
    drawn = _drawn(len(lengths), clips.shape[0], generator)
    return _weighted(clips, each[torch.tensor(drawn, dtype=torch.long)], dim)


def _checked(name: str, clips: torch.Tensor, num_frames: int, dim: int) -> int:
    require_tensor(name, "clips", clips)
    require_float_or_bytes(name, "clips", clips)
    require_count(name, "num_frames", num_frames)
    require_count(name, "dim", dim, least=-clips.dim())
    require(dim < clips.dim() and dim % max(1, clips.dim()) > 0, name, "dim",
            "must be the dimension of the frames, behind that of the clips, got {} for shape {}", dim, clips.shape)  # fmt: skip
    require(clips.shape[dim] >= 1, name, "clips", "have no frame along dim {}, their shape is {}", dim, clips.shape)
    return dim % clips.dim()


def _device(generator: torch.Generator | None) -> torch.device:
    return torch.device("cpu") if generator is None else generator.device


def _drawn(choices: int, count: int, generator: torch.Generator | None) -> list[int]:
    drawn: list[int] = torch.randint(choices, (count,), generator=generator, device=_device(generator)).tolist()
    return drawn


def _weighted(clips: torch.Tensor, weights: torch.Tensor, dim: int) -> torch.Tensor:
    """Sums of each clip's frames with weights (N, T, frames) of its own."""
    compute = clips.dtype if clips.dtype == torch.float64 else torch.float32
    frames = clips.to(compute).movedim(dim, -1)  # (N, ..., T)
    out = (frames.flatten(1, -2) if frames.dim() > 2 else frames.unsqueeze(1)) @ weights.to(clips.device, compute)
    out = out.view(*frames.shape[:-1], weights.shape[2]).movedim(-1, dim)
    return out.round().clamp(0, 255).to(torch.uint8) if clips.dtype == torch.uint8 else out.to(clips.dtype)
