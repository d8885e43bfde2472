"""The real OpenCV behind `mer_fast.compat.cv2`, imported only where something of it is wanted."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from ..errors import MerFastError


def opencv() -> Any | None:
    """The module cv2, or None where it is not installed."""
    try:
        return importlib.import_module("cv2")
    except ImportError:
        return None


def fall_through(module: Any | None, path: str, name: str) -> Any:
    """OpenCV's own `<path>.<name>`."""
    if module is None:
        where = "opencv-contrib-python" if path.endswith("optflow") else "opencv-python"
        raise AttributeError(f"{path}.{name} is OpenCV's own, and that is not installed; run `pip install {where}`")
    return getattr(module, name)


@cache
def error_class() -> type[MerFastError]:
    """What is raised here: a MerFastError, and where OpenCV is installed a cv2.error too, which scripts catch."""
    real = opencv()
    return MerFastError if real is None else type("error", (MerFastError, real.error), {"__module__": "mer_fast.compat.cv2"})


@contextmanager
def raising(function: str) -> Iterator[None]:
    """Errors inside name the function of OpenCV that was called."""
    try:
        yield
    except (MerFastError, RuntimeError) as error:  # the kernels raise the latter
        raise error_class()(f"{function}: {error}") from None
