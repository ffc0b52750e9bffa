"""The schema of a history's file, and its migrations."""

from __future__ import annotations

import logging

import apsw

from fastchat.database import Schema, select, transaction
from fastchat.history.authors import name_users
from fastchat.history.epochs import new_generation
from fastchat.history.options import OPTIONS_TABLE
from fastchat.history.users import UserIds, new_user_key, user_key_of
from fastchat.protocol.names import name_key

__all__ = ["HISTORY", "add_look", "write_same_page"]

logger = logging.getLogger("fastchat.history")

# A `key` is the room's number << 40 | offset, so the stream of a room is a range of keys.
# The row of a message has its present state. The text of a deleted message is empty.
# SQLite stores the statements in each file with their comments. An edit reaches new files only.
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
    timestamp TEXT NOT NULL,        -- RFC 3339, UTC, milliseconds: text order is time order
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

_FACTS = """
CREATE TABLE facts (
    name TEXT PRIMARY KEY,          -- user_key, generation, clock (`ages`)
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
"""


def _add_facts(connection: apsw.Connection) -> None:
    """Give a file its random facts.

    `user_key` is a secret that makes the public ids of guests. `generation` tells this file from
    an older copy of it.
    """
    connection.execute(_FACTS)
    connection.executemany(
        "INSERT INTO facts (name, value) VALUES (?, ?)",
        (
            ("user_key", new_user_key()),
            ("generation", new_generation()),
        ),
    )


# The third version has public ids of users in the place of authors and names. An `id` belongs to a
# user. The columns of `ids` cannot be renamed, because rows of two names of one user can collide.
_RENAME_AUTHORS = "ALTER TABLE publications RENAME COLUMN author TO user"
_USERS_IDS = """
CREATE TABLE ids_of_users (
    number INTEGER PRIMARY KEY,     -- in the order of time, for pruning
    room INTEGER NOT NULL,
    user TEXT NOT NULL,
    id TEXT NOT NULL,
    offset INTEGER NOT NULL,
    timestamp TEXT NOT NULL,
    UNIQUE (room, user, id)
) STRICT;
INSERT OR IGNORE INTO ids_of_users
SELECT ids.number, room, publications.user, ids.id, offset, ids.timestamp
FROM ids JOIN publications ON publications.key = ids.room << 40 | ids.offset ORDER BY ids.number;
DROP TABLE ids;
ALTER TABLE ids_of_users RENAME TO ids;
"""


def _replace_authors(connection: apsw.Connection) -> None:
    """Give each publication, reaction and `id` its user.

    An `id` is forgotten if its message is not stored any more.
    """
    if select(connection, "SELECT 1 FROM publications LIMIT 1"):
        logger.info(
            "the history is from an older version and is being migrated; this takes some 10 s for "
            "a million publications, and needs as much free disk space as the file has"
        )
    connection.execute(_RENAME_AUTHORS)
    name_users(connection, UserIds(user_key_of(connection)).user_of)
    connection.execute(_USERS_IDS)


_LOOKS = """
CREATE TABLE looks (
    look TEXT NOT NULL,             -- fastchat.protocol.names.name_key of the room's name
    room INTEGER NOT NULL,
    PRIMARY KEY (look, room)
) STRICT, WITHOUT ROWID;
"""


def _add_looks(connection: apsw.Connection) -> None:
    """Give a file the table in which a new room's name is compared with the others."""
    connection.execute(_LOOKS)
    for number, name in select(connection, "SELECT number, name FROM rooms"):
        add_look(connection, number, name)


def add_look(connection: apsw.Connection, number: int, name: str) -> None:
    """Add what the name of a new room looks like. Each room in `rooms` must be added."""
    connection.execute(
        "INSERT OR IGNORE INTO looks (look, room) VALUES (?, ?)", (name_key(name), number)
    )


# If each commit wrote the head of its room, it would write a second page. The newest key says the
# same, unless the newest publications were dropped, or deleted by another program.
_STREAMS = """
ALTER TABLE rooms RENAME COLUMN head TO least_head;
CREATE VIEW streams AS
SELECT number, name, epoch, max(
    least_head,                     -- an earlier head; written within seconds of a publication
    ifnull((
        SELECT max(key) FROM publications
        WHERE key BETWEEN number << 40 AND number << 40 | 0xffffffffff
    ) & 0xffffffffff, 0)
) AS head                           -- offset of the newest publication
FROM rooms;
"""


HISTORY = Schema(
    application_id=0x66636874,  # "fcht"
    name="a history of fastchat",
    migrations=(_FIRST, _add_facts, _replace_authors, _add_looks, _STREAMS, OPTIONS_TABLE),
    way_out="restore it from a copy, or move it away to start with an empty history.",
)


def write_same_page(db: apsw.Connection) -> None:
    """Write a page to the write-ahead log again, with the same content. Raises apsw.Error."""
    with transaction(db):
        db.pragma("user_version", len(HISTORY.migrations))
