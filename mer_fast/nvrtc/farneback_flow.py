"""`ops.farneback_flow` on CuPy's arrays, as csrc/cuda/farneback_flow.cu and csrc/cuda/farneback_flow_schedule.h launch it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..ops._checks import require
from ..ops.farneback_flow import check_parameters
from . import Launch, _farneback, by_value, divide_up, run
from ._farneback import THREADS, Limits, Scale, Step
from ._flow import Frames, check, prepare, result

MOST_SIDE = 32767  # positions between pixels are products of two sides in 32 bits
BLOCKS_A_PROCESSOR = 4
# One module for all sizes: it is compiled once, and CuPy keeps it on disk.
KERNELS = (
    *(f"farneback_image<{kind}>" for kind in ("float", "unsigned char")), *(f"farneback_expand<{radius}>" for radius in (0, 5)),
    *(f"farneback_iterate<{g}, {o}>" for g in ("false", "true") for o in ("false", "true")), "farneback_start",
)  # fmt: skip
NULL = by_value(np.uint64, 0)


def farneback_flow(
    frame0: Any,
    frame1: Any,
    *,
    pyr_scale: float = 0.5,
    levels: int = 3,
    winsize: int = 15,
    iterations: int = 3,
    poly_n: int = 5,
    poly_sigma: float = 1.2,
    gaussian: bool = False,
    initial_flow: Any = None,
) -> Any:
    """See `mer_fast.ops.farneback_flow`."""
    import cupy

    given: dict[str, Any] = dict(
        pyr_scale=pyr_scale, levels=levels, winsize=winsize, iterations=iterations, poly_n=poly_n, poly_sigma=poly_sigma,
        gaussian=gaussian,
    )  # fmt: skip
    op, device = "farneback_flow", frame0.device
    check(op, frame0, frame1, initial_flow, 1)
    check_parameters(given)
    largest = max(frame0.shape[-2:])
    require(largest <= MOST_SIDE, op, "frame0", "must be at most {} pixels a side on a GPU, got {}", MOST_SIDE, frame0.shape)
    with device:
        frames = prepare(frame0, frame1, initial_flow)
        flow = cupy.empty((frames.pairs, 2, frames.height, frames.width), np.float32)
        if frames.pairs:
            attributes = device.attributes
            blocks = BLOCKS_A_PROCESSOR * attributes["MultiProcessorCount"]
            limits = Limits(attributes["MaxSharedMemoryPerBlockOptin"], blocks)
            schedule = Schedule(frames, flow, given, limits)
            run(op, schedule.launches(), KERNELS)
        return result(flow, frame0)


class Schedule:
    """FarnebackSchedule: the working memory of a call and its launches, which point into that."""

    def __init__(self, frames: Frames, flow: Any, given: dict[str, Any], limits: Limits) -> None:
        import cupy

        self.frames, self.flow, self.given, self.limits, self.pairs = frames, flow, given, limits, frames.pairs
        self.scales = _farneback.scales(frames.height, frames.width, given["pyr_scale"], given["levels"])
        self.filters = _farneback.filters(given["poly_n"], given["poly_sigma"])
        window = _farneback.window(given["winsize"], given["gaussian"])
        self.steps = [_farneback.step(self.pairs, s.height, s.width, window, given["gaussian"], limits) for s in self.scales]
        values = 2 * self.pairs * self.scales[0].pixels
        self.bad = cupy.zeros(self.pairs, np.uint32)
        self.images, self.twists, *self.flows = (cupy.empty(values, np.float32) for _ in range(4))
        self.quads = cupy.empty(4 * values, np.float32)
        off_chip = max((self._blocks(step) * step.bytes // 4 for step in self.steps if not step.on_chip), default=0)
        self.off_chip = cupy.empty(off_chip, np.float32)

    def launches(self) -> list[Launch]:
        coarsest, turn = self.scales[-1], 0
        found, source = [], (0, coarsest.height, coarsest.width)
        if self.frames.initial_flow is not None:
            found.append(self._start(coarsest))
            source, turn = (self.flows[0].data.ptr, coarsest.height, coarsest.width), 1
        for s in reversed(range(len(self.scales))):
            found += [self._image(s), self._expand(self.scales[s])]
            for k in range(self.given["iterations"]):
                finest = s == 0 and k + 1 == self.given["iterations"]
                target = self.flow if finest else self.flows[turn]
                found.append(self._iterate(self.steps[s], source, target, finest))
                source, turn = (target.data.ptr, self.scales[s].height, self.scales[s].width), 1 - turn
        return found

    def _blocks(self, step: Step) -> int:
        """Off chip a block takes one tile after the other, in memory that does not grow with their number."""
        return step.tile_count if step.on_chip else min(step.tile_count, self.limits.blocks)

    def _start(self, coarsest: Scale) -> Launch:
        full, factor = self.scales[0], self.given["pyr_scale"] ** (len(self.scales) - 1)
        words = by_value(_farneback.START, self.pairs, full.height, full.width, coarsest.height, coarsest.width, factor)
        blocks = divide_up(2 * self.pairs * coarsest.pixels, THREADS)
        return Launch("farneback_start", blocks, THREADS, (self.frames.initial_flow, self.flows[0], self.bad, words))

    def _image(self, s: int) -> Launch:
        full, scale = self.scales[0], self.scales[s]
        rows, columns, span = _farneback.image_tile(full, scale)
        blur = scale.blur
        words = by_value(
            _farneback.IMAGE, self.pairs, full.height, full.width, scale.height, scale.width, blur.radius, blur.decay,
            blur.middle, rows, columns, span,
        )  # fmt: skip
        kind = "unsigned char" if self.frames.frame0.dtype == np.uint8 else "float"
        blocks = 2 * self.pairs * divide_up(scale.height, rows) * divide_up(scale.width, columns)
        arguments = (self.frames.frame0, self.frames.frame1, self.images, self.bad if s == 0 else NULL, words)
        shared = _farneback.image_bytes(blur.radius, rows, span)
        return Launch(f"farneback_image<{kind}>", blocks, THREADS, arguments, shared)

    def _expand(self, scale: Scale) -> Launch:
        radius, rows = self.given["poly_n"], _farneback.EXPAND_ROWS
        blocks = 2 * self.pairs * divide_up(scale.height, rows) * divide_up(scale.width, _farneback.EXPAND_COLUMNS)
        sizes = (by_value(np.int32, scale.height), by_value(np.int32, scale.width))
        arguments = (self.images, self.quads, self.twists, *sizes, self.filters)
        shared = 4 * 3 * rows * (_farneback.EXPAND_COLUMNS + 2 * radius)
        return Launch(f"farneback_expand<{5 if radius == 5 else 0}>", blocks, THREADS, arguments, shared)

    def _iterate(self, step: Step, source: tuple[int, int, int], target: Any, finest: bool) -> Launch:
        pointers = (self.quads.data.ptr, self.twists.data.ptr)
        start = (*source, 1 / self.given["pyr_scale"])
        bad, memory = self.bad.data.ptr if finest else 0, 0 if step.on_chip else self.off_chip.data.ptr
        words = by_value(
            _farneback.STEP, self.pairs, step.height, step.width, tuple(step.window), tuple(step.tiles), *pointers, start,
            target.data.ptr, bad, memory,
        )  # fmt: skip
        name = f"farneback_iterate<{str(self.given['gaussian']).lower()}, {str(step.on_chip).lower()}>"
        threads = min(THREADS, divide_up(step.tiles.matrix_columns, 32) * 32)
        return Launch(name, self._blocks(step), threads, (words,), step.bytes if step.on_chip else 0)
