"""The flow of many clips into a folder: one call, which can be stopped at any moment and called again."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mer_fast._version import __version__
from mer_fast.data import TruncatedVideoWarning, make_detector
from mer_fast.data._optional import quiet_cv2, require
from mer_fast.errors import MerFastError
from mer_fast.flows.clips import Failure
from mer_fast.flows.folder import output_folder
from mer_fast.flows.formats import FORMATS
from mer_fast.flows.methods import make_meter
from mer_fast.flows.options import FlowOptions
from mer_fast.flows.pipeline import Counts, Pipeline
from mer_fast.flows.search import find_clips

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        clips: whose flow is written.
        pairs: of those clips.
        kept: pairs of them that an earlier run had measured.
        failures: what could not be done, or not whole, in the order of the clips.
        seconds: that it took.
    """

    clips: int
    pairs: int
    kept: int
    failures: list[Failure]
    seconds: float


def measure_flows(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    options: FlowOptions | None = None,
    *,
    overwrite: bool = False,
    progress: Progress = lambda stage, done, total: None,
) -> Summary:
    """Measures the flow of videos, folders of images and lists of them, and writes it with a `manifest.json` into a folder.

    Pairs of one size go through the op together, whatever clip they are of, while threads read ahead and write behind. Memory
    is bounded whatever the number of clips and frames. What is in the folder already is kept: a run that was stopped, at any
    moment and in any way, goes on, and ends with the same bytes as one that was not.

    Args:
        inputs: as `find_clips` takes them.
        output: a folder; made when missing.
        options: how flow is measured and written.
        overwrite: drops what earlier runs have left in the folder.
        progress: called with what is being done, the clips done and all clips.

    Raises:
        MerFastError: options that cannot be, inputs that cannot be anything, a folder of another run's results.
        OSError: the folder cannot be written to.
    """
    options = options or FlowOptions()
    if any(os.path.realpath(given) == os.path.realpath(output) for given in inputs):
        raise MerFastError(f"{output} is an input: give another --output")
    started = time.perf_counter()
    if options.looks_for_face:
        make_detector(options.detector)
    clips, failures = find_clips(inputs, output, lambda name: FORMATS[options.format].files(name, [(0, 1)], options.strain))
    order = {clip.name: number for number, clip in enumerate(clips)}
    meter = make_meter(options.method, options.preset, options.device)
    told = {"versions": _versions(), "parameters": options.parameters()}
    with output_folder(output, told, overwrite) as folder, quiet_cv2(), warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncatedVideoWarning)  # it is told with the failures
        pipeline = Pipeline(clips, folder, options, meter)
        pipeline.run(lambda counts: progress(_words(counts, time.perf_counter() - started), counts.clips, len(clips)))
        counts = pipeline.counts
        # In the order of the clips, not of the threads: the manifest has them.
        failures += sorted(counts.failures, key=lambda failure: order[failure.clip])
        folder.complete(failures)
    return Summary(counts.done, counts.pairs, counts.kept, failures, time.perf_counter() - started)


def _words(counts: Counts, seconds: float) -> str:
    return f"Measuring flow: {counts.measured} pairs, {counts.measured / seconds:.0f} pairs/s, clips"


def _versions() -> dict[str, Any]:
    return {"mer_fast": __version__, "torch": torch.__version__, "opencv": require("cv2").__version__, "numpy": np.__version__}
