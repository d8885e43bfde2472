"""The folds of a small network on a GPU: blocks of 68 folds, and STSTNet's whole evaluation against the plain loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from mer_fast.evaluation import predict_held_out, train_folds
from mer_fast.models import STSTNet
from mer_fast.training import Recipe

from .cases import OURS, Case, fold_case
from .fold_cases import STSTNET, WIDER
from .measure import Ceilings
from .table import ranked

LOOP = "PyTorch, fold after fold"
CLASSES = 3


def fold_cases() -> list[Case]:
    """The CPU's cases with as many folds as go at once on a GPU."""
    shapes = STSTNET._replace(folds=68), WIDER._replace(folds=32)
    return [fold_case(shape, backward=backward) for shape in shapes for backward in (False, True)]


@dataclass(frozen=True)
class Evaluation:
    """Leave one subject out with STSTNet, as it is published: random inputs, since no time depends on their values."""

    clips: int = 442
    subjects: int = 68
    epochs: int = 500
    batch: int = 64
    loop_epochs: int = 3  # of one fold: those of the loop that are timed

    @property
    def name(self) -> str:
        return f"STSTNet's evaluation, {self.clips} clips, {self.subjects} folds, {self.epochs} epochs"

    @property
    def folds(self) -> list[list[int]]:
        return [[i for i in range(self.clips) if i % self.subjects != k] for k in range(self.subjects)]

    def recipe(self, epochs: int) -> Recipe:
        return Recipe(lr=5e-5, epochs=epochs, batch_size=self.batch, optimizer="adam")

    def flops(self) -> float:
        """Of the convolutions: forward, again, and the weights' gradient."""
        a_clip = 2 * STSTNET.outputs * STSTNET.map_size**2 * STSTNET.channels * 9
        return 3.0 * a_clip * self.epochs * sum(map(len, self.folds))

    def inputs(self, device: str) -> tuple[torch.Tensor, torch.Tensor]:
        draw = torch.Generator().manual_seed(0)
        x = torch.randn(self.clips, STSTNET.channels, STSTNET.size, STSTNET.size, generator=draw)
        return x.to(device), torch.randint(0, CLASSES, (self.clips,), generator=draw)


def plain_epochs(e: Evaluation, x: torch.Tensor, labels: torch.Tensor, epochs: int) -> None:
    """One fold's training as anyone writes it."""
    network = STSTNet(CLASSES).to(x.device).train()
    optimizer = torch.optim.Adam(network.parameters(), 5e-5)
    clips = torch.tensor(e.folds[0], device=x.device)
    for _ in range(epochs):
        for batch in clips[torch.randperm(len(clips), device=x.device)].split(e.batch):
            optimizer.zero_grad()
            F.cross_entropy(network(x[batch]), labels[batch]).backward()
            optimizer.step()


def seconds_of(run: Callable[[], object], device: str) -> float:
    """Wall time, the device's last work included."""

    def wait() -> None:
        if device != "cpu":
            torch.cuda.synchronize()

    wait()
    begun = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - begun


def evaluation(e: Evaluation, device: str, ceilings: Ceilings) -> dict[str, Any]:
    """One entry of the results: all folds trained at once and asked for what they held out; the loop from a few epochs."""
    x, labels = e.inputs(device)

    def run(epochs: int) -> None:
        models = train_folds(lambda: STSTNet(CLASSES).to(device), x, labels, e.folds, e.recipe(epochs))
        predict_held_out(models, x, e.folds)

    run(1)  # compiles
    plain_epochs(e, x, labels.to(device), 1)
    ours = seconds_of(lambda: run(e.epochs), device)
    loop = seconds_of(lambda: plain_epochs(e, x, labels.to(device), e.loop_epochs), device)
    loop *= e.epochs / e.loop_epochs * e.subjects
    found: dict[str, Any] = {
        "op": "conv_norm_pool",
        "shape": e.name,
        "seconds": {OURS: ours, LOOP: loop},
        "rounds": {OURS: 1, LOOP: 1},
        "missing": {},
        "timed_epochs": {LOOP: f"{e.loop_epochs} of {e.epochs} epochs of one fold"},
        "gb_per_s": 0.0,
        "of_copy": 0.0,
        "gflop_per_s": e.flops() / ours / 1e9,
        "of_product": e.flops() / ours / ceilings.product,
    }
    found["best_rival"], found["ratio"] = ranked(found)[0]
    return found
