"""What a folder holds against what the owners of its data set publish: the work behind `mer-fast data check`."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from mer_fast.data.readers import READERS, ClipSet, Fault, FaultReport, Kind, Reader, read_clips, reader_of, recognised
from mer_fast.data.readers.base import Progress
from mer_fast.data.readers.composite import COMPOSITE, Composite, read_composite
from mer_fast.data.readers.finding import parts_below
from mer_fast.data.readers.override import find_listing
from mer_fast.data.readers.published import PUBLISHED
from mer_fast.errors import MerFastError

_LIST_KINDS = (Kind.bad_override, Kind.other_figures)


@dataclass(frozen=True)
class Figure:
    """A number found, and the one published; `certain` is False where that may not be the released data's."""

    name: str
    found: int
    published: int | None
    certain: bool = True

    @property
    def differs(self) -> bool:
        return self.published is not None and self.found != self.published


@dataclass(frozen=True)
class DatasetCheck:
    """One data set's clips, in the owners' emotions, with its figures."""

    reader: Reader
    folder: Path
    clips: ClipSet
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class CheckReport:
    """What was found in a folder.

    Attributes:
        datasets: the data sets, each held against its owners' figures.
        composite: the MEGC2019 composite, where its three sets are there.
        faults: everything that is wrong: nothing, when this is empty.
    """

    datasets: tuple[DatasetCheck, ...]
    composite: Composite | None
    faults: FaultReport = field(default_factory=FaultReport)


def check_folder(
    folder: str | os.PathLike[str],
    dataset: str | None = None,
    *,
    frames: str | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> CheckReport:
    """Reads all of a data set, every image looked into, and collects what is wrong.

    Args:
        folder: the folder of a data set, or one that holds the folders of several.
        dataset: which data set it is; told by table, names and layout unless given.
        frames: part of the name of the folder whose frames are read, such as "Cropped", where there are several versions.
        progress: is told the stage, how much is done, and of how much.

    Raises:
        MerFastError: no such folder or data set, or it cannot be told which data set it is.
    """
    top = Path(folder)
    if not top.is_dir():
        raise MerFastError(f"{folder} is not a folder: give the folder of a data set")
    parts = [(reader_of(dataset), top)] if dataset is not None else _parts(top)
    faults = FaultReport()
    checks = []
    for reader, path in parts:
        clips = read_clips(
            reader.key, path, "original", frames=frames, clips_csv=False, strict=False, verify=True, progress=progress
        )  # fmt: skip
        figures = tuple(_figures(reader, clips))
        checks.append(DatasetCheck(reader, path, clips, figures))
        faults.faults += [*clips.faults, *_differences(reader, figures), *_list_faults(reader, path)]
    composite = None
    if all(sum(reader.key == key for reader, _ in parts) == 1 for key in COMPOSITE):
        folders = {reader.key: path for reader, path in parts if reader.key in COMPOSITE}
        composite = read_composite(folders, clips_csv=find_listing(top, True) or False, frames=frames, strict=False)
        faults.faults += [fault for fault in composite.faults if fault.kind in _LIST_KINDS]
    return CheckReport(tuple(checks), composite, faults)


def _parts(folder: Path) -> list[tuple[Reader, Path]]:
    """The data sets in a folder's folders where there are two or more, else the folder's own, else the only one in them."""
    below = parts_below(READERS.values(), folder)
    if len({reader.key for reader, _ in below}) > 1:
        return below
    try:
        return [(recognised(folder), folder)]
    except MerFastError:
        if len(below) == 1:
            return below
        raise


def _figures(reader: Reader, clips: ClipSet) -> list[Figure]:
    published = PUBLISHED[reader.key]
    figures = [Figure("clips", len(clips), published.clips)]
    subjects = published.subjects or published.likely_subjects
    figures.append(Figure("subjects", len(set(clips.subjects)), subjects, published.subjects is not None))
    emotions = published.emotions or published.likely_emotions or {}
    found = Counter(clip.emotion for clip in clips)
    certain = published.emotions is not None
    for word in dict.fromkeys([*emotions, *sorted(found)]):
        figures.append(Figure(word, found[word], emotions.get(word, 0) if emotions else None, certain))
    return figures


def _differences(reader: Reader, figures: tuple[Figure, ...]) -> list[Fault]:
    """The figures that differ from certain ones, as faults."""
    faults = []
    for figure in figures:
        if figure.differs and figure.certain:
            what = figure.name if figure.name in ("clips", "subjects") else f"clips of {figure.name}"
            message = f"{reader.title} has {figure.found} {what} here; its owners publish {figure.published}"
            faults.append(Fault(Kind.other_figures, message, reader.key, clip_kept=True))
    return faults


def _list_faults(reader: Reader, folder: Path) -> list[Fault]:
    """What is wrong with a data set's own clips.csv, read with the label map that suits it best."""
    if find_listing(folder, True) is None:
        return []
    readings = [read_clips(reader.key, folder, labels, strict=False) for labels in reader.maps]
    return min(([f for f in clips.faults if f.kind is Kind.bad_override] for clips in readings), key=len)
