"""Folds, seeds and data sets as Ray tasks: the same reports as one process, and Ray is stopped whatever happens."""

import pytest

import mer_fast
from mer_fast.evaluation import KFold, LeaveOneSubjectOut, cross_validate, finish, prepared
from mer_fast.training import Recipe

from .mer_sets import Tiny, TinySet, gradient_steps

ray = pytest.importorskip("ray")
RECIPE = Recipe(lr=0.02, epochs=5, batch_size=8, optimizer="adam", statistics=("gray_range",), augment=("mirror_flow",))
NOISY = {"noise": 2.0}


def fails_for_s02(model, clips):
    if clips.name == "s02":
        raise ValueError("planted")
    gradient_steps(model, clips)


def evaluations(folder=None):
    kept = [None] * 3 if folder is None else [folder / str(k) for k in range(3)]
    return [
        prepared(LeaveOneSubjectOut(), Tiny, TinySet(**NOISY), train=RECIPE, seed=0, resume=kept[0]),
        prepared(LeaveOneSubjectOut(), Tiny, TinySet(**NOISY), train=RECIPE, seed=1, resume=kept[1]),
        prepared(KFold(2), Tiny, TinySet((5, 5, 6), seed=4, **NOISY), train=RECIPE, resume=kept[2]),
    ]


def stop_after_three(words, done, total):
    assert total == 10
    if done == 3:
        raise KeyboardInterrupt


@pytest.mark.parametrize("first", ["sequential", pytest.param("ray", marks=pytest.mark.full)])
def test_seeds_and_data_sets_as_tasks_of_one_pool(tmp_path, first):
    """Stopped after three folds, and gone on with what is left."""
    alone = finish(evaluations())
    with pytest.raises(KeyboardInterrupt):
        finish(evaluations(tmp_path), folds=first, workers=2, progress=stop_after_three)
    assert sum(len(one.left) for one in evaluations(tmp_path)) == 7 and not ray.is_initialized()
    assert finish(evaluations(tmp_path), folds="ray", workers=2) == alone
    assert not ray.is_initialized()


@pytest.mark.full
def test_an_error_of_a_fold_comes_back(tmp_path):
    with pytest.raises(ValueError, match="planted") as caught:
        cross_validate(LeaveOneSubjectOut(), Tiny, TinySet(**NOISY), train=fails_for_s02, folds="ray", workers=2)
    assert "in fails_for_s02" in str(caught.value.__cause__) and not ray.is_initialized()


def test_there_may_be_no_ray(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(mer_fast.MerFastError, match=r'folds="ray" needs Ray .*: pip install "mer_fast\[ray\]"'):
        cross_validate(KFold(2), Tiny, TinySet(), train=RECIPE, folds="ray")
