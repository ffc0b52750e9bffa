"""Publications: the items of a room's stream, their drafts, and their encoding for clients.

A client's command becomes a draft. The history gives the draft an offset, which makes it a
publication. docs/protocol.md is the reference ("Publications").
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

#: The prefix of the `author` of a user with a token; the token's `sub` follows it.
SUBJECT = "sub:"


class Position(NamedTuple):
    """A place in a room's stream: the epoch of its history, and an offset."""

    epoch: str
    offset: int


class Kind(StrEnum):
    """The kind of a publication. The values are the `type` on the wire."""

    MESSAGE = "message"
    EDIT = "edit"
    DELETE = "delete"
    REACT = "react"


class Message(NamedTuple):
    """A message in its present state.

    * `timestamp`, `edited`: times in RFC 3339, UTC, with milliseconds. `edited` is the time of
      the last edit; None if there was none.
    * `text`: empty if the message is deleted.
    * `author`: tells apart users of the same name; it is not sent to clients.
    * `id`: the client's own identifier of the message; None if it gave none.
    * `reactions`: for each emoji the names of the users who reacted with it.
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
        """The user to whom the `id` belongs (see `MessageDraft.owner`)."""
        return _owner_of(self.username, self.author)


class Change(NamedTuple):
    """An edit, a deletion or a reaction: a publication that changes the message at `target`.

    Only an edit has a `text`, which becomes empty when the message is deleted. Only a reaction
    has an `emoji`; with `remove`, the reaction is removed from the message.
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


#: An item of a room's stream: it is numbered, stored, and delivered to all members of the room.
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
        """The user to whom the `id` belongs.

        A draft with the same owner, room and `id` as a published message is a repetition.
        """
        return _owner_of(self.username, self.author)

    def numbered(self, offset: int) -> Message:
        """The message that this draft becomes at an offset."""
        room, username, text, timestamp, author, id = self
        return Message(room, offset, username, text, timestamp, author, id)


class ChangeDraft(NamedTuple):
    """A change that a client asks to be published; the history checks whether it is allowed.

    `moderated` says whether the client may change messages of other authors.
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
        """None: a change has no id, so repeating it is not noticed."""

    def numbered(self, offset: int) -> Change:
        """The change that this draft becomes at an offset."""
        room, username, text, timestamp, author, kind, target, emoji, remove, _ = self
        return Change(room, offset, username, text, timestamp, author, kind, target, emoji, remove)


#: A publication that has no offset yet.
Draft = MessageDraft | ChangeDraft


def _owner_of(username: str, author: str) -> str:
    """The author if it comes from a token, because that user can have several names.

    Otherwise the name: the author of a user without a token changes with the session.
    """
    return author if author.startswith(SUBJECT) else username


def encode(publication: Publication) -> bytes:
    """The payload with which all members of a room receive a publication."""
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
    """A time in RFC 3339, UTC, with milliseconds, from seconds since 1970."""
    return _timestamp_of_ms(int(seconds * 1000))


@lru_cache(maxsize=8)  # the messages of a burst have the same millisecond
def _timestamp_of_ms(milliseconds: int) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{strftime('%Y-%m-%dT%H:%M:%S', gmtime(seconds))}.{rest:03d}Z"
