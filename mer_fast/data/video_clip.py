"""A part of a video as a clip that preprocessing takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mer_fast.data._capture import Frame
from mer_fast.data.video import Video
from mer_fast.errors import VideoError


class VideoClip:
    """The frames from onset to offset of a video, read as a stream: frames asked for in order are read in one pass.

    Args:
        video: opened.
        onset_index, peak_index, offset_index: frames, counted from 0.
    """

    def __init__(self, video: Video, onset_index: int, peak_index: int, offset_index: int) -> None:
        self.video, self.name = video, str(video.path)
        self.frames = range(offset_index + 1)
        self.onset_index, self.peak_index, self.offset_index = onset_index, peak_index, offset_index
        self._stream: Iterator[Frame] = iter(())
        self._next = -1  # the frame that the stream gives next

    def read(self, indices: Sequence[int]) -> Frame:
        """Those frames: uint8 (T, H, W, 3) RGB.

        Raises:
            VideoError: the video ends before.
        """
        return np.stack([self._frame(index) for index in indices])

    def _frame(self, index: int) -> Frame:
        if self._next < 0 or index < self._next:
            self._stream, self._next = self.video.frames(index), index
        for frame in self._stream:
            self._next += 1
            if self._next > index:
                return frame
        raise VideoError(f"{self.name} has no readable frame {index}")
