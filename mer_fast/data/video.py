"""A video as a stream of frames: one frame in memory at a time, from a file or from a folder of images."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from mer_fast.data._capture import IMAGE_SUFFIXES, Capture, FileCapture, FolderCapture, Frame, image_files
from mer_fast.data._optional import require
from mer_fast.errors import MerFastError, VideoError

DEFAULT_FPS = 25.0


class TruncatedVideoWarning(UserWarning):
    """A video file gives fewer frames than it declares."""


class Video:
    """A video file, or a folder of images in natural order, read frame by frame.

    Attributes:
        path: as given.
        fps: frames a second; 25 where a file declares none; None for a folder of images, which has no rate.
        width, height: of every frame, in pixels.
        declared_frames: how many frames the file says it has (containers may be wrong by a few), or how many images the folder
            holds; None where a file says nothing.
        read_frames: how many frames there were; None until an iteration has run to the end.
        truncated: whether an iteration has come to the end of a file well before the frames it declares.
    """

    path: Path
    fps: float | None
    width: int
    height: int
    declared_frames: int | None
    read_frames: int | None
    truncated: bool

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Opens a video and decodes its first frame.

        Raises:
            VideoError: there is no such file, it is not a video, or no frame of it can be read.
            MerFastError: OpenCV is not installed.
        """
        self.path = Path(path)
        images = image_files(self.path) if self.path.is_dir() else None
        if images is None:
            _check_file(self.path)
        self._begin(images)

    @classmethod
    def from_images(cls, files: Sequence[str | os.PathLike[str]]) -> Video:
        """A clip of the given image files, in their order; `path` is the first of them.

        Raises:
            VideoError: no files, or the first is not an image.
        """
        if not files:
            raise VideoError("a clip of no images: give at least one file")
        video = cls.__new__(cls)
        video.path = Path(files[0])
        video._begin([Path(file) for file in files])
        return video

    def _begin(self, images: list[Path] | None) -> None:
        self._images = images
        self.read_frames = None
        self.truncated = False
        capture = self._open()
        try:
            if isinstance(capture, FileCapture):
                self.fps = _rate(capture.property("FPS"))
                self.declared_frames = _count(capture.property("FRAME_COUNT"))
            else:
                self.fps = None
                self.declared_frames = len(self._images or [])
            if not capture.grab():
                raise VideoError(f"{self.path} has no readable frame: convert it, or give its frames as images")
            self.height, self.width = capture.retrieve().shape[:2]
        finally:
            capture.close()

    def frames(self, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[Frame]:
        """Yields frames start, start + step, ... before stop, each a new uint8 (H, W, 3) RGB array.

        Each call reads the video from its beginning; frames not asked for are stepped over, never sought, since seeking is not
        exact in compressed video.

        Raises:
            VideoError: a frame cannot be decoded, or its size is not the first frame's.
            MerFastError: `start`, `stop` or `step` is out of range.

        Warns:
            TruncatedVideoWarning: once, when a file ends well before the frames it declares.
        """
        if start < 0 or step < 1 or (stop is not None and stop < 0):
            raise MerFastError(f"start={start}, stop={stop}, step={step}: start and stop count from 0, and step is at least 1")
        return self._stream(start, stop, step)

    def _stream(self, start: int, stop: int | None, step: int) -> Iterator[Frame]:
        capture = self._open()
        try:
            index = 0
            while stop is None or index < stop:
                if not capture.grab():
                    self._reached_end(index)
                    return
                if index >= start and (index - start) % step == 0:
                    yield self._checked(capture.retrieve(), index)
                index += 1
        finally:
            capture.close()

    def _open(self) -> Capture:
        return FileCapture(self.path) if self._images is None else FolderCapture(self._images)

    def _checked(self, frame: Frame, index: int) -> Frame:
        height, width = frame.shape[:2]
        if (width, height) != (self.width, self.height):
            name = f"frame {index} of {self.path}" if self._images is None else str(self._images[index])
            raise VideoError(
                f"{name} is {width}x{height} and the first frame {self.width}x{self.height}: give frames of one size"
            )
        return frame

    def _reached_end(self, count: int) -> None:
        self.read_frames = count
        if self.declared_frames is None or self.truncated:
            return
        # Containers round their duration, and frames held back by the codec may never come out.
        if self.declared_frames - count > max(2, self.declared_frames // 100):
            self.truncated = True
            warnings.warn(
                f"{self.path}: {count} of {self.declared_frames} declared frames are readable; analysed as far as it reads",
                TruncatedVideoWarning,
                stacklevel=4,
            )


def to_gray(rgb: Frame) -> Frame:
    """uint8 (H, W, 3) RGB -> uint8 (H, W), by the ITU-R BT.601 weights that OpenCV uses."""
    cv2 = require("cv2")
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)


def _check_file(path: Path) -> None:
    if not path.exists():
        raise VideoError(f"{path} does not exist: give a video file or a folder of images")
    if not path.is_file():
        raise VideoError(f"{path} is not a file: give a video file or a folder of images")
    if path.stat().st_size == 0:
        raise VideoError(f"{path} is empty: give a video file or a folder of images")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise VideoError(f"{path} is one image, not a video: give the folder that holds the clip's frames")


def _rate(fps: float) -> float:
    return fps if math.isfinite(fps) and fps > 0 else DEFAULT_FPS


def _count(frames: float) -> int | None:
    return int(frames) if math.isfinite(frames) and 0 < frames < 2**31 else None
