"""The report folder of an evaluation: a page for people, pictures beside it, and the numbers for programs."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import __version__, ops
from . import visualize as draw
from .data.preprocessing import Preprocessing, prepare
from .evaluation import Report
from .evaluation_page import render_page
from .files import atomic_folder

PAGE, SUMMARY, CONFUSION, MISSED = "report.html", "summary.json", "confusion.png", "missed"
FIGURES = ("uf1", "uar", "accuracy")
MOST_PICTURES = 24
_PROGRAM = "mer_fast evaluation"
_SIDE = 160  # of the crops in pictures, in pixels

Progress = Callable[[str, int, int | None], None]


def report_name(seed: int, seeds: Sequence[int]) -> str:
    """The file of one seed's `Report`: report.json where there is one seed only."""
    return "report.json" if len(seeds) == 1 else f"report-seed-{seed}.json"


def write_report(
    folder: str | os.PathLike[str],
    reports: Mapping[int, Report],
    *,
    title: str,
    classes: Sequence[str],
    settings: Mapping[str, Any],
    notes: Sequence[str] = (),
    clips: Sequence[Any] = (),
    face: Any = None,
    progress: Progress = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Writes the report of an evaluation, whole or not at all; an earlier one is replaced.

    There are `report.html`, `confusion.png`, `summary.json` (figures of every seed, mean and spread, settings, versions),
    `report.json` (`Report.save`; `report-seed-N.json` each of several seeds), and pictures of misclassified clips in `missed/`.

    Args:
        folder: made where it is missing.
        reports: of each seed, of the same clips.
        title: what was evaluated.
        classes: names.
        settings: by name, for the page.
        notes: lines about the data.
        clips: as preprocessing takes them; without, there are no pictures of clips.
        face: what the pictures show of a frame, as `Preprocessing.face`.
        progress: told ("pictures", how many are done, of how many).

    Returns:
        What `summary.json` holds.

    Raises:
        MerFastError: `folder` is a file, or holds files of these names that are not ours; a clip that cannot be read.
    """
    seeds = list(reports)
    names = [PAGE, SUMMARY, CONFUSION, MISSED, *(report_name(seed, seeds) for seed in seeds)]
    # What a report of other seeds has left behind must not stand beside this one.
    names += sorted({file.name for file in Path(folder).glob("report*.json")} - set(names)) if is_report(Path(folder)) else []
    summary = summarize(reports, title, classes, settings, notes)
    missed = _missed(reports, classes)
    with atomic_folder(folder, names, is_report, SUMMARY) as place:
        for seed, report in reports.items():
            report.save(place / report_name(seed, seeds))
        confusion = torch.stack([report.confusion for report in reports.values()]).sum(0)
        draw.save_figure(draw.confusion_figure(confusion.numpy(), classes), place / CONFUSION)
        shown = missed[:MOST_PICTURES] if len(clips) else []
        for entry in missed if len(clips) else ():
            entry["name"] = _name(clips[entry["clip"]])
        (place / MISSED).mkdir()
        for done, entry in enumerate(shown):
            progress("pictures", done, len(shown))
            entry["picture"] = f"{MISSED}/clip-{entry['clip']}.png"
            _picture(clips[entry["clip"]], face, place / entry["picture"])
        (place / SUMMARY).write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        (place / PAGE).write_text(render_page(summary, missed, shown), encoding="utf-8")
    return summary


def summarize(
    reports: Mapping[int, Report], title: str, classes: Sequence[str], settings: Mapping[str, Any], notes: Sequence[str]
) -> dict[str, Any]:
    """The figures as JSON keeps them."""
    seeds = list(reports)
    first = reports[seeds[0]]
    return {
        "program": _PROGRAM,
        "title": title,
        "classes": list(classes),
        "clips": len(first.targets),
        "subjects": len(first.per_subject),
        "seeds": [
            {"seed": seed, "report": report_name(seed, seeds), **{name: getattr(report, name) for name in FIGURES}}
            for seed, report in reports.items()
        ],
        **{name: _spread([getattr(report, name) for report in reports.values()]) for name in FIGURES},
        "per_subject": {
            name: {"clips": row.clips, "correct": [report.per_subject[name].correct for report in reports.values()]}
            for name, row in first.per_subject.items()
        },
        "per_database": {
            name: {
                "clips": row.clips,
                **{key: _spread([getattr(report.per_database[name], key) for report in reports.values()]) for key in FIGURES},
            }
            for name, row in first.per_database.items()
        },
        "confusion": [report.confusion.tolist() for report in reports.values()],
        "notes": list(notes),
        "settings": dict(settings),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of what the figures depend on."""
    return {
        "mer_fast": __version__, "torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version(),
    }  # fmt: skip


def is_report(folder: Path) -> bool:
    """Whether a folder holds a report of an evaluation: its summary says so."""
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(summary, dict) and summary.get("program") == _PROGRAM


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean, and the standard deviation of the sample where there are two or more."""
    return {"mean": statistics.fmean(values), "deviation": statistics.stdev(values) if len(values) > 1 else None}


def _missed(reports: Mapping[int, Report], classes: Sequence[str]) -> list[dict[str, Any]]:
    """The clips that were taken for another class, those of most seeds first."""
    found = []
    first = next(iter(reports.values()))
    for place, target in enumerate(first.targets.tolist()):
        guesses = Counter(int(report.predictions[place]) for report in reports.values())
        wrong = sum(count for guess, count in guesses.items() if guess != target)
        if wrong:
            found.append({
                "clip": int(first.indices[place]), "subject": first.subjects[place], "name": "", "is": classes[target],
                "taken_for": [classes[guess] for guess, _ in guesses.most_common() if guess != target],
                "wrong": wrong, "seeds": len(reports),
            })  # fmt: skip
    return sorted(found, key=lambda entry: -entry["wrong"])


def _name(clip: Any) -> str:
    return str(getattr(clip, "key", "") or getattr(clip, "name", ""))


def _picture(clip: Any, face: Any, path: Path) -> None:
    settings = Preprocessing(size=(_SIDE, _SIDE), face=face, keep=("flow",))
    ready = prepare(clip, settings)
    flow = ops.tvl1_flow(ready.first, ready.second)[0].numpy()
    draw.save_figure(draw.clip_figure(ready.first[0].numpy(), ready.second[0].numpy(), flow), path)
