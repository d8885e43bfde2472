"""Annotation tables as their owners ship them: found in a folder, the header row found in the table, cells as they are."""

from __future__ import annotations

import csv
import difflib
import functools
import io
import re
import statistics
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mer_fast.data._optional import require

_SUFFIXES = (".xlsx", ".csv")
_HEADER_SEARCH = 40  # rows; SAMM's header is about the fourteenth
_LEAST_TITLES = 3  # of a header row; fewer may be met by chance in the notes above it
_ALIKE = 0.6
_MISSING = frozenset({"", "/", "\\", "-", "--", "?", "nan", "none", "n/a", "na", "null", "#n/a"})

# What pandas and openpyxl raise on damaged files; a ParseError of the XML is a SyntaxError, an encrypted file a RuntimeError.
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, EOFError, SyntaxError, LookupError, ValueError, TypeError, AttributeError, RuntimeError,
    OverflowError,
)  # fmt: skip

Cells = list[list[Any]]


class SheetError(Exception):
    """A file that cannot be read as a table; the text says why and the mend."""


@dataclass(frozen=True)
class Column:
    """A column that a reader wants.

    Attributes:
        key: what the reader calls it.
        title: what the owners call it; blanks and case do not matter.
        also: other titles it is known by.
        needed: without it there are no clips.
    """

    key: str
    title: str
    also: tuple[str, ...] = ()
    needed: bool = True

    @property
    def titles(self) -> frozenset[str]:
        return frozenset(squeezed(title) for title in (self.title, *self.also))


@dataclass(frozen=True)
class Table:
    """The rows of a worksheet below its header, and where each wanted column is.

    Attributes:
        path: the file.
        cells: all rows of the worksheet, those above the header included.
        first: index of the first row of data.
        positions: column key -> index.
        titles: column key -> the title found there (the reader's own where the sheet has no header).
        unknown: titles of the header that belong to no wanted column.
        worksheets: all worksheets of the file by name.
    """

    path: Path
    cells: Cells
    first: int
    positions: dict[str, int]
    titles: dict[str, str]
    unknown: tuple[str, ...]
    worksheets: dict[str, Cells]

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields each row that is not blank: its number as a spreadsheet counts, and its cells by column key."""
        for index in range(self.first, len(self.cells)):
            row = self.cells[index]
            values = {key: row[at] if at < len(row) else "" for key, at in self.positions.items()}
            if any(not is_missing(value) for value in values.values()):
                yield index + 1, values


def squeezed(title: object) -> str:
    """A title without case, blanks and punctuation: "Onset Frame " and "OnsetFrame" are one."""
    return re.sub(r"[^0-9a-z]", "", str(title).casefold())


def is_missing(value: object) -> bool:
    """Whether a cell is empty, or holds what stands for nothing ("/", "-", "n/a")."""
    return text_of(value).casefold() in _MISSING


def text_of(value: object) -> str:
    """A cell as text; Excel's whole numbers without their ".0"."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip() if value is not None else ""


def whole_number(value: object) -> int | None:
    """A cell as a whole number, None where it is none: 46, 46.0, "46" and "46.0" are 46."""
    try:
        number = float(text_of(value))
    except ValueError:
        return None
    return int(number) if number.is_integer() else None


def read_worksheets(path: Path) -> dict[str, Cells]:
    """All worksheets of an .xlsx file, or the one of a .csv file, as rows of cells; nothing is taken for a header.

    What was read is kept: each data set's reader looks at a file to tell whose it is.

    Raises:
        SheetError: the file is damaged, or of another format.
        MerFastError: pandas or openpyxl is not installed.
        OSError: the file cannot be opened.
    """
    status = path.stat()
    return _read_worksheets(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=16)
def _read_worksheets(path: Path, changed: int, size: int) -> dict[str, Cells]:
    if path.suffix.lower() == ".csv":
        return {path.stem: _read_csv(path)}
    if path.suffix.lower() != ".xlsx":
        raise SheetError(f"is {path.suffix or 'no table'}, which is not read: save it as .xlsx or .csv")
    pandas = require("pandas")
    require("openpyxl")
    try:
        frames = pandas.read_excel(
            path, sheet_name=None, header=None, dtype=object, engine="openpyxl", keep_default_na=False, na_filter=False
        )
    except _DAMAGE as error:
        raise SheetError("is not a readable .xlsx file: save it anew as .xlsx or .csv") from error
    return {str(name): frame.to_numpy().tolist() for name, frame in frames.items()}


def _read_csv(path: Path) -> Cells:
    data = path.read_bytes()
    for encoding in ("utf-8-sig", "gb18030"):  # Excel in China, where most of these sets come from, writes the second
        try:
            text = data.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    else:
        raise SheetError("is neither UTF-8 nor GB18030 text: save it anew as .xlsx or .csv")
    if "\0" in text:
        raise SheetError("is not a text file: save it anew as .xlsx or .csv")
    try:
        tables = [[list(row) for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)] for delimiter in ",;\t"]
    except csv.Error as error:
        raise SheetError(f"is not a readable .csv file ({error}): save it anew as .xlsx or .csv") from error
    # By the width of the rows: a list of action units has commas too.
    return max(tables, key=lambda cells: statistics.median([len(row) for row in cells] or [0]))


def table_files(folders: Sequence[Path]) -> list[Path]:
    """The files in these folders that may be annotation tables, .xls included so that it can be told why it is not read."""
    return [
        path
        for folder in folders
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in (*_SUFFIXES, ".xls")
        and not path.name.startswith(("~$", "."))
        and path.name.casefold() != "clips.csv"
        and path.is_file()
    ]


def with_header(path: Path, columns: Sequence[Column], extras: Sequence[str] = ()) -> Table | None:
    """The worksheet and the row whose titles fit the columns best; None where no row has three of them.

    Args:
        path: the file.
        columns: what is wanted.
        extras: other titles that the owners use, which are no renamed columns.
    """
    worksheets = read_worksheets(path)
    best: Table | None = None
    for cells in worksheets.values():
        for index, row in enumerate(cells[:_HEADER_SEARCH]):
            positions = _positions(row, columns)
            if len(positions) >= _LEAST_TITLES and (best is None or len(positions) > len(best.positions)):
                titles = {key: text_of(row[at]) for key, at in positions.items()}
                known = {squeezed(extra) for extra in extras}
                unknown = tuple(
                    text_of(title)
                    for at, title in enumerate(row)
                    if at not in positions.values() and squeezed(title) not in known and not is_missing(title)
                    and not text_of(title).startswith("Unnamed")
                )  # fmt: skip
                best = Table(path, cells, index + 1, positions, titles, unknown, worksheets)
    return best


def without_header(path: Path, columns: Sequence[Column], looks_right: re.Pattern[str]) -> Table | None:
    """The first worksheet whose rows have all the columns, in order, with a cell that `looks_right` matches; None without one.

    A first row that has such a title row all the same is left out.
    """
    worksheets = read_worksheets(path)
    for cells in worksheets.values():
        fits = [len(row) >= len(columns) and any(looks_right.fullmatch(text_of(cell)) for cell in row) for row in cells]
        if any(fits):
            positions = {column.key: at for at, column in enumerate(columns)}
            titles = {column.key: column.title for column in columns}
            first = 0 if fits[0] or whole_number(cells[0][2] if len(cells[0]) > 2 else "") is not None else 1
            return Table(path, cells, first, positions, titles, (), worksheets)
    return None


def _positions(row: Sequence[Any], columns: Sequence[Column]) -> dict[str, int]:
    squeezed_row = [squeezed(title) for title in row]
    found: dict[str, int] = {}
    for column in columns:
        for at, title in enumerate(squeezed_row):
            if title and title in column.titles:
                found.setdefault(column.key, at)
    return found


def renamed(column: Column, missing: Sequence[Column], unknown: Sequence[str]) -> str | None:
    """The unknown title that a missing column probably has now: alike, or the only one where only this column is missing."""
    by_squeezed = {squeezed(title): title for title in unknown}
    alike = [match for title in column.titles for match in difflib.get_close_matches(title, by_squeezed, 1, _ALIKE)]
    if alike:
        return by_squeezed[alike[0]]
    return unknown[0] if len(unknown) == 1 and len(missing) == 1 else None
