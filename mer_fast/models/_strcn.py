"""What STRCN-G and STRCN-A share: a stem, recurrent sections, global average, a 1x1 convolution as the classifier."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .. import nn
from ..ops._checks import require, require_count

STEPS = 2  # recurrent steps of a section, after its first state


class RecurrentTrunk(torch.nn.Module):
    """conv 3x3 -> BatchNorm -> ReLU -> max-pool, then recurrent sections each with a max-pool, then the classifier.

    Shape: (N, channels, H, W), H and W at least the product of the pools -> (N, num_classes).
    """

    def __init__(
        self, network: str, channels: int, num_classes: int, width: int, pools: Sequence[tuple[int, int]], share_weights: bool,
        dropout: float,
    ) -> None:  # fmt: skip
        super().__init__()
        require_count(network, "num_classes", num_classes)
        require_count(network, "width", width)
        require(isinstance(dropout, (int, float)) and 0 <= dropout <= 1, network, "dropout", "must lie in 0..1, got {}", dropout)
        self.network, self.pools = network, tuple(pools)
        self.conv = torch.nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm = torch.nn.BatchNorm2d(width)
        self.sections = torch.nn.ModuleList(
            nn.RecurrentConv2d(width, width, 3, STEPS, injection="input", share_weights=share_weights, pool=pool)
            for pool in self.pools[1:]
        )
        self.dropout = torch.nn.Dropout(dropout)
        self.classifier = torch.nn.Conv2d(width, num_classes, 1)

    @property
    def least(self) -> tuple[int, int]:
        """The smallest height and width."""
        height = width = 1
        for pool in self.pools:
            height, width = height * pool[0], width * pool[1]
        return height, width

    def trunk(self, maps: torch.Tensor) -> torch.Tensor:
        """Logits of (N, channels, H, W)."""
        maps = F.max_pool2d(F.relu(self.norm(self.conv(maps))), self.pools[0])
        for section in self.sections:
            maps = section(maps)
        pooled = self.dropout(maps.mean((2, 3), keepdim=True))
        return self.classifier(pooled).flatten(1)
