"""Events: what the server says besides publications, to one client or to a room.

docs/protocol.md is the reference ("Events", "Files"). Each function
returns the payload of one text message.
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
#: Names in a `joined`; `online` says how many users there are.
MAX_USERS_LISTED = 200
#: Publications in one reply, encoded: with what a stalled reader may hold otherwise
#: (the hub's log and backlog) it stays under 1.5 MB.
MAX_REPLY_BYTES = 256 * 1024
#: Where files are posted to; with their id behind it, where they are.
FILES_URL = "/files"


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
