"""Times folds="batched" with STSTNet, and writes `results/folds.json` and the table in docs/evaluation.md.

First an epoch of 34 folds against loops over the folds, in turn, optimiser included. Then a whole evaluation: 442 synthetic clips
of 68 subjects, leave-one-subject-out, with the published 500 epochs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # last: an installed mer_fast goes before a checkout that is not built

from benchmarks import environment, table  # noqa: E402
from benchmarks.measure import interleaved  # noqa: E402
from mer_fast import MerFastError, evaluation, models  # noqa: E402
from mer_fast.console import progress as progress_bar  # noqa: E402
from mer_fast.data import Cache, CachedClips, SyntheticSet, network_input  # noqa: E402
from mer_fast.experiment import load_experiment  # noqa: E402
from mer_fast.training import Recipe, fit  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "folds.json"
PAGE = ROOT / "docs" / "evaluation.md"
MARKS = "<!-- folds -->", "<!-- /folds -->"
CACHE = ROOT / "build" / "folds-cache"
CLIPS, SUBJECTS, FOLDS, BATCH, CLASSES = 442, 68, 34, 64, 3
EPOCHS = 4  # of ours a turn, so that what is made once for all epochs counts as little as in a training
OURS = 'folds="batched"'


class Published(torch.nn.Module):
    """STSTNet as it is published: a convolution, norm and pool for each of three streams."""

    def __init__(self) -> None:
        super().__init__()
        self.streams = torch.nn.ModuleList(
            torch.nn.Sequential(
                torch.nn.Conv2d(3, filters, 3, padding=2), torch.nn.ReLU(), torch.nn.BatchNorm2d(filters),
                torch.nn.MaxPool2d(3, 3, 1), torch.nn.Dropout(0.5),
            )
            for filters in (3, 5, 8)
        )  # fmt: skip
        self.classifier = torch.nn.Linear(16 * 5 * 5, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(F.avg_pool2d(torch.cat([stream(x) for stream in self.streams], 1), 2).flatten(1))


def epoch_of_loop(networks: list[Any], optimizers: list[Any], x: torch.Tensor, labels: torch.Tensor, folds: torch.Tensor) -> None:
    """An epoch of each network, one after the other, as one writes it."""
    for network, optimizer, fold in zip(networks, optimizers, folds, strict=True):
        for batch in fold[torch.randperm(len(fold))].split(BATCH):
            loss = F.cross_entropy(network(x[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def loop(make: Callable[[], torch.nn.Module], compiled: bool, *data: torch.Tensor) -> Callable[[], None]:
    networks: list[Any] = [make().train() for _ in range(FOLDS)]
    optimizers = [torch.optim.Adam(network.parameters(), 5e-5) for network in networks]
    if compiled:
        networks = [torch.compile(network) for network in networks]
    return partial(epoch_of_loop, networks, optimizers, *data)


def speeds(rounds: int) -> dict[str, float]:
    """Seconds of an epoch of 34 folds, 400 clips each."""
    draw = torch.Generator().manual_seed(0)
    x, labels = torch.randn(CLIPS, 3, 28, 28, generator=draw), torch.randint(0, CLASSES, (CLIPS,), generator=draw)
    folds = torch.stack([torch.randperm(CLIPS, generator=draw)[:400] for _ in range(FOLDS)])
    recipe = Recipe(lr=5e-5, epochs=EPOCHS, batch_size=BATCH, optimizer="adam")
    merged = partial(models.STSTNet, CLASSES)
    candidates: dict[str, Callable[[], Any]] = {
        OURS: lambda: evaluation.train_folds(merged, x, labels, folds.tolist(), recipe),
        "loop, as published": loop(Published, False, x, labels, folds),
        "loop, streams merged, channels last": loop(merged, False, x, labels, folds),
        "loop, streams merged, channels last, torch.compile": loop(merged, True, x, labels, folds),
    }
    return {name: timing.seconds / (EPOCHS if name == OURS else 1) for name, timing in interleaved(candidates, rounds).items()}


def whole(progress: Callable[[str, int, int | None], None]) -> dict[str, Any]:
    """An evaluation of 442 clips by leave-one-subject-out."""
    full = SyntheticSet(SUBJECTS, CLIPS // SUBJECTS + 1)
    spared = {subject: CLIPS // SUBJECTS + (k < CLIPS % SUBJECTS) for k, subject in enumerate(dict.fromkeys(full.subjects))}
    kept = [k for k in range(len(full)) if k % (CLIPS // SUBJECTS + 1) < spared[full.subjects[k]]]
    experiment = load_experiment("ststnet", folds="batched")
    reads = network_input("ststnet")
    clips = [full[k] for k in kept]
    start = time.perf_counter()
    dataset = CachedClips(clips, Cache(CACHE, reads.settings), reads.make, [full.targets[k] for k in kept])
    dataset.cache.build(clips, progress)
    [dataset[k] for k in range(len(dataset))]
    ready = time.perf_counter()
    report = evaluation.finish([experiment.evaluation(dataset)], folds="batched", progress=progress)[0]
    seconds = time.perf_counter() - ready
    one = loop_seconds(dataset, experiment.recipe)
    return {
        "clips": len(clips), "folds": len(set(dataset.subjects)), "epochs": experiment.recipe.epochs, "seconds": seconds,
        "seconds_of_inputs": ready - start, "uf1": report.uf1, "uar": report.uar, "loop_seconds_estimated": one,
    }  # fmt: skip


def loop_seconds(dataset: Any, recipe: Recipe) -> float:
    """What `training.fit` would take for all folds, from three folds of five epochs."""
    roster = evaluation.Roster.of(dataset)
    folds = evaluation.LeaveOneSubjectOut().folds(roster)
    start = time.perf_counter()
    for fold in folds[:3]:
        clips = evaluation.FoldClips(dataset, roster, fold.train, fold.name, 0)
        fit(models.STSTNet(CLASSES), clips, recipe.replace(epochs=5))
    return (time.perf_counter() - start) / 15 * len(folds) * (recipe.epochs or 0)


def render(result: dict[str, Any]) -> str:
    """All that stands between the marks."""
    seconds, run = result["epoch_seconds"], result["whole"]
    lines = [
        table.heading(result),
        "",
        f"| STSTNet, an epoch of {FOLDS} folds of 400 clips | time | times as long |",
        "| --- | ---: | ---: |",
        *(f"| {name} | {table.duration(one)} | {table.times(one / seconds[OURS])} |" for name, one in seconds.items()),
        "",
        f"A whole evaluation, {run['clips']} clips, {run['folds']} folds, {run['epochs']} epochs: **{run['seconds']:.0f} s**, "
        f"optimiser and tests included (UF1 {run['uf1']:.3f}); fold after fold, estimated from 15 epochs: "
        f"{run['loop_seconds_estimated'] / 60:.0f} minutes.",
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="only rewrite the table from the committed results")
    parser.add_argument("--quick", action="store_true", help="only the epochs, a round each; prints them and writes nothing")
    options = parser.parse_args(arguments)
    try:
        if options.table:
            return table.replace_between(PAGE, *MARKS, render(json.loads(RESULTS.read_text())))
        if options.quick:
            return print(json.dumps(speeds(rounds=1), indent=1))
        run()
    except MerFastError as error:
        sys.exit(f"folds: {error}")


def run() -> None:
    result = environment.stamp()  # before anything is written
    result["epoch_seconds"] = speeds(rounds=5)
    print(json.dumps(result["epoch_seconds"], indent=1), flush=True)
    with progress_bar() as progress:
        result["whole"] = whole(progress)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    table.replace_between(PAGE, *MARKS, render(result))
    print(render(result))


if __name__ == "__main__":
    main()
