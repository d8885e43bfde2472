"""A clip of a data set, and a list of clips with one label each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt

from mer_fast.data.readers.faults import FaultReport
from mer_fast.errors import MerFastError


@dataclass(frozen=True)
class Clip:
    """One micro-expression as its owners annotated it.

    Attributes:
        dataset: the data set's key, such as "casme2".
        subject: unique across data sets, such as "casme2/sub01".
        name: unique within its subject, such as "EP02_01f"; where file names repeat (CAS(ME)^3) the onset is part of it: "a_355".
        folder: the folder of its images.
        files: the images' names in natural order: those of the folder, or the stretch from onset to offset where the folder
            holds the frames of a longer video.
        onset, apex, offset: the owner's frame numbers; apex is None where it is not annotated.
        onset_index, apex_index, offset_index: the same as indices into `files`.
        emotion: the owner's word in lower case ("happiness"), before any label map.
        label: the class that the label map makes of it.
        fps: frames a second.
        action_units: the owner's codes, such as ("4", "R12").
    """

    dataset: str
    subject: str
    name: str
    folder: Path
    files: tuple[str, ...]
    onset: int
    apex: int | None
    offset: int
    onset_index: int
    apex_index: int | None
    offset_index: int
    emotion: str
    label: str
    fps: float
    action_units: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Unique over all data sets: "casme2/sub01/EP02_01f"."""
        return f"{self.subject}/{self.name}"

    @property
    def frames(self) -> tuple[Path, ...]:
        """The paths of the images, in order."""
        return tuple(self.folder / name for name in self.files)

    @property
    def peak_index(self) -> int:
        """Index of the apex, or of the middle between onset and offset where no apex is annotated (as is done for SMIC)."""
        return (self.onset_index + self.offset_index) // 2 if self.apex_index is None else self.apex_index

    def read(self, indices: Sequence[int] | None = None) -> npt.NDArray[np.uint8]:
        """The frames, or those at `indices`: uint8 (T, H, W, 3) RGB.

        Raises:
            VideoError: an image cannot be read.
            MerFastError: the images differ in size, there is none at an index, or OpenCV is not installed.
        """
        from mer_fast.data._capture import read_image

        wanted = range(len(self.files)) if indices is None else indices
        if not wanted or not all(-len(self.files) <= index < len(self.files) for index in wanted):
            raise MerFastError(f"{self.key}: indices must be of its {len(self.files)} frames, got {list(wanted)}")
        images = [read_image(self.folder / self.files[index]) for index in wanted]
        for index, image in zip(wanted, images, strict=True):
            if image.shape != images[0].shape:
                raise MerFastError(
                    f"{self.folder / self.files[index]} is {image.shape[1]}x{image.shape[0]} and the clip's first frame "
                    f"{images[0].shape[1]}x{images[0].shape[0]}: give frames of one size"
                )
        return np.stack(images)


@dataclass(frozen=True, repr=False)
class ClipSet(Sequence[Clip]):
    """Clips in the order of their table, with what was wrong there.

    Attributes:
        clips: the clips.
        classes: the class names; `targets` are indices into them.
        faults: what was wrong, clips left out included.
        left_out: how many clips of each emotion have no class in the label map (they are no fault).
        sheet: the annotation table that was read; None where there is none.
        root: the folder that holds the frames.
        listed: the clips.csv that chose the clips; None where the table did.
    """

    clips: tuple[Clip, ...]
    classes: tuple[str, ...]
    faults: FaultReport = field(default_factory=FaultReport)
    left_out: Mapping[str, int] = field(default_factory=dict)
    sheet: Path | None = None
    root: Path | None = None
    listed: Path | None = None

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in self.counts().items())
        return (
            f"{type(self).__name__}({len(self)} clips of {len(set(self.subjects))} subjects: {counts}; {len(self.faults)} faults)"
        )

    @cached_property
    def subjects(self) -> list[str]:
        """The subject of each clip, as `evaluation.leave_one_subject_out` wants it."""
        return [clip.subject for clip in self.clips]

    @cached_property
    def targets(self) -> list[int]:
        """The class of each clip as an index into `classes`."""
        index = {name: number for number, name in enumerate(self.classes)}
        return [index[clip.label] for clip in self.clips]

    def counts(self) -> dict[str, int]:
        """How many clips each class has, in the order of `classes`."""
        found = Counter(clip.label for clip in self.clips)
        return {name: found[name] for name in self.classes}

    def __len__(self) -> int:
        return len(self.clips)

    @overload
    def __getitem__(self, index: int) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Clip, ...]: ...
    def __getitem__(self, index: int | slice) -> Clip | tuple[Clip, ...]:
        return self.clips[index]

    def __iter__(self) -> Iterator[Clip]:
        return iter(self.clips)
