"""Faults planted in example folders, one at a time: in the table, in the folders, in the images."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openpyxl

from mer_fast.data.readers import READERS, Clip, Kind
from mer_fast.data.readers.casme_sq import FOLDERS
from mer_fast.data.readers.examples import EXAMPLES
from mer_fast.data.readers.sheets import squeezed

Rows = list[list[Any]]


@dataclass(frozen=True)
class Folder:
    """An example folder, and the clip in it that is to suffer."""

    key: str
    top: Path
    clip: Clip

    @property
    def sheet(self) -> Path:
        return self.top / EXAMPLES[self.key].sheet

    @property
    def header(self) -> int | None:
        """Index of the header row; None where there is none."""
        example = EXAMPLES[self.key]
        return example.notes if example.titles else None

    def column(self, role: str) -> int:
        """Index of a reader's column in the owners' table."""
        columns = READERS[self.key].columns
        if self.header is None:
            return [column.key for column in columns].index(role)
        wanted = next(column for column in columns if column.key == role)
        return [squeezed(title) in wanted.titles for title in EXAMPLES[self.key].titles].index(True)

    def edit(self, change: Callable[[Rows], None]) -> None:
        """Changes the rows of the table."""
        if self.sheet.suffix == ".csv":
            with self.sheet.open(newline="") as file:
                rows = list(csv.reader(file))
            change(rows)
            with self.sheet.open("w", newline="") as file:
                csv.writer(file).writerows(rows)
            return
        book = openpyxl.load_workbook(self.sheet)
        page = book.worksheets[0]
        rows = [[cell.value for cell in row] for row in page.iter_rows()]
        change(rows)
        page.delete_rows(1, page.max_row)
        for row in rows:
            page.append(row)
        book.save(self.sheet)

    def row_of(self, rows: Rows) -> int:
        """Index of the clip's row: the one with its onset, apex and offset."""
        wanted = [str(number) for number in (self.clip.onset, self.clip.offset)]
        at = [self.column("onset"), self.column("offset")]
        subject = READERS[self.key].subject_of
        found = [
            index for index, row in enumerate(rows)
            if [str(row[column]) for column in at] == wanted and self._is_ours(row, subject)
        ]  # fmt: skip
        assert len(found) == 1
        return found[0]

    def _is_ours(self, row: list[Any], subject_of: Callable[[str], str | None]) -> bool:
        file = str(row[self.column("name")])
        if not self.clip.name.startswith(file):
            return False
        if self.key == "casme_sq":  # a participant's number, not its folder's
            return f"casme_sq/s{FOLDERS[row[self.column('subject')] - 1]}" == self.clip.subject
        return f"{self.key}/{subject_of(str(row[self.column('subject')]))}" == self.clip.subject

    def set(self, role: str, value: object) -> int:
        """Writes a cell of the clip's row; gives the row as a spreadsheet counts."""
        found = []

        def change(rows: Rows) -> None:
            found.append(self.row_of(rows))
            rows[found[0]][self.column(role)] = value

        self.edit(change)
        return found[0] + 1

    def image(self, index: int) -> Path:
        return self.clip.folder / self.clip.files[index]


@dataclass(frozen=True)
class Told:
    """What a reader has to say of a fault."""

    kind: Kind
    words: tuple[str, ...]
    row: int | None = None
    clips_lost: int = 1


def missing_frame(folder: Folder) -> Told:
    folder.image(1).unlink()
    return Told(Kind.missing_frame, (folder.clip.key, str(folder.clip.onset + 1), str(folder.clip.folder)), clips_lost=0)


def missing_apex_frame(folder: Folder) -> Told:
    folder.image(folder.clip.apex_index).unlink()
    return Told(Kind.missing_frame, (folder.clip.key, f"apex {folder.clip.apex}"))


def missing_offset_frame(folder: Folder) -> Told:
    folder.image(folder.clip.offset_index).unlink()
    return Told(Kind.missing_frame, (folder.clip.key, f"offset {folder.clip.offset}"))


def missing_apex(folder: Folder) -> Told:
    row = folder.set("apex", "/")
    return Told(Kind.missing_apex, (folder.clip.key, "no apex", '"/"', folder.sheet.name), row, 0)


def apex_outside(folder: Folder) -> Told:
    row = folder.set("apex", folder.clip.offset + 3)
    return Told(Kind.apex_outside, (folder.clip.key, f"apex {folder.clip.offset + 3}"), row, 0)


def onset_after_offset(folder: Folder) -> Told:
    row = folder.set("onset", folder.clip.offset + 7)
    told = f"onset {folder.clip.offset + 7} comes after offset {folder.clip.offset}"
    return Told(Kind.onset_after_offset, (folder.clip.subject, told), row)


def not_a_number(folder: Folder) -> Told:
    row = folder.set("offset", "about 90")
    return Told(Kind.bad_number, (folder.clip.key, "about 90"), row)


def no_subject(folder: Folder) -> Told:
    row = folder.set("subject", None)
    return Told(Kind.missing_value, (folder.clip.name, "no subject"), row)


def unknown_emotion(folder: Folder) -> Told:
    if folder.key == "smic":
        emotion = folder.clip.folder.parent
        clips = len([path for path in emotion.iterdir() if path.is_dir()])
        emotion.rename(emotion.with_name("boredom"))
        return Told(Kind.unknown_emotion, ("boredom", "negative, positive, surprise"), clips_lost=clips)
    row = folder.set("emotion", "boredom")
    return Told(Kind.unknown_emotion, (folder.clip.key, "boredom", "surprise"), row)


def duplicate_row(folder: Folder) -> Told:
    first = []

    def change(rows: Rows) -> None:
        first.append(folder.row_of(rows))
        rows.append(list(rows[first[0]]))
        first.append(len(rows))

    folder.edit(change)
    return Told(Kind.duplicate_row, (folder.clip.key, f"row {first[0] + 1}"), first[1], 0)


def repeated_name(folder: Folder) -> Told:
    if folder.key == "smic":
        other = next(word for word in ("negative", "positive", "surprise") if word != folder.clip.emotion)
        twin = folder.clip.folder.parent.parent / other / folder.clip.name
        shutil.copytree(folder.clip.folder, twin)
        return Told(Kind.repeated_name, (folder.clip.key, str(folder.clip.folder), str(twin)), clips_lost=0)
    rows_seen = []

    def change(rows: Rows) -> None:
        rows_seen.append(folder.row_of(rows))
        rows.append(list(rows[rows_seen[0]]))
        rows[-1][folder.column("offset")] = folder.clip.offset - 1
        rows_seen.append(len(rows))

    folder.edit(change)
    return Told(Kind.repeated_name, (folder.clip.key, f"row {rows_seen[0] + 1}"), rows_seen[1], 0)


def renamed_column(folder: Folder) -> Told:
    def change(rows: Rows) -> None:
        rows[folder.header][folder.column("offset")] = "OffsetFrm"

    folder.edit(change)
    return Told(Kind.renamed_column, ("OffsetFrm", folder.sheet.name), folder.header + 1, -1)


def missing_column(folder: Folder) -> Told:
    title = next(column.title for column in READERS[folder.key].columns if column.key == "emotion")

    def change(rows: Rows) -> None:
        for row in rows[folder.header or 0 :]:
            del row[folder.column("emotion")]

    folder.edit(change)
    return Told(Kind.missing_column, (title, folder.sheet.name), clips_lost=-1)


def missing_sheet(folder: Folder) -> Told:
    folder.sheet.unlink()
    return Told(Kind.missing_sheet, ("no annotation table", str(folder.top)), clips_lost=-1)


def damaged_sheet(folder: Folder) -> Told:
    folder.sheet.write_bytes(b"\0" * 500)
    return Told(Kind.unreadable_sheet, (folder.sheet.name, "save it anew"), clips_lost=-1)


def sheet_as_xls(folder: Folder) -> Told:
    folder.sheet.rename(folder.sheet.with_suffix(".xls"))
    return Told(Kind.unreadable_sheet, (folder.sheet.with_suffix(".xls").name, "save it as .xlsx or .csv"), clips_lost=-1)


def empty_image(folder: Folder) -> Told:
    folder.image(2).write_bytes(b"")
    return Told(Kind.unreadable_image, (folder.clip.key, str(folder.image(2)), "empty"))


def missing_clip_folder(folder: Folder) -> Told:
    shutil.rmtree(folder.clip.folder.parent if folder.key == "casme3" else folder.clip.folder)
    return Told(Kind.missing_clip, (folder.clip.key, "no folder"))


def missing_subject_folder(folder: Folder) -> Told:
    subject = folder.clip.subject.split("/")[1]
    above = next(path for path in (folder.clip.folder, *folder.clip.folder.parents) if path.name == subject)
    shutil.rmtree(above / "micro" if folder.key == "smic" else above)
    return Told(Kind.missing_subject, (subject, str(above)))


def missing_frames(folder: Folder) -> Told:
    for path in folder.top.iterdir():
        if path.is_dir():
            shutil.rmtree(path) if path.name != "annotation" else None
    return Told(Kind.missing_root, (str(folder.top), READERS[folder.key].layout), clips_lost=-1)


EVERYWHERE = (missing_frame, empty_image, unknown_emotion, repeated_name, missing_frames)
WITH_SHEET = (
    missing_apex_frame, missing_offset_frame, missing_apex, apex_outside, onset_after_offset, not_a_number, no_subject,
    duplicate_row, missing_column, missing_sheet, damaged_sheet, sheet_as_xls, missing_clip_folder,
)  # fmt: skip


def plants_for(key: str) -> list[Callable[[Folder], Told]]:
    """The faults that can be planted in a data set's folder."""
    plants = [*EVERYWHERE, *(WITH_SHEET if key != "smic" else ())]
    if READERS[key].has_subject_folders:
        plants.append(missing_subject_folder)
    if EXAMPLES[key].titles:
        plants.append(renamed_column)
    return plants
