"""One training in two processes: the losses, the weights and the pooled predictions are those of one process."""

import time
from unittest.mock import patch

import pytest
import torch

import mer_fast
from mer_fast import models
from mer_fast.evaluation import KFold, cross_validate
from mer_fast.evaluation.folds import using_threads
from mer_fast.evaluation.store import Store
from mer_fast.training import Recipe, fit
from mer_fast.training.parallel import Ranks, predict_together

from .kit.processes import in_ranks
from .mer_sets import SHAPE, Tiny, TinySet

# 13 clips in batches of 5, 5 and 3: the parts of two processes are of unlike sizes.
SETTINGS = {"lr": 0.05, "epochs": 6, "batch_size": 5, "class_weights": "inverse", "loss": "focal"}
PLAIN = Recipe(**SETTINGS, augment=("mirror_flow",), validation=0.4, clip_norm=1.0, statistics=("gray_range",))
CASES = {"plain": PLAIN, "norm": Recipe(**SETTINGS), "section": Recipe(**{**SETTINGS, "epochs": 2})}


def network(name):
    torch.manual_seed(5)
    if name == "section":
        return models.create("strcn-g", 3, width=8)
    if name == "norm":
        model = Tiny()
        model.dropout.p = 0.0
        return model
    return torch.nn.Sequential(torch.nn.Conv2d(SHAPE[0], 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64, 3))


class Larger(TinySet):
    """Clips that STRCN-G can take."""

    def __init__(self):
        super().__init__()
        self.inputs = self.inputs.repeat_interleave(11, 2).repeat_interleave(11, 3)


def data(name):
    return Larger() if name == "section" else TinySet()


def trained(folder):
    found = {}
    for name, recipe in CASES.items():
        model = network(name)
        if Ranks.now().rank:
            torch.nn.init.zeros_(next(model.parameters()))  # the first process's weights are taken
        files = {"checkpoint": f"{folder}/{name}.safetensors", "checkpoint_seconds": 0.0, "log": f"{folder}/{name}"}
        out = fit(model, data(name), recipe, seed=3, **files)
        losses = [(row["loss"], row["validation_loss"] or 0.0) for row in out.history]
        found[name] = (torch.tensor(losses), predict_together(out.model, data(name)), out.model.state_dict())
    return found


def evaluated(folder):
    return cross_validate(KFold(2), lambda: network("norm"), TinySet(), train=CASES["norm"], resume=f"{folder}/kept")


def check_store(rank, folder):
    """The first process is late; then a folder of another evaluation, and one that the first process cannot make."""
    time.sleep(0 if rank else 1)
    Store(f"{folder}/new", {"seed": "1"})
    with pytest.raises(mer_fast.MerFastError, match="another seed"):
        Store(f"{folder}/new", {"seed": "2"})
    message = "has nothing of the first process" if rank else "cannot be made"
    broken = patch("mer_fast.evaluation.store.atomic_path", side_effect=mer_fast.MerFastError("cannot be made"))
    with broken, pytest.raises(mer_fast.MerFastError, match=message):
        Store(f"{folder}/none", {})


def work(rank, world, folder):
    found = trained(f"{folder}/{rank}")
    with pytest.raises(mer_fast.MerFastError, match="a batch has 1 clip, and each process needs one: take fewer"):
        fit(network("plain"), TinySet(), Recipe(lr=0.1, epochs=1, batch_size=1))
    with pytest.raises(mer_fast.MerFastError, match='folds="processes" has processes of its own'):
        cross_validate(KFold(2), lambda: network("norm"), TinySet(), train=CASES["norm"], folds="processes")
    check_store(rank, folder)
    return found, evaluated(folder).predictions


def test_two_processes_train_as_one(tmp_path):
    with using_threads(1):
        one = trained(tmp_path / "alone")
    pair = in_ranks(work, 2, tmp_path, str(tmp_path))
    for name in CASES:
        losses, logits, weights = one[name]
        for found, _ in pair:
            torch.testing.assert_close(found[name][0], losses, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found[name][1], logits, rtol=1e-3, atol=1e-3)
            for key, value in weights.items():
                torch.testing.assert_close(found[name][2][key], value, rtol=1e-3, atol=1e-3)
        for key, value in pair[0][0][name][2].items():
            assert torch.equal(value, pair[1][0][name][2][key])
    # Only the first process writes.
    assert (tmp_path / "0" / "plain" / "log.csv").read_text().count("\n") == 7 and not (tmp_path / "1").exists()
    assert torch.equal(pair[0][1], pair[1][1]) and torch.equal(pair[0][1], evaluated(tmp_path / "again").predictions)
