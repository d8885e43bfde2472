"""Videos and folders of images: what is read, what is refused, and that only a frame at a time is held."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mer_fast.data import TruncatedVideoWarning, Video, to_gray
from mer_fast.data import video as video_module
from mer_fast.errors import MerFastError, VideoError

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")

from .clips import cut, write_video  # noqa: E402  # it imports OpenCV

HEIGHT, WIDTH = 48, 64


def picture(index: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A frame, RGB, that tells its index by the brightness of its left half; the right half is blue, and textured."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[..., 2] = (np.add.outer(np.arange(height), np.arange(width)) * 3) % 64 + 64
    frame[:, : width // 2] = 5 * index
    return frame


def index_of(frame: np.ndarray) -> int:
    return round(float(frame[8:-8, 8 : WIDTH // 2 - 8, 0].mean()) / 5)


def write(path: Path, codec: str, count: int) -> Path:
    return write_video(path, np.stack([picture(index) for index in range(count)]), codec, fps=30.0)


def write_images(folder: Path, names: list[str]) -> Path:
    folder.mkdir()
    for index, name in enumerate(names):
        assert cv2.imwrite(str(folder / name), picture(index)[..., ::-1].copy())
    return folder


def assert_one_line(error: pytest.ExceptionInfo[Any], *parts: str) -> None:
    message = str(error.value)
    assert "\n" not in message and ": " in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "MJPG"), ("b.mp4", "mp4v"), ("c.avi", "FFV1"), ("d.mkv", "FFV1")])
def test_file_gives_its_frames_in_order_as_rgb(tmp_path: Path, name: str, codec: str) -> None:
    video = Video(write(tmp_path / name, codec, 20))
    assert (video.width, video.height, video.fps, video.declared_frames) == (WIDTH, HEIGHT, 30.0, 20)
    assert video.path == tmp_path / name
    assert video.read_frames is None
    frames = list(video.frames())
    assert len(frames) == 20
    assert all(abs(index_of(frame) - index) <= (codec == "mp4v") for index, frame in enumerate(frames))  # it skips small changes
    assert all(frame.shape == (HEIGHT, WIDTH, 3) and frame.dtype == np.uint8 for frame in frames)
    assert frames[10][8:-8, WIDTH // 2 + 8 :, 2].mean() > 60 > frames[10][8:-8, WIDTH // 2 + 8 :, 0].mean()
    assert video.read_frames == 20


def test_start_stop_step_and_reading_again(tmp_path: Path) -> None:
    video = Video(write(tmp_path / "a.avi", "MJPG", 20))
    assert [index_of(f) for f in video.frames(3, 15, 4)] == [3, 7, 11]
    assert video.read_frames is None
    assert [index_of(f) for f in video.frames(17)] == [17, 18, 19]
    assert video.read_frames == 20
    assert [index_of(f) for f in video.frames(0, 2)] == [0, 1]
    assert list(video.frames(5, 5)) == []
    assert list(video.frames(50)) == []
    first, second = video.frames(), video.frames(4)
    assert (index_of(next(first)), index_of(next(second)), index_of(next(first))) == (0, 4, 1)


@pytest.mark.parametrize("arguments", [(-1,), (0, -2), (0, None, 0)])
def test_range_errors_come_at_the_call(tmp_path: Path, arguments: tuple[Any, ...]) -> None:
    video = Video(write(tmp_path / "a.avi", "MJPG", 3))
    with pytest.raises(MerFastError, match="start=") as error:
        video.frames(*arguments)
    assert_one_line(error)


def test_only_one_frame_is_alive(tmp_path: Path) -> None:
    video = Video(write(tmp_path / "a.avi", "MJPG", 40))
    seen: list[weakref.ref[np.ndarray]] = []
    most = 0
    for frame in video.frames():
        seen.append(weakref.ref(frame))
        most = max(most, sum(ref() is not None for ref in seen))
    assert len(seen) == 40
    assert most <= 2  # the one in hand, and the one before until the loop variable moves on


def test_leaving_early_closes_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = Video(write(tmp_path / "a.avi", "MJPG", 10))
    closed = []
    monkeypatch.setattr(video_module.FileCapture, "close", lambda self: closed.append(self))
    stream: Any = video.frames()
    next(stream)
    assert not closed
    stream.close()
    assert len(closed) == 1


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "MJPG"), ("d.mkv", "FFV1")])
def test_cut_file_warns_once_and_reads_on(tmp_path: Path, name: str, codec: str) -> None:
    video = Video(cut(write(tmp_path / name, codec, 50), 0.5))
    with pytest.warns(TruncatedVideoWarning) as caught:
        frames = list(video.frames())
    assert 10 < len(frames) < 40
    assert video.read_frames == len(frames)
    assert [index_of(f) for f in frames[:-1]] == list(range(len(frames) - 1))
    assert len(caught) == 1
    assert str(caught[0].message) == (
        f"{video.path}: {len(frames)} of 50 declared frames are readable; analysed as far as it reads"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(video.frames())) == len(frames)


def test_a_stop_before_the_cut_is_no_truncation(tmp_path: Path) -> None:
    video = Video(cut(write(tmp_path / "a.avi", "MJPG", 50), 0.5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(video.frames(0, 5))) == 5


@pytest.mark.parametrize(("declared", "warned"), [(52, False), (53, True), (50, False), (40, False)])
def test_a_frame_or_two_missing_is_no_truncation(tmp_path: Path, declared: int, warned: bool) -> None:
    video = Video(write(tmp_path / "a.avi", "MJPG", 50))
    video.declared_frames = declared
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert len(list(video.frames())) == 50
    assert bool(caught) == warned


def test_what_is_no_video(tmp_path: Path) -> None:
    text, empty, image = tmp_path / "text.avi", tmp_path / "empty.mp4", tmp_path / "one.png"
    text.write_text("a list of things to buy\n" * 100)
    empty.touch()
    cv2.imwrite(str(image), picture(0))
    without_index = cut(write(tmp_path / "b.mp4", "mp4v", 20), 0.9)  # an mp4 has its index at the end
    for path, words in [
        (tmp_path / "missing.mp4", "does not exist"),
        (empty, "is empty"),
        (text, "cannot be opened as a video"),
        (without_index, "cannot be opened as a video"),
        (image, "is one image"),
    ]:
        with pytest.raises(VideoError, match=words) as error:
            Video(path)
        assert_one_line(error, str(path))


def test_a_name_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"a\xff.avi")
    write(tmp_path / "a.avi", "MJPG", 2).rename(path)
    with pytest.raises(VideoError, match=r"not UTF-8.*rename it"):
        Video(path)


class FakeCapture:
    """What FileCapture gives, for files that are hard to make."""

    def __init__(self, frames: list[np.ndarray], fps: float = 25.0, count: float = 0.0) -> None:
        self._frames, self._values = iter(frames), {"FPS": fps, "FRAME_COUNT": count}

    def property(self, name: str) -> float:
        return self._values[name]

    def grab(self) -> bool:
        self._frame = next(self._frames, None)
        return self._frame is not None

    def retrieve(self) -> np.ndarray:
        assert self._frame is not None
        return self._frame

    def close(self) -> None:
        pass


def faked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *frames: np.ndarray, **values: float) -> Video:
    class Fake(FakeCapture):
        def __init__(self, path: Path) -> None:
            super().__init__(list(frames), **values)

    monkeypatch.setattr(video_module, "FileCapture", Fake)
    path = tmp_path / "fake.mp4"
    path.write_bytes(b"something")
    return Video(path)


@pytest.mark.parametrize(("fps", "expected"), [(0.0, 25.0), (np.nan, 25.0), (-1.0, 25.0), (np.inf, 25.0), (59.94, 59.94)])
def test_frame_rates_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fps: float, expected: float) -> None:
    assert faked(tmp_path, monkeypatch, picture(0), fps=fps).fps == expected


@pytest.mark.parametrize("count", [0.0, -1.0, -9.2e18, float("nan"), 9.2e18])
def test_frame_counts_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: float) -> None:
    video = faked(tmp_path, monkeypatch, picture(0), picture(1), count=count)
    assert video.declared_frames is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(video.frames())) == 2
    assert video.read_frames == 2


def test_no_readable_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VideoError, match="no readable frame") as error:
        faked(tmp_path, monkeypatch)
    assert_one_line(error, "fake.mp4")


def test_size_that_changes_inside_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = faked(tmp_path, monkeypatch, picture(0), picture(1), picture(2, width=32))
    stream = video.frames()
    assert [index_of(next(stream)), index_of(next(stream))] == [0, 1]
    with pytest.raises(VideoError, match=r"frame 2 of .*fake\.mp4 is 32x48 and the first frame 64x48") as error:
        next(stream)
    assert_one_line(error)


def test_listed_images_are_a_clip_in_their_order(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "clip", ["a.png", "b.png", "c.png"])
    video = Video.from_images([folder / "c.png", str(folder / "a.png")])
    assert [index_of(frame) for frame in video.frames()] == [2, 0]
    assert (video.path, video.fps, video.declared_frames, video.read_frames) == (folder / "c.png", None, 2, 2)
    with pytest.raises(VideoError, match="no images"):
        Video.from_images([])
    with pytest.raises(VideoError, match=r"gone\.png"):
        Video.from_images([folder / "gone.png"])


def test_folder_in_natural_order(tmp_path: Path) -> None:
    names = ["f1.png", "f2.PNG", "f9.bmp", "f10.png", "f11.tif", "f100.jpg", "f101.jpeg"]
    folder = write_images(tmp_path / "clip", names)
    (folder / "notes.txt").write_text("ours")
    (folder / "._f3.png").write_bytes(b"what macOS leaves")
    video = Video(folder)
    assert (video.fps, video.width, video.height, video.declared_frames) == (None, WIDTH, HEIGHT, 7)
    assert [index_of(f) for f in video.frames()] == list(range(7))
    assert np.array_equal(next(video.frames(1)), picture(1))
    assert [index_of(f) for f in video.frames(1, 6, 2)] == [1, 3, 5]
    assert video.read_frames == 7


def test_gray_and_deep_images_become_rgb(tmp_path: Path) -> None:
    gray = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) % 256
    folder = tmp_path / "clip"
    folder.mkdir()
    cv2.imwrite(str(folder / "0.png"), gray.astype(np.uint8))
    cv2.imwrite(str(folder / "1.png"), gray * 256)
    for frame in Video(folder).frames():
        assert np.array_equal(frame, np.repeat(gray.astype(np.uint8)[..., None], 3, 2))


def test_folder_errors(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(VideoError, match="holds no image") as error:
        Video(empty)
    assert_one_line(error, str(empty))

    folder = write_images(tmp_path / "odd", ["0.png", "1.png", "2.png"])
    cv2.imwrite(str(folder / "1.png"), picture(1, width=40))
    with pytest.raises(VideoError, match=r"1\.png is 40x48 and the first frame 64x48") as error:
        list(Video(folder).frames())
    assert_one_line(error, str(folder / "1.png"))


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "tif"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_corrupt_image_is_named(tmp_path: Path, ending: str, share: float, capfd: pytest.CaptureFixture[str]) -> None:
    folder = write_images(tmp_path / "clip", [f"{index}.{ending}" for index in range(3)])
    bad = folder / f"1.{ending}"
    data = bad.read_bytes()
    bad.write_bytes(data[: int(len(data) * share)])
    stream = Video(folder).frames()
    assert index_of(next(stream)) == 0
    with pytest.raises(VideoError, match="not a readable image") as error:
        next(stream)
    assert_one_line(error, str(bad))
    assert capfd.readouterr().err == ""


def test_image_that_vanishes_is_named(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "clip", ["0.png", "1.png"])
    video = Video(folder)
    (folder / "1.png").unlink()
    with pytest.raises(VideoError, match=r"1\.png cannot be read \(No such file"):
        list(video.frames())


def test_nothing_is_printed(tmp_path: Path) -> None:
    """In a process of its own: FFmpeg's log level is set once, before the first capture."""
    write(tmp_path / "a.avi", "MJPG", 20)
    write(tmp_path / "b.mp4", "mp4v", 20)
    (tmp_path / "text.avi").write_text("no video\n" * 50)
    paths = [str(cut(tmp_path / "a.avi", 0.5)), str(cut(tmp_path / "b.mp4", 0.9)), str(tmp_path / "text.avi")]
    program = """
import os, sys, warnings
from mer_fast.data import Video
from mer_fast.errors import VideoError
warnings.simplefilter("ignore")
for path in sys.argv[1:]:
    try:
        print(sum(1 for _ in Video(path).frames()) > 0)
    except VideoError:
        print("refused")
assert "OPENCV_FFMPEG_LOGLEVEL" not in os.environ
"""
    environment = {name: value for name, value in os.environ.items() if name != "OPENCV_FFMPEG_LOGLEVEL"}
    result = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, text=True, env=environment)
    assert result.stdout.split() == ["True", "refused", "refused"]
    assert result.stderr == ""


def test_gray_weights() -> None:
    colors = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)
    gray = to_gray(colors)
    assert gray.dtype == np.uint8
    assert gray.tolist() == [[76, 150, 29, 255]]


@pytest.fixture
def without_cv2(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "cv2", None)
    yield


@pytest.mark.usefixtures("without_cv2")
def test_missing_opencv_is_told_at_the_call(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"anything")
    with pytest.raises(MerFastError, match=r'pip install "mer_fast\[video\]"') as error:
        Video(path)
    assert_one_line(error, "OpenCV")
