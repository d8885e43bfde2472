"""Parting a data set by subject, so that nobody is on both sides and the classes are spread as evenly as they can be."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mer_fast.errors import MerFastError

_TRIES = 200


def spread_subjects(labels: Sequence[int], subjects: Sequence[str], parts: int, seed: int = 0) -> list[list[int]]:
    """Deals the subjects to `parts` groups of like class counts: the clips (ascending indices) of each.

    The subjects with most clips are dealt first, each to the group that has least of what the subject brings; who comes first
    among equals follows from the seed.

    Raises:
        MerFastError: fewer subjects than parts.
    """
    counts = _class_counts(labels, subjects)
    if not 1 <= parts <= len(counts):
        raise MerFastError(f"{parts} parts cannot be made of {len(counts)} subjects: each needs one at least")
    total = np.maximum(sum(counts.values()), 1)
    order = list(counts)
    random.Random(seed).shuffle(order)
    order.sort(key=lambda subject: -counts[subject].sum())
    held = np.zeros((parts, len(total)))
    part_of = {}
    for subject in order:
        crowding = (held / total) @ (counts[subject] / total)
        part = min(range(parts), key=lambda k: (crowding[k], held[k].sum(), k))
        held[part] += counts[subject]
        part_of[subject] = part
    return [[i for i, subject in enumerate(subjects) if part_of[subject] == k] for k in range(parts)]


def hold_out_subjects(labels: Sequence[int], subjects: Sequence[str], share: float, seed: int = 0) -> list[int]:
    """The clips (ascending indices) of some subjects that have about `share` of each class.

    Of many random draws the one nearest to that share is taken. At least one subject is held out, and at least one is left.

    Raises:
        MerFastError: a share outside 0..1, or a single subject.
    """
    if not 0 < share < 1:
        raise MerFastError(f"the share to hold out must lie between 0 and 1, got {share}")
    counts = _class_counts(labels, subjects)
    if len(counts) < 2:
        raise MerFastError(f"of {len(counts)} subjects none can be held out: at least two are needed")
    names, table = list(counts), np.stack(list(counts.values()))
    shares = table / np.maximum(table.sum(0), 1)
    draw = random.Random(seed)
    best, least = names[:1], np.inf
    for _ in range(_TRIES):
        order = draw.sample(range(len(names)), len(names))
        missed = ((shares[order].cumsum(0) - share)[:-1] ** 2).sum(1)
        length = int(missed.argmin())
        if missed[length] < least:
            best, least = [names[k] for k in order[: length + 1]], missed[length]
    held = set(best)
    return [i for i, subject in enumerate(subjects) if subject in held]


def _class_counts(labels: Sequence[int], subjects: Sequence[str]) -> dict[str, npt.NDArray[np.float64]]:
    """How many clips of each class a subject has."""
    classes = max(labels, default=-1) + 1
    counts = {subject: np.zeros(classes) for subject in subjects}
    for label, subject in zip(labels, subjects, strict=True):
        counts[subject][label] += 1
    return counts
