"""A data set of preprocessed clips, for training and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from mer_fast.data.cache import Cache, Entry
from mer_fast.errors import MerFastError
from mer_fast.fingerprint import describe, digest


class CachedClips:
    """`clips[i]` is (input, label), as `evaluation.leave_one_subject_out` and `training.fit` take them.

    Args:
        clips: each with what preprocessing asks for (`Clip`), a `subject`, and a `dataset` where they are of several. A list with
            `targets` brings the labels.
        cache: what is missing there is made when it is first read; `cache.build(clips)` makes all at once.
        make_input: what a network reads, from an entry.
        labels: class of each clip; `clips.targets` unless given.
        memory: bytes of inputs that are kept, so that they are read once only.

    Attributes:
        labels, subjects: of each clip.
        databases: of each clip, where the clips tell.

    Raises:
        MerFastError: no labels, or not one a clip.
    """

    def __init__(
        self,
        clips: Sequence[Any],
        cache: Cache,
        make_input: Callable[[Entry], Any],
        labels: Sequence[int] | None = None,
        *,
        memory: int = 1 << 30,
    ) -> None:
        known = getattr(clips, "targets", None) if labels is None else labels
        if known is None or len(known) != len(clips):
            raise MerFastError(f"CachedClips: labels must be one for each of {len(clips)} clips, got {known and len(known)}")
        self.labels = [int(label) for label in known]
        self.subjects: list[str] = [clip.subject for clip in clips]
        databases = [getattr(clip, "dataset", None) for clip in clips]
        self.databases = None if None in databases else databases
        self.clips, self.cache, self.make_input = clips, cache, make_input
        self._memory, self._held = memory, 0
        self._kept: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if index in self._kept:
            return self._kept[index], self.labels[index]
        value = self.make_input(self.cache.read(self.clips[index]))
        parts = value if isinstance(value, tuple) else (value,)
        size = sum(part.nbytes for part in parts if isinstance(part, torch.Tensor))
        if self._held + size <= self._memory:
            self._kept[index] = value
            self._held += size
        return value, self.labels[index]

    @property
    def fingerprint(self) -> str:
        """Changes with the content of the clips, the preprocessing and the inputs."""
        return digest([describe(self.make_input), [self.cache.key(clip) for clip in self.clips]])

    def __getstate__(self) -> dict[str, Any]:
        # A process that is sent this reads from the files.
        return {**self.__dict__, "_kept": {}, "_held": 0}
