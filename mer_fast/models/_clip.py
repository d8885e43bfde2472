"""What the networks on gray clips share: the fused first layer, its size, and the check of the input."""

from __future__ import annotations

import torch

from .. import nn
from ..ops._checks import require, require_count

CHANNELS = 32
POOL = 3


class ClipStem(nn.ConvPool3d):
    """The first layer of MicroExpSTCNN and of each stream of MicroExpFuseNet: 32 filters (kernel_depth, 3, 3), ReLU, pool 3.

    Shape: (N, 1, frames, side, side) -> (N, 32, (frames - kernel_depth + 1) // 3, (side - 2) // 3, (side - 2) // 3).
    """

    def __init__(self, network: str, frames: int, kernel_depth: int, side: int) -> None:
        require_count(network, "kernel_depth", kernel_depth)
        require_count(network, "frames", frames)
        least = kernel_depth + POOL - 1
        require(frames >= least, network, "frames", "must be at least {} for a kernel {} frames deep and its pool, got {}",
                least, kernel_depth, frames)  # fmt: skip
        super().__init__(1, CHANNELS, (kernel_depth, 3, 3), pool_kernel=POOL)
        self.network, self.frames, self.side = network, frames, side
        self.features = CHANNELS * ((frames - kernel_depth + 1) // POOL) * ((side - 2) // POOL) ** 2

    def check(self, argument: str, clip: torch.Tensor) -> None:
        """Raises MerFastError unless `clip` is (N, 1, frames, side, side)."""
        shape = (1, self.frames, self.side, self.side)
        wanted = f"(N, {', '.join(map(str, shape))})"
        require(isinstance(clip, torch.Tensor) and clip.dim() == 5, self.network, argument,
                "must be a tensor of shape {}, got {}", wanted, getattr(clip, "shape", type(clip).__name__))  # fmt: skip
        require(clip.shape[2] == self.frames, self.network, argument,
                "must have frames={} frames as in the network's constructor, got {}; resample the clip with ops.tim",
                self.frames, clip.shape[2])  # fmt: skip
        require(clip.shape[1:] == shape, self.network, argument, "must have shape {}, got {}", wanted, clip.shape)
