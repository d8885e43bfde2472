"""Evaluates every network on the synthetic set, and writes `results/synthetic.json` and the table in docs/evaluation.md.

STSTNet by leave-one-subject-out, three seeds, all folds at once; the others by four folds of subjects, with their small recipes;
beside them a linear model on the pixels, and STSTNet on labels that were shuffled. What is measured stands in `build/synthetic`
too: called again on the same commit after it was stopped, it does the rest. `--only` takes one of them and prints it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # last: an installed mer_fast goes before a checkout that is not built

from benchmarks import environment, linear, table  # noqa: E402
from mer_fast import MerFastError, evaluation  # noqa: E402
from mer_fast.console import progress as progress_bar  # noqa: E402
from mer_fast.data import SyntheticSet  # noqa: E402
from mer_fast.experiment import load_experiment  # noqa: E402
from mer_fast.plan_data import Data, checked_data, read_data  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "synthetic.json"
PAGE = ROOT / "docs" / "evaluation.md"
MARKS = "<!-- synthetic -->", "<!-- /synthetic -->"
WORK = ROOT / "build" / "synthetic"
LEAVE_ONE_OUT, FOUR_FOLDS = "leave-one-subject-out", {"name": "k-fold", "k": 4}
FACE = (15, 15, 97, 97)  # where the set's faces are: ATNet's coarse grid lies on the face, as on cropped data sets

Progress = Callable[[str, int, int | None], None]


@dataclasses.dataclass(frozen=True)
class Run:
    """A network with its small recipe, by a protocol.

    Attributes:
        network: of the recipe `network-small`.
        seeds: each an evaluation of its own.
        shuffled: whether labels are dealt out anew, by the seed.
        input: preprocessing besides the recipe's.
    """

    network: str
    protocol: str | dict[str, Any] = dataclasses.field(default_factory=lambda: FOUR_FOLDS)
    folds: str = "processes"
    seeds: tuple[int, ...] = (0,)
    shuffled: bool = False
    input: dict[str, Any] = dataclasses.field(default_factory=dict)

    def measure(self, progress: Progress) -> dict[str, Any]:
        experiment = load_experiment(f"{self.network}-small", protocol=self.protocol, folds=self.folds)
        experiment = dataclasses.replace(experiment, input={**experiment.input, **self.input})
        reads = experiment.network_input()
        start = time.perf_counter()
        data = read_data(checked_data({"synthetic": {}}), reads, WORK / "cache", progress)
        [data.dataset[i] for i in range(len(data.dataset))]
        ready, found = time.perf_counter(), []
        for seed in self.seeds:
            own = dataclasses.replace(experiment, seed=seed)
            dataset = Shuffled(data, seed) if self.shuffled else data.dataset
            begun = time.perf_counter()
            report = evaluation.finish([own.evaluation(dataset)], folds=own.folds, progress=progress)[0]
            found.append(scores(report.uf1, report.uar, report.accuracy) | {"seconds": time.perf_counter() - begun})
        protocol = self.protocol if isinstance(self.protocol, str) else self.protocol["name"]
        return {
            "protocol": protocol, "engine": self.folds, "recipe": dataclasses.asdict(experiment.recipe),
            "options": dict(experiment.options), "input": dict(experiment.input),
            "seconds_of_inputs": ready - start, "seeds": found,
        }  # fmt: skip


class Shuffled:
    """The clips with labels dealt out at random: what is then above chance was leaked."""

    def __init__(self, data: Data, seed: int) -> None:
        self._dataset, self.subjects = data.dataset, data.dataset.subjects
        order = np.random.default_rng(seed).permutation(len(data.dataset))
        self.labels = [data.dataset.labels[i] for i in order]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self._dataset[index][0], self.labels[index]


def scores(uf1: float, uar: float, accuracy: float) -> dict[str, float]:
    return {"uf1": uf1, "uar": uar, "accuracy": accuracy}


@dataclasses.dataclass(frozen=True)
class Linear:
    """Logistic regression on gray pixels of onset and apex, or of these and their difference, by leave-one-subject-out.

    Of the penalties it gets the one that is best on the test subjects: it is what has to stay low.
    """

    difference: bool

    def measure(self, progress: Progress) -> dict[str, Any]:
        clips = SyntheticSet()
        features = linear.pixels(clips, progress)[:, : 3 if self.difference else 2].reshape(len(clips), -1)
        best = max((self.fitted(features, clips, strength) for strength in (1e-4, 1e-2, 1.0)), key=lambda one: one["uf1"])
        return {"protocol": LEAVE_ONE_OUT, "engine": "scikit-learn", "seeds": [best]}

    def fitted(self, features: linear.Array, clips: SyntheticSet, strength: float) -> dict[str, float]:
        begun = time.perf_counter()
        targets = np.array(clips.targets)
        found = linear.left_out(features, targets, np.array(clips.subjects), strength)
        predictions, labels, count = torch.from_numpy(found), torch.from_numpy(targets), len(clips.classes)
        uf1, uar = evaluation.uf1(predictions, labels, count), evaluation.uar(predictions, labels, count)
        seconds = time.perf_counter() - begun
        return scores(uf1, uar, float((found == targets).mean())) | {"C": strength, "seconds": seconds}


RUNS: dict[str, Run | Linear] = {
    "linear, pixels": Linear(difference=False),
    "linear, pixels and their difference": Linear(difference=True),
    "STSTNet": Run("ststnet", LEAVE_ONE_OUT, "batched", (0, 1, 2)),
    "STSTNet, shuffled labels": Run("ststnet", LEAVE_ONE_OUT, "batched", (0, 1, 2), shuffled=True),
    "STRCN-G": Run("strcn-g"),
    "STRCN-A": Run("strcn-a"),
    "MicroExpSTCNN": Run("microexpstcnn"),
    "MicroExpFuseNet": Run("microexpfusenet"),
    "ATNet": Run("atnet", input={"face": FACE}),
}


def render(result: dict[str, Any]) -> str:
    """All that stands between the marks."""
    clips = result["set"]
    lines = [
        f"{clips['clips']} clips of {clips['subjects']} subjects; {table.heading(result)}",
        "",
        "| model | protocol | UF1 | UAR | seconds, inputs | seconds, evaluation |",
        "| --- | --- | --- | --- | ---: | ---: |",
    ]
    for name, run in result["runs"].items():
        uf1, uar = (", ".join(f"{seed[score]:.3f}" for seed in run["seeds"]) for score in ("uf1", "uar"))
        seconds = ", ".join(f"{seed['seconds']:.0f}" for seed in run["seeds"])
        inputs = f"{run['seconds_of_inputs']:.0f}" if "seconds_of_inputs" in run else ""
        lines.append(f"| {name} | {run['protocol']} | {uf1} | {uar} | {inputs} | {seconds} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=RUNS, metavar="MODEL", help=f"one of {', '.join(RUNS)}")
    parser.add_argument("--table", action="store_true", help="only rewrite the table from the committed results")
    options = parser.parse_args(arguments)
    try:
        if options.table:
            return table.replace_between(PAGE, *MARKS, render(json.loads(RESULTS.read_text())))
        run(options.only)
    except MerFastError as error:
        sys.exit(f"synthetic_set: {error}")


def run(only: str | None) -> None:
    stamp = environment.stamp()  # before anything is written
    WORK.mkdir(parents=True, exist_ok=True)
    found = {name: measured(name, stamp["commit"]) for name in (RUNS if only is None else [only])}
    if only is not None:
        return
    clips = SyntheticSet()
    result = stamp | {
        "set": {"clips": len(clips), "subjects": len(set(clips.subjects)), "classes": list(clips.classes), "seed": clips.seed},
        "runs": found,
    }  # fmt: skip
    RESULTS.write_text(json.dumps(result, indent=1, default=str) + "\n")
    table.replace_between(PAGE, *MARKS, render(result))


def measured(name: str, commit: str) -> dict[str, Any]:
    """One of RUNS; as it was found on this commit before, where it was."""
    file = WORK / f"{name.replace(', ', '-').replace(' ', '-')}.json"
    kept = json.loads(file.read_text()) if file.is_file() else {}
    if kept.get("commit") != commit or commit.endswith(("dirty", "unknown")):
        with progress_bar() as progress:
            kept = {"commit": commit, "run": RUNS[name].measure(progress)}
        file.write_text(json.dumps(kept, default=str))
    for seed in kept["run"]["seeds"]:
        print(f"{name}: UF1 {seed['uf1']:.3f}, UAR {seed['uar']:.3f}, {seed['seconds']:.0f} s", flush=True)
    run: dict[str, Any] = kept["run"]
    return run


if __name__ == "__main__":
    main()
