"""MicroExpFuseNet: one 3-D convolution for the eyes and one for nose and mouth, joined early or late."""

from __future__ import annotations

import torch

from ..ops._checks import require, require_count
from ._clip import ClipStem

FUSIONS = ("intermediate", "late")


class MicroExpFuseNet(torch.nn.Module):
    """Two streams of MicroExpSTCNN's convolution and pool, on the eyes and on nose and mouth.

    "intermediate" joins what the pools give: -> Linear 1024 -> dropout -> Linear 128 -> dropout -> Linear num_classes.
    "late" gives each stream its Linear 1024 and 128, with their dropouts, and joins the two 128. No activation stands between
    the linear layers, as published. 177.1 and 177.2 million parameters at 96 frames.

    Args:
        num_classes: how many logits.
        fusion: "intermediate" or "late".
        frames: of a clip; 96 for CAS(ME)^2 and 18 for SMIC in the paper.
        kernel_depth: frames that the convolutions span.
        dropout: probability of every dropout.

    Shape: eyes (N, 1, frames, 32, 32), mouth (N, 1, frames, 32, 32) -> (N, num_classes). `data.eyes_and_mouth` cuts them.

    Raises:
        MerFastError: unknown fusion, or too few frames for the kernel and the pool; at a call, another shape.

    Source: Reddy, Karri, Dubey, Mukherjee, "Spontaneous facial micro-expression recognition using 3D spatiotemporal
    convolutional neural networks", IJCNN 2019, arXiv 1904.01390.
    """

    SIDE = 32

    def __init__(
        self,
        num_classes: int,
        *,
        fusion: str = "intermediate",
        frames: int = 96,
        kernel_depth: int = 15,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        network = "MicroExpFuseNet"
        require_count(network, "num_classes", num_classes)
        require(fusion in FUSIONS, network, "fusion", "must be 'intermediate' or 'late', got {!r}", fusion)
        self.eyes = ClipStem(network, frames, kernel_depth, self.SIDE)
        self.mouth = ClipStem(network, frames, kernel_depth, self.SIDE)
        self.fusion = fusion
        if fusion == "intermediate":
            self.joined = _head(2 * self.eyes.features, dropout)
            self.classifier = torch.nn.Linear(128, num_classes)
        else:
            self.eyes_head = _head(self.eyes.features, dropout)
            self.mouth_head = _head(self.mouth.features, dropout)
            self.classifier = torch.nn.Linear(256, num_classes)

    def forward(self, eyes: torch.Tensor, mouth: torch.Tensor) -> torch.Tensor:
        self.eyes.check("eyes", eyes)
        self.mouth.check("mouth", mouth)
        require(len(eyes) == len(mouth), "MicroExpFuseNet", "eyes and mouth", "must be of the same clips, got {} and {}",
                len(eyes), len(mouth))  # fmt: skip
        eyes, mouth = self.eyes(eyes).flatten(1), self.mouth(mouth).flatten(1)
        if self.fusion == "intermediate":
            return self.classifier(self.joined(torch.cat([eyes, mouth], 1)))
        return self.classifier(torch.cat([self.eyes_head(eyes), self.mouth_head(mouth)], 1))


def _head(features: int, dropout: float) -> torch.nn.Sequential:
    return torch.nn.Sequential(
        torch.nn.Linear(features, 1024), torch.nn.Dropout(dropout), torch.nn.Linear(1024, 128), torch.nn.Dropout(dropout)
    )
