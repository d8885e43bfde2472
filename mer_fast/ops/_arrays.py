"""The doors of the ops: arrays of NumPy, or of any library that has DLPack, go in without a copy, and the same kind comes out.

CuPy's arrays run on the caller's current CuPy stream: through torch where torch and this build serve CUDA, else through
`mer_fast.nvrtc`, which needs neither.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any, ParamSpec, Protocol, overload

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

from ..backends import current_backend, why_not
from ..errors import MerFastError
from ._checks import require

P = ParamSpec("P")


class Door(Protocol[P]):
    """An op: tensors in, a tensor out; or arrays of one kind in, that kind out."""

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> torch.Tensor: ...
    @overload
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


def takes_arrays(*names: str) -> Callable[[Callable[P, torch.Tensor]], Door[P]]:
    """Lets an op take arrays as its arguments `names`, of which the first is its first parameter.

    A call with tensors costs one look at that argument, and traces as the op itself.
    """

    def decorate(op: Callable[P, torch.Tensor]) -> Door[P]:
        signature = inspect.signature(op)

        @functools.wraps(op)
        def door(*args: Any, **kwargs: Any) -> Any:
            if isinstance(args[0] if args else kwargs.get(names[0]), torch.Tensor):
                return op(*args, **kwargs)
            try:
                call = signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{op.__name__}(): {error}") from None
            return _through(op, call, {n: call.arguments[n] for n in names if call.arguments.get(n) is not None})

        return door

    return decorate


def _through(op: Callable[..., torch.Tensor], call: inspect.BoundArguments, arrays: dict[str, Any]) -> Any:
    name = op.__name__
    kind = _one_kind(name, arrays)
    if kind in (None, "torch"):  # nothing to convert: the op says what is wrong
        return op(*call.args, **call.kwargs)
    if kind == "numpy":
        call.arguments.update({n: _of_numpy(name, n, array) for n, array in arrays.items()})
        return op(*call.args, **call.kwargs).numpy()
    if kind == "cupy" and not _torch_serves(name):
        from .. import nvrtc

        devices = {array.device.id for array in arrays.values()}
        require(len(devices) == 1, name, " and ".join(arrays), "must be on one device, got {}", sorted(devices))
        return nvrtc.call(name, *call.args, **call.kwargs)
    first = next(iter(arrays.values()))
    give_back = _from_dlpack(name, first)
    with _stream_of(first) if kind == "cupy" else nullcontext():
        call.arguments.update({n: _of_dlpack(name, n, array) for n, array in arrays.items()})
        result = op(*call.args, **call.kwargs)
        with torch.cuda.device(result.device) if result.is_cuda else nullcontext():  # torch exports from no other
            return give_back(result)


def _one_kind(op: str, arrays: dict[str, Any]) -> str | None:
    """The library that all arrays are of, None where there is none."""
    kinds = {name: _kind(op, name, array) for name, array in arrays.items()}
    if len(set(kinds.values())) > 1:
        told = ", ".join(f"{name} of {kind}" for name, kind in kinds.items())
        raise MerFastError(f"{op}: arrays of one kind are wanted, got {told}; convert them to one")
    return next(iter(kinds.values()), None)


def _kind(op: str, name: str, array: Any) -> str:
    if isinstance(array, torch.Tensor):
        return "torch"
    if isinstance(array, np.ndarray):
        return "numpy"
    wanted = "must be a torch.Tensor, a NumPy array or another array that has __dlpack__, got {}"
    require(hasattr(array, "__dlpack__") and hasattr(array, "__dlpack_device__"), op, name, wanted, type(array).__name__)
    return type(array).__module__.partition(".")[0]


# --- NumPy ------------------------------------------------------------------------------------------------------------
_NO_TENSOR = "must be uint8 or float, got {}; convert it to float32"


def _of_numpy(op: str, name: str, array: np.ndarray[Any, Any]) -> torch.Tensor:
    """A tensor on the array's memory, or on a copy where torch has no tensor of that layout."""
    require(not hasattr(array, "filled"), op, name, "is a masked array; fill it with .filled()")
    require(array.dtype.kind in "biufc", op, name, _NO_TENSOR, array.dtype)
    strided = all(s >= 0 and s % array.itemsize == 0 for s in array.strides)
    if not (strided and array.dtype.isnative and array.flags.aligned):
        array = np.array(array, array.dtype.newbyteorder("="), order="C")
    elif not array.flags.writeable:  # no op writes to its input, but torch warns of a read-only one
        interface = {**array.__array_interface__, "data": (array.__array_interface__["data"][0], False)}
        array = np.asarray(SimpleNamespace(__array_interface__=interface, owner=array))
    try:
        return torch.from_numpy(array)
    except TypeError:
        raise MerFastError(f"{op}: {name} {_NO_TENSOR.format(array.dtype)}") from None


# --- DLPack -----------------------------------------------------------------------------------------------------------
def _of_dlpack(op: str, name: str, array: Any) -> torch.Tensor:
    strides = getattr(array, "strides", None)
    if isinstance(strides, tuple) and any(s < 0 for s in strides):  # torch would end the process
        cupy = sys.modules.get("cupy")
        ours = cupy is not None and isinstance(array, cupy.ndarray)
        require(ours, op, name, "has a negative stride, which torch does not take; make it contiguous")
        array = cupy.ascontiguousarray(array)  # type: ignore[union-attr]
    try:
        return from_dlpack(array)
    except Exception as error:  # whatever the other library raises
        raise MerFastError(f"{op}: {name} does not go through DLPack into torch ({error})") from error


def _from_dlpack(op: str, array: Any) -> Callable[[torch.Tensor], Any]:
    """`from_dlpack` of the array's own library."""
    if hasattr(array, "__array_namespace__"):
        return array.__array_namespace__().from_dlpack
    parts = type(array).__module__.split(".")
    modules = (sys.modules.get(".".join(parts[:end])) for end in range(1, len(parts) + 1))
    found = next((getattr(m, "from_dlpack", None) for m in modules if hasattr(m, "from_dlpack")), None)
    if found is None:
        raise MerFastError(f"{op}: {parts[0]} has no from_dlpack to take the result; pass torch.from_dlpack(array)")
    return found


# --- CuPy -------------------------------------------------------------------------------------------------------------
def _torch_serves(op: str) -> bool:
    """Whether CuPy's arrays go through torch: its own kernels, or another implementation that was asked for."""
    if current_backend() not in ("auto", "cuda"):
        return True
    return torch.cuda.is_available() and why_not(op, "cuda", "cuda") is None


def _stream_of(array: Any) -> AbstractContextManager[None]:
    """Makes the array's device and CuPy's current stream on it those of torch."""
    cupy = sys.modules["cupy"]
    with array.device:
        pointer = cupy.cuda.get_current_stream().ptr
    device = array.device.id
    legacy = pointer in (0, 1)  # both names of the default stream
    stream = torch.cuda.default_stream(device) if legacy else torch.cuda.ExternalStream(pointer, device)
    return torch.cuda.stream(stream)
