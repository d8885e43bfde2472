"""Stopped and gone on: the report is that of an evaluation that ran through, to the last bit, or there is an error."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import mer_fast
from mer_fast import models
from mer_fast.evaluation import KFold, cross_validate, finish, leave_one_subject_out, prepared
from mer_fast.training import Recipe

from .mer_sets import Tiny, TinySet, gradient_steps, one_thread  # noqa: F401 (the fixture)

ROOT = Path(__file__).resolve().parent.parent
DATA = {"noise": 3.0, "sizes": (9, 8, 7, 6)}
RECIPE = Recipe(
    lr=0.02, epochs=12, batch_size=8, optimizer="adam", statistics=("gray_range",), augment=("mirror_flow",), validation=0.3
)


def evaluate(folder=None, train=RECIPE, data=None, **options):
    data = TinySet(**DATA) if data is None else data
    return leave_one_subject_out(Tiny, data, train=train, resume=folder, **options)


def test_finished_folds_are_not_run_again(tmp_path):
    """Stopped in the third fold, by an error of the training's own."""
    ran = []

    def train(model, clips):
        ran.append(clips.name)
        if ran == ["s00", "s01", "s02"]:
            raise KeyboardInterrupt
        gradient_steps(model, clips)

    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path / "kept", train)
    report = evaluate(tmp_path / "kept", train)
    assert ran == ["s00", "s01", "s02", "s02", "s03"]
    assert report == evaluate(train=gradient_steps) == evaluate(tmp_path / "kept", train)
    assert len(ran) == 5


@pytest.mark.parametrize("stage", ["fold s01: epoch 7 of 12", "fold s03: testing"])
def test_goes_on_within_a_fold(tmp_path, stage):
    """Checkpoints after every step; the fold goes on from the last one, not from its start."""
    told = []

    def stop(words, done, total):
        told.append(words)
        if words == stage and told.count(words) == 1:
            raise KeyboardInterrupt

    options = {"checkpoint_seconds": 0.0, "progress": stop}
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path, **options)
    assert list((tmp_path / "checkpoints").glob("*.safetensors"))
    stopped = len(told)
    assert evaluate(tmp_path, **options) == evaluate()
    # The last checkpoint is that behind the epoch's last step; the epoch is then still to be ended.
    assert told[stopped] == ("fold s01: epoch 7 of 12" if "epoch" in stage else "fold s03: epoch 12 of 12")
    assert not list((tmp_path / "checkpoints").iterdir()) and len(list((tmp_path / "folds").iterdir())) == 4


SCRIPT = """
import sys
from tests.test_evaluation_resume import evaluate, cross_validate
print(evaluate(sys.argv[1], checkpoint_seconds=0.0, folds=sys.argv[2]))
"""


def start(folder, folds="sequential"):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), folds], cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ}
    )


def test_killed_in_the_middle(tmp_path):
    with start(tmp_path) as process:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if list((tmp_path / "folds").glob("s01*")) and list((tmp_path / "checkpoints").glob("s02*")):
                break
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not list((tmp_path / "folds").glob("s03*"))
    assert evaluate(tmp_path) == evaluate()


@pytest.mark.full
@pytest.mark.parametrize("folds", ["sequential", "processes"])
def test_killed_at_any_moment(tmp_path, folds):
    """Again and again, somewhat later each time."""
    for patience in torch.linspace(2, 6, 10).tolist():
        with start(tmp_path, folds) as process:
            time.sleep(patience)
            process.send_signal(signal.SIGKILL)
    assert evaluate(tmp_path) == evaluate()


def other_data(**changes):
    data = TinySet(**DATA)
    for name, value in changes.items():
        setattr(data, name, value)
    return data


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"seed": 1}, "seed"),
        ({"train": RECIPE.replace(lr=0.021)}, "train"),
        ({"train": gradient_steps}, "train"),
        ({"train": functools.partial(gradient_steps, steps=5)}, "train"),
        ({"data": TinySet(**DATA, seed=1)}, "data set"),
        ({"data": TinySet(sizes=(9, 8, 7, 5), noise=3.0)}, "protocol, data set"),
        ({"data": other_data(classes=[0] * 30)}, "data set"),
        ({"data": other_data(fingerprint="by hand")}, "data set"),
        ({"threads": 2}, "number of threads"),
    ],
)  # fmt: skip
def test_other_settings_are_not_pooled(tmp_path, changes, what):
    evaluate(tmp_path, RECIPE.replace(epochs=1))
    evaluate(tmp_path, RECIPE.replace(epochs=1))
    with pytest.raises(mer_fast.MerFastError, match=f"holds an evaluation with another .*{what}.*: give a new folder"):
        evaluate(tmp_path, **{"train": RECIPE.replace(epochs=1), **changes})


def test_the_kind_of_engine_the_backend_and_the_dtype_are_settings(tmp_path):
    """ "batched" draws another dropout; the other engines are of one kind."""
    data = SmallClips()
    recipe = Recipe(lr=1e-3, epochs=1, batch_size=8)

    def run(folds):
        return cross_validate(KFold(2), small_network, data, train=recipe, folds=folds, resume=tmp_path)

    kept = run("sequential")
    assert run("processes") == kept
    with pytest.raises(mer_fast.MerFastError, match="another kind of engine: give a new folder"):
        run("batched")
    with mer_fast.backend("reference"), pytest.raises(mer_fast.MerFastError, match="another backend: give a new folder"):
        run("sequential")
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(mer_fast.MerFastError, match=r"another .*default dtype"):
            run("sequential")
    finally:
        torch.set_default_dtype(torch.float32)
    one = prepared(KFold(2), small_network, data, train=recipe, resume=tmp_path)
    with pytest.raises(mer_fast.MerFastError, match='prepared for folds="sequential" keeps its results: finish it with'):
        finish([one], folds="batched")


class SmallClips(TinySet):
    def __init__(self):
        super().__init__()
        self.inputs = torch.randn(len(self), 3, 28, 28, generator=torch.Generator().manual_seed(0))


def small_network():
    return models.STSTNet(3)


def test_a_function_is_known_by_what_it_does(tmp_path):
    def training(steps, then=None):
        return lambda model, clips: gradient_steps(model, clips, steps)

    kept = evaluate(tmp_path, training(3))
    assert evaluate(tmp_path, training(3)) == kept
    with pytest.raises(mer_fast.MerFastError, match="another train"):
        evaluate(tmp_path, training(4))
    with pytest.raises(mer_fast.MerFastError, match="another train"):
        evaluate(tmp_path, lambda model, clips: gradient_steps(model, clips, 3))
    with pytest.raises(mer_fast.MerFastError, match="another network"):
        leave_one_subject_out(lambda: Tiny(4), TinySet(**DATA), train=training(3), resume=tmp_path)
    with pytest.raises(mer_fast.MerFastError, match="another protocol"):
        cross_validate(KFold(4), Tiny, TinySet(**DATA), train=training(3), resume=tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty", "swapped"])
def test_a_damaged_fold_is_run_again(tmp_path, damage):
    report = evaluate(tmp_path, gradient_steps)
    first, second = sorted((tmp_path / "folds").iterdir())[:2]
    text = first.read_text()
    stored = json.loads(text)
    stored["predictions"][0] = (stored["predictions"][0] + 1) % 3
    first.write_text({"truncated": text[:-20], "changed": json.dumps(stored), "empty": "", "swapped": second.read_text()}[damage])
    assert evaluate(tmp_path, gradient_steps) == report
    assert first.read_text() == text


def test_folders_that_will_not_do(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "evaluation.json").write_text("{")
    for name, message in (("file", "is a file, not a folder"), ("other", "holds other things"), ("broken", "cannot be read")):
        with pytest.raises(mer_fast.MerFastError, match=message):
            evaluate(tmp_path / name, gradient_steps)
    assert [entry.name for entry in (tmp_path / "other").iterdir()] == ["thesis.tex"]
    checkpoints = tmp_path / "kept" / "checkpoints"
    evaluate(tmp_path / "kept", RECIPE.replace(epochs=1))
    for left in (tmp_path / "kept" / "folds").iterdir():
        checkpoints.mkdir(exist_ok=True)
        (checkpoints / left.with_suffix(".safetensors").name).write_bytes(b"half a file")
        left.unlink()
    with pytest.raises(mer_fast.MerFastError, match=r"fold s00: .*safetensors cannot be read .*delete it"):
        evaluate(tmp_path / "kept", RECIPE.replace(epochs=1))
