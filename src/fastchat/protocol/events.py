"""Events: the server's messages to one client or to a room, except publications.

docs/protocol.md is the reference ("Events", "Files"). Each function returns the payload of one
text message. `ref` is that of the command which the event answers; None if the command had none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import orjson

from fastchat.errors import CloseCode, CommandError
from fastchat.protocol.options import RoomOptions
from fastchat.protocol.publications import Position

__all__ = [
    "FILES_URL",
    "MAX_REPLY_BYTES",
    "MAX_ROOMS",
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
    "presence_list",
    "removed",
    "renewed",
    "results",
    "room_changed",
    "room_deleted",
    "typing",
    "upload",
    "user_erased",
]

#: Rooms that one client can be in.
MAX_ROOMS = 128
#: The size of the encoded publications in one reply. With the hub's limits for its log and
#: backlog, a client that does not read needs less than 1.5 MB.
MAX_REPLY_BYTES = 256 * 1024
#: The path to which files are posted. A file's address is this path, a slash and the file's id.
FILES_URL = "/files"


def joined(
    room: str,
    user: str,
    username: str | None,
    session: str,
    position: Position,
    *,
    recovered: bool,
    messages: Sequence[bytes],
    users: Sequence[tuple[str | None, str]] | None,
    online: int,
    spectators: int,
    rights: Collection[str],
    max_file_bytes: int | None = None,
    options: RoomOptions | None = None,
    ref: str | None,
) -> bytes:
    """The reply to `join`.

    * `position`: the end of the room's stream; what follows it is delivered after this reply.
    * `recovered`: whether `messages` are all publications that the client has missed.
    * `messages`: encoded publications, oldest first.
    * `username`: None for a spectator.
    * `users`: the names and ids of all users in the room, in the order in which they came; None in
      a crowd. `online` is their number, and `spectators` that of the spectators' connections.
    * `rights`: what the client can do in the room.
    * `max_file_bytes`: the size of the largest file; None if the server does not accept files.
    * `options`: those of the room; None if nothing was set.
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
        "users": _listed(users),
        "online": online,
        "spectators": spectators,
        "rights": sorted(rights),
    }
    if max_file_bytes is not None:
        fields["files"] = {"max_bytes": max_file_bytes}
    if options is not None and (changed := options.changed()):
        fields["options"] = changed
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


def presence(room: str, online: int, spectators: int) -> bytes:
    """The numbers of users and of spectators' connections in a room.

    It is sent instead of many `join` and `leave` events, and when the number of spectators changes.
    """
    return _event({"type": "presence", "room": room, "online": online, "spectators": spectators})


def presence_list(
    room: str, online: int, spectators: int, users: Sequence[tuple[str | None, str]] | None
) -> bytes:
    """The numbers, and the whole list of users when a crowd ends, or None when a crowd begins."""
    return _event(
        {
            "type": "presence",
            "room": room,
            "online": online,
            "spectators": spectators,
            "users": _listed(users),
        }
    )


def room_changed(room: str, options: RoomOptions) -> bytes:
    """Options of a room were set; these are all that differ from those of other rooms."""
    return _event({"type": "room", "room": room, "options": options.changed()})


def room_deleted(room: str) -> bytes:
    """A room was deleted with everything in it; the connections of its members are closed."""
    return _event({"type": "room_deleted", "room": room})


def user_erased(room: str, user: str) -> bytes:
    """What a user has said in a room was erased: their messages are deleted, and have no author."""
    return _event({"type": "user_erased", "room": room, "user": user})


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


def renewed(
    room: str,
    user: str,
    username: str | None,
    expires: str,
    *,
    rights: Collection[str],
    ref: str | None,
) -> bytes:
    """The reply to a `join` with a new token for a room that the client is in.

    `rights` are those that the new token grants in the room.
    """
    return _event(
        {
            "type": "renewed",
            "room": room,
            "user": user,
            "username": username,
            "expires": expires,
            "rights": sorted(rights),
        },
        ref=ref,
    )


def removed(room: str, user: str, username: str | None, seconds: int, *, ref: str | None) -> bytes:
    """The reply to `remove`, sent to the moderator; `username` is None for a spectator."""
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


def _listed(users: Sequence[tuple[str | None, str]] | None) -> list[dict[str, str | None]] | None:
    """Users in the form of the wire."""
    return None if users is None else [{"user": id, "username": name} for name, id in users]


def _event(fields: dict[str, Any], *, ref: str | None = None, id: str | None = None) -> bytes:
    if ref is not None:
        fields["ref"] = ref
    if id is not None:
        fields["id"] = id
    return orjson.dumps(fields)
