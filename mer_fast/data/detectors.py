"""Face detectors: each a callable from an RGB uint8 (H, W, 3) frame to face boxes, best first."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mer_fast.data._capture import Frame
from mer_fast.data._optional import quiet_cv2, require
from mer_fast.data.box import Box
from mer_fast.errors import MerFastError

Detector = Callable[[Frame], list[Box]]

# Cascades look for faces from this share of the frame's shorter side up: in a clip made for expressions the face is large.
_SMALLEST_FACE = 1 / 6


class LBPCascade:
    """Local binary pattern cascade (Liao et al., ICB 2007) with the file that every scikit-image carries; largest face first."""

    def __init__(self, longest_side: int = 320) -> None:
        """Frames whose longer side exceeds `longest_side` pixels are searched at that size.

        Raises:
            MerFastError: scikit-image is not installed.
        """
        file = require("skimage.data").lbp_frontal_face_cascade_filename()
        self._cascade = require("skimage.feature").Cascade(file)
        self._longest_side = longest_side

    def __call__(self, frame: Frame) -> list[Box]:
        small, scale = _shrunk(frame, self._longest_side)
        shorter = min(small.shape[:2])
        smallest = max(24, round(shorter * _SMALLEST_FACE))
        if shorter < smallest:
            return []
        found = self._cascade.detect_multi_scale(
            small, scale_factor=1.2, step_ratio=1, min_size=(smallest, smallest), max_size=(shorter, shorter)
        )
        return _largest_first(_rescaled((face["c"], face["r"], face["width"], face["height"]), scale) for face in found)


class OpenCVCascade:
    """OpenCV's Haar cascade for frontal faces (Viola and Jones, CVPR 2001); largest face first. OpenCV 4 only."""

    _FILE = "haarcascade_frontalface_default.xml"

    def __init__(self) -> None:
        """Raises MerFastError where this OpenCV carries no cascade; OpenCV 5 carries none."""
        cv2 = require("cv2")
        folder = getattr(getattr(cv2, "data", None), "haarcascades", "")
        file = Path(folder) / self._FILE
        if not hasattr(cv2, "CascadeClassifier") or not file.is_file():
            raise MerFastError(f'OpenCV {cv2.__version__} carries no face cascade: use detector "lbp", or install OpenCV 4')
        self._cascade = cv2.CascadeClassifier(str(file))

    def __call__(self, frame: Frame) -> list[Box]:
        cv2 = require("cv2")
        smallest = round(min(frame.shape[:2]) * _SMALLEST_FACE)
        gray = cv2.equalizeHist(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY))
        found = self._cascade.detectMultiScale(gray, scaleFactor=1.1, minNeighbors=5, minSize=(smallest, smallest))
        return _largest_first(_rescaled(face, 1.0) for face in found)


class YuNet:
    """YuNet (Wu et al., Machine Intelligence Research 2023), a small network run by OpenCV; surest face first."""

    def __init__(self, path: str | os.PathLike[str], *, score: float = 0.7, longest_side: int = 640) -> None:
        """Loads the network.

        Args:
            path: the .onnx file, from the OpenCV model zoo.
            score: the least confidence of a face, 0 to 1.
            longest_side: frames whose longer side exceeds it, in pixels, are searched at that size.

        Raises:
            MerFastError: no such file, not a YuNet, or an OpenCV without `FaceDetectorYN`.
        """
        if not Path(path).is_file():
            raise MerFastError(f"{path} does not exist: give the path of YuNet's .onnx file")
        with quiet_cv2() as cv2:
            if not hasattr(cv2, "FaceDetectorYN"):
                raise MerFastError(f'OpenCV {cv2.__version__} has no FaceDetectorYN: use detector "lbp", or a newer OpenCV')
            try:
                self._network = cv2.FaceDetectorYN.create(str(path), "", (320, 320), score)
            except cv2.error as error:
                raise MerFastError(f"{path} cannot be loaded as a YuNet network: download the .onnx file again") from error
        self._path = path
        self._longest_side = longest_side

    def __call__(self, frame: Frame) -> list[Box]:
        small, scale = _shrunk(frame, self._longest_side)
        with quiet_cv2() as cv2:
            self._network.setInputSize((small.shape[1], small.shape[0]))
            try:
                _, found = self._network.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
            except cv2.error as error:
                raise MerFastError(f"{self._path} is no YuNet network: give the .onnx file of face_detection_yunet") from error
        surest_first = [] if found is None else sorted(found, key=lambda face: -face[-1])
        return [_rescaled(face[:4], scale) for face in surest_first]


class FixedBox:
    """The same box in every frame, given by hand."""

    def __init__(self, box: Box) -> None:
        """Raises MerFastError when the box has no area."""
        if box.width < 1 or box.height < 1:
            raise MerFastError(f"face box {','.join(map(str, box))} has no area: give x,y,width,height in pixels")
        self.box = box

    def __call__(self, frame: Frame) -> list[Box]:
        return [self.box]


def make_detector(spec: str | os.PathLike[str] | Sequence[int] | Detector) -> Detector:
    """A detector from "lbp", "opencv", the path of YuNet's .onnx file, a box (Box, four integers, "x,y,width,height"), or itself.

    Raises:
        MerFastError: nothing of that kind, or what it needs is missing.
    """
    if isinstance(spec, (str, os.PathLike)):
        name = os.fspath(spec)
        if name == "lbp":
            return LBPCascade()
        if name == "opencv":
            return OpenCVCascade()
        if name.lower().endswith(".onnx"):
            return YuNet(name)
        numbers: Sequence[Any] = name.split(",")
    elif callable(spec):
        return spec
    else:
        numbers = spec if isinstance(spec, Sequence) else ()
    box = _box(numbers)
    if box is None:
        raise MerFastError(
            f'detector {spec!r} is unknown: give "lbp", "opencv", a path ending in .onnx, or a box "x,y,width,height"'
        )
    return FixedBox(box)


def _box(numbers: Sequence[Any]) -> Box | None:
    if len(numbers) != 4:
        return None
    try:
        # int() would cut a fraction off without a word; through text it is refused.
        x, y, width, height = (int(str(number)) for number in numbers)
    except ValueError:
        return None
    return Box(x, y, width, height)


def _shrunk(frame: Frame, longest_side: int) -> tuple[Frame, float]:
    """The frame at `longest_side` pixels at most, and the factor that leads back."""
    height, width = frame.shape[:2]
    scale = max(height, width) / longest_side
    if scale <= 1:
        return frame, 1.0
    cv2 = require("cv2")
    size = (max(1, round(width / scale)), max(1, round(height / scale)))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA), scale


def _rescaled(face: Sequence[float], scale: float) -> Box:
    x, y, width, height = (round(float(value) * scale) for value in face)
    return Box(x, y, width, height)


def _largest_first(boxes: Any) -> list[Box]:
    return sorted(boxes, key=lambda box: -box.width * box.height)
