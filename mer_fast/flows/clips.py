"""What flow is measured of: a video, a folder of images, or two images; and what could not be used, with the reason."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from mer_fast.data._capture import image_files
from mer_fast.errors import VideoError

_END = 1 << 16  # bytes at either end of a file that tell it from another of the same length


@dataclass(frozen=True)
class Clip:
    """One clip.

    Attributes:
        name: what it is called in the output: a relative path with `/`; no two clips of a run share one.
        path: a video file, a folder of images, or the first of two images.
        second: the second of two images.
        onset, apex: the frames, counted from 0, between which the clip is used; None where it begins and ends.
    """

    name: str
    path: Path
    second: Path | None = None
    onset: int | None = None
    apex: int | None = None

    def fingerprint(self) -> str:
        """Tells this clip from an edited or another one of its name: lengths and names of its files, how they begin and end.

        Raises:
            OSError: a file cannot be read.
            VideoError: the folder holds no image, or the path is no file, as a pipe that nobody writes to.
        """
        if self.second is not None:
            files = [self.path, self.second]
        else:
            files = image_files(self.path) if self.path.is_dir() else [self.path]
        # Not the name of a video or folder, which may be given by another path the next time.
        told = hashlib.blake2b(repr((self.onset, self.apex, len(files))).encode(), digest_size=8)
        for file in files:
            if not stat.S_ISREG(file.stat().st_mode):
                raise VideoError(f"{file} is not a file: give a video file or a folder of images")
            told.update(os.fsencode(file.name) + b"/%d/" % file.stat().st_size)
        for file in (files[0], files[-1]):
            with file.open("rb") as content:
                told.update(content.read(_END))
                content.seek(max(0, file.stat().st_size - _END))
                told.update(content.read(_END))
        return told.hexdigest()


@dataclass(frozen=True)
class Failure:
    """A clip, or a place where clips were looked for, of which no flow was written, or not of all its frames."""

    clip: str
    reason: str


def reason_of(error: Exception, path: Path | None = None) -> str:
    """An error in one line that names its file: `path`, where the error names none."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    words = " ".join(str(error).split()) or type(error).__name__  # a MemoryError may say nothing
    return words if path is None or str(path) in words else f"{path}: {words}"
