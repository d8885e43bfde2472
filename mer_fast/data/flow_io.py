"""Optical flow on disk: Middlebury `.flo`, NumPy `.npz`, and the colour-wheel picture as `.png`."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mer_fast.errors import MerFastError
from mer_fast.files import atomic_path

FLOW_ENDINGS = (".flo", ".npz", ".png")
_FLO_TAG = np.float32(202021.25)  # reads as "PIEH" in the file's little-endian bytes
_FLO_HEADER = np.dtype([("tag", "<f4"), ("width", "<i4"), ("height", "<i4")])


def flow_ending(path: str | os.PathLike[str]) -> str:
    """The ending of a flow file in small letters, checked before the work whose result it will hold.

    Raises:
        MerFastError: the ending is none of `FLOW_ENDINGS`.
    """
    ending = Path(path).suffix.lower()
    if ending not in FLOW_ENDINGS:
        raise MerFastError(f"{path}: flow is written as {', '.join(FLOW_ENDINGS)}, not as {ending or 'a name without ending'}")
    return ending


def write_flow(path: str | os.PathLike[str], flow: npt.ArrayLike, **arrays: npt.ArrayLike) -> None:
    """Writes flow in the format that the ending names.

    Args:
        path: `.flo` and `.npz` keep the values as float32; `.png` keeps a picture, colour for direction and strength for length.
        flow: (2, H, W), u right and v down, in pixels.
        arrays: what else a `.npz` should hold, by name; float32 too.

    Raises:
        MerFastError: an unknown ending, a flow of another shape, or further arrays for a format that holds only flow.
    """
    ending = flow_ending(path)
    field = np.asarray(flow, dtype=np.float32)
    if field.ndim != 3 or field.shape[0] != 2:
        raise MerFastError(f"flow must have the shape (2, H, W), got {field.shape}")
    if arrays and ending != ".npz":
        raise MerFastError(f"{path}: only .npz can hold {', '.join(arrays)} beside the flow")
    with atomic_path(path) as temporary:
        if ending == ".flo":
            _write_flo(temporary, field)
        elif ending == ".npz":
            others: dict[str, Any] = {name: np.asarray(array, dtype=np.float32) for name, array in arrays.items()}
            np.savez_compressed(temporary, flow=field, **others)
        else:
            from mer_fast.visualize import color_flow, write_png

            write_png(temporary, color_flow(field))


def read_flow(path: str | os.PathLike[str]) -> npt.NDArray[np.float32]:
    """Reads the flow of a `.flo` or `.npz` file: (2, H, W) float32, u right and v down, in pixels.

    Middlebury files mark unknown flow with values above 1e9; they are handed on as they are.

    Raises:
        MerFastError: the ending is another, or the file does not hold what its ending promises.
        OSError: the file cannot be read.
    """
    ending = Path(path).suffix.lower()
    if ending == ".flo":
        return _read_flo(Path(path))
    if ending == ".npz":
        return _read_npz(Path(path))
    raise MerFastError(f"{path}: flow is read from .flo and .npz, not from {ending or 'a name without ending'}")


def _write_flo(path: Path, flow: npt.NDArray[np.float32]) -> None:
    header = np.array((_FLO_TAG, flow.shape[2], flow.shape[1]), dtype=_FLO_HEADER)
    path.write_bytes(header.tobytes() + np.ascontiguousarray(flow.transpose(1, 2, 0), dtype="<f4").tobytes())


def _read_flo(path: Path) -> npt.NDArray[np.float32]:
    content = path.read_bytes()
    if len(content) < _FLO_HEADER.itemsize:
        raise MerFastError(f"{path}: not a .flo file")
    header = np.frombuffer(content, _FLO_HEADER, count=1)[0]
    width, height = int(header["width"]), int(header["height"])
    if header["tag"] != _FLO_TAG or width < 1 or height < 1:
        raise MerFastError(f"{path}: not a .flo file")
    expected = _FLO_HEADER.itemsize + 8 * width * height
    if len(content) != expected:
        raise MerFastError(f"{path}: {len(content)} bytes where a {width}x{height} flow takes {expected}")
    interleaved = np.frombuffer(content, "<f4", offset=_FLO_HEADER.itemsize).reshape(height, width, 2)
    return np.ascontiguousarray(interleaved.transpose(2, 0, 1), dtype=np.float32)


def _read_npz(path: Path) -> npt.NDArray[np.float32]:
    try:
        with np.load(path) as arrays:
            flow = np.asarray(arrays["flow"], dtype=np.float32)
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise MerFastError(f"{path}: not a .npz file with an array called flow") from error
    if flow.ndim != 3 or flow.shape[0] != 2:
        raise MerFastError(f"{path}: flow has the shape {flow.shape}, not (2, H, W)")
    return flow
