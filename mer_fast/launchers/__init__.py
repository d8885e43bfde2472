"""Launchers of the Triton kernels: device guard, allocation, grid. They serve torch.ops.mer_fast on CUDA tensors.

Importing this needs neither Triton nor a GPU; a call that does says what is missing.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from types import ModuleType
from typing import Any

from .. import _library
from ..errors import MerFastError
from ..ops._registry import OPS

MISSING: str | None = (
    "triton is not installed; run `pip install triton`" if importlib.util.find_spec("triton") is None else None
)


def _kernels_package() -> str:
    """The name of the package of device code, which a build in place leaves beside mer_fast rather than inside."""
    name = "mer_fast.kernels"
    if importlib.util.find_spec(name) is None:
        folder = _library.kernel_folder()
        spec = importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return name


@cache
def kernels(name: str) -> ModuleType:
    """The module kernels/triton/<name>.py; Triton is imported here, at the first call that needs it."""
    return importlib.import_module(f"{_kernels_package()}.triton.{name}")


# Fusion is said, since Triton's default changes. All registers are allowed: left alone, ptxas spills a few values of a
# kernel to fit one more block onto a multiprocessor.
COMPILER = {"enable_fp_fusion": True, "maxnreg": 255}


def launch(kernel: Any, blocks: int, *arguments: Any, **constants: Any) -> None:
    """Launches `blocks` programs of a Triton kernel on the current device and stream."""
    if blocks >= 2**31:
        raise MerFastError(f"{kernel.__name__}: too many elements for one launch; split the batch")
    kernel[(blocks,)](*arguments, **constants, **COMPILER)


def register() -> None:
    """Registers every Triton op for CUDA tensors; nothing where there is no library of ops."""
    if _library.MISSING is None:
        for op, entry in OPS.items():
            if "triton" in entry.kernels:
                importlib.import_module(f"{__name__}.{op}")
