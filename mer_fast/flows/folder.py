"""The output folder of a run: what is done, what is half done, and how a run goes on from there.

Until a run is complete, `.unfinished` in the folder holds its lock, a journal with a line for each clip that is done, and the
pairs of clips that are not. Its complete state is `manifest.json` alone. Neither holds a time or a place, so that the same clips
and options give the same bytes, interrupted or not.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mer_fast.data._capture import natural_order
from mer_fast.errors import MerFastError
from mer_fast.files import atomic_path, made_folders
from mer_fast.flows.clips import Clip, Failure
from mer_fast.flows.formats import FORMATS, Stack, add_strain
from mer_fast.flows.lock import locked

MANIFEST = "manifest.json"
_WORK, _JOURNAL, _LOCK = ".unfinished", "journal.jsonl", "lock"
_PROGRAM = "mer_fast flow"


@dataclass(frozen=True)
class Record:
    """A clip that is done: the frames of its pairs, and what was wrong with it all the same."""

    clip: str
    fingerprint: str
    width: int
    height: int
    pairs: list[list[int]]
    problem: str | None


@dataclass(frozen=True)
class Part:
    """A clip that is not done, with as many of its pairs as are."""

    clip: Clip
    fingerprint: str
    flow: Stack
    kept: int


class OutputFolder:
    """What `output_folder` gives; made by it alone."""

    def __init__(self, path: Path, told: dict[str, Any]) -> None:
        """`told` is what the manifest begins with: the versions, and the parameters that the flow depends on."""
        self._path, self._work = path, path / _WORK
        self._told = {"program": _PROGRAM, **told}
        self._records: dict[str, Record] = {}

    def find(self, clip: Clip, fingerprint: str) -> Record | None:
        """The record of a clip that is done, or None.

        Raises:
            MerFastError: a file of its name is another clip's.
        """
        record = self._records.get(clip.name)
        if record is None or not self._stands(record):
            return None
        if record.fingerprint != fingerprint:
            raise MerFastError(
                f"{clip.path} is not the clip whose flow is in {self._path / self._files(record)[0]}, or has changed since: "
                "remove that file, or give another --output, or --overwrite"
            )
        return record

    def begin(self, clip: Clip, fingerprint: str, height: int, width: int) -> Part:
        """What an earlier run has left of a clip that is not done: its first pairs, or none. No two threads take one clip.

        Raises:
            MerFastError: a file of its name is not of our making.
        """
        self._refuse_foreign(clip, [])
        told = hashlib.blake2b(repr((clip.name, fingerprint, height, width)).encode(errors="surrogateescape"), digest_size=16)
        flow = Stack(self._work / told.hexdigest(), 2, height, width)
        return Part(clip, fingerprint, flow, flow.trim())

    def finish(self, part: Part, pairs: Sequence[tuple[int, int]], problem: str | None) -> None:
        """Writes the files of a clip whose pairs are all there.

        Raises:
            MerFastError: a file of that name is not of our making.
            OSError: a file cannot be written.
        """
        self._refuse_foreign(part.clip, pairs)
        _, height, width = part.flow.shape
        record = Record(part.clip.name, part.fingerprint, width, height, [list(pair) for pair in pairs], problem)
        scratch = part.flow.path
        strain = add_strain(part.flow, scratch.with_name(f"{scratch.name}.strain")) if self._strain else None
        made = FORMATS[self._format].write(scratch, part.flow, strain, pairs)
        # The record comes first: a file without one would look like somebody else's to the next run, and a record without its
        # files is only a clip to do.
        with (self._work / _JOURNAL).open("a", encoding="ascii") as journal:
            journal.write(_line(record) + "\n")
        self._records[record.clip] = record
        for path, name in zip(made, self._files(record), strict=True):
            target = self._path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
        self.discard(part)

    def discard(self, part: Part) -> None:
        """Removes what there is of a clip that is not done."""
        part.flow.path.unlink(missing_ok=True)

    def complete(self, failures: Sequence[Failure]) -> None:
        """Writes the manifest, unless no clip is done, and removes everything else that is no result."""
        done = sorted((record for record in self._records.values() if self._stands(record)), key=_place)
        if done:
            ready = self._work / MANIFEST  # not beside its place, where a kill would leave it
            ready.write_text(_manifest(self._told, done, failures), encoding="ascii")
            ready.replace(self._path / MANIFEST)
        for leftover in self._work.iterdir():
            if leftover.name != _LOCK:
                leftover.unlink()

    @property
    def _format(self) -> str:
        return str(self._told["parameters"]["format"])

    @property
    def _strain(self) -> bool:
        return bool(self._told["parameters"]["strain"])

    def _files(self, record: Record) -> list[str]:
        pairs = [(first, second) for first, second in record.pairs]
        return FORMATS[self._format].files(record.clip, pairs, self._strain)

    def _stands(self, record: Record) -> bool:
        return all((self._path / name).is_file() for name in self._files(record))

    def _refuse_foreign(self, clip: Clip, pairs: Sequence[tuple[int, int]]) -> None:
        if clip.name not in self._records:
            for name in FORMATS[self._format].files(clip.name, pairs, self._strain):
                if os.path.lexists(self._path / name):
                    raise MerFastError(
                        f"{clip.path}: {self._path / name} stands there already, and is not of this run: "
                        "remove it, or give another --output"
                    )

    def load(self, overwrite: bool) -> None:
        """Reads what earlier runs have left, or with `overwrite` removes it.

        Raises:
            MerFastError: it was measured with other parameters, or is not ours.
        """
        for path in (self._path / MANIFEST, self._work / _JOURNAL):
            told, records = _read(path)
            if told is None:
                continue
            if overwrite:
                OutputFolder(self._path, told)._remove(records)
            else:
                _check_same(told, self._told, self._path)
                self._records.update((record.clip, record) for record in records)
        journal = self._work / _JOURNAL
        if overwrite:
            for path in (*(entry for entry in self._work.iterdir() if entry.name != _LOCK), self._path / MANIFEST):
                path.unlink(missing_ok=True)
        # Written anew, since its last line may be half of one.
        with atomic_path(journal) as temporary:
            lines = [json.dumps(self._told), *(_line(record) for record in self._records.values())]
            temporary.write_text("\n".join(lines) + "\n", encoding="ascii")

    def _remove(self, records: Sequence[Record]) -> None:
        for record in records:
            for name in self._files(record):
                (self._path / name).unlink(missing_ok=True)
                for folder in (self._path / name).parents:
                    if folder == self._path:
                        break
                    with contextlib.suppress(OSError):  # what holds other files stays
                        folder.rmdir()


@contextlib.contextmanager
def output_folder(path: str | os.PathLike[str], told: dict[str, Any], overwrite: bool) -> Iterator[OutputFolder]:
    """Makes or opens the output folder of a run, for this process alone. What a run that ends early has done stays.

    Args:
        path: the folder.
        told: `versions` and `parameters`, as JSON keeps them, which must be those of an earlier run in it.
        overwrite: removes the files of earlier runs first.

    Raises:
        MerFastError: it is a file, another process writes to it, or it holds results of other parameters.
        OSError: it cannot be written to.
    """
    target = Path(path)
    if target.exists() and not target.is_dir():
        raise MerFastError(f"{path} is a file, not a folder to write to: give another --output")
    with made_folders((target / _WORK).resolve()):
        folder = OutputFolder(target, told)
        with _emptied(target / _WORK), locked(target / _WORK / _LOCK, target):
            folder.load(overwrite)
            yield folder


@contextlib.contextmanager
def _emptied(work: Path) -> Iterator[None]:
    """Removes the working folder at the end when nothing is in it."""
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            work.rmdir()


def _read(path: Path) -> tuple[dict[str, Any] | None, list[Record]]:
    """What a manifest or journal says it was measured with, and its clips; None where there is no such file."""
    if not path.exists():
        return None, []
    try:
        text = path.read_text(encoding="ascii")
        if path.name == MANIFEST:
            told = json.loads(text)
            lines = told.pop("clips")
            told.pop("failed")
        else:
            # A line that was cut short when its writer was killed has no end.
            told, *lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        records = [Record(**line) for line in lines]
    except (ValueError, KeyError, TypeError, AttributeError):
        told = {}
    if told.get("program") != _PROGRAM:
        raise MerFastError(f"{path} is not of mer-fast flow's making: give another --output")
    return told, records


def _check_same(old: dict[str, Any], new: dict[str, Any], path: Path) -> None:
    for group in ("parameters", "versions"):
        other = [name for name in {**old[group], **new[group]} if old[group].get(name) != new[group].get(name)]
        if other:
            shown = [name for name in other if name != "arguments"] or other  # they change with the preset
            before, now = (", ".join(f"{name} {told[group].get(name)}" for name in shown) for told in (old, new))
            raise MerFastError(
                f"{path} holds flow measured with {before}, and this is {now}: go on with the same, give another --output, "
                "or --overwrite"
            )


def _line(record: Record) -> str:
    return json.dumps(asdict(record))


def _manifest(told: dict[str, Any], done: Sequence[Record], failures: Sequence[Failure]) -> str:
    """JSON with a line for each clip."""
    head = json.dumps(told, indent=1).removesuffix("\n}")
    clips = ",\n  ".join(map(_line, done))
    failed = "".join(f"\n  {json.dumps(asdict(failure))}," for failure in failures).removesuffix(",")
    return f'{head},\n "clips": [\n  {clips}\n ],\n "failed": [{failed}\n ]\n}}\n'


def _place(record: Record) -> list[Any]:
    return [natural_order(part) for part in record.clip.split("/")]
