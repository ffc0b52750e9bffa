"""The tables of the index of files (`fastchat.files.index`), and their migrations.

The names of tables and columns are those of the first version. An announced or incoming file is a
row of `uploads`; `begun` separates the two states. A stored file is a row of `files`.
"""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path

import apsw

from fastchat.database import Schema, open_to_read, select
from fastchat.files.ids import KEY_BYTES
from fastchat.history.directory import FILE_NAME as HISTORY_FILE_NAME
from fastchat.history.users import UserIds, user_key_of

__all__ = ["INDEX"]

_TABLES = """
CREATE TABLE secrets (key BLOB NOT NULL) STRICT;     -- the key of the digests that are ids
CREATE TABLE files (
    id TEXT PRIMARY KEY,
    room TEXT NOT NULL,
    author TEXT NOT NULL,           -- the first sender, whose quota it counts against
    size INTEGER NOT NULL,
    charge INTEGER NOT NULL,        -- bytes in quotas: whole blocks
    media_type TEXT NOT NULL,
    width INTEGER,
    height INTEGER,
    uploaded REAL NOT NULL,         -- when it was last sent, in seconds since 1970
    linked INTEGER NOT NULL         -- whether a message has linked to it since then
) STRICT;
CREATE INDEX files_by_author ON files (author, charge);
CREATE INDEX files_by_room ON files (room);
CREATE TABLE uploads (
    number INTEGER PRIMARY KEY AUTOINCREMENT,        -- the name of the temporary file
    ticket BLOB NOT NULL UNIQUE,    -- a digest of the ticket
    room TEXT NOT NULL,
    author TEXT NOT NULL,
    name TEXT NOT NULL,
    size INTEGER NOT NULL,
    charge INTEGER NOT NULL,
    expires REAL NOT NULL,          -- when the ticket expires, unless the file has started
    begun INTEGER NOT NULL DEFAULT 0,
    id TEXT                         -- the file's id, once all bytes have arrived
) STRICT;
CREATE INDEX uploads_by_author ON uploads (author, charge);
CREATE INDEX uploads_begun ON uploads (number) WHERE begun;
CREATE TABLE totals (files INTEGER NOT NULL, bytes INTEGER NOT NULL) STRICT;
INSERT INTO totals VALUES (0, 0);
CREATE TRIGGER added AFTER INSERT ON files BEGIN
    UPDATE totals SET files = files + 1, bytes = bytes + NEW.charge;
END;
CREATE TRIGGER removed AFTER DELETE ON files BEGIN
    UPDATE totals SET files = files - 1, bytes = bytes - OLD.charge;
END;
"""

#: The second version. `again` is the id of a stored file that the announced one probably repeats:
#: `fastchat.files.index.Announced.counted_as`.
_AGAIN = "ALTER TABLE uploads ADD COLUMN again TEXT"

#: The third version has public ids of users in the place of authors.
_RENAME_AUTHORS = """
ALTER TABLE files RENAME COLUMN author TO user;
ALTER TABLE uploads RENAME COLUMN author TO user;
DROP INDEX files_by_author;
DROP INDEX uploads_by_author;
CREATE INDEX files_by_user ON files (user, charge);
CREATE INDEX uploads_by_user ON uploads (user, charge);
"""
#: The fourth version has the stream and the offset of a message that has linked to the file. The
#: file is deleted only if the same stream shows that no message links to it any more.
_LINKED_BY = """
ALTER TABLE files ADD COLUMN epoch TEXT;
ALTER TABLE files ADD COLUMN offset INTEGER;
"""
#: The history can be in use by its server while a process opens the index.
_BUSY_TIMEOUT_MS = 5000


def _make(db: apsw.Connection) -> None:
    db.execute(_TABLES)
    db.execute("INSERT INTO secrets VALUES (?)", (secrets.token_bytes(KEY_BYTES),))


def _replace_authors(db: apsw.Connection) -> None:
    """Give each file and each announcement its user, by the secret of the history.

    The process that has the history has opened, and so migrated, its file before.
    """
    db.execute(_RENAME_AUTHORS)
    authors = select(db, "SELECT user FROM files UNION SELECT user FROM uploads")
    if not authors:
        return
    file = Path(db.filename).parents[1] / HISTORY_FILE_NAME
    with contextlib.closing(open_to_read(file, busy_timeout_ms=_BUSY_TIMEOUT_MS)) as history:
        user_of = UserIds(user_key_of(history)).user_of
    users = [(user_of(author), author) for (author,) in authors]
    for table in ("files", "uploads"):
        db.executemany(f"UPDATE {table} SET user = ? WHERE user = ?", users)  # noqa: S608


INDEX = Schema(
    application_id=0x6663666C,  # "fcfl"
    name="an index of fastchat's files",
    migrations=(_make, _AGAIN, _replace_authors, _LINKED_BY),
    way_out="restore it from a copy together with the files beside it, move "
    "the folder away to start without them, or switch --files off.",
)
