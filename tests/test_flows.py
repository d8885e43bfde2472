"""The flow of many clips: which pairs, what is written, and what becomes of a clip that cannot be read."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mer_fast import ops
from mer_fast.analysis import analyze
from mer_fast.data import Video, crop, find_face, synthetic_clip, to_gray, write_frames
from mer_fast.data.flow_io import read_flow
from mer_fast.errors import MerFastError
from mer_fast.flows import METHODS, Clip, FlowOptions, measure_flows
from mer_fast.flows.channel import Abandoned, Channel
from mer_fast.flows.formats import HEADER, Stack, npy_header
from mer_fast.flows.methods import Method, default_batch
from mer_fast.visualize import color_flow

from .clips import cut, listing, waves, write_video


def write_images(folder: Path, frames: np.ndarray, ending: str = ".png") -> Path:
    folder.mkdir(parents=True)
    for index, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"img{index + 1}{ending}"), frame[..., ::-1])
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A folder of 12 images, numbered without zeros: 9 comes before 10."""
    return write_images(tmp_path_factory.mktemp("images") / "clip", waves(12, 40, 56))


def flow_of(frames: list[np.ndarray], pairs: list[tuple[int, int]]) -> np.ndarray:
    first, second = (torch.from_numpy(np.stack([frames[pair[k]] for pair in pairs])) for k in (0, 1))
    return ops.tvl1_flow(first, second).numpy()


def gray_frames(path: Path) -> list[np.ndarray]:
    return [to_gray(frame) for frame in Video(path).frames()]


def pairs_told(output: Path) -> list[tuple[int, int]]:
    (told,) = json.loads((output / "manifest.json").read_text())["clips"]
    return [tuple(pair) for pair in told["pairs"]]


@pytest.mark.parametrize(
    ("options", "pairs"),
    [
        ({}, [(k, k + 1) for k in range(11)]),
        ({"step": 4}, [(0, 4), (4, 8)]),
        ({"pairs": "onset"}, [(0, k) for k in range(1, 12)]),
        ({"pairs": "onset", "step": 5}, [(0, 5), (0, 10)]),
    ],
)
def test_pairs_of_a_clip(clip, tmp_path, options, pairs):
    summary = measure_flows([clip], tmp_path / "out", FlowOptions(**options))
    flow = np.load(tmp_path / "out" / "clip.npy", mmap_mode="r")
    assert isinstance(flow, np.memmap) and flow.dtype == np.float32
    np.testing.assert_array_equal(flow, flow_of(gray_frames(clip), pairs))
    assert pairs_told(tmp_path / "out") == pairs
    assert (summary.clips, summary.pairs, summary.kept, summary.failures) == (1, len(pairs), 0, [])


@pytest.mark.parametrize(("method", "preset"), [(method, preset) for method in METHODS for preset in METHODS[method].presets])
def test_every_method_and_preset(clip, tmp_path, method, preset):
    measure_flows([clip], tmp_path / "out", FlowOptions(method=method, preset=preset, step=6))
    first, second = (torch.from_numpy(gray_frames(clip)[k]) for k in (0, 6))
    expected = METHODS[method].op(first, second, **METHODS[method].presets[preset])
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "clip.npy"), expected[None])
    told = json.loads((tmp_path / "out" / "manifest.json").read_text())["parameters"]
    assert (told["method"], told["preset"], told["arguments"]) == (method, preset, METHODS[method].presets[preset])


def test_farneback_is_opencvs(clip, tmp_path):
    measure_flows([clip], tmp_path / "out", FlowOptions(method="farneback"))
    frames = gray_frames(clip)
    theirs = cv2.calcOpticalFlowFarneback(frames[0], frames[1], None, 0.5, 3, 15, 3, 5, 1.2, 0)
    assert np.abs(np.load(tmp_path / "out" / "clip.npy")[0] - theirs.transpose(2, 0, 1)).max() < 0.01


@pytest.mark.parametrize(
    ("line", "options", "pairs"),
    [
        ("clip 3 7", {}, [(3, 4), (4, 5), (5, 6), (6, 7)]),
        ("clip 3 7", {"pairs": "onset"}, [(3, 4), (3, 5), (3, 6), (3, 7)]),
        ("clip 3 7", {"pairs": "onset-apex"}, [(3, 7)]),
        ("clip 8", {}, [(8, 9), (9, 10), (10, 11)]),
        ("clip 3 8", {"step": 2}, [(3, 5), (5, 7)]),
        ("clip/img3.png clip/img12.png", {"pairs": "onset-apex"}, [(0, 1)]),
        ("clip/img3.png clip/img12.png", {}, [(0, 1)]),
    ],
)
def test_pairs_of_a_line(clip, tmp_path, line, options, pairs):
    (clip.parent / "list.txt").write_text(line)
    measure_flows([clip.parent / "list.txt"], tmp_path / "out", FlowOptions(**options))
    assert pairs_told(tmp_path / "out") == pairs
    frames = gray_frames(clip)
    (name,) = [name for name in listing(tmp_path / "out") if name.endswith(".npy")]
    expected = flow_of(frames, [(2, 11)] if "img" in line else pairs)
    np.testing.assert_array_equal(np.load(tmp_path / "out" / name), expected)


@pytest.mark.parametrize(
    ("line", "options", "pairs", "words"),
    [
        ("clip 3 20", {}, 8, "has 12 readable frames, and its apex is to be frame 20"),
        ("clip 3 20", {"pairs": "onset-apex"}, 0, "has 12 readable frames, and a pair needs frames 3 and 20"),
        ("clip 11", {}, 0, "has 12 readable frames, and a pair needs frames 11 and 12"),
        ("clip 3 5", {"step": 3}, 0, "no pair between frames 3 and 5, 3 frames apart"),
    ],
)
def test_frames_that_a_clip_has_not_are_told(clip, tmp_path, line, options, pairs, words):
    (clip.parent / "list.txt").write_text(line)
    summary = measure_flows([clip.parent / "list.txt"], tmp_path / "out", FlowOptions(**options))
    assert summary.pairs == pairs and len(summary.failures) == 1 and words in summary.failures[0].reason


def test_onset_to_apex_is_what_analyze_finds(tmp_path):
    made = synthetic_clip("mouth", amplitude=2.0, seed=3)
    video = tmp_path / "face"
    write_frames(made, video)
    analysis = analyze(video, size=96)
    measure_flows([video], tmp_path / "out", FlowOptions(pairs="onset-apex", crop=True, size=96))
    assert pairs_told(tmp_path / "out") == [(0, analysis.apex)]
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "face.npy")[0], analysis.motion.flow)


def test_the_face_is_found_once_in_a_clip(tmp_path):
    made = synthetic_clip("brow", amplitude=1.0, seed=1)
    write_frames(made, tmp_path / "face")
    measure_flows([tmp_path / "face"], tmp_path / "out", FlowOptions(crop=True, size=64, step=10))
    video = Video(tmp_path / "face")
    box = find_face(video)
    frames = [crop(frame, box, 64) for frame in video.frames()]
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "face.npy"), flow_of(frames, [(0, 10), (10, 20), (20, 30)]))
    summary = measure_flows(
        [tmp_path / "face"], tmp_path / "out2", FlowOptions(crop=True, size=64, step=10, detector="8,8,64,64")
    )
    assert summary.failures == []
    frames = [to_gray(frame)[8:72, 8:72] for frame in video.frames()]
    np.testing.assert_array_equal(np.load(tmp_path / "out2" / "face.npy")[0], flow_of(frames, [(0, 10)])[0])


def test_formats_hold_the_same_flow(clip, tmp_path):
    for format in ("npy", "npz", "flo", "png"):
        measure_flows([clip], tmp_path / format, FlowOptions(format=format, strain=True, step=4))
    flow = np.load(tmp_path / "npy" / "clip.npy")
    strain = ops.optical_strain(torch.from_numpy(flow)).numpy()
    assert listing(tmp_path / "npy") == ["clip.npy", "clip.strain.npy", "manifest.json"]
    with np.load(tmp_path / "npz" / "clip.npz") as arrays:
        np.testing.assert_array_equal(arrays["flow"], flow)
        np.testing.assert_array_equal(arrays["strain"], strain)
        np.testing.assert_array_equal(arrays["pairs"], [[0, 4], [4, 8]])
    for format in ("npy", "flo", "png"):
        np.testing.assert_array_equal(np.load(tmp_path / format / "clip.strain.npy", mmap_mode="r"), strain)
    assert listing(tmp_path / "flo" / "clip") == ["000000-000004.flo", "000004-000008.flo"]
    np.testing.assert_array_equal(read_flow(tmp_path / "flo" / "clip" / "000004-000008.flo"), flow[1])
    picture = cv2.imread(str(tmp_path / "png" / "clip" / "000000-000004.png"))[..., ::-1]
    np.testing.assert_array_equal(picture, color_flow(flow[0]))


def test_the_npy_header_is_numpys():
    for shape in ((0, 2, 16, 16), (25, 2, 480, 640), (10**9, 1, 10**5, 10**5)):
        header = io.BytesIO(npy_header(shape))
        assert np.lib.format.read_magic(header) == (1, 0)
        assert np.lib.format.read_array_header_1_0(header) == (shape, False, np.dtype("<f4"))
        assert header.tell() == HEADER == len(header.getvalue())


def test_pairs_of_one_size_share_a_batch_across_clips(tmp_path, monkeypatch):
    batches = []

    def spy(first, second):
        batches.append(tuple(first.shape))
        return torch.zeros(len(first), 2, *first.shape[1:])

    monkeypatch.setitem(METHODS, "spy", Method(spy, {"opencv": {}}))
    for number in range(10):
        write_images(tmp_path / "in" / f"clip{number}", waves(4, 32, 32 + 16 * (number % 2)))
    summary = measure_flows([tmp_path / "in"], tmp_path / "out", FlowOptions(method="spy", batch=8))
    assert summary.pairs == 30
    sizes = sorted(batches[1:])  # but for the trial
    assert sizes == [(7, 32, 32), (7, 32, 48), (8, 32, 32), (8, 32, 48)]


def test_batches_fit_memory():
    assert default_batch(128, 128, "cpu") >= 64
    assert default_batch(1080, 1920, "cpu") * 8 * 1080 * 1920 <= 64 << 20
    assert default_batch(20_000, 20_000, "cuda") == 1


def make_broken(folder: Path) -> None:
    """Clips with something wrong, and a good one before, between and behind them."""
    frames = waves(6, 32, 40)
    for name in ("a", "k", "z"):
        write_images(folder / f"{name}-good", frames)
    write_images(folder / "half", frames)
    image = folder / "half" / "img5.png"
    image.write_bytes(image.read_bytes()[:300])
    write_images(folder / "one", frames[:1])
    write_images(folder / "sizes", frames)
    cv2.imwrite(str(folder / "sizes" / "img4.png"), frames[0][:30])
    write_images(folder / "tiny", frames[:, :8, :8])
    (folder / "text.mp4").write_text("no video at all\n" * 100)
    (folder / "zero.mp4").touch()
    video = write_video(folder / "long.avi", np.concatenate([frames] * 8))
    cut(video, 0.5)
    (folder / "gone.avi").symlink_to(folder / "nothing.avi")
    os.mkfifo(folder / "pipe.avi")


REASONS = {
    "cut.avi": "cut short",
    "gone.avi": "No such file",
    "half": "img5.png is not a readable image",
    "one": "has 1 readable frames",
    "pipe.avi": "is not a file",
    "sizes": "is 40x30 and the first frame 40x32",
    "text.mp4": "cannot be opened as a video",
    "tiny": "16 pixels",
    "zero.mp4": "is empty",
}


def test_a_broken_clip_never_stops_the_rest(tmp_path):
    make_broken(tmp_path / "in")
    summary = measure_flows([tmp_path / "in"], tmp_path / "out")
    assert {failure.clip for failure in summary.failures} == set(REASONS)
    for failure in summary.failures:
        assert REASONS[failure.clip] in failure.reason and str(tmp_path / "in") in failure.reason
    made = [name for name in listing(tmp_path / "out") if name != "manifest.json"]
    assert made == ["a-good.npy", "cut.avi.npy", "k-good.npy", "long.avi.npy", "z-good.npy"]
    assert 4 < len(np.load(tmp_path / "out" / "cut.avi.npy")) < 40  # as far as it reads
    told = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [failure["clip"] for failure in told["failed"]] == [failure.clip for failure in summary.failures]
    again = measure_flows([tmp_path / "in"], tmp_path / "out")
    assert again.kept == again.pairs == summary.pairs and again.failures == summary.failures


def test_a_video_whose_name_is_not_utf8_is_listed_and_the_rest_done(tmp_path):
    folder = tmp_path / "in"
    write_images(folder / "good", waves(3, 32, 40))
    write_video(folder / "a.avi", waves(3, 32, 40)).rename(folder / os.fsdecode(b"a\xff.avi"))
    summary = measure_flows([folder], tmp_path / "out")
    assert listing(tmp_path / "out") == ["good.npy", "manifest.json"]
    assert len(summary.failures) == 1 and "not UTF-8" in summary.failures[0].reason


@pytest.mark.parametrize("error", [ValueError("odd"), MemoryError(), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "odd")])
def test_an_error_of_one_clip_is_told_and_the_rest_done(tmp_path, monkeypatch, error):
    for name in ("a", "b"):
        write_images(tmp_path / "in" / name, waves(3, 32, 40))
    fingerprint = Clip.fingerprint

    def broken(clip):
        if clip.name == "a":
            raise error
        return fingerprint(clip)

    monkeypatch.setattr(Clip, "fingerprint", broken)
    summary = measure_flows([tmp_path / "in"], tmp_path / "out")
    assert summary.clips == 1 and [failure.clip for failure in summary.failures] == ["a"]
    assert summary.failures[0].reason == f"{tmp_path}/in/a: {str(error) or 'MemoryError'}"


@pytest.mark.parametrize(("form", "strain", "clips"), [("npy", True, 1), ("npy", False, 2), ("npz", True, 2), ("flo", True, 2)])
def test_the_file_of_strain_is_no_other_clips(tmp_path, form, strain, clips):
    for name in ("x", "x.strain"):
        write_images(tmp_path / "in" / name, waves(3, 32, 40))
    summary = measure_flows([tmp_path / "in"], tmp_path / "out", FlowOptions(format=form, strain=strain))
    assert summary.clips == clips
    told = [(failure.clip, failure.reason) for failure in summary.failures]
    reason = f"{tmp_path}/in/x.strain: x.strain.npy is {tmp_path}/in/x's too: rename one of them"
    assert told == [("x.strain", reason)] * (2 - clips)


def test_a_clip_that_was_mended_is_done_the_next_time(tmp_path):
    make_broken(tmp_path / "in")
    measure_flows([tmp_path / "in"], tmp_path / "out")
    cv2.imwrite(str(tmp_path / "in" / "half" / "img5.png"), waves(6, 32, 40)[4])
    summary = measure_flows([tmp_path / "in"], tmp_path / "out")
    assert "half" not in {failure.clip for failure in summary.failures}
    assert summary.pairs - summary.kept == 5


def test_nothing_is_left_where_nothing_can_be_done(tmp_path):
    write_images(tmp_path / "one", waves(1, 32, 32))
    summary = measure_flows([tmp_path / "one"], tmp_path / "new" / "out")
    assert summary.clips == 0 and len(summary.failures) == 1
    assert listing(tmp_path) == ["one", "one/img1.png"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "magic"}, "method 'magic' is unknown: give one of tvl1, farneback"),
        ({"preset": "magic"}, "preset 'magic' is unknown to tvl1: give one of opencv, ipol"),
        ({"pairs": "all"}, "pairs 'all' is unknown"),
        ({"format": "jpg"}, "format 'jpg' is unknown"),
        ({"device": "tpu"}, "device 'tpu' is unknown"),
        ({"detector": "nobody", "crop": True}, "detector 'nobody' is unknown"),
        ({"step": 0}, "step must lie between"),
        ({"size": 8}, "size must lie between"),
        ({"batch": 0}, "batch must lie between"),
        ({"step": 2, "pairs": "onset-apex"}, "leave step away"),
    ],
)
def test_wrong_options_are_told_before_anything_is_made(clip, tmp_path, options, words):
    with pytest.raises(MerFastError, match=words):
        measure_flows([clip], tmp_path / "out", FlowOptions(**options))
    assert listing(tmp_path) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told(clip, tmp_path):
    with pytest.raises(MerFastError, match=r"device cuda: (this torch is a CPU build|torch sees no)"):
        measure_flows([clip], tmp_path / "out", FlowOptions(device="cuda"))
    assert listing(tmp_path) == []


def test_the_output_cannot_be_an_input_or_a_file(clip, tmp_path):
    with pytest.raises(MerFastError, match="is an input"):
        measure_flows([clip], clip)
    (tmp_path / "file").touch()
    with pytest.raises(MerFastError, match="is a file"):
        measure_flows([clip], tmp_path / "file")
    with pytest.raises(MerFastError, match="is a file"):
        measure_flows([clip], tmp_path / "file" / "below")
    assert listing(tmp_path) == ["file"]


def test_a_full_disk_ends_the_run_and_the_next_one_goes_on(clip, tmp_path, monkeypatch):
    append = Stack.append

    def full(self, fields):
        if len(self) >= 4:
            raise OSError(errno.ENOSPC, "No space left on device", str(self.path))
        append(self, fields)

    monkeypatch.setattr(Stack, "append", full)
    with pytest.raises(OSError, match="No space left"):
        measure_flows([clip], tmp_path / "out", FlowOptions(batch=4))
    monkeypatch.undo()
    assert measure_flows([clip], tmp_path / "out", FlowOptions(batch=4)).kept == 4


def test_a_file_that_cannot_be_placed_fails_its_clip_alone(tmp_path):
    for name in ("a", "b"):
        write_images(tmp_path / "in" / name / "clip", waves(3, 32, 32))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_text("theirs, in the way of a folder")
    summary = measure_flows([tmp_path / "in"], tmp_path / "out")
    assert summary.clips == 1 and len(summary.failures) == 1
    assert listing(tmp_path / "out") == ["a", "b", "b/clip.npy", "manifest.json"]


def test_a_bug_in_a_thread_is_raised(clip, tmp_path, monkeypatch):
    def broken(*arguments):
        raise ZeroDivisionError

    monkeypatch.setattr("mer_fast.flows.pipeline.default_batch", broken)
    with pytest.raises(ZeroDivisionError):
        measure_flows([clip], tmp_path / "out")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("flow")]


def test_progress_is_told(clip, tmp_path):
    told = []
    measure_flows([clip], tmp_path / "out", FlowOptions(), progress=lambda *step: told.append(step))
    assert told[-1][1:] == (1, 1) and "pairs/s" in told[-1][0]


def test_a_channel_holds_no_more_than_its_bytes():
    channel: Channel[int] = Channel(10)
    put = []

    def fill():
        for number in range(5):
            channel.put(number, 4)
            put.append(number)
        channel.close()

    thread = threading.Thread(target=fill)
    thread.start()
    thread.join(0.2)
    assert put == [0, 1]
    assert list(channel) == [0, 1, 2, 3, 4]
    channel = Channel(10)
    channel.put(1, 1000)  # alone it passes
    channel.abandon()
    with pytest.raises(Abandoned):
        channel.put(2)
    with pytest.raises(Abandoned):
        list(channel)


MEMORY = """
import resource, sys
import torch
from mer_fast.flows import METHODS, FlowOptions, measure_flows
from mer_fast.flows.methods import Method
METHODS["still"] = Method(lambda a, b: torch.ones(len(a), 2, *a.shape[1:]), {"opencv": {}})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
summary = measure_flows(sys.argv[2:], sys.argv[1], FlowOptions(method="still", format="npz", strain=True))
assert not summary.failures, summary.failures
print(summary.pairs, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.full
def test_memory_does_not_grow_with_the_clips(tmp_path):
    video = write_video(tmp_path / "a.avi", waves(60, 480, 640))
    for number in range(1, 12):
        os.link(video, tmp_path / f"a{number}.avi")
    grown = []
    for inputs in ([video], sorted(tmp_path.glob("*.avi"))):
        command = [sys.executable, "-c", MEMORY, str(tmp_path / f"out{len(grown)}"), *map(str, inputs)]
        done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
        pairs, megabytes = map(int, done.stdout.split())
        assert pairs == 59 * len(inputs)
        grown.append(megabytes)
    assert grown[1] < 600, grown  # of 1.7 GB of flow
