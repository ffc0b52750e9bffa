"""Rows of the table `publications`, and the texts in them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import orjson

from fastchat.history.rows import dump_reactions
from fastchat.protocol import Change, Kind, Message, Publication, Reactor

__all__ = [
    "COLUMNS",
    "KINDS",
    "NULL",
    "NUMBER_OF_KIND",
    "SEPARATOR",
    "STORED",
    "column_of",
    "digest_of",
    "escaped",
    "publication_of",
    "row_of",
    "unescaped",
]

#: The column `kind` has the index of a publication's kind.
KINDS = (Kind.MESSAGE, Kind.EDIT, Kind.DELETE, Kind.REACT)
NUMBER_OF_KIND = {kind: number for number, kind in enumerate(KINDS)}
#: What `publication_of` needs, in its order, from a table that is called `p`.
COLUMNS = (
    'p."offset", p.kind, p."user", p.username, p.text, p.timestamp, p.id, p.target, p.emoji, '
    "p.remove, p.edited, p.deleted, p.reactions"
)
#: The columns for which `row_of` makes values.
STORED = (
    *("room", "offset", "kind", "user", "username", "text", "timestamp", "id"),
    *("target", "emoji", "remove", "edited", "deleted", "reactions"),
)

#: In a column for the ledger's `split_1`: what is between two texts, and what stands for no text.
SEPARATOR, NULL = "\x1e", "\1"


def escaped(text: str) -> str:
    """A text as PostgreSQL can store it, which has no U+0000.

    It does not have the `SEPARATOR` either, and is not `NULL`.
    """
    if "\0" not in text and "\1" not in text and SEPARATOR not in text:
        return text
    return text.replace("\1", "\1\3").replace("\0", "\1\2").replace(SEPARATOR, "\1\4")


def column_of(texts: Sequence[str]) -> str:
    """Texts as one text, which the ledger's `split_1` takes apart. Each of them is escaped."""
    column = SEPARATOR.join(texts)
    if "\0" in column or "\1" in column or column.count(SEPARATOR) >= len(texts):
        return SEPARATOR.join(map(escaped, texts))
    return column


def unescaped(text: str) -> str:
    """The text that `escaped` was given."""
    if "\1" not in text:
        return text
    return text.replace("\1\4", SEPARATOR).replace("\1\2", "\0").replace("\1\3", "\1")


def digest_of(room: str, user: str, id: str) -> bytes:
    """What the ledger remembers of a message's `id`, which belongs to the user in the room."""
    text = f"{len(room)} {len(user)} {room}{user}{id}"
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def publication_of(room: str, row: Sequence[Any]) -> Publication:
    """The publication in a row with `COLUMNS`."""
    offset, kind, user, username, text, timestamp, id, target, emoji, remove, *state = row
    user, username = unescaped(user), unescaped(username)
    text = "" if text is None else unescaped(text)
    if kind == 0:
        edited, deleted, reactions = state
        return Message(
            room,
            offset,
            username,
            text,
            timestamp,
            user,
            None if id is None else unescaped(id),
            edited,
            bool(deleted),
            None if reactions is None else _reactions(reactions),
        )
    return Change(
        room,
        offset,
        username,
        text,
        timestamp,
        user,
        KINDS[kind],
        target,
        emoji or "",
        bool(remove),
    )


def row_of(room: int, publication: Publication) -> tuple[Any, ...]:
    """The values of a publication for the columns `STORED`."""
    _, offset, username, text, timestamp, user, *_ = publication
    start = (escaped(user), escaped(username), escaped(text), timestamp)
    if isinstance(publication, Message):
        _, _, _, _, _, _, id, edited, deleted, reactions = publication
        state = (edited, deleted or None, dump_reactions(reactions))
        id = None if id is None else escaped(id)
        return (room, offset, 0, *start, id, None, None, None, *state)
    _, _, _, _, _, _, kind, target, emoji, remove = publication
    change = (target, emoji or None, remove or None)
    return (room, offset, NUMBER_OF_KIND[kind], *start, None, *change, None, None, None)


def _reactions(stored: str) -> dict[str, tuple[Reactor, ...]]:
    return {
        emoji: tuple(Reactor(user, name) for user, name in reactors)
        for emoji, reactors in orjson.loads(stored).items()
    }
