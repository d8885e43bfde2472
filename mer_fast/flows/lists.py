"""A `.txt` list of clips: one a line, with the frames of onset and apex where they are known, or two images a line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mer_fast.data._capture import IMAGE_SUFFIXES
from mer_fast.errors import MerFastError

_FIELD = re.compile(r'"([^"]*)"|(\S+)')


@dataclass(frozen=True)
class Entry:
    """One input: a path as it was given, on the command line or in a list, with the numbers that a list gives it.

    Attributes:
        path: where it is.
        label: what it was called, as a relative path; its last part unless a list says more.
        second: the second of two images.
        onset, apex: frames, counted from 0.
    """

    path: Path
    label: Path
    second: Path | None = None
    onset: int | None = None
    apex: int | None = None


def read_list(path: Path) -> Iterator[Entry | MerFastError]:
    """The entries of a list, or for a line that is none the error that says why.

    A line holds a path (from the list's folder on), then onset, or onset and apex; or two image paths. Frames count from 0.
    Paths with spaces stand in double quotes, or are parted by tabs from what follows. What follows a `#` is a comment.

    Raises:
        OSError: the list cannot be read.
    """
    text = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")  # file names are bytes
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            yield _entry(line.strip(), path.parent)
        except MerFastError as error:
            yield MerFastError(f"{path}, line {number}: {error}")


def _entry(line: str, folder: Path) -> Entry:
    if os.path.exists(folder / line):  # spaces, digits and a # belong to the name
        return _named(folder, line)
    fields = _fields(re.sub(r"\s#.*", "", line))
    frames: list[int] = []
    while len(fields) > 1 and len(frames) < 2 and re.fullmatch("[0-9]+", fields[-1]):
        frames.insert(0, int(fields.pop()))
    if len(frames) == 2 and frames[1] <= frames[0]:
        raise MerFastError(f"the apex, frame {frames[1]}, must come after the onset, frame {frames[0]}")
    if len(fields) == 2 and not frames and all(Path(field).suffix.lower() in IMAGE_SUFFIXES for field in fields):
        return _named(folder, fields[0], second=folder / fields[1])
    if len(fields) > 1 and not os.path.exists(folder / " ".join(fields)):
        raise MerFastError(f'"{line}" is not a path, a path with onset and apex, or two images: put quotes around spaces')
    onset, apex = (*frames, None, None)[:2]
    return _named(folder, " ".join(fields), onset=onset, apex=apex)


def _fields(line: str) -> list[str]:
    if "\t" in line:
        return [field.strip().strip('"') for field in line.split("\t") if field.strip()]
    return [quoted or plain for quoted, plain in _FIELD.findall(line)]


def _named(folder: Path, name: str, second: Path | None = None, onset: int | None = None, apex: int | None = None) -> Entry:
    label = Path(os.path.normpath(name))
    if label.is_absolute() or ".." in label.parts:
        label = Path(label.name)
    return Entry(folder / name, label, second, onset, apex)
