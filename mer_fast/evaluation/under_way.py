"""Evaluations under way: what is done, what is left, and several of them at once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from ..console import progress as progress_bar
from ..errors import MerFastError
from ..ops._checks import require_count
from ..training.parallel import Ranks
from .clips import Dataset, Roster
from .engines import SHARED, Job, Progress, engine
from .fingerprint import engine_kind, settings_of
from .folds import FoldResult, Task
from .protocols import EvaluationProtocol, Fold, checked_folds
from .report import Report
from .store import Store


class Evaluation:
    """The folds of a protocol, and the results that there are. `prepared` makes one, `finish` brings it to its report.

    Attributes:
        task: what is trained on what.
        folds: all of them.
        results: of those that are finished, by name.
        engine: the name of the engine that it was prepared for.
    """

    def __init__(self, task: Task, folds: tuple[Fold, ...], store: Store | None, engine: str = "sequential") -> None:
        self.task, self.folds, self._store, self.engine = task, folds, store, engine
        self.results: dict[str, FoldResult] = {}
        for fold in folds:
            known = store.load(fold) if store is not None else None
            if known is not None:
                self.results[fold.name] = known

    @property
    def left(self) -> list[Fold]:
        """Folds that are not finished."""
        return [fold for fold in self.folds if fold.name not in self.results]

    def check_engine(self, name: str) -> None:
        """Raises MerFastError where there is a `resume` folder, of results that this engine would not give."""
        if self._store is not None and engine_kind(name) != engine_kind(self.engine):
            raise MerFastError(f'an evaluation prepared for folds="{self.engine}" keeps its results: finish it with that engine')

    def add(self, result: FoldResult) -> None:
        """Takes the result of a fold, and keeps it where there is a folder for it."""
        if self._store is not None and Ranks.now().writes:
            fold = next(fold for fold in self.folds if fold.name == result.name)
            self._store.save(fold, result)
        self.results[result.name] = result

    def report(self) -> Report:
        """The pooled predictions of all folds.

        Raises:
            MerFastError: a fold without result, or networks of unlike numbers of classes.
        """
        if self.left:
            raise MerFastError(f"the engine gave no result for fold {self.left[0].name}")
        classes = {result.num_classes for result in self.results.values()}
        if len(classes) > 1:
            raise MerFastError(
                f"make_model gives networks of {', '.join(map(str, sorted(classes)))} classes: all folds need as many"
            )
        predictions = [guess for fold in self.folds for guess in self.results[fold.name].predictions]
        tested = [index for fold in self.folds for index in fold.test]
        roster = self.task.roster
        databases = roster.databases
        return Report.of(
            predictions, [roster.labels[i] for i in tested], [roster.subjects[i] for i in tested], classes.pop(), tested,
            None if databases is None else [databases[i] for i in tested],
        )  # fmt: skip


def prepared(
    protocol: EvaluationProtocol,
    make_model: Callable[[], torch.nn.Module],
    dataset: Dataset,
    *,
    train: Any,
    folds: str = "sequential",
    seed: int = 0,
    resume: str | os.PathLike[str] | None = None,
    threads: int = 1,
    checkpoint_seconds: float = 30.0,
) -> Evaluation:
    """An evaluation before its folds are run; arguments and errors are those of `cross_validate`.

    `folds` is the engine that `finish` will be given: with `resume`, only one that gives the same results takes its place.
    """
    engine(folds)
    require_count("cross_validate", "seed", seed, least=0)
    require_count("cross_validate", "threads", threads)
    roster = Roster.of(dataset)
    parts = checked_folds(protocol, roster)
    task = Task(make_model, dataset, train, roster, seed, threads, checkpoint_seconds)
    if resume is None:
        return Evaluation(task, parts, None, folds)
    store = Store(resume, settings_of(task, parts, folds))
    return Evaluation(replace(task, checkpoints=store.checkpoints), parts, store, folds)


def finish(
    evaluations: Sequence[Evaluation],
    *,
    folds: str = "sequential",
    workers: int | None = None,
    progress: Progress | None = None,
) -> list[Report]:
    """Runs what is left of several evaluations (seeds, data sets), and gives their reports.

    With folds="ray" the folds of all of them are tasks of one pool; with the other engines one evaluation comes after the other.

    Args:
        evaluations: each by `prepared`.
        folds, workers: as of `cross_validate`.
        progress: told (what is done, folds done, of how many) over all evaluations.

    Raises:
        MerFastError: what `cross_validate` raises.
    """
    run = engine(folds)
    for evaluation in evaluations:
        evaluation.check_engine(folds)
    if workers is not None:
        require_count("cross_validate", "workers", workers)
    with contextlib.ExitStack() as stack:
        tell = progress if progress is not None else stack.enter_context(progress_bar())
        total = sum(len(evaluation.folds) for evaluation in evaluations)

        def say(stage: str) -> None:
            tell(stage, sum(len(evaluation.results) for evaluation in evaluations), total)

        jobs = [Job(one.task, one.left, _adding(one, say)) for one in evaluations if one.left]
        if folds in SHARED and jobs:
            SHARED[folds](jobs, workers=workers, tell=say)
        elif folds not in SHARED:
            for job in jobs:
                run(job.task, job.folds, job.finished, workers=workers, tell=say)
    return [evaluation.report() for evaluation in evaluations]


def _adding(evaluation: Evaluation, say: Callable[[str], None]) -> Callable[[FoldResult], None]:
    def finished(result: FoldResult) -> None:
        evaluation.add(result)
        say(f"fold {result.name}")

    return finished
