"""Measures every op against its rivals, candidates in turn, and writes `results/cpu.json` and the README's table.

A part of the run (`--only`, `--quick`) prints its table and writes nothing: a file holds figures of one whole run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # last: an installed mer_fast goes before a checkout that is not built

from benchmarks import environment, table  # noqa: E402
from benchmarks.cases import CASES, OURS, Case  # noqa: E402
from benchmarks.measure import compare, cpu_ceilings, figures, interleaved  # noqa: E402
from benchmarks.rivals import MissingRival  # noqa: E402
from mer_fast import MerFastError  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"


def measure_case(case: Case, rounds: int) -> dict[str, Any]:
    """All candidates of a case, in turn."""
    found, _ = compare(case, lambda ready: interleaved(ready, rounds))
    if case.agreement is not None:
        with contextlib.suppress(MissingRival):  # told above, under its name
            found["agreement"] = case.agreement()
    return found


def measure(cases: Iterable[Case], rounds: int) -> dict[str, Any]:
    """The whole result, as `results/cpu.json` has it."""
    cases = list(cases)
    stamp = environment.stamp()  # before anything is written
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    ceilings, measured = cpu_ceilings(), []
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=len(cases))
        for case in cases:
            bar.update(task, description=case.name)
            measured.append(measure_case(case, rounds))
            ceilings = ceilings.or_better(cpu_ceilings())  # another program may have slowed the one before
            bar.advance(task)
    return stamp | {
        "ceilings": {"copy_gb_per_s": ceilings.copy / 1e9, "product_gflop_per_s": ceilings.product / 1e9},
        "cases": [found | figures(case, found["seconds"][OURS], ceilings) for case, found in zip(cases, measured, strict=True)],
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=CASES, metavar="OP", help=f"one op: {', '.join(CASES)}")
    parser.add_argument("--quick", action="store_true", help="two rounds")
    parser.add_argument("--table", action="store_true", help="only rewrite the README's table from the committed results")
    options = parser.parse_args(arguments)
    try:
        run(options)
    except MerFastError as error:
        sys.exit(f"bench: {error}")


def run(options: argparse.Namespace) -> None:
    if options.table:
        return table.update(ROOT / "README.md", RESULTS)
    chosen = [case for op, cases in CASES.items() if options.only in (None, op) for case in cases]
    result = measure(chosen, rounds=2 if options.quick else 7)
    if options.only or options.quick:
        return print(table.render([result]))
    (RESULTS / "cpu.json").write_text(json.dumps(result, indent=1) + "\n")
    table.update(ROOT / "README.md", RESULTS)


if __name__ == "__main__":
    main()
