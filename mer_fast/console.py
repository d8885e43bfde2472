"""What the command prints: results on stdout, progress and complaints on stderr, and how it stops."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from mer_fast.analysis import Analysis
    from mer_fast.analysis import Progress as Report
    from mer_fast.flows import Summary

_stderr = Console(stderr=True)
_PATIENCE = 2.0  # seconds without a word; quick work shows no bar


class Stopped(BaseException):
    """The user or the system asked the command to stop. Not an Exception, so that only cleaning up stands in its way."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.exit_code = 128 + signal_number
        self.word = "interrupted" if signal_number == signal.SIGINT else "terminated"


def obey_signals() -> None:
    """Makes Ctrl-C and SIGTERM raise `Stopped`, once: a second one must not break the cleaning up after the first."""

    def stop(number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def leave(exit_code: int) -> NoReturn:
    """Ends the process, also where a thread is still in a kernel, which nothing can stop and the interpreter must not outlive."""
    if any(thread is not threading.current_thread() for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(exit_code)
    sys.exit(exit_code)


def complain(message: str) -> None:
    """Prints one line on stderr, above a progress bar if there is one."""
    line = " ".join(str(message).split())
    _stderr.print(f"mer-fast: {line}", markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def progress() -> Iterator[Report]:
    """Gives a function to be told of progress; a bar appears on a terminal's stderr once the work has taken two seconds."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=_stderr, transient=True)
    task = bar.add_task("", total=None)
    started = time.monotonic()

    def tell(stage: str, done: int, total: int | None) -> None:
        if _stderr.is_terminal and not bar.live.is_started and time.monotonic() - started > _PATIENCE:
            bar.start()
        bar.update(task, description=stage, completed=done, total=total)

    try:
        yield tell
    finally:
        if bar.live.is_started:  # a bar that never showed would still end its line
            bar.stop()


def print_facts(facts: dict[str, Any]) -> None:
    """The dictionary of `mer_fast.info()` as tables: plain facts first, then one table for each group."""
    console = Console()
    plain = _table("mer_fast")
    for name, value in facts.items():
        if not isinstance(value, dict):
            plain.add_row(name, escape(_words(value)))
    console.print(plain)
    for name, value in facts.items():
        if isinstance(value, dict):
            console.print(_group(name, value))


def _group(title: str, values: dict[str, Any]) -> Table:
    table = _table(title)
    for name, value in values.items():
        if isinstance(value, dict):
            for inner, words in value.items():
                table.add_row(f"{name}, {inner}", escape(_words(words)))
        else:
            table.add_row(str(name), escape(_words(value)))
    return table


def _words(value: Any) -> str:
    if value is None:
        return "-"
    return ", ".join(str(entry) for entry in value) if isinstance(value, (list, tuple)) else str(value)


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()
    return table


def print_analysis(analysis: Analysis, folder: Path) -> None:
    """What was found, how good it is where that is known, the time of each stage, and where the report is."""
    from mer_fast.report_page import format_seconds

    console = Console()
    span = analysis.apex - analysis.onset
    later = f", {span / analysis.video.fps:.2f} s later" if analysis.video.fps else ""
    found = _table("Found")
    found.add_row("face box", f"x {analysis.box.x}, y {analysis.box.y}, {analysis.box.width} x {analysis.box.height} pixels")
    found.add_row("onset, apex", f"frame {analysis.onset}, frame {analysis.apex}{later}")
    if analysis.planted is not None:
        found.add_row("planted apex", f"frame {analysis.planted.apex}")
    said = analysis.classification
    if said is not None:
        pairs = zip(said.classes, said.probabilities, strict=True)
        found.add_row(said.network, escape(", ".join(f"{name} {100 * share:.1f}%" for name, share in pairs)))
    console.print(found)
    if analysis.error is not None or analysis.opencv is not None:
        console.print(_quality(analysis))
    times = _table("Time")
    for stage, seconds in analysis.seconds.items():
        times.add_row(stage, format_seconds(seconds))
    console.print(times)
    console.print(f"Report: {folder / 'report.html'}", markup=False, highlight=False, soft_wrap=True)


def print_flows(summary: Summary, folder: Path) -> None:
    """What failed, a line each on stderr; how much is done, if anything, and where it is."""
    for failure in summary.failures:
        complain(failure.reason)
    if not summary.clips:
        return
    measured = summary.pairs - summary.kept
    words = [f"{_counted(summary.pairs, 'pair')} of {_counted(summary.clips, 'clip')}"]
    words += [f"kept {summary.kept} of {summary.pairs}"] if summary.kept else []
    words += [f"{measured / summary.seconds:.0f} pairs/s"] if measured else []
    words += [f"{_counted(len(summary.failures), 'failure')}, told above"] if summary.failures else []
    Console().print(f"{'; '.join(words)}: {folder}", markup=False, highlight=False, soft_wrap=True)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _quality(analysis: Analysis) -> Table:
    from mer_fast.report_page import format_seconds

    rival = analysis.opencv
    title = "TV-L1 flow, mean endpoint error" if analysis.error else "TV-L1 flow"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 3, 0, 0))
    table.add_column("", style="cyan")
    if analysis.error is not None:
        table.add_column("error where it moves", justify="right")
        table.add_column("whole crop", justify="right")
    if rival is not None:
        table.add_column("time", justify="right")
    for name, error, seconds in (
        ("mer_fast", analysis.error, rival.our_seconds if rival else None),
        ("OpenCV DualTVL1", rival.error if rival else None, rival.seconds if rival else None),
    ):
        cells = [f"{error.moving:.3f} px", f"{error.whole:.3f} px"] if error is not None else []
        cells += [format_seconds(seconds)] if seconds is not None else []
        if cells:
            table.add_row(name, *cells)
    return table
