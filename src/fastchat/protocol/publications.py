"""Publications: what a room's stream consists of, and how each is encoded for clients.

docs/protocol.md is the reference ("Publications").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from time import gmtime, strftime
from typing import Any, NamedTuple

import orjson

__all__ = [
    "SUBJECT",
    "Kind",
    "Position",
    "Publication",
    "encode",
    "numbered",
    "timestamp_of",
]

#: The `author` of a user with a token is this, followed by the token's `sub`.
SUBJECT = "sub:"


class Position(NamedTuple):
    """A place in a room's stream: the epoch of its history, and an offset."""

    epoch: str
    offset: int


class Kind(StrEnum):
    """What a publication is; its `type` on the wire."""

    MESSAGE = "message"
    EDIT = "edit"
    DELETE = "delete"
    REACT = "react"


class Publication(NamedTuple):
    """What is stored, numbered, and delivered to everyone in its room.

    `offset` is 0 until the history has given it one. `timestamp` is RFC 3339 in
    UTC with milliseconds. An edit, a deletion and a reaction name their message in
    `target`; `emoji` and `remove` are a reaction's. `author` tells users of one
    name apart, and does not travel; nor does `moderated`, that he may change what others wrote.

    A message as a history has it carries its present state: when it was `edited`
    last, whether it is `deleted` (its text is empty then), and its `reactions`, the
    names of who reacted by emoji.
    """

    room: str
    offset: int
    username: str
    text: str
    timestamp: str
    id: str | None = None
    kind: Kind = Kind.MESSAGE
    target: int | None = None
    emoji: str | None = None
    remove: bool = False
    author: str = ""
    edited: str | None = None
    deleted: bool = False
    reactions: Mapping[str, Sequence[str]] | None = None
    moderated: bool = False

    @property
    def owner(self) -> str:
        """Whose the `id` is: his who has the token, or the name."""
        return self.author if self.author.startswith(SUBJECT) else self.username


def numbered(draft: Publication, offset: int) -> Publication:
    """A draft with its offset; `_replace` does the same in four times the time."""
    return tuple.__new__(Publication, (draft[0], offset, *draft[2:]))


def encode(publication: Publication) -> bytes:
    """A publication as everyone in its room gets it, a message with its present state."""
    room, offset, username, text, timestamp, id, kind = publication[:7]
    edited, deleted, reactions = publication[11:14]
    fields: dict[str, Any] = {
        "type": kind,
        "room": room,
        "offset": offset,
        "username": username,
        "text": text,
        "timestamp": timestamp,
    }
    if id is not None:
        fields["id"] = id
    if kind is not Kind.MESSAGE or edited or deleted or reactions:
        _add_state(fields, publication)
    return orjson.dumps(fields)


def _add_state(fields: dict[str, Any], publication: Publication) -> None:
    """What all but a message as it was sent carries besides."""
    if publication.kind is Kind.MESSAGE:
        if publication.edited is not None:
            fields["edited"] = publication.edited
        if publication.deleted:
            fields["deleted"] = True
        if publication.reactions:
            fields["reactions"] = publication.reactions
        return
    fields["target"] = publication.target
    if publication.kind is not Kind.EDIT:
        del fields["text"]
    if publication.kind is Kind.REACT:
        fields["emoji"] = publication.emoji
        if publication.remove:
            fields["remove"] = True


def timestamp_of(seconds: float) -> str:
    """Seconds since 1970 as RFC 3339 in UTC with milliseconds."""
    return _timestamp_of_ms(int(seconds * 1000))


@lru_cache(maxsize=8)  # one burst of messages shares its millisecond
def _timestamp_of_ms(milliseconds: int) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{strftime('%Y-%m-%dT%H:%M:%S', gmtime(seconds))}.{rest:03d}Z"
