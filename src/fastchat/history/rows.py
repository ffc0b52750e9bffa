"""Publications as rows of the database, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import apsw
import orjson

from fastchat.errors import HistoryError
from fastchat.protocol import FILES_URL, Change, Kind, Message, Publication

__all__ = [
    "INSERT",
    "LINK",
    "OFFSET_BITS",
    "OFFSET_MASK",
    "SELECT",
    "disk_errors",
    "dump_reactions",
    "message_of",
    "publication_of",
    "row_of",
    "stored",
]

#: Publications of one room: 2**40, for 2**23 rooms.
OFFSET_BITS = 40
OFFSET_MASK = (1 << OFFSET_BITS) - 1
#: Every link to a file has this in it.
LINK = FILES_URL + "/"
_KINDS = (Kind.MESSAGE, Kind.EDIT, Kind.DELETE, Kind.REACT)
_NUMBER_OF_KIND = {kind: number for number, kind in enumerate(_KINDS)}
_COLUMNS = (
    "key, kind, author, username, text, timestamp, id, target, emoji, remove, "
    "edited, deleted, reactions"
)
INSERT = f"INSERT INTO publications ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)"  # noqa: S608
SELECT = f"SELECT {_COLUMNS} FROM publications WHERE key BETWEEN ? AND ?"  # noqa: S608


def row_of(key: int, publication: Publication) -> tuple[Any, ...]:
    if isinstance(publication, Message):
        _, _, username, text, timestamp, author, id, edited, deleted, reactions = publication
        state = (edited, deleted or None, dump_reactions(reactions))
        return (key, 0, author, username, text, timestamp, id, None, None, None, *state)
    _, _, username, text, timestamp, author, kind, target, emoji, remove = publication
    change = (_NUMBER_OF_KIND[kind], author, username, text, timestamp, None, target)
    return (key, *change, emoji or None, remove or None, None, None, None)


def publication_of(room: str, row: Sequence[Any]) -> Publication:
    key, kind, author, username, text, timestamp, _, target, emoji, remove, *_ = row
    if kind == 0:
        return message_of(room, row)
    return Change(
        room,
        key & OFFSET_MASK,
        username,
        text or "",
        timestamp,
        author,
        _KINDS[kind],
        target,
        emoji or "",
        bool(remove),
    )


def message_of(room: str, row: Sequence[Any]) -> Message:
    key, _, author, username, text, timestamp, id, _, _, _, edited, deleted, reactions = row
    return Message(
        room,
        key & OFFSET_MASK,
        username,
        text or "",
        timestamp,
        author,
        id,
        edited,
        bool(deleted),
        None if reactions is None else orjson.loads(reactions),
    )


def dump_reactions(reactions: Mapping[str, Sequence[str]] | None) -> str | None:
    return None if reactions is None else orjson.dumps(reactions).decode()


def stored(
    db: apsw.Connection, room: str, number: int, first: int = 0, last: int = OFFSET_MASK
) -> Iterator[Publication]:
    """The publications of a room from offset `first` to `last` that a file holds, oldest first.

    Rows are read as they are asked for.
    """
    keys = number << OFFSET_BITS | first, number << OFFSET_BITS | last
    for row in db.execute(f"{SELECT} ORDER BY key", keys):
        yield publication_of(room, row)


@contextmanager
def disk_errors() -> Iterator[None]:
    """What SQLite raises is a HistoryError to others."""
    try:
        yield
    except apsw.Error as error:
        raise HistoryError(str(error)) from error
