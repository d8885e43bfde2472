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

# How far each of a batch of frames (N, H, W) is from the onset: (N,).
_Score = Callable[[Frame], npt.NDArray[np.float64]]

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
    pixels. "flow" is the mean magnitude of the TV-L1 flow from the onset, less its median over the frame, which takes a movement
    of the whole head away, and without the fastest 2% of the pixels: noise throws a few by many pixels, and on a weak
    expression these decide the maximum, or the mean of a top tenth. Either works on frames from which the part of the change
    that light explains is taken away, and smooths its curve over five frames. Movements below about 0.4 pixels of the crop
    drown in sensor noise for "flow", not for "difference".

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


class _Lighting:
    """The part of a change since the onset that light explains: a quadratic surface, and a gain of the onset frame."""

    def __init__(self, onset: npt.NDArray[np.float64]) -> None:
        rows, columns = (axis.ravel() for axis in np.meshgrid(*(np.linspace(-1, 1, n) for n in onset.shape), indexing="ij"))
        light = [np.ones(onset.size), columns, rows, columns * columns, columns * rows, rows * rows, onset.ravel()]
        # Singular vectors rather than QR: a flat onset, or a frame of few pixels, makes the columns dependent.
        vectors, strengths, _ = np.linalg.svd(np.stack(light, 1), full_matrices=False)
        self._onset = onset
        self._basis = vectors[:, strengths > 1e-9 * strengths[0]]

    def changes(self, frames: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """I_k - I_onset without that part: (N, H, W) -> (N, H, W)."""
        change = (frames - self._onset).reshape(len(frames), -1)
        return (change - (change @ self._basis) @ self._basis.T).reshape(frames.shape)


def _difference(reference: Frame) -> _Score:
    lighting = _Lighting(_coarse(reference))

    def score(frames: Frame) -> npt.NDArray[np.float64]:
        return np.std(lighting.changes(np.stack([_coarse(frame) for frame in frames])), axis=(1, 2))

    return score


def _flow(reference: Frame) -> _Score:
    import torch

    from mer_fast import ops

    onset = reference / 255
    lighting = _Lighting(onset)

    def score(frames: Frame) -> npt.NDArray[np.float64]:
        # TV-L1 takes brightness to be constant, and would explain a change of light by movement.
        relit = onset + lighting.changes(frames / 255)
        first, second = (torch.from_numpy(part.astype(np.float32)) for part in (np.broadcast_to(onset, relit.shape), relit))
        flow = ops.tvl1_flow(first, second).flatten(2)
        speed = (flow - flow.median(dim=2, keepdim=True).values).norm(dim=1)
        kept = speed.sort(dim=1).values[:, : math.ceil(speed.shape[1] * _KEPT)]
        return kept.double().mean(dim=1).numpy()

    return score


_METHODS: dict[str, Callable[[Frame], _Score]] = {"difference": _difference, "flow": _flow}


def _coarse(frame: Frame) -> npt.NDArray[np.float64]:
    cv2 = require("cv2")
    scale = _COARSE_SIDE / max(frame.shape)
    if scale < 1:
        size = (max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale)))
        frame = cv2.resize(frame.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return cv2.GaussianBlur(frame.astype(np.float64), (0, 0), 1.0)


def _smoothed(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A five-frame binomial mean; at the ends, of the frames there are."""
    half = len(_SMOOTHING) // 2
    total = np.convolve(values, _SMOOTHING)[half:-half]
    return total / np.convolve(np.ones_like(values), _SMOOTHING)[half:-half]
