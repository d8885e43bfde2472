"""`ops.optical_strain` on CuPy's arrays, as csrc/cuda/optical_strain.cu launches it; no gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..ops._checks import require
from ..ops.optical_strain import check
from . import Launch, by_value, divide_up, element, run, stand_in

THREADS, ROWS = 128, 8
SHAPE = np.dtype([("images", np.int64), ("height", np.int32), ("width", np.int32)], align=True)


def optical_strain(flow: Any, *, derivative: str = "central", shear: float = 0.5) -> Any:
    """See `mer_fast.ops.optical_strain`."""
    import cupy

    like = stand_in("optical_strain", "flow", flow)
    check(like, derivative, shear)
    images, _, height, width = flow.shape
    side = max(height, width) < 2**31 - ROWS
    require(side, "optical_strain", "flow", "must have no side above 2^31 - 9 pixels, got {}", flow.shape)
    real = np.float64 if like.dtype == torch.float64 else np.float32
    with flow.device:
        flow = cupy.ascontiguousarray(flow)
        strain = cupy.empty((images, 1, height, width), flow.dtype)
        if strain.size:
            blocks = divide_up(images * divide_up(height, ROWS) * width, THREADS)
            shape = by_value(SHAPE, images, height, width)
            name = f"optical_strain<{element(like.dtype)}, mer_fast::Derivative::{derivative}>"
            run("optical_strain", [Launch(name, blocks, THREADS, (flow, strain, shape, by_value(real, shear)))])
        return strain
