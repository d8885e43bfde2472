"""One video from end to end: face, apex, temporal interpolation, TV-L1 flow from onset to apex, optical strain."""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mer_fast import ops
from mer_fast.classification import Classification, Classifier
from mer_fast.comparison import EndpointError, PlantedMotion, Rival, compare_with_opencv, endpoint_error, planted_motion
from mer_fast.data import (
    Apex,
    Box,
    Detector,
    TruncatedVideoWarning,
    Video,
    VideoClip,
    crop,
    face_frames,
    find_face,
    make_detector,
    read_truth,
    spot_apex,
)  # fmt: skip
from mer_fast.errors import MerFastError, VideoError
from mer_fast.report import report_folder, write_report

MAX_TIM_FRAMES = 256  # of the span from onset to apex; a longer one is thinned out, so that memory does not grow with it
_MAX_SIZE, _MAX_LENGTH = 2048, 4096  # pixels of the crop's side, frames written
_MIN_SIZE = 16  # TV-L1's

Frame = npt.NDArray[np.uint8]
ApexMethod = Literal["difference", "flow"]
Progress = Callable[[str, int, int | None], None]
"""Told of each step: what is being done, how many frames are done, and of how many (None where that is not known)."""


@dataclass(frozen=True)
class VideoFacts:
    """What a video says of itself, and what could be read of it."""

    name: str
    width: int
    height: int
    fps: float | None
    frames_read: int
    frames_declared: int | None
    truncated: bool


@dataclass(frozen=True)
class Motion:
    """What happened between onset and apex, in gray crops of `size` x `size` pixels; flow is in their pixels.

    Attributes:
        between: (F, size, size) uint8, the frames from onset to apex, both included, that TIM was given.
        clip: (T, size, size) uint8, the same span as TIM resamples it.
        flow: (2, size, size) float32, from onset to apex.
        strain: (1, size, size) float32, of that flow.
    """

    between: Frame
    clip: Frame
    flow: npt.NDArray[np.float32]
    strain: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Analysis:
    """What was found in one video.

    Attributes:
        onset, apex: frame indices, from 0.
        curve: (K,) float32, how far frame `onset` + k is from the onset frame, as `spot_apex` measures it.
        frame: (height, width, 3) uint8, the onset frame whole.
        planted, error: the known motion and the endpoint error against it; None for an ordinary video.
        opencv: OpenCV's TV-L1 on the same pair, where it was asked for and is installed.
        seconds: by stage, and "total".
        classification: what a network says, where one was given.
    """

    video: VideoFacts
    detector: str
    box: Box
    size: int
    onset: int
    apex: int
    apex_method: ApexMethod
    curve: npt.NDArray[np.float32]
    frame: Frame
    motion: Motion
    planted: PlantedMotion | None
    error: EndpointError | None
    opencv: Rival | None
    seconds: dict[str, float]
    classification: Classification | None = None


def analyze(
    video: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str] | None = None,
    onset: int = 0,
    offset: int | None = None,
    detector: str | os.PathLike[str] | Sequence[int] | Detector = "lbp",
    size: int = 128,
    num_frames: int = 10,
    apex_method: ApexMethod = "difference",
    compare: bool = False,
    model: str | os.PathLike[str] | None = None,
    name: str | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Analysis:
    """Finds the face, the apex, and the motion from onset to apex.

    The video is read twice, frame by frame: once for the apex, once for the frames between onset and apex (at most 256 of
    them, evenly spaced). Memory does not grow with its length.

    Args:
        video: a video file, or a folder of images. With a `truth.npz` beside the images the endpoint error is measured too.
        output: a folder for the report; made when missing. None writes nothing.
        onset: the frame, counted from 0, from which motion is measured.
        offset: the last frame that is looked at; the video's last unless given.
        detector: as `mer_fast.data.make_detector` takes it.
        size: side of the square face crop, in pixels, at least 16.
        num_frames: frames that TIM makes of the span from onset to apex.
        apex_method: "difference" or "flow", as `mer_fast.data.spot_apex` takes it.
        compare: also run OpenCV's TV-L1 on the same pair, where OpenCV has it.
        model: a network that `training.save_network` wrote. It is given the clip from onset to offset with the apex found here,
            preprocessed as for its training, its face box and size included (`classification.Classifier`).
        name: what the report calls the video; its path unless given.
        progress: called with the step, the frames done and the frames in all.

    Raises:
        MerFastError: a size or length out of range, no face, not a video, fewer than two readable frames from the onset on,
            an offset that is not behind the onset or not in the video, an output that cannot be a report folder, a file that
            holds no network, or a clip that the network does not take.

    Warns:
        TruncatedVideoWarning: the video ends before it says; it is analysed as far as it reads.
    """
    for argument, value, least, most in (
        ("size", size, _MIN_SIZE, _MAX_SIZE), ("num_frames", num_frames, 1, _MAX_LENGTH), ("onset", onset, 0, 2**31),
    ):  # fmt: skip
        if not least <= value <= most:
            raise MerFastError(f"{argument} must lie between {least} and {most}, got {value}")
    if offset is not None and offset <= onset:
        raise MerFastError(f"offset must lie behind the onset, frame {onset}, got {offset}")
    classifier = None if model is None else Classifier(model)
    source = Video(video)
    find = make_detector(detector)
    if output is not None and os.path.realpath(output) == os.path.realpath(video):
        raise MerFastError(f"{output} is the video itself: choose another folder for the report")
    # The folder is opened first: one that cannot be written should be known before minutes of work, not after.
    with contextlib.nullcontext() if output is None else report_folder(output) as folder:
        watch = _Stopwatch()
        read = _read(source, find, size, onset, offset, apex_method, watch, progress)
        progress("Measuring the motion", 0, None)
        motion = _measure(read.between, num_frames, watch)
        truth = read_truth(source.path)
        planted = None if truth is None else planted_motion(truth, read.box, size)
        if compare:
            progress("Comparing with OpenCV", 0, None)
        apex, frames_read = onset + read.spotted.index, onset + len(read.spotted.curve)
        said = None if classifier is None else _classify(classifier, source, onset, apex, frames_read - 1, watch, progress)
        analysis = Analysis(
            video=_facts(source, name, frames_read, read.truncated),
            detector=str(detector) if isinstance(detector, (str, os.PathLike)) else type(find).__name__,
            box=read.box, size=size, onset=onset, apex=apex, apex_method=apex_method,
            curve=read.spotted.curve, frame=read.frame, motion=motion,
            planted=planted, error=None if planted is None else endpoint_error(motion.flow, planted),
            opencv=compare_with_opencv(read.between[0], read.between[-1], planted) if compare else None,
            seconds={**watch.seconds, "total": sum(watch.seconds.values())}, classification=said,
        )  # fmt: skip
        if folder is not None:
            progress("Drawing the report", 0, None)
            write_report(analysis, folder)
    return analysis


class _Reading(NamedTuple):
    """What the two passes over a video bring: `frame` is the onset frame whole, `between` as in `Motion`."""

    box: Box
    spotted: Apex
    frame: Frame
    between: Frame
    truncated: bool


class _Stopwatch:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started


@contextlib.contextmanager
def _noticing_truncation() -> Iterator[list[Warning]]:
    """Gives a list that fills when a video turns out to be cut short; warnings are passed on when the block ends."""
    noticed: list[Warning] = []
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", TruncatedVideoWarning)
            yield noticed
            noticed += [entry.message for entry in caught if isinstance(entry.message, TruncatedVideoWarning)]
    finally:
        for entry in caught:
            warnings.warn_explicit(entry.message, entry.category, entry.filename, entry.lineno)


def _read(
    source: Video, find: Detector, size: int, onset: int, offset: int | None, method: ApexMethod, watch: _Stopwatch,
    progress: Progress,
) -> _Reading:  # fmt: skip
    with _noticing_truncation() as truncated:
        with watch.stage("face"):
            progress("Finding the face", 0, None)
            box = find_face(source, find)
        with watch.stage("apex"):
            spotted = _spot(source, box, size, onset, offset, method, progress)
        with watch.stage("clip"):
            frame, between = _read_span(source, box, size, onset, onset + spotted.index, progress)
    return _Reading(box, spotted, frame, between, bool(truncated))


def _spot(source: Video, box: Box, size: int, onset: int, offset: int | None, method: ApexMethod, progress: Progress) -> Apex:
    """Pass one: the apex, counted from the onset, among all frames from the onset to the offset."""
    total = None if source.declared_frames is None else max(source.declared_frames - onset, 0)
    total = total if offset is None else offset - onset + 1
    crops = face_frames(source, box, size, start=onset, stop=None if offset is None else offset + 1)
    first = list(islice(crops, 2))
    if len(first) < 2:
        raise VideoError(
            f"{source.path} has {source.read_frames} readable frames, {len(first)} from onset {onset} on: at least 2 are needed"
        )
    found = spot_apex(chain(first, crops), method=method, progress=lambda done: progress("Looking for the apex", done, total))
    if offset is not None and len(found.curve) <= offset - onset:
        raise VideoError(f"{source.path} has {onset + len(found.curve)} readable frames: offset {offset} is none of them")
    return found


def _read_span(source: Video, box: Box, size: int, onset: int, apex: int, progress: Progress) -> tuple[Frame, Frame]:
    """Pass two: the onset frame whole, and at most `MAX_TIM_FRAMES` evenly spaced crops from onset to apex (F, size, size)."""
    span = apex - onset + 1
    kept = {round(index) for index in np.linspace(0, span - 1, min(span, MAX_TIM_FRAMES))}
    crops = []
    for index, frame in enumerate(source.frames(onset, apex + 1)):
        if index == 0:
            whole = frame
        if index in kept:
            crops.append(crop(frame, box, size))
            progress("Reading onset to apex", index + 1, span)
    return whole, np.stack(crops)


def _measure(between: Frame, num_frames: int, watch: _Stopwatch) -> Motion:
    with watch.stage("tim"):
        clip = ops.tim(torch.from_numpy(between)[:, None], num_frames)[:, 0]  # frames are (T, 1, H, W) to TIM
    with watch.stage("flow"):
        flow = ops.tvl1_flow(torch.from_numpy(between[0]), torch.from_numpy(between[-1]))
    with watch.stage("strain"):
        strain = ops.optical_strain(flow[None])[0]
    return Motion(between=between, clip=clip.numpy(), flow=flow.numpy(), strain=strain.numpy())


def _classify(
    classifier: Classifier, source: Video, onset: int, apex: int, offset: int, watch: _Stopwatch, progress: Progress
) -> Classification:
    progress("Preparing the clip for the network", 0, None)
    with watch.stage("network"):
        clip = VideoClip(source, onset, apex, offset)
        return classifier(clip, lambda done, total: progress("Asking the network why", done, total))


def _facts(source: Video, name: str | None, frames_read: int, truncated: bool) -> VideoFacts:
    return VideoFacts(
        name=name or str(source.path), width=source.width, height=source.height, fps=source.fps, frames_read=frames_read,
        frames_declared=source.declared_frames, truncated=truncated,
    )  # fmt: skip
