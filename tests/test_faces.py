"""Boxes, detectors and crops."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mer_fast.data import (
    Box,
    FixedBox,
    LBPCascade,
    OpenCVCascade,
    Video,
    YuNet,
    crop,
    face_frames,
    find_face,
    make_detector,
    to_gray,
)
from mer_fast.errors import MerFastError, NoFaceError

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
skimage_data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")

ASTRONAUT_FACE = Box(175, 70, 93, 93)


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    return skimage_data.astronaut()


def folder_of(path: Path, *frames: np.ndarray) -> Video:
    path.mkdir()
    for index, frame in enumerate(frames):
        cv2.imwrite(str(path / f"{index}.png"), frame[..., ::-1].copy())
    return Video(path)


def blank(height: int = 60, width: int = 80) -> np.ndarray:
    return np.full((height, width, 3), 90, np.uint8)


boxes = st.builds(Box, st.integers(-50, 150), st.integers(-50, 150), st.integers(1, 120), st.integers(1, 120))


@given(boxes)
def test_clipped_is_the_intersection_with_the_frame(box: Box) -> None:
    inside = np.zeros((80, 100), bool)
    rows, columns = np.mgrid[:80, :100]
    inside[(columns >= box.x) & (columns < box.x + box.width) & (rows >= box.y) & (rows < box.y + box.height)] = True
    clipped = box.clipped(100, 80)
    assert clipped.width * clipped.height == inside.sum()
    if inside.any():
        assert inside[clipped.slices()].all()


@given(boxes, st.floats(0.5, 2))
def test_square_keeps_the_centre(box: Box, scale: float) -> None:
    square = box.square(scale)
    assert square.width == square.height == max(1, round(max(box.width, box.height) * scale))
    assert abs(square.x + square.width / 2 - box.x - box.width / 2) <= 0.5
    assert abs(square.y + square.height / 2 - box.y - box.height / 2) <= 0.5


@given(boxes)
def test_moved_inside_keeps_what_fits(box: Box) -> None:
    moved = box.moved_inside(100, 80)
    assert moved == moved.clipped(100, 80)
    assert (moved.width, moved.height) == (min(box.width, 100), min(box.height, 80))
    if box == box.clipped(100, 80):
        assert moved == box


def test_overlap() -> None:
    assert Box(0, 0, 10, 10).overlap(Box(0, 0, 10, 10)) == 1
    assert Box(0, 0, 10, 10).overlap(Box(5, 0, 10, 10)) == pytest.approx(1 / 3)
    assert Box(0, 0, 10, 10).overlap(Box(20, 20, 5, 5)) == 0


@pytest.mark.parametrize("scale", [1.0, 0.5, 3.0])
def test_lbp_finds_the_astronaut_at_any_size(astronaut: np.ndarray, scale: float) -> None:
    frame = cv2.resize(astronaut, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    faces = make_detector("lbp")(frame)
    expected = Box(*(round(v * scale) for v in ASTRONAUT_FACE))
    assert faces[0].overlap(expected) > 0.7


def test_lbp_finds_nothing_in_nothing() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    detector = LBPCascade()
    assert detector(blank()) == [] and detector(noise) == [] and detector(blank(10, 10)) == []


def test_opencv_cascade_finds_the_astronaut_or_says_why_not(astronaut: np.ndarray) -> None:
    folder = Path(getattr(getattr(cv2, "data", None), "haarcascades", ""))
    if hasattr(cv2, "CascadeClassifier") and (folder / "haarcascade_frontalface_default.xml").is_file():
        assert make_detector("opencv")(astronaut)[0].overlap(ASTRONAUT_FACE) > 0.6
    else:
        with pytest.raises(MerFastError, match='carries no face cascade: use detector "lbp"'):
            OpenCVCascade()


class FakeYuNet:
    """Stands in for OpenCV's detector, whose network file is not ours to ship."""

    faces: Any = None

    @classmethod
    def create(cls, path: str, config: str, size: tuple[int, int], score: float) -> FakeYuNet:
        return cls()

    def setInputSize(self, size: tuple[int, int]) -> None:
        self.size = size

    def detect(self, bgr: np.ndarray) -> tuple[int, Any]:
        assert bgr.shape[:2] == self.size[::-1]
        return 1, self.faces


def test_yunet_boxes_surest_first_in_the_frames_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "yunet.onnx"
    path.touch()
    monkeypatch.setattr(cv2, "FaceDetectorYN", FakeYuNet, raising=False)
    detector = make_detector(path)
    assert isinstance(detector, YuNet)
    assert detector(blank()) == []
    rows = np.zeros((2, 15), np.float32)
    rows[0, :4], rows[0, -1] = (1, 2, 3, 4), 0.7
    rows[1, :4], rows[1, -1] = (10, 20, 30, 40), 0.9
    monkeypatch.setattr(FakeYuNet, "faces", rows)
    assert detector(blank()) == [Box(10, 20, 30, 40), Box(1, 2, 3, 4)]
    assert detector(blank(320, 1280))[0] == Box(20, 40, 60, 80)


def test_yunet_file_errors(tmp_path: Path) -> None:
    with pytest.raises(MerFastError, match=r"gone\.onnx does not exist"):
        make_detector(str(tmp_path / "gone.onnx"))
    path = tmp_path / "text.onnx"
    path.write_text("no network")
    with pytest.raises(MerFastError, match=r"text\.onnx cannot be loaded as a YuNet network") as error:
        make_detector(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "spec", [Box(1, 2, 30, 40), (1, 2, 30, 40), [1, 2, 30, 40], "1,2,30,40", "1, 2, 30, 40", tuple(np.array([1, 2, 30, 40]))]
)
def test_a_box_is_a_detector(spec: Any) -> None:
    detector = make_detector(spec)
    assert isinstance(detector, FixedBox)
    assert detector(blank()) == [Box(1, 2, 30, 40)]


def test_a_callable_is_a_detector() -> None:
    def mine(frame: np.ndarray) -> list[Box]:
        return [Box(0, 0, 5, 5)]

    assert make_detector(mine) is mine


@pytest.mark.parametrize("spec", ["haar", "", "1,2,3", "1,2,3,x", "1.5,2,3,4", (1, 2, 3), (1.5, 2, 3, 4), None, 7])
def test_unknown_detectors_are_named(spec: Any) -> None:
    with pytest.raises(MerFastError, match="is unknown: give") as error:
        make_detector(spec)
    assert repr(spec) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("spec", ["1,2,0,4", (1, 2, 3, -4)])
def test_a_box_without_area(spec: Any) -> None:
    with pytest.raises(MerFastError, match="has no area"):
        make_detector(spec)


def test_find_face_in_the_astronaut(tmp_path: Path, astronaut: np.ndarray) -> None:
    video = folder_of(tmp_path / "clip", *[astronaut] * 4)
    box = find_face(video)
    assert box.width == box.height
    assert box.overlap(ASTRONAUT_FACE) > 0.6
    assert find_face(video, margin=0.4).width == pytest.approx(box.width * 1.4 / 1.1, abs=1)


def script(*answers: list[Box]) -> tuple[Any, list[int]]:
    """A detector that gives these answers in turn, and the list of its calls."""
    calls: list[int] = []

    def detector(frame: np.ndarray) -> list[Box]:
        calls.append(len(calls))
        return answers[min(len(calls) - 1, len(answers) - 1)]

    return detector, calls


def test_find_face_takes_the_median_of_three_that_agree_and_stops(tmp_path: Path) -> None:
    video = folder_of(tmp_path / "clip", *[blank()] * 10)
    detector, calls = script(
        [], [Box(0, 0, 8, 8)], [Box(30, 10, 20, 20)], [Box(31, 12, 22, 22)], [Box(29, 11, 24, 24), Box(0, 0, 8, 8)]
    )
    assert find_face(video, detector, margin=0) == Box(30, 11, 22, 22)
    assert len(calls) == 5


def test_find_face_looks_no_further_than_search(tmp_path: Path) -> None:
    video = folder_of(tmp_path / "clip", *[blank()] * 10)
    detector, calls = script([Box(0, 0, 8, 8)], [Box(30, 10, 20, 20)], [], [Box(31, 10, 20, 20)])
    assert find_face(video, detector, search=4, margin=0) == Box(30, 10, 20, 20)
    assert len(calls) == 4


@pytest.mark.parametrize(
    "face", [Box(70, 40, 30, 30), Box(-10, -10, 50, 50), Box(0, 0, 80, 60), Box(-40, -40, 200, 200), Box(10, 5, 9, 40)]
)
def test_the_box_is_square_and_inside(tmp_path: Path, face: Box) -> None:
    box = find_face(folder_of(tmp_path / "clip", blank()), lambda frame: [face], margin=0.3)
    assert box.width == box.height > 0
    assert box == box.clipped(80, 60)


def test_no_face_names_the_file(tmp_path: Path) -> None:
    video = folder_of(tmp_path / "empty_room", *[blank()] * 12)
    with pytest.raises(NoFaceError, match="shows no face in its first 10 frames: give a box") as error:
        find_face(video)
    assert "empty_room" in str(error.value) and "\n" not in str(error.value)
    assert isinstance(error.value, MerFastError)


def test_a_given_box_is_used_as_it_is(tmp_path: Path) -> None:
    video = folder_of(tmp_path / "clip", blank())
    assert find_face(video, "5,6,20,30") == Box(5, 6, 20, 30)
    assert find_face(video, (70, -5, 20, 30)) == Box(70, 0, 10, 25)
    with pytest.raises(MerFastError, match="100,0,20,20 lies outside the 80x60 frame of") as error:
        find_face(video, (100, 0, 20, 20))
    assert "clip" in str(error.value)


@pytest.mark.parametrize("arguments", [{"search": 0}, {"margin": -1.0}, {"margin": float("nan")}])
def test_find_face_arguments(tmp_path: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(MerFastError, match="search="):
        find_face(folder_of(tmp_path / "clip", blank()), **arguments)


def test_crop_takes_the_boxs_pixels(astronaut: np.ndarray) -> None:
    box = Box(170, 60, 100, 80)
    exact = crop(astronaut, box, (80, 100), gray=False)
    assert np.array_equal(exact, astronaut[60:140, 170:270])
    exact[:] = 0
    assert astronaut[60:140, 170:270].any()  # a copy
    assert np.array_equal(crop(astronaut, box, (80, 100)), to_gray(astronaut)[60:140, 170:270])


def test_crop_averages_when_it_shrinks_and_interpolates_when_it_grows() -> None:
    board = np.zeros((64, 64, 3), np.uint8)
    board[::2, ::2] = board[1::2, 1::2] = 200
    small = crop(board, Box(0, 0, 64, 64), 16)
    assert small.shape == (16, 16) and small.dtype == np.uint8
    assert (np.abs(small.astype(int) - 100) <= 1).all()
    ramp = np.repeat(np.repeat(np.arange(16, dtype=np.uint8)[None, :, None] * 10, 16, 0), 3, 2)
    large = crop(ramp, Box(0, 0, 16, 16), (20, 64), gray=False)
    assert large.shape == (20, 64, 3)
    steps = np.diff(large[0, :, 0].astype(int))
    assert steps.min() >= 0 and steps.max() <= 4  # nearest-neighbour would jump by 10


def test_crop_errors() -> None:
    for size in (0, (0, 5), (5, -1)):
        with pytest.raises(MerFastError, match="size="):
            crop(blank(), Box(0, 0, 10, 10), size)
    for box in (Box(75, 0, 10, 10), Box(-1, 0, 10, 10), Box(0, 0, 0, 10)):
        with pytest.raises(MerFastError, match="is not inside the 80x60 frame"):
            crop(blank(), box, 8)


def test_face_frames_are_crops_of_one_box(tmp_path: Path, astronaut: np.ndarray) -> None:
    frames = [np.roll(astronaut[:128, 150:300], k, 1) for k in range(6)]
    video = folder_of(tmp_path / "clip", *frames)
    box = Box(20, 30, 64, 64)
    crops = list(face_frames(video, box, 32, start=1, stop=6, step=2))
    assert len(crops) == 3
    for k, picture in zip((1, 3, 5), crops, strict=True):
        assert np.array_equal(picture, crop(frames[k], box, 32))
    stream = face_frames(video, box)
    assert next(stream).shape == (128, 128)
    assert next(face_frames(video, box, (16, 8), gray=False)).shape == (16, 8, 3)


def test_missing_scikit_image_is_told_at_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    with pytest.raises(MerFastError, match=r'scikit-image cannot be imported .*pip install "mer_fast\[video\]"'):
        make_detector("lbp")
