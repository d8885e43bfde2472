"""DFME (Zhao et al., "DFME: a new benchmark for dynamic facial micro-expression recognition", IEEE Trans. Affective Computing
15(3), 2024)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from mer_fast.data.readers.base import Reader
from mer_fast.data.readers.frames import has_images
from mer_fast.data.readers.labels import grouped
from mer_fast.data.readers.records import Record
from mer_fast.data.readers.sheets import Column, Table
from mer_fast.data.readers.tree import Tree

_WORDS = ("happiness", "anger", "contempt", "disgust", "fear", "sadness", "surprise", "others")


class Dfme(Reader):
    """DFME, 200 to 500 frames a second, as the table says for each clip.

    Expected: `*DFME*.csv` or `.xlsx` (Subject, Filename, OnsetFrame, ApexFrame, OffsetFrame, Emotion, EmotionId, Fps, AU) and
    `{Filename}/00000.png`, in the folder or somewhere below it. Where the images are numbered anew from 0 the
    first is the onset.
    """

    key = "dfme"
    title = "DFME"
    fps = 200.0
    columns = (
        Column("subject", "Subject"),
        Column("name", "Filename", ("File name",)),
        Column("onset", "OnsetFrame", ("Onset",)),
        Column("apex", "ApexFrame", ("Apex",), needed=False),
        Column("offset", "OffsetFrame", ("Offset",)),
        Column("emotion", "Emotion", ("Estimated Emotion",)),
        Column("fps", "Fps", ("Frame rate",), needed=False),
        Column("action_units", "AU", ("AUs", "Action Units"), needed=False),
    )
    extras = ("EmotionId", "partName")
    sheet_name = re.compile(r"dfme")
    folder_hint = re.compile(r"dfme")
    layout = "{Filename}/00000.png"
    subject_folder = re.compile(r"(?!)")
    subject_example = "the table's own code"
    emotions: ClassVar = {word: word for word in _WORDS} | {"other": "others", "happy": "happiness", "sad": "sadness"}
    three_four_five: ClassVar = grouped()
    has_subject_folders = False

    def subject_of(self, text: str) -> str | None:
        return text

    def is_root(self, tree: Tree, folder: Path) -> bool:
        return any(has_images(folder / name) for name in tree.children(folder)[:3])

    def places(self, record: Record, table: Table | None) -> Sequence[tuple[tuple[str, ...], bool]]:
        return [((record.file,), False)]
