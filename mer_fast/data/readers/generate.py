"""Example folders: a data set's layout with small made pictures, to try a pipeline, or a reader, without the licensed data."""

from __future__ import annotations

import csv
import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mer_fast.data._optional import require
from mer_fast.data.readers import READERS, reader_of
from mer_fast.data.readers.base import Progress
from mer_fast.data.readers.composite import COMPOSITE
from mer_fast.data.readers.examples import EXAMPLES, Example, Planned
from mer_fast.data.readers.published import PUBLISHED
from mer_fast.errors import MerFastError
from mer_fast.ops._checks import require_count

_APART = 40  # frames between the clips of a video, at least


def make_example_folder(
    dataset: str,
    folder: str | os.PathLike[str],
    *,
    seed: int = 0,
    clips: int | None = None,
    frames: int = 5,
    size: int = 8,
    progress: Progress = lambda stage, done, total: None,
) -> Path:
    """Makes a folder in the layout of a data set's owners: its table, and made pictures in place of its frames.

    There are as many clips, subjects and clips of each emotion as the owners publish (where nothing certain is published, as many
    as is likely or, for the emotions of 4DME and DFME, invented numbers). A light patch moves in another third of the picture for
    negative, positive and surprised emotions, most at the apex. All of it is made or nothing.

    Args:
        dataset: "smic", "casme", "casme2", "casme_sq", "samm", "mmew", "casme3", "4dme" or "dfme".
        folder: a new folder, or an empty one.
        seed: chooses who shows what when.
        clips: make only so many clips, chosen evenly.
        frames: images a clip, from onset to offset; at least 3.
        size: side of the images in pixels.
        progress: is told the stage, how many clips are done, and of how many.

    Returns:
        The folder.

    Raises:
        MerFastError: an unknown data set, a folder that holds something, numbers out of range, or OpenCV, pandas or openpyxl is
            not installed.
    """
    key = reader_of(dataset).key
    require_count("make_example_folder", "frames", frames, 3)
    require_count("make_example_folder", "size", size, 4)
    if clips is not None:
        require_count("make_example_folder", "clips", clips)
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise MerFastError(f"{folder} holds something already: give a new folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    example = EXAMPLES[key]
    planned = _plan(key, example, random.Random(seed), frames)
    if clips is not None and clips < len(planned):
        planned = [planned[index * len(planned) // clips] for index in range(clips)]
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        temporary.chmod(0o755)
        _write_table(key, example, planned, temporary)
        _write_images(key, example, planned, temporary, frames, size, progress)
        if target.exists():
            target.rmdir()
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target


def _plan(key: str, example: Example, rng: random.Random, frames: int) -> list[Planned]:
    """All clips of a data set, subject by subject."""
    published = PUBLISHED[key]
    emotions = published.emotions or published.likely_emotions or example.emotions
    subjects = published.subjects or published.likely_subjects or example.subjects
    words = [word for word, count in emotions.items() for _ in range(count)]
    rng.shuffle(words)
    takes: Counter[int] = Counter()
    planned = []
    for subject, word in _cast(key, words, subjects, rng):
        takes[subject] += 1
        take = takes[subject]
        onset = 1 if key == "mmew" else 10 + take * (frames + _APART) + rng.randrange(_APART)
        offset = onset + frames - 1
        planned.append(Planned(subject, take, word, onset, onset + frames // 2, offset))
    return sorted(planned, key=lambda clip: (clip.subject, clip.take))


def _cast(key: str, words: Sequence[str], subjects: int, rng: random.Random) -> list[tuple[int, str]]:
    """Who shows what: everybody something; as many have a class of the composite as its organisers count."""
    apart = subjects - COMPOSITE[key].subjects if key in COMPOSITE else 0
    classed = set(READERS[key].maps["3-class"])
    inside = [word for word in words if word in classed]
    outside = [word for word in words if word not in classed]
    main = subjects - apart
    cast = [(1 + index % main, word) for index, word in enumerate(inside)]
    cast += [(subjects - index % subjects, word) for index, word in enumerate(outside)]
    rng.shuffle(cast)
    return cast


def _write_table(key: str, example: Example, planned: Sequence[Planned], folder: Path) -> None:
    if example.sheet is None:
        return
    path = folder / example.sheet
    path.parent.mkdir(exist_ok=True)
    title = READERS[key].title
    rows: list[Sequence[object]] = [[f"Example in the layout of {title}, line {n + 1}"] for n in range(example.notes)]
    rows += [example.titles] if example.titles else []
    rows += [example.row(clip) for clip in planned] + example.others(len(planned))
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
        return
    require("openpyxl")
    pandas = require("pandas")
    with pandas.ExcelWriter(path, engine="openpyxl") as writer:
        for name, cells in {example.worksheet: rows, **example.more}.items():
            width = max(len(row) for row in cells)
            padded = [[*row, *[""] * (width - len(row))] for row in cells]
            pandas.DataFrame(padded).to_excel(writer, sheet_name=name, header=False, index=False)


def _write_images(
    key: str, example: Example, planned: Sequence[Planned], folder: Path, frames: int, size: int, progress: Progress
) -> None:
    reader = READERS[key]
    classes = {word: reader.maps["3-class"].get(word, "others") for word in {clip.emotion for clip in planned}}
    pictures: dict[str, list[bytes]] = {}
    for done, clip in enumerate(planned):
        progress(f"Making {reader.title}'s layout", done, len(planned))
        of_class = classes[clip.emotion]
        place = folder / example.place(clip)
        place.mkdir(parents=True, exist_ok=True)
        names = [example.image(clip, number) for number in range(clip.onset, clip.offset + 1)]
        if of_class not in pictures:
            pictures[of_class] = _pictures(of_class, frames, size, Path(names[0]).suffix)
        for name, picture in zip(names, pictures[of_class], strict=True):
            (place / name).write_bytes(picture)


def _pictures(of_class: str, frames: int, size: int, suffix: str) -> list[bytes]:
    """The encoded images of a clip: a light patch on a slope of gray, moving to the right and back in its class's third."""
    cv2 = require("cv2")
    y, x = np.mgrid[:size, :size] / size
    row = {"negative": 1 / 6, "surprise": 1 / 2, "positive": 5 / 6}.get(of_class)
    encoded = []
    for index in range(frames):
        shift = 0.25 * np.sin(np.pi * index / (frames - 1))
        image = 60 + 60 * x + 40 * y
        if row is not None:
            image = image + 80 * np.exp(-(((x - 0.4 - shift) / 0.15) ** 2) - ((y - row) / 0.12) ** 2)
        encoded.append(cv2.imencode(suffix, np.rint(image).clip(0, 255).astype(np.uint8))[1].tobytes())
    return encoded
