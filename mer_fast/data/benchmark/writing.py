"""The synthetic benchmark as a folder in the layout of CASME II, which the readers read like any other."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mer_fast.data.benchmark.clip import BenchmarkClip
from mer_fast.data.readers.base import Progress
from mer_fast.data.truth import read_truth, write_frames
from mer_fast.errors import MerFastError
from mer_fast.files import atomic_path

TABLE = "CASME2-coding-synthetic.csv"
SETTINGS = "synthetic.json"  # of the set, by which another one is told from it
FRAMES = "CASME2_RAW_selected"
_TITLES = ("Subject", "Filename", "OnsetFrame", "ApexFrame", "OffsetFrame", "Action Units", "Estimated Emotion")
_LISTED = ("dataset", "subject", "clip", "label", "onset", "apex", "offset")


def write_set(
    clips: Sequence[BenchmarkClip], settings: Mapping[str, Any], folder: str | os.PathLike[str], progress: Progress
) -> Path:
    """Writes clips: the coding table, a clips.csv, and each clip's frames and truth; what an earlier call wrote stays.

    Raises:
        MerFastError: the folder holds something else.
    """
    target = Path(folder)
    rows = [_row(clip) for clip in clips]
    table = _csv(_TITLES, rows)
    listed = _csv(_LISTED, [("casme2", row[0], row[1], row[6], *row[2:5]) for row in rows])
    told = json.dumps(settings)
    _check(target, told)
    target.mkdir(parents=True, exist_ok=True)
    for name, text in ((SETTINGS, told), (TABLE, table), ("clips.csv", listed)):
        with atomic_path(target / name) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="")
    for done, clip in enumerate(clips):
        progress("writing clips", done, len(clips))
        place = target / FRAMES / clip.subject.partition("/")[2] / clip.name
        if not _is_there(clip, place):
            write_frames(clip, place)
    return target


def _row(clip: BenchmarkClip) -> tuple[object, ...]:
    subject = clip.subject.partition("/")[2]
    return subject, clip.name, clip.onset, clip.apex, clip.offset, "+".join(clip.action_units), clip.emotion


def _csv(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows([titles, *rows])
    return text.getvalue()


def _check(folder: Path, settings: str) -> None:
    if folder.exists() and not folder.is_dir():
        raise MerFastError(f"{folder} is a file: give a new folder for the set")
    there = folder / SETTINGS
    if there.is_file():
        if there.read_bytes().decode("utf-8", "replace") != settings:
            raise MerFastError(f"{folder} holds another synthetic set: give a new folder")
    elif folder.is_dir() and any(folder.iterdir()):
        raise MerFastError(f"{folder} holds other files: give a new folder for the set")


def _is_there(clip: BenchmarkClip, place: Path) -> bool:
    """Whether a clip was written before: a clip is written whole or not at all, and its exact flow tells it from others."""
    try:
        truth = read_truth(place)
    except MerFastError:
        return False
    frames = len(list(place.glob("*.png"))) == len(clip.frames)
    return truth is not None and frames and np.array_equal(truth.flow, clip.flow)
