"""The commands `mer-fast train` and `mer-fast evaluate`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from mer_fast import console

Changes = Annotated[
    list[str] | None, typer.Option("--set", help="A setting that is not as in the file: recipe.lr=0.01; again for more.")
]
Resume = Annotated[bool, typer.Option("--resume/--no-resume", help="Go on with what the output folder holds, or start afresh.")]
Output = Annotated[Path | None, typer.Option(help="Folder for what is found. [default: as in the file, or named after it]")]


def train(
    config: Annotated[Path, typer.Argument(help="A YAML file: data, recipe, output.")],
    output: Output = None,
    seed: Annotated[int | None, typer.Option(help="The seed.")] = None,
    changes: Changes = None,
    resume: Resume = True,
) -> None:
    """Train a network on all clips, or on those of a split, and keep it in a file."""
    from mer_fast.plan import load_plan
    from mer_fast.runs import process_group, train_plan

    plan = load_plan(config, "network", changes=changes or (), seeds=() if seed is None else (seed,), output=output)
    with process_group(plan.experiment.device), _progress() as progress:
        trained = train_plan(plan, resume=resume, progress=progress)
        first = _is_first()
    if first:
        if trained.report is not None:
            typer.echo(f"Clips held out: {trained.report}")
        typer.echo(f"Network: {trained.file}")


def evaluate(
    configs: Annotated[list[Path], typer.Argument(help="YAML files: data, recipe, protocol, seeds, output.")],
    output: Output = None,
    seed: Annotated[list[int] | None, typer.Option(help="The seed; again for several.")] = None,
    engine: Annotated[str | None, typer.Option(help="How folds are run: sequential, processes, batched or ray.")] = None,
    changes: Changes = None,
    resume: Resume = True,
) -> None:
    """Train and test a network on every fold of a protocol, and write a report."""
    from mer_fast.errors import MerFastError
    from mer_fast.plan import load_plan
    from mer_fast.runs import evaluate_plans, process_group

    if output is not None and len(configs) > 1:
        raise MerFastError("--output: each of several files needs a folder of its own: give them in the files")
    plans = [load_plan(one, changes=changes or (), seeds=seed or (), engine=engine, output=output) for one in configs]
    with process_group(plans[0].experiment.device), _progress() as progress:
        found = evaluate_plans(plans, resume=resume, progress=progress)
        first = _is_first()
    for one in found if first else ():
        _print(one.summary, one.plan.output)


def add_to(app: typer.Typer) -> None:
    """Makes them commands of an application."""
    app.command()(train)
    app.command()(evaluate)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str, int, int | None], None]]:
    """A bar, in the first process only."""
    if not _is_first():
        yield lambda stage, done, total: None
        return
    with console.progress() as progress:
        yield progress


def _is_first() -> bool:
    from mer_fast.training.parallel import Ranks

    return Ranks.now().writes


def _print(summary: Any, folder: Path) -> None:
    """The figures of each seed, their mean, and where the report is."""
    out = Console()
    table = Table(title=summary["title"], title_justify="left", title_style="bold", box=None, padding=(0, 3, 0, 0))
    table.add_column("", style="cyan", no_wrap=True)
    for column in ("UF1", "UAR", "accuracy"):
        table.add_column(column, justify="right")
    for row in summary["seeds"]:
        table.add_row(f"seed {row['seed']}", *(f"{row[name]:.4f}" for name in ("uf1", "uar", "accuracy")))
    if len(summary["seeds"]) > 1:
        for words, key in (("mean", "mean"), ("deviation", "deviation")):
            table.add_row(words, *(f"{summary[name][key]:.4f}" for name in ("uf1", "uar", "accuracy")))
    out.print(table)
    for note in summary["notes"]:
        out.print(f"  {note}", markup=False, highlight=False, soft_wrap=True)
    out.print(f"Report: {folder / 'report.html'}", markup=False, highlight=False, soft_wrap=True)
