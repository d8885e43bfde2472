"""MicroExpSTCNN: one 3-D convolution over the whole face."""

from __future__ import annotations

import torch

from ..ops._checks import require_count
from ._clip import ClipStem


class MicroExpSTCNN(torch.nn.Module):
    """One spatio-temporal convolution, pool, and two linear layers on the gray clip of a face.

    Conv3d 32 filters, 3x3 in space and `kernel_depth` in time -> ReLU -> max-pool 3 -> dropout -> Linear 128 -> ReLU ->
    dropout -> Linear num_classes. 44.2 million parameters at 96 frames.

    Args:
        num_classes: how many logits.
        frames: of a clip; 96 for CAS(ME)^2 and 18 for SMIC in the paper.
        kernel_depth: frames that the convolution spans; the paper compares 3, 7, 15 and 19, and takes 15.
        dropout: probability of both dropouts.

    Shape: (N, 1, frames, 64, 64) -> (N, num_classes). `data.Normalisation` brings gray values to the paper's range.

    Raises:
        MerFastError: too few frames for the kernel and the pool; at a call, another shape.

    Source: Reddy, Karri, Dubey, Mukherjee, "Spontaneous facial micro-expression recognition using 3D spatiotemporal
    convolutional neural networks", IJCNN 2019, arXiv 1904.01390.
    """

    SIDE = 64

    def __init__(self, num_classes: int, *, frames: int = 96, kernel_depth: int = 15, dropout: float = 0.5) -> None:
        super().__init__()
        require_count("MicroExpSTCNN", "num_classes", num_classes)
        self.conv = ClipStem("MicroExpSTCNN", frames, kernel_depth, self.SIDE)
        self.dropout = torch.nn.Dropout(dropout)
        self.hidden = torch.nn.Linear(self.conv.features, 128)
        self.classifier = torch.nn.Linear(128, num_classes)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        self.conv.check("clip", clip)
        features = self.dropout(self.conv(clip)).flatten(1)
        hidden = self.dropout(torch.relu(self.hidden(features)))
        return self.classifier(hidden)
