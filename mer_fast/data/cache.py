"""Preprocessed clips in a folder, found by what they were made of, made where they are missing, and never trusted unseen."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mer_fast import ops, tensor_file
from mer_fast.data.box import Box
from mer_fast.data.preprocessing import Clip, Prepared, Preprocessing, name_of, prepare
from mer_fast.errors import MerFastError
from mer_fast.fingerprint import describe, digest

Progress = Callable[[str, int, int | None], None]

_KIND = "preprocessed clip"
_METHOD = 1  # to be raised when the same settings come to give other values
_HELD = 64 << 20  # bytes of clips that wait to be written
_STALE = 3600.0  # seconds after which a file that was never finished is nobody's


@dataclass(frozen=True)
class Entry:
    """What was made of a clip; what `Preprocessing.keep` does not name is None.

    Attributes:
        clip: uint8 (T, H, W) gray.
        apex: uint8 (H, W).
        flow: float32 (2, H, W) from onset to apex, or (T - 1, 2, H, W) from frame to frame.
        strain: float32 (1, H, W), or (T - 1, 1, H, W).
        apex_index: of the apex in the (resampled) clip, from the onset on.
        box: what was cropped, in the pixels of the frames.
    """

    clip: torch.Tensor | None
    apex: torch.Tensor | None
    flow: torch.Tensor | None
    strain: torch.Tensor | None
    apex_index: int
    box: Box


class Cache:
    """A folder of preprocessed clips.

    An entry is a safetensors file, named after the content of the clip's frames and the settings, and written whole or not at
    all; its checksum is compared at every reading. So two processes may fill one folder at the same time, one that is killed
    leaves nothing that misleads, and what is damaged or was made otherwise is made again.

    Args:
        folder: made where it is missing. Entries of other settings and clips may lie there too.
        settings: what is made of each clip.
        workers: threads that read clips; as many as torch has threads unless given.
        pairs: of frames whose flow is found at once. Memory grows with it, and not with the number of clips.
    """

    def __init__(
        self, folder: str | os.PathLike[str], settings: Preprocessing, *, workers: int | None = None, pairs: int = 32
    ) -> None:
        self.folder, self.settings = Path(folder), settings
        if self.folder.exists() and not self.folder.is_dir():
            raise MerFastError(f"{folder} is a file, not a folder for the cache")
        self._workers = torch.get_num_threads() if workers is None else workers
        self._pairs = pairs
        self._settings = f"{_METHOD} {describe(settings)}"
        self._known = dict(_known_lines(self.folder / "known.txt"))

    def build(self, clips: Sequence[Clip], progress: Progress | None = None) -> int:
        """Makes what is missing or damaged, and tells how many that were.

        Processes that build at once share the work: each goes through the clips in an order of its own, and leaves out what
        the other has made meanwhile.

        Args:
            clips: of any length.
            progress: told ("preprocessing", clips done, of how many); unless given, a bar on a terminal.

        Raises:
            MerFastError: a clip that cannot be preprocessed, which names it; what was made before stays.
        """
        with contextlib.ExitStack() as stack:
            if progress is None:
                from mer_fast.console import progress as progress_bar

                progress = stack.enter_context(progress_bar())
            self._sweep()
            keys = stack.enter_context(_pool(self._workers)).map(self.key, clips)
            missing = []
            for done, (key, clip) in enumerate(zip(keys, clips, strict=True), 1):
                if self._load(key) is None:
                    missing.append((key, clip))
                progress("looking for preprocessed clips", done, len(clips))
            random.SystemRandom().shuffle(missing)
            made = 0
            for done, was_made in enumerate(self._made(missing), 1):
                made += was_made
                progress("preprocessing", done, len(missing))
        return made

    def read(self, clip: Clip) -> Entry:
        """What was made of a clip; made now where it is missing or damaged.

        Raises:
            MerFastError: it cannot be preprocessed.
        """
        key = self.key(clip)
        entry = self._load(key)
        if entry is None:
            for _ in self._made([(key, clip)]):
                pass
            entry = self._load(key)
        if entry is None:
            raise MerFastError(
                f"{name_of(clip)}: its entry {self._path(key)} was written, and reads otherwise: is the disk full?"
            )
        return entry

    def key(self, clip: Clip) -> str:
        """The name of a clip's entry: a digest of its frames' content, its indices and the settings."""
        wanted, looked_at = self.settings.needed(clip), self.settings.looked_at(clip)
        files = [Path(clip.frames[i]) for i in looked_at if isinstance(clip.frames[i], (str, os.PathLike))]
        content = self._content_of_files(files) if len(files) == len(looked_at) else _content(clip, looked_at)
        places = [[index - clip.onset_index for index in some] for some in (wanted, looked_at, [clip.peak_index])]
        return digest([content, places, self._settings])

    def _content_of_files(self, files: list[Path]) -> str:
        """Of the bytes of files; read once, and then known by their sizes and times."""
        states = [(str(file.absolute()), *_state(file)) for file in files]
        signature = digest(states)
        if signature not in self._known:
            total = hashlib.sha256()
            for file in files:
                total.update(hashlib.sha256(file.read_bytes()).digest())
            self._known[signature] = total.hexdigest()
            self.folder.mkdir(parents=True, exist_ok=True)
            line = f"{signature} {total.hexdigest()}"
            with (self.folder / "known.txt").open("a", encoding="ascii") as out:
                out.write(f"{line} {zlib.crc32(line.encode()):08x}\n")
        return self._known[signature]

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def _load(self, key: str) -> Entry | None:
        """An entry; None where it is missing, damaged or another's."""
        try:
            tensors, header = tensor_file.load(self._path(key), _KIND)
        except (FileNotFoundError, tensor_file.DamagedFileError):
            return None
        if header["key"] != key:
            return None
        parts = {name: tensors.get(name) for name in ("clip", "apex", "flow", "strain")}
        return Entry(**parts, apex_index=header["apex_index"], box=Box(*header["box"]))

    def _made(self, missing: list[tuple[str, Clip]]) -> Iterator[bool]:
        """Makes entries, flow for several clips at once; says of each, in order, whether it was made here."""
        waiting: list[tuple[str, Clip, Prepared]] = []
        pairs = size = 0
        for key, clip, prepared in self._prepared(missing):
            if prepared is None:
                yield False
                continue
            waiting.append((key, clip, prepared))
            pairs, size = pairs + len(prepared.first), size + prepared.clip.numel()
            if pairs >= self._pairs or size >= _HELD:
                yield from self._written(waiting)
                waiting, pairs, size = [], 0, 0
        if waiting:
            yield from self._written(waiting)

    def _prepared(self, missing: list[tuple[str, Clip]]) -> Iterator[tuple[str, Clip, Prepared | None]]:
        """Clips read by threads, a few ahead."""

        def work(key: str, clip: Clip) -> Prepared | None:
            # Another process may have made it since it was found missing. One that is damaged stands there too.
            there = self._path(key).exists() and self._load(key) is not None
            return None if there else prepare(clip, self.settings)

        with _pool(self._workers) as pool:
            ahead: deque[tuple[str, Clip, Future[Prepared | None]]] = deque()
            for key, clip in missing:
                ahead.append((key, clip, pool.submit(work, key, clip)))
                if len(ahead) > self._workers:
                    first_key, first, found = ahead.popleft()
                    yield first_key, first, found.result()
            for last_key, last, found in ahead:
                yield last_key, last, found.result()

    def _written(self, waiting: list[tuple[str, Clip, Prepared]]) -> Iterator[bool]:
        settings = self.settings
        entries = make_entries([(clip, one) for _, clip, one in waiting], settings, self._pairs)
        for (key, clip, _), entry in zip(waiting, entries, strict=True):
            header = {"key": key, "clip": name_of(clip), "apex_index": entry.apex_index, "box": list(entry.box)}
            kept = {name: getattr(entry, name) for name in settings.keep}
            tensor_file.save(self._path(key), _KIND, kept, {**header, "settings": repr(settings)})
            yield True

    def _sweep(self) -> None:
        """Removes what writers that were killed left."""
        for left in self.folder.glob("??/.*.safetensors"):
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > _STALE:
                    left.unlink()


def make_entries(clips: Sequence[tuple[Clip, Prepared]], settings: Preprocessing, pairs: int = 32) -> Iterator[Entry]:
    """What is kept of prepared clips, with flow and strain found for `pairs` pairs of frames at once.

    Raises:
        MerFastError: flow that is not finite, or what the flow op raises.
    """
    prepared = [one for _, one in clips]
    found = _motion(prepared, settings, pairs) if settings.needs_flow else [None] * len(clips)
    for (clip, one), motion in zip(clips, found, strict=True):
        made = {"clip": one.clip, "apex": one.apex}
        if motion is not None:
            if not np.isfinite(motion.numpy()).all():  # quicker than torch's, whose threads wait for each other
                raise MerFastError(f"{name_of(clip)}: its flow is not finite")
            motion = motion if settings.pairs == "steps" else motion[0]
            made["flow"], made["strain"] = motion.split([2, 1], -3)
        kept = {name: made[name] if name in settings.keep else None for name in ("clip", "apex", "flow", "strain")}
        yield Entry(**kept, apex_index=one.apex_index, box=one.box)


def _motion(clips: list[Prepared], settings: Preprocessing, pairs: int) -> list[torch.Tensor]:
    """Flow and strain (P, 3, H, W) of each clip's pairs, a bounded number of pairs at a time."""
    found = []
    first, second = torch.cat([one.first for one in clips]), torch.cat([one.second for one in clips])
    for some in zip(first.split(pairs), second.split(pairs), strict=True):
        flow = settings.flow_of(*some)
        strain = ops.optical_strain(flow, derivative=settings.derivative, shear=settings.shear)
        found.append(torch.cat([flow, strain], 1))
    return list(torch.cat(found).split([len(one.first) for one in clips]))


def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, workers), "mer-fast-clips")


def _content(clip: Clip, wanted: Sequence[int]) -> str:
    """Of frames that are no files, one at a time."""
    total = hashlib.sha256()
    for index in wanted:
        frame = clip.read([index])
        total.update(f"{frame.dtype} {frame.shape}".encode())
        total.update(frame.tobytes())
    return total.hexdigest()


def _state(file: Path) -> tuple[int, int]:
    try:
        state = file.stat()
    except OSError as error:
        raise MerFastError(f"{file}: {error.strerror or error}") from error
    return state.st_size, state.st_mtime_ns


def _known_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Signatures and contents; lines that are torn or damaged are left out."""
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_text(encoding="ascii", errors="replace").splitlines():
            words = line.split(" ")
            if len(words) == 3 and words[2] == f"{zlib.crc32(f'{words[0]} {words[1]}'.encode()):08x}":
                yield words[0], words[1]
