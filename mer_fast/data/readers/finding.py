"""Where things are in a data set's folder: its table, the folder of its frames, and which data set it is at all."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from mer_fast.data._capture import natural_order
from mer_fast.data.readers.faults import Fault, FaultReport, Kind
from mer_fast.data.readers.frames import has_images
from mer_fast.data.readers.sheets import SheetError, Table, renamed, table_files
from mer_fast.data.readers.tree import Tree
from mer_fast.errors import MerFastError

if TYPE_CHECKING:
    from mer_fast.data.readers.base import Reader

_TABLE_DEPTH = 2  # levels below the folder given; below that there may be millions of images
_FRAMES_DEPTH = 3
_FRAMES_BELOW = 4  # levels from the root to the images, at most: SMIC's s01/micro/negative/s01_ne_01
_MANY_PARTS = 50
_TOLD = 4  # by a table, not by names and layout alone


def find_table(reader: Reader, tree: Tree) -> Table | None:
    """The data set's table: a file of its name, else one with its columns; of several the one that fits best, of those the last.

    Raises:
        SheetError: (path, why) of a file with the data set's name that cannot be read, where no other can.
    """
    files = tables_of(reader, tree)
    named = [path for path in files if reader.sheet_name.search(path.name.casefold())]
    broken: SheetError | None = None
    best: Table | None = None
    for path in named or files:
        try:
            table = reader.read_table(path)
        except SheetError as error:
            broken = SheetError(path, str(error)) if path in named else broken
            continue
        if table is not None and (best is None or len(table.positions) >= len(best.positions)):
            best = table
    if best is None and broken is not None:
        raise broken
    return best


def tables_of(reader: Reader, tree: Tree) -> list[Path]:
    """The files in a data set's folder that may be its table, in natural order."""
    folders = tree.walk(lambda folder: reader.is_root(tree, folder), _TABLE_DEPTH)
    return sorted(table_files(list(folders)), key=lambda path: natural_order(path.name))


def name_sheet_faults(reader: Reader, table: Table, faults: FaultReport) -> bool:
    """Names the columns that are missing or renamed; False when there can be no clips without them."""
    missing = [column for column in reader.columns or () if column.key not in table.positions]
    for column in missing:
        now = renamed(column, missing, table.unknown)
        kind = Kind.missing_column if now is None else Kind.renamed_column
        what = f"there is no column {column.title}" if now is None else f"column {column.title} is called {now}"
        mend = "no clip can be read" if column.needed else "the clips are read without it"
        where = None if now is None else table.first
        faults.add(Fault(kind, f"{what}: {mend}", reader.key, None, table.path, where, column.title, not column.needed))
    return not any(column.needed for column in missing)


def find_root(reader: Reader, tree: Tree, table: Table | None, wanted: str | None, faults: FaultReport) -> Path | None:
    """The folder of the frames: `wanted` by name, else the first that is not of cropped faces.

    Raises:
        MerFastError: there are frames, but none in a folder called `wanted`.
    """
    folders = tree.walk(lambda folder: reader.is_root(tree, folder), _FRAMES_DEPTH)
    roots = [folder for folder in folders if reader.is_root(tree, folder)]
    roots = [root for root in roots if _leads_to_images(tree, root, _FRAMES_BELOW)] or roots
    shown = [str(folder.relative_to(tree.top)) for folder in roots]
    if wanted is not None and roots:
        named = [root for root, name in zip(roots, shown, strict=True) if wanted.casefold() in name.casefold()]
        if not named:
            raise MerFastError(f'frames="{wanted}": {tree.top} has frames of {reader.title} in {", ".join(shown)}')
        return named[0]
    if not roots:
        message = f"there are no folders of frames ({reader.layout}): no clip can be read"
        faults.add(Fault(Kind.missing_root, message, reader.key, None, tree.top))
        return None
    return min(zip(shown, roots, strict=True), key=lambda named: reader.preference(named[0]))[1]


def _leads_to_images(tree: Tree, folder: Path, levels: int) -> bool:
    """Whether there are images below, looked for in a few folders of each level: beside the frames owners ship videos too."""
    if has_images(folder):
        return True
    return levels > 0 and any(_leads_to_images(tree, folder / name, levels - 1) for name in tree.children(folder)[:3])


def recognise(readers: Iterable[Reader], folder: Path) -> list[tuple[int, Reader]]:
    """The data sets that a folder may be, the likeliest first, with what speaks for each.

    A table of the data set's name counts 8, its columns 4, a folder name of its own 2, its layout 1.
    """
    tree = Tree(folder)
    scores = [(_score(reader, tree), reader) for reader in readers]
    return sorted(((score, reader) for score, reader in scores if score > 0), key=lambda scored: -scored[0])


def parts_below(readers: Iterable[Reader], folder: Path) -> list[tuple[Reader, Path]]:
    """The data sets in the folders of a folder, each told by a table of its own, or by its layout where it comes without one."""
    tree = Tree(folder)
    readers = list(readers)
    found = []
    for name in tree.children(folder) if len(tree.children(folder)) <= _MANY_PARTS else ():
        scored = recognise(readers, folder / name)
        if scored and (len(scored) == 1 or scored[1][0] < scored[0][0]):
            score, reader = scored[0]
            if score >= _TOLD or reader.columns is None:
                found.append((reader, folder / name))
    return found


def _score(reader: Reader, tree: Tree) -> int:
    folders = list(tree.walk(lambda folder: reader.is_root(tree, folder), _FRAMES_DEPTH))
    layout = any(reader.is_root(tree, folder) for folder in folders)
    names = [tree.top.resolve().name, *(folder.name for folder in folders[1:])]
    hinted = any(reader.folder_hint.search(name.casefold()) for name in names)
    named = columns = False
    for path in tables_of(reader, tree) if reader.columns is not None else ():
        named |= bool(reader.sheet_name.search(path.name.casefold()))
        try:
            table = reader.read_table(path)
        except SheetError:
            continue
        columns |= table is not None and all(c.key in table.positions for c in reader.columns or () if c.needed)
    return 8 * named + 4 * columns + 2 * hinted + layout
