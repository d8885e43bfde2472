"""Whether the parts of a plan go together: what would be noticed after hours, or with a trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .errors import MerFastError
from .evaluation import CrossDatabase, KFold, Split
from .evaluation.batched import check_batched
from .experiment import Experiment

_GRAY = ("strcn-a", "microexpstcnn", "microexpfusenet")
# The networks that each augmentation and each statistic is for.
_AUGMENT = {
    "mirror": (*_GRAY, "atnet"),
    "mirror_flow": ("ststnet", "strcn-g"),
    "intensity": (*_GRAY, "atnet"),
    "dropped_frames": _GRAY,
}
_STATISTICS = {
    "appearance_mask": ("strcn-a",),
    "gray_range": ("microexpstcnn", "microexpfusenet"),
    "gray_change": _GRAY,
    "sequence_deviation": ("atnet",),
}
_CLASSES = {"3-class": 3, "4-class": 4, "5-class": 5}


def check_fit(experiment: Experiment, model: torch.nn.Module, data: Sequence[Mapping[str, Any]]) -> None:
    """Checks an experiment against itself and the sources of its data.

    Args:
        experiment: its number of classes is not known yet.
        model: its network; the weights need no memory.
        data: sources, as `plan_data.checked_data` gives them.

    Raises:
        MerFastError: settings that do not go together, with their keys.
    """
    settings, recipe, network = experiment.network_input().settings, experiment.recipe, experiment.network.lower()
    frames = experiment.options.get("frames")
    if frames is not None and frames != settings.frames:
        raise MerFastError(f"options.frames ({frames}) and input.frames ({settings.frames}) must be one number")
    if isinstance(settings.face, str) and settings.face.lower().endswith(".onnx") and not Path(settings.face).is_file():
        raise MerFastError(f"input.face: there is no file {settings.face}")
    for key, known in (("augment", _AUGMENT), ("statistics", _STATISTICS)):
        names = getattr(recipe, key)
        for name in () if callable(names) else names:
            if network not in known.get(name, (network,)):
                raise MerFastError(f"recipe.{key}: {name} is for {', '.join(known[name])}, and the network is {network}")
    if network == "strcn-a" and "appearance_mask" not in recipe.statistics:
        raise MerFastError("recipe.statistics must name appearance_mask: strcn-a has to know which pixels change")
    check_class_weights(recipe.class_weights, _classes(data[0]))
    _check_protocol(experiment)
    if experiment.folds == "batched":
        check_batched(model, recipe)


def _classes(source: Mapping[str, Any]) -> int | None:
    """How many classes the labels of a source have, where they tell it."""
    labels = source.get("labels", "3-class")
    return len({str(name) for name in labels.values()}) if isinstance(labels, Mapping) else _CLASSES.get(labels)


def check_class_weights(weights: Any, classes: int | None) -> None:
    """Checks that there is one for each of so many classes.

    Raises:
        MerFastError: there are more or fewer.
    """
    if isinstance(weights, tuple) and classes is not None and len(weights) != classes:
        raise MerFastError(f"recipe.class_weights must be {classes} numbers, one a class, got {list(weights)}")


def _check_protocol(experiment: Experiment) -> None:
    protocol = experiment.make_protocol()
    faults = {
        "k must be a whole number": isinstance(protocol, KFold) and type(protocol.k) is not int,
        "seed must be a whole number": isinstance(protocol, (KFold, Split)) and type(protocol.seed) is not int,
        "test must be a share or names of subjects": isinstance(protocol, Split)
        and not (type(protocol.test) is float or _are_names(protocol.test)),
        "train and test must be names of databases": isinstance(protocol, CrossDatabase)
        and not all(isinstance(side, str) or _are_names(side) for side in (protocol.train, protocol.test)),
    }
    for fault, holds in faults.items():
        if holds:
            raise MerFastError(f"protocol: {fault}, got {experiment.protocol}")


def _are_names(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(one, str) for one in value)
