"""Work in several processes that speak over gloo, ended when they take too long: what hangs there fails here."""

from __future__ import annotations

import datetime
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

DEADLINE = 120.0  # seconds


def in_ranks(work: Callable[..., Any], world: int, folder: Path, *arguments: Any) -> list[Any]:
    """work(rank, world, *arguments) of every rank, each a fresh process in one process group; `work` is a module's function."""
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=_rank, args=(work, rank, world, folder, arguments), daemon=True) for rank in range(world)]
    for process in ranks:
        process.start()
    until = time.monotonic() + DEADLINE
    try:
        for rank, process in enumerate(ranks):
            process.join(max(0.0, until - time.monotonic()))
            assert process.exitcode is not None, f"rank {rank} of {world} was still running after {DEADLINE:.0f} s"
            assert process.exitcode == 0, f"rank {rank} of {world} ended with {process.exitcode}"
    finally:
        for process in ranks:
            process.kill()
    return [torch.load(folder / f"rank{rank}") for rank in range(world)]


def _rank(work: Callable[..., Any], rank: int, world: int, folder: Path, arguments: tuple[Any, ...]) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # whatever the machine's name leads to
    torch.set_num_threads(1)
    wait = datetime.timedelta(seconds=DEADLINE / 2)
    dist.init_process_group("gloo", f"file://{folder}/store", timeout=wait, world_size=world, rank=rank)
    try:
        result = work(rank, world, *arguments)
        dist.barrier()
    finally:
        dist.destroy_process_group()
    torch.save(result, folder / f"rank{rank}")
