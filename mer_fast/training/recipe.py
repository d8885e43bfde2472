"""How a network is trained."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ..losses import BalancedFocalLoss
from ..ops._checks import require, require_count, require_number
from .augmentation import AUGMENTATIONS, Augmentation
from .statistics import AROUND, STATISTICS

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_NAME = "Recipe"
_CHOICES: dict[str, tuple[str | None, ...]] = {
    "optimizer": ("sgd", "adam", "adamw", "rmsprop"),
    "schedule": ("constant", "step", "cosine"),
    "amp": (None, "bfloat16", "float16"),
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of a training; every random number in it follows from the seed.

    Attributes:
        lr: learning rate at the start.
        epochs, iterations: how long; one of the two.
        batch_size: clips of a step.
        optimizer: "sgd", "adam", "adamw" or "rmsprop".
        momentum: of "sgd" and "rmsprop".
        weight_decay: of every parameter.
        schedule: "constant"; "step", the rate times `step_factor` every `step_every` iterations; or "cosine", down to 0.
        loss: "cross_entropy", "focal" (`losses.BalancedFocalLoss`), or a function of logits (N, C) and classes (N,).
        gamma: of "focal".
        class_weights: "inverse" or "effective", from the classes' counts in the training clips; numbers, one a class; or none.
        oversample: the clips of small classes are repeated until all classes are as large.
        augment: names from `training.AUGMENTATIONS`, in order, or a function of a batch's inputs and a generator.
        statistics: names from `training.STATISTICS`: what the network needs to know of its training clips first.
        amp: "bfloat16" or "float16" for automatic mixed precision; float32 unless given.
        clip_norm: the largest norm of all gradients together.
        validation: a share of the training subjects that is held out, 0 for none. The weights of the epoch with the least loss
            on their clips are kept.
        patience: with `validation`, stops after so many epochs without a smaller loss.
        seed: where nobody gives another.

    Raises:
        MerFastError: a setting that is unknown or out of range, or settings that do not go together.
    """

    lr: float
    epochs: int | None = None
    iterations: int | None = None
    batch_size: int = 16
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "constant"
    step_every: int | None = None
    step_factor: float = 0.1
    loss: str | Loss = "cross_entropy"
    gamma: float = 2.0
    class_weights: str | tuple[float, ...] | None = None
    oversample: bool = False
    augment: tuple[str, ...] | Augmentation = ()
    statistics: tuple[str, ...] = ()
    amp: str | None = None
    clip_norm: float | None = None
    validation: float = 0.0
    patience: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("augment", "statistics", "class_weights"):
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            require(value in choices, _NAME, name, "must be one of {}, got {!r}", ", ".join(map(repr, choices)), value)
        require(callable(self.loss) or self.loss in ("cross_entropy", "focal"), _NAME, "loss",
                "must be 'cross_entropy', 'focal' or a function, got {!r}", self.loss)  # fmt: skip
        require((self.epochs is None) != (self.iterations is None), _NAME, "epochs, iterations", "exactly one must be given")
        require(isinstance(self.oversample, bool), _NAME, "oversample", "must be true or false, got {!r}", self.oversample)
        self._check_numbers()
        self._check_class_weights()
        self._check_names()

    def _check_numbers(self) -> None:
        for name in ("epochs", "iterations", "batch_size", "step_every", "patience"):
            if getattr(self, name) is not None:
                require_count(_NAME, name, getattr(self, name))
        require_count(_NAME, "seed", self.seed, least=0)
        require_number(_NAME, "lr", self.lr, 0)
        require_number(_NAME, "momentum", self.momentum, -1e-12, 1)
        require_number(_NAME, "weight_decay", self.weight_decay, -1e-12)
        require_number(_NAME, "step_factor", self.step_factor, 0)
        require_number(_NAME, "gamma", self.gamma, -1e-12)
        require_number(_NAME, "validation", self.validation, -1e-12, 1)
        if self.clip_norm is not None:
            require_number(_NAME, "clip_norm", self.clip_norm, 0)
        require((self.schedule == "step") == (self.step_every is not None), _NAME, "step_every",
                "goes with schedule 'step', and must be given there")  # fmt: skip
        require(self.patience is None or self.validation > 0, _NAME, "patience", "needs validation: a share of subjects")
        require(not (callable(self.loss) and self.class_weights is not None), _NAME, "class_weights",
                "are of no use with a loss of your own")  # fmt: skip

    def _check_class_weights(self) -> None:
        weights = self.class_weights
        if weights is None or (isinstance(weights, str) and weights in ("inverse", "effective")):
            return
        numbers = isinstance(weights, tuple) and all(type(one) in (int, float) and 0 <= one < math.inf for one in weights)
        require(numbers and any(weights), _NAME, "class_weights",
                "must be 'inverse', 'effective' or numbers from 0 on, one a class and not all 0, got {!r}", weights)  # fmt: skip

    def _check_names(self) -> None:
        for name, known in (("augment", AUGMENTATIONS), ("statistics", STATISTICS)):
            value = getattr(self, name)
            if callable(value):
                continue
            unknown = [one for one in (value if isinstance(value, tuple) else (value,)) if one not in known]
            require(not unknown, _NAME, name, "must name some of {}, got {!r}", ", ".join(known), *unknown[:1])
        around = [one for one in self.statistics if one in AROUND]
        require(len(around) <= 1, _NAME, "statistics", "can have one of {}, got {}", ", ".join(sorted(AROUND)), around)
        first = "appearance_mask" not in self.statistics or self.statistics.index("appearance_mask") == 0
        require(first, _NAME, "statistics", "must have appearance_mask first, got {}", list(self.statistics))

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Recipe:
        """A recipe from a mapping, as a YAML file has it.

        Raises:
            MerFastError: a name that is no setting, and what the constructor raises.
        """
        known = [one.name for one in dataclasses.fields(cls)]
        unknown = [name for name in settings if name not in known]
        require(not unknown, _NAME, str(unknown[0]) if unknown else "", "is no setting; there are {}", ", ".join(known))
        require("lr" in settings, _NAME, "lr", "must be given")
        return cls(**settings)

    def replace(self, **changes: Any) -> Recipe:
        """The same with some settings changed. `epochs` drops `iterations`, and the other way round."""
        if "epochs" in changes or "iterations" in changes:
            changes = {"epochs": None, "iterations": None, **changes}
        return dataclasses.replace(self, **changes)

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step `step` (from 0 on) of `steps`."""
        if self.schedule == "step":
            assert self.step_every is not None
            return self.lr * self.step_factor ** (step // self.step_every)
        return self.lr * (1 + math.cos(math.pi * step / steps)) / 2 if self.schedule == "cosine" else self.lr

    def make_optimizer(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        """The optimizer of all parameters that ask for a gradient."""
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        require(bool(weights), _NAME, "model", "has no parameter that asks for a gradient")
        decay = float(self.weight_decay)
        if self.optimizer == "sgd":
            return torch.optim.SGD(weights, self.lr, momentum=self.momentum, weight_decay=decay)
        if self.optimizer == "rmsprop":
            return torch.optim.RMSprop(weights, self.lr, momentum=self.momentum, weight_decay=decay)
        kind = torch.optim.Adam if self.optimizer == "adam" else torch.optim.AdamW
        return kind(weights, self.lr, weight_decay=decay)

    def make_loss(self, counts: torch.Tensor) -> Loss:
        """The loss, for training clips of which each class has `counts`, (C,)."""
        if not isinstance(self.loss, str):
            return self.loss
        gamma = self.gamma if self.loss == "focal" else 0.0
        if self.class_weights is None:
            return F.cross_entropy if gamma == 0 else BalancedFocalLoss(torch.ones(len(counts)), gamma)
        if isinstance(self.class_weights, str):
            return BalancedFocalLoss(self.class_weights, gamma, counts=counts)
        return BalancedFocalLoss(self.class_weights, gamma)
