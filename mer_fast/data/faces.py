"""The face of a clip: found once, and cut out of every frame by the same box, as the field does."""

from __future__ import annotations

import itertools
import os
import statistics
from collections.abc import Iterable, Iterator, Sequence

from mer_fast.data._capture import Frame
from mer_fast.data._optional import require
from mer_fast.data.box import Box
from mer_fast.data.detectors import Detector, FixedBox, LBPCascade, OpenCVCascade, YuNet, make_detector
from mer_fast.data.video import Video, to_gray
from mer_fast.errors import MerFastError, NoFaceError

__all__ = [
    "Box", "Detector", "FixedBox", "LBPCascade", "OpenCVCascade", "YuNet", "crop", "face_frames", "find_face",
    "find_face_in", "make_detector",
]  # fmt: skip

_AGREEING = 3
_LEAST_OVERLAP = 0.5


def find_face(
    video: Video,
    detector: str | os.PathLike[str] | Sequence[int] | Detector = "lbp",
    search: int = 10,
    margin: float = 0.1,
) -> Box:
    """One square box for the face of a clip, inside its frame.

    The detector's best face of each of the first `search` frames is taken until three agree (intersection over union of at
    least a half); the box is their median, or that of the most that agree. A face in a single frame is enough. A box given by
    hand is used as it is, cut at the frame's edge.

    Args:
        video: the clip.
        detector: what `make_detector` takes.
        search: how many frames to look at.
        margin: how much wider than the detector's box, as a share of its side: cascades cut the chin.

    Raises:
        NoFaceError: none of these frames has a face.
        MerFastError: the box given by hand lies outside the frame, or the detector is unknown.
        VideoError: a frame cannot be read.
    """
    if search < 1 or not margin > -1:
        raise MerFastError(f"search={search}, margin={margin}: search at least 1 frame, with a margin above -1")
    detect = make_detector(detector)
    if isinstance(detect, FixedBox):
        return _given(detect.box, video)
    box = _agreed(video.frames(0, search), detect, margin, (video.width, video.height))
    if box is None:
        raise NoFaceError(
            f'{video.path} shows no face in its first {search} frames: give a box "x,y,width,height", or another detector'
        )
    return box


def find_face_in(frames: Iterable[Frame], detector: str | os.PathLike[str] | Detector = "lbp", margin: float = 0.1) -> Box:
    """`find_face` for frames that are at hand: uint8 (H, W, 3) RGB of one size, read until three agree.

    Raises:
        NoFaceError: none of them has a face.
        MerFastError: the detector is unknown.
    """
    waiting = iter(frames)
    first = next(waiting, None)
    box = None
    if first is not None:
        box = _agreed(itertools.chain([first], waiting), make_detector(detector), margin, (first.shape[1], first.shape[0]))
    if box is None:
        raise NoFaceError('no frame shows a face: give a box "x,y,width,height", or another detector')
    return box


def _agreed(frames: Iterable[Frame], detect: Detector, margin: float, size: tuple[int, int]) -> Box | None:
    """The box of the faces that agree, inside frames of `size` (width, height)."""
    found: list[Box] = []
    agreeing: list[Box] = []
    for frame in frames:
        faces = detect(frame)
        if not faces:
            continue
        found.append(Box(*faces[0]))
        agreeing = max(([b for b in found if b.overlap(a) >= _LEAST_OVERLAP] for a in found), key=len)
        if len(agreeing) >= _AGREEING:
            break
    if not agreeing:
        return None
    median = Box(*(round(statistics.median(values)) for values in zip(*agreeing, strict=True)))
    largest = min(size) / max(median.width, median.height)
    return median.square(min(1 + margin, largest)).moved_inside(*size)


def crop(frame: Frame, box: Box, size: int | tuple[int, int], gray: bool = True) -> Frame:
    """The pixels of a box at another size.

    Args:
        frame: uint8 (H, W, 3) RGB.
        box: inside the frame.
        size: the side of a square, or (height, width), in pixels.
        gray: one channel (BT.601) instead of three.

    Returns:
        uint8 (h, w), or (h, w, 3) when not `gray`; area-averaged when it shrinks, bilinear when it grows.

    Raises:
        MerFastError: the box is not inside the frame, or `size` is not positive.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise MerFastError(f"size={size}: give the height and the width of the crop in pixels, at least 1")
    box = Box(*box)
    frame_height, frame_width = frame.shape[:2]
    if box.width < 1 or box.height < 1 or box != box.clipped(frame_width, frame_height):
        raise MerFastError(
            f"face box {','.join(map(str, box))} is not inside the {frame_width}x{frame_height} frame: cut it with Box.clipped"
        )
    cv2 = require("cv2")
    pixels = frame[box.slices()]
    if gray:
        pixels = to_gray(pixels)
    if pixels.shape[:2] == (height, width):
        return pixels.copy()
    shrinks = height * width < box.height * box.width
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def face_frames(
    video: Video,
    box: Box,
    size: int | tuple[int, int] = 128,
    gray: bool = True,
    start: int = 0,
    stop: int | None = None,
    step: int = 1,
) -> Iterator[Frame]:
    """Streams the crops of one box, the same for the whole clip: `crop` of `video.frames(start, stop, step)`."""
    return (crop(frame, box, size, gray) for frame in video.frames(start, stop, step))


def _given(box: Box, video: Video) -> Box:
    clipped = box.clipped(video.width, video.height)
    if clipped.width < 1 or clipped.height < 1:
        raise MerFastError(
            f"face box {','.join(map(str, box))} lies outside the {video.width}x{video.height} frame of {video.path}: "
            "give x,y,width,height in its pixels"
        )
    return clipped
