"""The command mer-fast: what it prints and writes, one line for each way in which input is bad, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
from rich.console import Console

from mer_fast import cli, console
from mer_fast.data import synthetic_clip
from mer_fast.data.flow_io import read_flow
from mer_fast.flows import FlowOptions, measure_flows

from .clips import cut, listing, waves, write_video

COMMAND = [sys.executable, "-m", "mer_fast.cli"]


@pytest.fixture(scope="module")
def clip():
    return synthetic_clip("mouth", amplitude=2.0, seed=3)


@pytest.fixture
def mer_fast(capfd, monkeypatch, tmp_path):
    """Runs the command in an empty folder, in this process; gives its exit code, its output and the lines of its stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # main replaces it; undone at the end
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments: object) -> tuple[int, str, list[str]]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit, warnings.catch_warnings():
            warnings.simplefilter("default")
            cli.main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return exit.value.code or 0, captured.out, captured.err.splitlines()

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_info_as_tables_and_as_json(mer_fast):
    code, out, err = mer_fast("info")
    assert code == 0 and err == []
    assert "tvl1_flow" in out and "torch" in out
    code, out, _ = mer_fast("info", "--json")
    assert code == 0 and "tvl1_flow" in json.loads(out)["ops"]


def test_help_names_the_commands(mer_fast):
    code, out, _ = mer_fast("--help")
    assert code == 0
    assert all(name in out for name in ("info", "demo", "analyze", "flow"))


def test_demo_measures_what_it_planted(mer_fast, tmp_path):
    code, out, err = mer_fast("demo", "--seed", 1, "--region", "brow", "--amplitude", 2)
    assert code == 0 and err == []
    assert listing(tmp_path)[0] == "mer-fast-demo"
    summary = json.loads((tmp_path / "mer-fast-demo" / "summary.json").read_text())
    assert abs(summary["apex"] - summary["planted"]["apex"]) <= 1
    assert summary["endpoint_error"] < 0.7 * summary["planted"]["motion_mean"]
    assert f"{summary['endpoint_error']:.3f} px" in out
    assert f"{summary['opencv']['endpoint_error']:.3f} px" in out
    assert "mer-fast-demo/report.html" in out and "brow" in summary["video"]


def test_demo_replaces_its_own_report_and_nothing_else(mer_fast, tmp_path):
    output = tmp_path / "out"
    assert mer_fast("demo", "--output", output)[0] == 0
    before = listing(output)
    (output / "notes.txt").write_text("theirs")
    assert mer_fast("demo", "--output", output, "--region", "eye")[0] == 0
    assert listing(output) == sorted([*before, "notes.txt"])
    assert "eye" in json.loads((output / "summary.json").read_text())["video"]
    assert (output / "notes.txt").read_text() == "theirs"


def test_analyze_names_its_folder_after_the_video(mer_fast, tmp_path, clip):
    video = write_video(tmp_path / "smile.avi", clip.frames)
    code, out, err = mer_fast("analyze", video, "--onset", 8, "--frames", 6, "--size", 64, "--compare", "--apex", "flow")
    assert code == 0 and err == []
    summary = json.loads((tmp_path / "smile" / "summary.json").read_text())
    assert (summary["onset"], summary["tim_frames"], summary["size"], summary["apex_method"]) == (8, 6, 64, "flow")
    assert abs(summary["apex"] - clip.apex) <= 1
    assert summary["opencv"]["seconds"] > 0 and summary["endpoint_error"] is None
    assert "OpenCV" in out and "smile/report.html" in out


def test_default_folder_is_never_the_video_itself(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "clip2").mkdir()
    (tmp_path / "bare").touch()
    (tmp_path / "film.x.mp4").touch()
    assert cli.default_output(Path("clip")) == Path("clip-report")
    assert cli.default_output(Path("other/clip2")) == Path("clip2")
    assert cli.default_output(Path("bare")) == Path("bare-report")
    assert cli.default_output(Path("film.x.mp4")) == Path("film.x")


def test_a_cut_video_is_analysed_with_a_warning(mer_fast, tmp_path, clip):
    video = cut(write_video(tmp_path / "a.avi", clip.frames), 0.6)
    code, out, err = mer_fast("analyze", video)
    assert code == 0 and "Report" in out
    assert len(err) == 1 and err[0].startswith("mer-fast: warning: ") and "of 40 declared frames" in err[0]


def make_inputs(folder: Path, clip) -> None:
    """Everything that the bad commands below read."""
    write_video(folder / "good.avi", clip.frames[:12])
    write_video(folder / "one.avi", clip.frames[:1])
    write_video(folder / "waves.avi", waves(12))
    (folder / "text.mp4").write_text("no video at all\n" * 100)
    (folder / "empty.mp4").touch()
    (folder / "empty").mkdir()
    (folder / "file").write_text("in the way")
    (folder / "used").mkdir()
    (folder / "used" / "flow.png").write_text("theirs")
    face = skimage.data.astronaut()[:96, 160:288]
    cv2.imwrite(str(folder / "a.png"), face)
    cv2.imwrite(str(folder / "small.png"), face[:50, :50])
    cv2.imwrite(str(folder / "tiny.png"), face[:8, :8])
    (folder / "fake.png").write_text("no image")
    (folder / "half.png").write_bytes((folder / "a.png").read_bytes()[:3000])


BAD = {
    "no such video": ("analyze nothing.mp4", "nothing.mp4"),
    "not a video": ("analyze text.mp4", "text.mp4"),
    "empty file": ("analyze empty.mp4", "empty.mp4"),
    "folder without images": ("analyze empty", "empty"),
    "an image": ("analyze a.png", "a.png"),
    "one frame": ("analyze one.avi", "1 readable frames, 1 from onset 0"),
    "onset at the last frame": ("analyze good.avi --onset 11", "12 readable frames, 1 from onset 11"),
    "onset outside": ("analyze good.avi --onset 12", "12 readable frames, 0 from onset 12"),
    "negative onset": ("analyze good.avi --onset -1", "onset"),
    "tiny crop": ("analyze good.avi --size 4", "size"),
    "no frames wanted": ("analyze good.avi --frames 0", "num_frames"),
    "no face": ("analyze waves.avi", "no face"),
    "unknown detector": ("analyze good.avi --detector nobody", "nobody"),
    "box outside": ("analyze good.avi --detector 900,900,10,10", "900,900,10,10"),
    "output is a file": ("analyze good.avi --output file", "file"),
    "output below a file": ("analyze good.avi --output file/deep/report", "is a file"),
    "output has their picture": ("analyze good.avi --output used", "flow.png"),
    "demo below a file": ("demo --output file/report", "is a file"),
    "demo too strong": ("demo --amplitude 900", "amplitude"),
    "flow of different sizes": ("flow a.png small.png --output f.flo", "128x96"),
    "flow of no image": ("flow a.png fake.png --output f.flo", "fake.png"),
    "flow of half an image": ("flow a.png half.png --output f.flo", "half.png"),
    "flow of nothing": ("flow a.png nothing.png --output f.flo", "nothing.png"),
    "flow of tiny images": ("flow tiny.png tiny.png --output f.flo", "16 pixels"),
    "flow to an unknown ending": ("flow a.png a.png --output f.txt", ".flo"),
    "flow without ending": ("flow a.png a.png --output f", ".flo"),
    "flow below a file": ("flow a.png a.png --output file/f.flo", "is a file"),
    "flow into a folder": ("flow a.png a.png --output folder.flo", "is a folder"),
    "flow of one image": ("flow a.png --output f.flo", "give two"),
    "flow of three images": ("flow a.png a.png a.png --output f.flo", "give two"),
    "flow of images by pairs": ("flow a.png a.png --output f.flo --pairs onset", "--pairs"),
    "strain of images in .flo": ("flow a.png a.png --output f.flo --strain", ".npz"),
    "flow by no method": ("flow a.png a.png --output f.flo --method magic", "magic"),
    "flow of no video": ("flow text.mp4 --output flow", "text.mp4"),
    "flow of a missing video": ("flow nothing.mp4 --output flow", "nothing.mp4"),
    "flow of an empty folder": ("flow empty --output flow", "empty"),
    "flow of one frame": ("flow one.avi --output flow", "1 readable frames"),
    "flow of a missing list": ("flow nothing.txt --output flow", "nothing.txt"),
    "flow of a faceless video": ("flow waves.avi --output flow --crop face", "no face"),
    "flow cut to something": ("flow good.avi --output flow --crop hand", "hand"),
    "flow into its input": ("flow empty --output empty", "is an input"),
    "flow of clips below a file": ("flow good.avi --output file/flow", "is a file"),
    "flow of clips to a file": ("flow good.avi --output file", "is a file"),
}


@pytest.fixture(scope="module")
def inputs(clip, tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder, clip)
    (folder / "folder.flo").mkdir()
    return folder


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(mer_fast, inputs, monkeypatch, case):
    monkeypatch.chdir(inputs)
    command, words = BAD[case]
    before = listing(inputs)
    code, out, err = mer_fast(*command.split())
    assert code == 1 and out == ""
    assert len(err) == 1 and err[0].startswith("mer-fast: ") and words in err[0], err
    assert listing(inputs) == before


def test_bad_input_through_a_real_process(inputs, tmp_path):
    command = [*COMMAND, "analyze", str(inputs / "text.mp4")]
    run = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert run.returncode == 1 and run.stdout == ""
    assert len(run.stderr.splitlines()) == 1 and "Traceback" not in run.stderr
    assert listing(tmp_path) == []


def test_bad_usage_exits_with_two(mer_fast, inputs):
    for arguments in (["analyze"], ["analyze", inputs / "good.avi", "--apex", "guess"], ["flow", "a.png"], ["nonsense"]):
        code, out, err = mer_fast(*arguments)
        assert code == 2 and out == "" and "Traceback" not in "".join(err)


def test_a_bug_shows_its_traceback(mer_fast, monkeypatch):
    def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("mer_fast.info", broken)
    with pytest.raises(ZeroDivisionError):
        mer_fast("info")


@pytest.mark.parametrize("ending", ["flo", "npz", "png"])
def test_flow_between_two_images(mer_fast, tmp_path, ending):
    face = cv2.GaussianBlur(skimage.data.astronaut()[40:168, 160:288], (0, 0), 1.5)
    cv2.imwrite(str(tmp_path / "a.png"), face)
    cv2.imwrite(str(tmp_path / "b.png"), np.roll(face, (1, 2), axis=(0, 1)))
    output = tmp_path / "new" / f"f.{ending}"
    code, out, err = mer_fast("flow", tmp_path / "a.png", tmp_path / "b.png", "--output", output)
    assert code == 0 and err == [] and str(output) in out.replace("\n", "")
    if ending == "png":
        assert cv2.imread(str(output)).shape == (128, 128, 3)
    else:
        u, v = read_flow(output)[:, 20:-20, 20:-20]
        assert np.median(u) == pytest.approx(2, abs=0.1) and np.median(v) == pytest.approx(1, abs=0.1)


def test_flow_presets_differ(mer_fast, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), skimage.data.astronaut()[40:104, 160:224])
    cv2.imwrite(str(tmp_path / "b.png"), skimage.data.astronaut()[41:105, 162:226])
    for preset in ("opencv", "ipol"):
        assert mer_fast("flow", "a.png", "b.png", "--output", f"{preset}.flo", "--preset", preset)[0] == 0
    assert not np.array_equal(read_flow(tmp_path / "opencv.flo"), read_flow(tmp_path / "ipol.flo"))


def test_flow_between_two_images_with_strain(mer_fast, tmp_path):
    face = skimage.data.astronaut()[40:104, 160:224]
    cv2.imwrite(str(tmp_path / "a.png"), face)
    cv2.imwrite(str(tmp_path / "b.png"), np.roll(face, 1, axis=1))
    assert mer_fast("flow", "a.png", "b.png", "--output", "f.npz", "--strain")[0] == 0
    with np.load(tmp_path / "f.npz") as arrays:
        assert arrays["flow"].shape == (2, 64, 64) and arrays["strain"].shape == (1, 64, 64)


def test_flow_of_clips_and_what_is_broken(mer_fast, tmp_path, inputs):
    videos = [inputs / "good.avi", inputs / "text.mp4", inputs / "waves.avi", inputs / "empty.mp4"]
    code, out, err = mer_fast("flow", *videos, "--output", "out", "--step", 4, "--size", 64)
    assert code == 1
    assert [line.split(": ")[0] for line in err] == ["mer-fast", "mer-fast"]
    assert "text.mp4" in err[0] and "empty.mp4" in err[1]
    assert out.startswith("4 pairs of 2 clips; ") and out.endswith(" pairs/s; 2 failures, told above: out\n")
    assert listing(tmp_path) == ["out", "out/good.avi.npy", "out/manifest.json", "out/waves.avi.npy"]
    code, out, err = mer_fast("flow", videos[0], videos[2], "--output", "out", "--step", 4)
    assert (code, out, err) == (0, "4 pairs of 2 clips; kept 4 of 4: out\n", [])
    code, out, err = mer_fast("flow", videos[0], "--output", "out")
    assert code == 1 and out == "" and len(err) == 1 and "step 4, and this is step 1" in err[0]
    code, out, _ = mer_fast("flow", videos[0], "--output", "out", "--overwrite")
    assert code == 0 and out.startswith("11 pairs of 1 clip; ")
    assert listing(tmp_path) == ["out", "out/good.avi.npy", "out/manifest.json"]


def environment() -> dict[str, str]:
    root = str(Path(__file__).parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}


@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_an_interrupted_analysis_leaves_nothing(tmp_path, number, word):
    video = write_video(tmp_path / "long.avi", np.concatenate([waves(50)] * 20))
    arguments = ["analyze", str(video), "--detector", "0,0,240,240", "--size", "224", "--apex", "flow", "--output", "a/report"]
    process = subprocess.Popen([*COMMAND, *arguments], cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while len(listing(tmp_path)) < 3:  # until the report's temporary folder stands beside its place
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.5)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert err.splitlines() == [f"mer-fast: {word}"]
    assert listing(tmp_path) == ["long.avi"]


@pytest.mark.parametrize("side", [64, 1500])
def test_an_interrupted_flow_ends_within_a_second_and_goes_on(tmp_path, side):
    """Also where a single pair takes longer: the kernel is not waited for."""
    write_video(tmp_path / "long.avi", np.concatenate([waves(50, side, side)] * 12) if side < 100 else waves(6, side, side))
    command = [*COMMAND, "flow", str(tmp_path / "long.avi"), "--output", "out", "--batch", "4"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(listing(tmp_path)) < (6 if side < 100 else 5):  # until pairs are written; of large frames, until there is a journal
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0 if side < 100 else 0.3)
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - started < 3  # one second, on a machine with nothing else to do
    assert process.returncode == 130
    assert err == "mer-fast: interrupted; what is measured stays in out, and the same command goes on from there\n"
    if side < 100:
        summary = measure_flows([tmp_path / "long.avi"], tmp_path / "out", FlowOptions())
        assert summary.pairs == 599 and 0 < summary.kept < 599 and summary.kept % 4 == 0


def test_a_bar_is_drawn_on_a_terminal_alone(monkeypatch, capfd):
    monkeypatch.setattr(console, "_PATIENCE", 0.0)
    for terminal in (False, True):
        monkeypatch.setattr(console, "_stderr", Console(stderr=True, force_terminal=terminal, width=120))
        with console.progress() as progress:
            progress("Looking for the apex", 3, 10)
            progress("Drawing the report", 0, None)
        out, err = capfd.readouterr()
        assert out == "" and ("Drawing the report" in err) == terminal and bool(err) == terminal
