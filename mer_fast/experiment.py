"""A network, how it is trained and how it is tested: what a YAML file holds, and what `mer-fast train` and `evaluate` run."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch

from . import models
from .data.network_inputs import NetworkInput, network_input
from .errors import MerFastError
from .evaluation import (
    CompositeDatabase,
    CrossDatabase,
    Evaluation,
    EvaluationProtocol,
    KFold,
    LeaveOneSubjectOut,
    Report,
    Split,
    finish,
    prepared,
)  # fmt: skip
from .seeds import derive, isolated
from .training import Recipe, fit
from .training.loop import Progress
from .training.network_file import save_network
from .training.parallel import Ranks

_WITH_EXPONENT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")
RECIPES = Path(__file__).parent / "training" / "recipes"
PROTOCOLS: dict[str, type[Any]] = {
    "leave-one-subject-out": LeaveOneSubjectOut,
    "composite": CompositeDatabase,
    "cross-database": CrossDatabase,
    "k-fold": KFold,
    "split": Split,
}


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything but the data.

    Attributes:
        network, options: as of `models.create`.
        recipe: how it is trained; a mapping of its settings does too.
        num_classes: how many classes.
        input: what `data.network_input` is asked to change.
        protocol: a name of `PROTOCOLS`, or a mapping of "name" and its arguments.
        folds: the engine, as of `evaluation.cross_validate`.
        seed: of folds, or of the training.
        threads, workers: as of `evaluation.cross_validate`.
        device: what the network is trained on, as "cpu" or "cuda".

    Raises:
        MerFastError: a network, protocol or setting that does not exist or is out of range.
    """

    network: str
    recipe: Recipe
    num_classes: int = 3
    options: Mapping[str, Any] = field(default_factory=dict)
    input: Mapping[str, Any] = field(default_factory=dict)
    protocol: str | Mapping[str, Any] = "leave-one-subject-out"
    folds: str = "sequential"
    seed: int = 0
    threads: int = 1
    workers: int | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if isinstance(self.recipe, Mapping):
            object.__setattr__(self, "recipe", Recipe.of(self.recipe))
        if not isinstance(self.recipe, Recipe):
            raise MerFastError(f"experiment: recipe must be the settings of a training, got {self.recipe!r}")
        for name in ("options", "input"):
            if not isinstance(getattr(self, name), Mapping):
                raise MerFastError(f"experiment: {name} must be settings by name, got {getattr(self, name)!r}")
        self.make_protocol()
        self.network_input()

    def make_model(self) -> torch.nn.Module:
        """A new network."""
        try:
            model = models.create(self.network, self.num_classes, **self.options)
        except TypeError as error:
            raise MerFastError(f"experiment: options do not fit {self.network}: {error}") from error
        # Made on the CPU, so that the first weights are the same on every device.
        return model if self.device == "cpu" else model.to(self.device)

    def network_input(self) -> NetworkInput:
        """How clips are preprocessed, and the network's input is made of that."""
        return network_input(self.network, **self.input)

    def make_protocol(self) -> EvaluationProtocol:
        """The protocol."""
        given: dict[str, Any] = {"name": self.protocol} if isinstance(self.protocol, str) else dict(self.protocol)
        kind = PROTOCOLS.get(given.pop("name", ""))
        if kind is None:
            raise MerFastError(f"experiment: protocol must be one of {', '.join(PROTOCOLS)}, got {self.protocol!r}")
        try:
            protocol: EvaluationProtocol = kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})
        except TypeError as error:
            raise MerFastError(f"experiment: protocol {self.protocol!r}: {error}") from error
        return protocol

    def evaluation(
        self, dataset: Any, resume: str | os.PathLike[str] | None = None, checkpoint_seconds: float = 30.0
    ) -> Evaluation:
        """Its evaluation on a data set, before any fold is run: `evaluation.finish` runs it."""
        return prepared(
            self.make_protocol(), partial(Experiment.make_model, self), dataset, train=self.recipe, folds=self.folds,
            seed=self.seed, threads=self.threads, resume=resume, checkpoint_seconds=checkpoint_seconds,
        )  # fmt: skip

    @classmethod
    def of(cls, settings: Mapping[str, Any], **changes: Any) -> Experiment:
        """An experiment from a mapping, some settings of which are changed.

        Raises:
            MerFastError: a name that is no setting, no network or no recipe, and what the constructor raises.
        """
        together = {**settings, **changes}
        known = [one.name for one in fields(cls)]
        unknown = [name for name in together if name not in known]
        if unknown:
            raise MerFastError(f"experiment: {unknown[0]} is no setting; there are {', '.join(known)}")
        missing = [name for name in ("network", "recipe") if name not in together]
        if missing:
            raise MerFastError(f"experiment: {missing[0]} must be given")
        return cls(**together)


def load_experiment(source: str | os.PathLike[str], **changes: Any) -> Experiment:
    """Reads an experiment from a YAML file.

    Args:
        source: a file, or the name of a recipe that comes with mer_fast (`recipe_names`).
        changes: settings of `Experiment` that are not as in the file.

    Raises:
        MerFastError: no such file or recipe, no YAML, settings that will not do, or PyYAML is not installed.
    """
    path = RECIPES / f"{source}.yaml" if str(source) in recipe_names() else Path(source)
    if not path.is_file():
        raise MerFastError(f"{source} is neither a file nor one of the recipes {', '.join(recipe_names())}")
    try:
        return Experiment.of(read_settings(path), **changes)
    except MerFastError as error:
        raise MerFastError(f"{source}: {error}") from error


def recipe_names() -> list[str]:
    """The recipes that come with mer_fast: networks as published, and with `-small` in forms that train in minutes on a CPU."""
    return sorted(file.stem for file in RECIPES.glob("*.yaml"))


def train_network(
    experiment: Experiment,
    dataset: Any,
    output: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    tensorboard: bool = False,
    checkpoint_seconds: float = 30.0,
    progress: Progress | None = None,
) -> Path:
    """Trains a network on all clips, and writes it to `output/network.safetensors` (`training.load_network`).

    `output` also has `log.csv`, and while the training lasts `checkpoint.safetensors`: called again it goes on from there.

    Args:
        experiment: what to train.
        dataset: as of `training.fit`.
        output: a folder; made where it is missing.
        classes: names of the classes; their numbers unless given.
        tensorboard: whether to log for TensorBoard too.
        checkpoint_seconds, progress: as of `training.fit`.

    Raises:
        MerFastError: what `training.fit` raises, or not as many names as classes.
    """
    names = [str(number) for number in range(experiment.num_classes)] if classes is None else list(classes)
    if len(names) != experiment.num_classes:
        raise MerFastError(f"train: classes must be {experiment.num_classes} names, got {len(names)}")
    folder = Path(output)
    checkpoint, file = folder / "checkpoint.safetensors", folder / "network.safetensors"
    with isolated(derive(experiment.seed, "network")):
        model = experiment.make_model()
    trained = fit(
        model, dataset, experiment.recipe, seed=experiment.seed, checkpoint=checkpoint,
        checkpoint_seconds=checkpoint_seconds, log=folder, tensorboard=tensorboard, progress=progress,
    )  # fmt: skip
    if Ranks.now().writes:
        save_network(file, trained.model, experiment.network, names, experiment.options, experiment.input)
        checkpoint.unlink(missing_ok=True)
    return file


def evaluate_network(
    experiment: Experiment,
    dataset: Any,
    output: str | os.PathLike[str],
    *,
    progress: Progress | None = None,
) -> Report:
    """Evaluates a network by the experiment's protocol, and writes `output/report.json` (`evaluation.Report.load`).

    Finished folds are kept in `output/folds-done`: called again it does what is left.

    Args:
        experiment: what to evaluate.
        dataset: as of `evaluation.cross_validate`.
        output: a folder; made where it is missing.
        progress: as of `evaluation.cross_validate`.

    Raises:
        MerFastError: what `evaluation.cross_validate` raises.
    """
    folder = Path(output)
    evaluation = experiment.evaluation(dataset, folder / "folds-done")
    report = finish([evaluation], folds=experiment.folds, workers=experiment.workers, progress=progress)[0]
    report.save(folder / "report.json")
    return report


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings by name that a YAML file holds.

    Raises:
        MerFastError: no such file, no YAML, no settings, or PyYAML is not installed.
    """
    try:
        content = from_yaml(Path(path).read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise MerFastError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not isinstance(content, Mapping):
        raise MerFastError(f"{path} must hold settings by name (network, recipe, ...)")
    return dict(content)


def from_yaml(text: str, name: str) -> Any:
    """A value from YAML, numbers such as 5e-5 included; what stands in quotes is a word.

    Raises:
        MerFastError: it is none, or PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError as error:
        raise MerFastError(f'YAML files need PyYAML ({error}): pip install "mer_fast[train]"') from error
    try:
        return yaml.load(text, Loader=_loader(yaml))
    except yaml.YAMLError as error:
        raise MerFastError(f"{name} is no YAML: {' '.join(str(error).split())}") from error


@functools.cache
def _loader(yaml: Any) -> Any:
    """The safe loader, which takes a plain 5e-5 for a number too: YAML 1.1 takes it for a word, since it has no point."""
    loader: Any = type("Loader", (yaml.SafeLoader,), {})
    loader.add_implicit_resolver("tag:yaml.org,2002:float", _WITH_EXPONENT, list("-+.0123456789"))
    return loader
