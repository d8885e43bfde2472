"""The flow ops on a GPU: batches that fill it, the floor of their arithmetic, and OpenCV on that machine's CPU as the rival."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from .cases import Case, farneback_flow_case, tvl1_flow_case
from .measure import Ceilings, interleaved
from .rivals import MissingRival, Rival
from .table import ranked

DISTINCT = 32  # pairs of frames; a batch repeats them

# --- what is timed ----------------------------------------------------------------------------------------------------
# Float32 instructions as kernels/cuda/tvl1_flow.cuh counts them: an iteration of a pixel, a median of a component (190 minima
# and maxima at half rate), a warped sample; and what runs of a warp's 300 iterations on faces.
TVL1_ITERATION, TVL1_MEDIAN, TVL1_SAMPLE = 68, 380, 150
TVL1_ITERATIONS, TVL1_MEDIANS, TVL1_WARPS, TVL1_LEVELS, TVL1_STEP = 44, 3, 5, 5, 0.8


def tvl1_instructions(size: int) -> float:
    """Of a pair of size x size at the defaults."""
    sides = [size]
    while len(sides) < TVL1_LEVELS and round(sides[-1] * TVL1_STEP) >= 16:
        sides.append(round(sides[-1] * TVL1_STEP))
    a_warp = TVL1_ITERATIONS * TVL1_ITERATION + 2 * TVL1_MEDIANS * TVL1_MEDIAN + TVL1_SAMPLE
    return float(sum(side * side for side in sides) * TVL1_WARPS * a_warp)


# As kernels/cuda/farneback_flow.cuh counts them, at the common parameters: a pixel's images and expansions, and an iteration.
FARNEBACK_LEVEL, FARNEBACK_ITERATION, FARNEBACK_ITERATIONS, FARNEBACK_LEVELS = 200, 133, 3, 3


def farneback_instructions(size: int) -> float:
    """Of a pair of size x size at the common parameters."""
    sides = [size]
    while len(sides) <= FARNEBACK_LEVELS and sides[-1] / 2 >= 32:
        sides.append(round(size / 2 ** len(sides)))
    return float(sum(side * side for side in sides) * (FARNEBACK_LEVEL + FARNEBACK_ITERATIONS * FARNEBACK_ITERATION))


def flow_case(make: Callable[[int, int], Case], size: int, batch: int, instructions: float) -> Case:
    """The CPU's case on a batch of any size. Of OpenCV's forms the faster one: a pair a thread, or one pair with all threads."""
    few = make(size, min(batch, DISTINCT))
    copies = batch // min(batch, DISTINCT)
    theirs = [rival for rival in few.rivals if rival.name.startswith("OpenCV")][-1]
    return replace(
        few,
        shape=f"{size}x{size} batch {batch}",
        inputs=lambda device: tuple(frame.repeat(copies, 1, 1) for frame in few.inputs(device)),
        rivals=(theirs,),
        bytes_moved=few.bytes_moved * copies,
        pairs=batch,
        instructions=instructions * batch,
        agreement=None,
    )


def flow_cases() -> dict[str, list[Case]]:
    """Every flow op with a GPU kernel."""
    return {
        "tvl1_flow": [
            flow_case(tvl1_flow_case, size, batch, tvl1_instructions(size)) for size, batch in
            ((224, 256), (128, 512), (224, 1), (128, 1))
        ],
        "farneback_flow": [
            flow_case(farneback_flow_case, size, batch, farneback_instructions(size)) for size, batch in
            ((128, 1024), (224, 512), (224, 1), (128, 1))
        ],
    }  # fmt: skip


# --- what they are measured against -----------------------------------------------------------------------------------
def add_rivals_on_cpu(found: dict[str, Any], case: Case) -> None:
    """Wall time of the rivals on the CPU, all its threads, over the first pairs; as seconds of the whole batch."""
    assert case.pairs is not None
    few = [frame[:DISTINCT] for frame in case.inputs("cpu")]
    timed = len(few[0])
    for rival in case.rivals:
        name = on_cpu(rival)
        try:
            call = rival.make(*few)
        except MissingRival as absent:
            found["missing"][name] = str(absent)
            continue
        timing = interleaved({name: call}, rounds=3, warmup=1)[name]
        found["seconds"][name] = timing.seconds * case.pairs / timed
        found["rounds"][name] = timing.rounds
        if timed < case.pairs:
            found.setdefault("timed_pairs", {})[name] = timed
    best = ranked(found)
    if best:
        found["best_rival"], found["ratio"] = best[0]


def on_cpu(rival: Rival) -> str:
    return f"{rival.name}, on the CPU"


# --- the floor --------------------------------------------------------------------------------------------------------
def instruction_rate(told: Callable[..., str]) -> float | None:
    """Float32 instructions a second at the GPU's highest clock, a fused multiply-add being one; None where no one tells it.

    `told(command...)` is the first line that a command says.
    """
    properties = torch.cuda.get_device_properties(0)
    lanes = 64 if (properties.major, properties.minor) == (8, 0) else 128  # of a multiprocessor
    clock = told("nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits")
    return properties.multi_processor_count * lanes * int(clock) * 1e6 if clock.isdigit() else None


def floor(case: Case, seconds: float, ceilings: Ceilings, rate: float | None) -> dict[str, float]:
    """Seconds below which no implementation of the same steps comes, and the fraction of that in `seconds`."""
    if case.instructions is None or rate is None:
        return {}
    least = max(case.instructions / rate, case.bytes_moved / ceilings.copy)
    return {"floor_seconds": least, "of_floor": least / seconds}
