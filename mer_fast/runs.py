"""What `mer-fast train` and `mer-fast evaluate` do with a plan. A run that was stopped goes on in its output folder."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from .errors import MerFastError
from .evaluation import FoldClips, Report, Roster, finish
from .evaluation.folds import using_threads
from .evaluation.protocols import checked_folds
from .evaluation_report import CONFUSION, MISSED, PAGE, SUMMARY, report_name, versions, write_report
from .experiment import Experiment, train_network
from .files import atomic_path
from .plan import Plan
from .plan_data import Data, Progress, read_data
from .plan_fit import check_class_weights
from .training import load_network
from .training.parallel import Ranks, predict_together

HEAD, FOLDS = "run.json", "folds"
_TRAINED = ("network.safetensors", "checkpoint.safetensors", "log.csv")


@dataclass(frozen=True)
class Evaluated:
    """An evaluation's reports by seed, and what `summary.json` holds."""

    plan: Plan
    reports: Mapping[int, Report]
    summary: Mapping[str, Any]


@dataclass(frozen=True)
class TrainedNetwork:
    """The file of a trained network, and the report on the clips held out where the protocol has one training."""

    file: Path
    report: Report | None


def evaluate_plans(plans: Sequence[Plan], *, resume: bool = True, progress: Progress) -> list[Evaluated]:
    """Evaluates every plan with each of its seeds, and writes a report folder each (`evaluation_report.write_report`).

    With the engine "ray" the folds of all plans and seeds are tasks of one pool.

    Args:
        plans: of one engine and number of workers, and of different output folders.
        resume: go on with what an output folder holds, which must be of the same settings; otherwise what an earlier run left
            there is removed first.
        progress: told ("what", how much is done, of how much).

    Raises:
        MerFastError: what reading the data and `evaluation.cross_validate` raise; an output folder of another run.
    """
    _check_together(plans)
    prepared, evaluations = [], []
    for plan in plans:
        experiment, data = _experiment(plan, progress)
        _begin(plan, "evaluate", _described(plan, experiment, data), resume)
        for seed in plan.seeds:
            own = dataclasses.replace(experiment, seed=seed)
            kept = plan.output / FOLDS / f"seed-{seed}"
            evaluations.append(own.evaluation(data.dataset, kept, plan.checkpoint_seconds))
        prepared.append((plan, experiment, data))
    first = plans[0].experiment
    reports = iter(finish(evaluations, folds=first.folds, workers=first.workers, progress=progress))
    found = [{seed: next(reports) for seed in plan.seeds} for plan in plans]
    return [_reported(*one, own, progress) for one, own in zip(prepared, found, strict=True)]


def train_plan(plan: Plan, *, resume: bool = True, progress: Progress) -> TrainedNetwork:
    """Trains one network, and writes `network.safetensors` (`training.load_network`) and `log.csv` to the plan's output folder.

    It is trained on all clips; where the protocol is one training by itself (a split, cross-database) on its training clips, and
    `report.json` tells how it does on the others. Called again when all is done, it trains nothing.

    Args:
        plan: of one seed.
        resume, progress: as of `evaluate_plans`.

    Raises:
        MerFastError: what reading the data and `training.fit` raise; an output folder of another run.
    """
    if len(plan.seeds) != 1:
        raise MerFastError(
            f"train: one network has one seed, and seeds are {', '.join(map(str, plan.seeds))}: choose with --seed"
        )
    with using_threads(plan.threads or torch.get_num_threads()):
        return _train(plan, resume, progress)


def _train(plan: Plan, resume: bool, progress: Progress) -> TrainedNetwork:
    experiment, data = _experiment(plan, progress)
    experiment = dataclasses.replace(experiment, seed=plan.seeds[0])
    settings = _described(plan, experiment, data) | {"seed": experiment.seed, "threads": torch.get_num_threads()}
    _begin(plan, "train", settings, resume)
    roster = Roster.of(data.dataset)
    train: tuple[int, ...] = tuple(range(len(data.clips)))
    test: tuple[int, ...] = ()
    if _protocol_name(experiment) in ("split", "cross-database"):
        fold = checked_folds(experiment.make_protocol(), roster)[0]
        train, test = fold.train, fold.test
    clips = FoldClips(data.dataset, roster, train, "train", experiment.seed)
    file = plan.output / "network.safetensors"
    if not file.exists():
        # The clips of all processes are read by now: none writes before all have looked for the file.
        _together()
        train_network(
            experiment, clips, plan.output, classes=data.classes, tensorboard=plan.tensorboard,
            checkpoint_seconds=plan.checkpoint_seconds, progress=progress,
        )  # fmt: skip
    _together()
    if Ranks.now().writes:
        (plan.output / "checkpoint.safetensors").unlink(missing_ok=True)  # of a run that ended just before it did that
    held = FoldClips(data.dataset, roster, test, "test", experiment.seed)
    return TrainedNetwork(file, _tested(plan, file, held) if test else None)


@contextmanager
def process_group(device: str) -> Iterator[None]:
    """The process group of `torchrun`, where that started this process; nothing otherwise."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "MASTER_ADDR" not in os.environ or dist.is_initialized():
        yield
        return
    if device.startswith("cuda"):
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def _experiment(plan: Plan, progress: Progress) -> tuple[Experiment, Data]:
    data = read_data(plan.data, plan.experiment.network_input(), plan.cache, progress)
    check_class_weights(plan.experiment.recipe.class_weights, len(data.classes))
    return dataclasses.replace(plan.experiment, num_classes=len(data.classes)), data


def _described(plan: Plan, experiment: Experiment, data: Data) -> dict[str, Any]:
    """What the results depend on, as `run.json` keeps it."""
    # The other engines agree to the last bit.
    how = "batched" if experiment.folds == "batched" else "fold by fold"
    described = {**plan.described(), "classes": list(data.classes), "engine": how, "threads": experiment.threads}
    described |= {f"version of {name}": versions()[name] for name in ("mer_fast", "torch")}
    plain: dict[str, Any] = json.loads(json.dumps({**described, "content of the clips": data.dataset.fingerprint}, default=str))
    return plain


def _begin(plan: Plan, command: str, settings: dict[str, Any], resume: bool) -> None:
    """Makes sure that the output folder is of this run; a new one is marked as such."""
    folder, head = plan.output, plan.output / HEAD
    content = {"program": "mer_fast", "command": command, **settings}
    if folder.exists() and not folder.is_dir():
        raise MerFastError(f"{folder} is a file, not a folder to write to")
    fresh = not (resume and head.exists() and _has_results(folder))
    _together()
    if not fresh:
        _compare(head, content)
    elif Ranks.now().writes:
        if head.exists():
            _clear(folder)
        elif folder.exists() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
            raise MerFastError(f"{folder} holds other things than a run of mer_fast: give another --output")
        with atomic_path(head) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    _together()


def _compare(head: Path, content: Mapping[str, Any]) -> None:
    try:
        stored = dict(json.loads(head.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise MerFastError(f"{head} cannot be read ({error}): give another --output, or --no-resume to start afresh") from error
    for name in {**content, **stored}:
        if stored.get(name) != content.get(name):
            values = f" ({stored.get(name)}, now {content.get(name)})" if name != "content of the clips" else ""
            raise MerFastError(
                f"{head.parent} holds a run with another {name}{values}: give another --output, or --no-resume to start afresh"
            )


def _has_results(folder: Path) -> bool:
    """Whether there is anything to go on with: a run that failed at its start must not stand in the way of the next."""
    return any((folder / name).exists() for name in (*_TRAINED[:2], SUMMARY)) or any(folder.glob(f"{FOLDS}/*/*/*"))


def _clear(folder: Path) -> None:
    """Removes what a run has left, and nothing else; its head stays until the next one's takes its place."""
    found = [folder / name for name in (PAGE, CONFUSION, *_TRAINED)]
    for file in [*found, *folder.glob("report*.json"), *folder.glob("events.out.tfevents.*")]:
        file.unlink(missing_ok=True)
    for name in (FOLDS, MISSED):
        shutil.rmtree(folder / name, ignore_errors=True)
    # Last, since by it a report is known as ours: a process killed above leaves a folder that can be gone on with.
    (folder / SUMMARY).unlink(missing_ok=True)


def _reported(plan: Plan, experiment: Experiment, data: Data, reports: dict[int, Report], progress: Progress) -> Evaluated:
    if not Ranks.now().writes:
        return Evaluated(plan, reports, {})
    summary = write_report(
        plan.output, reports, title=f"{experiment.network} by {_protocol_name(experiment)}", classes=data.classes,
        settings=_shown(plan, experiment), notes=data.notes, clips=data.clips,
        face=experiment.network_input().settings.face, progress=progress,
    )  # fmt: skip
    return Evaluated(plan, reports, summary)


def _shown(plan: Plan, experiment: Experiment) -> dict[str, Any]:
    """The settings for the page."""
    settings = {**plan.described(), "engine": experiment.folds, "threads": experiment.threads}
    plain: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    return plain


def _tested(plan: Plan, file: Path, held: FoldClips) -> Report:
    model = load_network(file).model.to(plan.experiment.device)
    logits = predict_together(model, held)
    report = Report.of(logits.argmax(1).tolist(), held.labels, held.subjects, logits.shape[1], held.indices)
    if Ranks.now().writes:
        report.save(plan.output / report_name(0, [0]))
    return report


def _protocol_name(experiment: Experiment) -> str:
    protocol = experiment.protocol
    return protocol if isinstance(protocol, str) else str(protocol["name"])


def _check_together(plans: Sequence[Plan]) -> None:
    engines = sorted({plan.experiment.folds for plan in plans})
    if len(engines) > 1 or len({plan.experiment.workers for plan in plans}) > 1:
        raise MerFastError(f"files that are evaluated together must have one engine and one workers, got {', '.join(engines)}")
    if len({plan.output.resolve() for plan in plans}) < len(plans):
        raise MerFastError("output: files that are evaluated together need different folders")


def _together() -> None:
    """Waits until all processes are here."""
    if not Ranks.now().alone:
        dist.barrier()
