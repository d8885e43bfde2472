"""Trains and tests a network on every fold of a protocol, and pools the predictions."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from ..errors import MerFastError
from ..training.recipe import Recipe
from .clips import Dataset
from .engines import Progress
from .protocols import EvaluationProtocol, LeaveOneSubjectOut
from .report import Report
from .under_way import finish, prepared


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
    the same to the last bit whatever the engine, the order of the folds, and whether it was stopped between. Only the engine
    "batched" draws another dropout, of the same distribution, and sums in another order: its report is one of its own, the same
    each time.

    Args:
        protocol: `LeaveOneSubjectOut()`, `CompositeDatabase()`, `CrossDatabase(...)`, `KFold(...)`, `Split(...)`, or any object
            with `folds(roster)`.
        make_model: gives a new network, on the device that it is to be trained on. It takes the inputs of a batch and gives
            logits (N, classes).
        dataset: `dataset[i]` is (input, label), a tuple as input for a network of several; `dataset.subjects` names the subject
            of each clip. More in `evaluation.Dataset`.
        train: a `training.Recipe`, or a function of the network and the training clips (`evaluation.FoldClips`, a data set of
            their own). It trains the network in place, or returns another module that is to be tested.
        folds: the engine: "sequential", one after the other; "processes", side by side in processes of their own; "ray", as Ray
            tasks, on this machine or a cluster; or "batched", all folds of a small network at once (STSTNet, or an
            `nn.Sequential` of 3x3 convolution, ReLU, batch norm and max-pool; see `train_folds`).
        seed: from 0 on.
        resume: a folder that keeps finished folds, and the state of unfinished ones where `train` is a recipe. Called again with
            the same arguments, it does only what is left; "sequential", "processes" and "ray" may take each other's place.
        workers: folds at a time, where the engine runs several; as many as there are cores unless given.
        threads: of one fold on the CPU. The last bits of a network depend on it, so it does not follow from the machine; one,
            with an engine that runs folds side by side, is fastest for small networks.
        checkpoint_seconds: how often the state of an unfinished fold is kept.
        progress: told (what is done, folds done, of how many); unless given, a bar on a terminal.

    Inside an initialised process group (`torchrun`) all processes share each fold, as `training.fit` tells, and get one report;
    `folds` must be "sequential" then.

    Raises:
        MerFastError: a data set, a protocol or settings that do not fit, a clip of a class that the network does not have, a
            loss or prediction that is NaN, or a `resume` folder of another evaluation. What `train` raises passes through.
    """
    _check_functions(make_model, train)
    evaluation = prepared(
        protocol, make_model, dataset, train=train, folds=folds, seed=seed, resume=resume, threads=threads,
        checkpoint_seconds=checkpoint_seconds,
    )  # fmt: skip
    return finish([evaluation], folds=folds, workers=workers, progress=progress)[0]


def _check_functions(make_model: Any, train: Any) -> None:
    if isinstance(make_model, torch.nn.Module) or not callable(make_model):
        raise MerFastError(f"make_model must be a function that makes a new network, got {type(make_model).__name__}")
    if isinstance(train, torch.nn.Module) or not (isinstance(train, Recipe) or callable(train)):
        raise MerFastError(f"train must be a Recipe, or a function of a network and its clips, got {type(train).__name__}")
