"""Folds as Ray tasks: on this machine, or on a cluster of several."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import MerFastError
from ..seeds import isolated
from .folds import FoldResult, Task, run_fold
from .processes import Settings, cores, pickled
from .protocols import Fold

_WAIT = 0.5  # seconds; between two looks a signal is obeyed
_STORE = 256 << 20  # bytes of Ray's store on this machine, besides the data sets


@dataclass(frozen=True)
class Job:
    """Folds of one evaluation that are to be run, and who is told the result of each."""

    task: Task
    folds: Sequence[Fold]
    finished: Callable[[FoldResult], None]


def ray_tasks(
    task: Task,
    folds: Sequence[Fold],
    finished: Callable[[FoldResult], None],
    *,
    workers: int | None = None,
    tell: Callable[[str], None] = lambda stage: None,
) -> None:
    """The engine of folds="ray": `run_jobs` of one evaluation."""
    run_jobs([Job(task, folds, finished)], workers=workers, tell=tell)


def run_jobs(jobs: Sequence[Job], *, workers: int | None = None, tell: Callable[[str], None] = lambda stage: None) -> None:
    """Runs the folds of several evaluations as one pool of Ray tasks, each on `task.threads` cores, and on a GPU of its own where
    its network is on one.

    Joins the Ray that runs in this process or that RAY_ADDRESS names; else it starts Ray on this machine, for `workers` tasks at
    a time or as many as there are cores for, and stops it at the end, whatever happened. On several machines mer_fast must be
    installed on each, and a `resume` folder must lie on a file system that all see.

    Raises:
        MerFastError: Ray or cloudpickle is not installed, a part of a task cannot be sent, or a task's process died again and
            again; and what a fold raises.
    """
    ray = _ray()
    packed = [pickled(job.task, "ray") for job in jobs]
    threads = max(job.task.threads for job in jobs)
    folds = sum(len(job.folds) for job in jobs)
    at_a_time = min(folds, workers or max(1, cores() // threads))
    with _cluster(ray, at_a_time * threads, _STORE + 2 * sum(map(len, packed))):
        waiting = _submissions(ray, jobs, packed)
        pending: dict[Any, tuple[Job, Fold]] = {}
        try:
            for done in range(folds):
                while len(pending) < (workers or folds) and (order := next(waiting, None)) is not None:
                    pending[order[0]] = order[1:]
                tell(f"{folds - done} folds to do as Ray tasks")
                reference = _first(ray, list(pending))
                job, fold = pending.pop(reference)
                job.finished(_result(ray, reference, fold))
        except SystemError as error:
            # What a signal's handler raises while Ray waits comes out as the cause of one.
            raise error.__cause__ or error from None
        finally:
            for reference in pending:
                ray.cancel(reference, force=True)


def _submissions(ray: Any, jobs: Sequence[Job], packed: Sequence[bytes]) -> Iterator[tuple[Any, Job, Fold]]:
    """Each fold becomes a task when it is asked for."""
    for job, content in zip(jobs, packed, strict=True):
        remote = ray.remote(_run).options(num_cpus=job.task.threads, num_gpus=_gpus(job.task))
        there, name = ray.put(content), hashlib.sha256(content).hexdigest()
        for fold in job.folds:
            yield remote.remote(name, there, fold), job, fold


def _run(name: str, packed: bytes, fold: Fold) -> tuple[str, Any]:
    """One fold, in a process of Ray's."""
    from ._worker import sendable, traced

    if name not in _TASKS:
        _TASKS.clear()  # the data set of one evaluation at a time
        try:
            _TASKS[name] = pickle.loads(packed)
        except Exception as error:
            words = f'folds="ray": make_model, the data set or train cannot be read in a task ({type(error).__name__}: {error})'
            return "error", (MerFastError(f"{words}; define them where every machine can import them from"), "")
    settings, task = _TASKS[name]
    with settings.taken_over():
        return sendable(traced(lambda: run_fold(task, fold)))


_TASKS: dict[str, tuple[Settings, Task]] = {}


def _result(ray: Any, reference: Any, fold: Fold) -> FoldResult:
    try:
        kind, value = ray.get(reference)
    except ray.exceptions.RayError as error:
        reason = " ".join(str(error).split())[:300]
        raise MerFastError(f"fold {fold.name}: its Ray task was lost ({type(error).__name__}: {reason})") from error
    if kind == "error":
        raised, trace = value
        raise raised from (RuntimeError(f"in a Ray task:\n{trace}") if trace else None)
    found: FoldResult = value
    return found


def _first(ray: Any, pending: list[Any]) -> Any:
    while True:
        ready, _ = ray.wait(pending, num_returns=1, timeout=_WAIT)
        if ready:
            return ready[0]


def _gpus(task: Task) -> int:
    with isolated(task.seed):
        weight = next(task.new_model().parameters(), None)
    return int(weight is not None and weight.device.type == "cuda")


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told of what runs here
    try:
        import ray
    except ImportError as error:
        raise MerFastError(f'folds="ray" needs Ray ({error}): pip install "mer_fast[ray]"') from error
    return ray


@contextlib.contextmanager
def _cluster(ray: Any, processors: int, store: int) -> Iterator[None]:
    """A Ray to give tasks to; stopped at the end where it was started here."""
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    quiet = {"logging_level": "error", "log_to_driver": False}
    here = {
        "num_cpus": processors, "object_store_memory": store, "include_dashboard": False,
        # What can be imported here can be there: Ray's processes do not have this one's path.
        "runtime_env": {"env_vars": {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}},
    }  # fmt: skip
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        try:
            ray.init(address=address, **quiet) if address else ray.init(address="local", **quiet, **here)
        except Exception as error:
            raise MerFastError(f"Ray does not start: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():  # Ray puts its own in their place
                signal.signal(number, handler)
        yield
    finally:
        ray.shutdown()
