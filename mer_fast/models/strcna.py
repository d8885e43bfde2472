"""STRCN-A: recurrent convolutions on the pixels of a clip that change, by time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F

from .. import ops
from ..ops._checks import require, require_count
from ._appearance import appearance_mask, energy_map
from ._strcn import RecurrentTrunk

POOLS = ((4, 2), (4, 2), (2, 2), (2, 2))  # pixels by time


class STRCNA(RecurrentTrunk):
    """The appearance branch of STRCN, on gray clips.

    `fit_mask` finds, from the training clips of a fold, the pixels that change: the mean over clips of the energy
    `sum_k |I_k - I_1|` (each over its maximum), above its 75th percentile, opened with a disk of radius 1 (3 from 100 rows, 5
    from 200). A clip becomes the one-channel image of these pixels, row by row, by time, which is resampled to `frames` by the
    temporal interpolation model; images smaller than the pools allow are filled up with zeros. On it run a 3x3 convolution and
    three recurrent sections as in `STRCNG`, with max-pools 4x2, 4x2, 2x2, 2x2 (pixels by time): the paper leaves the network of
    this branch open.

    The mask is a part of the state_dict, and loading one takes over its size.

    Args:
        num_classes: how many logits.
        frames: time steps of the image; 30 in the paper's five-fold evaluation.
        width: maps of every layer.

    Shape: (N, T, H, W), any T, H and W of the mask, uint8 0..255 or float 0..1 -> (N, num_classes).

    Attributes:
        mask: bool (H, W), (0, 0) before `fit_mask`.

    Raises:
        MerFastError: counts below 1; at a call, no mask, another shape, or a size other than the mask's.

    Source: Xia, Hong, Gao, Feng, Zhao, "Spatiotemporal recurrent convolutional networks for recognizing spontaneous
    micro-expressions", IEEE TMM 2020, arXiv 1901.04656.
    """

    mask: torch.Tensor
    kept: torch.Tensor

    def __init__(self, num_classes: int, *, frames: int = 30, width: int = 128) -> None:
        require_count("STRCNA", "frames", frames)
        super().__init__("STRCNA", 1, num_classes, width, POOLS, False, 0.0)
        self.frames = frames
        self.register_buffer("mask", torch.zeros(0, 0, dtype=torch.bool))
        # Where the mask is True in the flattened frame: found once, as finding it needs the mask's values on the host.
        self.register_buffer("kept", torch.zeros(0, dtype=torch.long), persistent=False)

    def fit_mask(self, clips: Iterable[torch.Tensor]) -> None:
        """Sets the mask from clips (T, H, W), all of one H x W: those of the training set alone, read once.

        Raises:
            MerFastError: no clips, other shapes, values that are not finite, or a mask that keeps no pixel.
        """
        mask = appearance_mask(energy_map(clips))
        require(bool(mask.any()), "STRCNA.fit_mask", "clips",
                "give a mask that keeps no pixel: nothing moves in them, or only single pixels do; give more clips")
        self._set_mask(mask.to(self.mask.device))

    def _set_mask(self, mask: torch.Tensor) -> None:
        self.mask, self.kept = mask, mask.flatten().nonzero().flatten()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        mask = state_dict.get(prefix + "mask")
        if isinstance(mask, torch.Tensor) and mask.dim() == 2 and mask.dtype == torch.bool:
            self._set_mask(mask.detach().clone().to(self.mask.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def image(self, clip: torch.Tensor) -> torch.Tensor:
        """The image of masked pixels by time, (N, 1, pixels, frames), of (N, T, H, W)."""
        is_clip = isinstance(clip, torch.Tensor) and clip.dim() == 4 and clip.shape[1] >= 1
        require(is_clip, "STRCNA", "clip", "must be a tensor of shape (N, T, H, W), got {}",
                getattr(clip, "shape", type(clip).__name__))  # fmt: skip
        require(self.kept.numel() > 0, "STRCNA", "mask",
                "keeps no pixel: call fit_mask with the training clips, or load a checkpoint")  # fmt: skip
        require(clip.shape[2:] == self.mask.shape, "STRCNA", "clip", "must have frames of the mask's size {}, got {}",
                self.mask.shape, clip.shape)  # fmt: skip
        pixels = clip.flatten(2).index_select(2, self.kept)
        if pixels.dtype == torch.uint8:
            pixels = pixels.to(self.conv.weight.dtype) / 255
        if pixels.shape[1] != self.frames:
            pixels = ops.tim(pixels, self.frames, dim=1)
        return pixels.transpose(1, 2).unsqueeze(1)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        image = self.image(clip)
        rows, columns = self.least
        return self.trunk(F.pad(image, (0, max(0, columns - self.frames), 0, max(0, rows - image.shape[2]))))
