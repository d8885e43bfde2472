"""Small videos and folders of frames for the tests of files, analysis and command."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

# FFmpeg's log level is read once a process, when OpenCV first opens a video: here that is often a test's own writer.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


def write_video(path: Path, frames: np.ndarray, codec: str = "MJPG", fps: float = 25.0) -> Path:
    """Writes RGB frames (T, H, W, 3) as a video; MJPG in .avi stays readable when the file is cut."""
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), fps, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    return path


def cut(path: Path, share: float) -> Path:
    """A copy of a file that ends after a share of its bytes."""
    short = path.with_name(f"cut{path.suffix}")
    content = path.read_bytes()
    short.write_bytes(content[: int(len(content) * share)])
    return short


def waves(count: int, height: int = 240, width: int = 320) -> np.ndarray:
    """A faceless pattern that drifts: (count, height, width, 3)."""
    y, x = np.mgrid[:height, :width]
    phases = np.sin(np.arange(count) / count * np.pi) * 2
    gray = [127 + 60 * np.sin(x / 9 + phase) + 60 * np.sin(y / 7) for phase in phases]
    return np.stack([np.repeat(frame[..., None], 3, axis=2) for frame in gray]).astype(np.uint8)


def listing(folder: Path) -> list[str]:
    """Everything below a folder, hidden files included."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
