"""What the readers of all data sets share: from a folder and its table to clips, with every fault named."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from mer_fast.data.readers.clip import Clip, ClipSet
from mer_fast.data.readers.faults import Fault, FaultReport, Kind
from mer_fast.data.readers.finding import find_root, find_table, name_sheet_faults, tables_of
from mer_fast.data.readers.labels import LabelMap, chosen_map, classes_of, same
from mer_fast.data.readers.locate import Locator
from mer_fast.data.readers.override import Listing
from mer_fast.data.readers.records import Record, records_of
from mer_fast.data.readers.sheets import Column, SheetError, Table, with_header
from mer_fast.data.readers.tree import Tree, loosely
from mer_fast.errors import MerFastError

Progress = Callable[[str, int, int | None], None]


class Reader:
    """Reads one data set. A subclass says what its owners' table and folders look like.

    Attributes:
        key: the data set's name in code.
        title: as its owners write it.
        fps: frames a second.
        columns: of the table; None where the owners ship none.
        extras: further titles of the owners' table.
        sheet_name: matches the table's file name, in lower case.
        folder_hint: matches folder names that are this data set's, in lower case.
        layout: where a clip's frames lie, in words for messages.
        subject_folder: matches a subject's folder, in lower case.
        subject_example: how a subject is written.
        emotions: every word of the owners, in lower case -> its one spelling.
        three_four_five: the label maps beside "original".
        has_subject_folders: clips lie in the folder of their subject.
    """

    key: ClassVar[str]
    title: ClassVar[str]
    fps: ClassVar[float]
    columns: ClassVar[tuple[Column, ...] | None]
    extras: ClassVar[tuple[str, ...]] = ()
    sheet_name: ClassVar[re.Pattern[str]]
    folder_hint: ClassVar[re.Pattern[str]]
    layout: ClassVar[str]
    subject_folder: ClassVar[re.Pattern[str]]
    subject_example: ClassVar[str]
    emotions: ClassVar[Mapping[str, str]]
    three_four_five: ClassVar[Mapping[str, LabelMap]]
    has_subject_folders: ClassVar[bool] = True

    @property
    def maps(self) -> Mapping[str, LabelMap]:
        """Every label map by name."""
        return {"original": same(*dict.fromkeys(self.emotions.values())), **self.three_four_five}

    # What a subclass may have to say otherwise.

    def subject_of(self, text: str) -> str | None:
        """A subject as its folder is called, from a cell; None where it is none."""
        raise NotImplementedError

    def subject_in(self, table: Table, text: str) -> str | None:
        """The same, from a cell of a table that may say more."""
        return self.subject_of(text)

    def name_of(self, file: str, onset: int | None) -> str:
        """A clip's name, unique within its subject."""
        return file

    def emotion_of(self, text: str) -> str | None:
        """An emotion in one spelling, from a cell; None where it is none."""
        return self.emotions.get(" ".join(text.casefold().split()))

    def wants(self, cells: Mapping[str, Any]) -> bool:
        """Whether a row of the table is a micro-expression, as far as it can be told."""
        return True

    def odd(self, cells: Mapping[str, Any]) -> tuple[str, str] | None:
        """What a row holds that it should not, if anything: the column's key, and the fault."""
        return None

    def read_table(self, path: Path) -> Table | None:
        """The table in a file; None where it has none of this data set's."""
        return with_header(path, self.columns or (), self.extras)

    def is_root(self, tree: Tree, folder: Path) -> bool:
        """Whether a folder holds the subjects' folders."""
        return any(self.subject_folder.fullmatch(name.casefold()) for name in tree.children(folder))

    def preference(self, root: str) -> int:
        """Which of several roots to read, the least first; whole frames come before cropped faces. `root` is a relative path."""
        return int("crop" in root.casefold())

    def places(self, record: Record, table: Table | None) -> Sequence[tuple[tuple[str, ...], bool]]:
        """Where a clip may lie below the root: the parts of the path, and whether frames of a longer video lie there."""
        return [((record.subject, record.file), False)]

    def records_without_table(self, tree: Tree, root: Path, listing: Listing | None, faults: FaultReport) -> list[Record]:
        """The clips of a data set that comes without a table."""
        raise NotImplementedError

    # The reading.

    def read(
        self,
        folder: str | os.PathLike[str],
        labels: str | LabelMap = "3-class",
        *,
        frames: str | None = None,
        listing: Callable[[FaultReport], Listing | None] = lambda faults: None,
        strict: bool = True,
        verify: bool = False,
        progress: Progress = lambda stage, done, total: None,
    ) -> ClipSet:
        """Reads the data set; see `mer_fast.data.read_clips`. `listing` reads the clips.csv; `verify` looks into every image."""
        top = Path(folder)
        if not top.is_dir():
            raise MerFastError(f"{folder} is not a folder: give the folder of {self.title}")
        labels_map = chosen_map(self.title, self.maps, labels, self.emotion_of)
        faults = FaultReport()
        listed = listing(faults)
        tree = Tree(top)
        progress(f"{self.title}: reading the table", 0, None)
        table = self._table(tree, faults)
        root = find_root(self, tree, table, frames, faults) if self.columns is None or table is not None else None
        records = self._records(tree, table, root, listed, faults)
        if listed is not None:
            for row in listed.not_found():
                message = f"lists {row.subject}/{row.clip}, which is not in {self.title}"
                faults.add(Fault(Kind.bad_override, message, self.key, None, row.path, row.row))
        clips = Locator(self, tree, root, table, faults, verify, progress).clips(records) if root is not None else []
        chosen, left_out = self._labelled(clips, labels_map, listed, faults)
        if strict:
            faults.raise_if_costly(f"{self.title} in {folder}")
        sheet, path = (None if table is None else table.path), (None if listed is None else listed.path)
        return ClipSet(tuple(chosen), classes_of(labels_map), faults, left_out, sheet, root, path)

    def _table(self, tree: Tree, faults: FaultReport) -> Table | None:
        if self.columns is None:
            return None
        try:
            table = find_table(self, tree)
        except SheetError as error:
            path, why = error.args
            faults.add(Fault(Kind.unreadable_sheet, f"{why}: no clip can be read", self.key, None, path))
            return None
        if table is None:
            titles = ", ".join(column.title for column in self.columns)
            named = [path for path in tables_of(self, tree) if self.sheet_name.search(path.name.casefold())]
            if named:
                message = f"has not the columns {titles}: no clip can be read"
                faults.add(Fault(Kind.missing_column, message, self.key, None, named[-1]))
            else:
                message = f"there is no annotation table (.xlsx or .csv) with the columns {titles}: no clip can be read"
                faults.add(Fault(Kind.missing_sheet, message, self.key, None, tree.top))
            return None
        return table if name_sheet_faults(self, table, faults) else None

    def _records(
        self, tree: Tree, table: Table | None, root: Path | None, listing: Listing | None, faults: FaultReport
    ) -> list[Record]:
        if table is not None:
            return records_of(self, table, listing, faults)
        if self.columns is None and root is not None:
            return self.records_without_table(tree, root, listing, faults)
        return []

    def _labelled(
        self, clips: list[tuple[Record, Clip]], labels: LabelMap, listing: Listing | None, faults: FaultReport
    ) -> tuple[list[Clip], dict[str, int]]:
        """The clips that have a class, and how many of each emotion have none."""
        classes = classes_of(labels)
        chosen: list[Clip] = []
        left_out: Counter[str] = Counter()
        for record, clip in clips:
            word = record.emotion if record.label is None else record.label
            label = word if record.label in classes else labels.get(word)
            if label is not None:
                chosen.append(replace(clip, label=label))
            elif record.label is None:
                left_out[record.emotion] += 1
            elif listing is not None:
                row = listing.rows[(record.subject, loosely(record.name))].row
                message = f'label "{word}" is none of {", ".join(classes)}: the clip is left out'
                faults.add(Fault(Kind.bad_override, message, self.key, clip.key, listing.path, row, "label"))
        return chosen, dict(left_out)
