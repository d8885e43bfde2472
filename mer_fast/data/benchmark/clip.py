"""A clip of the synthetic benchmark: its frames are made when they are read, the same in every reading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mer_fast.data._capture import Frame
from mer_fast.data.benchmark.scene import Scene
from mer_fast.data.box import Box
from mer_fast.data.motion import Region
from mer_fast.errors import MerFastError

DATASET = "synthetic"


class Source(Protocol):
    """Where a clip's scene and frames come from, by its number."""

    @property
    def num_frames(self) -> int: ...
    @property
    def size(self) -> int: ...
    def scene(self, number: int) -> Scene: ...
    def frame(self, number: int, k: int) -> Frame: ...


@dataclass(frozen=True)
class BenchmarkClip:
    """A clip with a planted micro-expression, shaped like `Clip` of the readers, and the truth about it.

    Attributes:
        subject: unique across data sets, as "synthetic/sub01".
        name: unique within its subject, as "EP01_03".
        region: what moves: "brow", "eye" or "mouth".
        emotion: the word that stands for the region in a data set's table.
        number: of the clip in its set.
    """

    subject: str
    name: str
    region: Region
    emotion: str
    number: int
    source: Source = field(repr=False, compare=False)
    dataset: str = DATASET
    fps: float = 200.0

    @property
    def scene(self) -> Scene:
        """All that happens in it."""
        return self.source.scene(self.number)

    @property
    def frames(self) -> LazyFrames:
        """uint8 (T, H, W, 3) RGB."""
        return LazyFrames(self)

    @property
    def label(self) -> str:
        """The class: the region."""
        return self.region

    @property
    def key(self) -> str:
        """Unique over all data sets: "synthetic/sub01/EP01_03"."""
        return f"{self.subject}/{self.name}"

    @property
    def onset(self) -> int:
        """The frame after which the expression begins, from 0 on; so for `apex` and `offset`, and the indices are the same."""
        return self.scene.span.start

    @property
    def apex(self) -> int:
        return self.scene.span.peak

    @property
    def offset(self) -> int:
        return self.scene.span.end

    @property
    def onset_index(self) -> int:
        return self.onset

    @property
    def apex_index(self) -> int:
        return self.apex

    @property
    def peak_index(self) -> int:
        return self.apex

    @property
    def offset_index(self) -> int:
        return self.offset

    @property
    def amplitude(self) -> float:
        """The expression's longest push, in pixels."""
        return self.scene.amplitude

    @property
    def action_units(self) -> tuple[str, ...]:
        """What it is like."""
        return self.scene.units

    @property
    def face(self) -> Box:
        """The face, but for the head's motion."""
        return self.scene.person.traits.box(self.scene.person.size)

    @property
    def flow(self) -> npt.NDArray[np.float32]:
        """Exact flow from the onset to the apex at the onset's pixels, the head's motion included: (2, H, W)."""
        return self.flow_at(self.apex)

    def flow_at(self, k: int, first: int | None = None) -> npt.NDArray[np.float32]:
        """Exact flow (2, H, W) from frame `first`, the onset unless given, to frame `k`."""
        return self.scene.flow(self.onset if first is None else first, k).astype(np.float32)

    @property
    def moving(self) -> npt.NDArray[np.bool_]:
        """Where the expression moves the onset's pixels by more than a tenth of its largest motion, (H, W)."""
        length = self.scene.moving()
        return length > length.max() / 10

    def read(self, indices: Sequence[int] | None = None) -> Frame:
        """The frames, or those at `indices`: uint8 (T, H, W, 3) RGB.

        Raises:
            MerFastError: there is none at an index, or SciPy is not installed.
        """
        wanted = range(len(self.frames)) if indices is None else indices
        if not wanted or not all(-len(self.frames) <= index < len(self.frames) for index in wanted):
            raise MerFastError(f"{self.key}: indices must be of its {len(self.frames)} frames, got {list(wanted)}")
        return np.stack([self.frames[index] for index in wanted])


class LazyFrames(Sequence[Frame]):
    """The frames of a clip, as an array (T, H, W, 3) would give them; each is made when it is asked for, read-only.

    `np.asarray(frames)` makes all.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, clip: BenchmarkClip) -> None:
        self._clip = clip
        self.shape = (clip.source.num_frames, clip.source.size, clip.source.size, 3)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice) -> Frame:  # type: ignore[override]  # of a slice the frames in one array
        if isinstance(index, slice):
            chosen = range(len(self))[index]
            return self._clip.read(chosen) if chosen else np.empty((0, *self.shape[1:]), np.uint8)
        return self._clip.source.frame(self._clip.number, range(len(self))[index])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return self._clip.read().astype(dtype or np.uint8, copy=False)
