"""MMEW (Ben et al., "Video-based facial micro-expression analysis: a survey", IEEE Trans. PAMI 44(9), 2022)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from mer_fast.data.readers.base import Reader
from mer_fast.data.readers.casme2 import CODING, subject_number
from mer_fast.data.readers.labels import grouped
from mer_fast.data.readers.records import Record
from mer_fast.data.readers.sheets import Table
from mer_fast.data.readers.tree import Tree

_WORDS = ("happiness", "surprise", "anger", "disgust", "fear", "sadness", "others")


class Mmew(Reader):
    """MMEW's micro-expressions, 90 frames a second.

    Expected: `MMEW_Micro_Exp*.xlsx` (the columns of CASME II and remarks) and `Micro_Expression/happiness/S01-01-002/1.jpg`, or
    with a subject's folder before the emotion's, somewhere below the folder. The owners call the seventh emotion others in the
    paper and repression on their page; both are "others" here.
    """

    key = "mmew"
    title = "MMEW"
    fps = 90.0
    columns = CODING
    extras = ("remarks",)
    sheet_name = re.compile(r"mmew(?!.*macro)")
    folder_hint = re.compile(r"mmew|^micro_expression$")
    layout = "happiness/S01-01-002"
    subject_folder = re.compile(r"s[0-9]+")
    subject_example = "S01"
    emotions: ClassVar = {word: word for word in _WORDS} | {"other": "others", "repression": "others", "happy": "happiness"}
    three_four_five: ClassVar = grouped()
    has_subject_folders = False

    def subject_of(self, text: str) -> str | None:
        return subject_number(text, "S", 2)

    def is_root(self, tree: Tree, folder: Path) -> bool:
        children = [name.casefold() for name in tree.children(folder)]
        if sum(name in self.emotions for name in children) > 1:
            return "macro" not in folder.name.casefold()
        subjects = [name for name in tree.children(folder) if self.subject_folder.fullmatch(name.casefold())]
        below = [name.casefold() for subject in subjects[:3] for name in tree.children(folder / subject)]
        return any(name in self.emotions for name in below) and "macro" not in folder.name.casefold()

    def places(self, record: Record, table: Table | None) -> Sequence[tuple[tuple[str, ...], bool]]:
        words = [record.emotion, *(word for word, emotion in self.emotions.items() if emotion == record.emotion)]
        flat = [((word, record.file), False) for word in dict.fromkeys(words)]
        return [*flat, *(((record.subject, *parts), longer) for parts, longer in flat)]
