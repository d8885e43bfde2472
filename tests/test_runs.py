"""The output folder of a run: a start afresh that is killed does not lock it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mer_fast import runs
from mer_fast.errors import MerFastError
from mer_fast.evaluation_report import is_report


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
