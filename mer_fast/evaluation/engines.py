"""The ways to run folds. An engine is one function, found in one table.

All give the same results but "batched", which draws another dropout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ..errors import MerFastError
from ..training.parallel import Ranks
from .batched import batched
from .folds import FoldResult, Task, run_fold
from .processes import processes
from .protocols import Fold
from .ray_tasks import Job, ray_tasks, run_jobs

__all__ = ["ENGINES", "SHARED", "Engine", "Job", "Progress", "engine", "sequential"]

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


ENGINES: dict[str, Engine] = {"sequential": sequential, "processes": processes, "batched": batched, "ray": ray_tasks}
# Those that run the folds of several evaluations as one pool.
SHARED: dict[str, Callable[..., None]] = {"ray": run_jobs}


def engine(name: str) -> Engine:
    """An engine by its name.

    Raises:
        MerFastError: unknown name, or one that starts processes of its own where processes share each fold already.
    """
    if name not in ENGINES:
        raise MerFastError(f"folds must be one of {', '.join(repr(known) for known in ENGINES)}, got {name!r}")
    if name != "sequential" and not Ranks.now().alone:
        raise MerFastError(f'folds="{name}" has processes of its own: in a process group (torchrun) take folds="sequential"')
    return ENGINES[name]
