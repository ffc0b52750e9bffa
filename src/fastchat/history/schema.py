"""The schema of a history's file, and its migrations."""

from __future__ import annotations

from fastchat.database import Schema

__all__ = ["HISTORY"]

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

HISTORY = Schema(
    application_id=0x66636874,  # "fcht"
    name="a history of fastchat",
    migrations=(_FIRST,),
    way_out="restore it from a copy, or move it away to start with an empty history.",
)
