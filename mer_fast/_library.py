"""Finds and loads the compiled half. Importing mer_fast never fails for want of it: calls that need it say what is missing."""

from __future__ import annotations

import os
from pathlib import Path

import torch

PACKAGE = Path(__file__).resolve().parent


def _load() -> str | None:
    """Loads torch.ops.mer_fast; returns why it could not, or None."""
    # MER_FAST_LIBRARY points to another build of the operators, a sanitized one for instance.
    path = Path(os.environ.get("MER_FAST_LIBRARY", PACKAGE / "_ops.so"))
    if not path.exists():
        return f"the C++ kernels are not built ({path.name} is missing); run `pip install .` in the source folder"
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return f"{path.name} does not load with torch {torch.__version__} ({error}); rebuild with `pip install .`"
    return None


MISSING: str | None = _load()
# Whether the processor has matrix units for bfloat16 (AMX); some kernels run on nothing else.
MATRIX_UNITS: bool = MISSING is None and bool(torch.ops.mer_fast.matrix_units())


def has_kernel(op: str, dispatch_key: str) -> bool:
    """Whether the loaded library has a kernel of `op` for "CPU" or "CUDA"."""
    return MISSING is None and torch._C._dispatch_has_kernel_for_dispatch_key(f"mer_fast::{op}", dispatch_key)


def kernel_folder() -> Path:
    """The folder of the device sources (`cuda/*.cuh`, `configs/*.json`): installed, or of the source tree."""
    installed = PACKAGE / "kernels"
    return installed if installed.is_dir() else PACKAGE.parent / "kernels"
