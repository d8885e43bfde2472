"""The structs and sizes of kernels/cuda/tvl1_flow*.cuh and csrc/tvl1_pyramid.h. Pointers in a struct are uint64."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from . import divide_up

WARPS, BORDER, THREADS, STEPS = 8, 2, 256, 6
TILE_ROWS, TILE_COLUMNS = 56, 64
HALO = STEPS + BORDER
CORE_ROWS, CORE_COLUMNS = TILE_ROWS - 2 * HALO, TILE_COLUMNS - 2 * HALO

PARAMS = np.dtype(
    [(name, np.float32) for name in ("tau", "lam", "theta", "scale_step", "epsilon")]
    + [(name, np.int32) for name in ("warps", "inner_iterations", "outer_iterations", "median")],
    align=True,
)
GRID = np.dtype([(name, np.int32) for name in ("rows", "columns", "groups", "strips")], align=True)
RESIZE = np.dtype(
    [(name, np.int32) for name in ("in_height", "in_width", "out_height", "out_width")]
    + [("scale_y", np.float64), ("scale_x", np.float64), ("factor", np.float32)],
    align=True,
)
START = np.dtype([("flow", np.uint64), ("resize", RESIZE)], align=True)
LEVEL = np.dtype(
    [("pairs", np.int64), ("height", np.int32), ("width", np.int32), ("images", np.uint64), ("start", START), ("flow", np.uint64),
     ("factor", np.float32), ("bad", np.uint64)],
    align=True,
)  # fmt: skip
TILES = np.dtype(
    [(name, np.uint64) for name in ("fixed", "state0", "state1", "errors0", "errors1", "progress0", "progress1")]
    + [("down", np.int32), ("across", np.int32)],
    align=True,
)
FIXED_FLOATS, STATE_FLOATS, PROGRESS_INTS = 4, 6, 3


class Size(NamedTuple):
    """Of a level."""

    height: int
    width: int

    @property
    def pixels(self) -> int:
        return self.height * self.width

    @property
    def tiles(self) -> tuple[int, int]:
        """Down and across."""
        return divide_up(self.height, CORE_ROWS), divide_up(self.width, CORE_COLUMNS)


def pyramid(height: int, width: int, scales: int, scale_step: float, min_side: int) -> list[Size]:
    """tvl1_pyramid."""
    sizes = [Size(height, width)]
    while len(sizes) < scales:
        following = Size(*(round(side * scale_step) for side in sizes[-1]))
        if min(following) < min_side:
            break
        sizes.append(following)
    return sizes


class Grid(NamedTuple):
    """Tvl1Grid."""

    rows: int
    columns: int
    groups: int
    strips: int

    @property
    def stride(self) -> int:
        return 32 * self.groups

    @property
    def threads(self) -> int:
        return 32 * self.groups * self.strips

    @property
    def depth(self) -> int:
        return divide_up(self.rows, self.strips)

    def shared_bytes(self, depth: int, errors: int) -> int:
        """4 tvl1_shared_floats."""
        plane = max((self.rows + 2 * BORDER) * self.stride, self.threads * depth)
        edges = 4 * (self.strips + 1) * self.stride + 2 * (2 * self.groups * self.strips + 1) * depth
        return 4 * (5 * self.threads * depth + plane + edges + errors * WARPS + 16)


TILE = Grid(TILE_ROWS, TILE_COLUMNS, 2, 4)


class Fit(NamedTuple):
    """Tvl1Fit: how a cluster holds a level."""

    grid: Grid
    depth: int
    blocks: int

    @property
    def shared_bytes(self) -> int:
        return self.grid.shared_bytes(self.depth, 1)


def fit(size: Size, most_blocks: int, most_shared_bytes: int) -> Fit | None:
    """tvl1_fit: None where the level is tiled."""
    groups, blocks = divide_up(size.width, 32), 1
    while groups <= WARPS and blocks <= most_blocks:
        grid = Grid(divide_up(size.height, blocks), size.width, groups, WARPS // groups)
        found = Fit(grid, divide_up(grid.depth, 8) * 8, blocks)
        if found.depth <= 24 and found.shared_bytes <= most_shared_bytes:
            return found
        blocks *= 2
    return None
