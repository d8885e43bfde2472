"""Argument checks that the ops share. Every message starts with the op and the argument."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from ..errors import MerFastError

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def require(holds: bool, op: str, argument: str, fault: str, *values: object) -> None:
    """Raises MerFastError "op: argument fault" unless `holds`; `values` fill the braces of `fault`.

    The text is made only on failure: a traced call may hold symbols that have no text.
    """
    if not holds:
        shown = (tuple(v) if isinstance(v, torch.Size) else v for v in values)
        raise MerFastError(f"{op}: {argument} {fault.format(*shown)}")


def require_tensor(op: str, argument: str, value: object) -> None:
    require(isinstance(value, torch.Tensor), op, argument, "must be a torch.Tensor, got {}", type(value).__name__)


def require_float(op: str, argument: str, tensor: torch.Tensor) -> None:
    require_tensor(op, argument, tensor)
    require(tensor.dtype in FLOATS, op, argument, "must be a float tensor, got {}; convert it to float32", tensor.dtype)


def require_alike(op: str, argument_a: str, a: torch.Tensor, argument_b: str, b: torch.Tensor) -> None:
    """One shape, dtype and device."""
    both = f"{argument_a} and {argument_b}"
    require(a.shape == b.shape, op, both, "must have one shape, got {} and {}", a.shape, b.shape)
    require(a.dtype == b.dtype, op, both, "must have one dtype, got {} and {}; convert one with .to()", a.dtype, b.dtype)
    require(a.device == b.device, op, both, "must be on one device, got {} and {}; move one with .to()", a.device, b.device)


def require_float_or_bytes(op: str, argument: str, tensor: torch.Tensor) -> None:
    known = tensor.dtype in FLOATS or tensor.dtype == torch.uint8
    require(known, op, argument, "must be uint8 or a float tensor, got {}; convert it to float32", tensor.dtype)


def require_count(op: str, argument: str, value: Any, least: int = 1) -> None:
    """A whole number from `least` on, below 2^31."""
    whole = isinstance(value, (int, np.integer, torch.SymInt)) and not isinstance(value, bool)
    require(whole, op, argument, "must be a whole number, got {}", value)
    require(least <= value < 2**31, op, argument, "must be at least {} (and below 2^31), got {}", least, value)


def require_number(op: str, argument: str, value: Any, least: float, most: float = math.inf) -> None:
    """A finite number strictly between `least` and `most`."""
    number = isinstance(value, (int, float, np.number, torch.SymFloat, torch.SymInt))
    require(number, op, argument, "must be a number, got {}", value)
    require(least < value < most and value < 3e38, op, argument, "must lie between {} and {}, got {}", least, most, value)
