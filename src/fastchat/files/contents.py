"""The contents of files on the disk: where they are, and which of them nobody writes any more.

A content is at `<the id's first two letters>/<id>`; what is coming is at `incoming/<number>`,
locked by the process that writes it. The lock ends with that process, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from fastchat.files.links import is_id

__all__ = ["Contents"]

_INCOMING = "incoming"
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class Contents:
    """Those in `folder`. Every method may raise OSError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._incoming = folder / _INCOMING

    def path_of(self, id: str) -> Path:
        return self._folder / id[:2] / id

    # What is coming

    def create(self, number: int) -> int:
        """A new temporary file, locked; returns its descriptor. FileExistsError if there is one."""
        self._incoming.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(self._temporary(number), _FLAGS, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if os.fstat(descriptor).st_nlink:
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # somebody has taken it for one that was left behind

    def discard(self, number: int) -> None:
        """Remove a temporary file, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._temporary(number))

    def place(self, number: int, id: str, *, sync: bool) -> None:
        """Give a complete content its place, where the same may be already."""
        path = self.path_of(id)
        path.parent.mkdir(exist_ok=True)
        os.rename(self._temporary(number), path)
        if sync:
            for folder in (path.parent, self._folder):
                _sync(folder)

    def missing_bytes(self, number: int, size: int) -> int:
        """How many bytes are to come of a file of `size`; 0 if nothing comes any more."""
        try:
            return max(0, size - os.stat(self._temporary(number)).st_size)
        except FileNotFoundError:
            return 0

    def incoming_numbers(self) -> Iterator[int]:
        """The numbers of the temporary files."""
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self._incoming):
                if name.isascii() and name.isdigit():
                    yield int(name)

    def remove_abandoned(self, number: int, forget: Callable[[int], None]) -> bool:
        """`forget` one that nobody writes, and remove its temporary file if it has any.

        Says whether it was so.
        """
        try:
            descriptor = os.open(self._temporary(number), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            forget(number)
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            self.discard(number)
            forget(number)
            return True
        finally:
            os.close(descriptor)

    def _temporary(self, number: int) -> Path:
        return self._incoming / str(number)

    # What is there

    def open(self, id: str) -> int | None:
        """A descriptor of a content; None if there is none."""
        try:
            return os.open(self.path_of(id), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None

    def remove(self, id: str) -> None:
        """Remove a content, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path_of(id))

    def ids(self) -> Iterator[str]:
        """All that there are."""
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self._folder):
                if len(name) == 2:
                    yield from filter(is_id, os.listdir(self._folder / name))


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
