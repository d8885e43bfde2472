"""Writing files so that an interruption never leaves half of one: written beside its place, then moved into it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from mer_fast.errors import MerFastError


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary path (same folder, same ending) to write to, and moves it to `path` when the block succeeds.

    Missing parent folders are made. When the block raises, KeyboardInterrupt included, the temporary file and the folders
    made are removed and whatever stood at `path` is untouched.

    Raises:
        MerFastError: `path` is a folder, or lies below a file.
        OSError: the folder cannot be made or written to; before the block runs, so that no work is done in vain.
    """
    target = Path(path).resolve()
    if target.is_dir():
        raise MerFastError(f"{path} is a folder, not a file to write")
    with made_folders(target.parent):
        temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}{target.suffix}")
        try:
            temporary.touch()
            yield temporary
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(
    path: str | os.PathLike[str], names: Collection[str], is_ours: Callable[[Path], bool], mark: str
) -> Iterator[Path]:
    """Gives a temporary folder to fill, and moves what was put there into `path` when the block succeeds.

    Only files called one of `names` are ever replaced or removed in a folder that exists; all others stay. When the block
    or the move fails, the folder is as it was before; where the process is killed in the move, the folder is still ours, so that
    the same call can be made again.

    Args:
        path: the folder to write; made, with its parents, when missing.
        names: the names of the files that the block may write.
        is_ours: tells whether an existing folder was written by us, so that its files called one of `names` may be replaced.
        mark: the one of `names` by which `is_ours` tells.

    Raises:
        MerFastError: `path` is a file, lies below one, or holds a file called one of `names` that is not ours.
        OSError: the folder cannot be made or written to; before the block runs.
    """
    target = Path(path).resolve()
    if target.exists() and not target.is_dir():
        raise MerFastError(f"{path} is a file, not a folder to write to")
    existed = target.exists()
    if existed and not is_ours(target):
        foreign = sorted(name for name in names if (target / name).exists())
        if foreign:
            raise MerFastError(f"{path} already holds a {foreign[0]} that mer_fast did not write: choose another folder")
    with made_folders(target.parent):
        # Inside an existing folder, since that may be the root of another file system, where a move from its parent would fail.
        temporary = (target if existed else target.parent) / f".{target.name}.{secrets.token_hex(4)}"
        try:
            temporary.mkdir()
            yield temporary
            if existed:
                _exchange(temporary, target, names, mark)
            else:
                temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _exchange(source: Path, target: Path, names: Collection[str], mark: str) -> None:
    """Moves every file of `source` into `target` in place of what is called one of `names` there; all or nothing."""
    # The mark goes last and comes first: without it no other of our files may be there, even if the process is killed.
    put_aside = source / ".before"
    put_aside.mkdir()
    new = sorted((entry for entry in source.iterdir() if entry != put_aside), key=lambda entry: entry.name != mark)
    old = sorted((name for name in names if (target / name).exists()), key=lambda name: name == mark)
    moves = [(target / name, put_aside / name) for name in old]
    moves += [(entry, target / entry.name) for entry in new]
    done: list[tuple[Path, Path]] = []
    try:
        for before, after in moves:
            before.rename(after)
            done.append((before, after))
    except BaseException:
        for before, after in reversed(done):
            after.rename(before)
        raise


@contextlib.contextmanager
def made_folders(folder: Path) -> Iterator[None]:
    """Makes `folder` and its parents, and when the block ends removes those it made that are empty.

    Raises:
        MerFastError: `folder` lies below a file.
        OSError: it cannot be made.
    """
    missing = [ancestor for ancestor in (folder, *folder.parents) if not ancestor.exists()]
    standing = next(ancestor for ancestor in (folder, *folder.parents) if ancestor.exists())
    if not standing.is_dir():
        raise MerFastError(f"{standing} is a file, so no folder can be made in it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for ancestor in missing:
            with contextlib.suppress(OSError):
                ancestor.rmdir()
