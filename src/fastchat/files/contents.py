"""The contents of files on the disk.

* The content of a stored file is at `<first two letters of the id>/<id>`.
* The content of an incoming file is at `incoming/<number>`: its temporary file. The process that
  writes it holds a lock on it. The lock ends with the process, however that ends. So if a lock on a
  temporary file can be acquired, no process writes the file any more.
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
#: A temporary file must not exist yet, and must not be reached through a symbolic link.
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class Contents:
    """The contents in `folder`. Each method can raise OSError, except `path_of`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._incoming = folder / _INCOMING

    def path_of(self, id: str) -> Path:
        """Return the path at which a file's content is stored."""
        return self._folder / id[:2] / id

    def unwritable(self) -> Path | None:
        """The first folder to which this user has no right to write; None if there is none."""
        for folder in (self._folder, self._incoming):
            if folder.exists() and not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                return folder
        return None

    # Incoming files

    def create(self, number: int) -> int:
        """Create and lock a temporary file, and return its descriptor.

        Raises FileExistsError if the temporary file exists.
        """
        self._incoming.mkdir(mode=0o700, exist_ok=True)
        while True:
            descriptor = os.open(self._temporary(number), _FLAGS, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if os.fstat(descriptor).st_nlink:
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            # Before it was locked, the retention of another process found it without a lock, and
            # removed it as an abandoned one.
            os.close(descriptor)

    def discard(self, number: int) -> None:
        """Remove a temporary file. Nothing happens if it does not exist."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._temporary(number))

    def place(self, number: int, id: str, *, sync: bool) -> None:
        """Move a complete temporary file to the path of its id, and replace an equal content there.

        If `sync` is true, the renaming is on the disk when the method returns.
        """
        path = self.path_of(id)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        os.rename(self._temporary(number), path)
        if sync:
            for folder in (path.parent, self._folder):
                _sync(folder)

    def missing_bytes(self, number: int, size: int) -> int:
        """Return how many bytes of an incoming file of `size` bytes have not arrived yet.

        The result is 0 if the temporary file does not exist.
        """
        try:
            return max(0, size - os.stat(self._temporary(number)).st_size)
        except FileNotFoundError:
            return 0

    def incoming_numbers(self) -> Iterator[int]:
        """Yield the numbers of all temporary files."""
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self._incoming):
                if name.isascii() and name.isdigit():
                    yield int(name)

    def remove_abandoned(self, number: int, discard: Callable[[int], None]) -> bool:
        """Remove a temporary file that no process writes any more, and call `discard` with it.

        `discard` is also called if there is no temporary file. Returns False, without a call, if a
        process still writes the file.
        """
        try:
            descriptor = os.open(self._temporary(number), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            discard(number)
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            self.discard(number)
            discard(number)
            return True
        finally:
            os.close(descriptor)

    def _temporary(self, number: int) -> Path:
        return self._incoming / str(number)

    # Stored files

    def open(self, id: str) -> int | None:
        """Open a stored content, and return its descriptor, or None if it does not exist."""
        try:
            return os.open(self.path_of(id), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None

    def remove(self, id: str) -> None:
        """Remove a stored content. Nothing happens if it does not exist."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path_of(id))

    def ids(self) -> Iterator[str]:
        """Yield the ids of all stored contents."""
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
