"""One process at a time in a folder, by a lock that ends with its process, however that ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from mer_fast.errors import MerFastError


@contextlib.contextmanager
def locked(path: Path, folder: Path) -> Iterator[None]:
    """Holds the lock file `path`, with this process's number in it, and removes it at the end.

    Raises:
        MerFastError: another process holds it; the message calls what it guards `folder`.
    """
    descriptor = _lock(path, folder)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is still held: whoever waits for it finds that it is another file by then
        os.close(descriptor)


def _lock(path: Path, folder: Path) -> int:
    while True:
        path.parent.mkdir(exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
            os.close(descriptor)
            if not isinstance(error, BlockingIOError):
                raise
            process = f" (process {holder})" if holder else ""
            raise MerFastError(
                f"{folder} is being written by another mer-fast{process}: wait for it, or give another --output"
            ) from error
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)  # removed between opening and locking
