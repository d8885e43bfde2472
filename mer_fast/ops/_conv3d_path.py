"""Which way a 3-D convolution takes on a CPU, and why: this package's kernels or the library's (oneDNN's)."""

from __future__ import annotations

import logging
from typing import NamedTuple

import torch

from ._conv import Geometry

log = logging.getLogger("mer_fast")


class Path(NamedTuple):
    kernel: bool  # ours; otherwise the library's
    why: str


# Bounds found by measuring (benchmarks/bench_conv3d.py): beyond them the library is faster.
MOST_WINOGRAD_TAPS = 224  # channels times kt whose transformed weights fit the second-level cache
MOST_POINTWISE_CHANNELS = {True: 64, False: 128}  # for kt = 1, and longer kernels


def conv3d_path(input: torch.Tensor, weight: torch.Tensor, shape: Geometry) -> Path:
    """The path of `ops.conv3d` for CPU tensors; decided by the weight's shape, so that every batch takes the same one."""
    outputs, channels, kt, kh, kw = weight.shape
    plain = shape.stride[1:] == [1, 1]
    if input.dtype == torch.float64:
        return Path(True, "float64, which the library computes slowly")
    if input.dtype != torch.float32:
        return Path(False, "16 bits: the library has kernels that compute in them")
    if shape.groups > 1:
        return Path(False, "several groups: the library has kernels for them")
    if (kh, kw) == (1, 1) and plain and shape.padding[1:] == [0, 0]:
        few = channels <= MOST_POINTWISE_CHANNELS[kt == 1]
        return Path(few, f"kt x 1 x 1 with {channels} channels: a matrix product on frames in place {'wins' if few else 'loses'}")
    if (kh, kw) in ((3, 3), (5, 5)) and plain and shape.dilation[1:] == [1, 1] and channels * kt >= 4 and outputs >= 8:
        few = channels * kt <= MOST_WINOGRAD_TAPS
        return Path(few, f"{kh} x {kw} in space: Winograd {'wins' if few else 'loses'} with {channels * kt} channels times kt")
    if channels == 1 and outputs >= 16:
        return Path(True, "one input channel, for which the library has no kernel of its own")
    if list(weight.shape[2:]) == shape.stride and outputs >= 16:
        return Path(True, "stride equal to kernel: every input is read once")
    if channels <= 3 and outputs >= 32:
        return Path(True, "few input channels, which the library pads")
    return Path(False, "many input channels: the library is at the arithmetic's limit")


def chosen(input: torch.Tensor, weight: torch.Tensor, shape: Geometry) -> bool:
    """Whether our kernel runs; told to the debug log of "mer_fast"."""
    path = conv3d_path(input, weight, shape)
    if not torch.compiler.is_compiling():
        log.debug("conv3d %s: %s, %s", tuple(weight.shape), "mer_fast" if path.kernel else "library", path.why)
    return path.kernel
