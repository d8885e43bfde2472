"""UF1, UAR and the report: against scikit-learn, and what they refuse."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, recall_score

import mer_fast
from mer_fast import evaluation
from mer_fast.evaluation import Report


def test_is_scikit_learns_macro_f1_and_recall():
    """To the last bit, over tables in which classes are absent from the targets, the predictions or both."""
    draw = np.random.default_rng(0)
    absent = 0
    for _ in range(1000):
        classes, clips = int(draw.integers(1, 9)), int(draw.integers(1, 40))
        allowed = [draw.choice(classes, draw.integers(1, classes + 1), replace=False) for _ in range(2)]
        targets, guesses = (draw.choice(one, clips) for one in allowed)
        absent += len(set(targets)) < classes
        options = {"labels": range(classes), "average": "macro", "zero_division": 0}
        assert evaluation.uf1(guesses, targets, classes) == f1_score(targets, guesses, **options)
        assert evaluation.uar(guesses, targets, classes) == recall_score(targets, guesses, **options)
        assert evaluation.accuracy(guesses, targets, classes) == (guesses == targets).mean()
        counted = np.zeros((classes, classes), np.int64)
        np.add.at(counted, (targets, guesses), 1)
        assert evaluation.confusion_matrix(guesses, targets, classes).tolist() == counted.tolist()
    assert absent > 300


def test_by_hand():
    """Class 2 occurs nowhere, and counts as 0."""
    targets, guesses = [0, 0, 0, 1], [0, 0, 1, 1]
    assert evaluation.uf1(guesses, targets, 3) == pytest.approx((4 / 5 + 2 / 3 + 0) / 3)
    assert evaluation.uar(guesses, targets, 3) == pytest.approx((2 / 3 + 1 + 0) / 3)


@pytest.mark.parametrize("kind", [torch.tensor, np.array, list, lambda x: torch.tensor(x, dtype=torch.int32)])
def test_takes_tensors_arrays_and_lists(kind):
    assert evaluation.uf1(kind([0, 1, 1]), kind([0, 1, 0]), 2) == pytest.approx(2 / 3)


def test_takes_logits():
    logits = torch.tensor([[0.1, 2.0, 0.0], [5.0, 5.0, 1.0], [-1.0, -3.0, -torch.inf]])
    for given in (logits, logits.half(), logits.numpy()):
        assert evaluation.confusion_matrix(given, [1, 0, 0], 3).tolist() == [[2, 0, 0], [0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("guesses", "targets", "classes", "message"),
    [
        ([0, 3], [0, 1], 3, r"uf1: predictions\[1\] must be a class from 0 to 2, got 3"),
        ([0, 1], [0, -1], 3, r"uf1: targets\[1\] must be a class from 0 to 2, got -1"),
        ([0, 1], [0], 3, "uf1: predictions and targets must be of the same clips, got 2 and 1"),
        ([], [], 3, "uf1: predictions hold no clip"),
        ([0.0, 1.0], [0, 1], 3, r"uf1: predictions must be class indices \(N,\), got torch.float32 \(2,\)"),
        ([True], [0], 3, r"uf1: predictions must be class indices \(N,\), got torch.bool"),
        (torch.rand(2, 4), [0, 1], 3, r"uf1: predictions must be class indices \(N,\) or float logits \(N, 3\), got .* \(2, 4\)"),
        (torch.tensor([[0.0, torch.nan]]), [0], 2, "uf1: predictions must be finite: some logits are NaN"),
        ("abc", [0], 2, "uf1: predictions must be numbers, got str"),
        ([0], [0], 0, "uf1: num_classes must be at least 1"),
    ],
)
def test_says_what_is_wrong(guesses, targets, classes, message):
    with pytest.raises(mer_fast.MerFastError, match=message):
        evaluation.uf1(guesses, targets, classes)


def report(**changes):
    values = {
        "predictions": [0, 1, 1, 2, 0], "targets": [0, 1, 2, 2, 1], "subjects": ["b", "a", "a", "b", "c"], "num_classes": 4,
        "indices": [4, 0, 1, 2, 7], "databases": ["A", "A", "B", "B", "B"],
    }  # fmt: skip
    return Report.of(**{**values, **changes})


def test_report_pools_and_is_in_the_order_of_the_clips():
    found = report()
    assert found.indices.tolist() == [0, 1, 2, 4, 7] and found.subjects == ("a", "a", "b", "b", "c")
    assert found.predictions.tolist() == [1, 1, 2, 0, 0] and found.targets.tolist() == [1, 2, 2, 0, 1]
    assert found.uf1 == evaluation.uf1(found.predictions, found.targets, 4)
    assert found.uar == evaluation.uar(found.predictions, found.targets, 4)
    assert found.accuracy == 3 / 5 and found.confusion.sum() == 5 and found.confusion.shape == (4, 4)
    assert found.per_subject == {"a": (2, 1), "b": (2, 2), "c": (1, 0)} and found.per_subject["a"].accuracy == 0.5
    # The clip of database A that is given first stands at 4, the other at 0; both are right.
    assert found.per_database["A"][0] == 2 and found.per_database["A"].accuracy == 1
    assert found.per_database["B"].uf1 == evaluation.uf1([1, 2, 0], [2, 2, 1], 4)


def test_reports_are_equal_when_all_is():
    one = report()
    assert one == report() and hash(one) == hash(report()) and one != "a report"
    assert report(databases=None).per_database == {}
    for change in ({"predictions": [0, 1, 1, 2, 1]}, {"subjects": ["b", "a", "a", "b", "d"]}, {"num_classes": 5},
                   {"indices": [4, 0, 1, 2, 8]}, {"databases": None}, {"targets": [0, 1, 2, 2, 0]}):  # fmt: skip
        assert one != report(**change), change


def test_report_comes_back_from_its_file(tmp_path):
    path = tmp_path / "made" / "report.json"
    for one in (report(), report(databases=None)):
        one.save(path)
        assert Report.load(path) == one
    assert [entry.name for entry in path.parent.iterdir()] == ["report.json"]


def test_a_changed_or_damaged_report_is_noticed(tmp_path):
    path = tmp_path / "report.json"
    report().save(path)
    whole = path.read_text()
    stored = json.loads(whole)
    stored["uf1"] = 0.99
    for text, message in (
        (json.dumps(stored), "its figures do not follow from its predictions"),
        (whole[:-40], "is not a report of mer_fast"),
        ("[]", "is not a report of mer_fast"),
    ):
        path.write_text(text)
        with pytest.raises(mer_fast.MerFastError, match=message):
            Report.load(path)
    with pytest.raises(mer_fast.MerFastError, match="is not a report of mer_fast"):
        Report.load(tmp_path / "none.json")
    with pytest.raises(mer_fast.MerFastError, match=r"one entry a clip .* \[5, 5, 5, 4\]"):
        report(indices=[0, 1, 2, 3], databases=None)


def test_a_report_cannot_be_given_figures():
    with pytest.raises(TypeError):
        Report(torch.tensor([0]), torch.tensor([0]), ("a",), 1, torch.tensor([0]), uf1=1.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        report().uf1 = 1.0
