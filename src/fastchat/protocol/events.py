"""The wire's types, and what the server says: publications and events. No I/O.

docs/protocol.md is its reference; `fastchat.protocol.parsing` makes the commands of what
clients say. Past these two there is no dict and no ``message["type"]``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from time import gmtime, strftime
from typing import Any, NamedTuple

import orjson

from fastchat.errors import CloseCode, CommandError

__all__ = [
    "DEFAULT_HISTORY",
    "FILES_URL",
    "MAX_HISTORY",
    "MAX_REPLY_BYTES",
    "MAX_ROOMS",
    "MAX_USERS_LISTED",
    "SUBJECT",
    "Chunk",
    "Command",
    "Delete",
    "Edit",
    "GetHistory",
    "Join",
    "Kind",
    "Leave",
    "Message",
    "Ping",
    "Position",
    "Publication",
    "React",
    "Remove",
    "Search",
    "Typing",
    "Upload",
    "ack",
    "closing",
    "encode",
    "error",
    "file",
    "history",
    "joined",
    "left",
    "numbered",
    "pong",
    "presence",
    "presence_change",
    "removed",
    "renewed",
    "results",
    "timestamp_of",
    "typing",
    "upload",
]

DEFAULT_HISTORY = 50
MAX_HISTORY = 300
MAX_ROOMS = 128
MAX_USERS_LISTED = 200
#: Publications in one reply, encoded: with what a stalled reader may hold otherwise
#: (the hub's log and backlog) it stays under 1.5 MB.
MAX_REPLY_BYTES = 256 * 1024
#: How the `author` of somebody with a token begins; his `sub` follows.
SUBJECT = "sub:"
#: Where files are posted to; with their id behind it, where they are.
FILES_URL = "/files"


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


class Join(NamedTuple):
    room: str
    username: str | None = None
    history: int = DEFAULT_HISTORY
    since: Position | None = None
    session: str | None = None
    ref: str | None = None
    token: str | None = None


class Leave(NamedTuple):
    room: str | None
    ref: str | None = None


class Message(NamedTuple):
    text: str
    room: str | None = None
    id: str | None = None
    ref: str | None = None


class Typing(NamedTuple):
    room: str | None
    ref: str | None = None


class GetHistory(NamedTuple):
    """At most one of `before` and `after` is set; neither asks for the newest."""

    room: str | None
    before: int | None
    after: int | None
    limit: int
    ref: str | None = None


class Edit(NamedTuple):
    offset: int
    text: str
    room: str | None = None
    ref: str | None = None


class Delete(NamedTuple):
    offset: int
    room: str | None = None
    ref: str | None = None


class React(NamedTuple):
    offset: int
    emoji: str
    remove: bool
    room: str | None = None
    ref: str | None = None


class Search(NamedTuple):
    query: str
    limit: int
    room: str | None = None
    ref: str | None = None


class Remove(NamedTuple):
    """Somebody is to leave, and to stay out for so many seconds."""

    username: str
    seconds: int
    room: str | None = None
    ref: str | None = None


class Upload(NamedTuple):
    """A file of `size` bytes is to be shared in a room."""

    name: str
    size: int
    room: str | None = None
    ref: str | None = None


class Chunk(NamedTuple):
    """The next bytes of the file that was announced last: a binary message, which has no `ref`."""

    data: bytes
    ref: None = None


class Ping(NamedTuple):
    ref: str | None = None


Command = (
    Join
    | Leave
    | Message
    | Edit
    | Delete
    | React
    | Typing
    | GetHistory
    | Search
    | Remove
    | Upload
    | Chunk
    | Ping
)


# Publications and events out: each function returns the payload of one text message


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


def joined(
    room: str,
    username: str,
    session: str,
    position: Position,
    *,
    recovered: bool,
    messages: Sequence[bytes],
    users: Sequence[str],
    online: int,
    rights: Collection[str] | None = None,
    max_file_bytes: int | None = None,
    ref: str | None,
) -> bytes:
    """The reply to `join`; `messages` are encoded publications, oldest first.

    `rights` are what a token allows here; None where none is asked for.
    `max_file_bytes` is None where no files are taken.
    """
    fields: dict[str, Any] = {
        "type": "joined",
        "room": room,
        "username": username,
        "session": session,
        "epoch": position.epoch,
        "offset": position.offset,
        "recovered": recovered,
        "messages": [orjson.Fragment(message) for message in messages],
        "users": users,
        "online": online,
    }
    if rights is not None:
        fields["rights"] = sorted(rights)
    if max_file_bytes is not None:
        fields["files"] = {"max_bytes": max_file_bytes}
    return _event(fields, ref=ref)


def left(room: str, *, ref: str | None) -> bytes:
    return _event({"type": "left", "room": room}, ref=ref)


def presence_change(kind: str, room: str, username: str, timestamp: str, online: int) -> bytes:
    """`kind` is "join" or "leave"."""
    verb = "joined" if kind == "join" else "left"
    return _event(
        {
            "type": kind,
            "room": room,
            "username": username,
            "text": f"{username} {verb} the chat",
            "timestamp": timestamp,
            "online": online,
        }
    )


def presence(room: str, online: int) -> bytes:
    """What stands for many joins and leaves in a big room."""
    return _event({"type": "presence", "room": room, "online": online})


def typing(room: str, username: str) -> bytes:
    return _event({"type": "typing", "room": room, "username": username})


def ack(id: str, room: str, offset: int) -> bytes:
    """To the sender of a message that was published before, at `offset`."""
    return _event({"type": "ack", "id": id, "room": room, "offset": offset})


def history(room: str, messages: Sequence[bytes], *, more: bool, ref: str | None) -> bytes:
    """The reply to `history`; `messages` are encoded publications, oldest first."""
    fragments = [orjson.Fragment(message) for message in messages]
    return _event({"type": "history", "room": room, "messages": fragments, "more": more}, ref=ref)


def results(room: str, messages: Sequence[bytes], *, ref: str | None) -> bytes:
    """The reply to `search`; `messages` are encoded publications, the newest first."""
    fragments = [orjson.Fragment(message) for message in messages]
    return _event({"type": "results", "room": room, "messages": fragments}, ref=ref)


def renewed(username: str, expires: str, *, ref: str | None) -> bytes:
    """The reply to a `join` that brought a new token for a room the client is in."""
    return _event({"type": "renewed", "username": username, "expires": expires}, ref=ref)


def removed(room: str, username: str, seconds: int, *, ref: str | None) -> bytes:
    """The reply to `remove`, to the moderator."""
    fields = {"type": "removed", "room": room, "username": username, "seconds": seconds}
    return _event(fields, ref=ref)


def upload(room: str, ticket: str, chunk_bytes: int, *, ref: str | None) -> bytes:
    """The reply to `upload`; `ticket` is a secret, `chunk_bytes` the largest binary message."""
    fields = {
        "type": "upload",
        "room": room,
        "ticket": ticket,
        "url": FILES_URL,
        "chunk_bytes": chunk_bytes,
    }
    return _event(fields, ref=ref)


def file(shared: Mapping[str, Any], *, ref: str | None) -> bytes:
    """To who has sent all of a file by binary messages; `ref` is that of its `upload`."""
    return _event({"type": "file", **shared}, ref=ref)


def error(refusal: CommandError) -> bytes:
    fields: dict[str, Any] = {
        "type": "error",
        "code": refusal.code,
        "message": refusal.message,
        "temporary": refusal.temporary,
    }
    if refusal.retry_after_ms is not None:
        fields["retry_after_ms"] = refusal.retry_after_ms
    return _event(fields, ref=refusal.ref, id=refusal.id)


def pong(*, ref: str | None) -> bytes:
    return _event({"type": "pong"}, ref=ref)


def closing(code: CloseCode, reason: str, reconnect_after_ms: int) -> bytes:
    return _event(
        {
            "type": "closing",
            "code": code,
            "reason": reason,
            "reconnect_after_ms": reconnect_after_ms,
        }
    )


def _event(fields: dict[str, Any], *, ref: str | None = None, id: str | None = None) -> bytes:
    if ref is not None:
        fields["ref"] = ref
    if id is not None:
        fields["id"] = id
    return orjson.dumps(fields)


def timestamp_of(seconds: float) -> str:
    """Seconds since 1970 as RFC 3339 in UTC with milliseconds."""
    return _timestamp_of_ms(int(seconds * 1000))


@lru_cache(maxsize=8)  # one burst of messages shares its millisecond
def _timestamp_of_ms(milliseconds: int) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{strftime('%Y-%m-%dT%H:%M:%S', gmtime(seconds))}.{rest:03d}Z"
