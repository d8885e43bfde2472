"""How clips are parted into what a network trains on and what it is tested on. Always by subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..data.subjects import hold_out_subjects, spread_subjects
from ..errors import MerFastError
from .clips import Roster


@dataclass(frozen=True)
class Fold:
    """One training and what it is tested on.

    Attributes:
        name: its own within the protocol; the seed of the fold follows from it.
        train, test: ascending indices of clips.
    """

    name: str
    train: tuple[int, ...]
    test: tuple[int, ...]


class EvaluationProtocol(Protocol):
    """Anything that parts clips into folds. No clip is tested twice, and no subject is on both sides of a fold."""

    def folds(self, roster: Roster) -> list[Fold]: ...


@dataclass(frozen=True)
class LeaveOneSubjectOut:
    """A fold for each subject, in order of appearance: tested on all its clips, trained on those of all others."""

    def folds(self, roster: Roster) -> list[Fold]:
        names = list(dict.fromkeys(roster.subjects))
        if len(names) < 2:
            raise MerFastError(f"leave-one-subject-out: all clips are of subject {names[0]}: at least two subjects are needed")
        return [_tested_on(roster, name, [i for i, subject in enumerate(roster.subjects) if subject == name]) for name in names]


@dataclass(frozen=True)
class CompositeDatabase:
    """Leave-one-subject-out over the people of several databases at once (CDE of MEGC 2019).

    The figures of each database by itself are in `Report.per_database`.
    """

    def folds(self, roster: Roster) -> list[Fold]:
        if len(set(roster.databases or ())) < 2:
            raise MerFastError(
                "composite database: the data set must name at least two `databases`, one entry a clip, got "
                f"{sorted(set(roster.databases or ())) or 'none'}"
            )
        return LeaveOneSubjectOut().folds(roster)


@dataclass(frozen=True)
class CrossDatabase:
    """Trained on some databases and tested on others; either is a name or several."""

    train: str | tuple[str, ...]
    test: str | tuple[str, ...]

    def folds(self, roster: Roster) -> list[Fold]:
        sides = [(side,) if isinstance(side, str) else tuple(side) for side in (self.train, self.test)]
        there = sorted(set(roster.databases or ()))
        for side, names in zip(("train", "test"), sides, strict=True):
            missing = [name for name in names if name not in there]
            if missing or not names:
                raise MerFastError(
                    f"cross-database: {side} must name databases of the data set ({', '.join(there) or 'it names none'}), "
                    f"got {', '.join(missing) or 'none'}"
                )
        both = set(sides[0]) & set(sides[1])
        if both:
            raise MerFastError(f"cross-database: {', '.join(sorted(both))} is on both sides: train and test must differ")
        train, test = (tuple(i for i, database in enumerate(roster.databases or ()) if database in names) for names in sides)
        return [Fold(f"{'+'.join(sides[0])} to {'+'.join(sides[1])}", train, test)]


@dataclass(frozen=True)
class KFold:
    """`k` folds of whole subjects, classes spread as evenly as subjects allow; which, follows from `seed`."""

    k: int
    seed: int = 0

    def folds(self, roster: Roster) -> list[Fold]:
        if self.k < 2:
            raise MerFastError(f"k-fold: k must be at least 2, got {self.k}")
        parts = spread_subjects(roster.labels, roster.subjects, self.k, self.seed)
        return [_tested_on(roster, f"fold {number}", part) for number, part in enumerate(parts, 1)]


@dataclass(frozen=True)
class Split:
    """One training. Tested on the subjects named `test`, or on those that have about that share of each class (by `seed`)."""

    test: float | tuple[str, ...] = 0.2
    seed: int = 0

    def folds(self, roster: Roster) -> list[Fold]:
        if isinstance(self.test, (int, float)):
            held = hold_out_subjects(roster.labels, roster.subjects, self.test, self.seed)
            return [_tested_on(roster, "test", held)]
        missing = [name for name in self.test if name not in roster.subjects]
        if missing or not self.test:
            raise MerFastError(f"split: test must name subjects of the data set, got {', '.join(missing) or 'none'}")
        return [_tested_on(roster, "test", [i for i, subject in enumerate(roster.subjects) if subject in self.test])]


def checked_folds(protocol: EvaluationProtocol, roster: Roster) -> tuple[Fold, ...]:
    """The folds of a protocol, of ours or not.

    Raises:
        MerFastError: a side without clips, a clip that is not there, a subject on both sides, a clip tested twice, or one name
            for two folds.
    """
    folds = tuple(Fold(str(f.name), tuple(map(int, f.train)), tuple(map(int, f.test))) for f in protocol.folds(roster))
    tested, names, there = set[int](), set[str](), range(len(roster.labels))
    for fold in folds:
        outside = next((i for i in (*fold.train, *fold.test) if i not in there), None)
        if outside is not None:
            raise MerFastError(f"fold {fold.name} has clip {outside}, and the data set {len(there)} clips")
        both = {roster.subjects[i] for i in fold.train} & {roster.subjects[i] for i in fold.test}
        faults = {
            "trains on no clip": not fold.train,
            "is tested on no clip": not fold.test,
            f"has subject {min(both, default='')} on both sides": bool(both),
            "tests a clip that another fold tests": not tested.isdisjoint(fold.test),
            "has the name of another fold": fold.name in names,
        }
        fault = next((words for words, holds in faults.items() if holds), None)
        if fault is not None:
            raise MerFastError(f"fold {fold.name} {fault}")
        tested.update(fold.test)
        names.add(fold.name)
    if not folds:
        raise MerFastError(f"{type(protocol).__name__} gives no fold")
    return folds


def _tested_on(roster: Roster, name: str, test: Sequence[int]) -> Fold:
    held = set(test)
    return Fold(name, tuple(i for i in range(len(roster.labels)) if i not in held), tuple(test))
