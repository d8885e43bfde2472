"""What the dense flows of `mer_fast.compat.cv2` share: frames in, flow out, parameters as OpenCV's getters and setters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from ..errors import MerFastError

Array = npt.NDArray[Any]


def checked_frames(first: str, frame0: Any, second: str, frame1: Any) -> tuple[Array, Array]:
    """Two gray frames (H, W), or as many (N, H, W), of one size; a channel of one at the end is dropped, as by OpenCV."""
    frames = _gray(first, frame0), _gray(second, frame1)
    shapes = frames[0].shape, frames[1].shape
    if shapes[0] != shapes[1]:
        raise MerFastError(f"{first} and {second} must have one size, got {shapes[0]} and {shapes[1]}")
    return frames


def _gray(name: str, frame: Any) -> Array:
    if not isinstance(frame, np.ndarray):
        raise MerFastError(f"{name} must be a NumPy array, got {type(frame).__name__}; mer_fast.ops takes other arrays")
    if frame.ndim > 2 and frame.shape[-1] == 1:
        frame = frame[..., 0]
    if frame.ndim == 3 and frame.shape[-1] in (3, 4):
        raise MerFastError(f"{name} is a colour image of shape {frame.shape}; convert it with cv2.cvtColor")
    if frame.ndim not in (2, 3) or frame.size == 0:
        raise MerFastError(f"{name} must be a gray frame (H, W), or several (N, H, W), got shape {frame.shape}")
    return frame


def starting_flow(flow: Any, frame: Array) -> Array:
    """The given flow (H, W, 2) to start from, as (2, H, W)."""
    if not _fits(flow, frame):
        told = f"{flow.dtype} of shape {flow.shape}" if isinstance(flow, np.ndarray) else type(flow).__name__
        raise MerFastError(f"flow to start from must be float32 of shape {(*frame.shape, 2)}, got {told}")
    return np.moveaxis(flow, -1, -3)


def give(planes: Array, flow: Any, frame: Array) -> Array:
    """(2, H, W) as (H, W, 2): into the given flow where that is float32 of this shape, else into a new one, as OpenCV does."""
    if flow is not None and not isinstance(flow, np.ndarray):
        raise MerFastError(f"flow must be a NumPy array or None, got {type(flow).__name__}")
    out: Array = flow if _fits(flow, frame) else np.empty((*frame.shape, 2), np.float32)
    if not out.flags.writeable:
        raise MerFastError("flow is read-only; pass None, or a copy")
    for k in (0, 1):  # five times as fast as one copy of both
        out[..., k] = planes[..., k, :, :]
    return out


def _fits(flow: Any, frame: Array) -> TypeGuard[Array]:
    return isinstance(flow, np.ndarray) and flow.dtype == np.float32 and flow.shape == (*frame.shape, 2)


class DenseOpticalFlow:
    """OpenCV's interface of a dense flow. `_given` holds the op's parameters."""

    _given: dict[str, Any]

    def calc(self, I0: Any, I1: Any, flow: Any = None) -> Array:
        raise NotImplementedError

    def collectGarbage(self) -> None:
        """Nothing is kept between calls."""

    def clear(self) -> None:
        """Nothing is kept between calls."""

    def empty(self) -> bool:
        return False

    def getDefaultName(self) -> str:
        return f"DenseOpticalFlow.{type(self).__name__}"


def parameter(name: str, kind: type) -> tuple[Callable[[Any], Any], Callable[[Any, Any], None]]:
    """OpenCV's getter and setter of the op's parameter `name`."""

    def get(self: DenseOpticalFlow) -> Any:
        return self._given[name]

    def set_to(self: DenseOpticalFlow, val: Any) -> None:
        self._given[name] = kind(val)

    return get, set_to
