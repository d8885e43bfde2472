"""Farneback flow with OpenCV's names."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .. import ops, reference
from ..errors import MerFastError
from ..ops.farneback_flow import check_parameters
from ._dense import Array, DenseOpticalFlow, checked_frames, give, parameter, starting_flow
from ._opencv import raising

OPTFLOW_USE_INITIAL_FLOW = 4
OPTFLOW_FARNEBACK_GAUSSIAN = 256

_NO_SIGMA = float(np.finfo(np.float32).eps)  # below, OpenCV takes 0.3 poly_n


def calcOpticalFlowFarneback(
    prev: Any,
    next: Any,
    flow: Any,
    pyr_scale: float,
    levels: int,
    winsize: int,
    iterations: int,
    poly_n: int,
    poly_sigma: float,
    flags: int,
) -> Array:
    """Farneback flow from `prev` to `next`.

    Args:
        prev, next: gray frames (H, W) of one size and any real dtype, gray values 0..255; also (N, H, W), which OpenCV does
            not take.
        flow: where the result goes if it is float32 (H, W, 2); with OPTFLOW_USE_INITIAL_FLOW also where the iteration starts.
        pyr_scale, levels, winsize, poly_n: see `mer_fast.ops.farneback_flow`.
        iterations: solutions per level; with none the flow is 0, or where it starts from, smoothed by the pyramid.
        poly_sigma: see there too; 0 or below for 0.3 `poly_n`.
        flags: OPTFLOW_USE_INITIAL_FLOW, OPTFLOW_FARNEBACK_GAUSSIAN, both or 0.

    Returns:
        (H, W, 2) or (N, H, W, 2) float32, u right and v down in pixels.

    Raises:
        MerFastError, which is a cv2.error too: frames that differ in size, are not gray or hold other values; parameters out
            of range.
    """
    return _flow(
        "calcOpticalFlowFarneback", prev, next, flow, flags, pyr_scale=pyr_scale, levels=levels, winsize=winsize,
        iterations=iterations, poly_n=poly_n, poly_sigma=poly_sigma,
    )  # fmt: skip


def _flow(function: str, prev: Any, following: Any, flow: Any, flags: Any, **parameters: Any) -> Array:
    with raising(function):
        flags = _checked_flags(flags)
        pair = checked_frames("prev", prev, "next", following)
        if any(frame.dtype != np.uint8 for frame in pair):
            pair = _unit("prev", pair[0]), _unit("next", pair[1])
        start = starting_flow(flow, pair[0]) if flags & OPTFLOW_USE_INITIAL_FLOW else None
        parameters = {**_as_op(parameters), "gaussian": bool(flags & OPTFLOW_FARNEBACK_GAUSSIAN)}
        if parameters["iterations"]:
            planes = ops.farneback_flow(*pair, **parameters, initial_flow=start)
        else:
            planes = _unsolved(pair, start, parameters)
        return give(planes, flow, pair[0])


def _checked_flags(flags: Any) -> int:
    if not isinstance(flags, (int, np.integer)) or isinstance(flags, bool):
        raise MerFastError(f"flags must be a whole number, got {flags!r}")
    return int(flags)


def _as_op(parameters: dict[str, Any]) -> dict[str, Any]:
    """What OpenCV takes as none, as the op would have it, or for the iterations as 0."""
    iterations, sigma = parameters["iterations"], parameters["poly_sigma"]
    if isinstance(iterations, (int, np.integer)):
        iterations = max(iterations, 0)
    if isinstance(sigma, (int, float, np.number)) and -np.inf < sigma < _NO_SIGMA:
        sigma = 0
    return {**parameters, "iterations": iterations, "poly_sigma": sigma}


def _unsolved(pair: tuple[Array, Array], start: Array | None, parameters: dict[str, Any]) -> Array:
    """The flow where nothing is solved: 0, or the initial one as the pyramid leaves it, which the op has no case for."""
    check_parameters({**parameters, "iterations": 1})
    first, second = (torch.from_numpy(np.ascontiguousarray(frame)) for frame in pair)
    initial = None if start is None else torch.from_numpy(np.ascontiguousarray(start))
    return np.asarray(reference.farneback_flow(first, second, **parameters, initial_flow=initial).numpy())


def _unit(name: str, frame: Array) -> Array:
    """Gray values of any dtype as float 0..1, which the op multiplies by 255: OpenCV takes them as they are."""
    if frame.dtype.kind not in "biuf":
        raise MerFastError(f"{name} must be of a real dtype, got {frame.dtype}")
    least, most = frame.min(), frame.max()
    if not (least >= -255 and most <= 510):  # so for NaN too
        raise MerFastError(f"{name} must hold gray values 0..255, got {least} to {most}; scale them")
    return frame.astype(np.float32) / np.float32(255)


class FarnebackOpticalFlow(DenseOpticalFlow):
    """Farneback flow with OpenCV's class defaults. `fastPyramids` is kept and changes nothing, as in OpenCV on a CPU."""

    def __init__(
        self,
        numLevels: int = 5,
        pyrScale: float = 0.5,
        fastPyramids: bool = False,
        winSize: int = 13,
        numIters: int = 10,
        polyN: int = 5,
        polySigma: float = 1.1,
        flags: int = 0,
    ) -> None:
        self._given = {}
        self.setNumLevels(numLevels)
        self.setPyrScale(pyrScale)
        self.setFastPyramids(fastPyramids)
        self.setWinSize(winSize)
        self.setNumIters(numIters)
        self.setPolyN(polyN)
        self.setPolySigma(polySigma)
        self.setFlags(flags)

    @classmethod
    def create(cls, *arguments: Any, **named: Any) -> FarnebackOpticalFlow:
        return cls(*arguments, **named)

    getNumLevels, setNumLevels = parameter("levels", int)
    getPyrScale, setPyrScale = parameter("pyr_scale", float)
    getWinSize, setWinSize = parameter("winsize", int)
    getNumIters, setNumIters = parameter("iterations", int)
    getPolyN, setPolyN = parameter("poly_n", int)
    getPolySigma, setPolySigma = parameter("poly_sigma", float)

    def getFlags(self) -> int:
        return self._flags

    def setFlags(self, val: int) -> None:
        with raising("FarnebackOpticalFlow.setFlags"):
            self._flags = _checked_flags(val)

    def getFastPyramids(self) -> bool:
        return self._fast_pyramids

    def setFastPyramids(self, val: bool) -> None:
        self._fast_pyramids = bool(val)

    def calc(self, I0: Any, I1: Any, flow: Any = None) -> Array:
        """See `calcOpticalFlowFarneback`."""
        return _flow("FarnebackOpticalFlow.calc", I0, I1, flow, self._flags, **self._given)


def FarnebackOpticalFlow_create(*arguments: Any, **named: Any) -> FarnebackOpticalFlow:
    """See `FarnebackOpticalFlow`, whose arguments it takes."""
    return FarnebackOpticalFlow(*arguments, **named)
