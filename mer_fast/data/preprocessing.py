"""From a clip's frames to what networks read: crop, temporal interpolation, optical flow, strain."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from mer_fast import ops
from mer_fast.data._capture import Frame
from mer_fast.data.box import Box
from mer_fast.data.faces import crop, find_face_in
from mer_fast.errors import MerFastError
from mer_fast.ops._checks import require, require_count, require_number
from mer_fast.ops.optical_strain import DERIVATIVES

Flow = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_NAME = "Preprocessing"
_KINDS = ("clip", "apex", "flow", "strain")
_FLOWS = ("tvl1", "farneback")
_CHUNK = 16  # frames at full size in memory at a time
_SEARCH = 10  # frames in which a face is looked for


class Clip(Protocol):
    """What preprocessing asks of a clip.

    Attributes:
        frames: the files of its images, or the images themselves; their number counts.
        onset_index, peak_index, offset_index: indices into them; the peak is the apex, or what stands for it.
    """

    @property
    def frames(self) -> Sequence[Any]: ...
    @property
    def onset_index(self) -> int: ...
    @property
    def peak_index(self) -> int: ...
    @property
    def offset_index(self) -> int: ...

    def read(self, indices: Sequence[int]) -> Frame:
        """Those frames: uint8 (T, H, W, 3) RGB, or (T, H, W) gray."""


@dataclass(frozen=True)
class ArrayClip:
    """A clip whose frames are in memory: uint8 (T, H, W, 3) RGB, or (T, H, W) gray."""

    frames: Frame
    onset_index: int
    peak_index: int
    offset_index: int
    subject: str = ""
    name: str = ""

    def read(self, indices: Sequence[int]) -> Frame:
        return self.frames[list(indices)]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What is made of each clip.

    Attributes:
        size: (height, width) of the crop, in pixels; at least 16 for flow.
        face: what is cropped: the whole frame (None); a `Box`, the same for all clips; or the name of a detector
            (`make_detector`), which finds one box for each clip, in its first frames from the onset on.
        margin: how much wider than the detector's box.
        frames: the clip from onset to offset is resampled to as many (TIM); its own length unless given.
        pairs: "apex", flow from the onset to the apex; or "steps", from each frame of the (resampled) clip to the next.
        flow: "tvl1", "farneback", or a function of two gray uint8 tensors (N, H, W) that gives (N, 2, H, W).
        options: of the flow op, as keyword arguments.
        steady: whether the head's own motion is taken out of the flow: of u and v each, the median over the crop.
        derivative, shear: of `ops.optical_strain`.
        keep: which of "clip", "apex", "flow" and "strain" are kept.

    Raises:
        MerFastError: a setting that is unknown or out of range.
    """

    size: tuple[int, int] = (128, 128)
    face: str | Box | None = None
    margin: float = 0.1
    frames: int | None = None
    pairs: str = "apex"
    flow: str | Flow = "tvl1"
    options: Mapping[str, Any] = field(default_factory=dict)
    steady: bool = False
    derivative: str = "central"
    shear: float = 0.5
    keep: tuple[str, ...] = ("flow", "strain")

    def __post_init__(self) -> None:
        require(len(self.size) == 2, _NAME, "size", "must be (height, width), got {}", self.size)
        for side in self.size:
            require_count(_NAME, "size", side, least=16)
        if self.frames is not None:
            require_count(_NAME, "frames", self.frames)
        require(self.pairs in ("apex", "steps"), _NAME, "pairs", "must be 'apex' or 'steps', got {!r}", self.pairs)
        require(callable(self.flow) or self.flow in _FLOWS, _NAME, "flow", "must be one of {} or a function, got {!r}",
                ", ".join(map(repr, _FLOWS)), self.flow)  # fmt: skip
        known = bool(self.keep) and all(one in _KINDS for one in self.keep)
        require(known, _NAME, "keep", "must name some of {}, got {}", ", ".join(_KINDS), self.keep)
        require(_is_face(self.face), _NAME, "face",
                "must be nothing, a box of four whole numbers (x, y, width, height), 'lbp', 'opencv' or a path ending in .onnx, "
                "got {!r}", self.face)  # fmt: skip
        require_number(_NAME, "margin", self.margin, -1)
        require_number(_NAME, "shear", self.shear, -1e-12)
        require(isinstance(self.steady, bool), _NAME, "steady", "must be true or false, got {!r}", self.steady)
        require(self.derivative in DERIVATIVES, _NAME, "derivative", "must be one of {}, got {!r}", ", ".join(DERIVATIVES),
                self.derivative)  # fmt: skip
        self._check_options()

    def _check_options(self) -> None:
        require(
            isinstance(self.options, Mapping), _NAME, "options", "must be settings of the flow by name, got {!r}", self.options
        )
        if not isinstance(self.flow, str):
            return
        parameters = inspect.signature(getattr(ops, f"{self.flow}_flow")).parameters.values()
        known = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY and one.name != "initial_flow"]
        for name in self.options:
            require(name in known, _NAME, f"options.{name}", "is no setting of {}; there are {}", self.flow, ", ".join(known))

    @property
    def needs_flow(self) -> bool:
        return "flow" in self.keep or "strain" in self.keep

    def needed(self, clip: Clip) -> range | list[int]:
        """Indices of the frames that are read.

        Raises:
            MerFastError: the clip's indices are not among its frames, or not in order.
        """
        onset, peak, offset, count = clip.onset_index, clip.peak_index, clip.offset_index, len(clip.frames)
        if not 0 <= onset <= peak <= offset < count:
            raise MerFastError(
                f"{name_of(clip)}: onset {onset}, apex {peak} and offset {offset} must be ascending indices of its {count} frames"
            )
        if "clip" in self.keep or (self.needs_flow and self.pairs == "steps"):
            return range(onset, offset + 1)
        return [onset, peak]

    def looked_at(self, clip: Clip) -> list[int]:
        """Indices of all frames that the outcome depends on: those needed, and those in which the face is looked for."""
        needed = set(self.needed(clip))
        return sorted(needed.union(_searched(clip)) if isinstance(self.face, str) else needed)

    def flow_of(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Flow (N, 2, H, W) between uint8 frames (N, H, W)."""
        function: Any = getattr(ops, f"{self.flow}_flow") if isinstance(self.flow, str) else self.flow
        flow: torch.Tensor = function(first, second, **self.options).detach().cpu()
        if flow.shape != (len(first), 2, *first.shape[1:]):
            raise MerFastError(f"{_NAME}: flow must give ({len(first)}, 2, {first.shape[1]}, {first.shape[2]}), got {flow.shape}")
        return flow - flow.flatten(2).median(2).values[:, :, None, None] if self.steady else flow


@dataclass(frozen=True)
class Prepared:
    """A clip before its flow.

    Attributes:
        clip: uint8 (T, H, W) gray, resampled; empty where only two frames are needed.
        apex: uint8 (H, W).
        first, second: uint8 (P, H, W), the pairs; empty where no flow is wanted.
        apex_index: of the apex in `clip`.
        box: what was cropped.
    """

    clip: torch.Tensor
    apex: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor
    apex_index: int
    box: Box


def prepare(clip: Clip, settings: Preprocessing) -> Prepared:
    """Reads, crops and resamples a clip, a few frames at full size at a time.

    Raises:
        MerFastError: frames that cannot be read or are no images, indices out of place, no face, or too few frames.
    """
    wanted = settings.needed(clip)
    box = _box(clip, settings)
    small = np.stack([crop(frame, box, settings.size) for frame in _frames(clip, wanted)])
    gray = torch.from_numpy(small)
    nothing = gray[:0]
    if len(wanted) == 2 and not isinstance(wanted, range):
        pairs = (gray[:1], gray[1:]) if settings.needs_flow else (nothing, nothing)
        return Prepared(nothing, gray[1], *pairs, 0, box)
    apex_index = clip.peak_index - clip.onset_index
    ends = gray[:1], gray[apex_index : apex_index + 1]
    apex = gray[apex_index]
    if settings.frames is not None:
        apex_index = round(apex_index * (settings.frames - 1) / max(1, len(gray) - 1))
        gray = ops.tim(gray, settings.frames, dim=0)
    if not settings.needs_flow:
        return Prepared(gray, apex, nothing, nothing, apex_index, box)
    if settings.pairs == "steps" and len(gray) < 2:
        raise MerFastError(f"{name_of(clip)}: has one frame from onset to offset, and flow from frame to frame needs two")
    return Prepared(gray, apex, *(ends if settings.pairs == "apex" else (gray[:-1], gray[1:])), apex_index, box)


def _is_face(face: Any) -> bool:
    """Whether it has one of the forms that `Preprocessing.face` may have; a detector's files are not looked for."""
    if face is None or isinstance(face, str):
        return face in (None, "lbp", "opencv") or face.lower().endswith(".onnx")
    if not isinstance(face, (tuple, list)) or len(face) != 4:
        return False
    whole = all(isinstance(number, (int, np.integer)) and not isinstance(number, bool) for number in face)
    return whole and min(face[:2]) >= 0 and min(face[2:]) >= 1


def name_of(clip: Any) -> str:
    """A clip as messages call it."""
    for attribute in ("key", "name"):
        if getattr(clip, attribute, ""):
            return f"clip {getattr(clip, attribute)}"
    return "a clip"


def _box(clip: Clip, settings: Preprocessing) -> Box:
    if isinstance(settings.face, str):
        try:
            return find_face_in(_frames(clip, _searched(clip), 1), settings.face, settings.margin)
        except MerFastError as error:
            raise type(error)(f"{name_of(clip)}: {error}") from error
    height, width = clip.read([clip.onset_index]).shape[1:3]
    return Box(0, 0, width, height) if settings.face is None else Box(*settings.face)


def _searched(clip: Clip) -> range:
    return range(clip.onset_index, min(clip.onset_index + _SEARCH, len(clip.frames)))


def _frames(clip: Clip, indices: Sequence[int], chunk: int = _CHUNK) -> Iterator[Frame]:
    """Frames as uint8 (H, W, 3)."""
    for start in range(0, len(indices), chunk):
        some = clip.read(list(indices[start : start + chunk]))
        if some.dtype != np.uint8 or some.ndim not in (3, 4) or (some.ndim == 4 and some.shape[3] != 3):
            raise MerFastError(f"{name_of(clip)}: frames must be uint8 (T, H, W) or (T, H, W, 3), got {some.dtype} {some.shape}")
        for frame in some:
            yield frame if frame.ndim == 3 else np.repeat(frame[:, :, None], 3, 2)
