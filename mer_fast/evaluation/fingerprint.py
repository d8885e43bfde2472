"""What an evaluation is of, in a few words that change when it does: so that unlike folds are never pooled."""

from __future__ import annotations

import hashlib
import json

import torch

from .. import _version
from ..backends import current_backend
from ..fingerprint import describe, digest, of_tensor
from ..seeds import isolated
from ..training.batches import collate
from .folds import Task
from .protocols import Fold


def engine_kind(engine: str) -> str:
    """Engines of one kind give the same results; "batched" draws another dropout."""
    return "batched" if engine == "batched" else "fold by fold"


def settings_of(task: Task, folds: tuple[Fold, ...], engine: str) -> dict[str, str]:
    """What the results depend on, each by a name that a message may show."""
    with isolated(task.seed):  # a data set or a network may draw random numbers
        return {
            "seed": str(task.seed),
            "protocol": digest([[fold.name, fold.train, fold.test] for fold in folds]),
            "train": describe(task.train),
            "network": _network(task.new_model()),
            "data set": _content(task),
            "number of threads": str(task.threads),
            "kind of engine": engine_kind(engine),
            "backend": current_backend(),
            "default dtype": str(torch.get_default_dtype()),
            "version of torch or mer_fast": f"{torch.__version__}, {_version.__version__}",
        }


def _content(task: Task) -> str:
    """Of every clip's content, unless the data set has a `fingerprint` of its own; of labels and subjects always."""
    known = getattr(task.dataset, "fingerprint", None)
    if known is None:
        total = hashlib.sha256()
        for index in range(len(task.dataset)):
            for tensor in collate([task.dataset[index][0]]):
                total.update(json.dumps(of_tensor(tensor)).encode())
        known = total.hexdigest()
    return digest([known, task.roster.labels, task.roster.subjects])


def _network(model: torch.nn.Module) -> str:
    """By its structure, its device and its first weights."""
    weights = [[name, of_tensor(value)] for name, value in model.state_dict().items()]
    return digest([repr(model), sorted({weight.device.type for weight in model.parameters()}), weights])
