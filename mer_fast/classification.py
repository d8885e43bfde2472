"""A trained network on one clip: its class, and which places of the face spoke for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from mer_fast import ops
from mer_fast.data.apex_time import GRID
from mer_fast.data.box import Box
from mer_fast.data.cache import Entry, make_entries
from mer_fast.data.faces import crop
from mer_fast.data.network_inputs import NetworkInput
from mer_fast.data.preprocessing import Clip, Preprocessing, name_of, prepare
from mer_fast.errors import MerFastError
from mer_fast.training.batches import collate, forward, predict
from mer_fast.training.network_file import load_network
from mer_fast.training.statistics import Changes, Normalised

MAX_FRAMES = 256  # of a clip that is read whole; an expression is shorter, and memory grows with it
_STEPS = 16  # of the path from stillness to the clip
_PARTS = ("clip", "apex", "flow", "strain")

Gray = npt.NDArray[np.uint8]
Field = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Classification:
    """What a network says of a clip, and where it sees that. Pictures are the network's own crop, in its size.

    Attributes:
        model: the file of the network.
        network: its name, as of `models.create`.
        classes: names.
        probabilities: (C,) float32, softmax of the logits.
        predicted: index of the largest.
        offset: the last frame of the clip.
        whole_frame: whether the network reads whole frames, not a face found in them.
        box: what was cropped.
        apex: (H, W) uint8.
        strain: (H, W) float32, of the flow from onset to apex.
        relevance: (H, W) float32, `relevance`.
    """

    model: str
    network: str
    classes: tuple[str, ...]
    probabilities: Field
    predicted: int
    offset: int
    whole_frame: bool
    box: Box
    apex: Gray
    strain: Field
    relevance: Field


class Classifier:
    """A network that `training.save_network` wrote.

    Args:
        path: the file.

    Raises:
        MerFastError: no such file, a damaged one, one of another kind, or one whose input this version does not know.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = str(path)
        self.saved = load_network(path)
        try:
            self.input: NetworkInput = self.saved.network_input()
        except MerFastError as error:
            raise MerFastError(f"{path}: {error}") from error

    def __call__(self, clip: Clip, progress: Callable[[int, int], None] = lambda done, total: None) -> Classification:
        """Preprocesses a clip as for training, classifies it, and finds what spoke for the class.

        Args:
            clip: from onset to offset, with the apex as its peak.
            progress: told of the steps done, and of how many.

        Raises:
            MerFastError: a clip that is too long, that shows no face where the network reads faces, or that the network does not
                take.
        """
        settings, model = self.input.settings, self.saved.model
        wanted = settings.needed(clip)
        if isinstance(wanted, range) and len(wanted) > MAX_FRAMES:
            raise MerFastError(
                f"{name_of(clip)} has {len(wanted)} frames from onset {clip.onset_index} to offset {clip.offset_index}, and "
                f"{self.saved.network} reads at most {MAX_FRAMES}: give the onset and offset of one expression"
            )
        prepared = prepare(clip, settings)
        (entry,) = make_entries([(clip, prepared)], settings)
        onset, apex = (
            crop(_color(frame), prepared.box, settings.size) for frame in clip.read([clip.onset_index, clip.peak_index])
        )
        try:
            logits = predict(model, [(self.input.make(entry), 0)])[0]
        except MerFastError as error:
            raise MerFastError(f"{self.path} does not fit what is made of {name_of(clip)}: {error}") from error
        target = int(logits.argmax())
        return Classification(
            model=self.path, network=self.saved.network, classes=self.saved.classes, probabilities=logits.softmax(0).numpy(),
            predicted=target, offset=clip.offset_index, whole_frame=settings.face is None, box=prepared.box, apex=apex,
            strain=_strain(settings, onset, apex),
            relevance=relevance(model, self.input, entry, torch.from_numpy(onset), target, progress).numpy(),
        )  # fmt: skip


def relevance(
    model: torch.nn.Module,
    network_input: NetworkInput,
    entry: Entry,
    onset: torch.Tensor,
    target: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> torch.Tensor:
    """How much each place of a clip adds to a class: integrated gradients, on the way from a still face to the clip.

    Gradient times change of what preprocessing made, at 16 points of a straight way, averaged. For networks on flow (STSTNet,
    STRCN-G) these are the planes of flow and strain, which begin at zero; for networks on pixels (STRCN-A, MicroExpSTCNN,
    MicroExpFuseNet) the gray frames, which begin as the onset frame; for ATNet both the apex frame and the flow from frame to
    frame in the cells of its grid, whose directions are there from the first point on, as no motion has none. Planes and frames
    are added up.

    The score is the class's logit less the mean of all logits, since what all have in common changes no probability. The
    places sum to the score of the clip less that of the still face, but for the error of 16 points.

    Args:
        model: in evaluation mode.
        network_input: what makes its input.
        entry: what was made of the clip.
        onset: uint8 (H, W), the onset frame in the network's crop.
        target: the class.
        progress: told of the steps done, and of how many.

    Returns:
        (H, W) float32: above 0 where the motion speaks for the class, below where against it.

    Source: Sundararajan, Taly, Yan, "Axiomatic attribution for deep networks", ICML 2017, arXiv 1703.01365.
    """
    parts = {name: getattr(entry, name).float() for name in _PARTS if getattr(entry, name) is not None}
    if entry.flow is not None and entry.flow.dim() == 4:
        # ATNet reads the mean of each cell. Of pixels one by one its angles would show large parts that cancel in a cell.
        cells = F.adaptive_avg_pool2d(parts["flow"], GRID)
        parts["flow"] = F.interpolate(cells, parts["flow"].shape[-2:], mode="nearest")
    still = {name: onset.float().expand_as(part) if name in ("clip", "apex") else 0 * part for name, part in parts.items()}
    ways = {name: part - still[name] for name, part in parts.items()}
    # Networks take bytes as 0..255 and floats as 0..1, but for those with statistics around them, which met bytes in training.
    around = isinstance(model, (Changes, Normalised))
    as_bytes = [x.dtype == torch.uint8 and not around for x in collate([network_input.make(entry)])]
    model.requires_grad_(False)
    total = torch.zeros_like(onset, dtype=torch.float32)
    for step in range(_STEPS):
        share = (step + 0.5) / _STEPS
        moved = {name: (still[name] + share * way).requires_grad_() for name, way in ways.items()}
        point = Entry(**{name: moved.get(name) for name in _PARTS}, apex_index=entry.apex_index, box=entry.box)
        inputs = collate([network_input.make(point)])
        logits = forward(model, tuple(x / 255 if scaled else x for x, scaled in zip(inputs, as_bytes, strict=True)))[0]
        gradients = torch.autograd.grad(logits[target] - logits.mean(), list(moved.values()), allow_unused=True)
        for gradient, way in zip(gradients, ways.values(), strict=True):
            if gradient is not None:  # a part that was kept and is not read
                # An angle has no gradient where nothing moves, and nothing is added there.
                added = torch.where(way == 0, 0.0, gradient * way)
                total += added.reshape(-1, *total.shape).sum(0) / _STEPS
        progress(step + 1, _STEPS)
    return total


def _strain(settings: Preprocessing, onset: Gray, apex: Gray) -> Field:
    flow = settings.flow_of(torch.from_numpy(onset)[None], torch.from_numpy(apex)[None])
    return ops.optical_strain(flow, derivative=settings.derivative, shear=settings.shear)[0, 0].numpy()


def _color(frame: Gray) -> Gray:
    return frame if frame.ndim == 3 else np.repeat(frame[:, :, None], 3, 2)
