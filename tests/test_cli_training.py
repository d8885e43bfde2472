"""mer-fast train and evaluate: what they write, and that a run that was stopped ends as one that ran through."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from mer_fast import cli, evaluation_report
from mer_fast.data import make_example_folder
from mer_fast.evaluation import Report
from mer_fast.training import load_network, loop

ROOT = Path(__file__).resolve().parent.parent
TEXT = """
data: {{dataset: casme2, folder: "{folder}"}}
recipe: {{name: ststnet-small, epochs: 6, batch_size: 8}}
input: {{size: [32, 32]}}
protocol: {{name: k-fold, k: 3}}
cache: "{folder}-cache"
checkpoint_seconds: 0
threads: 1
output: mine
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_example_folder("casme2", tmp_path_factory.mktemp("data") / "casme2", clips=24, frames=3, size=32)


@pytest.fixture
def command(folder, tmp_path, capfd, monkeypatch):
    """Runs the command in an empty folder with mine.yaml; gives its exit code, its output and its stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    (tmp_path / "mine.yaml").write_text(TEXT.format(folder=folder))

    def run(name, *arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit:
            cli.main([name, "mine.yaml", *map(str, arguments)])
        out, err = capfd.readouterr()
        return exit.value.code or 0, out, err

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def contents(folder):
    """All files but TensorBoard's, whose names and content have the time."""
    files = [file for file in sorted(Path(folder).rglob("*")) if file.is_file() and "tfevents" not in file.name]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_evaluates_several_seeds(command, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation_report, "MOST_PICTURES", 2)
    untrained = ("--seed", 1, "--set", "recipe.lr=1e-7")  # which is wrong for some clips
    code, out, err = command("evaluate", "--seed", 0, *untrained)
    assert (code, err) == (0, "") and "mine/report.html" in out
    reports = [Report.load(tmp_path / "mine" / f"report-seed-{seed}.json") for seed in (0, 1)]
    summary = json.loads((tmp_path / "mine" / "summary.json").read_text())
    figures = [report.uf1 for report in reports]
    assert [row["uf1"] for row in summary["seeds"]] == figures and reports[0].num_classes == 3
    assert summary["uf1"]["mean"] == pytest.approx(sum(figures) / 2)
    assert summary["uf1"]["deviation"] == pytest.approx(abs(figures[0] - figures[1]) / 2**0.5)
    assert f"{summary['uf1']['mean']:.4f}" in out and summary["settings"]["recipe.epochs"] == 6
    page = (tmp_path / "mine" / "report.html").read_text()
    missed = {index for one in reports for index in one.indices[one.predictions != one.targets].tolist()}
    pictures = {file.name for file in (tmp_path / "mine" / "missed").iterdir()}
    assert pictures <= {f"clip-{index}.png" for index in missed} and len(pictures) == 2 < len(missed)
    assert all(f'src="missed/{name}"' in page for name in pictures) and 'src="confusion.png"' in page
    assert all(name in page for name in reports[0].per_subject) and "http" not in page.replace("http-equiv", "")
    # The same bytes elsewhere, and with fewer seeds no report of the others.
    assert command("evaluate", "--seed", 0, *untrained, "--output", "again")[0] == 0
    assert contents(tmp_path / "mine") == contents(tmp_path / "again")
    assert command("evaluate", *untrained, "--output", "again")[0] == 0
    assert Report.load(tmp_path / "again" / "report.json") == reports[1]
    assert sorted(file.name for file in (tmp_path / "again").glob("report*")) == ["report.html", "report.json"]


class Stop(Exception):
    pass


def stopping(monkeypatch, times):
    """`Stop` behind the `times`th checkpoint."""
    save, count = loop._Run.save, [0]

    def stop(self, path):
        count[0] += 1
        save(self, path)
        if count[0] == times:
            raise Stop

    monkeypatch.setattr(loop._Run, "save", stop)
    return lambda: monkeypatch.setattr(loop._Run, "save", save)


def test_goes_on_with_an_evaluation(command, tmp_path, monkeypatch):
    assert command("evaluate", "--output", "whole")[0] == 0
    undo = stopping(monkeypatch, 15)
    with pytest.raises(Stop):
        cli.main(["evaluate", "mine.yaml"])
    undo()
    assert len(list((tmp_path / "mine" / "folds").rglob("fold-*.json"))) == 1
    code, _, err = command("evaluate", "--set", "recipe.lr=0.5")
    assert code == 1 and "mine holds a run with another recipe.lr (0.001, now 0.5): give another --output" in err
    assert command("evaluate")[0] == 0
    assert contents(tmp_path / "mine") == contents(tmp_path / "whole")
    assert command("evaluate", "--set", "recipe.lr=0.5", "--no-resume")[0] == 0
    assert json.loads((tmp_path / "mine" / "run.json").read_text())["recipe.lr"] == 0.5
    code, _, err = command("train")
    assert code == 1 and "mine holds a run with another command (evaluate, now train)" in err
    # Without a folder in the file the two commands have one each.
    (tmp_path / "mine.yaml").write_text((tmp_path / "mine.yaml").read_text().replace("output: mine", ""))
    assert "Network: mine-network/network.safetensors" in command("train")[1]
    assert "Report: mine-evaluation/report.html" in command("evaluate")[1]


def test_goes_on_with_a_training(command, tmp_path, monkeypatch):
    code, out, err = command("train", "--output", "whole")
    assert (code, err) == (0, "") and "whole/network.safetensors" in out
    loaded = load_network(tmp_path / "whole" / "network.safetensors")
    assert loaded.classes == ("negative", "positive", "surprise") and loaded.input == {"size": [32, 32]}
    for times in (1, 7, 12):
        undo = stopping(monkeypatch, times)
        with pytest.raises(Stop):
            cli.main(["train", "mine.yaml", "--no-resume"])
        undo()
        assert (tmp_path / "mine" / "checkpoint.safetensors").exists()
        assert command("train")[0] == 0
        assert contents(tmp_path / "mine") == contents(tmp_path / "whole")


def test_trains_on_a_split(command, tmp_path):
    code, out, _ = command("train", "--set", "protocol={name: split, test: 0.3}", "--set", "tensorboard=true")
    report = Report.load(tmp_path / "mine" / "report.json")
    assert code == 0 and str(report) in out and 0 < len(report.targets) < 12
    assert list((tmp_path / "mine").glob("events.out.tfevents.*"))
    before = (tmp_path / "mine" / "network.safetensors").stat().st_mtime_ns
    assert command("train", "--set", "protocol={name: split, test: 0.3}", "--set", "tensorboard=true")[1] == out
    assert (tmp_path / "mine" / "network.safetensors").stat().st_mtime_ns == before


def test_bad_input_is_one_line(command, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "report.html").write_text("mine")
    (tmp_path / "file").write_text("mine")
    before = contents(tmp_path)
    for arguments, message in [
        (("evaluate", "--engine", "fast"), "mine.yaml: folds must be one of 'sequential', "),
        (("evaluate", "--set", "data.folder=nowhere"), "nowhere"),
        (("evaluate", "--set", "data.labels=6-class"), "6-class"),
        (("evaluate", "--output", "full"), "full holds other things than a run of mer_fast: give another --output"),
        (("evaluate", "--output", "file"), "file is a file, not a folder"),
        (("evaluate", "--set", "protocol=composite"), "composite database: the data set must name at least two"),
        (("train", "--set", "seeds=[1, 2]"), "train: one network has one seed, and seeds are 1, 2: choose with --seed"),
        (("evaluate", "mine.yaml"), "output: files that are evaluated together need different folders"),
    ]:
        code, out, err = command(*arguments)
        assert (code, out) == (1, "") and message in err and err.count("\n") == 1, arguments
    left = {name: text for name, text in contents(tmp_path).items() if not name.startswith("mine/")}
    assert left == before
    # What failed at its start does not stand in the way.
    assert command("train", "--output", "mine")[0] == 0


def test_killed_by_the_system(command, folder, tmp_path):
    assert command("train", "--output", "whole", "--set", "recipe.epochs=15")[0] == 0
    arguments = [sys.executable, "-m", "mer_fast", "train", "mine.yaml", "--set", "recipe.epochs=15"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(arguments, cwd=tmp_path, env=environment, stdout=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "mine" / "checkpoint.safetensors").exists() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert command("train", "--set", "recipe.epochs=15")[0] == 0
    found = {name: text for name, text in contents(tmp_path / "mine").items() if not Path(name).name.startswith(".")}
    assert found == contents(tmp_path / "whole")


def test_several_data_sets_at_once(command, folder, tmp_path):
    """Pooled for cross-database; the protocol's one training is on the one, and the report on the other."""
    make_example_folder("samm", tmp_path / "samm", clips=12, frames=3, size=32)
    both = f'data=[{{dataset: casme2, folder: "{folder}"}}, {{folder: samm}}]'
    across = "protocol={name: cross-database, train: casme2, test: samm}"
    code, _, err = command("train", "--set", both, "--set", across)
    report = Report.load(tmp_path / "mine" / "report.json")
    assert (code, err) == (0, "") and {subject.split("/")[0] for subject in report.subjects} == {"samm"}
    code, _, err = command("train", "--set", both.replace("samm}", "samm, labels: original}"), "--set", across)
    assert code == 1 and "data: the sources have classes of their own (" in err
