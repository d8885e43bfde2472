"""Leave-one-subject-out: what a fold may know, that engines agree, and what is refused."""

import os
import random
import threading

import numpy as np
import pytest
import torch

import mer_fast
from mer_fast import evaluation, models
from mer_fast.evaluation import CrossDatabase, KFold, Split, cross_validate, leave_one_subject_out
from mer_fast.training import Recipe

from .mer_sets import Tiny, TinySet, gradient_steps, one_thread, same, weights  # noqa: F401 (the fixture)

RECIPE = Recipe(
    lr=0.05, epochs=3, batch_size=4, statistics=("gray_range",), loss="focal", class_weights="inverse", oversample=True
)


def keeping(found):
    """A training that also writes down what every fold's network became."""

    def train(model, clips):
        trained = mer_fast.training.fit(model, clips, RECIPE, seed=clips.seed).model
        found[clips.name] = weights(trained)
        return trained

    return train


def test_pools_what_networks_trained_by_hand_say():
    """The whole of it, written out."""
    data = TinySet()
    report = leave_one_subject_out(Tiny, data, train=gradient_steps, seed=7)
    expected = []
    for subject in ("s00", "s01", "s02", "s03"):
        seed = mer_fast.seeds.derive(7, "fold", subject)
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        model = Tiny().train()
        gradient_steps(model, [data[i] for i in range(len(data)) if data.subjects[i] != subject])
        model.eval()
        expected += [int(model(data[i][0][None]).argmax()) for i in range(len(data)) if data.subjects[i] == subject]
    assert report.predictions.tolist() == expected and report.targets.tolist() == data.classes
    assert report.subjects == tuple(data.subjects) and report.indices.tolist() == list(range(len(data)))
    assert report.uf1 == evaluation.uf1(expected, data.classes, 3) and report.num_classes == 3
    assert list(report.per_subject) == ["s00", "s01", "s02", "s03"] and report.per_subject["s01"].clips == 1


def test_it_learns_and_chance_stays_chance():
    data = TinySet(sizes=(6,) * 6)
    recipe = Recipe(lr=0.05, epochs=15, batch_size=8)
    assert leave_one_subject_out(Tiny, data, train=recipe).uf1 > 0.9
    data.classes = random.Random(0).sample(data.classes, len(data))
    assert leave_one_subject_out(Tiny, data, train=recipe).uf1 < 0.6


@pytest.mark.parametrize("what", ["labels", "pixels"])
def test_nothing_of_the_test_clips_reaches_the_training(what):
    """For each subject in turn its labels, or its pixels, are replaced: the weights of its fold stay, those of others do not."""
    before: dict = {}
    report = leave_one_subject_out(Tiny, TinySet(), train=keeping(before))
    for subject in ("s00", "s01", "s02", "s03"):
        data, after = TinySet(), {}
        own = [i for i, name in enumerate(data.subjects) if name == subject]
        for i in own:
            if what == "labels":
                data.classes[i] = (data.classes[i] + 1) % 3
            else:
                data.inputs[i] = 100 * torch.rand_like(data.inputs[i])
        changed = leave_one_subject_out(Tiny, data, train=keeping(after))
        for fold, learned in after.items():
            assert same(learned, before[fold]) == (fold == subject), (subject, fold)
        if what == "labels":
            assert [changed.predictions[i] for i in own] == [report.predictions[i] for i in own]


def test_masks_come_from_training_clips_alone():
    """STRCN-A looks at the pixels that change most: in the clips it trains on."""
    made = []

    class Recorded(models.STRCNA):
        def __init__(self):
            super().__init__(2, frames=8, width=2)
            made.append(self)

    def clips_of(moving):
        clips = 0.01 * torch.rand(6, 6, 24, 24, generator=torch.Generator().manual_seed(1))
        for i, (rows, columns) in enumerate(moving):
            clips[i, 1::2, rows : rows + 13, columns : columns + 13] += 0.5
        return clips

    class Clips(TinySet):
        def __init__(self, last):
            self.subjects, self.classes, self.read = ["a", "a", "b", "b", "c", "c"], [0, 1] * 3, []
            self.inputs = clips_of([(0, 0)] * 4 + [last] * 2)

    recipe = Recipe(lr=0.01, iterations=1, batch_size=4, statistics=("appearance_mask",))
    for last in ((11, 11), (0, 11)):
        leave_one_subject_out(Recorded, Clips(last), train=recipe)
    first, second = made[:3], made[3:]
    assert torch.equal(first[2].mask, second[2].mask) and first[2].mask[:11, :11].any()
    assert not torch.equal(first[0].mask, second[0].mask)


def test_a_fold_reads_no_test_clip_before_it_is_trained():
    data, log = TinySet(), []

    def train(model, clips):
        data.read.clear()
        gradient_steps(model, clips)
        log.append((clips.name, {data.subjects[i] for i in data.read}))

    leave_one_subject_out(Tiny, data, train=train)
    assert [name for name, _ in log] == ["s00", "s01", "s02", "s03"]
    assert all(read == {"s00", "s01", "s02", "s03"} - {name} for name, read in log)


def test_the_training_set_is_a_data_set_of_its_own():
    data = TinySet()

    def train(model, clips):
        assert len(clips) == len(list(clips)) == 13 - data.subjects.count(clips.name)
        assert list(clips.subjects) == [data.subjects[i] for i in clips.indices] and clips.name not in clips.subjects
        assert list(clips.labels) == [label for _, label in clips]
        assert clips.counts(4).tolist() == [clips.labels.count(label) for label in range(4)]
        assert torch.equal(clips[-1][0], data.inputs[clips.indices[-1]]) and model.training
        with pytest.raises(IndexError):
            clips[len(clips)]

    leave_one_subject_out(Tiny, data, train=train)


def test_a_wrapped_network_is_the_one_tested():
    class Always(torch.nn.Module):
        def forward(self, maps):
            return torch.tensor([[0.0, 0.0, 1.0]]).expand(len(maps), 3)

    report = leave_one_subject_out(Tiny, TinySet(), train=lambda model, clips: Always())
    assert report.predictions.unique().tolist() == [2]


@pytest.mark.parametrize("train", [RECIPE, gradient_steps])
def test_seeds_are_the_folds_own(train):
    """Whatever ran before, and in whatever order the folds come; another seed gives another report."""
    data = TinySet(noise=3.0, sizes=(9, 8, 7, 6))
    torch.manual_seed(1)
    one = leave_one_subject_out(Tiny, data, train=train)
    torch.manual_seed(2)
    state = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert leave_one_subject_out(Tiny, data, train=train) == one
    assert torch.equal(torch.get_rng_state(), state[0]) and (np.random.get_state()[1].tolist(), random.getstate()) == state[1:]
    assert leave_one_subject_out(Tiny, data, train=train, seed=1) != one

    class Backwards:
        def folds(self, roster):
            return evaluation.LeaveOneSubjectOut().folds(roster)[::-1]

    assert cross_validate(Backwards(), Tiny, data, train=train) == one


def test_processes_give_the_same_report(tmp_path):
    """A network, a data set and a training that only this function knows."""
    data = TinySet(noise=3.0, sizes=(9, 8, 7, 6))

    def train(model, clips):
        print("this must not disturb")
        gradient_steps(model, clips)
        np.random.rand(3)

    stages = []
    with mer_fast.backend("reference"):
        reports = [
            leave_one_subject_out(
                lambda: Tiny(4),
                data,
                train=train,
                folds=folds,
                workers=2,
                resume=resume,
                progress=lambda *stage: stages.append(stage),
            )
            for folds, resume in (("sequential", None), ("processes", tmp_path / "kept"))
        ]
    assert reports[0] == reports[1] and stages[-1][1:] == (4, 4)
    assert len(list((tmp_path / "kept" / "folds").iterdir())) == 4


class Odd(Exception):
    """Can be written, and not read again."""

    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


def dying(model, clips):
    os._exit(3)


def odd(model, clips):
    raise Odd("it is", "odd")


@pytest.mark.parametrize(
    ("train", "kind", "message"),
    [(odd, RuntimeError, "Odd: it is odd"), (dying, mer_fast.MerFastError, "fold s00: its process ended with exit code 3")],
)
def test_a_failing_process_is_told(train, kind, message):
    with pytest.raises(kind, match=message) as caught:
        leave_one_subject_out(Tiny, TinySet(), train=train, folds="processes", workers=1)
    if train is odd:
        assert 'raise Odd("it is", "odd")' in str(caught.value.__cause__)


def test_what_cannot_be_sent_to_a_process():
    lock = threading.Lock()
    with pytest.raises(mer_fast.MerFastError, match="make_model, the data set or train cannot be sent to a process"):
        leave_one_subject_out(lambda: Tiny(3 if lock else 2), TinySet(), train=odd, folds="processes")


def test_other_protocols():
    data = TinySet(sizes=(6,) * 6)
    data.databases = ["A"] * 18 + ["B"] * 18
    found = cross_validate(CrossDatabase("A", "B"), Tiny, data, train=RECIPE)
    assert found.indices.tolist() == list(range(18, 36)) and list(found.per_database) == ["B"]
    assert found.per_database["B"] == (18, found.uf1, found.uar, found.accuracy)
    assert len(cross_validate(KFold(3), Tiny, data, train=RECIPE).predictions) == 36
    assert len(cross_validate(Split(("s04",)), Tiny, data, train=RECIPE).predictions) == 6


def test_a_network_of_several_inputs():
    class Both(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = Tiny(), Tiny()

        def forward(self, first, second):
            return self.one(first) + self.two(second)

    class Pairs(TinySet):
        def __getitem__(self, index):
            value, label = super().__getitem__(index)
            return (value, value.numpy().astype(np.float64)), np.int64(label)

    assert len(leave_one_subject_out(Both, Pairs(), train=RECIPE).predictions) == 13


def test_a_class_may_be_missing_where_a_fold_trains():
    """Only one subject shows class 2: its fold never learns of it, and says so in the report."""
    data = TinySet(sizes=(6, 6, 6))
    data.classes = [0, 1] * 6 + [2] * 6
    report = leave_one_subject_out(Tiny, data, train=RECIPE)
    assert report.confusion[2, 2] == 0 and report.confusion[2].sum() == 6
    data.classes = [0] * 12 + [1] * 6  # the last fold has one class alone
    assert leave_one_subject_out(Tiny, data, train=RECIPE).confusion[1].tolist() == [6, 0, 0]


def having(classes, **attributes):
    data = TinySet()
    data.classes = classes
    for name, value in attributes.items():
        setattr(data, name, value)
    return data


GOOD = [i % 3 for i in range(13)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (TinySet(sizes=(5,)), "all clips are of subject s00"),
        (TinySet(sizes=()), "the data set holds no clip"),
        (having([*GOOD[:-1], 3]), r"clip 12 is of class 3, and the network has 3"),
        (having([3, *GOOD[1:]]), r"clip 0 .subject s00. is of class 3, and the network has 3"),
        (having([*GOOD[:-1], -1]), r"clip 12 \(subject s03\): the label must be a whole number from 0 on, got -1"),
        (having([*GOOD[:-1], 1.0]), "the label must be a whole number from 0 on, got 1.0"),
        (having([*GOOD[:-1], "happiness"]), "got 'happiness'"),
        (having(GOOD, subjects=["a", "b"]), "the data set has 13 clips, and 2 subjects"),
        (having(GOOD, subjects=[1] * 13), "subjects must be a list of str, got 1"),
        (having(GOOD, subjects=None), "has no `subjects`"),
        (having(GOOD, labels=[0, 1]), "the data set has 13 clips, and 2 labels"),
        (having(GOOD, labels=[2, *GOOD[1:]]), "labels say class 2, and the clip comes with 0"),
        (having(GOOD, databases=["A"]), "the data set has 13 clips, and 1 databases"),
        (having(GOOD, inputs=torch.full((13, 2, 6, 6), torch.nan)), "fold s00: .*not finite|fold s00: the loss is nan"),
    ],
)
def test_data_that_will_not_do(data, message):
    with pytest.raises(mer_fast.MerFastError, match=message):
        leave_one_subject_out(Tiny, data, train=Recipe(lr=0.1, epochs=1))


SHARED = Tiny()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": "parallel"}, "folds must be one of 'sequential', 'processes'.*, got 'parallel'"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"workers": 1.5}, "workers must be a whole number"),
        ({"make_model": lambda: SHARED}, "fold s01: make_model returned one network twice"),
        ({"make_model": SHARED}, "make_model must be a function that makes a new network, got Tiny"),
        ({"train": "ststnet"}, "train must be a Recipe, or a function of a network and its clips, got str"),
        ({"make_model": lambda: 3}, "fold s00: make_model must return a torch.nn.Module, got int"),
        (
            {"make_model": lambda: torch.nn.Flatten(0), "train": lambda model, clips: None},
            r"fold s00: Flatten must give logits of shape \(4, classes\), got \(288,\)",
        ),
        ({"train": lambda model, clips: model.conv.weight.data.fill_(torch.nan)}, "fold s00: Tiny gives NaN for clip 0"),
        ({"train": Recipe(lr=1e30, epochs=30)}, "fold s0.: the loss is (nan|inf) in epoch .*lower the rate"),
        ({"train": Recipe(lr=0.1, epochs=1, statistics=("appearance_mask",))}, "for a network with fit_mask"),
    ],
)
def test_settings_that_will_not_do(changes, message):
    with pytest.raises(mer_fast.MerFastError, match=message):
        leave_one_subject_out(**{"make_model": Tiny, "dataset": TinySet(), "train": gradient_steps, **changes})


def test_networks_of_unlike_classes():
    sizes = iter([3, 4, 3, 3])
    with pytest.raises(mer_fast.MerFastError, match="networks of 3, 4 classes"):
        leave_one_subject_out(lambda: Tiny(next(sizes)), TinySet(), train=gradient_steps)
