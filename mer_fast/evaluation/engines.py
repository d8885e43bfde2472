"""The ways to run folds. An engine is one function, found in one table; all give the same results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ..errors import MerFastError
from .batched import batched
from .folds import FoldResult, Task, run_fold
from .processes import processes
from .protocols import Fold

Progress = Callable[[str, int, int | None], None]


class Engine(Protocol):
    """Runs `folds` of `task`, tells each result to `finished` as soon as there is one, in any order, and each once.

    `workers` is how many folds may run at a time; None leaves it to the engine. An engine that cannot run this task raises
    MerFastError, with the reason, before it runs any fold.
    """

    def __call__(
        self,
        task: Task,
        folds: Sequence[Fold],
        finished: Callable[[FoldResult], None],
        *,
        workers: int | None,
        tell: Callable[[str], None],
    ) -> None: ...


def sequential(
    task: Task,
    folds: Sequence[Fold],
    finished: Callable[[FoldResult], None],
    *,
    workers: int | None = None,
    tell: Callable[[str], None] = lambda stage: None,
) -> None:
    """One fold after the other, in this process."""
    for fold in folds:
        finished(run_fold(task, fold, lambda stage, name=fold.name: tell(f"fold {name}: {stage}")))  # type: ignore[misc]


ENGINES: dict[str, Engine] = {"sequential": sequential, "batched": batched, "processes": processes}


def engine(name: str) -> Engine:
    """An engine by its name.

    Raises:
        MerFastError: unknown name.
    """
    if name not in ENGINES:
        raise MerFastError(f"folds must be one of {', '.join(repr(known) for known in ENGINES)}, got {name!r}")
    return ENGINES[name]
