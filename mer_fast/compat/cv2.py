"""OpenCV with its Farneback and DualTVL1 flow on mer_fast's kernels: `from mer_fast.compat import cv2`.

These names are served here and need no OpenCV: `calcOpticalFlowFarneback`, `FarnebackOpticalFlow(_create)`,
`optflow.DualTVL1OpticalFlow(_create)`, `optflow.createOptFlow_DualTVL1`, `optflow.createOptFlow_Farneback`, the names OpenCV 3
had for them, and `error`. Every other name is the installed OpenCV's. The flows take NumPy arrays, a batch (N, H, W) too.
What is raised here is a MerFastError, and a cv2.error as well where OpenCV is installed.
"""

from __future__ import annotations

from typing import Any

from ..errors import MerFastError
from . import optflow
from ._opencv import fall_through, opencv
from .farneback import (
    OPTFLOW_FARNEBACK_GAUSSIAN,
    OPTFLOW_USE_INITIAL_FLOW,
    FarnebackOpticalFlow,
    FarnebackOpticalFlow_create,
    calcOpticalFlowFarneback,
)
from .optflow import DualTVL1OpticalFlow, DualTVL1OpticalFlow_create, createOptFlow_DualTVL1

optflow_DualTVL1OpticalFlow = DualTVL1OpticalFlow

__all__ = [
    "OPTFLOW_FARNEBACK_GAUSSIAN", "OPTFLOW_USE_INITIAL_FLOW", "DualTVL1OpticalFlow", "DualTVL1OpticalFlow_create",
    "FarnebackOpticalFlow", "FarnebackOpticalFlow_create", "calcOpticalFlowFarneback", "createOptFlow_DualTVL1", "optflow",
    "optflow_DualTVL1OpticalFlow",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    real = opencv()
    if name == "error" and real is None:
        return MerFastError
    return fall_through(real, "cv2", name)


def __dir__() -> list[str]:
    return sorted({*__all__, "error", *dir(opencv())})
