"""Reading, measuring and writing side by side: threads decode ahead, one thread feeds the op, one writes what it gives.

What waits between them is bounded in bytes, so that memory depends neither on the number of clips nor on their length.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import numpy as np

from mer_fast.data import Detector, make_detector
from mer_fast.data._optional import require
from mer_fast.errors import MerFastError
from mer_fast.flows.channel import Abandoned, Channel
from mer_fast.flows.clips import Clip, Failure, reason_of
from mer_fast.flows.folder import OutputFolder, Part, Record
from mer_fast.flows.methods import DeviceFull, Flow, Frames, default_batch
from mer_fast.flows.options import FlowOptions
from mer_fast.flows.reading import FramePair, OpenClip

_AHEAD = 64 << 20  # bytes of frames, and of flow, that may wait
_AHEAD_PAIRS = 1024
_READERS = {"cpu": 2, "cuda": 8}
_PATIENCE = 0.7  # seconds for threads to end once the work is given up
_NOT_THE_CLIPS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}  # what would meet the next clip too

Meter = Callable[[Frames, Frames], Flow]


@dataclass
class Counts:
    """How far a run is.

    Attributes:
        clips: done or failed.
        done: those whose flow is written.
        pairs: of the clips that are done.
        kept: how many of `pairs` an earlier run had measured.
        measured: by this run, whatever became of them.
        failures: clips that could not be done, and those that could in part.
    """

    clips: int = 0
    done: int = 0
    pairs: int = 0
    kept: int = 0
    measured: int = 0
    failures: list[Failure] = field(default_factory=list)


@dataclass
class _Job:
    """A clip under way; `count` is known once it is read, `written` grows behind it."""

    number: int
    part: Part
    source: OpenClip
    written: int
    count: int | None = None
    failed: bool = False


class _Item(NamedTuple):
    job: _Job
    pair: FramePair


class _Measured(NamedTuple):
    """`flow[k]` is the next pair of `jobs[k]`."""

    jobs: Sequence[_Job]
    flow: Flow


class _ReadToEnd(NamedTuple):
    job: _Job
    pairs: int


class _Failed(NamedTuple):
    clip: Clip
    reason: str
    job: _Job | None


class Pipeline:
    """One run over some clips."""

    def __init__(self, clips: Sequence[Clip], folder: OutputFolder, options: FlowOptions, meter: Meter) -> None:
        self.counts = Counts()
        self._clips = enumerate(clips)
        self._folder, self._options, self._meter = folder, options, meter
        self._read: Channel[_Item] = Channel(_AHEAD)
        self._done: Channel[_Measured | _ReadToEnd | _Failed | Record] = Channel(_AHEAD)
        self._errors: list[BaseException] = []
        self._turn = threading.Lock()
        self._reading = min(_READERS[options.device], max(1, len(clips)))

    def run(self, tell: Callable[[Counts], None]) -> None:
        """Does the work in threads of its own, and calls `tell` from this one ten times a second.

        Raises:
            MerFastError, OSError: what stops the whole run, as a full disk. What stops one clip is among `counts.failures`.
        """
        writer = self._thread(self._write_all)
        threads = [*(self._thread(self._read_clips) for _ in range(self._reading)), self._thread(self._measure_all), writer]
        for thread in threads:
            thread.start()
        try:
            while writer.is_alive() and not self._errors:
                writer.join(0.1)
                tell(self.counts)
        finally:
            for channel in (self._read, self._done):
                channel.abandon()
            deadline = time.monotonic() + _PATIENCE
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))
        if self._errors:
            raise self._errors[0]

    def _thread(self, work: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                work()
            except Abandoned:
                pass
            except BaseException as error:
                self._errors.append(error)

        return threading.Thread(target=guarded, name=f"flow{work.__name__}", daemon=True)

    def _read_clips(self) -> None:
        detector = make_detector(self._options.detector) if self._options.looks_for_face else None
        while True:
            with self._turn:
                number, clip = next(self._clips, (-1, None))
                if clip is None:
                    self._reading -= 1
                    if not self._reading:
                        self._read.close()
                    return
            self._read_clip(number, clip, detector)

    def _read_clip(self, number: int, clip: Clip, detector: Detector | None) -> None:
        job = None
        try:
            fingerprint = clip.fingerprint()
            record = self._folder.find(clip, fingerprint)
            if record is not None:
                self._done.put(record)
                return
            source = OpenClip(clip, self._options, detector)
            part = self._folder.begin(clip, fingerprint, source.height, source.width)
            job = _Job(number, part, source, written=part.kept)
            count = part.kept
            for pair in source.pairs(part.kept):
                self._read.put(_Item(job, pair), max(2 * pair.second.nbytes, _AHEAD // _AHEAD_PAIRS))
                count += 1
            self._done.put(_ReadToEnd(job, count))
        except (MerFastError, OSError, ValueError, MemoryError, require("cv2").error) as error:  # a UnicodeError is a ValueError
            self._done.put(_Failed(clip, reason_of(error, clip.path), job))

    def _measure_all(self) -> None:
        groups: dict[tuple[int, ...], list[_Item]] = {}
        waiting = 0
        for item in self._read:
            shape = item.pair.second.shape
            group = groups.setdefault(shape, [])
            group.append(item)
            waiting += item.pair.second.nbytes
            if len(group) < (self._options.batch or default_batch(shape[0], shape[1], self._options.device)):
                if waiting <= _AHEAD:
                    continue
                shape = next(iter(groups))  # many sizes: what waits longest goes first
            group = groups.pop(shape)
            waiting -= sum(item.pair.second.nbytes for item in group)
            self._measure(group)
        for group in groups.values():
            self._measure(group)
        self._done.close()

    def _measure(self, items: list[_Item]) -> None:
        items.sort(key=lambda item: item.job.number)  # a clip's pairs side by side, still in their order
        jobs = [item.job for item in items]
        try:
            flow = self._meter(np.stack([item.pair.first for item in items]), np.stack([item.pair.second for item in items]))
        except DeviceFull:
            raise
        except MerFastError as error:
            for job in {id(job): job for job in jobs}.values():
                self._done.put(_Failed(job.part.clip, reason_of(error, job.part.clip.path), job))
        else:
            self._done.put(_Measured(jobs, flow), flow.nbytes)

    def _write_all(self) -> None:
        for told in self._done:
            if isinstance(told, _Measured):
                self.counts.measured += len(told.flow)
                for job, flow in _by_job(told):
                    self._write(job, flow)
            elif isinstance(told, _ReadToEnd):
                told.job.count = told.pairs
                self._write(told.job, None)
            elif isinstance(told, _Failed):
                self._fail(told)
            else:
                self._count(len(told.pairs), len(told.pairs), told.clip, told.problem)

    def _write(self, job: _Job, flow: Flow | None) -> None:
        if job.failed:
            return
        try:
            if flow is not None:
                job.part.flow.append(flow)
                job.written += len(flow)
            if job.written == job.count:
                problem = job.source.problem()
                self._folder.finish(job.part, job.source.span.pairs(job.count), problem)
                self._count(job.count, job.part.kept, job.part.clip.name, problem)
        except (MerFastError, OSError) as error:
            if isinstance(error, OSError) and error.errno in _NOT_THE_CLIPS:
                error.filename = error.filename or str(job.part.flow.path)
                raise
            self._fail(_Failed(job.part.clip, reason_of(error, job.part.clip.path), job))

    def _count(self, pairs: int, kept: int, clip: str, problem: str | None) -> None:
        self.counts.clips += 1
        self.counts.done += 1
        self.counts.pairs += pairs
        self.counts.kept += kept
        if problem is not None:
            self.counts.failures.append(Failure(clip, problem))

    def _fail(self, failed: _Failed) -> None:
        if failed.job is not None:
            if failed.job.failed:
                return
            failed.job.failed = True
            self._folder.discard(failed.job.part)
        self.counts.clips += 1
        self.counts.failures.append(Failure(failed.clip.name, failed.reason))


def _by_job(measured: _Measured) -> Iterator[tuple[_Job, Flow]]:
    """The flow of one clip after the other."""
    end = 0
    for _, same in groupby(measured.jobs, key=id):
        jobs = list(same)
        begin, end = end, end + len(jobs)
        yield jobs[0], measured.flow[begin:end]
