"""The MEGC2019 composite (CDE): SMIC-HS, CASME II and SAMM in three classes (See et al., "MEGC 2019 - the second facial
micro-expressions grand challenge", FG 2019).

Its list is built from the user's own tables by the label rule, 444 clips of 68 subjects. The organisers' list has 442: they leave
two of CASME II's disgust clips out, and no rule tells which. A clips.csv with the organisers' clips takes the rule's place.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mer_fast.data.readers import READERS, SPELLINGS, listing_of
from mer_fast.data.readers.base import Progress
from mer_fast.data.readers.clip import ClipSet
from mer_fast.data.readers.faults import Fault, FaultReport, Kind
from mer_fast.data.readers.finding import parts_below
from mer_fast.data.readers.labels import THREE
from mer_fast.data.readers.override import find_listing, squeezed_name
from mer_fast.errors import MerFastError


@dataclass(frozen=True)
class Part:
    """What one data set gives to the composite: the organisers' clips of each class, those of the label rule, and subjects."""

    listed: Mapping[str, int]
    by_rule: Mapping[str, int]
    subjects: int


def _counts(negative: int, positive: int, surprise: int) -> dict[str, int]:
    return dict(zip(THREE, (negative, positive, surprise), strict=True))


COMPOSITE: Mapping[str, Part] = {
    "casme2": Part(_counts(88, 32, 25), _counts(90, 32, 25), 24),
    "smic": Part(_counts(70, 51, 43), _counts(70, 51, 43), 16),
    "samm": Part(_counts(92, 26, 15), _counts(92, 26, 15), 28),
}
_SUBJECTS = sum(part.subjects for part in COMPOSITE.values())
_WHY = (
    "the organisers leave out two disgust clips of CASME II that the rule (disgust and repression are negative) counts, and no "
    "rule tells which: for their list give a clips.csv with the columns dataset, subject, clip, label"
)


@dataclass(frozen=True, repr=False)
class Composite(ClipSet):
    """The composite's clips, and how their number comes about.

    Attributes:
        found: the clips of each class that each data set gives.
        explanation: what was counted, against what, and by which list, a line each.
    """

    found: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    explanation: tuple[str, ...] = ()


def read_composite(
    folder: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]],
    *,
    clips_csv: str | os.PathLike[str] | bool = True,
    frames: str | None = None,
    strict: bool = True,
    verify: bool = False,
    progress: Progress = lambda stage, done, total: None,
) -> Composite:
    """Reads the MEGC2019 composite: negative, positive, surprise.

    Args:
        folder: the folder that holds those of SMIC-HS, CASME II and SAMM, or {"smic": ..., "casme2": ..., "samm": ...}.
        clips_csv: the list that takes the label rule's place; True takes the clips.csv in the folder if there is one, False none.
        frames: part of the name of the folder whose frames are read, such as "crop", where there are several versions.
        strict: raise when a fault costs clips. Numbers other than the organisers' are told, in `faults` and `explanation`, and
            never raise.
        verify: look into every image whether it is whole.
        progress: is told the stage, how much is done, and of how much.

    Raises:
        MerFastError: one of the three sets is not there, or with `strict` has faults that cost clips; an unreadable clips.csv.
    """
    folders = _folders(folder)
    top = None if isinstance(folder, Mapping) else Path(folder)
    if top is None and clips_csv is True:
        clips_csv = False
    path = find_listing(top or Path(), clips_csv)
    sets: dict[str, ClipSet] = {}
    for key in COMPOSITE:
        reader = READERS[key]
        sets[key] = reader.read(
            folders[key], "3-class", frames=frames, listing=listing_of(path, reader), strict=strict, verify=verify,
            progress=progress,
        )  # fmt: skip
    # A row of the clips.csv whose data set is unknown was found wrong by each of the three readers.
    named = {str(fault): fault for part in sets.values() for fault in part.faults}
    faults = FaultReport(list(named.values()))
    explanation = _explained(sets, path, faults)
    left_out = {f"{key}: {word}": count for key, part in sets.items() for word, count in part.left_out.items()}
    clips = tuple(clip for part in sets.values() for clip in part)
    found = {key: part.counts() for key, part in sets.items()}
    return Composite(clips, THREE, faults, left_out, None, top, path, found, explanation)


def _folders(folder: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]]) -> dict[str, Path]:
    if isinstance(folder, Mapping):
        found = [(READERS[SPELLINGS.get(squeezed_name(name), name)], Path(path)) for name, path in folder.items()]
    else:
        if not Path(folder).is_dir():
            raise MerFastError(f"{folder} is not a folder: give the one that holds SMIC-HS, CASME II and SAMM")
        found = parts_below([READERS[key] for key in COMPOSITE], Path(folder))
    folders: dict[str, Path] = {}
    for reader, path in found:
        if reader.key in folders:
            raise MerFastError(f"{path} and {folders[reader.key]} both hold {reader.title}: give the folders as {{name: folder}}")
        folders[reader.key] = path
    missing = [READERS[key].title for key in COMPOSITE if key not in folders]
    if missing:
        raise MerFastError(f"the composite needs SMIC-HS, CASME II and SAMM: {folder} has no {' and no '.join(missing)}")
    return folders


def _explained(sets: Mapping[str, ClipSet], path: Path | None, faults: FaultReport) -> tuple[str, ...]:
    """The lines of the explanation; numbers that neither the rule nor the organisers have are faults."""
    lines = []
    rule = path is None
    for key, part in COMPOSITE.items():
        counts, subjects, title = sets[key].counts(), len(set(sets[key].subjects)), READERS[key].title
        expected = part.by_rule if rule else part.listed
        lines.append(f"{title}: {_shown(counts, subjects)}; the organisers list {_shown(part.listed, part.subjects)}")
        if counts != expected or subjects != part.subjects:
            whose = "the label rule gives" if rule else "the organisers list"
            message = f"the composite has {_shown(counts, subjects)} of {title}; {whose} {_shown(expected, part.subjects)}"
            faults.add(Fault(Kind.other_figures, message, key, clip_kept=True))
    total = sum(len(part) for part in sets.values())
    subjects = len({subject for part in sets.values() for subject in part.subjects})
    listed = sum(sum(part.listed.values()) for part in COMPOSITE.values())
    by = "the label rule" if path is None else str(path)
    lines.append(f"in all {total} clips of {subjects} subjects by {by}; the organisers list {listed} of {_SUBJECTS}")
    differences = _differences(sets)
    if differences:
        lines.append(f"against the organisers' list: {', '.join(differences)}")
    if rule and sets["casme2"].counts() == COMPOSITE["casme2"].by_rule:
        lines.append(_WHY)
    return tuple(lines)


def _shown(counts: Mapping[str, int], subjects: int) -> str:
    classes = ", ".join(f"{name} {count}" for name, count in counts.items())
    return f"{sum(counts.values())} clips of {subjects} subjects ({classes})"


def _differences(sets: Mapping[str, ClipSet]) -> list[str]:
    """The classes in which a data set differs from the organisers' list, as "CASME II 2 more negative"."""
    found = []
    for key, part in COMPOSITE.items():
        for name, count in sets[key].counts().items():
            more = count - part.listed[name]
            if more:
                found.append(f"{READERS[key].title} {abs(more)} {'more' if more > 0 else 'fewer'} {name}")
    return found
