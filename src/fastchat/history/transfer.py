"""Export and import of a history in a directory: `fastchat export` and `fastchat import`.

`exports` has the format. An import is one transaction. If a line is bad, nothing is imported, and
the same file can be imported again after the line was corrected. An import has one line in memory
at a time.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import apsw

from fastchat.database import Unusable, check, is_current, open_to_read, select
from fastchat.errors import SettingError
from fastchat.history.directory import FILE_NAME
from fastchat.history.exports import Imported, LineReader, header_line, line_of
from fastchat.history.restore import restore
from fastchat.history.rows import FIRST_NAME, stored
from fastchat.history.schema import HISTORY
from fastchat.history.users import user_key_of

__all__ = ["export_rooms", "import_rooms"]

#: An export waits at most this long while a running server locks its file.
BUSY_TIMEOUT_MS = 5000


# Export


def export_rooms(directory: Path, room: str | None, out: BinaryIO) -> None:
    """Write a room, or all rooms (`None`), in their state at the time of the call.

    A server that runs on `directory` continues: the export only reads, and takes no lock that
    the server waits for. The server's write-ahead log grows until the export has ended. Raises
    SettingError if the room does not exist or the file cannot be read, and OSError if `out`
    cannot be written.
    """
    with _snapshot(directory) as db:
        statement = "SELECT name FROM streams WHERE name >= ? AND head > 0 ORDER BY name"
        names = select(db, statement, FIRST_NAME)
        if room is not None and (room,) not in names:
            raise SettingError(f"--room: there is no room “{room}” in {directory}.")
        user_key = user_key_of(db)
        for (name,) in names if room is None else [(room,)]:
            _export_room(db, name, user_key, out)


def _export_room(db: apsw.Connection, room: str, user_key: bytes, out: BinaryIO) -> None:
    ((number, epoch, head),) = select(
        db, "SELECT number, epoch, head FROM streams WHERE name = ?", room
    )
    publications = stored(db, room, number)
    oldest = next(publications, None)
    first = head + 1 if oldest is None else oldest.offset
    out.write(header_line(room, epoch, first, head, user_key))
    if oldest is not None:
        out.write(line_of(oldest))
    for publication in publications:
        out.write(line_of(publication))


@contextlib.contextmanager
def _snapshot(directory: Path) -> Iterator[apsw.Connection]:
    """A read-only connection that sees the history as it is now, whatever is written later."""
    file = directory / FILE_NAME
    if not file.is_file():
        raise SettingError(f"--data {directory} holds no history: there is no {FILE_NAME} in it.")
    try:
        db = open_to_read(file, busy_timeout_ms=BUSY_TIMEOUT_MS, or_immutable=True)
        with contextlib.closing(db):
            db.execute("BEGIN")
            _check_version(db, file)
            yield db
    except apsw.Error as error:
        raise SettingError(f"--data: {file} cannot be read: {error}.") from None


def _check_version(db: apsw.Connection, file: Path) -> None:
    try:
        check(db, HISTORY)
    except Unusable as error:
        raise SettingError(f"--data: {file} {error}.") from None
    if not is_current(db, HISTORY):
        raise SettingError(
            f"--data: {file} was written by an older fastchat; run `fastchat serve` on the "
            "directory once, or export it with the older version."
        )


# Import


def import_rooms(directory: Path, lines: BinaryIO, name: str, default_room: str) -> Imported:
    """Import all rooms in `lines` into the history in `directory`, or none of them.

    `name` is the name of the file for error sentences. Foreign lines without a `room` are
    messages in `default_room`. Raises SettingError, with the number of the line if a line is
    bad, and HistoryError if the disk fails.
    """
    reader = LineReader(lines, name, default_room)
    has_strangers = restore(directory, reader.publications(), reader.origins, clock=time.time)
    return Imported(len(reader.origins), reader.count, has_strangers)
