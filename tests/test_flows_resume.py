"""A run over many clips that is killed, at any moment, and started again: the same bytes as one that was left alone."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import skimage.data

from mer_fast.errors import MerFastError
from mer_fast.flows import METHODS, FlowOptions, measure_flows
from mer_fast.flows.folder import MANIFEST, output_folder

from .clips import listing, waves, write_video

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")

SEED = 7
TOUCHES = ("open", "os.rename", "os.remove", "os.truncate", "os.mkdir", "os.rmdir", "os.listdir")
LONG = [pytest.param(format, marks=pytest.mark.full) for format in ("npz", "flo")]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {name: (folder / name).read_bytes() for name in listing(folder) if (folder / name).is_file()}


def make_videos(folder: Path, count: int, frames: int, side: int) -> Path:
    """A face that drifts, another way in each video, in folders of three."""
    face = cv2.resize(skimage.data.astronaut()[:256, 96:352], (side, side), interpolation=cv2.INTER_AREA)
    for number in range(count):
        place = folder / f"s{number // 3:02d}"
        place.mkdir(parents=True, exist_ok=True)
        shifts = [np.float32([[1, 0, 0.3 * k], [0, 1, 0.1 * k * number]]) for k in range(frames)]
        moved = [cv2.warpAffine(face, shift, (side, side), borderMode=cv2.BORDER_REPLICATE) for shift in shifts]
        write_video(place / f"clip{number}.avi", np.stack(moved))
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return make_videos(tmp_path_factory.mktemp("videos"), count=6, frames=9, side=40)


@pytest.fixture(scope="module")
def processes():
    """Processes that start within milliseconds: forked from one that has imported everything, and run no thread."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mer_fast.flows", "cv2", __name__])
    return context


def run(inputs: Path, output: Path, options: dict) -> None:
    measure_flows([inputs], output, FlowOptions(**options))


def run_until(inputs: Path, output: Path, options: dict, last: int) -> None:
    """Kills its own process at the `last`-th time that it touches a file of the output."""
    count = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal count
        if event in TOUCHES and str(output) in str(arguments[0]):
            count += 1
            if count == last:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    run(inputs, output, options)


def kill_at_random(processes, inputs: Path, output: Path, options: dict, times: int, seconds: float) -> int:
    """Starts a run and kills it within `seconds` of its beginning, `times` times; tells how often it was at work."""
    chance = random.Random(SEED)
    killed = 0
    for _ in range(times):
        process = processes.Process(target=run, args=(inputs, output, options))
        process.start()
        while process.is_alive() and not (output / ".unfinished" / "lock").exists():
            time.sleep(0.001)
        process.join(chance.uniform(0, seconds))
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL and (output / ".unfinished").exists()
    return killed


@pytest.mark.parametrize("format", ["npy", "flo"])
def test_killed_at_random_and_started_again_gives_the_same_bytes(videos, processes, tmp_path, format):
    options = {"format": format, "batch": 4, "strain": format == "npy"}
    whole = measure_flows([videos], tmp_path / "whole", FlowOptions(**options))
    assert (whole.clips, whole.pairs, whole.kept, whole.failures) == (6, 48, 0, [])
    output = tmp_path / "killed"
    assert kill_at_random(processes, videos, output, options, times=5, seconds=0.5 * whole.seconds)
    summary = measure_flows([videos], output, FlowOptions(**options))
    assert (summary.pairs, summary.failures) == (48, [])
    assert contents(output) == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    "format", ["npy", pytest.param("npz", marks=pytest.mark.full), pytest.param("flo", marks=pytest.mark.full)]
)
def test_killed_at_every_touch_of_a_file(videos, processes, tmp_path, request, format):
    """Each run is killed some touches later than the one before, in a fresh folder, and finished by another."""
    options = {"format": format, "batch": 5, "strain": True}
    inputs = videos / "s00"
    whole = measure_flows([inputs], tmp_path / "whole", FlowOptions(**options))
    expected = contents(tmp_path / "whole")
    kept = []
    last, step = 1, 1 if request.config.getoption("--full") else 7
    while True:
        output = tmp_path / f"killed{last}"
        process = processes.Process(target=run_until, args=(inputs, output, options, last))
        process.start()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        summary = measure_flows([inputs], output, FlowOptions(**options))
        kept.append(summary.kept)
        assert (summary.pairs, summary.failures) == (whole.pairs, [])
        assert contents(output) == expected, last
        last += step
    assert kept[0] == 0 and kept[-1] == whole.pairs and len(set(kept)) > 3


def test_what_is_kept_is_not_measured_again(videos, tmp_path):
    output = tmp_path / "out"
    first = measure_flows([videos / "s00"], output)
    before = {name: (output / name).stat().st_mtime_ns for name in listing(output) if name.endswith(".npy")}
    again = measure_flows([videos / "s00"], output)
    assert (first.kept, again.kept, again.pairs) == (0, 24, 24)
    assert {name: (output / name).stat().st_mtime_ns for name in before} == before
    (output / "clip1.avi.npy").unlink()
    assert measure_flows([videos / "s00"], output).kept == 16


def test_half_a_clip_is_kept(tmp_path, monkeypatch):
    """A long clip whose run ends in the middle goes on from there, and from whole pairs."""
    video = write_video(tmp_path / "long.avi", waves(40, 32, 48))
    whole = contents_of_run(video, tmp_path / "whole")
    output = tmp_path / "out"
    from mer_fast.flows import pipeline

    class Enough(BaseException):
        pass

    finish = pipeline.Pipeline._write

    def stop_after(self, job, flow):
        finish(self, job, flow)
        if job.written >= 16:
            raise Enough

    monkeypatch.setattr(pipeline.Pipeline, "_write", stop_after)
    with pytest.raises(Enough):
        measure_flows([video], output, FlowOptions(batch=8))
    monkeypatch.undo()
    (part,) = [path for path in (output / ".unfinished").iterdir() if "journal" not in path.name]
    with part.open("ab") as file:
        file.write(b"half a pair")  # as a kill in the middle of a write leaves it
    summary = measure_flows([video], output, FlowOptions(batch=8))
    assert summary.pairs == 39 and summary.kept == 16
    assert contents(output) == whole


def contents_of_run(inputs: Path, output: Path) -> dict[str, bytes]:
    measure_flows([inputs], output)
    return contents(output)


@pytest.mark.parametrize("method", METHODS)
def test_no_result_depends_on_the_batch(videos, tmp_path, method):
    results = []
    for batch in (2, 7, 100):
        measure_flows([videos / "s00"], tmp_path / str(batch), FlowOptions(method=method, batch=batch))
        results.append(contents(tmp_path / str(batch)))
    assert results[0] == results[1] == results[2]


def test_other_parameters_are_refused_until_overwritten(videos, tmp_path):
    output = tmp_path / "out"
    measure_flows([videos / "s00"], output, FlowOptions(format="flo", strain=True))
    (output / "notes.txt").write_text("theirs")
    before = contents(output)
    for other, words in (
        (FlowOptions(preset="ipol", format="flo", strain=True), "preset opencv, and this is preset ipol"),
        (FlowOptions(format="npy"), "format flo, strain True, and this is format npy, strain False"),
    ):
        with pytest.raises(MerFastError, match=f"{words}.*--overwrite"):
            measure_flows([videos / "s00"], output, other)
        assert contents(output) == before
    summary = measure_flows([videos / "s01"], output, FlowOptions(preset="ipol"), overwrite=True)
    assert summary.kept == 0
    assert listing(output) == ["clip3.avi.npy", "clip4.avi.npy", "clip5.avi.npy", "manifest.json", "notes.txt"]


def test_parameters_of_an_unfinished_run_are_refused_too(videos, tmp_path, monkeypatch):
    output = tmp_path / "out"
    monkeypatch.setattr("mer_fast.flows.folder.OutputFolder.complete", stop)
    with pytest.raises(KeyboardInterrupt):
        measure_flows([videos / "s00"], output)
    monkeypatch.undo()
    assert not (output / MANIFEST).exists()
    with pytest.raises(MerFastError, match="step 1, and this is step 2"):
        measure_flows([videos / "s00"], output, FlowOptions(step=2))
    assert measure_flows([videos / "s00"], output).kept == 24
    assert not (output / ".unfinished").exists()


def stop(*arguments: object) -> None:
    raise KeyboardInterrupt


def test_another_version_is_other_parameters(videos, tmp_path, monkeypatch):
    measure_flows([videos / "s00"], tmp_path / "out")
    monkeypatch.setattr("mer_fast.flows.job.__version__", "9.9")
    with pytest.raises(MerFastError, match=r"mer_fast 0\.\S+, and this is mer_fast 9\.9"):
        measure_flows([videos / "s00"], tmp_path / "out")


def test_a_clip_that_changed_is_told_and_its_flow_stays(tmp_path):
    source = make_videos(tmp_path / "in", count=2, frames=4, side=32)
    output = tmp_path / "out"
    measure_flows([source], output)
    before = contents(output)
    write_video(source / "s00" / "clip1.avi", waves(5, 32, 32))
    summary = measure_flows([source], output)
    assert summary.kept == 3 and "has changed" in summary.failures[0].reason
    assert contents(output)["s00/clip1.avi.npy"] == before["s00/clip1.avi.npy"]
    (output / "s00" / "clip1.avi.npy").unlink()
    summary = measure_flows([source], output)
    assert (summary.pairs, summary.kept, summary.failures) == (7, 3, [])


def test_more_clips_join_those_of_an_earlier_run(videos, tmp_path):
    measure_flows([videos / "s00", videos / "s01"], tmp_path / "both")
    measure_flows([videos / "s01", videos / "s00" / "clip1.avi"], tmp_path / "out")
    summary = measure_flows([videos / "s00", videos / "s01"], tmp_path / "out")
    assert summary.kept == 24
    clips = json.loads((tmp_path / "out" / MANIFEST).read_text())["clips"]
    assert len(clips) == 7 and [clip["clip"] for clip in clips] == sorted(clip["clip"] for clip in clips)


@pytest.mark.parametrize("name", ["clip0.avi.npy", "manifest.json"])
def test_a_file_of_somebody_else_is_never_replaced(videos, tmp_path, name):
    output = tmp_path / "out"
    output.mkdir()
    (output / name).write_text("{}")
    if name == "manifest.json":
        with pytest.raises(MerFastError, match="not of mer-fast"):
            measure_flows([videos / "s00"], output, overwrite=True)
        assert listing(output) == [name]
    else:
        summary = measure_flows([videos / "s00"], output)
        assert summary.clips == 2 and "stands there already" in summary.failures[0].reason
    assert (output / name).read_text() == "{}"


def hold(output: Path, held: object, release: object) -> None:
    with output_folder(output, {"versions": {}, "parameters": {"format": "npy", "strain": False}}, overwrite=False):
        held.set()
        release.wait(30)


def test_one_process_at_a_time(videos, processes, tmp_path):
    output = tmp_path / "out"
    held, release = processes.Event(), processes.Event()
    process = processes.Process(target=hold, args=(output, held, release))
    process.start()
    assert held.wait(30)
    with pytest.raises(MerFastError, match=rf"another mer-fast \(process {process.pid}\)"):
        measure_flows([videos / "s00"], output)
    process.kill()  # a lock must end with its process
    process.join()
    with pytest.raises(MerFastError, match="format npy"):
        measure_flows([videos / "s00"], output, FlowOptions(format="flo"))
    assert measure_flows([videos / "s00"], output, overwrite=True).clips == 3


def test_one_run_at_a_time_in_a_process_too(videos, tmp_path):
    with (
        output_folder(tmp_path / "out", {"versions": {}, "parameters": {}}, overwrite=False),
        pytest.raises(MerFastError, match=f"process {os.getpid()}"),
    ):
        measure_flows([videos / "s00"], tmp_path / "out")


@pytest.mark.full
@pytest.mark.parametrize("format", ["npy", "npz", "flo"])
def test_500_pairs_of_20_videos_killed_in_the_middle(processes, tmp_path, format):
    videos = make_videos(tmp_path / "videos", count=20, frames=26, side=128)
    options = {"format": format}
    whole = measure_flows([videos], tmp_path / "whole", FlowOptions(**options))
    assert (whole.clips, whole.pairs) == (20, 500)
    output = tmp_path / "killed"
    assert kill_at_random(processes, videos, output, options, times=6, seconds=0.4 * whole.seconds) > 1
    summary = measure_flows([videos], output, FlowOptions(**options))
    assert summary.pairs == 500 and summary.kept > 0
    assert contents(output) == contents(tmp_path / "whole")
