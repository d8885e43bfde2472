"""What `mer-fast train` and `mer-fast evaluate` read from a YAML file: the data, and an experiment on it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .errors import MerFastError
from .evaluation.engines import engine
from .experiment import Experiment, from_yaml, load_experiment, read_settings, recipe_names
from .ops._checks import require_count, require_number
from .plan_data import checked_data
from .plan_fit import check_fit
from .training import Recipe

KEYS = (
    "data", "recipe", "network", "options", "input", "cache", "protocol", "seeds", "engine", "threads", "workers", "device",
    "checkpoint_seconds", "tensorboard", "output",
)  # fmt: skip
CACHE = "mer-fast-cache"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be run.

    Attributes:
        data: where the clips come from (`plan_data`), one or several sources.
        experiment: the network and all that is done with it; its seed and number of classes are still to be set.
        seeds: each is a run of its own.
        cache: folder of preprocessed clips.
        output: folder of what is found.
        threads: of one fold or training; None where the file does not say.
        checkpoint_seconds: how often the state of a training is kept.
        tensorboard: whether to log for TensorBoard too.
    """

    data: tuple[Mapping[str, Any], ...]
    experiment: Experiment
    seeds: tuple[int, ...]
    cache: Path
    output: Path
    threads: int | None
    checkpoint_seconds: float
    tensorboard: bool

    def described(self) -> dict[str, Any]:
        """What the results depend on, by dotted names; what JSON can hold. Seeds are not among it."""
        experiment = self.experiment
        recipe = {name: value for name, value in dataclasses.asdict(experiment.recipe).items() if name != "seed"}
        settings = experiment.network_input().settings
        return dict(_flat({
            "data": {str(k): dict(one) for k, one in enumerate(self.data)} if len(self.data) > 1 else dict(self.data[0]),
            "network": experiment.network, "options": dict(experiment.options), "recipe": recipe,
            "input": {one.name: getattr(settings, one.name) for one in dataclasses.fields(settings)},
            "protocol": experiment.protocol, "device": experiment.device,
        }))  # fmt: skip


def load_plan(
    source: str | os.PathLike[str],
    kind: str = "evaluation",
    *,
    changes: Sequence[str] = (),
    seeds: Sequence[int] = (),
    engine: str | None = None,
    output: str | os.PathLike[str] | None = None,
) -> Plan:
    """Reads a plan from a YAML file; paths in it are relative to the current folder.

    Args:
        source: the file.
        kind: what becomes of it; where it names no `output`, that is named after the file and this, as "casme2-evaluation".
        changes: settings that are not as in the file, each as "recipe.lr=0.01".
        seeds, engine, output: the same for these, where they are given.

    Raises:
        MerFastError: no such file, no YAML, or a setting that does not exist or is out of range: the file, the setting, and what
            it may be.
    """
    settings = read_settings(source)
    try:
        for change in changes:
            _set(settings, change)
        given = {"seeds": list(seeds) or None, "engine": engine, "output": None if output is None else str(output)}
        settings.update({name: value for name, value in given.items() if value is not None})
        return _plan(settings, f"{Path(source).stem}-{kind}")
    except MerFastError as error:
        raise MerFastError(f"{source}: {error}") from error


def _plan(settings: Mapping[str, Any], name: str) -> Plan:
    _check_names("", settings, KEYS)
    if "data" not in settings:
        raise MerFastError("data must be given: {dataset: ..., folder: ...}, {composite: ...} or {synthetic: ...}")
    seeds = settings.get("seeds", 0)
    seeds = (seeds,) if not isinstance(seeds, list) else tuple(seeds)
    for seed in seeds:
        require_count("settings", "seeds", seed, least=0)
    if not seeds or len(set(seeds)) < len(seeds):
        raise MerFastError(f"seeds must be numbers that differ, at least one, got {list(seeds)}")
    seconds, tensorboard = settings.get("checkpoint_seconds", 30.0), settings.get("tensorboard", False)
    require_number("settings", "checkpoint_seconds", seconds, -1e-12)
    if not isinstance(tensorboard, bool):
        raise MerFastError(f"tensorboard must be true or false, got {tensorboard!r}")
    for key in ("cache", "output"):
        if not isinstance(settings.get(key, ""), str):
            raise MerFastError(f"{key} must be a folder, got {settings[key]!r}")
    for key in ("threads", "workers"):
        if settings.get(key) is not None:
            require_count("settings", key, settings[key])
    sources = checked_data(settings["data"])
    return Plan(
        data=sources, experiment=_experiment(settings, sources), seeds=seeds,
        cache=Path(settings.get("cache", CACHE)), output=Path(settings.get("output", name)), threads=settings.get("threads"),
        checkpoint_seconds=float(seconds), tensorboard=tensorboard,
    )  # fmt: skip


def _experiment(settings: Mapping[str, Any], sources: Sequence[Mapping[str, Any]]) -> Experiment:
    recipe = _mapping(settings, "recipe", "name")
    options, changes = _mapping(settings, "options"), _mapping(settings, "input")
    network, name = settings.get("network"), recipe.pop("name", None)
    if name is not None:
        if name not in recipe_names():
            raise MerFastError(f"recipe must name one of {', '.join(recipe_names())}, got {name!r}")
        base = load_experiment(name)
        if network not in (None, base.network):
            raise MerFastError(f"network: the recipe {name} is of {base.network}, got {network!r}: leave one of the two out")
        network, options, changes = base.network, {**base.options, **options}, {**base.input, **changes}
        recipe = _changed(base.recipe, recipe)
    if network is None:
        raise MerFastError("recipe must name a recipe, or network a network; there are the recipes " + ", ".join(recipe_names()))
    chosen = settings.get("engine", "sequential")
    engine(chosen)
    device = settings.get("device", "cpu")
    _check_device(device)
    try:
        experiment = Experiment(
            network=network, recipe=Recipe.of(recipe), options=options, input=changes,
            protocol=settings.get("protocol", "leave-one-subject-out"), folds=chosen, threads=settings.get("threads") or 1,
            workers=settings.get("workers"), device=device,
        )  # fmt: skip
        with torch.device("meta"):
            model = dataclasses.replace(experiment, device="cpu").make_model()
    except (TypeError, ValueError, AttributeError) as error:
        raise MerFastError(f"options, input, recipe or protocol has a value of a wrong kind: {error}") from error
    check_fit(experiment, model, sources)
    return experiment


def _changed(recipe: Recipe, changes: dict[str, Any]) -> dict[str, Any]:
    """A recipe's settings with changes; settings that make no sense beside them are left out."""
    settings = {one.name: getattr(recipe, one.name) for one in dataclasses.fields(recipe)}
    if "epochs" in changes or "iterations" in changes:
        settings |= {"epochs": None, "iterations": None}
    if changes.get("schedule", "step") != "step":
        settings["step_every"] = None
    return {**settings, **changes}


def _check_device(device: Any) -> None:
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError) as error:
        raise MerFastError(f"device must be cpu or cuda, got {device!r}") from error
    if kind not in ("cpu", "cuda"):
        raise MerFastError(f"device must be cpu or cuda, got {device!r}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise MerFastError("device: there is no CUDA device here: take cpu")


def _mapping(settings: Mapping[str, Any], key: str, plain: str | None = None) -> dict[str, Any]:
    """A setting that holds settings; a word in its place is the one called `plain`."""
    value = settings.get(key) or {}
    if plain is not None and isinstance(value, str):
        return {plain: value}
    if not isinstance(value, Mapping):
        raise MerFastError(f"{key} must hold settings by name, got {value!r}")
    return dict(value)


def _set(settings: dict[str, Any], change: str) -> None:
    """Carries out one "recipe.lr=0.01"."""
    path, equals, text = change.partition("=")
    *outer, last = path.strip().split(".")
    if not equals or not all([*outer, last]):
        raise MerFastError(f"--set {change}: must be a name, = and a value, as recipe.lr=0.01")
    inner = settings
    for name in outer:
        value = inner.get(name)
        if value is not None and not isinstance(value, (str, Mapping)):
            raise MerFastError(f"--set {change}: {name} does not hold settings by name")
        # A recipe or protocol that is given by its name alone has room for settings too.
        inner[name] = {"name": value} if isinstance(value, str) else dict(value or {})
        inner = inner[name]
    inner[last] = from_yaml(text, f"--set {change}")


def _check_names(where: str, settings: Mapping[str, Any], known: Sequence[str]) -> None:
    unknown = [name for name in settings if name not in known]
    if unknown:
        raise MerFastError(f"{where}{unknown[0]} is no setting; there are {', '.join(known)}")


def _flat(settings: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if isinstance(settings, Mapping):
        return [pair for name, value in settings.items() for pair in _flat(value, f"{prefix}{name}.")]
    plain = list(settings) if isinstance(settings, tuple) else settings
    return [(prefix.rstrip("."), plain)]
