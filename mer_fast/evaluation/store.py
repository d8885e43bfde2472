"""The folder that `resume` names: every finished fold, so that an evaluation that was stopped goes on where it was."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from ..errors import MerFastError
from ..files import atomic_path
from ..training.parallel import Ranks
from .folds import FoldResult, file_stem
from .protocols import Fold

_HEAD = "evaluation.json"


class Store:
    """Finished folds of one evaluation, each a small JSON file that is written whole or not at all.

    `evaluation.json` tells what the evaluation is of; `folds/` has the results, `checkpoints/` the states of unfinished folds.
    In a process group the first process makes the folder, and the others then find it.

    Args:
        folder: made where it is missing.
        settings: what the results depend on.

    Raises:
        MerFastError: the folder belongs to an evaluation with other settings, or holds other things.
    """

    def __init__(self, folder: str | os.PathLike[str], settings: dict[str, str]) -> None:
        self.folder = Path(folder)
        ranks = Ranks.now()
        if not ranks.writes:
            ranks.wait()
        try:
            self._open(settings, ranks.writes)
        finally:  # the others wait, also where this one cannot go on
            if ranks.writes:
                ranks.wait()
        self.key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
        self.checkpoints = self.folder.absolute() / "checkpoints"  # a worker may run in another folder

    def _open(self, settings: dict[str, str], writes: bool) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise MerFastError(f"resume: {self.folder} is a file, not a folder")
        head = self.folder / _HEAD
        if head.exists():
            self._compare(head, settings)
        elif self.folder.exists() and any(not entry.name.startswith(".") for entry in self.folder.iterdir()):
            raise MerFastError(f"resume: {self.folder} holds other things than an evaluation: give a new folder")
        elif not writes:
            raise MerFastError(f"resume: {self.folder} has nothing of the first process: give a folder that all processes share")
        else:
            with atomic_path(head) as temporary:
                temporary.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")

    def _compare(self, head: Path, settings: dict[str, str]) -> None:
        try:
            stored = dict(json.loads(head.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise MerFastError(f"resume: {head} cannot be read ({error}): give a new folder") from error
        other = [name for name in {**settings, **stored} if stored.get(name) != settings.get(name)]
        if other:
            raise MerFastError(f"resume: {self.folder} holds an evaluation with another {', '.join(other)}: give a new folder")

    def load(self, fold: Fold) -> FoldResult | None:
        """The result of a fold, or None where it is not finished. A damaged file counts as none."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            stored = json.loads(self._path(fold).read_text(encoding="utf-8"))
            result = FoldResult(stored["fold"], tuple(stored["predictions"]), stored["num_classes"])
            if stored["checksum"] == self._checksum(result) and len(result.predictions) == len(fold.test):
                return result
        return None

    def save(self, fold: Fold, result: FoldResult) -> None:
        """Keeps a result, and drops the fold's checkpoint."""
        content: dict[str, Any] = {
            "fold": result.name, "num_classes": result.num_classes, "predictions": result.predictions,
            "checksum": self._checksum(result),
        }  # fmt: skip
        with atomic_path(self._path(fold)) as temporary:
            temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")
        for left in self.checkpoints.glob(f"{file_stem(fold.name)}.*"):
            left.unlink(missing_ok=True)

    def _path(self, fold: Fold) -> Path:
        return self.folder / "folds" / f"{file_stem(fold.name)}.json"

    def _checksum(self, result: FoldResult) -> str:
        return hashlib.sha256(json.dumps([self.key, result.name, result.num_classes, result.predictions]).encode()).hexdigest()
