"""The apex of a micro-expression: the frame that differs most from the onset, where no annotation tells it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from mer_fast.data._capture import Frame
from mer_fast.data._optional import require
from mer_fast.errors import MerFastError

_Fields = npt.NDArray[np.float64]
# How far each of a batch of frames (N, H, W) is from the onset: (N,).
_Score = Callable[[Frame], _Fields]

_COARSE_SIDE = 64
_KEPT = 0.98  # of the pixels, the slowest
_SMOOTHING = np.array([1, 4, 6, 4, 1]) / 16


class Apex(NamedTuple):
    """The apex frame, counted from the first frame given, and the curve whose maximum it is: float32 (T,), 0 up to the onset."""

    index: int  # type: ignore[assignment]  # the field's word; tuple.index is of no use here
    curve: npt.NDArray[np.float32]


def spot_apex(
    frames: Iterable[Frame],
    *,
    onset: int = 0,
    method: Literal["difference", "flow"] = "difference",
    batch: int = 16,
    progress: Callable[[int], None] | None = None,
) -> Apex:
    """Finds the apex in a stream of aligned face crops; memory for `batch` frames.

    "difference" is the standard deviation over pixels of I_k - I_onset (Xia et al., IEEE TMM 2020) of blurred frames of 64
    pixels, without the part that a small shift of the head explains. "flow" is the mean magnitude of the TV-L1 flow from the
    onset, less its median over the frame, which takes a shift of the head away, and without the fastest 2% of the pixels: noise
    throws a few by many pixels, and on a weak expression these would decide a maximum, or the mean of a top tenth. Either works
    on frames without the part of the change that light explains (a smooth surface, and a gain), and smooths its curve over
    five frames. On movements below half a pixel of the crop "difference" is the steadier one.

    Blinks and turns of the head are larger than most micro-expressions: give the part of a long video that holds one.

    Args:
        frames: uint8 (H, W) gray, all of one size.
        onset: index of the onset frame.
        method: "difference", or the slower "flow".
        batch: frames that are worked on at once.
        progress: called with the number of frames done so far.

    Raises:
        MerFastError: fewer than 2 frames from the onset on, frames of another type or of several sizes, or an unknown argument.
    """
    if method not in _METHODS:
        raise MerFastError(f'method {method!r} is unknown: give "difference" or "flow"')
    if onset < 0 or batch < 1:
        raise MerFastError(f"onset={onset}, batch={batch}: onset counts from 0, and batch is at least 1")
    stream = _checked(frames)
    before = sum(1 for _ in islice(stream, onset))
    reference = next(stream, None)
    values: list[float] = []
    if reference is not None:
        score = _METHODS[method](reference)
        while chunk := list(islice(stream, batch)):
            values.extend(score(np.stack(chunk)))
            chunk.clear()  # before the next frames are read
            if progress is not None:
                progress(onset + 1 + len(values))
    if not values:
        count = before + (reference is not None)
        raise MerFastError(f"frames holds {count} frames and the onset is {onset}: at least 2 are needed from the onset on")
    curve = np.zeros(onset + 1 + len(values), np.float32)
    curve[onset + 1 :] = _smoothed(np.array(values))
    return Apex(onset + 1 + int(np.argmax(curve[onset + 1 :])), curve)


def _checked(frames: Iterable[Frame]) -> Iterator[Frame]:
    shape: tuple[int, ...] | None = None
    for index, frame in enumerate(frames):
        if frame.ndim != 2 or frame.dtype != np.uint8 or 0 in frame.shape:
            raise MerFastError(f"frames[{index}] is {frame.dtype} {frame.shape}: give uint8 (H, W), as mer_fast.data.crop does")
        if shape is None:
            shape = frame.shape
        if frame.shape != shape:
            raise MerFastError(f"frames[{index}] is {frame.shape} and the first frame {shape}: give crops of one size")
        yield frame


class _Unexplained:
    """Changes since the onset, less what light explains (a cubic surface, and a gain of the onset frame), and other patterns."""

    def __init__(self, onset: _Fields, *patterns: _Fields) -> None:
        y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in onset.shape), indexing="ij")
        surface = [x**i * y**j for i in range(4) for j in range(4 - i)]
        # Singular vectors rather than QR: a flat onset, or a frame of few pixels, makes the columns dependent.
        columns = np.stack([column.ravel() for column in (*surface, onset, *patterns)], 1)
        vectors, strengths, _ = np.linalg.svd(columns, full_matrices=False)
        self._onset = onset
        self._basis = vectors[:, strengths > 1e-9 * strengths[0]]

    def __call__(self, frames: _Fields) -> _Fields:
        """(N, H, W) -> what is left of I_k - I_onset, (N, H, W)."""
        change = (frames - self._onset).reshape(len(frames), -1)
        return (change - (change @ self._basis) @ self._basis.T).reshape(frames.shape)


def _difference(reference: Frame) -> _Score:
    onset = _coarse(reference)
    # To first order, a head that shifts changes a pixel by its gradient.
    shifts = np.gradient(onset) if min(onset.shape) > 1 else []
    unexplained = _Unexplained(onset, *shifts)

    def score(frames: Frame) -> _Fields:
        return np.std(unexplained(np.stack([_coarse(frame) for frame in frames])), axis=(1, 2))

    return score


def _flow(reference: Frame) -> _Score:
    import torch

    from mer_fast import ops

    onset = reference / 255
    unexplained = _Unexplained(onset)

    def score(frames: Frame) -> _Fields:
        # TV-L1 takes brightness to be constant, and would explain a change of light by movement.
        relit = onset + unexplained(frames / 255)
        first, second = (torch.from_numpy(part.astype(np.float32)) for part in (np.broadcast_to(onset, relit.shape), relit))
        flow = ops.tvl1_flow(first, second).flatten(2)
        speed = (flow - flow.median(dim=2, keepdim=True).values).norm(dim=1)
        kept = speed.sort(dim=1).values[:, : math.ceil(speed.shape[1] * _KEPT)]
        return kept.double().mean(dim=1).numpy()

    return score


_METHODS: dict[str, Callable[[Frame], _Score]] = {"difference": _difference, "flow": _flow}


def _coarse(frame: Frame) -> _Fields:
    cv2 = require("cv2")
    scale = _COARSE_SIDE / max(frame.shape)
    if scale < 1:
        size = (max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale)))
        frame = cv2.resize(frame.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return cv2.GaussianBlur(frame.astype(np.float64), (0, 0), 1.0)


def _smoothed(values: _Fields) -> _Fields:
    """A five-frame binomial mean; at the ends, of the frames there are."""
    half = len(_SMOOTHING) // 2
    total = np.convolve(values, _SMOOTHING)[half:-half]
    return total / np.convolve(np.ones_like(values), _SMOOTHING)[half:-half]
