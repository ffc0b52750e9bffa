"""Copies of contents on the disk of a machine, for all of its processes."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fastchat.files.contents import Contents
from fastchat.files.space import Space, reserved_for_messages, space_of

__all__ = ["CACHE_BYTES", "FOLDER", "Cache", "Copy"]

logger = logging.getLogger("fastchat.files")

#: The folder, in the data directory.
FOLDER = "file-cache"
#: The size of the cache. It holds some thousand photographs, which are what people look at.
CACHE_BYTES = 1 << 30
#: A larger part of the cache is not given to one content.
_LARGEST_PART = 4
#: A cache that is too large is brought down to this part of its size.
_KEPT = 0.9


class Copy(NamedTuple):
    """A copy that is being written: the number of its temporary file, and the descriptor."""

    number: int
    descriptor: int


class _Entry(NamedTuple):
    used_s: float
    bytes: int
    id: str


class Cache:
    """The copies in `folder`, of at most about `max_bytes` bytes. All methods can run in threads.

    `measure` returns the space on the disk. A copy is not made if it would leave less of it free
    than shared files leave for messages. Without a disk that can be written, there are no copies;
    the log says so once.
    """

    def __init__(
        self,
        folder: Path,
        max_bytes: int = CACHE_BYTES,
        measure: Callable[[Path], Space] = space_of,
    ) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._measure = measure
        self._contents = Contents(folder)
        self._is_failing = False

    def open(self, id: str, size: int) -> int | None:
        """Open the copy of a content of `size` bytes, and return its descriptor; None if there is
        none. A copy of another size is damaged, and is removed."""
        with contextlib.suppress(OSError):
            descriptor = self._contents.open(id)
            if descriptor is None:
                return None
            if os.fstat(descriptor).st_size == size:
                with contextlib.suppress(OSError):
                    os.utime(descriptor)  # the copies that were not used for longest go first
                return descriptor
            os.close(descriptor)
            self._contents.remove(id)
        return None

    def begin(self, size: int) -> Copy | None:
        """Begin a copy of a content of `size` bytes; None if it has no place here."""
        if size > self._max_bytes // _LARGEST_PART:
            return None
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            total, free = self._measure(self._folder)
            if free - size < reserved_for_messages(total):
                return None
            number = secrets.randbits(62)
            copy = Copy(number, self._contents.create(number))
        except OSError as error:
            self._note(error)
            return None
        self._is_failing = False
        return copy

    def write(self, copy: Copy, data: bytes, offset: int) -> None:
        """Write a part of a copy. Raises OSError."""
        done = 0
        while done < len(data):
            done += os.pwrite(copy.descriptor, data[done:], offset + done)

    def keep(self, copy: Copy, id: str) -> None:
        """End a copy that is complete. Raises OSError."""
        self._contents.place(copy.number, id, sync=False)

    def end(self, copy: Copy) -> None:
        """Close the descriptor of a copy, and remove its temporary file if it was not kept."""
        try:
            with contextlib.suppress(OSError):
                self._contents.discard(copy.number)
        finally:
            os.close(copy.descriptor)

    def remove(self, id: str) -> None:
        """Remove a copy. Nothing happens if there is none."""
        with contextlib.suppress(OSError):
            self._contents.remove(id)

    def ids(self) -> list[str]:
        """The ids of all copies."""
        with contextlib.suppress(OSError):
            return list(self._contents.ids())
        return []

    def shrink(self) -> None:
        """Remove what killed processes have left, and the oldest copies if there are too many."""
        try:
            for number in self._contents.incoming_numbers():
                self._contents.remove_abandoned(number, lambda _: None)
            entries = sorted(entry for id in self._contents.ids() if (entry := self._entry(id)))
            left = sum(entry.bytes for entry in entries)
            if left <= self._max_bytes:
                return
            for entry in entries:
                if left <= self._max_bytes * _KEPT:
                    break
                self._contents.remove(entry.id)
                left -= entry.bytes
        except OSError as error:
            self._note(error)

    def _entry(self, id: str) -> _Entry | None:
        with contextlib.suppress(FileNotFoundError):  # another process removes copies too
            found = self._contents.path_of(id).stat()
            return _Entry(found.st_mtime, found.st_blocks * 512, id)
        return None

    def _note(self, error: OSError) -> None:
        if not self._is_failing:
            logger.warning(
                "shared files cannot be copied to this machine's disk, so each download reads them "
                "from PostgreSQL: %s",
                error,
            )
        self._is_failing = True
