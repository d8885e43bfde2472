"""From records to clips: their folders, their images, and onset, apex and offset among these."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mer_fast.data.readers.clip import Clip
from mer_fast.data.readers.faults import Fault, FaultReport, Kind
from mer_fast.data.readers.frames import Frames, Span, is_whole_image, list_frames, numbered_anew, ranges, span_of
from mer_fast.data.readers.records import Record, fault_of
from mer_fast.data.readers.sheets import Table
from mer_fast.data.readers.tree import Tree

if TYPE_CHECKING:
    from mer_fast.data.readers.base import Progress, Reader


class Locator:
    """Finds the frames of a data set's records below its root; what is missing goes to `faults`."""

    def __init__(
        self, reader: Reader, tree: Tree, root: Path, table: Table | None, faults: FaultReport, verify: bool, progress: Progress
    ) -> None:
        self._reader = reader
        self._tree = tree
        self._root = root
        self._table = table
        self._faults = faults
        self._verify = verify
        self._progress = progress
        self._listed: dict[Path, Frames] = {}

    def clips(self, records: list[Record]) -> list[tuple[Record, Clip]]:
        """The records whose frames are there, as clips without a label yet."""
        placed = list(self._placed(records))
        spans = [(f, r.onset, r.offset) for r, f, _ in placed if r.onset is not None and r.offset is not None]
        base = numbered_anew(spans)
        found = []
        for done, (record, frames, longer) in enumerate(placed):
            self._progress(f"{self._reader.title}: looking at the frames", done, len(placed))
            clip = self._clip(record, frames, longer, base)
            if clip is not None:
                found.append((record, clip))
        return found

    def _placed(self, records: list[Record]) -> Iterator[tuple[Record, Frames, bool]]:
        """The records whose folder holds images, with these and whether they are of a longer video."""
        reader = self._reader
        lost: Counter[str] = Counter()
        for done, record in enumerate(records):
            self._progress(f"{reader.title}: listing the frames", done, len(records))
            if reader.has_subject_folders and record.folder is None and not self._has_subject(record):
                lost[record.subject] += 1
                continue
            folder, longer = self._folder(record)
            if folder is None:
                expected = self._root.joinpath(*reader.places(record, self._table)[0][0])
                self._fault(record, Kind.missing_clip, f"has no folder {expected.relative_to(self._root)}: left out", self._root)
                continue
            if folder not in self._listed:
                self._listed[folder] = list_frames(folder)
            if self._listed[folder].files:
                yield record, self._listed[folder], longer
            else:
                self._fault(record, Kind.missing_frame, "has no image in its folder: left out", folder)
        for subject, count in lost.items():
            clips = "1 clip" if count == 1 else f"{count} clips"
            message = f"there is no folder of subject {subject}: {clips} left out"
            self._faults.add(Fault(Kind.missing_subject, message, reader.key, None, self._root / subject))

    def _has_subject(self, record: Record) -> bool:
        firsts = [parts[0] for parts, _ in self._reader.places(record, self._table)]
        return any(self._tree.find(self._root, (name,)) is not None for name in (*firsts, f"{record.subject}_*"))

    def _folder(self, record: Record) -> tuple[Path | None, bool]:
        if record.folder is not None:
            return record.folder, False
        for parts, longer in self._reader.places(record, self._table):
            folder = self._tree.find(self._root, parts)
            if folder is not None:
                return folder, longer
        return None, False

    def _clip(self, record: Record, frames: Frames, longer: bool, base: int | None) -> Clip | None:
        known = self._with_ends(record, frames, longer)
        if known is None or known.onset is None or known.offset is None:
            return None
        known = self._in_order(known, known.onset, known.offset)
        if known is None or known.onset is None or known.offset is None:
            return None
        base = base if known.folder is None else None
        span = span_of(frames, known.onset, known.offset, base)
        if not self._complete(known, frames, span, base):
            return None
        first, last = span.index[known.onset], span.index[known.offset]
        start, stop = (first, last + 1) if longer else (0, len(frames.files))
        files = frames.files[start:stop]
        if not self._readable(known, frames, files):
            return None
        apex = None if known.apex is None else span.index[known.apex] - start
        reader = self._reader
        return Clip(
            reader.key, f"{reader.key}/{known.subject}", known.name, frames.folder, files, known.onset, known.apex, known.offset,
            first - start, apex, last - start, known.emotion, "", known.fps, known.action_units,
        )  # fmt: skip

    def _with_ends(self, record: Record, frames: Frames, longer: bool) -> Record | None:
        """The record with onset and offset; where the table has none, the folder's first and last image tell them."""
        if record.onset is not None and record.offset is not None:
            return record
        if frames.numbers is None:
            self._fault(record, Kind.missing_frame, "has images without a number each in their names: left out", frames.folder)
            return None
        if record.onset is None:
            offset = frames.numbers[-1] if record.offset is None else record.offset
            return replace(record, onset=frames.numbers[0], offset=offset)
        if longer or frames.numbers[-1] < max(record.onset, record.apex or 0):
            self._fault(record, Kind.missing_offset, "has no offset: left out")
            return None
        last = frames.numbers[-1]
        self._fault(record, Kind.missing_offset, f"has no offset: kept, up to its folder's last frame {last}", kept=True)
        return replace(record, offset=last)

    def _in_order(self, record: Record, onset: int, offset: int) -> Record | None:
        """The record, without an apex that lies outside; None where the onset comes last. A clips.csv may say anything."""
        if onset > offset:
            self._fault(record, Kind.onset_after_offset, f"onset {onset} comes after offset {offset}: the clip is left out")
            return None
        if record.apex is None or onset <= record.apex <= offset:
            return record
        message = f"apex {record.apex} lies outside onset to offset, {onset}-{offset}: kept without one"
        self._fault(record, Kind.apex_outside, message, kept=True)
        return replace(record, apex=None)

    def _complete(self, record: Record, frames: Frames, span: Span, base: int | None) -> bool:
        """Names the missing frames; whether onset, apex and offset are there."""
        if not span.missing:
            return True
        ends = {"onset": record.onset, "apex": record.apex, "offset": record.offset}
        lost = [f"{name} {number}" for name, number in ends.items() if number in span.missing]
        many = "frame" if len(span.missing) == 1 else "frames"
        what = f"misses {many} {ranges(span.missing)}"
        if base is not None and record.onset is not None:
            images = ranges(tuple(number - record.onset + base for number in span.missing))
            what += f" (images {images} of those numbered anew)"
        what += f", {' and '.join(lost)} among them: left out" if lost else ": kept without"
        self._fault(record, Kind.missing_frame, what, frames.folder, kept=not lost)
        return not lost

    def _readable(self, record: Record, frames: Frames, files: tuple[str, ...]) -> bool:
        """Names the images that cannot be read; whether there is none."""
        bad = [(name, "is empty") for name in files if name in frames.empty]
        if self._verify:
            whole = (name for name in files if name not in frames.empty)
            bad += [(name, "is no whole image") for name in whole if not is_whole_image(frames.folder / name)]
        for name, why in bad:
            self._fault(record, Kind.unreadable_image, f"has an image that {why}: left out", frames.folder / name)
        return not bad

    def _fault(self, record: Record, kind: Kind, message: str, file: Path | None = None, kept: bool = False) -> None:
        self._faults.add(fault_of(self._reader, record, kind, message, file=file, kept=kept))
