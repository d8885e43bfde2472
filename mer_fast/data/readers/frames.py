"""The images of a clip: in natural order, with the frame numbers of their names, and the annotated frames among them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mer_fast.data._capture import IMAGE_SUFFIXES, natural_order

_NUMBER = re.compile(r"[0-9]+(?=[^0-9]*$)")
_HEADS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*")
_TAIL = 4096


@dataclass(frozen=True)
class Frames:
    """The images of a folder.

    Attributes:
        folder: the folder.
        files: their names in natural order.
        numbers: the last number of each name ("006_05562.jpg" is 5562), in the order of `files`; None where names have none or
            two have the same.
        empty: the names of files of zero bytes.
    """

    folder: Path
    files: tuple[str, ...]
    numbers: tuple[int, ...] | None
    empty: frozenset[str]


@dataclass(frozen=True)
class Span:
    """Where the annotated frames are among the files.

    Attributes:
        index: frame number -> index of its file, for every number from onset to offset that has one.
        missing: the numbers from onset to offset without a file.
    """

    index: dict[int, int]
    missing: tuple[int, ...]


def list_frames(folder: Path) -> Frames:
    """The images of a folder; none is no error."""
    empty = set()
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if Path(entry.name).suffix.lower() in IMAGE_SUFFIXES and not entry.name.startswith(".") and entry.is_file():
                names.append(entry.name)
                if entry.stat().st_size == 0:
                    empty.add(entry.name)
    files = tuple(sorted(names, key=natural_order))
    found = [_NUMBER.search(Path(name).stem) for name in files]
    numbers = tuple(int(match[0]) for match in found if match is not None)
    usable = len(numbers) == len(files) == len(set(numbers)) and list(numbers) == sorted(numbers)
    return Frames(folder, files, numbers if usable and numbers else None, frozenset(empty))


def has_images(folder: Path) -> bool:
    """Whether there is an image in a folder."""
    with os.scandir(folder) as entries:
        return any(Path(entry.name).suffix.lower() in IMAGE_SUFFIXES and not entry.name.startswith(".") for entry in entries)


def span_of(frames: Frames, onset: int, offset: int, base: int | None) -> Span:
    """Finds the frames from onset to offset among the files.

    Args:
        frames: the images of the clip's folder.
        onset, offset: the owner's frame numbers.
        base: None where the files have the owner's numbers; else the number of the onset's file, in clips that were cut out and
            numbered anew. Such files may have no numbers if there is one for each frame.
    """
    wanted = range(onset, offset + 1)
    numbers = frames.numbers
    if base is not None and numbers is None:
        numbers = tuple(range(base, base + len(wanted))) if len(frames.files) == len(wanted) else ()
    shift = 0 if base is None else onset - base
    at = {number + shift: index for index, number in enumerate(numbers or ())}
    return Span({n: at[n] for n in wanted if n in at}, tuple(n for n in wanted if n not in at))


def numbered_anew(clips: Iterable[tuple[Frames, int, int]]) -> int | None:
    """The number of the onset's file, 0 or 1, where the clips of a data set were cut out and numbered anew; else None.

    It is judged over all clips (frames, onset, offset): of one, it cannot be told from a missing frame.
    """
    votes: Counter[int | None] = Counter()
    for frames, onset, offset in clips:
        numbers = frames.numbers or (0,)
        if frames.numbers is not None and onset in numbers and offset in numbers:
            votes[None] += 1
        elif len(frames.files) == offset - onset + 1 and numbers[0] in (0, 1):
            votes[numbers[0]] += 1
    return votes.most_common(1)[0][0] if votes else None


def is_whole_image(path: Path) -> bool:
    """Whether a file begins like a PNG, JPEG, BMP or TIFF image and, PNG and JPEG, also ends like one; nothing is decoded."""
    with path.open("rb") as file:
        head = file.read(8)
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
        tail = file.read()
    if not head.startswith(_HEADS):
        return False
    if head.startswith(_HEADS[0]):
        return b"IEND" in tail
    return b"\xff\xd9" in tail if head.startswith(_HEADS[1]) else True


def ranges(numbers: tuple[int, ...]) -> str:
    """Numbers as people write them: (3, 5, 6, 7) is "3, 5-7"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
