"""Folders found as people name them: case and leading zeros do not matter, so that "s1", "s01" and "S01" are one."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

_MANY = 300  # a folder with more children holds clips, not further parts of a data set


def loosely(name: str) -> str:
    """A name without case and leading zeros of its numbers."""
    return re.sub(r"[0-9]+", lambda digits: str(int(digits[0])), name.strip().casefold())


class Tree:
    """The folders below one, each listed once."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self._listed: dict[Path, list[str]] = {}
        self._loose: dict[Path, dict[str, str]] = {}

    def children(self, folder: Path) -> list[str]:
        """The names of the folders in a folder, sorted; hidden ones are none of them."""
        if folder not in self._listed:
            with os.scandir(folder) as entries:
                names = [entry.name for entry in entries if not entry.name.startswith((".", "__MACOSX")) and entry.is_dir()]
            self._listed[folder] = sorted(names)
        return self._listed[folder]

    def find(self, folder: Path, parts: Sequence[str]) -> Path | None:
        """The folder at `parts` below `folder`; a part that ends with "*" matches every name that begins so."""
        for part in parts:
            name = self._child(folder, part)
            if name is None:
                return None
            folder = folder / name
        return folder

    def _child(self, folder: Path, part: str) -> str | None:
        if folder not in self._loose:
            self._loose[folder] = {loosely(name): name for name in reversed(self.children(folder))}
        names = self._loose[folder]
        if part.endswith("*"):
            start = loosely(part[:-1])
            return next((name for loose, name in sorted(names.items()) if loose.startswith(start)), None)
        return part if part in self.children(folder) else names.get(loosely(part))

    def walk(self, stop: Callable[[Path], bool], levels: int) -> Iterator[Path]:
        """Yields the folder and those up to `levels` below it, level by level, not below one for which `stop` is true."""
        level = [self.top]
        for depth in range(levels + 1):
            following: list[Path] = []
            for folder in level:
                yield folder
                children = self.children(folder)
                if depth < levels and len(children) <= _MANY and not stop(folder):
                    following += [folder / name for name in children]
            level = following
