"""mer_fast.analysis and its report: what is found where the motion is known, what is written, how much memory it takes."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from mer_fast.analysis import MAX_TIM_FRAMES, analyze
from mer_fast.comparison import endpoint_error, planted_motion
from mer_fast.data import Box, TruncatedVideoWarning, Truth, synthetic_clip, write_frames
from mer_fast.errors import MerFastError, NoFaceError, VideoError
from mer_fast.report import PICTURES

from .clips import cut, listing, waves, write_video

REPORT = {"report.html", "summary.json", "flow.npz", *PICTURES}


@pytest.fixture(scope="module")
def clip():
    return synthetic_clip("mouth", amplitude=2.0, seed=3)


@pytest.fixture(scope="module")
def frames(clip, tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames") / "clip"
    write_frames(clip, folder)
    return folder


@pytest.fixture(scope="module")
def analysis(frames, tmp_path_factory):
    output = tmp_path_factory.mktemp("report") / "report"
    return analyze(frames, output=output, compare=True), output


def test_planted_motion_is_found(analysis, clip):
    found, _ = analysis
    assert abs(found.apex - clip.apex) <= 1
    assert found.onset == 0
    assert found.box.overlap(clip.face) > 0.5
    still = np.zeros_like(found.motion.flow)
    assert found.error.moving < 0.7 * endpoint_error(still, found.planted).moving
    assert found.curve.argmax() == found.apex


def test_opencv_is_no_better(analysis):
    found, _ = analysis
    assert found.opencv.error.moving > 0.95 * found.error.moving
    assert found.opencv.mean_difference < 0.1
    assert found.opencv.seconds > 0 and found.opencv.our_seconds > 0


def test_shapes_and_types(analysis):
    found, _ = analysis
    motion = found.motion
    assert motion.between.shape == (found.apex + 1, 128, 128) and motion.between.dtype == np.uint8
    assert motion.clip.shape == (10, 128, 128) and motion.clip.dtype == np.uint8
    assert motion.flow.shape == (2, 128, 128) and motion.flow.dtype == np.float32
    assert motion.strain.shape == (1, 128, 128) and motion.strain.dtype == np.float32
    np.testing.assert_array_equal(motion.clip[0], motion.between[0])
    np.testing.assert_array_equal(motion.clip[-1], motion.between[-1])
    assert found.frame.shape == (256, 256, 3)
    assert set(found.seconds) == {"face", "apex", "clip", "tim", "flow", "strain", "total"}


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.targets, self.tags = set(), set()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.targets |= {value for name, value in attributes if name in ("src", "href")}


def test_report_folder_is_complete(analysis):
    found, output = analysis
    assert set(listing(output)) == REPORT
    page = Links()
    page.feed((output / "report.html").read_text(encoding="utf-8"))
    assert page.targets == REPORT - {"report.html"}
    assert "script" not in page.tags and "link" not in page.tags
    for name in PICTURES:
        assert cv2.imread(str(output / name)).std() > 5
    with np.load(output / "flow.npz") as arrays:
        np.testing.assert_array_equal(arrays["flow"], found.motion.flow)
        np.testing.assert_array_equal(arrays["strain"], found.motion.strain)


def test_summary_has_the_numbers(analysis, clip, frames):
    found, output = analysis
    summary = json.loads((output / "summary.json").read_text())
    expected = {
        "video": str(frames), "fps": None, "frames_read": 40, "frames_declared": 40, "truncated": False, "onset": 0,
        "apex": found.apex, "size": 128, "tim_frames": 10, "tim_thinned": False, "face_box": found.box._asdict(),
    }  # fmt: skip
    assert {key: summary[key] for key in expected} == expected
    assert summary["endpoint_error"] == found.error.moving
    assert summary["endpoint_error_whole_crop"] == found.error.whole
    assert summary["opencv"]["endpoint_error"] == found.opencv.error.moving
    assert summary["planted"]["apex"] == clip.apex
    assert set(summary["seconds"]) == set(found.seconds)
    assert {"mer_fast", "torch", "opencv"} <= set(summary["versions"])


def test_without_truth_and_output_nothing_is_judged_or_written(clip, tmp_path):
    video = write_video(tmp_path / "a.avi", clip.frames)
    calls = []
    found = analyze(video, onset=8, size=64, num_frames=4, progress=lambda *call: calls.append(call))
    assert found.planted is None and found.error is None and found.opencv is None
    assert abs(found.apex - clip.apex) <= 1 and found.onset == 8
    assert found.motion.clip.shape == (4, 64, 64) and found.motion.flow.shape == (2, 64, 64)
    assert found.video.fps == 25 and found.video.frames_read == 40
    assert listing(tmp_path) == ["a.avi"]
    assert ("Looking for the apex", 32, 32) in calls


def test_apex_by_flow(frames, clip):
    assert abs(analyze(frames, size=64, apex_method="flow").apex - clip.apex) <= 1


def test_planted_motion_is_carried_into_the_crop():
    flow = np.zeros((2, 100, 120), np.float32)
    flow[0], flow[1] = 3.0, -2.0
    moving = np.zeros((100, 120), bool)
    moving[20:40, 30:50] = True
    truth = Truth(flow, 2, 7, 9, moving)
    for box, size, scale in ((Box(30, 20, 40, 20), 80, (2, 4)), (Box(20, 10, 80, 80), 40, (0.5, 0.5))):
        planted = planted_motion(truth, box, size)
        np.testing.assert_allclose(planted.flow[0], 3.0 * scale[0], rtol=1e-6)
        np.testing.assert_allclose(planted.flow[1], -2.0 * scale[1], rtol=1e-6)
        assert planted.moving.sum() == pytest.approx(400 * scale[0] * scale[1], rel=0.05)
        error = endpoint_error(planted.flow + np.float32([[[3]], [[4]]]), planted)
        assert error.moving == pytest.approx(5) and error.whole == pytest.approx(5)
    assert (planted.onset, planted.apex) == (2, 7)


def test_motion_outside_the_face_box_has_no_error_of_its_own(frames, tmp_path):
    found = analyze(frames, detector="0,0,32,32", size=32, output=tmp_path / "report")
    assert np.isnan(found.error.moving) and np.isfinite(found.error.whole)
    assert json.loads((tmp_path / "report" / "summary.json").read_text())["endpoint_error"] is None
    assert "outside the face box" in (tmp_path / "report" / "report.html").read_text()


def test_a_long_span_is_thinned(tmp_path):
    video = write_video(tmp_path / "a.avi", waves(1000, 32, 48))
    found = analyze(video, detector="0,0,32,32", size=16, output=tmp_path / "report")
    assert found.apex > MAX_TIM_FRAMES
    assert len(found.motion.between) == MAX_TIM_FRAMES
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert summary["tim_thinned"] is True and summary["tim_source_frames"] == MAX_TIM_FRAMES
    assert "256 evenly spaced" in (tmp_path / "report" / "report.html").read_text()


def test_a_cut_video_is_analysed_as_far_as_it_reads(clip, tmp_path):
    video = cut(write_video(tmp_path / "a.avi", clip.frames), 0.6)
    with pytest.warns(TruncatedVideoWarning):
        found = analyze(video, output=tmp_path / "report")
    assert found.video.truncated and 15 < found.video.frames_read < 30
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert summary["truncated"] is True and summary["frames_declared"] == 40
    assert "cut short" in (tmp_path / "report" / "report.html").read_text()


def test_a_whole_video_brings_no_warning(frames):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        analyze(frames, size=32)


def test_names_are_escaped_in_the_page(frames, tmp_path):
    analyze(frames, output=tmp_path / "report", name="<script>alert(1)</script>", size=32)
    assert "<script" not in (tmp_path / "report" / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"onset": 39}, VideoError, "40 readable frames, 1 from onset 39"),
        ({"onset": 99}, VideoError, "40 readable frames, 0 from onset 99"),
        ({"onset": -1}, MerFastError, "onset"),
        ({"size": 8}, MerFastError, "size"),
        ({"num_frames": 0}, MerFastError, "num_frames"),
        ({"detector": "nobody"}, MerFastError, "nobody"),
        ({"apex_method": "guess"}, MerFastError, "guess"),
    ],
)
def test_bad_arguments_leave_nothing(frames, tmp_path, options, error, words):
    with pytest.raises(error, match=words):
        analyze(frames, output=tmp_path / "new" / "report", **options)
    assert listing(tmp_path) == []


def test_no_face_leaves_nothing(tmp_path):
    video = write_video(tmp_path / "a.avi", waves(12))
    with pytest.raises(NoFaceError):
        analyze(video, output=tmp_path / "report")
    assert listing(tmp_path) == ["a.avi"]


def test_the_report_never_goes_into_the_frames(frames):
    before = listing(frames)
    with pytest.raises(MerFastError, match="the video itself"):
        analyze(frames, output=frames)
    assert listing(frames) == before


MEMORY = """
import sys
from mer_fast.analysis import analyze
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
for video in sys.argv[1:]:
    analyze(video, detector="0,0,240,240", size=256)
    print(peak())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of resident memory from /proc")
def test_memory_does_not_grow_with_the_video(tmp_path):
    some = waves(120)
    videos = [write_video(tmp_path / "short.avi", some), write_video(tmp_path / "long.avi", np.concatenate([some] * 5))]
    command = [sys.executable, "-c", MEMORY, *map(str, videos)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    short, long = (int(line) / 1024 for line in run.stdout.split())
    assert long - short < 12, "480 more frames are 110 MB whole, and 31 MB as crops"
    assert long < 600
