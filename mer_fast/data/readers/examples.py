"""What the example folder of each data set looks like: its table, and the names of its folders and images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mer_fast.data.readers.casme_sq import FOLDERS


@dataclass(frozen=True)
class Planned:
    """A clip to make: its subject and its number within the subject, both from 1, its emotion and its frame numbers."""

    subject: int
    take: int
    emotion: str
    onset: int
    apex: int
    offset: int


@dataclass(frozen=True)
class Example:
    """A data set's layout.

    Attributes:
        place: the folder of a clip's images.
        image: the name of an image, of its clip and its frame number.
        sheet: path of the table; None where there is none.
        titles: its header; empty where it has none.
        row: a clip's cells.
        worksheet: the name of the table's worksheet.
        notes: rows of text above the header.
        more: further worksheets.
        others: further rows, of clips that no reader wants, made for this many clips.
        anew: images are numbered from 0 whatever the frame numbers.
        subjects, emotions: how many, where nothing certain is published.
    """

    place: Callable[[Planned], str]
    image: Callable[[Planned, int], str]
    sheet: str | None = None
    titles: tuple[str, ...] = ()
    row: Callable[[Planned], list[object]] = lambda clip: []
    worksheet: str = "Sheet1"
    notes: int = 0
    more: Mapping[str, Sequence[Sequence[object]]] = field(default_factory=dict)
    others: Callable[[int], list[list[object]]] = lambda clips: []
    anew: bool = False
    subjects: int = 0
    emotions: Mapping[str, int] = field(default_factory=dict)


_SMIC_CODES = {"negative": "ne", "positive": "po", "surprise": "sur"}
_UNITS = {"happiness": "12", "surprise": "1+2", "disgust": "4+R9", "positive": "12"}
_OWNERS_WORDS = {"happiness": "happy", "sadness": "sad"}
_VIDEOS = {"disgust1": "0101", "anger1": "0401", "happy1": "0502"}


def _units(clip: Planned) -> str:
    return _UNITS.get(clip.emotion, "4")


def _smic_name(clip: Planned) -> str:
    return f"s{clip.subject:02d}_{_SMIC_CODES[clip.emotion]}_{clip.take:02d}"


def _samm_subject(clip: Planned) -> str:
    return f"{clip.subject + 5:03d}"


def _samm_name(clip: Planned) -> str:
    return f"{_samm_subject(clip)}_{1 + clip.take % 7}_{clip.take}"


def _mmew_name(clip: Planned) -> str:
    return f"S{clip.subject:02d}-{1 + len(clip.emotion) % 7:02d}-{clip.take:03d}"


def _squared_name(clip: Planned) -> str:
    return f"{list(_VIDEOS)[clip.take % 3]}_{clip.take}"


def _squared_macros(clips: int) -> list[list[object]]:
    rows: list[list[object]] = []
    for number in range(min(300, clips)):
        name, first = f"happy1_{50 + number}", 40 + number
        rows.append([1 + number % 22, name, first, first + 20, first + 45, "12", "positive", "macro-expression", "happiness"])
    return rows


EXAMPLES: Mapping[str, Example] = {
    "smic": Example(
        place=lambda clip: f"HS/s{clip.subject:02d}/micro/{clip.emotion}/{_smic_name(clip)}",
        image=lambda clip, number: f"image{number:06d}.bmp",
    ),
    "casme": Example(
        place=lambda clip: f"CASME_raw_selected/sub{clip.subject:02d}/EP01_{clip.take}",
        image=lambda clip, number: f"img{number}.jpg",
        sheet="casme.xlsx",
        titles=("Subject", "Filename", "", "OnsetF", "ApexF1", "ApexF2", "OffsetF", "", "AU", "Emotion"),
        row=lambda clip: [
            clip.subject, f"EP01_{clip.take}", "", clip.onset, clip.apex, "", clip.offset, "", _units(clip), clip.emotion,
        ],
    ),
    "casme2": Example(
        place=lambda clip: f"CASME2_RAW_selected/sub{clip.subject:02d}/EP02_{clip.take:02d}f",
        image=lambda clip, number: f"img{number}.jpg",
        sheet="CASME2-coding-example.xlsx",
        titles=("Subject", "Filename", "", "OnsetFrame", "ApexFrame", "OffsetFrame", "", "Action Units", "Estimated Emotion"),
        row=lambda clip: [
            clip.subject, f"EP02_{clip.take:02d}f", "", clip.onset, clip.apex, clip.offset, "", _units(clip), clip.emotion,
        ],
    ),
    "casme_sq": Example(
        place=lambda clip: f"selectedpic/s{FOLDERS[clip.subject - 1]}/{_squared_name(clip)}",
        image=lambda clip, number: f"img{number}.jpg",
        sheet="CAS(ME)^2code_final.xlsx",
        row=lambda clip: [
            clip.subject, _squared_name(clip), clip.onset, clip.apex, clip.offset, _units(clip), clip.emotion,
            "micro-expression", "",
        ],
        worksheet="CASFEcode_final",
        more={
            "naming rule1": [[code, f"s{code}", participant] for participant, code in enumerate(FOLDERS, 1)],
            "naming rule2": [[code, video] for video, code in _VIDEOS.items()],
        },
        others=_squared_macros,
        subjects=22,
    ),
    "samm": Example(
        place=lambda clip: f"SAMM/{_samm_subject(clip)}/{_samm_name(clip)}",
        image=lambda clip, number: f"{_samm_subject(clip)}_{number:05d}.jpg",
        sheet="SAMM_Micro_FACS_Codes_example.xlsx",
        titles=(
            "Subject", "Filename", "Inducement Code", "Onset Frame", "Apex Frame", "Offset Frame", "Duration", "Micro",
            "Action Units", "Estimated Emotion", "Objective Classes", "Notes",
        ),
        row=lambda clip: [
            int(_samm_subject(clip)), _samm_name(clip), 1 + clip.take % 7, clip.onset, clip.apex, clip.offset,
            clip.offset - clip.onset + 1, "Micro - 1/2", _units(clip),
            "Other" if clip.emotion == "others" else clip.emotion.capitalize(), 1, "",
        ],
        notes=13,
    ),
    "mmew": Example(
        place=lambda clip: f"Micro_Expression/{clip.emotion}/{_mmew_name(clip)}",
        image=lambda clip, number: f"{number}.jpg",
        sheet="MMEW_Micro_Exp.xlsx",
        titles=("Subject", "Filename", "OnsetFrame", "ApexFrame", "OffsetFrame", "Action Units", "Estimated Emotion", "remarks"),
        row=lambda clip: [
            f"S{clip.subject:02d}", _mmew_name(clip), clip.onset, clip.apex, clip.offset, _units(clip), clip.emotion, "",
        ],
        subjects=30,
    ),
    "casme3": Example(
        place=lambda clip: f"part_A/spNO.{clip.subject}/{'abc'[clip.take % 3]}/color",
        image=lambda clip, number: f"{number}.jpg",
        sheet="annotation/cas(me)3_part_A_ME_label_JpgIndex.xlsx",
        titles=("Subject", "Filename", "Onset", "Apex", "Offset", "AU", "Objective class", "emotion"),
        row=lambda clip: [
            f"spNO.{clip.subject}", "abc"[clip.take % 3], clip.onset, clip.apex, clip.offset, _units(clip), "I",
            _OWNERS_WORDS.get(clip.emotion, clip.emotion),
        ],
        worksheet="label",
    ),
    "4dme": Example(
        place=lambda clip: f"gray_micro/S{clip.subject}/S{clip.subject}_{clip.take:02d}",
        image=lambda clip, number: f"{number:04d}.jpg",
        sheet="4DME_Labelling_Micro_release.xlsx",
        titles=("sub_ID", "fold_name", "Emotion", "Onset", "Apex", "Offset", "AUs"),
        row=lambda clip: [
            f"S{clip.subject}", f"S{clip.subject}_{clip.take:02d}", clip.emotion.title(), clip.onset, clip.apex, clip.offset,
            _units(clip),
        ],
        subjects=40,
        emotions={
            "negative": 127, "positive": 34, "surprise": 30, "others": 20, "repression": 6, "positive+surprise": 20,
            "negative+surprise": 15, "negative+repression": 15,
        },
    ),
    "dfme": Example(
        place=lambda clip: f"DFME/dfme_{clip.subject:03d}_{clip.take:03d}",
        image=lambda clip, number: f"{number - clip.onset:05d}.png",
        sheet="DFME_annotation.csv",
        titles=("Subject", "Filename", "OnsetFrame", "ApexFrame", "OffsetFrame", "Emotion", "EmotionId", "Fps", "AU"),
        row=lambda clip: [
            f"{clip.subject:03d}", f"dfme_{clip.subject:03d}_{clip.take:03d}", clip.onset, clip.apex, clip.offset,
            clip.emotion.capitalize(), len(clip.emotion), (200, 300, 500)[clip.subject % 3], _units(clip),
        ],
        anew=True,
        subjects=671,
        emotions={
            "happiness": 1076, "anger": 1075, "contempt": 1075, "disgust": 1075, "fear": 1075, "sadness": 1075, "surprise": 1075,
        },
    ),
}  # fmt: skip
