"""One fold: a new network, trained on the fold's training clips, asked about its test clips."""

from __future__ import annotations

import contextlib
import hashlib
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from ..errors import MerFastError
from ..seeds import derive, isolated
from ..training.loop import fit
from ..training.parallel import predict_together
from ..training.recipe import Recipe
from .clips import FoldClips, Roster
from .protocols import Fold

MakeModel = Callable[[], torch.nn.Module]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class FoldResult:
    """What a fold found: class indices of its test clips, in the order of `fold.test`."""

    name: str
    predictions: tuple[int, ...]
    num_classes: int


@dataclass(frozen=True)
class Task:
    """All that an engine needs to run folds; it is picklable where its parts are.

    Attributes:
        make_model, dataset, train: as given to `cross_validate`.
        roster: of the data set.
        seed: of the evaluation.
        threads: of one fold.
        checkpoint_seconds: how often the state of an unfinished fold is kept, where there is a folder for it.
        checkpoints: that folder, or none.
    """

    make_model: MakeModel
    dataset: Any
    train: Any
    roster: Roster
    seed: int
    threads: int
    checkpoint_seconds: float = 30.0
    checkpoints: Path | None = None
    # A network given out twice would carry what it learned from one fold into the next.
    _seen: weakref.WeakSet[torch.nn.Module] = field(default_factory=weakref.WeakSet, repr=False, compare=False)

    def __reduce__(self) -> Any:
        return Task, tuple(getattr(self, one.name) for one in fields(self) if one.compare)

    def fold_seed(self, fold: Fold) -> int:
        """Of the fold's name and the evaluation's seed alone, so that neither order nor engine matters."""
        return derive(self.seed, "fold", fold.name)

    def clips(self, fold: Fold, indices: tuple[int, ...]) -> FoldClips:
        """`fold.train` or `fold.test` as a data set of their own."""
        return FoldClips(self.dataset, self.roster, indices, fold.name, self.fold_seed(fold))

    def new_model(self) -> torch.nn.Module:
        """A network from `make_model`, initialised with the global generators; nobody's before."""
        model = self.make_model()
        if not isinstance(model, torch.nn.Module):
            raise MerFastError(f"make_model must return a torch.nn.Module, got {type(model).__name__}")
        if model in self._seen:
            raise MerFastError("make_model returned one network twice: it must make a new one, or folds learn from each other")
        self._seen.add(model)
        return model

    def checkpoint(self, fold: Fold) -> Path | None:
        """Where the state of an unfinished fold is kept."""
        return None if self.checkpoints is None else self.checkpoints / f"{file_stem(fold.name)}.safetensors"


def run_fold(task: Task, fold: Fold, tell: Tell = lambda stage: None) -> FoldResult:
    """Trains and tests one fold, with its own seed and number of threads.

    Raises:
        MerFastError: with the fold's name in front, what training or testing raised.
    """
    with isolated(task.fold_seed(fold)), using_threads(task.threads):
        try:
            model = task.new_model()
            trained = _trained(task, fold, model, tell)
            tell("testing")
            logits = predict_together(trained, task.clips(fold, fold.test))
            return result_of(task, fold, logits)
        except MerFastError as error:
            raise type(error)(f"fold {fold.name}: {error}") from error
        except Exception as error:
            if hasattr(error, "add_note"):  # from Python 3.11 on
                error.add_note(f"in fold {fold.name}")
            raise


def result_of(task: Task, fold: Fold, logits: torch.Tensor) -> FoldResult:
    """The result of the logits (N, C) of a fold's test clips, in the order of `fold.test`.

    Raises:
        MerFastError: a test clip of a class that the network does not have.
    """
    check_labels(task.clips(fold, fold.test), logits.shape[1])
    return FoldResult(fold.name, tuple(logits.argmax(1).tolist()), logits.shape[1])


def check_labels(clips: FoldClips, num_classes: int) -> None:
    """Raises MerFastError where a clip has a class from `num_classes` on."""
    for index, label, subject in zip(clips.indices, clips.labels, clips.subjects, strict=True):
        if label >= num_classes:
            raise MerFastError(f"clip {index} (subject {subject}) is of class {label}, and the network has {num_classes}")


def file_stem(name: str) -> str:
    """A file name for a fold, its own whatever characters the name has."""
    plain = "".join(c if c.isalnum() and c.isascii() else "-" for c in name)[:40]
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def _trained(task: Task, fold: Fold, model: torch.nn.Module, tell: Tell) -> torch.nn.Module:
    clips = task.clips(fold, fold.train)
    if isinstance(task.train, Recipe):
        return fit(
            model, clips, task.train, seed=clips.seed,
            checkpoint=task.checkpoint(fold), checkpoint_seconds=task.checkpoint_seconds,
            progress=lambda stage, done, total: tell(f"{stage} {done} of {total}"),
        ).model  # fmt: skip
    model.train()
    returned = task.train(model, clips)
    return returned if isinstance(returned, torch.nn.Module) else model


@contextlib.contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Has PyTorch use so many threads of the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
