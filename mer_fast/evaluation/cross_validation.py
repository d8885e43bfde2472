"""Trains and tests a network on every fold of a protocol, and pools the predictions."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from ..console import progress as progress_bar
from ..errors import MerFastError
from ..ops._checks import require_count
from ..training.recipe import Recipe
from .clips import Dataset, Roster
from .engines import Progress, engine
from .fingerprint import settings_of
from .folds import FoldResult, Task
from .protocols import EvaluationProtocol, Fold, LeaveOneSubjectOut, checked_folds
from .report import Report
from .store import Store


def leave_one_subject_out(
    make_model: Callable[[], torch.nn.Module],
    dataset: Dataset,
    *,
    train: Any,
    folds: str = "sequential",
    seed: int = 0,
    resume: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    threads: int = 1,
    checkpoint_seconds: float = 30.0,
    progress: Progress | None = None,
) -> Report:
    """Leave-one-subject-out: for each subject a new network, trained on all the others' clips and tested on this one's.

    `cross_validate` with the protocol `LeaveOneSubjectOut`; see there for the arguments. Where `dataset.databases` names several
    databases, subjects of one name in two of them are two people.
    """
    return cross_validate(
        LeaveOneSubjectOut(), make_model, dataset, train=train, folds=folds, seed=seed, resume=resume, workers=workers,
        threads=threads, checkpoint_seconds=checkpoint_seconds, progress=progress,
    )  # fmt: skip


def cross_validate(
    protocol: EvaluationProtocol,
    make_model: Callable[[], torch.nn.Module],
    dataset: Dataset,
    *,
    train: Any,
    folds: str = "sequential",
    seed: int = 0,
    resume: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    threads: int = 1,
    checkpoint_seconds: float = 30.0,
    progress: Progress | None = None,
) -> Report:
    """Trains and tests a network on every fold of a protocol, and pools the predictions.

    A fold sees its training clips alone until it is trained, for statistics too, and its test clips choose nothing. Its random
    numbers (first weights, order, dropout, augmentation) follow from `seed` and the fold's name, so that on a CPU the report is
    the same to the last bit whatever the engine, the order of the folds, and whether it was stopped between.

    Args:
        protocol: `LeaveOneSubjectOut()`, `CompositeDatabase()`, `CrossDatabase(...)`, `KFold(...)`, `Split(...)`, or any object
            with `folds(roster)`.
        make_model: gives a new network, on the device that it is to be trained on. It takes the inputs of a batch and gives
            logits (N, classes).
        dataset: `dataset[i]` is (input, label), a tuple as input for a network of several; `dataset.subjects` names the subject
            of each clip. More in `evaluation.Dataset`.
        train: a `training.Recipe`, or a function of the network and the training clips (`evaluation.FoldClips`, a data set of
            their own). It trains the network in place, or returns another module that is to be tested.
        folds: the engine: "sequential", one after the other, or "processes", side by side in processes of their own.
        seed: from 0 on.
        resume: a folder that keeps finished folds, and the state of unfinished ones where `train` is a recipe. Called again with
            the same arguments, it does only what is left.
        workers: folds at a time, where the engine runs several; as many as there are cores unless given.
        threads: of one fold on the CPU. The last bits of a network depend on it, so it does not follow from the machine; one,
            with an engine that runs folds side by side, is fastest for small networks.
        checkpoint_seconds: how often the state of an unfinished fold is kept.
        progress: told (what is done, folds done, of how many); unless given, a bar on a terminal.

    Raises:
        MerFastError: a data set, a protocol or settings that do not fit, a clip of a class that the network does not have, a
            loss or prediction that is NaN, or a `resume` folder of another evaluation. What `train` raises passes through.
    """
    run = engine(folds)
    _check_functions(make_model, train)
    require_count("cross_validate", "seed", seed, least=0)
    require_count("cross_validate", "threads", threads)
    if workers is not None:
        require_count("cross_validate", "workers", workers)
    roster = Roster.of(dataset)
    parted = checked_folds(protocol, roster)
    task = Task(make_model, dataset, train, roster, seed, threads, checkpoint_seconds)
    store = None
    if resume is not None:
        store = Store(resume, settings_of(task, parted))
        task = replace(task, checkpoints=store.checkpoints)
    with contextlib.ExitStack() as stack:
        tell = progress if progress is not None else stack.enter_context(progress_bar())
        results = _run(run, task, parted, store, workers, tell)
    return _pooled(roster, parted, results)


def _check_functions(make_model: Any, train: Any) -> None:
    if isinstance(make_model, torch.nn.Module) or not callable(make_model):
        raise MerFastError(f"make_model must be a function that makes a new network, got {type(make_model).__name__}")
    if isinstance(train, torch.nn.Module) or not (isinstance(train, Recipe) or callable(train)):
        raise MerFastError(f"train must be a Recipe, or a function of a network and its clips, got {type(train).__name__}")


def _run(
    run: Any, task: Task, folds: tuple[Fold, ...], store: Store | None, workers: int | None, tell: Progress
) -> dict[str, FoldResult]:
    by_name = {fold.name: fold for fold in folds}
    results: dict[str, FoldResult] = {}
    for fold in folds:
        known = store.load(fold) if store is not None else None
        if known is not None:
            results[fold.name] = known

    def finished(result: FoldResult) -> None:
        if store is not None:
            store.save(by_name[result.name], result)
        results[result.name] = result
        tell(f"fold {result.name}", len(results), len(folds))

    to_do = [fold for fold in folds if fold.name not in results]
    if to_do:
        run(task, to_do, finished, workers=workers, tell=lambda stage: tell(stage, len(results), len(folds)))
    return results


def _pooled(roster: Roster, folds: tuple[Fold, ...], results: dict[str, FoldResult]) -> Report:
    missing = [fold.name for fold in folds if fold.name not in results]
    if missing:
        raise MerFastError(f"the engine gave no result for fold {missing[0]}")
    classes = {result.num_classes for result in results.values()}
    if len(classes) > 1:
        raise MerFastError(f"make_model gives networks of {', '.join(map(str, sorted(classes)))} classes: all folds need as many")
    predictions = [guess for fold in folds for guess in results[fold.name].predictions]
    tested = [index for fold in folds for index in fold.test]
    databases = roster.databases
    return Report.of(
        predictions, [roster.labels[i] for i in tested], [roster.subjects[i] for i in tested], classes.pop(), tested,
        None if databases is None else [databases[i] for i in tested],
    )  # fmt: skip
