"""mer_fast.info()."""

from __future__ import annotations

import importlib
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from . import _library
from ._version import __version__
from .backends import current_backend, why_not
from .ops._registry import OPS


def _build() -> dict[str, Any]:
    if _library.MISSING is not None:
        return {"missing": _library.MISSING}
    try:
        compiled = importlib.import_module("mer_fast._C")
    except ImportError as error:
        return {"missing": f"mer_fast._C does not load ({error}); rebuild with `pip install .`"}
    return dict(compiled.build_facts())


def _devices() -> list[str]:
    names = [f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"]
    if torch.cuda.is_available():
        names += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    return names


def _why_no_gpu() -> str | None:
    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        return "this torch is a CPU build; install one with CUDA"
    return "torch sees no NVIDIA GPU; check the driver with nvidia-smi"


def _cupy() -> str:
    """Its version, without importing it."""
    for name in ("cupy-cuda13x", "cupy-cuda12x", "cupy"):
        with suppress(PackageNotFoundError):
            return f"{version(name)} ({name})"
    return 'not installed; `pip install ".[cupy13]"` (or cupy12) lets its arrays run here, without a CUDA half too'


def info() -> dict[str, Any]:
    """What is installed, what can run, and why the rest cannot.

    Returns:
        dict with `version`, `torch`, `python`, `devices` (list of str), `gpu` (why there is none, or None), `cupy` (its
        version, or how to get it), `backend` (the one in force), `build` (compiler, CPU instruction sets, CUDA version) and
        `ops`: for each op and each implementation "ready", or why it is not.
    """
    ops: dict[str, dict[str, str]] = {}
    for op, entry in OPS.items():
        ops[op] = {"reference": "ready"}
        for name in entry.kernels:
            device = "cpu" if name == "cpu" else "cuda"
            reason = why_not(op, name, device) or (_why_no_gpu() if device == "cuda" else None)
            ops[op][name] = reason or "ready"
    return {
        "version": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "devices": _devices(),
        "gpu": _why_no_gpu(),
        "cupy": _cupy(),
        "backend": current_backend(),
        "build": _build(),
        "ops": ops,
    }
