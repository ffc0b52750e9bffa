"""The index of files: a database beside their contents, shared by the processes of a server.

Theory
------
Each content on the disk has a row in the database, which was written earlier or in the same
transaction. So if a process is killed at any moment, a row describes each content that it leaves
behind, and `fastchat.files.retention` removes both. The steps are:

1. `reserve`: a file is announced. It has a row of `uploads`, which counts against its user's
   quota.
2. `start`: a process has created and locked the temporary file, which is named after the number of
   the row. The row becomes `begun`.
3. `set_id`: all bytes have arrived. The row now contains the id, and so the path to which the
   content will be moved.
4. `store`: one transaction moves the content to its path, deletes the row of `uploads`, and inserts
   one of `files`.
5. `delete`: one transaction deletes the row and the content, unless the file was sent again after
   the retention read the row.

Before step 2, `withdraw` or an expired ticket (`expire`) ends the announcement. After step 2,
`discard` ends it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import apsw

from fastchat.database import open_to_read, open_to_write, select, transaction
from fastchat.directory import Displaced, Watch, hold
from fastchat.errors import FilesError
from fastchat.files import TICKET_S, UNLINKED_LIFETIME_S, File
from fastchat.files.quotas import Quotas, charge_of
from fastchat.files.schema import INDEX

__all__ = [
    "FILE_NAME",
    "FOLDER",
    "ORPHANED",
    "TICKET_S",
    "UNLINKED_LIFETIME_S",
    "Announced",
    "FileRecord",
    "Index",
    "Link",
]

#: The folder of all files, in the data directory.
FOLDER = "files"
FILE_NAME = "index.sqlite3"
#: The `epoch` of an orphan (`fastchat.files.orphans`). No stream has it.
ORPHANED = ""
#: How long a process waits for a transaction of another one, which can include the renaming of a
#: file.
LONGEST_WAIT_S = 5.0
#: How long it waits while the server stops. That is less than the time until the process is killed.
LAST_WAIT_S = 0.3
#: A read waits only while SQLite recovers the log of a killed process.
_READ_WAIT_MS = 1000
#: The pause between two attempts to begin a transaction.
_PAUSE_S = 0.005
#: The allowed difference between the clocks of two processes.
_CLOCKS_S = 1.0


class Announced(NamedTuple):
    """An announced file.

    `number` names its temporary file. `counted_as` is the id of a stored file which it probably
    repeats. If it is not None, only that file counts against the user's quota.
    """

    number: int
    room: str
    user: str
    name: str
    size: int
    counted_as: str | None = None


class FileRecord(NamedTuple):
    """The part of a stored file's row that decides whether the file is still needed.

    `uploaded` is when the file was last sent, in seconds since 1970. `linked` is whether a message
    has linked to it since then. A message with a link is at `offset` of the stream `epoch`; they
    are None if none is known. `epoch` is `ORPHANED` if that stream is gone.
    """

    id: str
    uploaded: float
    linked: bool
    epoch: str | None
    offset: int | None


class Link(NamedTuple):
    """A link from a message to a file.

    The message was published, or got the link, at the time `when` (seconds since 1970). It is at
    `offset` of the stream `epoch`, which is None if it is not known.
    """

    when: float
    epoch: str | None
    offset: int


class Index:
    """The index in `folder`. Threads can share it.

    * ``clock``: returns seconds since 1970.
    * ``ages``: returns the time from which ages are measured (`fastchat.clocks`; default: `clock`).
    * ``create``: whether the first method creates the folder and the database if they are missing.
      Later, they are never created: a database that is gone must not be replaced by an empty one.
    * ``check_disk``: described in `fastchat.files.quotas.Quotas`.

    Each method raises FilesError if the disk fails, or if the database that was opened first is not
    in the folder any more. Then nothing has changed. It raises SettingError if the database is not
    an index, damaged, or newer than this program.
    """

    def __init__(
        self,
        folder: Path,
        *,
        clock: Callable[[], float],
        ages: Callable[[], float] | None = None,
        create: bool = True,
        max_user_bytes: int = 0,
        max_total_bytes: int = 0,
        sync_commits: bool = False,
        check_disk: Callable[[int, Sequence[tuple[int, int]]], None] = lambda size, begun: None,
    ) -> None:
        self._file = folder / FILE_NAME
        self._clock = clock
        self._ages = ages or clock
        self._quotas = Quotas(
            ages=self._ages,
            max_user_bytes=max_user_bytes,
            max_total_bytes=max_total_bytes,
            check_disk=check_disk,
        )
        self._sync_commits = sync_commits
        self._may_create = create
        # Two connections, so that a read never waits for a writer of any process. A thread that
        # needs both locks acquires that of the reader first.
        self._read_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._open: _Open | None = None
        self._first: int | None = None  # a descriptor of the database that was opened first
        self._waiting_since_s = 0.0
        self._longest_wait_s = LONGEST_WAIT_S

    def unwritable(self) -> Path | None:
        """The first of the database's files to which this user has no right to write, or None."""
        for end in ("", "-wal", "-shm"):
            path = self._file.with_name(FILE_NAME + end)
            if path.exists() and not os.access(path, os.R_OK | os.W_OK):
                return path
        return None

    def open(self) -> None:
        """Open the database.

        Each method opens it if necessary. The call at the start of a server finds an unusable
        database early.
        """
        with self._reading():
            pass

    def pause(self) -> None:
        """Close the database until the next method opens it again."""
        with self._read_lock, self._write_lock:
            self._disconnect()

    def hurry(self) -> None:
        """Let transactions wait for other processes only for a moment, because the server stops."""
        self._longest_wait_s = LAST_WAIT_S

    def close(self) -> None:
        """Close the database. No method may be called afterwards."""
        with self._read_lock, self._write_lock:
            self._disconnect()
            if self._first is not None:
                os.close(self._first)
                self._first = None

    # Announced and incoming files

    def key(self) -> bytes:
        """Return the secret key of the digests that are ids (`fastchat.files.ids`)."""
        with self._reading() as db:
            ((key,),) = select(db, "SELECT key FROM secrets")
        return bytes(key)

    def reserve(self, room: str, user: str, name: str, size: int, ticket: bytes) -> Announced:
        """Announce a file. `ticket` is a digest.

        If the user's quota is exhausted, the new announcement replaces an announcement of the
        same room, name and size. If there is none, it can count as a stored file to which no
        message links yet; then `store` checks that the two are the same. Raises CommandError if
        the quotas or the disk do not allow the file.
        """
        charge = charge_of(size)
        with self._writing() as db:
            # Announced files do not count here. See `fastchat.files.quotas`.
            self._quotas.check_total(db, charge)
            counted_as = None
            if self._quotas.excess(db, user, charge) > 0:
                # A client that has not received the ticket announces the same file again.
                db.execute(
                    "DELETE FROM uploads WHERE number = (SELECT min(number) FROM uploads "
                    "WHERE user = ? AND room = ? AND name = ? AND size = ? "
                    "AND NOT begun AND expires > ?)",
                    (user, room, name, size, self._ages()),
                )
                if self._quotas.excess(db, user, charge) > 0:
                    counted_as = self._quotas.unlinked_file(db, room, user, size)
                if counted_as is None:
                    self._quotas.check_user(db, user, charge)
            db.execute(
                "INSERT INTO uploads (ticket, room, user, name, size, charge, expires, again) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    ticket,
                    room,
                    user,
                    name,
                    size,
                    charge,
                    self._clock() + TICKET_S,
                    counted_as,
                ),
            )
            return Announced(db.last_insert_rowid(), room, user, name, size, counted_as)

    def find(self, ticket: bytes) -> Announced | None:
        """Return the announced file of a ticket; None if the ticket is unknown, used or expired."""
        with self._reading() as db:
            found = select(
                db,
                "SELECT number, room, user, name, size, again FROM uploads "
                "WHERE ticket = ? AND NOT begun AND expires > ?",
                ticket,
                self._ages(),
            )
        return Announced(*found[0]) if found else None

    def start(self, announced: Announced) -> bool:
        """Turn an announced file into an incoming one. Its temporary file must exist.

        Returns False if its ticket is used or expired. Raises CommandError if the server's quota or
        the disk does not allow the file any more.
        """
        with self._writing() as db:
            self._quotas.check_total(db, charge_of(announced.size))
            db.execute(
                "UPDATE uploads SET begun = 1 WHERE number = ? AND NOT begun AND expires > ?",
                (announced.number, self._ages()),
            )
            return db.changes() == 1

    def set_id(self, announced: Announced, id: str) -> None:
        """Note the id of a complete file, before its content is moved to the path of the id."""
        with self._writing() as db:
            db.execute("UPDATE uploads SET id = ? WHERE number = ?", (id, announced.number))

    def store(self, announced: Announced, file: File, place: Callable[[], None]) -> None:
        """Turn a complete incoming file into a stored one.

        `place` moves the content to its path, and can raise OSError. Raises CommandError if the
        file is not the one that it was `counted_as`, and exceeds its user's quota.
        """
        with self._writing() as db:
            db.execute("DELETE FROM uploads WHERE number = ?", (announced.number,))
            if not db.changes():
                raise FilesError("the announcement of the file was deleted")
            # A file that is stored already adds nothing to the quota.
            if announced.counted_as is not None and not self._has(db, file.id):
                self._quotas.check_user(db, announced.user, charge_of(file.size))
            # The same content in the same room is stored once. If it is sent again, it counts as
            # new, so that its sender has time to send a message with its link.
            db.execute(
                "INSERT INTO files (id, room, user, size, charge, media_type, width, height, "
                "uploaded, linked) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0) "
                "ON CONFLICT (id) DO UPDATE SET uploaded = excluded.uploaded, linked = 0",
                (
                    file.id,
                    file.room,
                    announced.user,
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
        """End an announcement, unless the file has started in any process."""
        with self._writing() as db:
            db.execute("DELETE FROM uploads WHERE number = ? AND NOT begun", (announced.number,))

    def withdraw_all(self, room: str, user: str) -> None:
        """End a user's announcements in a room, except those of files that have started."""
        statement = "DELETE FROM uploads WHERE room = ? AND user = ? AND NOT begun"
        with self._writing() as db:
            db.execute(statement, (room, user))

    def discard(self, number: int, remove: Callable[[str], None]) -> None:
        """End an incoming file.

        If it has an id, and no stored file has this id, `remove` is called with it.
        """
        with self._writing() as db:
            found = select(db, "SELECT id FROM uploads WHERE number = ?", number)
            if found and found[0][0] is not None and not self._has(db, found[0][0]):
                remove(found[0][0])
            db.execute("DELETE FROM uploads WHERE number = ?", (number,))

    # Stored files

    def size_and_type(self, id: str) -> tuple[int, str] | None:
        """Return the size and the media type of a stored file; None if there is none."""
        with self._reading() as db:
            found = select(db, "SELECT size, media_type FROM files WHERE id = ?", id)
        return found[0] if found else None

    # For retention

    def started(self) -> list[int]:
        """Return the numbers of all incoming files."""
        with self._reading() as db:
            return [number for (number,) in select(db, "SELECT number FROM uploads WHERE begun")]

    def expire(self) -> None:
        """End the announcements whose tickets have expired."""
        with self._writing() as db:
            db.execute("DELETE FROM uploads WHERE NOT begun AND expires <= ?", (self._ages(),))

    def rooms(self) -> list[str]:
        """Return the rooms that have stored files."""
        with self._reading() as db:
            return [room for (room,) in select(db, "SELECT DISTINCT room FROM files")]

    def files_of(self, room: str) -> list[FileRecord]:
        """Return the stored files of a room."""
        statement = "SELECT id, uploaded, linked, epoch, offset FROM files WHERE room = ?"
        with self._reading() as db:
            rows = select(db, statement, room)
        return [FileRecord(id, at, bool(linked), *place) for id, at, linked, *place in rows]

    def mark_linked(self, record: FileRecord, epoch: str, offset: int) -> None:
        """Note that a message links to a file, unless the file was sent again since it was read."""
        with self._writing() as db:
            db.execute(
                "UPDATE files SET linked = 1, epoch = ?, offset = ? WHERE id = ? AND uploaded = ?",
                (epoch, offset, record.id, record.uploaded),
            )

    def mark_orphan(self, record: FileRecord) -> None:
        """Note that the stream of the message that linked to a file is not there any more.

        The file is an orphan from now on, whatever is published later, until a message links to it
        again. Nothing changes if the file was sent again since its row was read.
        """
        with self._writing() as db:
            db.execute(
                "UPDATE files SET epoch = ? WHERE id = ? AND uploaded = ?",
                (ORPHANED, record.id, record.uploaded),
            )

    def mark_all_linked(self, links: Mapping[tuple[str, str], Link]) -> None:
        """Note that messages linked to files. `links` are by room and id.

        A file that was sent again after the link is not marked.
        """
        with self._writing() as db:
            db.executemany(
                "UPDATE files SET linked = 1, epoch = ?, offset = ? "
                "WHERE id = ? AND room = ? AND uploaded <= ?",
                [
                    (link.epoch, link.offset, id, room, link.when + _CLOCKS_S)
                    for (room, id), link in links.items()
                ],
            )

    def delete(self, record: FileRecord, remove: Callable[[str], None]) -> bool:
        """Delete a file, and call `remove` with its id.

        Returns False, without a change, if the file was sent again since `record` was read.
        """
        with self._writing() as db:
            db.execute(
                "DELETE FROM files WHERE id = ? AND uploaded = ?", (record.id, record.uploaded)
            )
            if not db.changes():
                return False
            remove(record.id)
            return True

    def ids(self) -> set[str]:
        """Return the ids of all stored files, and of those that are being stored."""
        statement = "SELECT id FROM files UNION SELECT id FROM uploads WHERE id IS NOT NULL"
        with self._reading() as db:
            return {id for (id,) in select(db, statement)}

    def delete_stray(self, id: str, remove: Callable[[str], None]) -> bool:
        """Call `remove` with the id of a content, if the index does not contain the id.

        Returns whether `remove` was called.
        """
        with self._writing() as db:
            if self._has(db, id) or select(db, "SELECT 1 FROM uploads WHERE id = ?", id):
                return False
            remove(id)
            return True

    def totals(self) -> tuple[int, int]:
        """Return the number of stored files, and how many bytes they count in quotas."""
        with self._reading() as db:
            ((files, size),) = select(db, "SELECT files, bytes FROM totals")
        return files, size

    def _has(self, db: apsw.Connection, id: str) -> bool:
        return bool(select(db, "SELECT 1 FROM files WHERE id = ?", id))

    # The database

    @contextmanager
    def _reading(self) -> Iterator[apsw.Connection]:
        with _disk_errors(), self._read_lock:
            opened = self._open
            if opened is None:
                with self._write_lock:
                    opened = self._connect()
            opened.watch.check()
            yield opened.reader

    @contextmanager
    def _writing(self) -> Iterator[apsw.Connection]:
        """A transaction, which excludes those of other processes."""
        with _disk_errors(), self._write_lock:
            opened = self._connect()
            opened.watch.check()
            with transaction(opened.writer):
                yield opened.writer
                opened.watch.check()

    def _connect(self) -> _Open:
        if self._open is None:
            folder = self._file.parent
            if self._may_create:
                # Only the server's user can read the folder: everybody who knows an id can read
                # its file.
                folder.mkdir(mode=0o700, exist_ok=True)
            with contextlib.ExitStack() as stack:
                # Otherwise, processes that start at the same time would each create the database.
                with self._locked(folder):
                    self._check_first()
                    writer = open_to_write(
                        self._file,
                        INDEX,
                        busy_timeout_ms=int(self._longest_wait_s * 1000),
                        sync_commits=self._sync_commits,
                    )
                    stack.callback(writer.close)
                writer.set_busy_handler(self._wait)
                reader = open_to_read(self._file, busy_timeout_ms=_READ_WAIT_MS)
                stack.callback(reader.close)
                watch = Watch(folder, self._file)
                stack.callback(watch.close)
                if self._first is None:
                    self._first = hold(self._file)
                self._may_create = False
                self._open = _Open(writer, reader, watch, stack.pop_all())
        return self._open

    @contextmanager
    def _locked(self, folder: Path) -> Iterator[None]:
        """Hold a lock of the folder, for which other processes wait.

        Raises FilesError if another program holds it for too long.
        """
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            begun_s = time.monotonic()
            while not _try_to_lock(descriptor):
                if time.monotonic() - begun_s >= self._longest_wait_s:
                    raise FilesError(f"another program has locked {folder}")
                time.sleep(_PAUSE_S)
            yield
        finally:
            os.close(descriptor)

    def _wait(self, attempts: int) -> bool:
        """Wait a moment because another process writes; return whether to try again."""
        now = time.monotonic()
        if attempts == 0:
            self._waiting_since_s = now
        if now - self._waiting_since_s >= self._longest_wait_s:
            return False
        time.sleep(_PAUSE_S)
        return True

    def _check_first(self) -> None:
        """Raise Displaced if the database is not there, or not the one that was opened first."""
        if self._may_create:
            return
        if not self._file.exists():
            raise Displaced(self._file, "is missing")
        if self._first is not None and not os.path.samestat(
            os.fstat(self._first), self._file.stat()
        ):
            raise Displaced(self._file, "was replaced by another file")

    def _disconnect(self) -> None:
        if self._open is not None:
            self._open.resources.close()
            self._open = None


class _Open(NamedTuple):
    """The open database: the connections and the watch, and the stack that closes them."""

    writer: apsw.Connection
    reader: apsw.Connection
    watch: Watch
    resources: contextlib.ExitStack


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Turn errors of the disk and of SQLite in the block into FilesError."""
    try:
        yield
    except apsw.BusyError:
        raise FilesError("another program has locked the index of files") from None
    except (apsw.Error, OSError, Displaced) as error:
        raise FilesError(str(error)) from error


def _try_to_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
