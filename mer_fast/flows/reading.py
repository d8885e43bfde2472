"""Which frames of a clip make pairs, and those frames, decoded one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from mer_fast.data import Detector, Video, crop, face_frames, find_face, spot_apex, to_gray
from mer_fast.data._capture import Frame
from mer_fast.errors import VideoError
from mer_fast.flows.clips import Clip
from mer_fast.flows.options import FlowOptions

_APEX_SIDE = 128  # pixels of the face in which the apex is looked for, as `mer-fast analyze` does by default


@dataclass(frozen=True)
class Span:
    """Frames start, start + step, ... before stop; each paired with the one before it, or with the first."""

    start: int
    stop: int | None
    step: int
    from_first: bool

    def pairs(self, count: int) -> list[tuple[int, int]]:
        """The frame numbers of the first `count` pairs."""
        later = [self.start + (k + 1) * self.step for k in range(count)]
        return [(self.start if self.from_first else frame - self.step, frame) for frame in later]


class FramePair(NamedTuple):
    """Two gray frames, uint8 (H, W)."""

    first: Frame
    second: Frame


class OpenClip:
    """A clip whose first frame could be read.

    Attributes:
        span: the frames that make its pairs.
        height, width: of those frames, as they go into the op.
    """

    def __init__(self, clip: Clip, options: FlowOptions, detector: Detector | None) -> None:
        """Opens a clip, and looks for its face and its apex where the options want them.

        Args:
            detector: finds the face; only needed where `options.looks_for_face`.

        Raises:
            MerFastError: it cannot be read, or what is looked for is not there.
            OSError: it cannot be read.
        """
        self._size = options.size
        self._video = Video(clip.path) if clip.second is None else Video.from_images([clip.path, clip.second])
        spots = options.pairs == "onset-apex" and clip.second is None and clip.apex is None
        box = find_face(self._video, detector) if detector is not None and (options.crop or spots) else None
        self._box = box if options.crop else None
        self.height, self.width = (self._video.height, self._video.width) if self._box is None else (self._size, self._size)
        start, apex, step = clip.onset or 0, clip.apex, options.step
        if spots and box is not None:
            apex = start + spot_apex(face_frames(self._video, box, _APEX_SIDE, start=start)).index
        if options.pairs == "onset-apex" and apex is not None:
            step = apex - start
        self.span = Span(start, None if apex is None else apex + 1, step, options.pairs == "onset")

    def pairs(self, kept: int) -> Iterator[FramePair]:
        """The clip's pairs but for the first `kept`, in order; there is at least one in all.

        Raises:
            MerFastError: a frame cannot be read or is of another size, or there are fewer than two.
        """
        span = self.span
        begin = span.start + kept * span.step
        if span.from_first and kept:
            first = next(self._frames(span.start, span.start + 1, 1), None)
            begin += span.step
        else:
            first = None
        count = kept
        for frame in self._frames(begin, span.stop, span.step):
            if first is None:
                first = frame
                continue
            yield FramePair(first, frame)
            count += 1
            if not span.from_first:
                first = frame
        if not count:
            raise VideoError(self._too_short())

    def problem(self) -> str | None:
        """What is wrong with a clip whose frames were all read, and which has pairs all the same."""
        video = self._video
        if video.truncated:
            return f"{video.path}: cut short: {video.read_frames} of {video.declared_frames} declared frames are readable"
        if self.span.stop is not None and video.read_frames is not None and video.read_frames < self.span.stop:
            return f"{video.path} has {video.read_frames} readable frames, and its apex is to be frame {self.span.stop - 1}"
        return None

    def _frames(self, start: int, stop: int | None, step: int) -> Iterator[Frame]:
        for frame in self._video.frames(start, stop, step):
            yield to_gray(frame) if self._box is None else crop(frame, self._box, self._size)

    def _too_short(self) -> str:
        video, span = self._video, self.span
        if video.read_frames is not None and video.read_frames <= span.start + span.step:
            wanted = "2" if span.start + span.step == 1 else f"frames {span.start} and {span.start + span.step}"
            return f"{video.path} has {video.read_frames} readable frames, and a pair needs {wanted}"
        return f"{video.path}: no pair between frames {span.start} and {(span.stop or 0) - 1}, {span.step} frames apart"
