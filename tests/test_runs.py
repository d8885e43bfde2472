"""The output folder of a run: a start afresh that is killed does not lock it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mer_fast import runs
from mer_fast.data import SyntheticSet
from mer_fast.errors import MerFastError
from mer_fast.evaluation_report import is_report
from mer_fast.plan import load_plan


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", range(9))
def test_a_folder_can_be_used_after_a_kill_in_its_clearing(tmp_path, monkeypatch, after):
    plan = type("Plan", (), {"output": tmp_path / "out"})
    fold = plan.output / "folds" / "seed-0" / "a"
    fold.mkdir(parents=True)
    for name in ("run.json", "report.html", "confusion.png", "report.json", "notes.txt"):
        (plan.output / name).write_text("{}")
    (fold / "fold-0.json").write_text("{}")
    (plan.output / "summary.json").write_text('{"program": "mer_fast evaluation"}')
    left = [after]

    def killing(function):
        def run(*arguments, **options):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return function(*arguments, **options)

        return run

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killing(Path.unlink))
        patch.setattr(shutil, "rmtree", killing(shutil.rmtree))
        with pytest.raises(Killed):
            runs._begin(plan, "evaluate", {}, resume=False)
    assert is_report(plan.output)  # whoever goes on may replace what is left of the report
    runs._begin(plan, "evaluate", {"lr": 1}, resume=False)
    assert sorted(file.name for file in plan.output.iterdir()) == ["notes.txt", "run.json"]
    with pytest.raises(MerFastError, match="holds other things"):
        (plan.output / "run.json").unlink()
        runs._begin(plan, "evaluate", {}, resume=True)


def test_a_plan_of_the_synthetic_set(tmp_path):
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    (tmp_path / "small.yaml").write_text(
        "data: {synthetic: {subjects: 3, clips_per_subject: 3, size: 64, frames: 16}}\n"
        "recipe: {name: ststnet-small, epochs: 2}\ninput: {size: [32, 32]}\nengine: batched\n"
        f"cache: {tmp_path / 'cache'}\noutput: {tmp_path / 'out'}\n"
    )
    (evaluated,) = runs.evaluate_plans([load_plan(tmp_path / "small.yaml")], progress=lambda *told: None)
    report, clips = evaluated.reports[0], SyntheticSet(3, 3, size=64, frames=16)
    assert report.targets.tolist() == [clips.targets[i] for i in report.indices] and sorted(report.indices) == list(range(9))
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary == evaluated.summary and "brow" in json.dumps(summary) and "synthetic/sub03" in json.dumps(summary)
    (tmp_path / "wrong.yaml").write_text("data: {synthetic: {people: 3}}\nrecipe: ststnet-small\n")
    with pytest.raises(MerFastError, match=r"data\.synthetic: .*people"):
        runs.evaluate_plans([load_plan(tmp_path / "wrong.yaml")], progress=lambda *told: None)
