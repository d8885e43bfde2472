"""What happened in each epoch, as a CSV file and for TensorBoard."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import MerFastError

COLUMNS = ("epoch", "step", "rate", "loss", "validation_loss")


class Log:
    """A folder with `log.csv`, one line an epoch, and with TensorBoard's files where that is wanted.

    Args:
        folder: made where it is missing; None for no log.
        history: epochs that are over already, when a training goes on; the file then has these and no others.
        tensorboard: whether to write for TensorBoard too.

    Raises:
        MerFastError: TensorBoard is wanted and not installed, or `folder` is a file.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, history: Sequence[Mapping[str, Any]], tensorboard: bool) -> None:
        self._file, self._board = None, None
        if folder is None:
            return
        path = Path(folder)
        if path.exists() and not path.is_dir():
            raise MerFastError(f"log: {folder} is a file, not a folder")
        path.mkdir(parents=True, exist_ok=True)
        self._file = (path / "log.csv").open("w", newline="", encoding="utf-8")
        self._rows = csv.DictWriter(self._file, COLUMNS)
        self._rows.writeheader()
        self._rows.writerows(history)
        self._file.flush()
        if tensorboard:
            self._board = _writer(path, len(history) + 1)

    def add(self, row: Mapping[str, Any]) -> None:
        """An epoch that is over."""
        if self._file is not None:
            self._rows.writerow(row)
            self._file.flush()
        if self._board is not None:
            for name in COLUMNS[2:]:
                if row[name] is not None:
                    self._board.add_scalar(name, row[name], row["epoch"])
            self._board.flush()

    def close(self) -> None:
        for open_one in (self._file, self._board):
            if open_one is not None:
                open_one.close()


def _writer(folder: Path, first: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MerFastError(f"log: TensorBoard cannot be imported ({error}): pip install tensorboard") from error
    # Epochs from `first` on that an earlier run wrote, and that are trained again, are dropped from the picture.
    return SummaryWriter(str(folder), purge_step=first)
