"""Events: the server's messages to one client or to a room, except publications.

docs/protocol.md is the reference ("Events", "Files"). Each function returns the payload of one
text message. `ref` is that of the command which the event answers; None if the command had none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import orjson

from fastchat.errors import CloseCode, CommandError
from fastchat.protocol.publications import Position

__all__ = [
    "FILES_URL",
    "MAX_REPLY_BYTES",
    "MAX_ROOMS",
    "MAX_USERS_LISTED",
    "ack",
    "closing",
    "error",
    "file",
    "history",
    "joined",
    "left",
    "pong",
    "presence",
    "presence_change",
    "removed",
    "renewed",
    "results",
    "typing",
    "upload",
]

#: Rooms that one client can be in.
MAX_ROOMS = 128
#: Names in one `joined`. A big room has more users; `online` has their number.
MAX_USERS_LISTED = 200
#: The size of the encoded publications in one reply. With the hub's limits for its log and
#: backlog, a client that does not read needs less than 1.5 MB.
MAX_REPLY_BYTES = 256 * 1024
#: The path to which files are posted. A file's address is this path, a slash and the file's id.
FILES_URL = "/files"


def joined(
    room: str,
    user: str,
    username: str,
    session: str,
    position: Position,
    *,
    recovered: bool,
    messages: Sequence[bytes],
    users: Sequence[tuple[str, str]],
    online: int,
    rights: Collection[str] | None = None,
    max_file_bytes: int | None = None,
    ref: str | None,
) -> bytes:
    """The reply to `join`.

    * `position`: the end of the room's stream; what follows it is delivered after this reply.
    * `recovered`: whether `messages` are all publications that the client has missed.
    * `messages`: encoded publications, oldest first.
    * `users`: the names and ids of some users in the room; `online` is the number of all.
    * `rights`: the rights of the client's token in the room; None if the server needs no token.
    * `max_file_bytes`: the size of the largest file; None if the server does not accept files.
    """
    fields: dict[str, Any] = {
        "type": "joined",
        "room": room,
        "user": user,
        "username": username,
        "session": session,
        "epoch": position.epoch,
        "offset": position.offset,
        "timestamp": position.timestamp,
        "recovered": recovered,
        "messages": [orjson.Fragment(message) for message in messages],
        "users": [{"user": id, "username": name} for name, id in users],
        "online": online,
    }
    if rights is not None:
        fields["rights"] = sorted(rights)
    if max_file_bytes is not None:
        fields["files"] = {"max_bytes": max_file_bytes}
    return _event(fields, ref=ref)


def left(room: str, *, ref: str | None) -> bytes:
    """The reply to `leave`."""
    return _event({"type": "left", "room": room}, ref=ref)


def presence_change(
    kind: str, room: str, user: str, username: str, timestamp: str, online: int
) -> bytes:
    """A user has joined or left a room; `kind` is "join" or "leave"."""
    verb = "joined" if kind == "join" else "left"
    return _event(
        {
            "type": kind,
            "room": room,
            "user": user,
            "username": username,
            "text": f"{username} {verb} the chat",
            "timestamp": timestamp,
            "online": online,
        }
    )


def presence(room: str, online: int) -> bytes:
    """The number of users in a big room, sent instead of many `join` and `leave` events."""
    return _event({"type": "presence", "room": room, "online": online})


def typing(room: str, user: str, username: str) -> bytes:
    """A user is writing a message; sent to the other members of the room."""
    return _event({"type": "typing", "room": room, "user": user, "username": username})


def ack(id: str, room: str, offset: int) -> bytes:
    """The reply to a message that repeats another one, which was published at `offset`."""
    return _event({"type": "ack", "id": id, "room": room, "offset": offset})


def history(room: str, messages: Sequence[bytes], *, more: bool, ref: str | None) -> bytes:
    """The reply to `history`.

    `messages` are encoded publications, oldest first. `more` says whether the history has
    further ones in the direction that the client asked for.
    """
    fragments = [orjson.Fragment(message) for message in messages]
    return _event({"type": "history", "room": room, "messages": fragments, "more": more}, ref=ref)


def results(room: str, messages: Sequence[bytes], *, ref: str | None) -> bytes:
    """The reply to `search`; `messages` are encoded publications, newest first."""
    fragments = [orjson.Fragment(message) for message in messages]
    return _event({"type": "results", "room": room, "messages": fragments}, ref=ref)


def renewed(room: str, user: str, username: str, expires: str, *, ref: str | None) -> bytes:
    """The reply to a `join` with a new token for a room that the client is in."""
    return _event(
        {"type": "renewed", "room": room, "user": user, "username": username, "expires": expires},
        ref=ref,
    )


def removed(room: str, user: str, username: str, seconds: int, *, ref: str | None) -> bytes:
    """The reply to `remove`, sent to the moderator."""
    return _event(
        {"type": "removed", "room": room, "user": user, "username": username, "seconds": seconds},
        ref=ref,
    )


def upload(room: str, ticket: str, chunk_bytes: int, *, ref: str | None) -> bytes:
    """The reply to `upload`.

    `ticket` is the secret with which the client sends the file by HTTP. `chunk_bytes` is the
    size of the largest binary message, if the client sends the file by WebSocket.
    """
    fields = {
        "type": "upload",
        "room": room,
        "ticket": ticket,
        "url": FILES_URL,
        "chunk_bytes": chunk_bytes,
    }
    return _event(fields, ref=ref)


def file(shared: Mapping[str, Any], *, ref: str | None) -> bytes:
    """The reply to the last chunk of a file; `ref` is that of the file's `upload`."""
    return _event({"type": "file", **shared}, ref=ref)


def error(refusal: CommandError) -> bytes:
    """The reply to a command that is refused."""
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
    """The reply to `ping`."""
    return _event({"type": "pong"}, ref=ref)


def closing(code: CloseCode, reason: str, reconnect_after_ms: int) -> bytes:
    """The server will close the connection.

    The client should connect again after `reconnect_after_ms`.
    """
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
