"""What `mer-fast data check` prints: a table for each data set, the composite, then the faults by kind with examples."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mer_fast.data.check import CheckReport, DatasetCheck, Figure
from mer_fast.data.readers.composite import COMPOSITE, Composite
from mer_fast.data.readers.faults import FaultReport
from mer_fast.data.readers.labels import THREE


def print_check(report: CheckReport, examples: int) -> None:
    """Prints a report, with up to `examples` faults of each kind."""
    console = Console()
    for check in report.datasets:
        console.print(_dataset(check))
        sheet, root = (_below(check.folder, path) for path in (check.clips.sheet, check.clips.root))
        console.print(f"  table: {sheet}; frames: {root}\n", markup=False, highlight=False, soft_wrap=True)
    if report.composite is not None:
        console.print(_composite(report.composite))
        for line in report.composite.explanation:
            console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    _print_faults(console, report.faults, examples)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=escape(title), title_justify="left", title_style="bold", box=None, padding=(0, 3, 0, 0))
    table.add_column("", style="cyan", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    table.add_column("")
    return table


def _dataset(check: DatasetCheck) -> Table:
    table = _table(f"{check.reader.title} in {check.folder}", "found", "published")
    for figure in check.figures:
        published = "-" if figure.published is None else str(figure.published)
        table.add_row(escape(figure.name), str(figure.found), published, _verdict(figure))
    return table


def _below(folder: Path, path: Path | None) -> str:
    return "none" if path is None else str(path.relative_to(folder))


def _verdict(figure: Figure) -> str:
    if not figure.differs:
        return ""
    return "[bold]differs[/bold]" if figure.certain else "differs; the published figure may not be that of the released table"


def _composite(composite: Composite) -> Table:
    by = "the label rule" if composite.listed is None else str(composite.listed)
    table = _table(f"MEGC2019 composite by {by}", "found", "by the rule", "organisers")
    for key, part in COMPOSITE.items():
        for name in THREE:
            numbers = (composite.found[key][name], part.by_rule[name], part.listed[name])
            table.add_row(f"{key} {name}", *(str(number) for number in numbers))
    totals = (len(composite), *(sum(sum(getattr(p, of).values()) for p in COMPOSITE.values()) for of in ("by_rule", "listed")))
    table.add_row("clips", *(str(total) for total in totals))
    subjects = str(sum(part.subjects for part in COMPOSITE.values()))
    table.add_row("subjects", str(len(set(composite.subjects))), subjects, subjects)
    return table


def _print_faults(console: Console, faults: FaultReport, examples: int) -> None:
    if not len(faults):
        console.print("Nothing is wrong.")
        return
    costly = len(faults.costly)
    number = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    console.print(f"{number}, {costly} of which cost clips", style="bold", highlight=False)
    for kind, found in faults.by_kind().items():
        console.print(f"{kind.value}: {len(found)}", style="cyan", highlight=False)
        for fault in found[:examples]:
            console.print(f"  {fault}", markup=False, highlight=False, soft_wrap=True)
        if len(found) > examples:
            console.print(f"  and {len(found) - examples} more", highlight=False)
