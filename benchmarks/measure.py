"""How things are measured: candidates in turn, this machine's ceilings, and what follows from a time."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from .rivals import MissingRival
from .table import ranked

if TYPE_CHECKING:
    from .cases import Case

SLOW = 2.0  # seconds a call: from here on one warm-up and every third round must do
SHORT = 0.02  # seconds a turn at least: the clock and the waking of threads would be measured else
EVERY = 3


class Timing(NamedTuple):
    seconds: float  # median of the rounds
    rounds: int


def once(call: Callable[[], Any], repeats: int = 1) -> float:
    """Seconds a call."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def interleaved(candidates: dict[str, Callable[[], Any]], rounds: int = 7, warmup: int = 2) -> dict[str, Timing]:
    """Times the candidates in turn, A B C A B C, so that what else the machine does meets all of them alike."""
    probe: dict[str, float] = {}
    for name, call in candidates.items():
        for _ in range(warmup):
            probe[name] = once(call)
            if probe[name] > SLOW:
                break
    times: dict[str, list[float]] = {name: [] for name in candidates}
    gc.collect()
    for k in range(rounds):
        for name, call in candidates.items():
            if probe[name] <= SLOW or k % EVERY == 0:
                times[name].append(once(call, repeats=max(1, min(100, round(SHORT / probe[name])))))
    return {name: Timing(statistics.median(values), len(values)) for name, values in times.items()}


@dataclass(frozen=True)
class Ceilings:
    """What this machine reaches in practice: a large copy (read plus written) and a large float32 matrix product."""

    copy: float  # bytes a second
    product: float  # floating-point operations a second

    def or_better(self, other: Ceilings) -> Ceilings:
        return Ceilings(max(self.copy, other.copy), max(self.product, other.product))


def cpu_ceilings() -> Ceilings:
    source = torch.randn(32 << 20)
    target = torch.empty_like(source)
    square = torch.randn(2048, 2048)
    copy = min(once(lambda: target.copy_(source)) for _ in range(8))
    product = min(once(lambda: square @ square) for _ in range(8))
    return Ceilings(2 * 4 * source.numel() / copy, 2 * 2048**3 / product)


def figures(case: Case, seconds: float, ceilings: Ceilings) -> dict[str, float]:
    """Rates of one call of `case` that takes `seconds`, and their share of the ceilings.

    A case whose data stays in the last-level cache from call to call may exceed the copy, which does not fit there.
    """
    found = {"gb_per_s": case.bytes_moved / seconds / 1e9, "of_copy": case.bytes_moved / seconds / ceilings.copy}
    if case.flops is not None:
        found |= {"gflop_per_s": case.flops / seconds / 1e9, "of_product": case.flops / seconds / ceilings.product}
    if case.pairs is not None:
        found["pairs_per_s"] = case.pairs / seconds
    return found


def compare(
    case: Case,
    timer: Callable[[dict[str, Callable[[], Any]]], Any],
    device: str = "cpu",
    left_out: Callable[[str], str | None] = lambda name: None,
) -> tuple[dict[str, Any], dict[str, Callable[[], Any]]]:
    """All candidates of a case, timed in turn: its entry of the results, and the calls that were timed.

    Args:
        timer: takes the calls by name, gives for each its `seconds` and `rounds`.
        left_out: why a candidate is not to run, or None.
    """
    ready: dict[str, Callable[[], Any]] = {}
    missing: dict[str, str] = {}
    for name in case.names(device):
        reason = left_out(name)
        if reason is not None:
            missing[name] = reason
            continue
        try:
            ready[name] = case.candidate(name, device)
        except MissingRival as absent:
            missing[name] = str(absent)
    timings = timer(ready)
    found: dict[str, Any] = {
        "op": case.op,
        "shape": case.shape,
        "seconds": {name: timing.seconds for name, timing in timings.items()},
        "rounds": {name: timing.rounds for name, timing in timings.items()},
        "missing": missing,
    }
    if case.group is not None:
        found["group"] = case.group
    best = ranked(found)
    if best:
        found["best_rival"], found["ratio"] = best[0]
    return found, ready
