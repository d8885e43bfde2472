"""The rows of an annotation table as records: each cell checked, each fault named."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mer_fast.data.readers.faults import Fault, FaultReport, Kind
from mer_fast.data.readers.override import Listed, Listing
from mer_fast.data.readers.sheets import Table, is_missing, text_of, whole_number
from mer_fast.data.readers.tree import loosely

if TYPE_CHECKING:
    from mer_fast.data.readers.base import Reader

_UNIT_BREAK = re.compile(r"\s*(?:[+,;/&]|\bor\b|\band\b)\s*")


@dataclass(frozen=True)
class Record:
    """One annotated clip before its frames are looked for.

    Attributes:
        subject, name: as in `Clip`, the subject without the data set.
        file: the owner's file name; the same as `name` where those do not repeat.
        onset, apex, offset: frame numbers; onset and offset are None where only the images tell them.
        emotion: the owner's word, in lower case and one spelling.
        label: the class that a clips.csv gives; None where the label map decides.
        fps, action_units: as in `Clip`.
        sheet, row: where it stands.
        folder: its folder, where there is no table and so the folder is all that is known.
    """

    subject: str
    name: str
    file: str
    onset: int | None
    apex: int | None
    offset: int | None
    emotion: str
    fps: float
    action_units: tuple[str, ...] = ()
    label: str | None = None
    sheet: Path | None = None
    row: int | None = None
    folder: Path | None = None


def fault_of(reader: Reader, record: Record, kind: Kind, message: str, *, file: Path | None = None, kept: bool = False) -> Fault:
    """A fault of one record; it stands at `file`, or else in the record's row."""
    where, row = (record.sheet, record.row) if file is None else (file, None)
    return Fault(kind, message, reader.key, f"{reader.key}/{record.subject}/{record.name}", where, row, None, kept)


def records_of(reader: Reader, table: Table, listing: Listing | None, faults: FaultReport) -> list[Record]:
    """The good rows of a table as records; the faults of the others go to `faults`.

    With a `listing` only the clips that it lists are read, with its numbers in place of the table's where it has any.
    """
    seen: dict[tuple[str, str], Record] = {}
    for number, cells in table.rows():
        if not reader.wants(cells):
            continue
        record = _Row(reader, table, number, cells, faults).record(listing)
        if record is None:
            continue
        key = (record.subject, loosely(record.name))
        if key in seen:
            faults.add(_repetition(reader, record, seen[key]))
        else:
            seen[key] = record
    return list(seen.values())


def _repetition(reader: Reader, record: Record, first: Record) -> Fault:
    if replace(record, row=first.row) == first:
        return fault_of(reader, record, Kind.duplicate_row, f"repeats row {first.row}: left out")
    message = f"has the name of row {first.row} with other values: left out, the first is kept"
    return fault_of(reader, record, Kind.repeated_name, message)


class _Row:
    """Reads one row; goes on after a fault, so that all of a row's faults are named."""

    def __init__(self, reader: Reader, table: Table, number: int, cells: Mapping[str, Any], faults: FaultReport) -> None:
        self._reader = reader
        self._table = table
        self._number = number
        self._cells = cells
        self._faults = faults
        self._listed: Listed | None = None
        self._clip: str | None = None
        self._usable = True

    def record(self, listing: Listing | None) -> Record | None:
        """The record; None where the row has a fault that costs the clip, or the listing does not have it."""
        reader = self._reader
        subject, file = self._subject(), self._text("name")
        name = reader.name_of(file, whole_number(self._cells["onset"])) if file else None
        self._clip = f"{reader.key}/{subject or '?'}/{name or '?'}"
        if listing is not None:
            self._listed = listing.find(subject, name) if subject and name else None
            if self._listed is None:
                return None
        self._name_what_is_missing(subject, file)
        onset, offset = self._frame("onset"), self._frame("offset")
        if onset is None and self._usable:
            self._fault(Kind.missing_value, "has no onset: the clip is left out", "onset")
        if offset == 0 and onset is not None and onset > 0:
            offset = None
        if onset is not None and offset is not None and onset > offset:
            self._fault(Kind.onset_after_offset, f"onset {onset} comes after offset {offset}: the clip is left out", "onset")
        apex = self._apex(onset, offset)
        emotion = self._emotion()
        if not self._usable or subject is None or file is None or name is None:
            return None
        label = None if self._listed is None else self._listed.label
        return Record(
            subject, name, file, onset, apex, offset, emotion, self._fps(), self._action_units(), label,
            self._table.path, self._number,
        )  # fmt: skip

    def _fault(self, kind: Kind, message: str, key: str, kept: bool = False) -> None:
        self._usable &= kept
        path, row = self._table.path, self._number
        if self._listed is not None and self._listed.frame(key) is not None:
            path, row = self._listed.path, self._listed.row
        column = self._table.titles.get(key)
        self._faults.add(Fault(kind, message, self._reader.key, self._clip, path, row, column, kept))

    def _text(self, key: str) -> str | None:
        value = self._cells.get(key, "")
        return None if is_missing(value) else text_of(value)

    def _subject(self) -> str | None:
        text = self._text("subject")
        return None if text is None else self._reader.subject_in(self._table, text)

    def _name_what_is_missing(self, subject: str | None, file: str | None) -> None:
        text = self._text("subject")
        if text is None:
            self._fault(Kind.missing_value, "has no subject: the clip is left out", "subject")
        elif subject is None:
            fault = f'"{text}" is no subject (they are such as {self._reader.subject_example}): the clip is left out'
            self._fault(Kind.missing_value, fault, "subject")
        odd = self._reader.odd(self._cells)
        if odd is not None:
            self._fault(Kind.missing_value, odd[1], odd[0])
        if file is None:
            self._fault(Kind.missing_value, "has no file name: the clip is left out", "name")

    def _frame(self, key: str) -> int | None:
        """A frame number; None where the cell is empty, or holds something else, which is a fault."""
        listed = None if self._listed is None else self._listed.frame(key)
        if listed is not None:
            return listed
        value = self._cells.get(key, "")
        if is_missing(value):
            return None
        number = whole_number(value)
        if number is None or number < 0:
            self._fault(Kind.bad_number, f'"{text_of(value)}" is no frame number: the clip is left out', key)
            return None
        return number

    def _apex(self, onset: int | None, offset: int | None) -> int | None:
        listed = None if self._listed is None else self._listed.apex
        if listed is None and "apex" not in self._table.positions:
            return None
        for key in ("apex", "apex2"):
            apex = self._frame(key)
            if apex is not None and (apex > 0 or onset == 0):
                break
        else:
            if self._usable:
                cell = text_of(self._cells.get("apex", "") if listed is None else listed)
                shown = f' ("{cell}")' if cell else ""
                self._fault(Kind.missing_apex, f"has no apex{shown}: kept without one", "apex", kept=True)
            return None
        if self._usable and onset is not None and not onset <= apex <= (apex if offset is None else offset):
            span = f"{onset}-{'?' if offset is None else offset}"
            self._fault(Kind.apex_outside, f"apex {apex} lies outside onset to offset, {span}: kept without one", key, kept=True)
            return None
        return apex

    def _emotion(self) -> str:
        """The emotion in one spelling; a clip that a clips.csv labels may have any."""
        text = self._text("emotion")
        emotion = None if text is None else self._reader.emotion_of(text)
        if emotion is not None:
            return emotion
        if self._listed is not None:
            return "" if text is None else text.casefold()
        if text is None:
            self._fault(Kind.missing_value, "has no emotion: the clip is left out", "emotion")
        else:
            known = ", ".join(dict.fromkeys(self._reader.emotions.values()))
            self._fault(Kind.unknown_emotion, f'emotion "{text}" is none of {known}: the clip is left out', "emotion")
        return ""

    def _fps(self) -> float:
        text = self._text("fps")
        try:
            fps = float(text) if text is not None else self._reader.fps
        except ValueError:
            fps = math.nan
        if math.isfinite(fps) and fps > 0:
            return fps
        self._fault(Kind.bad_number, f'"{text}" is no frame rate: {self._reader.fps:g} is taken', "fps", kept=True)
        return self._reader.fps

    def _action_units(self) -> tuple[str, ...]:
        text = self._text("action_units")
        return () if text is None else tuple(unit for unit in _UNIT_BREAK.split(text) if unit)
