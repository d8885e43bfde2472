"""A `.txt` list of clips: one a line, with the frames of onset and apex where they are known, or two images a line."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mer_fast.data._capture import IMAGE_SUFFIXES
from mer_fast.errors import MerFastError

_FRAME_DIGITS = 9
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
    Paths with spaces stand in double quotes, or are parted by tabs from what follows. What follows a `#` is a comment. The text
    is UTF-8, or UTF-16 that begins with its mark.

    Raises:
        OSError: the list cannot be read.
    """
    try:
        text = _decoded(path.read_bytes())
    except UnicodeDecodeError:
        yield MerFastError(f"{path} begins as UTF-16 and is not: save it as UTF-8")
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            yield _entry(line.strip(), path.parent)
        except MerFastError as error:
            yield MerFastError(f"{path}, line {number}: {error}")


def _decoded(content: bytes) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    return content.decode("utf-8-sig", errors="surrogateescape")  # file names are bytes


def _entry(line: str, folder: Path) -> Entry:
    if "\0" in line:
        raise MerFastError("a NUL byte is in it, and no path has one: save the list as text in UTF-8")
    if os.path.exists(folder / line):  # spaces, digits and a # belong to the name
        return _named(folder, line)
    fields = _fields(re.sub(r"\s#.*", "", line))
    frames: list[int] = []
    while len(fields) > 1 and len(frames) < 2 and re.fullmatch("[0-9]+", fields[-1]):
        frames.insert(0, _frame(fields.pop()))
    if len(frames) == 2 and frames[1] <= frames[0]:
        raise MerFastError(f"the apex, frame {frames[1]}, must come after the onset, frame {frames[0]}")
    if len(fields) == 2 and not frames and all(Path(field).suffix.lower() in IMAGE_SUFFIXES for field in fields):
        return _named(folder, fields[0], second=folder / fields[1])
    if len(fields) > 1 and not os.path.exists(folder / " ".join(fields)):
        raise MerFastError(f'"{line}" is not a path, a path with onset and apex, or two images: put quotes around spaces')
    onset, apex = (*frames, None, None)[:2]
    return _named(folder, " ".join(fields), onset=onset, apex=apex)


def _frame(digits: str) -> int:
    if len(digits.lstrip("0")) > _FRAME_DIGITS:
        raise MerFastError(f"the frame number {digits[:20]} has more than {_FRAME_DIGITS} digits: no clip is as long")
    return int(digits)


def _fields(line: str) -> list[str]:
    if "\t" in line:
        return [field.strip().strip('"') for field in line.split("\t") if field.strip()]
    return [quoted or plain for quoted, plain in _FIELD.findall(line)]


def _named(folder: Path, name: str, second: Path | None = None, onset: int | None = None, apex: int | None = None) -> Entry:
    label = Path(os.path.normpath(name))
    if label.is_absolute() or ".." in label.parts:
        label = Path(label.name)
    return Entry(folder / name, label, second, onset, apex)
