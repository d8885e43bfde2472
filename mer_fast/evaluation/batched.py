"""All folds of a small network trained at once: weights stacked along a dimension of folds, `ops.conv_norm_pool` underneath."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..backends import current_backend
from ..errors import MerFastError
from ..losses import BalancedFocalLoss
from ..seeds import derive, isolated
from ..training.batches import collate, predict
from ..training.order import epoch_batches
from ..training.recipe import Recipe
from .fold_networks import MEND, FoldNetwork, understood
from .folds import FoldResult, Task, result_of
from .graphed import Gradients
from .protocols import Fold

MakeModel = Callable[[], torch.nn.Module]
Progress = Callable[[str, int, int], None]
MOST_FOLDS = 34  # at a time on a CPU: what a step keeps for its gradient then stays below 40 MB for STSTNet at 64 clips a step
EMPTY = -1  # a slot of a batch without a clip


def train_folds(
    make_model: MakeModel,
    inputs: torch.Tensor,
    labels: Sequence[int] | torch.Tensor,
    folds: Sequence[Sequence[int]],
    recipe: Recipe,
    *,
    seed: int = 0,
    names: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> list[torch.nn.Module]:
    """Trains a network on each fold's clips, all folds at once.

    Each is trained as `training.fit` would train it alone: its first weights, its order and its steps follow from its own seed,
    its statistics from its own clips. Only which units drop out is another draw of the same distribution. Nothing that a fold
    gets depends on the other folds or the number of threads.

    Args:
        make_model: gives a new network: `models.STSTNet`, or an `nn.Sequential` of blocks (see `fold_networks.understood`).
        inputs: all clips, (M, C, H, W), on the device of the networks.
        labels: class of each, (M,).
        folds: the clips that each fold is trained on, indices of `inputs`.
        recipe: the settings. Augmentation, statistics, validation, mixed precision and losses of your own are not batched.
        seed, names: fold k's seed is `derive(seed, "fold", names[k])`, as in `cross_validate`; names are "0", "1" and so on
            unless given.
        progress: told ("epoch", epochs done, of how many), over all folds.

    Returns:
        The trained networks, in evaluation mode, one a fold; `predict_held_out` asks them.

    Raises:
        MerFastError: a network or a setting that cannot be batched, with the layer or setting and the mend; an empty fold, an
            index or a class out of range, a loss that is not finite.
    """
    classes = torch.as_tensor(labels).cpu()
    _check(inputs, classes, folds, recipe)
    names = [str(k) for k in range(len(folds))] if names is None else names
    seeds = [derive(seed, "fold", name) for name in names]
    models = []
    for own in seeds:
        with isolated(own):
            models.append(make_model().train())
    runs = []
    for alike in _alike(classes, folds, seeds, recipe):
        for part in _parts(alike, models[0]):
            chosen = [models[k] for k in part], inputs, classes, [folds[k] for k in part], recipe, [seeds[k] for k in part]
            runs.append(_Group(*chosen, [names[k] for k in part]))
    _run(runs, progress)
    return models


def predict_held_out(
    models: Sequence[torch.nn.Module], inputs: torch.Tensor, folds: Sequence[Sequence[int]]
) -> list[tuple[list[int], torch.Tensor]]:
    """For each fold the clips that it was not trained on, and their logits (N, classes), on the CPU."""
    found = []
    for model, fold in zip(models, folds, strict=True):
        held = sorted(set(range(len(inputs))) - set(fold))
        found.append((held, predict(model, [(inputs[i], 0) for i in held]) if held else torch.empty(0)))
    return found


def batched(
    task: Task,
    folds: Sequence[Fold],
    finished: Callable[[FoldResult], None],
    *,
    workers: int | None = None,
    tell: Callable[[str], None] = lambda stage: None,
) -> None:
    """The engine of `folds="batched"`: the folds of a small network all at once, with as many threads as PyTorch has.

    Folds are reported in groups, on a CPU of up to MOST_FOLDS; `workers` and `task.threads` say nothing here: nothing depends on
    them.

    Raises:
        MerFastError: what `train_folds` raises; a `train` that is no recipe, clips of several inputs.
    """
    del workers
    if not isinstance(task.train, Recipe):
        raise MerFastError(f"batched folds: train must be a training.Recipe, got {type(task.train).__name__}; {MEND}")
    columns = collate([task.dataset[i][0] for i in range(len(task.roster.labels))])
    if len(columns) != 1:
        raise MerFastError(f"batched folds: networks of one input, and clips have {len(columns)}; {MEND}")
    labels = torch.tensor(task.roster.labels)
    _check(columns[0], labels, [fold.train for fold in folds], task.train)
    seeds = [task.fold_seed(fold) for fold in folds]
    for alike in _alike(labels, [fold.train for fold in folds], seeds, task.train):
        models = {}
        for k in alike:
            with isolated(seeds[k]):
                models[k] = task.new_model().train()
        weight = next(models[alike[0]].parameters())
        inputs = columns[0].to(weight.device, weight.dtype)
        for part in _parts(alike, models[alike[0]]):
            together, own = [models[k] for k in part], [seeds[k] for k in part]
            trained, called = [folds[k].train for k in part], [folds[k].name for k in part]
            run = _Group(together, inputs, labels, trained, task.train, own, called)
            _run([run], partial(_told, tell, len(part)))
            for k in part:
                finished(result_of(task, folds[k], predict(models[k], task.clips(folds[k], folds[k].test))))


def _told(tell: Callable[[str], None], folds: int, stage: str, done: int, total: int) -> None:
    tell(f"{folds} folds: {stage} {done} of {total}")


def dropout_keys(seeds: npt.NDArray[np.uint64], step: int, layer: int) -> torch.Tensor:
    """int64 (F,): of each fold's seed, the step and the layer, mixed as in SplitMix64 (Steele et al., OOPSLA 2014)."""
    counter = (step * 64 + layer + 1) * 0x9E3779B97F4A7C15 % 2**64
    x = seeds + np.uint64(counter)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return torch.from_numpy((x ^ (x >> np.uint64(31))).view(np.int64))


def check_batched(model: torch.nn.Module, recipe: Recipe) -> None:
    """Tells before there is any clip what `train_folds` would.

    Raises:
        MerFastError: a network or a setting that cannot be batched, with the layer or setting and the mend.
    """
    understood(model)
    _check_recipe(recipe)


def _check(inputs: torch.Tensor, labels: torch.Tensor, folds: Sequence[Sequence[int]], recipe: Recipe) -> None:
    if inputs.dim() != 4 or not inputs.is_floating_point():
        raise MerFastError(
            f"batched folds: inputs must be floats of shape (M, C, H, W), got {inputs.dtype} {tuple(inputs.shape)}; {MEND}"
        )
    if labels.shape != inputs.shape[:1] or labels.is_floating_point() or (len(labels) and int(labels.min()) < 0):
        raise MerFastError(f"batched folds: labels must be a class for each of {len(inputs)} clips, got {tuple(labels.shape)}")
    for k, fold in enumerate(folds):
        if not len(fold) or min(fold) < 0 or max(fold) >= len(inputs):
            raise MerFastError(f"batched folds: fold {k} must hold indices from 0 to {len(inputs) - 1}, at least one")
    _check_recipe(recipe)


def _check_recipe(recipe: Recipe) -> None:
    settings = {
        "loss": callable(recipe.loss), "augment": bool(recipe.augment), "statistics": bool(recipe.statistics),
        "validation": recipe.validation > 0, "amp": recipe.amp is not None,
    }  # fmt: skip
    for name, used in settings.items():
        if used:
            value = getattr(recipe, name)
            raise MerFastError(f"batched folds: the recipe's {name} ({value!r}) cannot be batched; leave it out, or {MEND}")


def _slots(labels: torch.Tensor, batches: Sequence[Sequence[int]], recipe: Recipe) -> int:
    """Slots of a fold's steps, whose batches are given; labels of all clips.

    The last bits of a matrix product depend on its number of rows. So this follows from the recipe and the data set, as the
    largest batch of any fold, and only in a fold that has clips several times from that fold; never from folds beside it.
    """
    clips = len(labels)
    if recipe.oversample:
        count = torch.bincount(labels)
        clips = int(count.max()) * int((count > 0).sum())
    return max(min(recipe.batch_size + 1, clips), max(map(len, batches)))  # one more: a clip that is left over


def _alike(labels: torch.Tensor, folds: Sequence[Sequence[int]], seeds: list[int], recipe: Recipe) -> list[list[int]]:
    """Folds that can be trained together: of as many steps an epoch and slots, in their order."""
    by_shape: dict[tuple[int, int], list[int]] = {}
    for k, (fold, seed) in enumerate(zip(folds, seeds, strict=True)):
        own = labels[list(fold)].tolist()
        batches = epoch_batches(own, recipe.batch_size, seed, 0, oversample=recipe.oversample)
        by_shape.setdefault((len(batches), _slots(labels, batches, recipe)), []).append(k)
    return list(by_shape.values())


def _parts(alike: list[int], model: torch.nn.Module) -> list[list[int]]:
    """Those that are trained together: on a GPU, where launches are as many for any number of folds, all of them."""
    on_cpu = next(model.parameters()).device.type == "cpu"
    parts = -(-len(alike) // MOST_FOLDS) if on_cpu else 1  # as equal as they can be
    return [alike[len(alike) * i // parts : len(alike) * (i + 1) // parts] for i in range(parts)]


def _run(groups: Sequence[_Group], progress: Progress | None) -> None:
    total, done = sum(group.epochs for group in groups), 0
    for group in groups:
        for _ in range(group.epochs):
            group.run_epoch()
            done += 1
            if progress is not None:
                progress("epoch", done, total)
        group.network.write_back()
        for model in group.network.models:
            model.eval()


class _Group:
    """Folds that take their steps together."""

    def __init__(
        self, models: Sequence[torch.nn.Module], inputs: torch.Tensor, labels: torch.Tensor, folds: Sequence[Sequence[int]],
        recipe: Recipe, seeds: Sequence[int], names: Sequence[str],
    ) -> None:  # fmt: skip
        self.network = FoldNetwork(models)
        self.inputs, self.recipe, self.seeds, self.names = inputs, recipe, seeds, names
        self.labels = labels.to(inputs.device)
        self.clips = [np.array(fold, np.int64) for fold in folds]
        self.classes = [labels[list(fold)] for fold in folds]
        self.classes_of_clips = [own.tolist() for own in self.classes]
        self.optimizer = recipe.make_optimizer(self.network)
        self.dropout_seeds = np.array([derive(seed, "dropout") for seed in seeds], np.uint64)
        self.loss: _FoldLoss | None = None
        asked = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        graphed = inputs.is_cuda and current_backend() != "reference"  # which asks for values
        self.gradients = Gradients(asked, self._losses, graphed)
        self.step = self.epoch = 0
        batches = self._batches(0, 0)
        self.slots, steps = _slots(labels, batches, recipe), len(batches)
        self.steps = recipe.iterations or steps * (recipe.epochs or 0)
        self.epochs = -(-self.steps // steps)

    def run_epoch(self) -> None:
        """All steps of one epoch, or as many as are left."""
        total = torch.zeros(len(self.seeds), device=self.inputs.device)
        indices = self._indices()
        for index, keys in zip(indices, self._keys(len(indices)), strict=True):
            if self.step < self.steps:
                total += self._take_step(index, keys)
        wrong = (~total.isfinite()).nonzero()
        if len(wrong):
            raise MerFastError(
                f"batched folds: the loss of fold {self.names[int(wrong[0])]} is not finite in epoch {self.epoch + 1}: "
                "lower the rate, or look for clips that are not finite"
            )
        self.epoch += 1

    def _take_step(self, index: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """One step on the clips index (F, B), with dropout keys (layers, F); the folds' losses. Never waits for a GPU."""
        rate = self.recipe.rate(self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        losses = self.gradients(index, keys)
        if self.recipe.clip_norm is not None:
            _clip(self.network, self.recipe.clip_norm)
        self.optimizer.step()
        self.step += 1
        return losses

    def _losses(self, index: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        logits = self.network(self.inputs, index, keys.unbind().__getitem__)
        if self.loss is None:
            self.loss = self._made_loss(logits.shape[2])
        return self.loss(logits, self.labels.take(index.clamp(min=0)), index >= 0)

    def _keys(self, steps: int) -> torch.Tensor:
        """Dropout keys of the next steps, (steps, layers, F)."""
        layers = range(self.network.dropouts)
        keys = [dropout_keys(self.dropout_seeds, self.step + k, layer) for k in range(steps) for layer in layers]
        return torch.stack(keys).view(steps, len(layers), -1).to(self.inputs.device)

    def _batches(self, fold: int, epoch: int) -> list[list[int]]:
        labels = self.classes_of_clips[fold]
        return epoch_batches(labels, self.recipe.batch_size, self.seeds[fold], epoch, oversample=self.recipe.oversample)

    def _indices(self) -> torch.Tensor:
        """The clips of this epoch's steps, (steps, F, B), EMPTY where a fold's batch is smaller."""
        batches = [self._batches(fold, self.epoch) for fold in range(len(self.clips))]
        indices = np.full((len(batches[0]), len(batches), self.slots), EMPTY, np.int64)
        for fold, own in enumerate(batches):
            for step, batch in enumerate(own):
                indices[step, fold, : len(batch)] = self.clips[fold][batch]
        return torch.from_numpy(indices).to(self.inputs.device)

    def _made_loss(self, classes: int) -> _FoldLoss:
        largest = int(self.labels.max())
        if largest >= classes:
            clip = int((self.labels == largest).nonzero()[0])
            raise MerFastError(f"clip {clip} is of class {largest}, and the network has {classes}")
        made = [self.recipe.make_loss(torch.bincount(own, minlength=classes)) for own in self.classes]
        focal = [loss for loss in made if isinstance(loss, BalancedFocalLoss)]
        if not focal:
            return _FoldLoss(None, 0.0)
        weights = torch.stack([loss.alpha for loss in focal if loss.alpha is not None])
        return _FoldLoss(weights.to(self.inputs.device), focal[0].gamma)


class _FoldLoss:
    """Cross entropy, or `losses.BalancedFocalLoss` with class weights (F, classes), of each fold's clips."""

    def __init__(self, weights: torch.Tensor | None, gamma: float) -> None:
        self.weights, self.gamma = weights, gamma

    def __call__(self, logits: torch.Tensor, target: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        """Logits (F, B, classes), classes and which slots are taken (F, B) -> the folds' means (F,)."""
        log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(2).gather(2, target[:, :, None])[:, :, 0]
        value = log_p
        if self.gamma:
            value = (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny).pow(self.gamma) * log_p
        if self.weights is not None:
            value = self.weights.to(value.dtype).gather(1, target) * value
        return -torch.where(there, value, 0).sum(1) / there.sum(1).clamp(min=1)


def _clip(network: FoldNetwork, most: float) -> None:
    """Each fold's gradients scaled so that their norm is at most `most`, as torch.nn.utils.clip_grad_norm_ does for one."""
    grads = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    norm = torch.stack([grad.flatten(1).norm(dim=1) for grad in grads]).norm(dim=0)
    share: Any = (most / (norm + 1e-6)).clamp(max=1)
    for grad in grads:
        grad.mul_(share.view(-1, *[1] * (grad.dim() - 1)))
