"""A queue between threads, bounded by the bytes that wait in it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Abandoned(Exception):
    """The work is being given up: raised in every thread that waits for a channel, so that it ends."""


class Channel(Generic[Item]):
    """First in, first out. Iterating ends when the channel is closed and empty."""

    def __init__(self, limit: int) -> None:
        """`limit` is in bytes; one item larger than that passes alone."""
        self._limit = limit
        self._held = 0
        self._items: deque[tuple[Item, int]] = deque()
        self._changed = threading.Condition()
        self._closed = self._abandoned = False

    def put(self, item: Item, size: int = 0) -> None:
        """Waits until `size` bytes fit, and adds the item.

        Raises:
            Abandoned: `abandon` was called.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._abandoned or not self._items or self._held + size <= self._limit)
            if self._abandoned:
                raise Abandoned
            self._items.append((item, size))
            self._held += size
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._abandoned or self._items or self._closed)
                if self._abandoned:
                    raise Abandoned
                if not self._items:
                    return
                item, size = self._items.popleft()
                self._held -= size
                self._changed.notify_all()
            yield item

    def close(self) -> None:
        """Nothing more will be put."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def abandon(self) -> None:
        """Wakes every thread that waits, to end."""
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()
