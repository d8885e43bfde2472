"""Which implementation of an op runs, and why another does not apply."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from . import _library, launchers
from .errors import BackendError
from .ops._registry import OPS

BACKENDS = ("auto", "reference", "cpu", "cuda", "triton")
_DEVICE = {"cpu": "cpu", "cuda": "cuda", "triton": "cuda"}
launchers.register()
# (op, device) pairs that the loaded library has a kernel for; looked up once, so that calls can be traced.
_BUILT = {(op, device) for op in OPS for device in ("cpu", "cuda") if _library.has_kernel(op, device.upper())}


def _checked(name: str) -> str:
    if name not in BACKENDS:
        raise BackendError(f"backend (or MER_FAST_BACKEND): {name!r} is not one of {', '.join(BACKENDS)}")
    return name


# Checked when an op runs, so that a mistake in it never keeps the package from being imported.
_current: str = os.environ.get("MER_FAST_BACKEND") or "auto"


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Runs the ops inside with one implementation, in every thread of the process.

    Args:
        name: "auto" (the kernel of the tensor's device), "reference" (plain PyTorch, any device), "cpu", "cuda" or
            "triton" (that kernel or an error). The environment variable MER_FAST_BACKEND sets what holds outside.

    Raises:
        BackendError: unknown name here; at a call, an implementation that does not exist or does not apply.
    """
    global _current
    previous, _current = _current, _checked(name)
    try:
        yield
    finally:
        _current = previous


def current_backend() -> str:
    """The backend in force."""
    return _current


def why_not(op: str, implementation: str, device: str) -> str | None:
    """Why `implementation` of `op` cannot serve a tensor on `device`, or None if it can."""
    if implementation == "reference":
        return None
    if implementation not in OPS[op].kernels:
        return "not written"
    if _DEVICE[implementation] != device:
        return f"for {_DEVICE[implementation].upper()} tensors"
    if _library.MISSING is not None:
        return _library.MISSING
    if implementation == "triton":
        return launchers.MISSING
    if (op, device) not in _BUILT:
        return "this build has no CUDA half; rebuild with a CUDA toolkit (nvcc) on the PATH"
    return None


def runs_reference(op: str, tensor: torch.Tensor) -> bool:
    """Chooses the implementation of `op` for `tensor`: True for the reference, False for a kernel.

    Raises:
        BackendError: no kernel applies; says what there is and why each does not.
    """
    if _checked(_current) == "reference":
        return True
    device = tensor.device.type
    wanted = OPS[op].kernels if _current == "auto" else (_current,)
    reasons = {name: why_not(op, name, device) for name in wanted}
    if any(reason is None for reason in reasons.values()):
        return False
    told = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    raise BackendError(
        f"{op}: no kernel for this {device} tensor ({told}); move it, or run the plain PyTorch form "
        f'inside `with mer_fast.backend("reference")`'
    )
