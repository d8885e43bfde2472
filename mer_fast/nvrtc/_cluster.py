"""Launches in thread block clusters (sm_90 and later), which CuPy itself does not offer: cuLaunchKernelEx of the driver."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import MerFastError

if TYPE_CHECKING:
    from . import Launch

CLUSTER_DIMENSION = 4  # CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION


class Attribute(ctypes.Structure):
    """CUlaunchAttribute: its value is a union of 64 bytes, of which a cluster's x, y and z are the first 12."""

    _fields_ = [
        ("id", ctypes.c_uint), ("pad", ctypes.c_uint), ("x", ctypes.c_uint), ("y", ctypes.c_uint), ("z", ctypes.c_uint),
        ("rest", ctypes.c_char * 52),
    ]  # fmt: skip


class Config(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = [
        ("grid", ctypes.c_uint * 3), ("block", ctypes.c_uint * 3), ("shared", ctypes.c_uint), ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(Attribute)), ("count", ctypes.c_uint),
    ]  # fmt: skip


@cache
def driver() -> Any:
    """libcuda."""
    return ctypes.CDLL("libcuda.so.1")


def launch(kernel: Any, wanted: Launch, *, stream: int) -> None:
    """Launches a RawKernel in clusters of neighbouring blocks."""
    words = [x if isinstance(x, np.ndarray) else np.array([x.data.ptr], np.uint64) for x in wanted.arguments]
    pointers = (ctypes.c_void_p * len(words))(*(word.ctypes.data for word in words))
    attribute = Attribute(id=CLUSTER_DIMENSION, x=wanted.cluster, y=1, z=1)
    config = Config(
        grid=(wanted.blocks, 1, 1), block=(wanted.threads, 1, 1), shared=wanted.shared, stream=stream,
        attributes=ctypes.pointer(attribute), count=1,
    )  # fmt: skip
    code = driver().cuLaunchKernelEx(ctypes.byref(config), ctypes.c_void_p(kernel.kernel.ptr), pointers, None)
    if code != 0:
        raise MerFastError(f"{kernel.name}: the CUDA driver refuses the launch (error {code})")
