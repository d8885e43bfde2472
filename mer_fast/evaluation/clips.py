"""What an evaluation asks of a data set, and the part of it that a fold trains on."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ..errors import MerFastError


class Dataset(Protocol):
    """`dataset[i]` is (input, label), the input a tensor, an array, or a tuple of them for a network of several inputs.

    What it may have besides:
        labels: the class of every clip; read from the clips once unless there.
        databases: the database of every clip, a list of str. Subjects of one name in two databases are two people.
        fingerprint: a str that changes with the content; found by reading every clip unless there (only for `resume`).
    """

    subjects: Sequence[str]

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> tuple[Any, Any]: ...


@dataclass(frozen=True)
class Roster:
    """Who and what is on every clip.

    Attributes:
        labels: classes.
        subjects: people; `database/subject` where two databases have a subject of one name.
        databases: where the data set names them.
    """

    labels: tuple[int, ...]
    subjects: tuple[str, ...]
    databases: tuple[str, ...] | None

    @classmethod
    def of(cls, dataset: Any) -> Roster:
        """Reads it off a data set.

        Raises:
            MerFastError: no subjects, lists of another length than the data set, or labels that are no class.
        """
        count = len(dataset)
        if not count:
            raise MerFastError("the data set holds no clip")
        subjects = _names(dataset, "subjects", count)
        if subjects is None:
            raise MerFastError("the data set has no `subjects`: a list of str is needed that names the subject of every clip")
        databases = _names(dataset, "databases", count)
        if databases is not None and len(set(zip(databases, subjects, strict=True))) > len(set(subjects)):
            subjects = tuple(f"{database}/{subject}" for database, subject in zip(databases, subjects, strict=True))
        known = getattr(dataset, "labels", None)
        if known is not None and len(known) != count:
            raise MerFastError(f"the data set has {count} clips, and {len(known)} labels")
        labels = (as_label(dataset[i][1] if known is None else known[i], i, subjects[i]) for i in range(count))
        return cls(tuple(labels), subjects, databases)


def as_label(value: Any, index: int, subject: str) -> int:
    """A class as an int.

    Raises:
        MerFastError: not a whole number from 0 on.
    """
    try:
        # A bool or a float is a mistake here, though Python would take it for a number.
        label = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        label = None
    if label is None or label < 0:
        raise MerFastError(f"clip {index} (subject {subject}): the label must be a whole number from 0 on, got {value!r}")
    return label


def _names(dataset: Any, attribute: str, count: int) -> tuple[str, ...] | None:
    names = getattr(dataset, attribute, None)
    if names is None:
        return None
    if len(names) != count:
        raise MerFastError(f"the data set has {count} clips, and {len(names)} {attribute}")
    wrong = next((name for name in names if not isinstance(name, str)), None)
    if wrong is not None:
        raise MerFastError(f"the data set's {attribute} must be a list of str, got {wrong!r} among them")
    return tuple(str(name) for name in names)  # NumPy's strings become plain ones


class FoldClips:
    """Some clips of a data set by themselves: what a fold trains on, or is tested on.

    `clips[i]` is (input, label) as of the data set, i from 0 to `len(clips) - 1`. Statistics (means, masks, class weights) that
    are found here are found from these clips alone.

    Attributes:
        name: of the fold.
        seed: of the fold; the global generators are seeded with it too.
        indices: which clips of the data set these are.
        labels, subjects: theirs.
    """

    def __init__(self, dataset: Any, roster: Roster, indices: Sequence[int], name: str, seed: int) -> None:
        self._dataset = dataset
        self.name, self.seed, self.indices = name, seed, tuple(indices)
        self.labels = tuple(roster.labels[i] for i in indices)
        self.subjects = tuple(roster.subjects[i] for i in indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        value, given = self._dataset[self.indices[index]]
        label = as_label(given, self.indices[index], self.subjects[index])
        if label != self.labels[index]:
            raise MerFastError(
                f"clip {self.indices[index]} (subject {self.subjects[index]}): the data set's labels say class "
                f"{self.labels[index]}, and the clip comes with {label}"
            )
        return value, label

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        return (self[i] for i in range(len(self)))

    def counts(self, num_classes: int) -> torch.Tensor:
        """How many clips each class has, int64 (num_classes,)."""
        return torch.bincount(torch.tensor(self.labels), minlength=num_classes)
