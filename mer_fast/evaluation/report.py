"""The result of an evaluation."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..errors import MerFastError
from ..files import atomic_path
from .metrics import SubjectRow, accuracy_of, confusion_matrix, f1_of, per_subject, recall_of

_FIGURES = ("uf1", "uar", "accuracy")


class Figures(NamedTuple):
    """Pooled figures of some of the clips."""

    clips: int
    uf1: float
    uar: float
    accuracy: float


@dataclass(frozen=True, eq=False)
class Report:
    """The pooled predictions of all folds, and what follows from them. Every figure is of the pool; none is a mean over folds.

    Two reports are equal when all they hold is, to the last bit.

    Attributes:
        predictions, targets: class indices, int64 (N,).
        subjects: whose clip each is, N names; `database/subject` where two databases have a subject of one name.
        num_classes: C.
        indices: which clip of the data set each is, int64 (N,), ascending.
        databases: the database of each clip, N names, or none.
        uf1, uar, accuracy: 0..1; see `evaluation.uf1` and `evaluation.uar`.
        confusion: int64 (C, C), rows the true classes.
        per_subject: clips and right ones by subject.
        per_database: the pooled figures of each database by itself; empty without databases.
    """

    predictions: torch.Tensor
    targets: torch.Tensor
    subjects: tuple[str, ...]
    num_classes: int
    indices: torch.Tensor
    databases: tuple[str, ...] | None = None
    uf1: float = field(init=False)
    uar: float = field(init=False)
    accuracy: float = field(init=False)
    confusion: torch.Tensor = field(init=False)
    per_subject: dict[str, SubjectRow] = field(init=False)
    per_database: dict[str, Figures] = field(init=False)

    def __post_init__(self) -> None:
        confusion = confusion_matrix(self.predictions, self.targets, self.num_classes)
        derived = {
            "uf1": f1_of(confusion), "uar": recall_of(confusion), "accuracy": accuracy_of(confusion), "confusion": confusion,
            "per_subject": per_subject(self.predictions, self.targets, self.subjects), "per_database": self._by_database(),
        }  # fmt: skip
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def _by_database(self) -> dict[str, Figures]:
        table = {}
        for name in dict.fromkeys(self.databases or ()):
            own = torch.tensor([database == name for database in self.databases or ()])
            confusion = confusion_matrix(self.predictions[own], self.targets[own], self.num_classes)
            table[name] = Figures(int(own.sum()), f1_of(confusion), recall_of(confusion), accuracy_of(confusion))
        return table

    def __eq__(self, other: object) -> bool:
        return self._content() == other._content() if isinstance(other, Report) else NotImplemented

    def __hash__(self) -> int:
        return hash(json.dumps(self._content()))

    def _content(self) -> dict[str, Any]:
        """All that determines the report, and its figures, as JSON has it."""
        return {
            "num_classes": self.num_classes,
            "uf1": self.uf1, "uar": self.uar, "accuracy": self.accuracy,
            "confusion": self.confusion.tolist(),
            "per_subject": {name: list(row) for name, row in self.per_subject.items()},
            "per_database": {name: list(row) for name, row in self.per_database.items()},
            "indices": self.indices.tolist(), "predictions": self.predictions.tolist(), "targets": self.targets.tolist(),
            "subjects": list(self.subjects),
            "databases": None if self.databases is None else list(self.databases),
        }  # fmt: skip

    def __str__(self) -> str:
        clips = f"{len(self.targets)} clips of {len(self.per_subject)} subjects"
        return f"UF1 {self.uf1:.4f}, UAR {self.uar:.4f}, accuracy {self.accuracy:.4f} ({clips})"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the report as JSON, whole or not at all.

        Raises:
            MerFastError: `path` is a folder, or lies below a file.
        """
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(self._content(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Report:
        """Reads what `save` wrote; the figures are found again from the predictions.

        Raises:
            MerFastError: no such file, none of ours, or figures that do not follow from its predictions.
        """
        try:
            stored = json.loads(Path(path).read_text(encoding="utf-8"))
            databases = stored["databases"]
            report = cls.of(
                stored["predictions"], stored["targets"], stored["subjects"], stored["num_classes"],
                stored["indices"], databases,
            )  # fmt: skip
            figures = [stored[name] for name in _FIGURES]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MerFastError(f"{path} is not a report of mer_fast: {type(error).__name__}: {error}") from error
        if figures != [getattr(report, name) for name in _FIGURES]:
            raise MerFastError(f"{path}: its figures do not follow from its predictions: it was changed or damaged")
        return report

    @classmethod
    def of(
        cls, predictions: Sequence[int], targets: Sequence[int], subjects: Sequence[str], num_classes: int,
        indices: Sequence[int], databases: Sequence[str] | None = None,
    ) -> Report:  # fmt: skip
        """The report of plain lists, one entry a clip; clips are put in the order of `indices`.

        Raises:
            MerFastError: lists of unequal length, no clips, or a class outside 0..num_classes-1.
        """
        lists = [predictions, targets, subjects, indices, *([databases] if databases is not None else [])]
        if len({len(one) for one in lists}) != 1:
            raise MerFastError(f"Report.of: one entry a clip is needed in each list, got {[len(one) for one in lists]}")
        order = sorted(range(len(indices)), key=lambda k: indices[k])
        return cls(
            torch.tensor([predictions[k] for k in order]),
            torch.tensor([targets[k] for k in order]),
            tuple(subjects[k] for k in order),
            num_classes,
            torch.tensor([indices[k] for k in order]),
            None if databases is None else tuple(databases[k] for k in order),
        )
