"""SMIC-HS (Li et al., "A spontaneous micro-expression database: inducement, collection and baseline", FG 2013)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

from mer_fast.data.readers.base import Reader
from mer_fast.data.readers.casme2 import subject_number
from mer_fast.data.readers.faults import Fault, FaultReport, Kind
from mer_fast.data.readers.labels import THREE, same
from mer_fast.data.readers.override import Listing
from mer_fast.data.readers.records import Record
from mer_fast.data.readers.tree import Tree, loosely

_CODES = {"ne": "negative", "po": "positive", "sur": "surprise"}


class Smic(Reader):
    """SMIC-HS, 100 frames a second.

    Expected: `s01/micro/negative/s01_ne_01/image021122.bmp` in the folder or somewhere below it, as in `SMIC_all_raw/HS` or
    `SMIC_all_cropped/HS`. There is no table: the folders say subject and emotion, a clip goes from the first to the last image,
    and no apex is annotated (`Clip.peak_index` is the middle).
    """

    key = "smic"
    title = "SMIC-HS"
    fps = 100.0
    columns = None
    sheet_name = re.compile(r"(?!)")
    folder_hint = re.compile(r"smic")
    layout = "s01/micro/negative/s01_ne_01"
    subject_folder = re.compile(r"s[0-9]+")
    subject_example = "s01"
    emotions: ClassVar = {word: word for word in THREE}
    three_four_five: ClassVar = {"3-class": same(*THREE)}

    def subject_of(self, text: str) -> str | None:
        return subject_number(text, "s", 2)

    def is_root(self, tree: Tree, folder: Path) -> bool:
        subjects = [name for name in tree.children(folder) if self.subject_folder.fullmatch(name.casefold())]
        return any(tree.find(folder, (name, "micro")) is not None for name in subjects)

    def preference(self, root: str) -> int:
        high_speed = "hs" in [part.casefold() for part in Path(root).parts]  # beside it lie VIS and NIR, at 25 frames a second
        return super().preference(root) + 2 * (not high_speed)

    def records_without_table(self, tree: Tree, root: Path, listing: Listing | None, faults: FaultReport) -> list[Record]:
        seen: dict[tuple[str, str], Path] = {}
        records = []
        for name in tree.children(root):
            subject = self.subject_of(name)
            micro = None if subject is None else tree.find(root, (name, "micro"))
            if subject is None:
                continue
            if micro is None:
                message = f"subject {subject} has no folder micro: its clips are left out"
                self._add(faults, Kind.missing_subject, message, root / name)
                continue
            for folder in self._clips(tree, micro, faults):
                record = self._record(subject, folder, listing, seen, faults)
                records += [] if record is None else [record]
        return records

    def _add(self, faults: FaultReport, kind: Kind, message: str, file: Path, clip: str | None = None) -> None:
        faults.add(Fault(kind, message, self.key, clip, file))

    def _clips(self, tree: Tree, micro: Path, faults: FaultReport) -> list[Path]:
        """The clip folders of a subject; an emotion's folder that is none is a fault."""
        found = []
        for word in tree.children(micro):
            if word.casefold() in self.emotions:
                found += [micro / word / name for name in tree.children(micro / word)]
            elif tree.children(micro / word):
                message = f'emotion "{word}" is none of {", ".join(THREE)}: the clips in its folder are left out'
                self._add(faults, Kind.unknown_emotion, message, micro / word)
        return found

    def _record(
        self, subject: str, folder: Path, listing: Listing | None, seen: dict[tuple[str, str], Path], faults: FaultReport
    ) -> Record | None:
        emotion = folder.parent.name.casefold()
        listed = None if listing is None else listing.find(subject, folder.name)
        if listing is not None and listed is None:
            return None
        clip = f"{self.key}/{subject}/{folder.name}"
        key = (subject, loosely(folder.name))
        if key in seen:
            message = f"is there twice, first as {seen[key]}: this one is left out"
            self._add(faults, Kind.repeated_name, message, folder, clip)
            return None
        seen[key] = folder
        code = re.search(r"_([a-z]+)_?[0-9]*$", folder.name.casefold())
        if listed is None and code is not None and _CODES.get(code[1], emotion) != emotion:
            message = f"is called {_CODES[code[1]]} and lies in the folder {emotion}: left out"
            self._add(faults, Kind.unknown_emotion, message, folder, clip)
            return None
        numbers = (None, None, None) if listed is None else (listed.onset, listed.apex, listed.offset)
        label, sheet, row = (None, None, None) if listed is None else (listed.label, listed.path, listed.row)
        return Record(
            subject, folder.name, folder.name, *numbers, emotion, self.fps, label=label, sheet=sheet, row=row, folder=folder
        )
