"""Publications: the items of a room's stream, their drafts, and their encoding for clients.

A client's command becomes a draft. The history gives the draft an offset, which makes it a
publication. docs/protocol.md is the reference ("Publications").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache, partial
from itertools import count, repeat
from time import gmtime, strftime
from typing import Any, NamedTuple

import orjson

from fastchat._codec import (
    Encoder,
    Timestamps,
    make_draft,
    number_draft,
    pack_message,
    unpack_message,
)

__all__ = [
    "Change",
    "ChangeDraft",
    "Draft",
    "Kind",
    "Message",
    "MessageDraft",
    "ModeratorDraft",
    "Position",
    "PostedDraft",
    "Publication",
    "Reactor",
    "encodable",
    "encode",
    "encode_any",
    "is_posted",
    "message_draft",
    "numbered",
    "packed",
    "timestamp_of",
    "timestamps",
    "unpacked",
]


class Position(NamedTuple):
    """A place in a room's stream: the epoch of its history, and an offset.

    `timestamp` is that of the publication at `offset`, which tells two courses of a stream apart
    if they have the same epoch. It is None if it is not known, and at offset 0.
    """

    epoch: str
    offset: int
    timestamp: str | None = None

    def is_contradicted_by(self, publication: Publication | None) -> bool:
        """Whether a publication at this offset shows that the position is of another stream.

        None, for a publication that is not stored, shows nothing.
        """
        if publication is None or self.timestamp is None:
            return False
        return publication.timestamp != self.timestamp


class Kind(StrEnum):
    """The kind of a publication. The values are the `type` on the wire."""

    MESSAGE = "message"
    EDIT = "edit"
    DELETE = "delete"
    REACT = "react"


class Reactor(NamedTuple):
    """A user who has reacted to a message, and the name that the user had at that time."""

    user: str
    username: str


class Message(NamedTuple):
    """A message in its present state.

    * `timestamp`, `edited`: times in RFC 3339, UTC, with milliseconds. `edited` is the time of
      the last edit; None if there was none.
    * `text`: empty if the message is deleted.
    * `user`: the public id of the sender (`fastchat.protocol.users`), which does not change with
      the name.
    * `id`: the client's own identifier of the message; None if it gave none.
    * `reactions`: for each emoji the users who reacted with it.
    """

    room: str
    offset: int
    username: str
    text: str
    timestamp: str
    user: str
    id: str | None = None
    edited: str | None = None
    deleted: bool = False
    reactions: Mapping[str, Sequence[Reactor]] | None = None


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
    user: str
    kind: Kind
    target: int
    emoji: str = ""
    remove: bool = False


#: An item of a room's stream: it is numbered, stored, and delivered to all members of the room.
Publication = Message | Change


class MessageDraft(NamedTuple):
    """A message that a client asks to be published; the history gives it an offset.

    A draft with the same user, room and `id` as a published message is a repetition.
    """

    room: str
    username: str
    text: str
    timestamp: str
    user: str
    id: str | None = None

    def numbered(self, offset: int) -> Message:
        """The message that this draft becomes at an offset."""
        return number_draft(self, offset, Message)


class ModeratorDraft(MessageDraft):
    """A message of a moderator, which a room takes even if it is closed, read-only or slow."""

    __slots__ = ()


class PostedDraft(MessageDraft):
    """A message that a key or a webhook posts: a room takes it, and no rate of users limits it."""

    __slots__ = ()


class ChangeDraft(NamedTuple):
    """A change that a client asks to be published; the history checks whether it is allowed.

    `moderated` says whether the client may change messages of other users, and `posted` whether a
    key asks for the change, so that no rate of users limits it.
    """

    room: str
    username: str
    text: str
    timestamp: str
    user: str
    kind: Kind
    target: int
    emoji: str = ""
    remove: bool = False
    moderated: bool = False
    posted: bool = False

    @property
    def id(self) -> None:
        """None: a change has no id, so repeating it is not noticed."""

    def numbered(self, offset: int) -> Change:
        """The change that this draft becomes at an offset."""
        room, username, text, timestamp, user, kind, target, emoji, remove, *_ = self
        return Change(room, offset, username, text, timestamp, user, kind, target, emoji, remove)


#: `MessageDraft` with the same arguments, in a third of the time.
message_draft: Callable[[str, str, str, str, str, str | None], MessageDraft] = partial(
    make_draft, MessageDraft
)
#: A publication that has no offset yet.
Draft = MessageDraft | ChangeDraft


def numbered(drafts: Sequence[Draft], first: int) -> list[Publication]:
    """The publications that drafts become, with offsets from `first` on."""
    if any(issubclass(kind, ChangeDraft) for kind in set(map(type, drafts))):
        return [each.numbered(offset) for offset, each in enumerate(drafts, first)]
    return list(map(number_draft, drafts, count(first), repeat(Message)))


def is_posted(draft: Draft) -> bool:
    """Whether a draft is one of a key or a webhook, which have budgets of their own."""
    return draft.posted if isinstance(draft, ChangeDraft) else isinstance(draft, PostedDraft)


def encode_any(publication: Publication) -> bytes:
    """Do what `encode` does, without the compiled encoder for plain messages."""
    if isinstance(publication, Message):
        return _encode_message(publication)
    return _encode_change(publication)


#: Returns the payload with which all members of a room receive a publication.
encode: Callable[[Publication], bytes] = Encoder(encode_any)


def _encode_message(message: Message) -> bytes:
    room, offset, username, text, timestamp, user, id, edited, deleted, reactions = message
    fields: dict[str, Any] = {
        "type": "message",
        "room": room,
        "offset": offset,
        "user": user,
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
        fields["reactions"] = encodable(reactions)
    return orjson.dumps(fields)


def _encode_change(change: Change) -> bytes:
    fields: dict[str, Any] = {
        "type": change.kind,
        "room": change.room,
        "offset": change.offset,
        "user": change.user,
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


def packed(publication: Publication) -> bytes:
    """A publication as a line of JSON, which is short for a plain message."""
    return pack_message(publication) or encode_any(publication)


def unpacked(line: bytes, room: str, offset: int) -> Publication:
    """The publication in a line that `packed` has made, of this room and offset.

    Raises ValueError, TypeError, AttributeError or LookupError if there is none.
    """
    if line.startswith(b"["):
        return unpack_message(line, room, offset, Message)
    return _decode(line)


def _decode(payload: bytes) -> Publication:
    """The publication that was encoded as a payload."""
    fields = orjson.loads(payload)
    start = (
        *(fields["room"], fields["offset"], fields["username"], fields.get("text", "")),
        *(fields["timestamp"], fields["user"]),
    )
    kind = Kind(fields["type"])
    if kind is not Kind.MESSAGE:
        change = fields["target"], fields.get("emoji", ""), fields.get("remove", False)
        return Change(*start, kind, *change)
    reactions = {
        emoji: tuple(Reactor(**each) for each in reactors)
        for emoji, reactors in fields.get("reactions", {}).items()
    }
    state = fields.get("edited"), fields.get("deleted", False), reactions or None
    return Message(*start, fields.get("id"), *state)


def encodable(reactions: Mapping[str, Sequence[Reactor]]) -> dict[str, list[dict[str, str]]]:
    """Reactions as values for JSON, as they are on the wire."""
    return {
        emoji: [reactor._asdict() for reactor in reactors] for emoji, reactors in reactions.items()
    }


def timestamp_of(seconds: float) -> str:
    """A time in RFC 3339, UTC, with milliseconds, from seconds since 1970."""
    return _timestamp_of_ms(int(seconds * 1000))


def timestamps(clock: Callable[[], float]) -> Callable[[], str]:
    """A function that returns `timestamp_of(clock())`, in a tenth of the time."""
    return Timestamps(clock, _format_second)


@lru_cache(maxsize=8)  # the messages of a burst have the same millisecond
def _timestamp_of_ms(milliseconds: int) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{_format_second(seconds)}.{rest:03d}Z"


@lru_cache(maxsize=8)
def _format_second(seconds: int) -> str:
    return strftime("%Y-%m-%dT%H:%M:%S", gmtime(seconds))
