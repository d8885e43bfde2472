"""The commands `mer-fast data ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mer_fast import console

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look after the folders of licensed data sets.")


@app.callback()
def data() -> None:
    """Look after the folders of licensed data sets."""


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="The folder of a data set, or one that holds several.")],
    dataset: Annotated[str | None, typer.Option(help="Which it is, such as casme2. [default: told by its layout]")] = None,
    frames: Annotated[str | None, typer.Option(help="Part of the name of the frames' folder, where there are several.")] = None,
    examples: Annotated[int, typer.Option(help="Faults to print of each kind.", min=1)] = 3,
) -> None:
    """Show what a data set's folder holds against what its owners publish, and what is wrong with it."""
    from mer_fast.data.check import check_folder
    from mer_fast.data.check_tables import print_check

    with console.progress() as progress:
        report = check_folder(folder, dataset, frames=frames, progress=progress)
    print_check(report, examples)
    if len(report.faults):
        raise typer.Exit(1)
