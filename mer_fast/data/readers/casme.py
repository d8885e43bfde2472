"""CASME (Yan et al., "CASME database: a dataset of spontaneous micro-expressions collected from neutralized faces", FG 2013)."""

from __future__ import annotations

import re
from typing import ClassVar

from mer_fast.data.readers.base import Reader
from mer_fast.data.readers.casme2 import subject_number
from mer_fast.data.readers.labels import grouped
from mer_fast.data.readers.sheets import Column

_WORDS = ("tense", "disgust", "repression", "surprise", "happiness", "sadness", "fear", "contempt")


class Casme(Reader):
    """CASME, 60 frames a second.

    Expected: `casme*.xlsx` (Subject, Filename, OnsetF, ApexF1, ApexF2, OffsetF, AU, Emotion) and
    `CASME_raw_selected/sub01/EP01_5/reg_img1.jpg`, or `Cropped/...`, somewhere below the folder. The apex is ApexF1; ApexF2 is
    taken where that is empty. The five classes are those of CASME II, tense among the others (uncertain).
    """

    key = "casme"
    title = "CASME"
    fps = 60.0
    columns = (
        Column("subject", "Subject", ("Sub",)),
        Column("name", "Filename", ("File name",)),
        Column("onset", "OnsetF", ("Onset",)),
        Column("apex", "ApexF1", ("ApexF", "Apex1"), needed=False),
        Column("apex2", "ApexF2", ("Apex2",), needed=False),
        Column("offset", "OffsetF", ("Offset",)),
        Column("action_units", "AU", ("AUs", "Action Units"), needed=False),
        Column("emotion", "Emotion", ("Estimated Emotion",)),
    )
    sheet_name = re.compile(r"^casme(?![ _-]?(?:2|3|ii|sq))")
    folder_hint = re.compile(r"^casme(?![ _-]?(?:[23]|ii|sq))")
    layout = "sub01/EP01_5"
    subject_folder = re.compile(r"sub[0-9]+")
    subject_example = "sub01"
    emotions: ClassVar = {word: word for word in _WORDS} | {"tension": "tense", "happy": "happiness"}
    three_four_five: ClassVar = {
        **grouped(negative=("disgust", "repression", "sadness", "fear", "contempt"), others=("tense",)),
        "5-class": {
            "happiness": "happiness", "disgust": "disgust", "surprise": "surprise", "repression": "repression", "tense": "others",
        },
    }  # fmt: skip

    def subject_of(self, text: str) -> str | None:
        return subject_number(text, "sub", 2)
