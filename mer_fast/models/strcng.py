"""STRCN-G: recurrent convolutions on the flow from the onset to the apex."""

from __future__ import annotations

import torch

from ..ops._checks import require
from ._strcn import RecurrentTrunk


class STRCNG(RecurrentTrunk):
    """The geometric branch of STRCN, on optical flow from the onset to the apex frame.

    conv 3x3 -> BatchNorm -> ReLU -> max-pool 4, three recurrent sections (`nn.RecurrentConv2d`, two recurrent steps, the
    section's input added before each) with max-pools 4, 2, 2, global average, 1x1 convolution. About 14.96 million parameters
    at width 512 and 0.95 million at 128.

    Args:
        num_classes: how many logits.
        width: maps of every layer; 128, 256 or 512 in the paper.
        share_weights: one 3x3 convolution for the steps of a section, as in a later network by the same author; the published
            one has one a step.
        deeper: four sections, and all five pools 2.
        dropout: probability in front of the classifier; 0.5 in that later network.

    Shape: (N, 2, H, W), u and v in pixels, H and W from 64 on (32 if deeper) -> (N, num_classes). The paper takes 300x245.

    Raises:
        MerFastError: counts below 1, a dropout outside 0..1; at a call, another shape.

    Source: Xia, Hong, Gao, Feng, Zhao, "Spatiotemporal recurrent convolutional networks for recognizing spontaneous
    micro-expressions", IEEE TMM 2020, arXiv 1901.04656.
    """

    def __init__(
        self, num_classes: int, *, width: int = 512, share_weights: bool = False, deeper: bool = False, dropout: float = 0.0
    ) -> None:
        pools = (2, 2, 2, 2, 2) if deeper else (4, 4, 2, 2)
        super().__init__("STRCNG", 2, num_classes, width, [(pool, pool) for pool in pools], share_weights, dropout)

    def forward(self, flow: torch.Tensor) -> torch.Tensor:
        is_flow = isinstance(flow, torch.Tensor) and flow.dim() == 4 and flow.shape[1] == 2
        require(is_flow, "STRCNG", "flow", "must be a tensor of shape (N, 2, H, W), got {}",
                getattr(flow, "shape", type(flow).__name__))  # fmt: skip
        least = self.least
        large = flow.shape[2] >= least[0] and flow.shape[3] >= least[1]
        require(large, "STRCNG", "flow", "must be at least {} pixels high and wide for its pools, got {}; resize the frames",
                least[0], flow.shape)  # fmt: skip
        return self.trunk(flow)
