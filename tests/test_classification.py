"""A trained network on a user's own clip: as in training, why, in the report, and one line for each way in which it cannot be."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch

from mer_fast import classification, cli, models, tensor_file
from mer_fast.analysis import analyze
from mer_fast.classification import Classifier, relevance
from mer_fast.data import ArrayClip, Cache, CachedClips, Entry, NetworkInput, Preprocessing, Video, VideoClip, synthetic_clip
from mer_fast.data.cache import make_entries
from mer_fast.data.preprocessing import prepare
from mer_fast.errors import MerFastError, VideoError
from mer_fast.report import NETWORK_PICTURES
from mer_fast.training import Changes, Normalised, collate, forward, predict, save_network

from .clips import listing, write_video

CLASSES = ("negative", "positive", "surprise")
# Small forms: options of the network, and what is changed of its input.
NETWORKS = {
    "ststnet": ({}, {}),
    "strcn-g": ({"width": 4}, {"size": [64, 72]}),
    "strcn-a": ({"width": 4, "frames": 8}, {"size": [48, 32], "frames": 8}),
    "microexpstcnn": ({"frames": 18}, {"frames": 18}),
    "microexpfusenet": ({"frames": 18}, {"frames": 18}),
    "atnet": ({"width": 2, "hidden": 8}, {}),
}
FAST = {"size": 32, "num_frames": 3}


@pytest.fixture(scope="module")
def frames():
    return synthetic_clip("mouth", amplitude=2.0, frames=9, onset=0, apex=4, offset=8, size=128, seed=3).frames


@pytest.fixture(scope="module")
def folder(frames, tmp_path_factory):
    out = tmp_path_factory.mktemp("classification") / "clip"
    out.mkdir()
    for k, frame in enumerate(frames):
        cv2.imwrite(str(out / f"{k:03}.png"), frame[..., ::-1])
    return out


def save(path, name, classes=CLASSES, face="lbp", **changes):
    """A network with weights that nobody trained, and statistics as training finds them."""
    options, given = NETWORKS[name]
    torch.manual_seed(1)
    model = models.create(name, len(classes), **options)
    for weight in model.parameters():  # large enough that classes differ
        torch.nn.init.normal_(weight, std=0.3 if weight.numel() < 1000 else 0.05)
    if name == "strcn-a":
        model.fit_mask([torch.randint(0, 256, (4, 48, 32), dtype=torch.uint8).repeat_interleave(8, 1)[:, :48]])
    if name == "microexpfusenet":
        model = Normalised(model, [0.4, 0.5], [0.6, 0.5])
    if name == "microexpstcnn":
        model = Changes(model, [0.05])
    save_network(path, model, name, classes, options, {**given, "face": face, **changes})
    return path


def score_at(classifier, clip, entry, onset, target, share):
    """The class's score on the way from the still face to the clip."""

    def along(still, part):
        return None if part is None else still + share * (part.float() - still)

    point = Entry(
        along(onset, entry.clip), along(onset, entry.apex), along(0.0, entry.flow), along(0.0, entry.strain), entry.apex_index,
        entry.box,
    )  # fmt: skip
    inputs = collate([classifier.input.make(point)])
    if collate([classifier.input.make(entry)])[0].dtype == torch.uint8:
        inputs = tuple(x / 255 for x in inputs)
    with torch.no_grad():
        logits = forward(classifier.saved.model, inputs)[0]
    return float(logits[target] - logits.mean())


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.full] if n == "atnet" else []) for n in NETWORKS])
def test_classifies_as_training_does_and_says_why(name, folder, frames, tmp_path):
    path = save(tmp_path / "network.safetensors", name)
    found = analyze(folder, model=path, **FAST)
    said, classifier = found.classification, Classifier(path)
    clip = ArrayClip(frames, 0, found.apex, len(frames) - 1)
    clips = CachedClips([clip], Cache(tmp_path / "cache", classifier.input.settings), classifier.input.make, [0])
    logits = predict(classifier.saved.model, clips)[0]
    np.testing.assert_array_equal(said.probabilities, logits.softmax(0).numpy())
    assert said.predicted == int(logits.argmax()) and said.classes == CLASSES and said.network == name
    assert said.apex.shape == said.strain.shape == said.relevance.shape == tuple(classifier.input.settings.size)

    entry = clips.cache.read(clip)
    prepared = prepare(clip, classifier.input.settings)
    onset = prepared.clip[0] if len(prepared.clip) else prepared.first[0]
    whole, still = (score_at(classifier, clip, entry, onset.float(), said.predicted, share) for share in (1.0, 1e-4))
    assert whole != still
    error = abs(float(said.relevance.sum()) - (whole - still))
    assert error < 0.1 * abs(whole - still) + 0.02 * float(np.abs(said.relevance).sum())


class Linear(torch.nn.Module):
    """Reads the top half of the flow alone: two weights for each of two classes."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([[2.0, -1.0], [0.0, 0.0]]))

    def forward(self, flow):
        return flow[:, :, :8].sum((2, 3)) @ self.weight.T


def test_relevance_of_a_linear_network_is_exact():
    flow = torch.randn(2, 16, 16)
    entry = Entry(None, None, flow, None, 0, (0, 0, 16, 16))
    reads = NetworkInput(Preprocessing(size=(16, 16), keep=("flow",)), lambda one: one.flow)
    found = relevance(Linear(), reads, entry, torch.zeros(16, 16, dtype=torch.uint8), 0)
    torch.testing.assert_close(found[:8], (2 * flow[0] - flow[1])[:8] / 2)
    assert not found[8:].any()


def test_a_video_is_read_as_a_stream(frames, tmp_path, monkeypatch):
    video = Video(write_video(tmp_path / "a.avi", frames))
    clip, plain, opened = VideoClip(video, 1, 3, 7), list(video.frames()), []
    monkeypatch.setattr(video, "_open", lambda before=video._open: opened.append(1) or before())
    for indices in ([1], [2, 3], [5], [7]):
        np.testing.assert_array_equal(clip.read(indices), [plain[k] for k in indices])
    assert len(opened) == 1 and len(clip.frames) == 8
    np.testing.assert_array_equal(clip.read([1, 3]), [plain[1], plain[3]])
    with pytest.raises(VideoError, match="no readable frame 9"):
        clip.read([9])


def test_entries_are_what_the_cache_makes(frames, tmp_path):
    clip, settings = ArrayClip(frames, 0, 4, 8), Preprocessing(size=(32, 32), keep=("flow", "apex"))
    (made,) = make_entries([(clip, prepare(clip, settings))], settings)
    read = Cache(tmp_path, settings).read(clip)
    assert made.clip is None and made.strain is None and made.box == read.box
    assert torch.equal(made.flow, read.flow) and torch.equal(made.apex, read.apex)


# --- report and command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def mer_fast(capfd, monkeypatch, tmp_path):
    """Runs the command in an empty folder; gives its exit code, its output and the lines of its stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.console, "obey_signals", lambda: None)
    monkeypatch.setattr("warnings.showwarning", lambda *unused: None)

    def run(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return stop.value.code or 0, captured.out, captured.err.splitlines()

    return run


def test_command_reports_the_class(mer_fast, folder, tmp_path):
    names = ["<b>angry</b>", "a $x_1$", "a long name of a class " * 5]
    path = save(tmp_path / "network.safetensors", "ststnet", names, face=None)
    command = ["analyze", folder, "--output", "report", "--size", 32]
    code, out, err = mer_fast(*command, "--model", path, "--offset", 6)
    assert code == 0 and err == [] and "ststnet" in out
    output = tmp_path / "report"
    summary = json.loads((output / "summary.json").read_text())
    said = summary["classification"]
    assert said["classes"] == names and said["predicted"] == names[int(np.argmax(said["probabilities"]))]
    assert sum(said["probabilities"]) == pytest.approx(1, abs=1e-5) and said["offset"] == 6 and summary["frames_read"] == 7
    assert said["whole_frame"] and said["face_box"] == {"x": 0, "y": 0, "width": 128, "height": 128}
    page = (output / "report.html").read_text()
    assert all(picture in page for picture in NETWORK_PICTURES) and "<b>angry" not in page and "whole frames" in page
    for picture in NETWORK_PICTURES:
        assert cv2.imread(str(output / picture)).std() > 5

    assert mer_fast(*command)[0] == 0  # again, without a network: its pictures go
    assert "classification" not in json.loads((output / "summary.json").read_text())
    assert not set(NETWORK_PICTURES) & set(listing(output)) and "relevance" not in (output / "report.html").read_text()


def broken(path, kind):
    """A file that is no network for the clip."""
    if kind == "text":
        path.write_text("no network")
    elif kind == "training":
        tensor_file.save(path, "training", {"a": torch.zeros(3)}, {})
    elif kind == "truncated":
        whole = save(path, "ststnet").read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "weights":
        save_network(path, models.create("ststnet", 3), "ststnet", "abcd")
    elif kind == "options":
        save_network(path, models.create("ststnet", 3), "ststnet", "abc", {"depth": 3})
    elif kind == "setting":
        save(path, "ststnet", colour="red")
    elif kind == "box":
        save(path, "ststnet", face=[900, 900, 50, 50])
    elif kind == "frames":
        save(path, "microexpstcnn", frames=20)
    elif kind == "long":
        save(path, "strcn-a")


BROKEN = {
    "missing": "there is no such file",
    "text": "cannot be read",
    "truncated": "cannot be read",
    "training": "is a training of format 1, where a network",
    "weights": "its weights do not fit ststnet",
    "options": "takes no such options",
    "setting": "colour is no setting",
    "box": "900,900,50,50 is not inside the 128x128 frame",
    "frames": "must have frames=18 frames",
    "long": "has 9 frames from onset 0 to offset 8, and strcn-a reads at most 4",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_network_that_will_not_do_is_one_line(mer_fast, folder, tmp_path, monkeypatch, kind):
    path = tmp_path / "bad.safetensors"
    broken(path, kind)
    if kind == "long":
        monkeypatch.setattr(classification, "MAX_FRAMES", 4)
    before = listing(tmp_path)
    code, out, err = mer_fast("analyze", folder, "--model", path, "--size", 32, "--output", "report")
    assert code == 1 and out == "" and len(err) == 1 and BROKEN[kind] in err[0], err
    assert len(err[0]) < 400 and listing(tmp_path) == before


@pytest.mark.parametrize(("offset", "words"), [(0, "offset must lie behind the onset"), (9, "9 readable frames: offset 9")])
def test_offsets_outside(folder, offset, words):
    with pytest.raises(MerFastError, match=words):
        analyze(folder, offset=offset, **FAST)


def test_the_apex_lies_before_the_offset(folder):
    assert analyze(folder, **FAST).apex > 2 >= analyze(folder, offset=2, **FAST).apex
