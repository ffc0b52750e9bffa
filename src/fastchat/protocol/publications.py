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
    "Change",
    "ChangeDraft",
    "Draft",
    "Kind",
    "Message",
    "MessageDraft",
    "Position",
    "Publication",
    "encode",
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


class Message(NamedTuple):
    """A message in its present state, as a history has it.

    `timestamp` is RFC 3339 in UTC with milliseconds, and so is `edited`, the time of the last
    edit. A deleted message has an empty text. `reactions` has, by emoji, the names of the users
    who reacted. `author` tells users of one name apart, and does not travel.
    """

    room: str
    offset: int
    username: str
    text: str
    timestamp: str
    author: str
    id: str | None = None
    edited: str | None = None
    deleted: bool = False
    reactions: Mapping[str, Sequence[str]] | None = None

    @property
    def owner(self) -> str:
        return _owner_of(self.username, self.author)


class Change(NamedTuple):
    """An edit, a deletion or a reaction: a publication about the message at `target`.

    Only an edit has a `text`, which is empty once its message is deleted. Only a reaction has
    an `emoji`; with `remove`, it is taken back.
    """

    room: str
    offset: int
    username: str
    text: str
    timestamp: str
    author: str
    kind: Kind
    target: int
    emoji: str = ""
    remove: bool = False


#: What a room's stream consists of: stored, numbered, and delivered to everyone in the room.
Publication = Message | Change


class MessageDraft(NamedTuple):
    """A message that a client asks to be published; the history gives it an offset."""

    room: str
    username: str
    text: str
    timestamp: str
    author: str
    id: str | None = None

    @property
    def owner(self) -> str:
        """The user to whom the `id` belongs: a draft with the same one is a repetition."""
        return _owner_of(self.username, self.author)

    def numbered(self, offset: int) -> Message:
        room, username, text, timestamp, author, id = self
        return Message(room, offset, username, text, timestamp, author, id)


class ChangeDraft(NamedTuple):
    """A change that a client asks to be published, if it may be made.

    With `moderated`, the client may change what others wrote.
    """

    room: str
    username: str
    text: str
    timestamp: str
    author: str
    kind: Kind
    target: int
    emoji: str = ""
    remove: bool = False
    moderated: bool = False

    @property
    def id(self) -> None:
        """A change has none."""

    def numbered(self, offset: int) -> Change:
        room, username, text, timestamp, author, kind, target, emoji, remove, _ = self
        return Change(room, offset, username, text, timestamp, author, kind, target, emoji, remove)


#: What a client asks to be published.
Draft = MessageDraft | ChangeDraft


def _owner_of(username: str, author: str) -> str:
    """A token's author, who may have several names; otherwise the name."""
    return author if author.startswith(SUBJECT) else username


def encode(publication: Publication) -> bytes:
    """A publication as everyone in its room gets it, a message with its present state."""
    if isinstance(publication, Message):
        return _encode_message(publication)
    return _encode_change(publication)


def _encode_message(message: Message) -> bytes:
    room, offset, username, text, timestamp, _, id, edited, deleted, reactions = message
    fields: dict[str, Any] = {
        "type": "message",
        "room": room,
        "offset": offset,
        "username": username,
        "text": text,
        "timestamp": timestamp,
    }
    if id is not None:
        fields["id"] = id
    if edited is not None:
        fields["edited"] = edited
    if deleted:
        fields["deleted"] = True
    if reactions:
        fields["reactions"] = reactions
    return orjson.dumps(fields)


def _encode_change(change: Change) -> bytes:
    fields: dict[str, Any] = {
        "type": change.kind,
        "room": change.room,
        "offset": change.offset,
        "username": change.username,
    }
    if change.kind is Kind.EDIT:
        fields["text"] = change.text
    fields["timestamp"] = change.timestamp
    fields["target"] = change.target
    if change.kind is Kind.REACT:
        fields["emoji"] = change.emoji
        if change.remove:
            fields["remove"] = True
    return orjson.dumps(fields)


def timestamp_of(seconds: float) -> str:
    """Seconds since 1970 as RFC 3339 in UTC with milliseconds."""
    return _timestamp_of_ms(int(seconds * 1000))


@lru_cache(maxsize=8)  # one burst of messages shares its millisecond
def _timestamp_of_ms(milliseconds: int) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{strftime('%Y-%m-%dT%H:%M:%S', gmtime(seconds))}.{rest:03d}Z"
