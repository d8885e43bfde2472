"""`ops.tvl1_flow` on CuPy's arrays, as csrc/cuda/tvl1_flow.cu and csrc/cuda/tvl1_flow_schedule.h launch it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..ops._checks import require
from ..ops.tvl1_flow import MIN_SIDE, check_parameters
from . import Launch, _cluster, _tvl1, by_value, compiled, divide_up, run
from ._flow import Frames, check, prepare, result
from ._tvl1 import STEPS, THREADS, TILE, Fit, Size

# One module for all sizes: it is compiled once, and CuPy keeps it on disk.
KERNELS = (
    *(f"tvl1_load<{element}>" for element in ("float", "unsigned char")), "tvl1_check", "tvl1_resize",
    *(f"tvl1_solve<{rows}>" for rows in (8, 16, 24)), "tvl1_warp", "tvl1_iterate",
)  # fmt: skip


def tvl1_flow(
    frame0: Any,
    frame1: Any,
    *,
    tau: float = 0.25,
    lam: float = 0.15,
    theta: float = 0.3,
    scales: int = 5,
    scale_step: float = 0.8,
    warps: int = 5,
    epsilon: float = 0.01,
    inner_iterations: int = 30,
    outer_iterations: int = 10,
    median: int = 5,
    initial_flow: Any = None,
) -> Any:
    """See `mer_fast.ops.tvl1_flow`."""
    import cupy

    given: dict[str, Any] = dict(
        tau=tau, lam=lam, theta=theta, scale_step=scale_step, epsilon=epsilon, warps=warps, inner_iterations=inner_iterations,
        outer_iterations=outer_iterations, median=median,
    )  # fmt: skip
    check("tvl1_flow", frame0, frame1, initial_flow, MIN_SIDE)
    check_parameters({**given, "scales": scales})
    for name in ("tau", "lam", "theta", "scale_step"):
        normal = np.finfo(np.float32).tiny <= np.float32(given[name]) < np.inf
        require(bool(normal), "tvl1_flow", name, "must be positive and finite, got {}", np.float32(given[name]))
    height, width = frame0.shape[-2:]
    require(height * width < 2**31 - 1, "tvl1_flow", "frame0", "has more than 2^31 pixels a frame")
    with frame0.device:
        frames = prepare(frame0, frame1, initial_flow)
        flow = cupy.empty((frames.pairs, 2, frames.height, frames.width), np.float32)
        if frames.pairs:
            sizes = _tvl1.pyramid(frames.height, frames.width, scales, scale_step, MIN_SIDE)
            schedule = Schedule(frames, flow, given, sizes, [level_fit(frame0.device, size) for size in sizes])
            run("tvl1_flow", schedule.launches(), KERNELS)
        return result(flow, frame0)


def level_fit(device: Any, size: Size) -> Fit | None:
    """How the device holds a level on chip, in a cluster where it has those; None where it does not."""
    shared = device.attributes["MaxSharedMemoryPerBlockOptin"]
    if int(device.compute_capability) < 90:
        return _tvl1.fit(size, 1, shared)
    found = _tvl1.fit(size, 16, shared)
    if found is not None and found.blocks > _cluster.PORTABLE:
        launch = Launch(f"tvl1_solve<{found.depth}>", found.blocks, found.grid.threads, (), found.shared_bytes, found.blocks)
        if not _cluster.holds(compiled("tvl1_flow", KERNELS, launch), launch):
            return _tvl1.fit(size, _cluster.PORTABLE, shared)
    return found


class Schedule:
    """Tvl1Schedule: the working memory of a call and its launches, which point into that."""

    def __init__(self, frames: Frames, flow: Any, given: dict[str, Any], sizes: list[Size], fits: list[Fit | None]) -> None:
        import cupy

        self.frames, self.flow, self.given, self.sizes, self.fits = frames, flow, given, sizes, fits
        self.pairs, self.params = frames.pairs, by_value(_tvl1.PARAMS, *(given[name] for name in _tvl1.PARAMS.names or ()))
        self.bad = cupy.zeros(self.pairs, np.uint32)
        self.images = [cupy.empty((2, self.pairs, *size), np.float32) for size in sizes]
        self.flows = [flow, *(cupy.empty((self.pairs, 2, *size), np.float32) for size in sizes[1:])]
        self.starts = [frames.initial_flow]  # a level each, where there is an initial flow
        if frames.initial_flow is not None:
            self.starts += [cupy.empty((self.pairs, 2, *size), np.float32) for size in sizes[1:]]
        self.tiled = self._tiled_memory([size for size, found in zip(sizes, fits, strict=True) if found is None])

    def _tiled_memory(self, sizes: list[Size]) -> list[Any]:
        """What the struct of tiles points to, for the largest of the tiled levels."""
        import cupy

        if not sizes:
            return []
        pixels = self.pairs * max(size.pixels for size in sizes)
        errors = self.pairs * STEPS * max(size.tiles[0] * size.tiles[1] for size in sizes)
        floats = (pixels * _tvl1.FIXED_FLOATS, pixels * _tvl1.STATE_FLOATS, pixels * _tvl1.STATE_FLOATS, errors, errors)
        progress = [cupy.empty(self.pairs * _tvl1.PROGRESS_INTS, np.int32) for _ in range(2)]
        return [*(cupy.empty(count, np.float32) for count in floats), *progress]

    def launches(self) -> list[Launch]:
        found = self._pyramid()
        for s in reversed(range(len(self.sizes))):
            level, fitting = self._level(s), self.fits[s]
            if fitting is None:
                found += self._tiled(level, s)
            else:
                name, blocks = f"tvl1_solve<{fitting.depth}>", self.pairs * fitting.blocks
                arguments = (level, self.params, by_value(_tvl1.GRID, *fitting.grid))
                found.append(Launch(name, blocks, fitting.grid.threads, arguments, fitting.shared_bytes, fitting.blocks))
        return found

    def _pyramid(self) -> list[Launch]:
        frame0, frame1, initial = self.frames[:3]
        pairs, pixels = by_value(np.int64, self.pairs), by_value(np.int64, self.sizes[0].pixels)
        blocks = divide_up(2 * self.pairs * self.sizes[0].pixels, THREADS)
        kind = "unsigned char" if frame0.dtype == np.uint8 else "float"
        found = [Launch(f"tvl1_load<{kind}>", blocks, THREADS, (frame0, frame1, self.images[0], self.bad, pairs, pixels))]
        if initial is not None:
            found.append(Launch("tvl1_check", blocks, THREADS, (initial, self.bad, pairs, pixels)))
        for s in range(1, len(self.sizes)):
            found.append(self._shrink(self.images[s - 1], self.images[s], s, 1.0))
            if initial is not None:
                found.append(self._shrink(self.starts[s - 1], self.starts[s], s, self.given["scale_step"]))
        return found

    def _shrink(self, source: Any, target: Any, s: int, factor: float) -> Launch:
        blocks = divide_up(2 * self.pairs * self.sizes[s].pixels, THREADS)
        planes, resize = by_value(np.int64, 2 * self.pairs), by_value(_tvl1.RESIZE, *self._resize(s - 1, s, factor))
        return Launch("tvl1_resize", blocks, THREADS, (source, target, planes, resize))

    def _resize(self, source: int, target: int, factor: float) -> tuple[Any, ...]:
        """OpenCV steps by exactly 1 / scale_step on the way down, by the ratio of the sizes on the way up."""
        inner, outer = self.sizes[source], self.sizes[target]
        scales = [1 / self.given["scale_step"]] * 2
        if target <= source:
            scales = [inner.height / outer.height, inner.width / outer.width]
        return (*inner, *outer, *scales, factor)

    def _level(self, s: int) -> Any:
        # in float32 all along, as the launcher in C++
        scale = np.float32(self.given["tau"]) / np.float32(self.given["theta"])
        start: tuple[Any, ...] = (0, (0,) * 7)
        if s + 1 < len(self.sizes):
            start = (self.flows[s + 1].data.ptr, self._resize(s + 1, s, np.float32(1) / np.float32(self.given["scale_step"])))
        elif self.frames.initial_flow is not None:
            start = (self.starts[s].data.ptr, self._resize(s, s, scale))
        bad, factor = (self.bad.data.ptr, np.float32(1) / scale) if s == 0 else (0, 1.0)
        images, flow = self.images[s].data.ptr, self.flows[s].data.ptr
        return by_value(_tvl1.LEVEL, self.pairs, *self.sizes[s], images, start, flow, factor, bad)

    def _tiled(self, level: Any, s: int) -> list[Launch]:
        down, across = self.sizes[s].tiles
        tiles = by_value(_tvl1.TILES, *(x.data.ptr for x in self.tiled), down, across)
        turns = divide_up(self.given["inner_iterations"], STEPS) * self.given["outer_iterations"]
        pixel_blocks = self.pairs * divide_up(self.sizes[s].pixels, THREADS)
        shared, found, slot = TILE.shared_bytes(TILE.depth, STEPS), [], 0
        for warp in range(self.given["warps"]):
            words: tuple[Any, ...] = (level, self.params, tiles, by_value(np.int32, slot), by_value(np.bool_, warp == 0))
            found.append(Launch("tvl1_warp", pixel_blocks, THREADS, words))
            for turn in range(turns + 1):
                slot = 1 - slot
                writes = by_value(np.bool_, turn == turns and warp + 1 == self.given["warps"])
                words = (level, self.params, tiles, by_value(np.int32, slot), by_value(np.int32, turn), writes)
                found.append(Launch("tvl1_iterate", self.pairs * down * across, TILE.threads, words, shared))
            slot = 1 - slot
        return found
