"""One way to step through a video file and a folder of images: grab the next frame, decode it only when it is wanted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mer_fast.data._optional import quiet_cv2, require
from mer_fast.errors import VideoError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})

Frame = npt.NDArray[np.uint8]


class Capture(Protocol):
    """A position in a stream of frames."""

    def grab(self) -> bool:
        """Steps to the next frame; False when there is none."""

    def retrieve(self) -> Frame:
        """Decodes the frame stepped to: uint8 (H, W, 3) RGB."""

    def close(self) -> None:
        """Lets the file go."""


class FileCapture:
    """A video file read by OpenCV."""

    def __init__(self, path: Path) -> None:
        """Opens `path`.

        Raises:
            VideoError: OpenCV knows no way to read it, or its name is not UTF-8.
        """
        self._path = path
        self._cv2 = require("cv2")
        try:
            str(path).encode()
        except UnicodeEncodeError as error:  # OpenCV would end the process
            raise VideoError(f"{path} has a name that is not UTF-8, which OpenCV cannot open: rename it") from error
        with quiet_cv2():
            self._capture = self._cv2.VideoCapture(str(path))
            opened = self._capture.isOpened()
        if not opened:
            raise VideoError(
                f"{path} cannot be opened as a video (no video, an unknown codec, or cut short): "
                "convert it, or give a folder of its frames as images"
            )

    def property(self, name: str) -> float:
        """One of OpenCV's CAP_PROP_ values, as the container declares it."""
        return float(self._capture.get(getattr(self._cv2, f"CAP_PROP_{name}")))

    def grab(self) -> bool:
        return bool(self._capture.grab())

    def retrieve(self) -> Frame:
        decoded, frame = self._capture.retrieve()
        if not decoded:
            raise VideoError(f"{self._path} has a frame that cannot be decoded: convert it, or give its frames as images")
        return self._cv2.cvtColor(frame, self._cv2.COLOR_BGR2RGB)

    def close(self) -> None:
        self._capture.release()


class FolderCapture:
    """A folder of image files, one a frame."""

    def __init__(self, files: list[Path]) -> None:
        self._files = files
        self._next = 0

    def grab(self) -> bool:
        if self._next == len(self._files):
            return False
        self._next += 1
        return True

    def retrieve(self) -> Frame:
        return read_image(self._files[self._next - 1])

    def close(self) -> None:
        pass


def read_image(path: Path) -> Frame:
    """An image file as uint8 (H, W, 3) RGB, whatever its depth and channels.

    Raises:
        VideoError: the file is not there, or is not a whole image.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise VideoError(f"{path} cannot be read ({error.strerror}): check the file") from error
    # libpng complains of a cut file on stderr, past any log level: such a file is not handed to it.
    whole = bool(data) and (path.suffix.lower() != ".png" or b"IEND" in data)
    image: Any = None
    if whole:
        with quiet_cv2() as cv2:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise VideoError(f"{path} is not a readable image: replace it, or remove it from the folder")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def image_files(folder: Path) -> list[Path]:
    """The images of a folder in the order people read them: 2.png before 10.png. Hidden files are none of them.

    Raises:
        VideoError: there is no image in the folder.
    """
    files = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".") and p.is_file()]
    if not files:
        raise VideoError(f"{folder} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}): give the folder of the clip's frames")
    return sorted(files, key=lambda path: natural_order(path.name))


def natural_order(name: str) -> tuple[list[tuple[int, int | str]], str]:
    """A sort key for file names: numbers in them count as numbers."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name.lower())
    return [(0, int(part)) if part[0] in "0123456789" else (1, part) for part in parts], name
