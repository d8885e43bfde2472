"""The CUDA kernels on CuPy's arrays without a CUDA half of this package: CuPy compiles the shipped .cuh files with NVRTC.

A kernel is compiled at its first call on a kind of GPU (0.1 to 0.2 s each, those of flow up to 2 s); CuPy keeps the result on
disk for the next process.
`<op>.py` launches what `csrc/cuda/<op>.cu` launches, on CuPy's current stream. Needs CuPy and a driver, neither nvcc nor a
torch with CUDA. Not yet run on a GPU: tests compile every kernel with NVRTC, and run the launchers on a stand-in for CuPy.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch

from .. import _library
from ..errors import BackendError, MerFastError
from . import _cluster


class Launch(NamedTuple):
    """One launch: a kernel's name as C++ writes it in namespace mer_fast, its grid and its arguments."""

    kernel: str
    blocks: int
    threads: int
    arguments: tuple[Any, ...]  # CuPy's arrays by pointer; what goes by value as NumPy arrays of one element
    shared: int = 0  # bytes of dynamic shared memory
    cluster: int = 1  # blocks of a cluster; more than one needs sm_90


def call(op: str, *arguments: Any, **named: Any) -> Any:
    """The op of that name on CuPy's arrays.

    Raises:
        BackendError: the op has no launcher here.
        MerFastError: what the op itself raises.
    """
    if importlib.util.find_spec(f"{__name__}.{op}") is None:
        raise BackendError(
            f"{op}: no kernel for this CuPy array (cuda: not written); "
            "pass cupy.asnumpy(array), or torch.from_dlpack(array) with a torch that has CUDA"
        )
    return getattr(importlib.import_module(f"{__name__}.{op}"), op)(*arguments, **named)


def run(op: str, launches: Sequence[Launch], names: tuple[str, ...] = ()) -> None:
    """Launches kernels of `kernels/cuda/<op>.cuh` one after another on CuPy's current device and stream.

    `names`: what is compiled together; by default the kernels that are launched.
    """
    names = names or tuple(sorted({launch.kernel for launch in launches}))
    import cupy

    for launch in launches:
        if launch.blocks >= 2**31:
            raise MerFastError(f"{op}: too many elements for one launch; split the batch")
        kernel = compiled(op, names, launch)
        if launch.cluster == 1:
            kernel((launch.blocks,), (launch.threads,), launch.arguments, shared_mem=launch.shared)
        else:
            _cluster.launch(kernel, launch, stream=cupy.cuda.get_current_stream().ptr)


def compiled(op: str, names: tuple[str, ...], launch: Launch) -> Any:
    """The kernel of a launch, allowed what it asks for beyond what every GPU grants."""
    kernel = _kernel(op, names, launch.kernel)
    if launch.shared and launch.shared > kernel.max_dynamic_shared_size_bytes:
        kernel.max_dynamic_shared_size_bytes = launch.shared
    if launch.cluster > _cluster.PORTABLE:
        _cluster.allow_any_size(kernel)
    return kernel


@cache
def _kernel(op: str, names: tuple[str, ...], name: str) -> Any:
    return _module(op, names).get_function(f"mer_fast::{name}")


@cache
def _module(op: str, names: tuple[str, ...]) -> Any:
    import cupy

    folder = _library.kernel_folder() / "cuda"
    # CuPy's cache looks at the code and the options, not at the files that the code includes.
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(folder.glob("*.cuh")))).hexdigest()[:16]
    return cupy.RawModule(
        code=f'#include "{op}.cuh"',
        options=("-std=c++17", f"-I{folder}", f"-DMER_FAST_SOURCES=0x{digest}"),
        name_expressions=tuple(f"mer_fast::{name}" for name in names),
    )


# --- what launchers share ---------------------------------------------------------------------------------------------
_ELEMENTS = {
    torch.uint8: "unsigned char", torch.float16: "mer_fast::Half", torch.bfloat16: "mer_fast::Bfloat16",
    torch.float32: "float", torch.float64: "double",
}  # fmt: skip


def element(dtype: torch.dtype) -> str:
    """The type of an array's elements in `element.cuh`."""
    return _ELEMENTS[dtype]


def stand_in(op: str, name: str, array: Any) -> torch.Tensor:
    """A tensor of the array's shape and dtype without memory, for the checks of the op."""
    dtype = getattr(torch, array.dtype.name, None)
    if not isinstance(dtype, torch.dtype):
        raise MerFastError(f"{op}: {name} must be uint8 or float, got {array.dtype}; convert it to float32")
    return torch.empty(array.shape, dtype=dtype, device="meta")


def divide_up(a: int, b: int) -> int:
    return -(-a // b)


def by_value(dtype: Any, *values: Any) -> np.ndarray[Any, Any]:
    """A kernel's argument that goes by value: a number, or a struct (an aligned structured dtype) of its fields' values."""
    return np.array([values if len(values) > 1 else values[0]], dtype)
