"""STSTNet: three shallow streams on flow and strain from the onset to the apex."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..ops._checks import require, require_count, require_float

SHAPE = (3, 28, 28)
FILTERS = 3 + 5 + 8


class STSTNet(torch.nn.Module):
    """Three parallel streams of 3, 5 and 8 filters on optical flow and strain from the onset to the apex frame.

    Each stream, on all three channels: conv 3x3, padding 2 -> ReLU -> BatchNorm -> max-pool 3, padding 1 -> dropout. Their 16
    maps, one after the other -> average-pool 2 -> Linear num_classes. 1,683 parameters with 3 classes.

    The streams read one input and treat each map alone, so they are one convolution here, which is the same and faster: maps 0
    to 2, 3 to 7 and 8 to 15 of `conv` and `norm` are the three streams.

    Args:
        num_classes: how many logits.
        dropout: probability behind each stream.

    Shape: (N, 3, 28, 28), u and v in pixels, then their strain, resized -> (N, num_classes).
    `torch.cat([flow, ops.optical_strain(flow)], 1)` joins them.

    Raises:
        MerFastError: no classes, a dropout outside 0..1; at a call, another shape, or no float tensor.

    Source: Liong, Gan, See, Khor, Huang, "Shallow triple stream three-dimensional CNN (STSTNet) for micro-expression
    recognition", FG 2019, arXiv 1902.03634.
    """

    def __init__(self, num_classes: int, *, dropout: float = 0.5) -> None:
        super().__init__()
        require_count("STSTNet", "num_classes", num_classes)
        fits = isinstance(dropout, (int, float)) and 0 <= dropout <= 1
        require(fits, "STSTNet", "dropout", "must lie in 0..1, got {}", dropout)
        self.conv = torch.nn.Conv2d(3, FILTERS, 3, padding=2)
        self.norm = torch.nn.BatchNorm2d(FILTERS)
        self.dropout = torch.nn.Dropout(dropout)
        self.classifier = torch.nn.Linear(FILTERS * 5 * 5, num_classes)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        require(isinstance(maps, torch.Tensor) and maps.shape[1:] == SHAPE, "STSTNet", "maps",
                "must be a tensor of shape (N, 3, 28, 28): u, v and strain; got {}",
                getattr(maps, "shape", type(maps).__name__))  # fmt: skip
        require_float("STSTNet", "maps", maps)
        # Channels last: with three channels the convolution's other layout takes longer than all the rest.
        maps = maps.contiguous(memory_format=torch.channels_last)
        streams = self.norm(F.relu(self.conv(maps)))  # (N, 16, 30, 30)
        streams = self.dropout(F.max_pool2d(streams, 3, padding=1))  # (N, 16, 10, 10)
        return self.classifier(F.avg_pool2d(streams, 2).flatten(1))
