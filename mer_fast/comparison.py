"""How good a flow is: against motion that is known, and beside OpenCV's TV-L1 on the same pair of frames."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from mer_fast import ops
from mer_fast.data._optional import require

if TYPE_CHECKING:
    from mer_fast.data import Box, Truth

_REPEATS = 3  # of each side, in turns: a median of three is enough to name a ratio and costs two seconds at most


@dataclass(frozen=True)
class PlantedMotion:
    """Known motion from onset to apex in a face crop: `flow` (2, H, W) in the crop's pixels, `moving` (H, W) bool."""

    flow: npt.NDArray[np.float32]
    moving: npt.NDArray[np.bool_]
    onset: int
    apex: int


@dataclass(frozen=True)
class EndpointError:
    """Mean length of (flow - planted flow) in crop pixels: where the planted motion is, and over the whole crop.

    Where the motion lies outside the crop, `moving` is NaN.
    """

    moving: float
    whole: float


@dataclass(frozen=True)
class Rival:
    """OpenCV's DualTVL1 at its defaults on the same pair, beside ours: median seconds of both, run in turns."""

    seconds: float
    our_seconds: float
    mean_difference: float  # mean length of (our flow - OpenCV's), pixels
    error: EndpointError | None


def planted_motion(truth: Truth, box: Box, size: int) -> PlantedMotion:
    """Carries planted flow from the whole frame into a crop: cut by the face box, resized, lengths scaled as the picture is."""
    cv2 = require("cv2")
    shrinks = size * size < box.width * box.height

    def carry(field: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        cut = np.ascontiguousarray(field[box.slices()], dtype=np.float32)
        return cv2.resize(cut, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)

    flow = np.stack([carry(truth.flow[0]) * (size / box.width), carry(truth.flow[1]) * (size / box.height)])
    return PlantedMotion(flow=flow, moving=carry(truth.moving) > 0.5, onset=truth.onset, apex=truth.apex)


def endpoint_error(flow: npt.NDArray[np.float32], planted: PlantedMotion) -> EndpointError:
    """Mean endpoint error of `flow` (2, H, W) against the planted motion."""
    lengths = np.hypot(*(flow - planted.flow).astype(np.float64))
    moving = float(lengths[planted.moving].mean()) if planted.moving.any() else float("nan")
    return EndpointError(moving=moving, whole=float(lengths.mean()))


def compare_with_opencv(onset: npt.NDArray[np.uint8], apex: npt.NDArray[np.uint8], planted: PlantedMotion | None) -> Rival | None:
    """Runs OpenCV's DualTVL1 and ours in turns on one pair of gray frames (H, W); None where OpenCV has no `optflow` module."""
    optflow = getattr(require("cv2"), "optflow", None)
    if optflow is None:
        return None
    algorithm = optflow.DualTVL1OpticalFlow_create()
    our_times, times = [], []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        our_flow = ops.tvl1_flow(torch.from_numpy(onset), torch.from_numpy(apex)).numpy()
        our_times.append(time.perf_counter() - started)
        started = time.perf_counter()
        flow = algorithm.calc(onset, apex, None).transpose(2, 0, 1)
        times.append(time.perf_counter() - started)
    return Rival(
        seconds=statistics.median(times),
        our_seconds=statistics.median(our_times),
        mean_difference=float(np.hypot(*(our_flow - flow)).mean()),
        error=None if planted is None else endpoint_error(flow, planted),
    )
