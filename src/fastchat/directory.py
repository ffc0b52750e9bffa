"""The data directory: private files in it, and whether open files are still at their paths.

Theory
------
A process can go on writing to a file that was removed, or whose directory was moved, replaced or
unmounted. Every write succeeds, but after the next start the data is missing. So before the server
says that something is stored, it checks that each file that it has open is the file at its path.

A `Watch` compares the inode of the open file with the inode at the path. If a file is removed,
renamed or replaced, the modification time of its directory changes. So as long as the directory and
its time are the same as at the last comparison, one `stat` of the directory is enough. The time is
relied on only when it is older than a step of the file system's clock, because two changes within
one step have the same time.

A `Watch` does not notice that the content of a file was overwritten in place, except that it
notices an empty database.
"""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress
from pathlib import Path

__all__ = [
    "Displaced",
    "Watch",
    "create_private",
    "hold",
    "is_open_to_others",
    "make_private",
    "sqlite_files",
]

#: FAT, the file system with the coarsest clock, counts modification times in steps of 2 s.
_COARSEST_STEP_NS = 2_000_000_000
#: File systems with fractions of seconds take the time of the kernel's last tick, and a tick lasts
#: at most 10 ms (CONFIG_HZ=100).
_FINE_STEP_NS = 20_000_000
_ADVICE = "put back what was there, or restart the server"


def make_private(directory: Path) -> None:
    """Create a directory and its missing parents, all of them for this user only.

    Directories that exist stay as they are. Raises OSError.
    """
    if not directory.is_dir():
        if not directory.parent.exists():
            make_private(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)


def create_private(file: Path) -> None:
    """Create an empty file for this user only; a file that exists stays as it is.

    The files that SQLite puts beside a database get the mode of the database. Raises OSError.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with suppress(FileExistsError):
        os.close(os.open(file, flags, 0o600))


def is_open_to_others(directory: Path) -> bool:
    """Whether the mode of a directory gives any right to its group or to other users.

    It is False if the mode cannot be read.
    """
    try:
        return bool(directory.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))
    except OSError:
        return False


def hold(file: Path) -> int:
    """A descriptor of a file, which leads to it even if its directory is moved.

    As long as it is open, no other file gets the number of the inode. O_PATH opens no content, so
    closing the descriptor does not release SQLite's locks (fcntl(2), "Record locks"). Raises
    OSError.
    """
    return os.open(file, os.O_PATH | os.O_CLOEXEC)


def sqlite_files(database: Path) -> tuple[Path, Path]:
    """The write-ahead log of a SQLite database, and the index of the log.

    SQLite has both beside the target of a symbolic link.
    """
    real = database.resolve()
    return real.with_name(real.name + "-wal"), real.with_name(real.name + "-shm")


class Displaced(Exception):
    """An open file is not the file at its `path` any more, or that cannot be determined.

    The message is a sentence without a full stop.
    """

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} {why}")
        self.path = path


class Watch:
    """Checks that the files that this process has open in `directory` are still at their paths.

    The files are the SQLite file `database`, which must be open in WAL mode, the two files that
    SQLite has beside it, and `others`. Raises OSError if one of them cannot be looked up. Threads
    can share a watch.
    """

    def __init__(self, directory: Path, database: Path, *others: Path) -> None:
        self._directory = directory
        self._path = str(directory)  # looking up a string is faster
        self._database = database
        self._open: list[tuple[Path, int]] = []
        #: The directory's device, inode and time at the last comparison, or None if the next check
        #: must compare.
        self._seen: tuple[int, int, int] | None = None
        files = [database, *sqlite_files(database), *others]
        try:
            for file in files:
                self._open.append((file, hold(file)))
        except BaseException:
            self.close()
            raise
        #: If a file is in another directory, its removal does not change the time of `directory`.
        self._all_inside = all(file.resolve().parent == directory.resolve() for file in files)

    def close(self) -> None:
        """Release the files. No method may be called afterwards."""
        for _, descriptor in self._open:
            os.close(descriptor)
        self._open.clear()

    def check(self) -> None:
        """Raise Displaced if a file is not at its path. A call usually costs one `stat`."""
        if not self.is_unchanged():
            self.compare()

    def is_unchanged(self) -> bool:
        """Whether nothing has changed since the last comparison, as far as one `stat` shows."""
        if self._seen is None:
            return False
        try:
            found = os.stat(self._path)
        except OSError:
            return False
        return (found.st_dev, found.st_ino, found.st_mtime_ns) == self._seen

    def compare(self) -> None:
        """Do what `check` does, but look at each file.

        So it also finds changes that do not change the directory: a file system that was mounted
        over a file, and a database that was emptied.
        """
        self._seen = None
        try:
            before = _identity(os.stat(self._path))
        except OSError as error:
            raise Displaced(
                self._directory, f"cannot be reached ({error.strerror}); {_ADVICE}"
            ) from None
        for path, descriptor in self._open:
            try:
                opened = os.fstat(descriptor)  # fails on NFS if the file was removed elsewhere
                found = os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                raise Displaced(path, f"is missing; {_ADVICE}") from None
            except OSError as error:
                raise Displaced(path, f"cannot be reached ({error.strerror}); {_ADVICE}") from None
            if not os.path.samestat(opened, found):
                raise Displaced(path, f"was replaced by another file; {_ADVICE}")
            if path == self._database and not found.st_size:
                raise Displaced(path, "was emptied; stop the server and restore it from a copy")
        _, _, changed_ns = before
        is_fine = changed_ns % 1_000_000_000 != 0
        step_ns = _FINE_STEP_NS if is_fine else _COARSEST_STEP_NS
        if self._all_inside and changed_ns < time.time_ns() - step_ns:
            self._seen = before


def _identity(directory: os.stat_result) -> tuple[int, int, int]:
    return directory.st_dev, directory.st_ino, directory.st_mtime_ns
