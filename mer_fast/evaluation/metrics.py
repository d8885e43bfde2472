"""What micro-expression papers report, of the pooled predictions of all folds: UF1, UAR, accuracy, the confusion matrix.

All come from the confusion matrix. torchmetrics leaves classes that occur nowhere out of its means, and the field counts them
as 0, as scikit-learn does with `labels=range(C), zero_division=0`: the tests compare with that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ..ops._checks import require, require_count

Classes = Sequence[int] | torch.Tensor | np.ndarray[Any, Any]


class SubjectRow(NamedTuple):
    """One subject's clips. There is no F1 here: of a few clips it means nothing, and its mean over subjects is not UF1."""

    clips: int
    correct: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.clips


def uf1(predictions: Classes, targets: Classes, num_classes: int) -> float:
    """Unweighted F1: the mean over all classes of `2 TP / (2 TP + FP + FN)`, an absent class counting 0.

    Args:
        predictions: class indices (N,), or logits (N, num_classes) of which the largest counts (the first where they tie).
        targets: class indices (N,).
        num_classes: C; classes that do not occur count too.

    Raises:
        MerFastError: no clips, other shapes, a class outside 0..C-1, logits that are NaN.

    Source: See, Yap, Li, Hong, Wang, "MEGC 2019: the second facial micro-expressions grand challenge", FG 2019.
    """
    return f1_of(_confusion("uf1", predictions, targets, num_classes))


def uar(predictions: Classes, targets: Classes, num_classes: int) -> float:
    """Unweighted average recall: the mean over all classes of `TP / N`, an absent class counting 0. Arguments as of `uf1`."""
    return recall_of(_confusion("uar", predictions, targets, num_classes))


def accuracy(predictions: Classes, targets: Classes, num_classes: int) -> float:
    """The share of clips that are right. Arguments as of `uf1`."""
    return accuracy_of(_confusion("accuracy", predictions, targets, num_classes))


def confusion_matrix(predictions: Classes, targets: Classes, num_classes: int) -> torch.Tensor:
    """How often each class (row) was taken for each (column): int64 (C, C). Arguments as of `uf1`."""
    return _confusion("confusion_matrix", predictions, targets, num_classes)


def per_subject(predictions: torch.Tensor, targets: torch.Tensor, subjects: Sequence[str]) -> dict[str, SubjectRow]:
    """Clips and right ones of each subject, by name in order of appearance; of class indices (N,)."""
    table: dict[str, SubjectRow] = {}
    for subject, right in zip(subjects, (predictions == targets).tolist(), strict=True):
        before = table.get(subject, SubjectRow(0, 0))
        table[subject] = SubjectRow(before.clips + 1, before.correct + right)
    return table


def f1_of(confusion: torch.Tensor) -> float:
    """UF1 of a confusion matrix."""
    hits, both = confusion.diagonal(), confusion.sum(0) + confusion.sum(1)
    return _mean_share(2 * hits, both)


def recall_of(confusion: torch.Tensor) -> float:
    """UAR of a confusion matrix."""
    return _mean_share(confusion.diagonal(), confusion.sum(1))


def accuracy_of(confusion: torch.Tensor) -> float:
    """Accuracy of a confusion matrix."""
    return int(confusion.diagonal().sum()) / int(confusion.sum())


def _mean_share(hits: torch.Tensor, of: torch.Tensor) -> float:
    # Where `of` is 0 so are the hits. NumPy's mean, as scikit-learn's, so that the last bit is the same too.
    return float(np.mean(hits.double().numpy() / of.clamp_min(1).double().numpy()))


def _confusion(name: str, predictions: Classes, targets: Classes, num_classes: int) -> torch.Tensor:
    require_count(name, "num_classes", num_classes)
    truth = _tensor(name, "targets", targets)
    guess = _tensor(name, "predictions", predictions)
    if guess.dim() == 2:
        guess = _largest(name, guess, num_classes)
    truth, guess = _indices(name, "targets", truth, num_classes), _indices(name, "predictions", guess, num_classes)
    require(len(truth) == len(guess), name, "predictions and targets", "must be of the same clips, got {} and {}",
            len(guess), len(truth))  # fmt: skip
    require(len(truth) > 0, name, "predictions", "hold no clip")
    counts = torch.bincount(truth * num_classes + guess, minlength=num_classes * num_classes)
    return counts.view(num_classes, num_classes)


def _tensor(name: str, argument: str, values: Classes) -> torch.Tensor:
    try:
        return torch.as_tensor(values).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        require(False, name, argument, "must be numbers, got {}", type(values).__name__)
        raise


def _largest(name: str, logits: torch.Tensor, num_classes: int) -> torch.Tensor:
    require(logits.is_floating_point() and logits.shape[1] == num_classes, name, "predictions",
            "must be class indices (N,) or float logits (N, {}), got {} {}", num_classes, logits.dtype, logits.shape)  # fmt: skip
    # Infinite logits have an order; NaN has none, and argmax would take it for the largest.
    require(not bool(logits.isnan().any()), name, "predictions", "must be finite: some logits are NaN")
    return logits.argmax(1)


def _indices(name: str, argument: str, values: torch.Tensor, num_classes: int) -> torch.Tensor:
    whole = not values.is_floating_point() and not values.is_complex() and values.dtype != torch.bool
    require(values.dim() == 1 and (whole or not len(values)), name, argument, "must be class indices (N,), got {} {}",
            values.dtype, values.shape)  # fmt: skip
    values = values.long()
    wrong = ((values < 0) | (values >= num_classes)).nonzero().flatten()
    if len(wrong):
        place = int(wrong[0])
        require(False, name, f"{argument}[{place}]", "must be a class from 0 to {}, got {}", num_classes - 1, int(values[place]))
    return values
