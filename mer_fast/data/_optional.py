"""The optional packages that only work on pictures, or on annotation tables, needs."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from typing import Any

from mer_fast.errors import MerFastError

_PACKAGES = {"cv2": "OpenCV", "skimage": "scikit-image", "scipy": "SciPy"}
_TABLES = frozenset({"pandas", "openpyxl"})


def require(module: str) -> Any:
    """Imports a module of OpenCV, scikit-image, SciPy, pandas or openpyxl when it is first needed.

    Raises:
        MerFastError: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        extra = "data" if package in _TABLES else "video"
        name = _PACKAGES.get(package, package)
        raise MerFastError(f'{name} cannot be imported ({error}): pip install "mer_fast[{extra}]"') from error


@contextlib.contextmanager
def quiet_cv2() -> Iterator[Any]:
    """Gives cv2 with its log, and FFmpeg's, kept off stderr: what they would print is told by an error or a warning of ours.

    OpenCV reads FFmpeg's level once, at the first capture of the process; a program that opened one before us keeps its own.
    """
    cv2 = require("cv2")
    before = os.environ.get("OPENCV_FFMPEG_LOGLEVEL")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET
    logging = getattr(cv2.utils, "logging", cv2)  # OpenCV 5 moved the functions there
    level = logging.getLogLevel()
    logging.setLogLevel(0)  # silent
    try:
        yield cv2
    finally:
        logging.setLogLevel(level)
        if before is None:
            os.environ.pop("OPENCV_FFMPEG_LOGLEVEL", None)
