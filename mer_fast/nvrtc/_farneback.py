"""What csrc/farneback_plan.h and csrc/cuda/farneback_flow_schedule.h work out for a call, and the structs of
kernels/cuda/farneback_flow*.cuh. Pointers in a struct are uint64."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from . import divide_up

MIN_SIDE = 32  # of a level other than the first
CHANNELS, THREADS, MOST_TAPS = 5, 256, 64
EXPAND_COLUMNS, EXPAND_ROWS = 64, 16
IMAGE_BYTES = 48 * 1024


def _ints(*names: str) -> list[tuple[str, Any]]:
    return [(name, np.int32) for name in names]


def _floats(*names: str) -> list[tuple[str, Any]]:
    return [(name, np.float32) for name in names]


START = np.dtype([("pairs", np.int64), *_ints("full_height", "full_width", "height", "width"), *_floats("factor")], align=True)
IMAGE = np.dtype(
    [("pairs", np.int64), *_ints("full_height", "full_width", "height", "width", "radius"), *_floats("decay", "middle"),
     *_ints("rows", "columns", "span")],
    align=True,
)  # fmt: skip
FILTERS = np.dtype(
    [("radius", np.int32), *((name, np.float32, MOST_TAPS) for name in ("smooth", "slope", "curve"))], align=True
)
WINDOW = np.dtype([*_ints("radius", "piece", "pieces", "rest"), *_floats("regularizer", "decay", "middle")], align=True)
TILES = np.dtype(_ints("rows", "columns", "down", "across", "matrix_columns"), align=True)
FROM = np.dtype([("flow", np.uint64), *_ints("height", "width"), *_floats("growth")], align=True)
STEP = np.dtype(
    [("pairs", np.int64), *_ints("height", "width"), ("window", WINDOW), ("tiles", TILES), ("quads", np.uint64),
     ("twists", np.uint64), ("from", FROM), ("flow", np.uint64), ("bad", np.uint64), ("memory", np.uint64)],
    align=True,
)  # fmt: skip


class Gaussian(NamedTuple):
    """FarnebackGaussian."""

    radius: int
    sigma: float

    @property
    def decay(self) -> float:
        return 0.0 if self.radius == 0 else 1 / (2 * self.sigma * self.sigma)

    @property
    def taps(self) -> list[float]:
        taps = [math.exp(-self.decay * (i * i)) for i in range(-self.radius, self.radius + 1)]
        total = 0.0
        for tap in taps:  # in this order: sum() would round otherwise
            total += tap
        return [tap / total for tap in taps]

    @property
    def middle(self) -> float:
        return self.taps[self.radius]


class Scale(NamedTuple):
    """FarnebackScale."""

    height: int
    width: int
    blur: Gaussian

    @property
    def pixels(self) -> int:
        return self.height * self.width


def scales(height: int, width: int, pyr_scale: float, levels: int) -> list[Scale]:
    """farneback_scales."""
    found, scale = [Scale(height, width, Gaussian(1, 1 / math.sqrt(2 * math.log(2.0))))], pyr_scale
    for _ in range(levels):
        tall, wide = height * scale, width * scale
        if min(tall, wide) < MIN_SIDE:
            break
        sigma = (1 / scale - 1) * 0.5
        found.append(Scale(round(tall), round(wide), Gaussian(max(round(sigma * 5) | 1, 3) // 2, sigma)))
        scale *= pyr_scale
    return found


def filters(poly_n: int, poly_sigma: float) -> np.ndarray[Any, Any]:
    """farneback_filters, as FILTERS."""
    g = Gaussian(poly_n, poly_sigma if poly_sigma > 0 else 0.3 * poly_n).taps
    m2 = m4 = 0.0
    for i, weight in zip(range(-poly_n, poly_n + 1), g, strict=True):
        m2 += weight * (i * i)
        m4 += weight * (i * i) * (i * i)
    found = np.zeros(1, FILTERS)
    found["radius"] = poly_n
    for i, weight in enumerate(g[poly_n:]):
        found["smooth"][0, i] = weight
        found["slope"][0, i] = 0.5 * i * weight / m2
        found["curve"][0, i] = 0.5 * (i * i - m2) * weight / (m4 - m2 * m2)
    return found


class Window(NamedTuple):
    """FarnebackWindow."""

    radius: int
    piece: int
    pieces: int
    rest: int
    regularizer: float
    decay: float
    middle: float

    @property
    def side(self) -> int:
        return 2 * self.radius + 1


def window(winsize: int, gaussian: bool) -> Window:
    """farneback_window: a box is summed from pieces of about the side's root."""
    radius, area = winsize // 2, float(winsize) * float(winsize)
    filtered, side = Gaussian(radius, 0.3 * radius), 2 * radius + 1
    least, cut, piece = side, (1, 1, 0), 1
    while piece * piece <= 2 * side:
        pieces, rest = divmod(side, piece)
        if piece == 1 or piece + pieces + rest < least:
            least, cut = piece + pieces + rest, (piece, pieces, rest)
        piece += 1
    return Window(radius, *cut, 1e-3 if gaussian else 1e-3 * area * area, filtered.decay, filtered.middle)


class Limits(NamedTuple):
    """FarnebackLimits: what the GPU grants a block, and the blocks that fill it."""

    shared_bytes: int
    blocks: int


class Tiles(NamedTuple):
    """FarnebackTiles."""

    rows: int
    columns: int
    down: int
    across: int
    matrix_columns: int


class Step(NamedTuple):
    """The sizes of FarnebackStep."""

    pairs: int
    height: int
    width: int
    window: Window
    tiles: Tiles
    bytes: int  # of a block's memory
    on_chip: bool

    @property
    def tile_count(self) -> int:
        return self.pairs * self.tiles.down * self.tiles.across


def memory_bytes(over: Window, columns: int, matrix_columns: int, gaussian: bool) -> int:
    """4 FarnebackStep::memory_floats."""
    line = CHANNELS * matrix_columns
    further = over.radius + 1 if gaussian else line + CHANNELS * (columns + (over.pieces - 1) * over.piece)
    return 4 * (line * (over.side + 2) + further)


def step(pairs: int, height: int, width: int, over: Window, gaussian: bool, limits: Limits) -> Step:
    """farneback_tiles, and where the memory of a block is."""

    def cut(most: int) -> tuple[int, int, int, int]:
        across = divide_up(width, most)
        columns = divide_up(width, across)
        matrix_columns = min(width, columns + 2 * over.radius)
        return across, columns, matrix_columns, memory_bytes(over, columns, matrix_columns, gaussian)

    cuts = [cut(most) for most in (128, 64, 32)]
    halves = (limits.shared_bytes // 2, limits.shared_bytes)
    fitting = [found for most_bytes in halves for found in cuts if found[-1] <= most_bytes]
    across, columns, matrix_columns, needed = (fitting or cuts)[0]
    wanted = divide_up(limits.blocks, pairs * across)
    rows = divide_up(height, min(wanted, max(1, height // over.side)))
    tiles = Tiles(rows, columns, divide_up(height, rows), across, matrix_columns)
    return Step(pairs, height, width, over, tiles, needed, needed <= limits.shared_bytes)


def image_tile(full: Scale, scale: Scale) -> tuple[int, int, int]:
    """Rows, columns and span of FarnebackImage: 64 x 8 pixels of the level, fewer where those need too much shared memory."""
    rows, columns, radius = 8, 64, scale.blur.radius

    def span() -> int:
        return min(divide_up(columns * full.width, scale.width), full.width) + 2 * radius + 3

    while image_bytes(radius, rows, span()) > IMAGE_BYTES and rows > 1:
        rows //= 2
    while image_bytes(radius, rows, span()) > IMAGE_BYTES and columns > 1:
        columns //= 2
    return rows, columns, span()


def image_bytes(radius: int, rows: int, span: int) -> int:
    """4 FarnebackImage::shared_floats."""
    return 4 * (2 * radius + 1 + rows * span)
