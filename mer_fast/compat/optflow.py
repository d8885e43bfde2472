"""`cv2.optflow` with DualTVL1 on mer_fast's kernel; all else is the module of opencv-contrib."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from .. import ops
from ..errors import MerFastError
from ._dense import Array, DenseOpticalFlow, checked_frames, give, parameter, starting_flow
from ._opencv import fall_through, opencv, raising
from .farneback import FarnebackOpticalFlow


class DualTVL1OpticalFlow(DenseOpticalFlow):
    """TV-L1 flow with OpenCV's names and defaults, and its spelling of them (`innnerIterations`).

    `gamma` other than 0 is an error: it adds an illumination term that `ops.tvl1_flow` does not have.
    """

    def __init__(
        self,
        tau: float = 0.25,
        lambda_: float = 0.15,
        theta: float = 0.3,
        nscales: int = 5,
        warps: int = 5,
        epsilon: float = 0.01,
        innnerIterations: int = 30,
        outerIterations: int = 10,
        scaleStep: float = 0.8,
        gamma: float = 0.0,
        medianFiltering: int = 5,
        useInitialFlow: bool = False,
    ) -> None:
        self._given = {}
        self.setTau(tau)
        self.setLambda(lambda_)
        self.setTheta(theta)
        self.setScalesNumber(nscales)
        self.setWarpingsNumber(warps)
        self.setEpsilon(epsilon)
        self.setInnerIterations(innnerIterations)
        self.setOuterIterations(outerIterations)
        self.setScaleStep(scaleStep)
        self.setGamma(gamma)
        self.setMedianFiltering(medianFiltering)
        self.setUseInitialFlow(useInitialFlow)

    @classmethod
    def create(cls, *arguments: Any, **named: Any) -> DualTVL1OpticalFlow:
        return cls(*arguments, **named)

    getTau, setTau = parameter("tau", float)
    getLambda, setLambda = parameter("lam", float)
    getTheta, setTheta = parameter("theta", float)
    getScalesNumber, setScalesNumber = parameter("scales", int)
    getWarpingsNumber, setWarpingsNumber = parameter("warps", int)
    getEpsilon, setEpsilon = parameter("epsilon", float)
    getInnerIterations, setInnerIterations = parameter("inner_iterations", int)
    getOuterIterations, setOuterIterations = parameter("outer_iterations", int)
    getScaleStep, setScaleStep = parameter("scale_step", float)
    getMedianFiltering, setMedianFiltering = parameter("median", int)

    def getUseInitialFlow(self) -> bool:
        return self._starts_from_flow

    def setUseInitialFlow(self, val: bool) -> None:
        self._starts_from_flow = bool(val)

    def getGamma(self) -> float:
        return 0.0

    def setGamma(self, val: float) -> None:
        with raising("DualTVL1OpticalFlow"):
            if val != 0:
                raise MerFastError(f"gamma must be 0, got {val}; the illumination term is OpenCV's alone")

    def calc(self, I0: Any, I1: Any, flow: Any = None) -> Array:
        """Flow from `I0` to `I1`.

        Args:
            I0, I1: gray frames (H, W), alike, uint8 or float32, at least 16 pixels a side; also (N, H, W), which OpenCV does
                not take. As in OpenCV float32 is multiplied by 255, so it should lie in 0..1.
            flow: where the result goes if it is float32 (H, W, 2); with useInitialFlow also where the iteration starts.

        Returns:
            (H, W, 2) or (N, H, W, 2) float32, u right and v down in pixels.

        Raises:
            MerFastError, which is a cv2.error too: frames of another dtype, that differ, are too small or hold NaN; parameters
                out of range.
        """
        with raising("DualTVL1OpticalFlow.calc"):
            pair = checked_frames("I0", I0, "I1", I1)
            kinds = {frame.dtype.name for frame in pair}
            if kinds not in ({"uint8"}, {"float32"}):
                raise MerFastError(f"I0 and I1 must both be uint8 or both float32, got {pair[0].dtype} and {pair[1].dtype}")
            scale = _excess(*pair)
            if scale != 1:
                pair = pair[0] / np.float32(scale), pair[1] / np.float32(scale)
            start = starting_flow(flow, pair[0]) if self._starts_from_flow else None
            planes = ops.tvl1_flow(*pair, **{**self._given, "lam": scale * self._given["lam"]}, initial_flow=start)
            return give(planes, flow, pair[0])


def _excess(frame0: Array, frame1: Array) -> float:
    """The power of two by which float frames exceed 0..1. TV-L1 of frames s times as large, with lambda, is that of the
    frames with s times lambda, and a division by a power of two rounds nothing."""
    peak = max(float(np.abs(frame).max()) for frame in (frame0, frame1)) if frame0.dtype == np.float32 else 1.0
    if not 2.0 < peak < math.inf:
        return 1.0
    warnings.warn(
        f"DualTVL1OpticalFlow.calc: OpenCV multiplies float32 frames by 255, and these reach {peak:g}; divide 0..255 by 255",
        stacklevel=3,
    )
    return 2.0 ** math.ceil(math.log2(peak))


def DualTVL1OpticalFlow_create(*arguments: Any, **named: Any) -> DualTVL1OpticalFlow:
    """See `DualTVL1OpticalFlow`, whose arguments it takes."""
    return DualTVL1OpticalFlow(*arguments, **named)


def createOptFlow_DualTVL1() -> DualTVL1OpticalFlow:
    """A `DualTVL1OpticalFlow` with OpenCV's defaults."""
    return DualTVL1OpticalFlow()


def createOptFlow_Farneback() -> FarnebackOpticalFlow:
    """A `FarnebackOpticalFlow` with OpenCV's defaults."""
    return FarnebackOpticalFlow()


def __getattr__(name: str) -> Any:
    real = opencv()
    return fall_through(getattr(real, "optflow", None), "cv2.optflow", name)
