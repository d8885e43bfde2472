"""The synthetic benchmark: many made people, each showing micro-expressions of brows, eyes and mouth among other motion."""

from __future__ import annotations

import contextlib
import functools
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, overload

import numpy as np

from mer_fast.data._capture import Frame
from mer_fast.data.benchmark.clip import DATASET, BenchmarkClip
from mer_fast.data.benchmark.expressions import REGIONS
from mer_fast.data.benchmark.scene import Person, Scene, draw_scene
from mer_fast.data.motion import Region
from mer_fast.ops._checks import require, require_count, require_number
from mer_fast.seeds import derive

Progress = Callable[[str, int, int | None], None]

EMOTIONS: dict[str, str] = {"brow": "surprise", "eye": "disgust", "mouth": "happiness"}
_NAME = "SyntheticSet"
_PEOPLE, _SCENES, _FRAMES = 64, 512, 1024  # kept in memory: 50 MB each of faces and frames of 128x128
_LONGEST = 3.0


class SyntheticSet(Sequence[BenchmarkClip]):
    """Clips of a class each by the region that moves, made when they are read; shaped like `ClipSet` of the readers.

    A movement has several forms, either way (a brow is raised or lowered), on one side or both, 0.3 to 2 pixels long at a size of
    128, slow or quick. With it the head drifts, turns and sways, another part of the face moves, half of the clips have a blink,
    the light drifts and flickers, and the sensor has noise: all that is drawn without regard to the class, as is how
    a person looks. Since movements go either way, pixels and their differences tell little to a linear model. Flow
    and strain tell where the face moves.

    Every byte follows from (seed, subject, clip) and the settings: more subjects, or more clips of each, leave what there was as
    it is. Each subject's clips have the classes in equal number, as far as they divide by three.

    Args:
        subjects: how many people.
        clips_per_subject: how many clips of each.
        seed: of everything.
        size: side of the frames, in pixels, at least 64.
        frames: length of a clip, at least 16.
        amplitude: bounds of an expression's longest push, in pixels of a frame of 128.
        distraction: strength of everything that has nothing to do with the class; 0 for a still head without noise.

    Attributes:
        classes: ("brow", "eye", "mouth").
        label_map: the emotion that stands for each class in a table; `read_clips(..., labels=SyntheticSet.label_map)` reads back
            what `write` wrote with the same classes.

    Raises:
        MerFastError: a setting out of range.
    """

    classes: ClassVar[tuple[str, ...]] = REGIONS
    label_map: ClassVar[dict[str, str]] = {emotion: region for region, emotion in EMOTIONS.items()}

    def __init__(
        self,
        subjects: int = 24,
        clips_per_subject: int = 18,
        *,
        seed: int = 0,
        size: int = 128,
        frames: int = 32,
        amplitude: tuple[float, float] = (0.3, 2.0),
        distraction: float = 1.0,
    ) -> None:
        require_count(_NAME, "subjects", subjects)
        require_count(_NAME, "clips_per_subject", clips_per_subject)
        require_count(_NAME, "seed", seed, least=0)
        require_count(_NAME, "size", size, least=64)
        require_count(_NAME, "frames", frames, least=16)
        fits = len(amplitude) == 2 and 0 < amplitude[0] <= amplitude[1] <= _LONGEST
        require(fits, _NAME, "amplitude", "must be two ascending numbers above 0 and up to {}, got {}", _LONGEST, amplitude)
        require_number(_NAME, "distraction", distraction, -1e-12, 2 + 1e-12)
        self.seed, self.size, self.num_frames = seed, size, frames
        self.amplitude, self.distraction = (float(amplitude[0]), float(amplitude[1])), float(distraction)
        self._each = clips_per_subject
        people = [f"{DATASET}/sub{person:02d}" for person in range(1, subjects + 1)]
        self.subjects = [person for person in people for _ in range(clips_per_subject)]
        self.targets = [self._target(*self._place(number)) for number in range(len(self.subjects))]
        self._keep()

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in self.counts().items())
        return f"{_NAME}({len(self)} clips of {len(set(self.subjects))} subjects: {counts})"

    def __len__(self) -> int:
        return len(self.subjects)

    @overload
    def __getitem__(self, index: int) -> BenchmarkClip: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[BenchmarkClip, ...]: ...
    def __getitem__(self, index: int | slice) -> BenchmarkClip | tuple[BenchmarkClip, ...]:
        if isinstance(index, slice):
            return tuple(self[number] for number in range(len(self))[index])
        number = range(len(self))[index]
        region, name = REGIONS[self.targets[number]], f"EP01_{number % self._each + 1:02d}"
        return BenchmarkClip(self.subjects[number], name, region, EMOTIONS[region], number, self)

    @property
    def clips(self) -> tuple[BenchmarkClip, ...]:
        """All of them."""
        return self[:]

    def counts(self) -> dict[str, int]:
        """How many clips each class has, in the order of `classes`."""
        found = Counter(self.targets)
        return {name: found[target] for target, name in enumerate(self.classes)}

    def scene(self, number: int) -> Scene:
        """What happens in a clip."""
        return self._scenes(number)

    def frame(self, number: int, k: int) -> Frame:
        """Frame `k` of a clip: uint8 (size, size, 3) RGB, read-only."""
        return self._frames(number, k)

    def write(self, folder: str | os.PathLike[str], progress: Progress | None = None) -> Path:
        """Writes the set as a folder in the layout of CASME II, with a coding table, a clips.csv, and each clip's truth.

        `read_clips("casme2", folder)` reads it as negative (eye), positive (mouth) and surprise (brow), and with
        `labels=SyntheticSet.label_map` with the classes of here. What an earlier call wrote before it was stopped stays.

        Args:
            folder: a new one, an empty one, or one in which the same set was written before.
            progress: told ("writing clips", clips done, of how many); unless given, a bar on a terminal.

        Raises:
            MerFastError: the folder holds something else, or OpenCV is not installed.
        """
        from mer_fast.data.benchmark.writing import write_set

        with contextlib.ExitStack() as stack:
            if progress is None:
                from mer_fast.console import progress as progress_bar

                progress = stack.enter_context(progress_bar())
            settings = {
                "subjects": len(set(self.subjects)), "clips_per_subject": self._each, "seed": self.seed, "size": self.size,
                "frames": self.num_frames, "amplitude": self.amplitude, "distraction": self.distraction,
            }  # fmt: skip
            return write_set(self.clips, settings, folder, progress)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_people", "_scenes", "_frames")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._keep()

    def _keep(self) -> None:
        self._people = functools.lru_cache(_PEOPLE)(self._person)
        self._scenes = functools.lru_cache(_SCENES)(self._drawn)
        self._frames = functools.lru_cache(_FRAMES)(self._made)

    def _place(self, number: int) -> tuple[int, int]:
        """Which subject, and which of their clips."""
        return divmod(number, self._each)

    def _target(self, subject: int, clip: int) -> int:
        block, place = divmod(clip, len(REGIONS))
        order = np.random.default_rng(derive(self.seed, "classes", subject, block)).permutation(len(REGIONS))
        return int(order[place])

    def _person(self, subject: int) -> Person:
        return Person(derive(self.seed, "person", subject), self.size)

    def _drawn(self, number: int) -> Scene:
        subject, clip = self._place(number)
        region: Region = REGIONS[self.targets[number]]
        seed = derive(self.seed, "clip", subject, clip)
        return draw_scene(self._people(subject), region, self.num_frames, self.amplitude, self.distraction, seed)

    def _made(self, number: int, k: int) -> Frame:
        frame = self._scenes(number).frame(k)
        frame.setflags(write=False)
        return frame
