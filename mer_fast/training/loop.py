"""The training loop."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch.utils.data import Subset

from .. import tensor_file
from ..data.subjects import hold_out_subjects
from ..errors import MerFastError
from ..fingerprint import describe, digest
from ..seeds import derive, generator, isolated, set_seed
from .augmentation import augment
from .batches import collate, forward
from .checkpoint import load_optimizer, nested, optimizer_tensors, prefixed
from .log import Log
from .order import epoch_batches
from .parallel import Ranks
from .recipe import Loss, Recipe
from .statistics import STATISTICS

Progress = Callable[[str, int, int | None], None]
_KIND = "training"


@dataclass(frozen=True)
class Trained:
    """A trained network, in evaluation mode, and what happened in each epoch.

    Attributes:
        model: the network given, or what `recipe.statistics` put around it.
        history: a row an epoch: "epoch" and "step" (both from 1 on, at its end), "rate", "loss", "validation_loss" (or None).
    """

    model: torch.nn.Module
    history: list[dict[str, Any]]


def fit(
    model: torch.nn.Module,
    train_set: Any,
    recipe: Recipe,
    *,
    seed: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 30.0,
    log: str | os.PathLike[str] | None = None,
    tensorboard: bool = False,
    progress: Progress | None = None,
) -> Trained:
    """Trains a network by a recipe, in place.

    What a step does follows from the seed and its number alone: which clips, how they are changed, which units drop out. On a
    CPU a training that was stopped and goes on gives the same weights to the last bit. The global generators are given back
    as they were.

    Args:
        model: on the device that it is to be trained on. It takes the inputs of a batch and gives logits (N, classes).
        train_set: `train_set[i]` is (input, label), the input a tensor, an array or a tuple of them; `len(train_set)`. Its
            `labels` are read from there where it has them, and its `subjects` where `recipe.validation` needs them.
        recipe: the settings.
        seed: instead of `recipe.seed`.
        checkpoint: a file for the state of the training, written every `checkpoint_seconds`, and read at the start where it
            exists. It stays when the training is over.
        log: a folder for `log.csv`, and for TensorBoard's files with `tensorboard`.
        progress: told ("epoch", epochs done, of how many), or iterations where the recipe counts these.

    Inside an initialised process group (`torchrun`) all processes train one network, and all must call this with the same
    arguments. A step is of the same clips as in one process, each process reading a part of them; the loss, which must be a mean
    over clips, the gradients and the statistics of batch norm are those of the whole batch. The first process writes the files,
    which a training that goes on is read from by all. Only which units drop out is another draw.

    Raises:
        MerFastError: an empty set, a class that the network does not have, a loss that is not finite, clips of unlike shapes, a
            checkpoint of another training or a damaged one, or validation with a single subject.
    """
    seed = recipe.seed if seed is None else seed
    labels = _labels(train_set)
    with isolated(derive(seed, "fit")):
        training, held = _parted(train_set, labels, recipe, seed)
        for name in recipe.statistics:
            model = STATISTICS[name](model, Subset(train_set, training))
        Ranks.now().same_start(model)
        run = _Run(model, train_set, labels, training, held, recipe, seed)
        if checkpoint is not None and os.path.exists(checkpoint):
            run.load(checkpoint)
        out = Log(log if run.ranks.writes else None, run.state.history, tensorboard)
        try:
            run.train(checkpoint, checkpoint_seconds, out, progress or (lambda stage, done, total: None))
        finally:
            out.close()
    return Trained(model.eval(), run.state.history)


@dataclass
class _State:
    """Where a training is, but for its tensors.

    Attributes:
        epoch, batch: of the next step, from 0 on.
        step: steps done.
        seen: clips trained on in this epoch.
        best_loss, best_epoch: with validation.
        scaler: of mixed precision.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seen: int = 0
    total: float = 0.0
    best_loss: float | None = None
    best_epoch: int = 0
    scaler: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)


class _Run:
    """A training under way."""

    def __init__(
        self, model: torch.nn.Module, clips: Any, labels: list[int], training: list[int], held: list[int], recipe: Recipe,
        seed: int,
    ) -> None:  # fmt: skip
        self.model, self.clips, self.labels, self.recipe, self.seed = model, clips, labels, recipe, seed
        self.training, self.held = training, held
        self.ranks = Ranks.now()
        self.optimizer = recipe.make_optimizer(model)
        self.device = next(model.parameters()).device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.amp == "float16")
        self.loss: Loss | None = None
        self.best: dict[str, torch.Tensor] = {}
        self.state = _State()
        # Sum over this epoch's clips, on the device: no step waits for it.
        self.total = torch.zeros((), dtype=torch.float64, device=self.device)
        batches = self._batches(0)
        self.ranks.check(batches)
        self.steps = recipe.iterations or len(batches) * (recipe.epochs or 0)
        self.key = digest([describe(recipe), seed, labels, training, held])

    def train(self, path: str | os.PathLike[str] | None, seconds: float, log: Log, progress: Progress) -> None:
        """Runs to the end."""
        written = time.monotonic()
        while not self._over():
            batches = self._batches(self.state.epoch)
            self.model.train()
            while self.state.batch < len(batches) and self.state.step < self.steps:
                self._step([self.training[k] for k in batches[self.state.batch]])
                if self.recipe.iterations is not None:
                    progress("iteration", self.state.step, self.steps)
                if path is not None and self.ranks.writes and time.monotonic() - written >= seconds:
                    self.save(path)
                    written = time.monotonic()
            self._end_epoch(log)
            if self.recipe.epochs is not None:
                progress("epoch", self.state.epoch, self.recipe.epochs)
        if self.best:
            self.model.load_state_dict(self.best)

    def _over(self) -> bool:
        state, patience = self.state, self.recipe.patience
        if state.batch:  # a state kept behind an epoch's last step: the epoch is still to be ended
            return False
        return state.step >= self.steps or (patience is not None and state.epoch - state.best_epoch >= patience)

    def _batches(self, epoch: int) -> list[list[int]]:
        """Positions within `training`."""
        labels = [self.labels[i] for i in self.training]
        return epoch_batches(labels, self.recipe.batch_size, self.seed, epoch, oversample=self.recipe.oversample)

    def _step(self, clips: list[int]) -> None:
        state, recipe = self.state, self.recipe
        # Processes of one training let units of their own drop out; the first those of a training alone.
        set_seed(derive(self.seed, "step", state.step, *([self.ranks.rank] if self.ranks.rank else [])))
        inputs, target = self._batch(clips)
        rate = recipe.rate(state.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        with self.ranks.pooled_norms(self.model):
            loss = self._loss(inputs, target)
        if not self.ranks.alone:
            loss = loss * (len(target) / len(clips))
        self.scaler.scale(loss).backward()
        self.ranks.sum_gradients(self.model)
        if recipe.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.total += self.ranks.total(loss.detach().double()) * len(clips)
        state.step, state.batch, state.seen = state.step + 1, state.batch + 1, state.seen + len(clips)

    def _batch(self, clips: list[int]) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """This process's part of a step's clips, augmented as they are in one process."""
        recipe, part = self.recipe, self.ranks.part(range(len(clips)))
        if not recipe.augment:
            return self._read([clips[k] for k in part])
        # Every clip's change is drawn in its place of the whole batch.
        inputs, target = self._read(clips)
        inputs = augment(inputs, recipe.augment, generator(self.seed, "augment", self.state.step))
        return (inputs, target) if self.ranks.alone else (tuple(x[part] for x in inputs), target[part])

    def _read(self, clips: Sequence[int]) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        inputs = collate([self.clips[i][0] for i in clips])
        return inputs, torch.tensor([self.labels[i] for i in clips], device=self.device)

    def _loss(self, inputs: tuple[torch.Tensor, ...], target: torch.Tensor) -> torch.Tensor:
        dtype = torch.bfloat16 if self.recipe.amp == "bfloat16" else torch.float16
        with torch.autocast(self.device.type, dtype, enabled=self.recipe.amp is not None):
            logits = forward(self.model, inputs)
        if self.loss is None:
            self.loss = self._made_loss(logits.shape[1])
        return self.loss(logits.to(torch.promote_types(logits.dtype, torch.float32)), target)

    def _made_loss(self, classes: int) -> Loss:
        wrong = next((i for i, label in enumerate(self.labels) if label >= classes), None)
        if wrong is not None:
            place = getattr(self.clips, "indices", range(len(self.labels)))[wrong]
            raise MerFastError(f"clip {place} is of class {self.labels[wrong]}, and the network has {classes}")
        counts = torch.bincount(torch.tensor([self.labels[i] for i in self.training]), minlength=classes)
        loss = self.recipe.make_loss(counts)
        return loss.to(self.device) if isinstance(loss, torch.nn.Module) else loss

    def _end_epoch(self, log: Log) -> None:
        state = self.state
        state.epoch, state.batch = state.epoch + 1, 0
        row = {
            "epoch": state.epoch, "step": state.step, "rate": self.recipe.rate(state.step - 1, self.steps),
            "loss": self._mean_loss(), "validation_loss": None,
        }  # fmt: skip
        if self.held:
            row["validation_loss"] = found = self._validation_loss()
            if found - found != 0:
                raise MerFastError(f"the loss on the validation clips is {found} in epoch {state.epoch}: lower the rate")
            if state.best_loss is None or found < state.best_loss:
                state.best_loss, state.best_epoch = found, state.epoch
                self.best = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        state.history.append(row)
        log.add(row)
        self.total.zero_()
        state.seen = 0

    def _mean_loss(self) -> float:
        total = float(self.total)
        if total - total != 0:
            raise MerFastError(
                f"the loss is {total} in epoch {self.state.epoch + (self.state.batch > 0)} (by step {self.state.step}, rate "
                f"{self.recipe.rate(self.state.step, self.steps):.3g}): lower the rate, clip gradients (clip_norm), or look for "
                "clips that are not finite"
            )
        return total / self.state.seen

    def _validation_loss(self) -> float:
        self.model.eval()
        total, own = 0.0, self.ranks.part(self.held)
        with torch.no_grad():
            for start in range(0, len(own), self.recipe.batch_size):
                inputs, target = self._read(own[start : start + self.recipe.batch_size])
                total += float(self._loss(inputs, target)) * len(target)
        pooled = self.ranks.total(torch.tensor(total, dtype=torch.float64, device=self.device))
        return float(pooled) / len(self.held)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the state."""
        if self.state.seen:
            self._mean_loss()  # a state that cannot be gone on from is not kept
        self.state.total, self.state.scaler = float(self.total), self.scaler.state_dict()
        tensors, rest = optimizer_tensors(self.optimizer)
        everything = {
            **prefixed(self.model.state_dict(), "model"),
            **prefixed(tensors, "optimizer"),
            **prefixed(self.best, "best"),
        }
        tensor_file.save(path, _KIND, everything, {"key": self.key, "state": asdict(self.state), "optimizer": rest})

    def load(self, path: Any) -> None:
        """Takes over a state."""
        tensors, header = tensor_file.load(path, _KIND)
        if header["key"] != self.key:
            raise MerFastError(f"{path} is of another training (recipe, seed or clips): delete it, or give another file")
        self.state = _State(**header["state"])
        self.total.fill_(self.state.total)
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(self.state.scaler)
        self.best = {name: tensor.to(self.device) for name, tensor in nested(tensors, "best").items()}
        load_optimizer(self.optimizer, nested(tensors, "optimizer"), header["optimizer"])
        try:
            self.model.load_state_dict(nested(tensors, "model"))
        except RuntimeError as error:
            raise MerFastError(f"{path} is of another network: delete it, or give another file") from error


def _labels(clips: Any) -> list[int]:
    if not len(clips):
        raise MerFastError("the training set holds no clip")
    known = getattr(clips, "labels", None)
    return [int(label) for label in (known if known is not None else [clips[i][1] for i in range(len(clips))])]


def _parted(clips: Any, labels: list[int], recipe: Recipe, seed: int) -> tuple[list[int], list[int]]:
    """Clips to train on, and those of the subjects held out to choose the epoch."""
    everything = list(range(len(labels)))
    if not recipe.validation:
        return everything, []
    subjects = getattr(clips, "subjects", None)
    if subjects is None:
        raise MerFastError("validation holds out subjects: the training set needs `subjects`, a list of str")
    held = hold_out_subjects(labels, subjects, recipe.validation, derive(seed, "validation"))
    return sorted(set(everything) - set(held)), held
