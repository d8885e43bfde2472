"""What is wrong with a data set's folder: each fault named exactly, all of them collected."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from mer_fast.errors import MerFastError

_SHOWN = 3


class Kind(str, Enum):
    """The kinds of faults, in the order in which a report lists them."""

    missing_sheet = "missing sheet"
    unreadable_sheet = "unreadable sheet"
    missing_column = "missing column"
    renamed_column = "renamed column"
    missing_root = "missing frames"
    missing_subject = "missing subject folder"
    missing_clip = "missing clip folder"
    missing_frame = "missing frame"
    unreadable_image = "unreadable image"
    missing_value = "missing value"
    bad_number = "not a frame number"
    missing_apex = "missing apex"
    apex_outside = "apex outside the clip"
    missing_offset = "missing offset"
    onset_after_offset = "onset after offset"
    unknown_emotion = "unknown emotion"
    duplicate_row = "duplicate row"
    repeated_name = "repeated name"
    bad_override = "clips.csv"
    other_figures = "other figures"


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        kind: which kind of fault.
        message: what is wrong and what was done about it, without the place.
        dataset: the data set's key, such as "casme2".
        clip: "subject/name" of the clip concerned, such as "casme2/sub05/EP02_01f"; None for a fault of a whole sheet or folder.
        file: the sheet, folder or image concerned.
        row: row of the sheet as a spreadsheet counts, from 1.
        column: the column's title.
        clip_kept: the clip can be used all the same (an apex that nobody annotated); False for a fault that costs clips.
    """

    kind: Kind
    message: str
    dataset: str
    clip: str | None = None
    file: Path | None = None
    row: int | None = None
    column: str | None = None
    clip_kept: bool = False

    def __str__(self) -> str:
        place = [str(self.file)] if self.file is not None else []
        place += [f"row {self.row}"] if self.row is not None else []
        place += [f"column {self.column}"] if self.column is not None else []
        subject = f"{self.clip} " if self.clip is not None else ""
        return f"{', '.join(place)}: {subject}{self.message}" if place else f"{subject}{self.message}"


@dataclass
class FaultReport:
    """The faults of one reading, in the order found."""

    faults: list[Fault] = field(default_factory=list)

    def add(self, fault: Fault) -> None:
        self.faults.append(fault)

    def __iter__(self) -> Iterator[Fault]:
        return iter(self.faults)

    def __len__(self) -> int:
        return len(self.faults)

    @property
    def costly(self) -> list[Fault]:
        """The faults that cost clips."""
        return [fault for fault in self.faults if not fault.clip_kept]

    def by_kind(self) -> dict[Kind, list[Fault]]:
        """The faults of each kind that there is, in the order of `Kind`."""
        found = {kind: [fault for fault in self.faults if fault.kind is kind] for kind in Kind}
        return {kind: faults for kind, faults in found.items() if faults}

    def raise_if_costly(self, what: str) -> None:
        """Raises MerFastError with the first few faults that cost clips, and their number, if there are any."""
        faults = self.costly
        if not faults:
            return
        first = "; ".join(str(fault) for fault in faults[:_SHOWN])
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        number = "1 fault costs clips" if len(faults) == 1 else f"{len(faults)} faults cost clips"
        raise MerFastError(f"{what}: {number}: {first}{more}. Mend them, or read with strict=False for the clips that are good")
