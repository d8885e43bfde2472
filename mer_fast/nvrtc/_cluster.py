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
NON_PORTABLE = 14  # CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED
PORTABLE = 8  # blocks that every GPU with clusters grants


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
    config = _config(wanted, stream)
    code = driver().cuLaunchKernelEx(ctypes.byref(config), _function(kernel), pointers, None)
    if code != 0:
        raise MerFastError(f"{kernel.name}: the CUDA driver refuses the launch (error {code})")


def holds(kernel: Any, wanted: Launch) -> bool:
    """Whether the device can hold one such cluster of the kernel."""
    clusters, config = ctypes.c_int(), _config(wanted, 0)
    code = driver().cuOccupancyMaxActiveClusters(ctypes.byref(clusters), _function(kernel), ctypes.byref(config))
    return bool(code == 0 and clusters.value > 0)


def allow_any_size(kernel: Any) -> None:
    """Allows clusters beyond `PORTABLE`; a GPU that has none refuses the launch."""
    driver().cuFuncSetAttribute(_function(kernel), NON_PORTABLE, 1)


def _function(kernel: Any) -> ctypes.c_void_p:
    return ctypes.c_void_p(kernel.kernel.ptr)


def _config(wanted: Launch, stream: int) -> Config:
    attribute = Attribute(id=CLUSTER_DIMENSION, x=wanted.cluster, y=1, z=1)
    return Config(
        grid=(wanted.blocks, 1, 1), block=(wanted.threads, 1, 1), shared=wanted.shared, stream=stream,
        attributes=ctypes.pointer(attribute), count=1,
    )  # fmt: skip
