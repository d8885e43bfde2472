"""Who trains and who is tested: subjects never on both sides, classes spread, people of two databases apart."""

from types import SimpleNamespace

import pytest
import torch

import mer_fast
from mer_fast.data.subjects import hold_out_subjects, spread_subjects
from mer_fast.evaluation import CompositeDatabase, CrossDatabase, Fold, KFold, LeaveOneSubjectOut, Roster, Split
from mer_fast.evaluation.protocols import checked_folds


def roster(subjects=40, seed=0, databases=None):
    """Subjects of 1 to 12 clips, classes 60, 25 and 15 %."""
    draw = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 13, (subjects,), generator=draw).tolist()
    names = tuple(f"s{k:02}" for k, size in enumerate(sizes) for _ in range(size))
    labels = torch.multinomial(torch.tensor([0.6, 0.25, 0.15]), len(names), replacement=True, generator=draw).tolist()
    return Roster(tuple(labels), names, databases)


class TwoDatabases:
    """Subject 1 of A and subject 1 of B are two people."""

    subjects = ("1", "1", "2", "1", "3", "3")
    databases = ("A", "A", "A", "B", "B", "B")

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return torch.zeros(1), index % 2


def parts(fold, who):
    return {who.subjects[i] for i in fold.train}, {who.subjects[i] for i in fold.test}


def test_leave_one_subject_out():
    who = roster()
    folds = checked_folds(LeaveOneSubjectOut(), who)
    assert [fold.name for fold in folds] == list(dict.fromkeys(who.subjects))
    assert sorted(i for fold in folds for i in fold.test) == list(range(len(who.labels)))
    for fold in folds:
        train, test = parts(fold, who)
        assert test == {fold.name} and train == set(who.subjects) - test
        assert len(fold.train) + len(fold.test) == len(who.labels)


@pytest.mark.parametrize("protocol", [LeaveOneSubjectOut(), CompositeDatabase()])
def test_one_name_in_two_databases_is_two_people(protocol):
    who = Roster.of(TwoDatabases())
    folds = checked_folds(protocol, who)
    assert [(fold.name, fold.test) for fold in folds] == [("A/1", (0, 1)), ("A/2", (2,)), ("B/1", (3,)), ("B/3", (4, 5))]


def test_names_that_are_unique_stay():
    class Named(TwoDatabases):
        subjects = ("a1", "a1", "a2", "b1", "b3", "b3")

    assert Roster.of(Named()).subjects == Named.subjects


def test_cross_database():
    who = Roster.of(TwoDatabases())
    (fold,) = checked_folds(CrossDatabase("A", ("B",)), who)
    assert fold == Fold("A to B", (0, 1, 2), (3, 4, 5))


def test_k_fold_spreads_clips_and_classes():
    who = roster()
    total = torch.bincount(torch.tensor(who.labels)).double()
    folds = checked_folds(KFold(4), who)
    assert sorted(i for fold in folds for i in fold.test) == list(range(len(who.labels)))
    for fold in folds:
        share = torch.bincount(torch.tensor([who.labels[i] for i in fold.test]), minlength=3) / total
        assert ((share - 0.25).abs() < 0.06).all(), share
    assert checked_folds(KFold(4, seed=1), who) != folds == checked_folds(KFold(4), who)
    assert len(checked_folds(KFold(40), who)) == 40


def test_split_is_near_its_share_of_every_class():
    who = roster()
    total = torch.bincount(torch.tensor(who.labels)).double()
    (fold,) = checked_folds(Split(0.3), who)
    share = torch.bincount(torch.tensor([who.labels[i] for i in fold.test]), minlength=3) / total
    assert ((share - 0.3).abs() < 0.06).all(), share
    assert checked_folds(Split(0.3), who) == (fold,) != checked_folds(Split(0.3, seed=1), who)
    (named,) = checked_folds(Split(("s01", "s05")), who)
    assert parts(named, who)[1] == {"s01", "s05"}


def test_somebody_is_left_on_either_side():
    labels, subjects = [0, 1, 0, 1], ["a", "a", "b", "b"]
    for share in (0.01, 0.99):
        assert hold_out_subjects(labels, subjects, share) in ([0, 1], [2, 3])
    assert sorted(map(tuple, spread_subjects(labels, subjects, 2))) == [(0, 1), (2, 3)]


ALIKE = Roster((0, 1), ("a", "a"), None)


@pytest.mark.parametrize(
    ("protocol", "who", "message"),
    [
        (LeaveOneSubjectOut(), ALIKE, "all clips are of subject a: at least two subjects are needed"),
        (CompositeDatabase(), roster(), "must name at least two `databases`, one entry a clip, got none"),
        (CompositeDatabase(), Roster((0, 1), ("a", "b"), ("A", "A")), r"got \['A'\]"),
        (CrossDatabase("A", "C"), Roster.of(TwoDatabases()), r"test must name databases of the data set \(A, B\), got C"),
        (CrossDatabase((), "A"), Roster.of(TwoDatabases()), "train must name databases .* got none"),
        (CrossDatabase("A", ("A", "B")), Roster.of(TwoDatabases()), "A is on both sides"),
        (CrossDatabase("A", "B"), roster(), r"\(it names none\), got A"),
        (KFold(1), roster(), "k must be at least 2, got 1"),
        (KFold(41), roster(), "41 parts cannot be made of 40 subjects"),
        (Split(1.0), roster(), "must lie between 0 and 1, got 1.0"),
        (Split(0.5), ALIKE, "of 1 subjects none can be held out"),
        (Split(("s99",)), roster(), "test must name subjects of the data set, got s99"),
        (Split(tuple(f"s{k:02}" for k in range(40))), roster(), "fold test trains on no clip"),
    ],
)
def test_says_what_is_wrong(protocol, who, message):
    with pytest.raises(mer_fast.MerFastError, match=message):
        checked_folds(protocol, who)


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ([Fold("x", (0,), (1, 3))], "fold x has subject a on both sides"),
        ([Fold("x", (0, 1), ())], "fold x is tested on no clip"),
        ([Fold("x", (0,), (2,)), Fold("y", (0,), (2,))], "fold y tests a clip that another fold tests"),
        ([Fold("x", (0,), (2,)), Fold("x", (2,), (0,))], "fold x has the name of another fold"),
        ([Fold("x", (0,), (4,))], "fold x has clip 4, and the data set 4 clips"),
        ([], "gives no fold"),
    ],
)
def test_a_protocol_of_ones_own_is_checked(folds, message):
    with pytest.raises(mer_fast.MerFastError, match=message):
        checked_folds(SimpleNamespace(folds=lambda roster: folds), Roster((0, 0, 0, 0), ("a", "a", "b", "b"), None))
