"""What the owners publish of their data sets: how many clips, subjects and emotions there should be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Figures to hold a folder against.

    Attributes:
        clips: number of clips.
        subjects: number of subjects with a clip; None where it is not known for certain.
        emotions: clips of each emotion; None where they are not known for certain.
        likely_subjects, likely_emotions: figures from the literature that may not be those of the released table: a difference
            is shown but is no fault.
    """

    clips: int
    subjects: int | None = None
    emotions: Mapping[str, int] | None = None
    likely_subjects: int | None = None
    likely_emotions: Mapping[str, int] | None = None


PUBLISHED: Mapping[str, Published] = {
    "smic": Published(164, 16, {"negative": 70, "positive": 51, "surprise": 43}),
    "casme": Published(
        189, likely_subjects=19,
        likely_emotions={
            "tense": 69, "disgust": 44, "repression": 38, "surprise": 20, "happiness": 9, "sadness": 6, "fear": 2, "contempt": 1,
        },
    ),
    "casme2": Published(
        255, 26,
        {"others": 99, "disgust": 63, "happiness": 32, "repression": 27, "surprise": 25, "sadness": 7, "fear": 2},
    ),
    "casme_sq": Published(57, likely_subjects=22, likely_emotions={"negative": 21, "others": 19, "surprise": 9, "positive": 8}),
    "samm": Published(
        159, 29,
        likely_emotions={
            "anger": 57, "happiness": 26, "others": 26, "surprise": 15, "contempt": 12, "disgust": 9, "fear": 8, "sadness": 6,
        },
    ),
    "mmew": Published(
        300, likely_subjects=30,
        likely_emotions={
            "surprise": 89, "disgust": 72, "others": 66, "happiness": 36, "fear": 16, "sadness": 13, "anger": 8,
        },
    ),
    "casme3": Published(
        860, 94,
        likely_emotions={
            "disgust": 250, "surprise": 187, "others": 161, "fear": 86, "anger": 64, "sadness": 57, "happiness": 55,
        },
    ),
    "4dme": Published(267),
    "dfme": Published(7526, likely_subjects=671),
}  # fmt: skip
