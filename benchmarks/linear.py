"""The linear model that the synthetic set has to withstand: logistic regression on gray pixels, subjects left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

from mer_fast.data import BenchmarkClip

Array = np.ndarray[Any, Any]

SIDE = 28  # of the pictures, as STSTNet's flow


def pixels(clips: Sequence[BenchmarkClip], progress: Callable[[str, int, int | None], None] | None = None) -> Array:
    """Onset, apex and their difference in gray, (N, 3, SIDE, SIDE)."""
    found = []
    for done, clip in enumerate(clips):
        if progress is not None:
            progress("drawing clips", done, len(clips))
        pair = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip.read([clip.onset, clip.apex])]
        onset, apex = (cv2.resize(one, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32) for one in pair)
        found.append([onset, apex, apex - onset])
    return np.array(found)


def left_out(features: Array, targets: Array, groups: Array, strength: float) -> Array:
    """Classes (N,) of features (N, K), standardised, each group's by a model of all the others."""
    from sklearn.linear_model import LogisticRegression

    found = np.zeros_like(targets)
    for group in np.unique(groups):
        test = groups == group
        mean, deviation = features[~test].mean(0), features[~test].std(0) + 1e-6
        # In the span of the training clips, which is all that the penalty lets it use: the same, much sooner.
        basis, size, axes = np.linalg.svd(((features[~test] - mean) / deviation).astype(np.float64), full_matrices=False)
        model = LogisticRegression(C=strength, max_iter=5000).fit(basis * size, targets[~test])
        found[test] = model.predict((features[test] - mean) / deviation @ axes.T)
    return found
