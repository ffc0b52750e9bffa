"""The database file: its schema, its version, and the way from older versions."""

from __future__ import annotations

from typing import Any

import apsw

__all__ = ["APPLICATION_ID", "check", "migrate", "select"]

#: In the file's header (`PRAGMA application_id`): "fcht".
APPLICATION_ID = 0x66636874

# `key` is the room's number << 40 | offset: a room's stream is a range of keys.
# A message's row holds its present state; `deleted` ones have no text any more.
_FIRST = """
CREATE TABLE rooms (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    epoch TEXT NOT NULL,
    head INTEGER NOT NULL           -- offset of the newest publication
) STRICT;
CREATE TABLE publications (
    key INTEGER PRIMARY KEY,
    kind INTEGER NOT NULL,          -- 0 message, 1 edit, 2 delete, 3 react
    author TEXT NOT NULL,
    username TEXT NOT NULL,
    text TEXT,
    timestamp TEXT NOT NULL,        -- RFC 3339, UTC, milliseconds: sorts as time does
    id TEXT,
    target INTEGER,
    emoji TEXT,
    remove INTEGER,
    edited TEXT,
    deleted INTEGER,
    reactions TEXT                  -- JSON: emoji -> names
) STRICT;
CREATE TABLE ids (
    number INTEGER PRIMARY KEY,     -- in the order of time, for pruning
    room INTEGER NOT NULL,
    username TEXT NOT NULL,
    id TEXT NOT NULL,
    offset INTEGER NOT NULL,
    timestamp TEXT NOT NULL,
    UNIQUE (room, username, id)
) STRICT;
"""

#: Migrations in order: number i takes a file from version i to i + 1.
MIGRATIONS = (_FIRST,)


def select(connection: apsw.Connection, statement: str, *bindings: Any) -> list[tuple[Any, ...]]:
    """All rows of a query."""
    return connection.execute(statement, bindings).fetchall()


def check(connection: apsw.Connection) -> None:
    """Raise ValueError with a sentence when a file is not ours, or newer than this program.

    It only reads: somebody else's file stays as it is.
    """
    version, application = connection.pragma("user_version"), connection.pragma("application_id")
    empty = not (version or application or select(connection, "SELECT 1 FROM sqlite_schema"))
    if application != APPLICATION_ID and not empty:
        raise ValueError("is not a history of fastchat")
    if version > len(MIGRATIONS):
        raise ValueError(f"was written by a newer fastchat (its schema is version {version})")


def migrate(connection: apsw.Connection) -> None:
    """Bring a file that `check` let pass to the newest version, in one transaction."""
    version = connection.pragma("user_version")
    if version == len(MIGRATIONS):
        return  # nothing is written: a server starts on a full disk, too
    with connection:
        for number in range(version, len(MIGRATIONS)):
            connection.execute(MIGRATIONS[number])
        connection.pragma("application_id", APPLICATION_ID)
        connection.pragma("user_version", len(MIGRATIONS))
