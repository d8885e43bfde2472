"""`ops.tim` on CuPy's arrays, as csrc/cuda/tim.cu launches it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from ..ops.tim import check
from . import Launch, by_value, divide_up, element, run, stand_in

THREADS = 128
SHAPE = np.dtype([(name, np.int64) for name in ("outer", "in", "out", "inner")], align=True)


def tim(clip: Any, num_frames: int, *, dim: int = -4) -> Any:
    """See `mer_fast.ops.tim`."""
    import cupy

    like = stand_in("tim", "clip", clip)
    check(like, num_frames, dim)
    dim %= clip.ndim
    with clip.device:
        clip = cupy.ascontiguousarray(clip)
        out = cupy.empty((*clip.shape[:dim], int(num_frames), *clip.shape[dim + 1 :]), clip.dtype)
        if out.size:
            run("tim", _launches(clip, out, like.dtype, dim))
        return out


def _launches(clip: Any, out: Any, dtype: torch.dtype, dim: int) -> list[Launch]:
    import cupy

    outer, inner = math.prod(clip.shape[:dim]), math.prod(clip.shape[dim + 1 :])
    frames, wanted = clip.shape[dim], out.shape[dim]
    real = np.float64 if dtype == torch.float64 else np.float32
    pixels = 2 if dtype == torch.float64 else 4  # of a thread: tim_pixels
    tile = _tile(wanted)
    tiles, row = divide_up(wanted, tile), divide_up(tile, 4) * 4
    weights = cupy.empty(tiles * frames * row, real)
    shape = by_value(SHAPE, outer, frames, wanted, inner)
    packed = inner % pixels == 0 and all(array.data.ptr % (pixels * clip.itemsize) == 0 for array in (clip, out))
    return [
        Launch(
            f"tim_weights<{'double' if real is np.float64 else 'float'}>", divide_up(weights.size, THREADS), THREADS,
            (weights, shape, by_value(np.int32, tile), by_value(np.bool_, False)),
        ),
        Launch(
            f"tim_frames<{element(dtype)}, {tile}, {pixels if packed else 1}>",
            divide_up(outer * inner, THREADS * pixels) * tiles, THREADS, (clip, weights, out, shape),
        ),
    ]  # fmt: skip


def _tile(wanted: int) -> int:
    """Output frames of a thread: tim_tile."""
    frames = divide_up(wanted, divide_up(wanted, 16))
    return 4 if frames <= 4 else 10 if frames <= 10 else 16
