"""The process that runs folds for the engine "processes": `python -m mer_fast.evaluation._worker TASK`."""

from __future__ import annotations

import json
import os
import pickle
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle

from mer_fast.errors import MerFastError
from mer_fast.evaluation.folds import Task, run_fold
from mer_fast.evaluation.processes import Settings
from mer_fast.evaluation.protocols import Fold


def main(job: str) -> None:
    """A worker's whole life: a fold as JSON on each line of stdin, its result as hexadecimal pickle on each line of stdout."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a user's function prints must not stand among the replies
    orders: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    try:
        settings, task = _read(job)
    except MerFastError as error:
        orders.get()
        print(_packed(("error", (error, ""))), file=replies, flush=True)
        return
    with settings.taken_over():
        while True:
            print(_packed(_answer(task, orders.get())), file=replies, flush=True)


def _read(job: str) -> tuple[Settings, Task]:
    try:
        settings, task = pickle.loads(Path(job).read_bytes())
    except Exception as error:
        raise MerFastError(
            f'folds="processes": make_model, the data set or train cannot be read in a new process ({type(error).__name__}: '
            f'{error}); define them where they can be imported from, or take folds="sequential"'
        ) from error
    return settings, task


def _answer(task: Task, order: str) -> tuple[str, Any]:
    name, train, test = json.loads(order)
    return traced(lambda: run_fold(task, Fold(name, tuple(train), tuple(test))))


def traced(work: Callable[[], Any]) -> tuple[str, Any]:
    """("result", what `work` gives), or ("error", (what it raised, the trace)); SystemExit of a user's function too: the one who
    asked decides."""
    try:
        return "result", work()
    except BaseException as error:
        return "error", (error, traceback.format_exc())


def sendable(answer: tuple[str, Any]) -> tuple[str, Any]:
    """The same answer, or a plain error in place of one that can be written and not read."""
    try:
        pickle.loads(cloudpickle.dumps(answer))
    except Exception:
        error, trace = answer[1]
        return "error", (RuntimeError(f"{type(error).__name__}: {error}"), trace)
    return answer


def _listen(orders: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        orders.put(line)
    os._exit(1)  # whoever asked is gone, and nobody else would end a fold of hours


def _packed(answer: tuple[str, Any]) -> str:
    return bytes(cloudpickle.dumps(sendable(answer))).hex()


if __name__ == "__main__":
    main(sys.argv[1])
