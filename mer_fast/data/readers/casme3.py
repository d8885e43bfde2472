"""CAS(ME)^3 part A (Li et al., "CAS(ME)^3: a third generation facial spontaneous micro-expression database", IEEE
Trans. PAMI 45(3), 2023)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from mer_fast.data.readers.base import Reader
from mer_fast.data.readers.casme2 import subject_number
from mer_fast.data.readers.labels import grouped
from mer_fast.data.readers.records import Record
from mer_fast.data.readers.sheets import Column, Table

_WORDS = ("disgust", "surprise", "others", "fear", "anger", "sadness", "happiness")


class CasmeThree(Reader):
    """CAS(ME)^3 part A, 30 frames a second.

    Expected: `cas(me)3_part_A_ME_label_JpgIndex*.xlsx` (Subject, Filename, Onset, Apex, Offset, AU, Objective class, emotion) and
    the colour frames of the videos, `spNO.1/a/color/355.jpg`, or of the clips, `frame/spNo.1_a_355/355.jpg`, somewhere below the
    folder. A video holds several clips, so that file names repeat: a clip is a row, called by file and onset ("a_355").
    """

    key = "casme3"
    title = "CAS(ME)^3 A"
    fps = 30.0
    columns = (
        Column("subject", "Subject", ("sub",)),
        Column("name", "Filename", ("File name", "seq")),
        Column("onset", "Onset", ("OnsetFrame",)),
        Column("apex", "Apex", ("ApexFrame",), needed=False),
        Column("offset", "Offset", ("OffsetFrame",)),
        Column("action_units", "AU", ("AUs", "Action Units"), needed=False),
        Column("emotion", "emotion", ("Estimated Emotion",)),
    )
    extras = ("Objective class", "Expression type", "shade")
    sheet_name = re.compile(r"cas\(?me\)?\^?[_ ]?3.*_me_|^casme3")
    folder_hint = re.compile(r"cas\(?me\)?\^?[_ -]?3|^part_?a")
    layout = "spNO.1/a/color"
    subject_folder = re.compile(r"spno\.?[0-9]+(?:_.*)?")
    subject_example = "spNO.1"
    emotions: ClassVar = {word: word for word in _WORDS} | {"happy": "happiness", "sad": "sadness", "other": "others"}
    three_four_five: ClassVar = grouped()

    def subject_of(self, text: str) -> str | None:
        return subject_number(text, "spNO.", 1)

    def name_of(self, file: str, onset: int | None) -> str:
        return f"{file}_{'?' if onset is None else onset}"

    def places(self, record: Record, table: Table | None) -> Sequence[tuple[tuple[str, ...], bool]]:
        cut = f"{record.subject}_{record.name}"
        return [((record.subject, record.file, "color"), True), ((record.subject, record.file), True), ((cut,), False)]
