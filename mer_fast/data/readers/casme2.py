"""CASME II (Yan et al., "CASME II: An improved spontaneous micro-expression database", PLOS ONE 9(1), 2014)."""

from __future__ import annotations

import re
from typing import ClassVar

from mer_fast.data.readers.base import Reader
from mer_fast.data.readers.labels import grouped, same
from mer_fast.data.readers.sheets import Column

_WORDS = ("happiness", "disgust", "surprise", "repression", "others", "sadness", "fear")

CODING = (
    Column("subject", "Subject", ("Sub",)),
    Column("name", "Filename", ("File name", "Video")),
    Column("onset", "OnsetFrame", ("Onset", "OnsetF")),
    Column("apex", "ApexFrame", ("Apex",), needed=False),
    Column("offset", "OffsetFrame", ("Offset", "OffsetF")),
    Column("action_units", "Action Units", ("AU", "AUs", "Action Unit"), needed=False),
    Column("emotion", "Estimated Emotion", ("Emotion", "EstimatedEmotions")),
)


def subject_number(text: str, prefix: str, digits: int) -> str | None:
    """ "sub01" of "1", "01" or "Sub1"; None where there is no number of that form."""
    match = re.fullmatch(rf"(?:{re.escape(prefix)})?\s*0*([0-9]+)", text.strip(), re.IGNORECASE)
    return None if match is None else f"{prefix}{int(match[1]):0{digits}d}"


class CasmeTwo(Reader):
    """CASME II, 200 frames a second.

    Expected: `CASME2-coding-*.xlsx` (Subject, Filename, OnsetFrame, ApexFrame, OffsetFrame, Action Units, Estimated Emotion) and
    `CASME2_RAW_selected/sub01/EP02_01f/img46.jpg`, or `Cropped/sub01/EP02_01f/reg_img46.jpg`, somewhere below the folder.
    The owners' table has no apex ("/") for some clips, and an offset of 0 in a row; both are kept, and told.
    """

    key = "casme2"
    title = "CASME II"
    fps = 200.0
    columns = CODING
    sheet_name = re.compile(r"casme[ _-]?(?:2|ii).*cod")
    folder_hint = re.compile(r"^casme[ _-]?(?:2|ii)(?![0-9])")
    layout = "sub01/EP02_01f"
    subject_folder = re.compile(r"sub[0-9]+")
    subject_example = "sub01"
    emotions: ClassVar = {word: word for word in _WORDS} | {"other": "others"}
    three_four_five: ClassVar = {
        **grouped(negative=("disgust", "repression")),
        "5-class": same("happiness", "disgust", "surprise", "repression", "others"),
    }

    def subject_of(self, text: str) -> str | None:
        return subject_number(text, "sub", 2)
