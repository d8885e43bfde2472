"""Digests of settings and functions, to tell whether what is stored belongs to what is asked."""

from __future__ import annotations

import dataclasses
import dis
import functools
import hashlib
import json
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, Path)


def digest(value: Any) -> str:
    """SHA-256 of what JSON can hold."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def describe(thing: Any) -> str:
    """A digest of a value or a function that is the same in every run of a program, and changes with what it holds or does.

    A function is its code, its defaults, and the values it closes over that cannot change; a dataclass is its fields. What a
    function reads elsewhere is not seen, nor what other objects hold.
    """
    return digest(_described(thing))


def of_tensor(tensor: torch.Tensor) -> list[Any]:
    """Type, shape and digest of a tensor's values."""
    # NumPy has no bfloat16; its bytes have.
    raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return [str(tensor.dtype), list(tensor.shape), hashlib.sha256(raw).hexdigest()]


def _described(thing: Any) -> Any:
    if isinstance(thing, _PLAIN):
        return repr(thing)
    if isinstance(thing, (torch.Tensor, np.ndarray)):
        return of_tensor(torch.as_tensor(thing))
    if isinstance(thing, (list, tuple)):
        return [_described(one) for one in thing]
    if isinstance(thing, (set, frozenset)):
        return sorted(json.dumps(_described(one)) for one in thing)
    if isinstance(thing, dict):
        return [[_described(key), _described(value)] for key, value in thing.items()]
    if isinstance(thing, types.CodeType):
        return [thing.co_name, thing.co_code.hex(), thing.co_names, _described(thing.co_consts)]
    if isinstance(thing, types.FunctionType):
        return _of_function(thing)
    return _of_object(thing)


def _of_object(thing: Any) -> Any:
    if isinstance(thing, functools.partial):
        return ["partial", _described(thing.func), _described(thing.args), _described(thing.keywords)]
    if isinstance(thing, (type, types.BuiltinFunctionType, types.ModuleType)):
        return [getattr(thing, "__module__", ""), getattr(thing, "__qualname__", thing.__name__)]
    name = [type(thing).__module__, type(thing).__qualname__]
    if dataclasses.is_dataclass(thing):
        return [*name, *(_described(getattr(thing, one.name)) for one in dataclasses.fields(thing) if one.compare)]
    if isinstance(thing, types.MethodType):
        return [*name, _described(thing.__func__), _described(thing.__self__)]
    call = getattr(type(thing), "__call__", None)  # noqa: B004 (its code is wanted, not whether there is one)
    return [*name, _of_function(call)] if isinstance(call, types.FunctionType) else name


def _of_function(function: types.FunctionType) -> Any:
    code = function.__code__
    # A counter or a log that the function itself keeps is no setting.
    written = {step.argval for step in dis.get_instructions(code) if step.opname == "STORE_DEREF"}
    held = []
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
        changes = name in written or isinstance(value, (list, dict, set)) or value is function
        held.append([name, type(value).__name__ if changes else _described(value)])
    defaults = [_described(function.__defaults__), _described(function.__kwdefaults__)]
    return [function.__module__, function.__qualname__, _described(code), defaults, held]
