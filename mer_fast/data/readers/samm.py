"""SAMM (Davison et al., "SAMM: a spontaneous micro-facial movement dataset", IEEE Trans. Affective Computing 9(1), 2018)."""

from __future__ import annotations

import re
from typing import ClassVar

from mer_fast.data.readers.base import Reader
from mer_fast.data.readers.casme2 import subject_number
from mer_fast.data.readers.labels import grouped, same
from mer_fast.data.readers.sheets import Column

_WORDS = ("anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise", "others")


class Samm(Reader):
    """SAMM's micro-movements, 200 gray frames a second.

    Expected: `SAMM_Micro_FACS_Codes*.xlsx`, whose header (Subject, Filename, Inducement Code, Onset Frame, Apex Frame, Offset
    Frame, Duration, Micro, Action Units, Estimated Emotion, Objective Classes, Notes) stands below some rows of notes, and
    `006/006_1_2/006_05562.jpg`, in the folder or somewhere below it. Its word "Other" is "others" here.
    """

    key = "samm"
    title = "SAMM"
    fps = 200.0
    columns = (
        Column("subject", "Subject"),
        Column("name", "Filename"),
        Column("onset", "Onset Frame", ("Onset",)),
        Column("apex", "Apex Frame", ("Apex",), needed=False),
        Column("offset", "Offset Frame", ("Offset",)),
        Column("action_units", "Action Units", ("AU",), needed=False),
        Column("emotion", "Estimated Emotion", ("Emotion",)),
    )
    extras = ("Inducement Code", "Duration", "Micro", "Objective Classes", "Notes")
    sheet_name = re.compile(r"samm.*(?:micro|facs)")
    folder_hint = re.compile(r"^samm(?!.*long)")
    layout = "006/006_1_2"
    subject_folder = re.compile(r"[0-9]{3}")
    subject_example = "006"
    emotions: ClassVar = {word: word for word in _WORDS} | {"other": "others"}
    three_four_five: ClassVar = {**grouped(), "5-class": same("anger", "contempt", "happiness", "surprise", "others")}

    def subject_of(self, text: str) -> str | None:
        return subject_number(text, "", 3)
