"""Conversion of publications to rows of the database and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import apsw
import orjson

from fastchat.errors import HistoryError
from fastchat.protocol import FILES_URL, Change, Kind, Message, Publication, Reactor

__all__ = [
    "FIRST_NAME",
    "INSERT",
    "INSERT_MESSAGE",
    "LINK",
    "OFFSET_BITS",
    "OFFSET_MASK",
    "SELECT",
    "disk_errors",
    "dump_reactions",
    "history_error",
    "message_of",
    "publication_of",
    "row_of",
    "stored",
]

#: The low bits of a key are the offset, the others the room's number. SQLite's keys are signed
#: 64-bit integers, so there can be 2**40 publications in a room, and 2**23 rooms.
OFFSET_BITS = 40
OFFSET_MASK = (1 << OFFSET_BITS) - 1
#: No name of a room is smaller. A deleted room has a name that begins with a control character.
FIRST_NAME = "\x20"
#: A text that does not contain this has no link to a file.
LINK = FILES_URL + "/"
#: The column `kind` has the index of a publication's kind (see `schema`).
_KINDS = (Kind.MESSAGE, Kind.EDIT, Kind.DELETE, Kind.REACT)
_NUMBER_OF_KIND = {kind: number for number, kind in enumerate(_KINDS)}
_COLUMNS = (
    "key, kind, user, username, text, timestamp, id, target, emoji, remove, "
    "edited, deleted, reactions"
)
INSERT = f"INSERT INTO publications ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)"  # noqa: S608
#: Inserts a message that has just been published; `message_rows` makes its values. It has few
#: characters, because apsw hashes them for each row.
INSERT_MESSAGE = (
    "INSERT INTO publications(key,kind,user,username,text,timestamp,id)VALUES(?,0,?,?,?,?,?)"
)
SELECT = f"SELECT {_COLUMNS} FROM publications WHERE key BETWEEN ? AND ?"  # noqa: S608


def row_of(key: int, publication: Publication) -> tuple[Any, ...]:
    """The values of a publication in the order of `_COLUMNS`, for `INSERT`."""
    if isinstance(publication, Message):
        _, _, username, text, timestamp, user, id, edited, deleted, reactions = publication
        state = (edited, deleted or None, dump_reactions(reactions))
        return (key, 0, user, username, text, timestamp, id, None, None, None, *state)
    _, _, username, text, timestamp, user, kind, target, emoji, remove = publication
    change = (_NUMBER_OF_KIND[kind], user, username, text, timestamp, None, target)
    return (key, *change, emoji or None, remove or None, None, None, None)


def publication_of(room: str, row: Sequence[Any]) -> Publication:
    """The publication in a row that `SELECT` has read."""
    key, kind, user, username, text, timestamp, _, target, emoji, remove, *_ = row
    if kind == 0:
        return message_of(room, row)
    return Change(
        room,
        key & OFFSET_MASK,
        username,
        text or "",
        timestamp,
        user,
        _KINDS[kind],
        target,
        emoji or "",
        bool(remove),
    )


def message_of(room: str, row: Sequence[Any]) -> Message:
    """The message in a row that `SELECT` has read; the row's kind must be 0."""
    key, _, user, username, text, timestamp, id, _, _, _, edited, deleted, reactions = row
    return Message(
        room,
        key & OFFSET_MASK,
        username,
        text or "",
        timestamp,
        user,
        id,
        edited,
        bool(deleted),
        None if reactions is None else _load_reactions(reactions),
    )


def dump_reactions(reactions: Mapping[str, Sequence[Reactor]] | None) -> str | None:
    """Reactions as JSON, for the column of the same name: emoji -> [[user, username], ...]."""
    # orjson calls `default` for types that it does not know, which here are named tuples.
    return None if reactions is None else orjson.dumps(reactions, default=tuple).decode()


def _load_reactions(reactions: str) -> dict[str, tuple[Reactor, ...]]:
    return {
        emoji: tuple(Reactor(user, username) for user, username in reactors)
        for emoji, reactors in orjson.loads(reactions).items()
    }


def stored(
    db: apsw.Connection, room: str, number: int, first: int = 0, last: int = OFFSET_MASK
) -> Iterator[Publication]:
    """The stored publications of a room from offset `first` to `last`, oldest first.

    The iterator reads each row only when it is asked for the next publication.
    """
    keys = number << OFFSET_BITS | first, number << OFFSET_BITS | last
    for row in db.execute(f"{SELECT} ORDER BY key", keys):
        yield publication_of(room, row)


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turn SQLite's errors in the block into HistoryError."""
    try:
        yield
    except apsw.Error as error:
        raise history_error(error) from error


def history_error(error: apsw.Error) -> HistoryError:
    """What an error of SQLite means for the history."""
    if isinstance(error, apsw.BusyError):
        return HistoryError("another program has locked the file of the history")
    return HistoryError(str(error))
