"""The README's table from the committed results: `results/cpu.json` (run.py) and `results/<gpu>.json` (gpu_check.py)."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from mer_fast import MerFastError
from mer_fast.ops._registry import OPS

START, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"
GPU_KERNELS = {"cuda", "triton"}

Result = dict[str, Any]


def load(folder: Path) -> list[Result]:
    """The measured results in a folder, the CPU's first; other tables there are passed over."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    results = [_from_gpu_check(r) if "gpu" in r else r for r in found if "cases" in r or "gpu" in r]
    return sorted(results, key=lambda r: r["device"]["kind"] != "cpu")


def _from_gpu_check(raw: Result) -> Result:
    """What gpu_check.py writes, in the form of run.py's results."""
    cases = []
    for op, entries in raw["ops"].items():
        for entry in entries:
            rivals = entry["rivals"]
            seconds = {name: r["seconds"] for name, r in rivals.items() if "seconds" in r}
            share = {"copy": "of_copy"}.get(entry["bound"], "of_product")
            cases.append({
                "op": op,
                "shape": f"{entry['case']}, {entry['dtype']}",
                "seconds": {"mer_fast": entry["seconds"], **seconds},
                "missing": {name: r["not_measured"] for name, r in rivals.items() if "not_measured" in r},
                "gb_per_s": entry["gb_per_s"],
                "gflop_per_s": entry["gflop_per_s"],
                "of_copy": 0.0,
                share: entry["fraction_of_ceiling"],
            })  # fmt: skip
    versions = {"driver": raw["driver"], "CUDA": raw["cuda"], "torch": raw["torch"]}
    return {
        "device": {"kind": "gpu", "name": raw["gpu"]},
        "versions": versions,
        "commit": raw["commit"],
        "date": raw["date"],
        "cases": cases,
    }


def ranked(case: Result) -> list[tuple[str, float]]:
    """The rivals and how many times as long as ours each takes, the fastest first."""
    seconds = case["seconds"]
    return sorted(((n, t / seconds["mer_fast"]) for n, t in seconds.items() if n != "mer_fast"), key=lambda pair: pair[1])


def render(results: list[Result]) -> str:
    """All that stands between the markers."""
    measured = {case["op"] for r in results if r["device"]["kind"] != "cpu" for case in r["cases"]}
    waiting = [f"`{op}`" for op, entry in OPS.items() if GPU_KERNELS & {*entry.kernels} and op not in measured]
    parts = [_device_table(result) for result in results]
    if waiting:
        parts.append(f"Not yet measured on a GPU: {', '.join(waiting)}.")
    return "\n\n".join(parts)


def update(readme: Path, folder: Path) -> None:
    """Rewrites the README's table from the results in a folder."""
    replace_between(readme, START, END, render(load(folder)))


def replace_between(page: Path, start: str, end: str, text: str) -> None:
    """Rewrites what stands between two marks. Raises MerFastError where they are missing."""
    head, first, rest = page.read_text().partition(start)
    _, second, tail = rest.partition(end)
    if not (first and second):
        raise MerFastError(f"{page.name} has no {start} ... {end}")
    page.write_text(f"{head}{start}\n{text}\n{end}{tail}")


def heading(result: Result) -> str:
    """Where and when it was measured, and with what."""
    device = result["device"]
    threads = f", {device['threads']} threads" if "threads" in device else ""
    isa = f", {device['isa']}" if "isa" in device else ""
    beside = f", beside {result['cpu']['name']}, {result['cpu']['threads']} threads" if "cpu" in result else ""
    names = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return f"{device['name']}{threads}{isa}{beside}; {result['date']}, commit {result['commit']}; {names}."


def _device_table(result: Result) -> str:
    lines = [
        heading(result),
        "",
        "| op | input | mer_fast | fastest rival | times faster | other rivals | rate |",
        "| --- | --- | ---: | --- | ---: | --- | --- |",
        *(_row(case) for case in result["cases"] if "group" not in case),
        *(_group_row(*key, [c for c in result["cases"] if (c["op"], c.get("group")) == key]) for key in _groups(result)),
    ]
    notes = [line for case in result["cases"] for line in _notes(case)]
    if result.get("sanitizer"):
        notes.append(f"- compute-sanitizer: {', '.join(f'{tool} {words}' for tool, words in result['sanitizer'].items())}.")
    return "\n".join([*lines, *(["", *notes] if notes else [])])


def _row(case: Result) -> str:
    seconds = case["seconds"]
    (best, ratio), *others = ranked(case) or [("none could run", float("nan"))]
    told = f"{best}, {duration(seconds[best])}" if best in seconds else best
    rest = "; ".join(f"{name}, {duration(seconds[name])} ({times(factor)})" for name, factor in others)
    cells = [f"`{case['op']}`", case["shape"], duration(seconds["mer_fast"]), told, f"**{times(ratio)}**", rest, _rate(case)]
    return f"| {' | '.join(cells)} |"


def _groups(result: Result) -> list[tuple[str, str]]:
    """(op, group), once each."""
    return list(dict.fromkeys((case["op"], case["group"]) for case in result["cases"] if "group" in case))


def _group_row(op: str, group: str, cases: list[Result]) -> str:
    """A table of further shapes in one line: the geometric mean of the ratios to each shape's fastest rival, and the lowest."""
    ratios = [(case["ratio"], case["shape"]) for case in cases if "ratio" in case]
    if not ratios:
        return f"| `{op}` | {group} | | none could run | | | |"
    mean, (lowest, where) = geometric_mean([ratio for ratio, _ in ratios]), min(ratios)
    return f"| `{op}` | {group} | | each one's fastest | **{times(mean)}** mean | lowest {lowest:.2f}x: {where} | |"


def _rate(case: Result) -> str:
    """Pairs a second, and of a GPU's floor; or the rate under the ceiling that is nearer."""
    if "pairs_per_s" in case:
        share = f", {case['of_floor']:.0%} of the floor" if "of_floor" in case else ""
        return f"{case['pairs_per_s']:.3g} pairs/s{share}"
    if case.get("of_product", 0) > case["of_copy"]:
        return f"{case['gflop_per_s']:.3g} GFLOP/s, {case['of_product']:.0%} of a matrix product"
    return f"{case['gb_per_s']:.3g} GB/s, {case['of_copy']:.0%} of a copy"


def _notes(case: Result) -> list[str]:
    name = f"{case['op']} {case['shape']}"
    lines = [f"- {name}: {rival} was not measured: {why}" for rival, why in case.get("missing", {}).items()]
    lines += [f"- {name}: {rival} ran on the first {pairs} pairs." for rival, pairs in case.get("timed_pairs", {}).items()]
    lines += [f"- {name}: {rival} is scaled from {timed}." for rival, timed in case.get("timed_epochs", {}).items()]
    if "agreement" in case:
        found = case["agreement"]
        errors = ", ".join(f"{flow} {error:.3f}" for flow, error in found["endpoint_error"].items())
        lines.append(
            f"- {name}, first {found['pairs']} pairs: {found['near_opencv']:.1%} of pixels within 0.1 px of OpenCV's flow "
            f"(OpenCV, optimised against not: {found['opencv_near_itself']:.1%}); mean endpoint error, px: {errors}."
        )
    return lines


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    scale, unit = next(((s, u) for s, u in ((1, "s"), (1e3, "ms")) if seconds * s >= 1), (1e6, "µs"))
    value = seconds * scale
    return f"{value:.0f} {unit}" if value >= 99.95 else f"{value:.1f} {unit}" if value >= 9.995 else f"{value:.2f} {unit}"


def times(ratio: float) -> str:
    return f"{ratio:.0f}x" if ratio >= 9.95 else f"{ratio:.1f}x" if ratio >= 0.995 else f"{ratio:.2f}x"
