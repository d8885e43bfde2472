"""Folds as processes: each worker is a fresh Python that runs one fold at a time.

Not forked, since a fork of a process that has used threads or a GPU may hang or refuse; and not Python's own spawning, since that
runs the user's script again and takes no function defined in one.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ..backends import backend, current_backend
from ..errors import MerFastError
from .folds import FoldResult, Task
from .protocols import Fold


def processes(
    task: Task,
    folds: Sequence[Fold],
    finished: Callable[[FoldResult], None],
    *,
    workers: int | None = None,
    tell: Callable[[str], None] = lambda stage: None,
) -> None:
    """As many folds at a time as there are cores for `task.threads` each, or `workers`.

    `make_model`, the data set and `train` are sent to the workers with cloudpickle, lambdas and what a script defines included;
    each worker has a copy of the data set, so one that reads its clips from files takes less memory.

    Raises:
        MerFastError: one of them cannot be sent, cloudpickle is missing, or a worker died; and what a fold raises.
    """
    count = min(len(folds), workers if workers is not None else max(1, cores() // task.threads))
    waiting: queue.SimpleQueue[Fold] = queue.SimpleQueue()
    for fold in folds:
        waiting.put(fold)
    answers: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="mer-fast-folds-") as folder:
        job = Path(folder) / "task.pickle"
        job.write_bytes(pickled(task, "processes"))
        with contextlib.ExitStack() as stack:
            for _ in range(count):
                worker = stack.enter_context(_worker(job, task.threads))
                threading.Thread(target=_feed, args=(worker, waiting, answers), daemon=True).start()
            for done in range(len(folds)):
                tell(f"{len(folds) - done} folds to do in {count} processes")
                kind, value = answers.get()
                if kind == "error":
                    error, trace = value
                    raise error from (RuntimeError(f"in a worker process:\n{trace}") if trace else None)
                finished(value)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pickled(task: Task, engine: str) -> bytes:
    """`Settings` and a task, for another process.

    Raises:
        MerFastError: cloudpickle is not installed, or a part of the task cannot be sent.
    """
    try:
        import cloudpickle
    except ImportError as error:
        raise MerFastError(f'folds="{engine}" needs cloudpickle ({error}): pip install "mer_fast[train]"') from error
    try:
        return bytes(cloudpickle.dumps((Settings.now(), task)))
    except Exception as error:
        raise MerFastError(
            f'folds="{engine}": make_model, the data set or train cannot be sent to a process '
            f'({type(error).__name__}: {error}); take folds="sequential"'
        ) from error


@contextlib.contextmanager
def _worker(job: Path, threads: int) -> Iterator[subprocess.Popen[str]]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "OMP_NUM_THREADS": str(threads),  # torch.set_num_threads comes after some libraries have made theirs
    }
    worker = subprocess.Popen(
        [sys.executable, "-m", "mer_fast.evaluation._worker", str(job)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        start_new_session=True,  # Ctrl-C is ours to obey: a worker ends when its stdin does
    )  # fmt: skip
    try:
        yield worker
    finally:
        worker.kill()
        worker.wait()
        for pipe in (worker.stdin, worker.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]


def _feed(worker: subprocess.Popen[str], waiting: queue.SimpleQueue[Fold], answers: queue.SimpleQueue[tuple[str, Any]]) -> None:
    """Gives a worker one fold after the other, until there are none or it fails."""
    kind = "result"
    with contextlib.suppress(queue.Empty):
        while kind == "result":
            fold = waiting.get_nowait()
            try:
                kind, value = _asked(worker, fold)
            except Exception as error:  # whoever waits for an answer must get one
                kind, value = "error", (error, "")
            answers.put((kind, value))


def _asked(worker: subprocess.Popen[str], fold: Fold) -> tuple[str, Any]:
    """A worker's answer: ("result", the fold's) or ("error", (an exception, where it was raised))."""
    assert worker.stdin is not None and worker.stdout is not None
    answer = ""
    with contextlib.suppress(OSError, ValueError):  # the pipe of a process that is gone
        print(json.dumps([fold.name, fold.train, fold.test]), file=worker.stdin, flush=True)
        answer = worker.stdout.readline()
    if answer:
        kind, value = pickle.loads(bytes.fromhex(answer))
        return kind, value
    code = worker.wait()
    words = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    hint = "; it may have run out of memory: take fewer workers" if code == -9 else ""
    return "error", (MerFastError(f"fold {fold.name}: its process {words}{hint}"), "")


class Settings:
    """What a process has set that arithmetic depends on."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    @classmethod
    def now(cls) -> Settings:
        return cls({
            "backend": current_backend(), "dtype": torch.get_default_dtype(),
            "deterministic": torch.are_deterministic_algorithms_enabled(), "precision": torch.get_float32_matmul_precision(),
        })  # fmt: skip

    @contextlib.contextmanager
    def taken_over(self) -> Iterator[None]:
        torch.set_default_dtype(self.values["dtype"])
        torch.use_deterministic_algorithms(self.values["deterministic"])
        torch.set_float32_matmul_precision(self.values["precision"])
        with backend(self.values["backend"]):
            yield
