"""What is known of the files: a database beside them, shared by the processes of a server.

Theory
------
Whatever becomes of a file, the database says so first or in the same step. An announced file
is a row of `uploads`, which counts against the quotas from then on. When it begins to come, the
row is `begun`, and there is a temporary file, locked by the process that writes it: so whoever
can lock it knows that nobody writes it any more. When it is complete, the row notes the
`id`; then, in one transaction, the content gets its place and the row makes way for one of `files`.
A file is deleted in one transaction as well, which looks once more whether it has been sent
again meanwhile. So at whatever moment a process is killed, a row says what it has left behind.

What a process is killed in the middle of is cleared away by `fastchat.files.retention`.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import apsw

from fastchat.database import open_to_write, select, transaction
from fastchat.errors import FilesError
from fastchat.files import File
from fastchat.files.quotas import Quotas, charge_of
from fastchat.files.schema import INDEX

__all__ = ["FOLDER", "Announced", "FileRecord", "Index"]

#: Of all files, in the data directory.
FOLDER = "files"
FILE_NAME = "index.sqlite3"
#: From an announcement to the first byte.
TICKET_S = 600.0
#: A transaction of another process, with the renaming of a file in it.
_BUSY_TIMEOUT_MS = 5000
#: By so much the clocks of two processes may differ.
_CLOCKS_S = 1.0


class Announced(NamedTuple):
    """An announced file; `counted_as` is the id of a stored file that counts in its place."""

    number: int
    room: str
    author: str
    name: str
    size: int
    counted_as: str | None = None


class FileRecord(NamedTuple):
    """What decides whether a file is still needed."""

    id: str
    uploaded: float
    linked: bool


class Index:
    """The database in `folder`, which is made; threads may share it.

    `clock` returns seconds since 1970. `check_disk` is called with what a file takes, and with the
    numbers and sizes of those that have begun; it raises CommandError where that is too much, or
    OSError. Every method raises FilesError when the disk fails;
    then nothing has changed. Raises SettingError when the database cannot be used at all.
    """

    def __init__(
        self,
        folder: Path,
        *,
        clock: Callable[[], float],
        max_author_bytes: int = 0,
        max_total_bytes: int = 0,
        sync_commits: bool = False,
        check_disk: Callable[[int, Sequence[tuple[int, int]]], None] = lambda size, begun: None,
    ) -> None:
        self._file = folder / FILE_NAME
        self._clock = clock
        self._quotas = Quotas(
            clock=clock,
            max_author_bytes=max_author_bytes,
            max_total_bytes=max_total_bytes,
            check_disk=check_disk,
        )
        self._sync_commits = sync_commits
        self._lock = threading.Lock()
        self._db: apsw.Connection | None = None

    def open(self) -> None:
        """Done by whatever needs the database, too; here a wrong one is told at the start."""
        with self._reading():
            pass

    def close(self) -> None:
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    # Announcements

    def key(self) -> bytes:
        """The secret that ids are made with: nobody can tell from an id what is in a file."""
        with self._reading() as db:
            ((key,),) = select(db, "SELECT key FROM secrets")
        return bytes(key)

    def reserve(self, room: str, author: str, name: str, size: int, ticket: bytes) -> Announced:
        """Announce a file. Raises CommandError when there would be too many.

        Where that is for want of room, it takes the place of what has its name and size and is not
        sent yet; or of what is not said yet, if that turns out to be the same.
        """
        now, charge = self._clock(), charge_of(size)
        with self._writing() as db:
            # What has not begun counts for its author alone: he could keep all others out.
            self._quotas.check_total(db, charge)
            counted_as = None
            if self._quotas.excess(db, author, charge) > 0:
                # Whoever has lost an answer announces the same again.
                db.execute(
                    "DELETE FROM uploads WHERE number = (SELECT min(number) FROM uploads "
                    "WHERE author = ? AND room = ? AND name = ? AND size = ? "
                    "AND NOT begun AND expires > ?)",
                    (author, room, name, size, now),
                )
                if self._quotas.excess(db, author, charge) > 0:
                    counted_as = self._quotas.unlinked_file(db, room, author, size)
                if counted_as is None:
                    self._quotas.check_author(db, author, charge)
            db.execute(
                "INSERT INTO uploads (ticket, room, author, name, size, charge, expires, again) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (ticket, room, author, name, size, charge, now + TICKET_S, counted_as),
            )
            return Announced(db.last_insert_rowid(), room, author, name, size, counted_as)

    def find(self, ticket: bytes) -> Announced | None:
        """What a ticket that is still good was given for."""
        with self._reading() as db:
            found = select(
                db,
                "SELECT number, room, author, name, size, again FROM uploads "
                "WHERE ticket = ? AND NOT begun AND expires > ?",
                ticket,
                self._clock(),
            )
        return Announced(*found[0]) if found else None

    def start(self, announced: Announced) -> bool:
        """Use an announcement; says whether that was possible. The temporary file is there.

        Raises CommandError when there is no room any more.
        """
        with self._writing() as db:
            self._quotas.check_total(db, charge_of(announced.size))
            db.execute(
                "UPDATE uploads SET begun = 1 WHERE number = ? AND NOT begun AND expires > ?",
                (announced.number, self._clock()),
            )
            return db.changes() == 1

    def set_id(self, announced: Announced, id: str) -> None:
        """Say what the content's place will be, before it is there."""
        with self._writing() as db:
            db.execute("UPDATE uploads SET id = ? WHERE number = ?", (id, announced.number))

    def store(self, announced: Announced, file: File, place: Callable[[], None]) -> None:
        """Make a file of it; `place` puts the content where it belongs, and may raise OSError.

        Raises CommandError for one that its author may not have: it is not its `counted_as`.
        """
        with self._writing() as db:
            db.execute("DELETE FROM uploads WHERE number = ?", (announced.number,))
            if not db.changes():
                raise FilesError("the announcement is gone")
            if announced.counted_as is not None and not self._has(
                db, file.id
            ):  # it was not the same
                self._quotas.check_author(db, announced.author, charge_of(file.size))
            # The same in the same room is kept once, and is as new again.
            db.execute(
                "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0) "
                "ON CONFLICT (id) DO UPDATE SET uploaded = excluded.uploaded, linked = 0",
                (
                    file.id,
                    file.room,
                    announced.author,
                    file.size,
                    charge_of(file.size),
                    file.media_type,
                    file.width,
                    file.height,
                    self._clock(),
                ),
            )
            place()

    def withdraw(self, announced: Announced) -> None:
        """Forget an announcement of which nothing has come, to anybody."""
        with self._writing() as db:
            db.execute("DELETE FROM uploads WHERE number = ? AND NOT begun", (announced.number,))

    def withdraw_all(self, *whose: str) -> None:
        """As `withdraw`, by room and author."""
        statement = "DELETE FROM uploads WHERE room = ? AND author = ? AND NOT begun"
        with self._writing() as db:
            db.execute(statement, whose)

    def discard(self, number: int, remove: Callable[[str], None]) -> None:
        """Forget an announcement. `remove` is called with an id that has no file, if it has one."""
        with self._writing() as db:
            found = select(db, "SELECT id FROM uploads WHERE number = ?", number)
            if found and found[0][0] is not None and not self._has(db, found[0][0]):
                remove(found[0][0])
            db.execute("DELETE FROM uploads WHERE number = ?", (number,))

    # Files

    def size_and_type(self, id: str) -> tuple[int, str] | None:
        with self._reading() as db:
            found = select(db, "SELECT size, media_type FROM files WHERE id = ?", id)
        return found[0] if found else None

    # For retention

    def started(self) -> list[int]:
        """The announcements of which something has come."""
        with self._reading() as db:
            return [number for (number,) in select(db, "SELECT number FROM uploads WHERE begun")]

    def expire(self) -> None:
        """Forget announcements of which nothing came."""
        with self._writing() as db:
            db.execute("DELETE FROM uploads WHERE NOT begun AND expires <= ?", (self._clock(),))

    def rooms(self) -> list[str]:
        """Those with files."""
        with self._reading() as db:
            return [room for (room,) in select(db, "SELECT DISTINCT room FROM files")]

    def files_of(self, room: str) -> list[FileRecord]:
        statement = "SELECT id, uploaded, linked FROM files WHERE room = ?"
        with self._reading() as db:
            rows = select(db, statement, room)
        return [FileRecord(id, uploaded, bool(linked)) for id, uploaded, linked in rows]

    def mark_linked(self, record: FileRecord) -> None:
        """Note that a message has the file; not if it has been sent again meanwhile."""
        with self._writing() as db:
            db.execute(
                "UPDATE files SET linked = 1 WHERE id = ? AND uploaded = ?",
                (record.id, record.uploaded),
            )

    def mark_all_linked(self, seen: Mapping[tuple[str, str], float]) -> None:
        """Note of rooms and ids when a message had the file; as `link` does."""
        with self._writing() as db:
            db.executemany(
                "UPDATE files SET linked = 1 WHERE id = ? AND room = ? AND uploaded <= ?",
                [(id, room, when + _CLOCKS_S) for (room, id), when in seen.items()],
            )

    def delete(self, record: FileRecord, remove: Callable[[str], None]) -> bool:
        """Forget a file and `remove` its content, unless it has been sent again meanwhile."""
        with self._writing() as db:
            db.execute(
                "DELETE FROM files WHERE id = ? AND uploaded = ?", (record.id, record.uploaded)
            )
            if not db.changes():
                return False
            remove(record.id)
            return True

    def delete_stray(self, id: str, remove: Callable[[str], None]) -> bool:
        """`remove` a content of which nothing is known."""
        with self._writing() as db:
            if self._has(db, id) or select(db, "SELECT 1 FROM uploads WHERE id = ?", id):
                return False
            remove(id)
            return True

    def totals(self) -> tuple[int, int]:
        """How many files there are, and what they count."""
        with self._reading() as db:
            ((files, size),) = select(db, "SELECT files, bytes FROM totals")
        return files, size

    def _has(self, db: apsw.Connection, id: str) -> bool:
        return bool(select(db, "SELECT 1 FROM files WHERE id = ?", id))

    # The database

    @contextmanager
    def _reading(self) -> Iterator[apsw.Connection]:
        with self._lock:
            try:
                yield self._connect()
            except (apsw.Error, OSError) as error:
                raise FilesError(str(error)) from error

    @contextmanager
    def _writing(self) -> Iterator[apsw.Connection]:
        """A transaction, which no other process's can get into."""
        with self._reading() as db, transaction(db):
            yield db

    def _connect(self) -> apsw.Connection:
        if self._db is None:
            # With an id a file can be read; the history, where they are too, has no contents.
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Several processes may begin at once, and each would make the database.
            with _only_one(self._file.parent):
                self._db = open_to_write(
                    self._file,
                    INDEX,
                    busy_timeout_ms=_BUSY_TIMEOUT_MS,
                    sync_commits=self._sync_commits,
                )
        return self._db


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
