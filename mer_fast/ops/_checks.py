"""Argument checks that the ops share. Every message starts with the op and the argument."""

from __future__ import annotations

import torch

from ..errors import MerFastError


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
    require(tensor.is_floating_point(), op, argument, "must be a float tensor, got {}; convert it with .float()", tensor.dtype)


def require_alike(op: str, argument_a: str, a: torch.Tensor, argument_b: str, b: torch.Tensor) -> None:
    """One shape, dtype and device."""
    both = f"{argument_a} and {argument_b}"
    require(a.shape == b.shape, op, both, "must have one shape, got {} and {}", a.shape, b.shape)
    require(a.dtype == b.dtype, op, both, "must have one dtype, got {} and {}; convert one with .to()", a.dtype, b.dtype)
    require(a.device == b.device, op, both, "must be on one device, got {} and {}; move one with .to()", a.device, b.device)
