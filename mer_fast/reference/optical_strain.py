"""Optical strain (Shreve et al., WACV 2009): how much the flow stretches and shears the skin."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def _difference(x: torch.Tensor, dim: int, derivative: str) -> torch.Tensor:
    """Derivative of x (..., H, W) along dim (-2 or -1), same shape."""
    n = x.shape[dim]
    if n == 1:
        return torch.where(torch.zeros_like(x, dtype=torch.bool), x, 0)  # zero, and so is its gradient
    step = x.diff(dim=dim)  # n - 1 one-sided differences
    if derivative == "forward":
        return torch.cat([step, torch.zeros_like(x.narrow(dim, 0, 1))], dim)
    first, last = step.narrow(dim, 0, 1), step.narrow(dim, n - 2, 1)
    middle = (x.narrow(dim, 2, n - 2) - x.narrow(dim, 0, n - 2)) / 2
    if derivative == "sobel":  # replicated border: half the one-sided difference
        first, last = first / 2, last / 2
    return torch.cat([first, middle, last], dim)


def _smooth(x: torch.Tensor, dim: int) -> torch.Tensor:
    """(1, 2, 1) / 4 along dim (-2 or -1) with a replicated border."""
    pad = (1, 1, 0, 0) if dim == -1 else (0, 0, 1, 1)
    padded = F.pad(x, pad, mode="replicate")
    n = x.shape[dim]
    return (padded.narrow(dim, 0, n) + 2 * x + padded.narrow(dim, 2, n)) / 4


def optical_strain(flow: torch.Tensor, *, derivative: str = "central", shear: float = 0.5) -> torch.Tensor:
    """See `mer_fast.ops.optical_strain`."""
    if flow.numel() == 0:
        return flow.new_empty(flow.shape[0], 1, *flow.shape[2:])
    compute = flow.dtype if flow.dtype == torch.float64 else torch.float32
    u, v = flow.to(compute).split(1, dim=1)  # (N, 1, H, W) each
    across = {dim: (lambda x, d=-3 - dim: _smooth(x, d)) if derivative == "sobel" else (lambda x: x) for dim in (-1, -2)}
    ux, uy = (across[dim](_difference(u, dim, derivative)) for dim in (-1, -2))
    vx, vy = (across[dim](_difference(v, dim, derivative)) for dim in (-1, -2))
    square = ux**2 + vy**2 + shear * (uy + vx) ** 2
    zero = square == 0  # the root has no derivative there: its gradient is defined as 0
    return torch.where(zero, 0, torch.where(zero, 1, square).sqrt()).to(flow.dtype)
