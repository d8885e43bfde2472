"""`clips.csv`: a list of clips with their classes that takes the place of the label rule.

Columns dataset, subject, clip, label and, where they should replace the table's, onset, apex, offset. Only the clips listed are
read. Labels are class names, or 0, 1, 2 for negative, positive, surprise as the organisers of MEGC2019 number them. A file
without a header row has the first four columns in this order, as theirs.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mer_fast.data.readers.faults import Fault, FaultReport, Kind
from mer_fast.data.readers.labels import THREE
from mer_fast.data.readers.sheets import Cells, Column, SheetError, is_missing, read_worksheets, squeezed, text_of, whole_number
from mer_fast.data.readers.tree import loosely
from mer_fast.errors import MerFastError
from mer_fast.files import atomic_path

if TYPE_CHECKING:
    from mer_fast.data.readers.base import Reader
    from mer_fast.data.readers.clip import Clip

NAME = "clips.csv"
_COLUMNS = (
    Column("dataset", "dataset"), Column("subject", "subject"), Column("clip", "clip", ("filename", "file", "name")),
    Column("label", "label", ("class", "emotion")), Column("onset", "onset", needed=False), Column("apex", "apex", needed=False),
    Column("offset", "offset", needed=False),
)  # fmt: skip


@dataclass(frozen=True)
class Listed:
    """One row: the class, and the frame numbers given (None where the table's hold)."""

    path: Path
    row: int
    dataset: str
    subject: str
    clip: str
    label: str
    onset: int | None
    apex: int | None
    offset: int | None

    def frame(self, key: str) -> int | None:
        """The number given for "onset", "apex" or "offset"; None for anything else."""
        return {"onset": self.onset, "apex": self.apex, "offset": self.offset}.get(key)


@dataclass
class Listing:
    """The rows of a clips.csv that concern one data set, found by subject and clip however people spell their numbers."""

    path: Path
    rows: dict[tuple[str, str], Listed] = field(default_factory=dict)
    found: set[tuple[str, str]] = field(default_factory=set)

    def find(self, subject: str, name: str) -> Listed | None:
        key = (subject, loosely(name))
        listed = self.rows.get(key)
        if listed is not None:
            self.found.add(key)
        return listed

    def not_found(self) -> list[Listed]:
        return [listed for key, listed in self.rows.items() if key not in self.found]


def find_listing(folder: Path, given: str | os.PathLike[str] | bool) -> Path | None:
    """The clips.csv to use: with True the one in the folder if there is one, with False none, else the one given.

    Raises:
        MerFastError: the one given is not there.
    """
    if isinstance(given, bool):
        path = folder / NAME
        return path if given and path.is_file() else None
    if not Path(given).is_file():
        raise MerFastError(f"clips_csv: {given} is not a file")
    return Path(given)


def read_listing(path: Path, reader: Reader, keys: dict[str, str], faults: FaultReport) -> Listing:
    """The rows of a clips.csv for one data set.

    Args:
        path: the file.
        reader: the data set's reader.
        keys: every spelling of every data set's name -> its key, so that a wrong one is noticed.
        faults: gets what is wrong with these rows, and with rows whose data set is unknown.

    Raises:
        MerFastError: the file is no such table.
    """
    listing = Listing(path)
    cells, first, at = _table(path, keys)
    for index in range(first, len(cells)):
        row = cells[index]
        values = {key: row[column] if column < len(row) else "" for key, column in at.items()}
        if all(is_missing(value) for value in values.values()):
            continue
        key = keys.get(squeezed_name(text_of(values["dataset"])))
        fault: str | None = None
        column: str | None = None
        if key is None:
            fault, column = f'"{text_of(values["dataset"])}" is no data set: the row is left out', "dataset"
        elif key == reader.key:
            listed = _listed(path, index + 1, reader, values)
            if isinstance(listed, Listed):
                fault = _add(listing, listed)
            else:
                fault, column = listed
        if fault is not None:
            faults.add(Fault(Kind.bad_override, fault, reader.key, None, path, index + 1, column))
    return listing


def _table(path: Path, keys: dict[str, str]) -> tuple[Cells, int, dict[str, int]]:
    try:
        cells = next(iter(read_worksheets(path).values()))
    except SheetError as error:
        raise MerFastError(f"{path} {error}") from error
    header = [squeezed(title) for title in cells[0]] if cells else []
    at = {c.key: header.index(title) for c in _COLUMNS for title in c.titles if title in header}
    missing = [c.title for c in _COLUMNS if c.needed and c.key not in at]
    if not missing:
        return cells, 1, at
    if cells and len(header) >= 4 and squeezed_name(text_of(cells[0][0])) in keys:
        return cells, 0, {column.key: index for index, column in enumerate(_COLUMNS[:4])}
    lacking = ", ".join(missing)
    raise MerFastError(f"{path} has no column {lacking}: a clips.csv has dataset, subject, clip, label [, onset, apex, offset]")


def _listed(path: Path, row: int, reader: Reader, values: dict[str, object]) -> Listed | tuple[str, str]:
    """The row, or what is wrong with it and in which column."""
    subject = reader.subject_of(text_of(values["subject"]))
    if subject is None:
        return f'"{text_of(values["subject"])}" is no subject of {reader.title} (such as {reader.subject_example})', "subject"
    for column in ("clip", "label"):
        if is_missing(values[column]):
            return f"has no {column}: the row is left out", column
    numbers: dict[str, int | None] = {}
    for column in ("onset", "apex", "offset"):
        value = values.get(column, "")
        numbers[column] = None if is_missing(value) else whole_number(value)
        if not is_missing(value) and numbers[column] is None:
            return f'"{text_of(value)}" is no frame number: the row is left out', column
    label = text_of(values["label"]).casefold()
    label = THREE[int(label)] if label in ("0", "1", "2") else label
    return Listed(path, row, reader.key, subject, text_of(values["clip"]), label, **numbers)


def _add(listing: Listing, listed: Listed) -> str | None:
    key = (listed.subject, loosely(listed.clip))
    if key in listing.rows:
        return f"lists {listed.subject}/{listed.clip} a second time, after row {listing.rows[key].row}: left out"
    listing.rows[key] = listed
    return None


def squeezed_name(name: str) -> str:
    """A data set's name as people write it, without case, blanks and hyphens; "CAS(ME)^2" keeps what tells it from CASME II."""
    return "".join(character for character in name.casefold() if character.isalnum() or character in "(^")


def write_clips(clips: Iterable[Clip], path: str | os.PathLike[str], columns: Sequence[str] = ()) -> None:
    """Writes clips as a clips.csv, to be edited: delete rows to leave clips out, change a label or a frame number.

    Args:
        clips: the clips.
        path: the file, `clips.csv` in the data set's folder to be found by the readers.
        columns: which of onset, apex, offset to write; those left out stay as the table has them.
    """
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["dataset", "subject", "clip", "label", *columns])
        for clip in clips:
            numbers = [getattr(clip, column) for column in columns]
            subject = clip.subject.partition("/")[2]
            writer.writerow([clip.dataset, subject, clip.name, clip.label, *("" if n is None else n for n in numbers)])
