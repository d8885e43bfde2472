"""CAS(ME)^2 (Qu et al., "CAS(ME)^2: a database for spontaneous macro-expression and micro-expression spotting and recognition",
IEEE Trans. Affective Computing 9(4), 2018)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mer_fast.data.readers.base import Reader
from mer_fast.data.readers.casme2 import subject_number
from mer_fast.data.readers.labels import FOUR, THREE, same
from mer_fast.data.readers.records import Record
from mer_fast.data.readers.sheets import Cells, Column, Table, squeezed, text_of, whole_number, without_header

_KIND = re.compile(r"m[ia]cro[- ]?expressions?", re.IGNORECASE)
FOLDERS = (*range(15, 17), *range(19, 28), *range(29, 39), 40)  # of participants 1 to 22, by the owners' naming rule


class CasmeSquared(Reader):
    """The micro-expressions of CAS(ME)^2, 30 frames a second; its macro-expressions are left out.

    Expected: `CAS(ME)^2code_final*.xlsx`, whose first worksheet has no header row (participant, clip, onset, apex, offset, action
    units, emotion, type, self-report), and the frames of the clips, `selectedpic/s15/disgust1_1/img128.jpg` (or in `cropped`), or
    those of the videos, `rawpic/s15/15_0101disgustingteeth/img128.jpg`, somewhere below the folder. The worksheet "naming rule1"
    tells the folders of the participants (else the known order is taken), "naming rule2" those of the videos in rawpic. The tree
    read by default is selectedpic, then rawpic, then cropped. Uncertain: how clips are called in selectedpic.
    """

    key = "casme_sq"
    title = "CAS(ME)^2"
    fps = 30.0
    columns = (
        Column("subject", "participant"),
        Column("name", "video"),
        Column("onset", "onset"),
        Column("apex", "apex", needed=False),
        Column("offset", "offset"),
        Column("action_units", "AUs", needed=False),
        Column("emotion", "emotion"),
        Column("kind", "type"),
        Column("report", "self-report", needed=False),
    )
    sheet_name = re.compile(r"cas\(me\)\^2|casme_?sq")
    folder_hint = re.compile(r"cas\(me\)\^?2|casme_?sq|^(?:rawpic|selectedpic)$")
    layout = "s15/disgust1_1 or s15/15_0101..."
    subject_folder = re.compile(r"s?[0-9]{1,2}")
    subject_example = "s15"
    emotions: ClassVar = {word: word for word in FOUR} | {"other": "others"}
    three_four_five: ClassVar = {"3-class": same(*THREE), "4-class": same(*FOUR)}

    def subject_of(self, text: str) -> str | None:
        return subject_number(text, "s", 2)

    def subject_in(self, table: Table, text: str) -> str | None:
        participant = whole_number(text)
        if participant is None:
            return self.subject_of(text)
        rule = {whole_number(row[2]): whole_number(row[0]) for row in _worksheet(table, "namingrule1") if len(row) > 2}
        known = dict(enumerate(FOLDERS, 1))
        number = rule.get(participant) or known.get(participant)
        return None if number is None else f"s{number:02d}"

    def wants(self, cells: Mapping[str, Any]) -> bool:
        return "macro" not in text_of(cells["kind"]).casefold()

    def odd(self, cells: Mapping[str, Any]) -> tuple[str, str] | None:
        kind = text_of(cells["kind"])
        return None if _KIND.fullmatch(kind) else ("kind", f'type "{kind}" is neither micro- nor macro-expression: left out')

    def read_table(self, path: Path) -> Table | None:
        return without_header(path, self.columns, _KIND)

    def preference(self, root: str) -> int:
        names = root.casefold()
        return 2 if "crop" in names else 1 if "raw" in names else 0

    def places(self, record: Record, table: Table | None) -> Sequence[tuple[tuple[str, ...], bool]]:
        number = record.subject.removeprefix("s")
        clips = [((folder, record.file), False) for folder in (record.subject, number)]
        video = record.file.rpartition("_")[0]
        rule = [] if table is None else _worksheet(table, "namingrule2")
        codes = {text_of(row[1]): text_of(row[0]) for row in rule if len(row) > 1}
        if video in codes:
            clips += [((record.subject, f"{number}_{codes[video]:0>4}*"), True)]
        return clips


def _worksheet(table: Table, name: str) -> Cells:
    return next((cells for title, cells in table.worksheets.items() if squeezed(title) == name), [])
