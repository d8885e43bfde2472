"""The ways to measure flow, by name, and one of them made ready for batches of frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mer_fast import ops
from mer_fast._info import info
from mer_fast.errors import MerFastError

Frames = npt.NDArray[np.uint8]
Flow = npt.NDArray[np.float32]

_FLOW_BYTES = 64 << 20  # of one batch: some of them are in memory at once, on their way from kernel to disk
_PAIRS = {"cpu": 64, "cuda": 512}  # enough to fill the device; more would only be lost when the work is stopped


class DeviceFull(MerFastError):
    """A batch does not fit the device: not the fault of the clips in it."""


@dataclass(frozen=True)
class Method:
    """An op from two batches of frames (N, H, W) uint8 to flow (N, 2, H, W), and its parameters under the names of presets."""

    op: Callable[..., torch.Tensor]
    presets: Mapping[str, Mapping[str, Any]]


_FARNEBACK = {
    # The call that OpenCV's samples make, and the class's own defaults.
    "opencv": {"pyr_scale": 0.5, "levels": 3, "winsize": 15, "iterations": 3, "poly_n": 5, "poly_sigma": 1.2},
    "opencv-class": {"pyr_scale": 0.5, "levels": 5, "winsize": 13, "iterations": 10, "poly_n": 5, "poly_sigma": 1.1},
}

METHODS: dict[str, Method] = {
    "tvl1": Method(ops.tvl1_flow, ops.TVL1_PRESETS),
    "farneback": Method(ops.farneback_flow, _FARNEBACK),
}


def parameters(method: str, preset: str) -> Mapping[str, Any]:
    """The parameters of a method's preset.

    Raises:
        MerFastError: there is no such method, or it has no such preset.
    """
    if method not in METHODS:
        raise MerFastError(f"method {method!r} is unknown: give one of {', '.join(METHODS)}")
    presets = METHODS[method].presets
    if preset not in presets:
        raise MerFastError(f"preset {preset!r} is unknown to {method}: give one of {', '.join(presets)}")
    return presets[preset]


def make_meter(method: str, preset: str, device: str) -> Callable[[Frames, Frames], Flow]:
    """A function from frames (N, H, W) and (N, H, W), in order, to flow (N, 2, H, W), run on a device.

    Raises:
        MerFastError: an unknown method, preset or device, or one that the method cannot run on here; what the op raises when
            it is called.
    """
    given = parameters(method, preset)
    if device not in _PAIRS:
        raise MerFastError(f"device {device!r} is unknown: give one of {', '.join(_PAIRS)}")
    if device == "cuda" and (missing := info()["gpu"]) is not None:
        raise MerFastError(f"device cuda: {missing}")
    op = METHODS[method].op

    def measure(first: Frames, second: Frames) -> Flow:
        pair = [torch.from_numpy(frames).to(device) for frames in (first, second)]
        try:
            return op(*pair, **given).cpu().numpy()
        except torch.OutOfMemoryError as error:
            raise DeviceFull(f"a batch of {len(first)} pairs does not fit the GPU's memory: give a smaller --batch") from error

    measure(*(np.zeros((1, 64, 64), np.uint8) for _ in range(2)))  # an op that cannot run here says so before any file is opened
    return measure


def default_batch(height: int, width: int, device: str) -> int:
    """How many pairs of that size go into one call of the op."""
    most = max(_PAIRS[device], 4 * torch.get_num_threads()) if device == "cpu" else _PAIRS[device]
    return max(1, min(most, _FLOW_BYTES // (8 * height * width)))
