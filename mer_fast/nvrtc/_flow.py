"""What the flow ops share on CuPy's arrays: frames in any of their shapes and dtypes, and the result in theirs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..ops._flow import check_frames
from . import stand_in


class Frames(NamedTuple):
    """Contiguous arrays, as the kernels take them."""

    frame0: Any  # (pairs, height, width), uint8 or float32
    frame1: Any
    initial_flow: Any  # (pairs, 2, height, width) float32, or None
    pairs: int
    height: int
    width: int


def check(op: str, frame0: Any, frame1: Any, initial_flow: Any, min_side: int) -> None:
    """Raises what the op itself raises."""
    likes = [None if x is None else stand_in(op, name, x) for name, x in
             (("frame0", frame0), ("frame1", frame1), ("initial_flow", initial_flow))]  # fmt: skip
    assert likes[0] is not None and likes[1] is not None
    check_frames(op, likes[0], likes[1], likes[2], min_side)


def prepare(frame0: Any, frame1: Any, initial_flow: Any) -> Frames:
    """Checked frames, floats as float32."""
    import cupy

    def contiguous(x: Any, kept: tuple[str, ...]) -> Any:
        return cupy.ascontiguousarray(x, dtype=x.dtype if x.dtype.name in kept else np.float32)

    height, width = frame0.shape[-2:]
    pairs = 1 if frame0.ndim == 2 else frame0.shape[0]
    first, second = (contiguous(x, ("uint8",)).reshape(pairs, height, width) for x in (frame0, frame1))
    start = None if initial_flow is None else contiguous(initial_flow, ()).reshape(pairs, 2, height, width)
    return Frames(first, second, start, pairs, height, width)


def result(flow: Any, frame0: Any) -> Any:
    """`flow` (pairs, 2, height, width) in the shape and dtype that the frames ask for."""
    flow = flow[0] if frame0.ndim == 2 else flow
    return flow if frame0.dtype == np.uint8 else flow.astype(frame0.dtype, copy=False)
