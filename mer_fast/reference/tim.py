"""Temporal interpolation model (Zhou, Zhao, Pietikainen, CVPR 2011) in its closed form: a DCT-II interpolation in time."""

from __future__ import annotations

import torch


def tim_weights(n: int, m: int) -> torch.Tensor:
    """Weights (n, m), float64, of n input frames in m output frames.

    w[i, t] = (1/n) (1 + 2 sum_{k=1}^{n-1} cos(pi k (2i - 1) / 2n) cos(pi k (p_t - 1/2n))), i = 1..n, with p_t evenly
    spaced over [1/n, 1]. For linearly independent frames it equals the published route through an SVD. Columns sum to 1.
    """
    i = torch.arange(1, n + 1, dtype=torch.float64)[:, None, None]
    k = torch.arange(1, n, dtype=torch.float64)
    p = torch.linspace(1 / n, 1, m, dtype=torch.float64)[None, :, None]
    waves = torch.cos(torch.pi * k * (2 * i - 1) / (2 * n)) * torch.cos(torch.pi * k * (p - 1 / (2 * n)))
    return (1 + 2 * waves.sum(-1)) / n


def tim(clip: torch.Tensor, num_frames: int, *, dim: int = -4) -> torch.Tensor:
    """See `mer_fast.ops.tim`."""
    compute = clip.dtype if clip.dtype == torch.float64 else torch.float32
    weights = tim_weights(clip.shape[dim], num_frames).to(clip.device, compute)
    frames = clip.to(compute).movedim(dim, -1)  # (..., n)
    out = (frames @ weights).movedim(-1, dim)
    if clip.dtype == torch.uint8:
        return out.round().clamp(0, 255).to(torch.uint8)
    return out.to(clip.dtype)
