"""The wire: commands in, publications and events out. No I/O.

docs/protocol.md is its reference. `parse` makes a typed command of a payload, or
raises; past this module there is no dict and no ``message["type"]``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from time import gmtime, strftime
from typing import Any, NamedTuple

import orjson

from fastchat.errors import CloseCode, CommandError, ErrorCode, Violation
from fastchat.names import check_room, check_username

__all__ = [
    "DEFAULT_HISTORY",
    "MAX_HISTORY",
    "MAX_REPLY_BYTES",
    "MAX_ROOMS",
    "MAX_USERS_LISTED",
    "Command",
    "GetHistory",
    "Join",
    "Leave",
    "Message",
    "Ping",
    "Position",
    "Publication",
    "Typing",
    "ack",
    "closing",
    "encode",
    "error",
    "history",
    "join_from_query",
    "joined",
    "left",
    "parse",
    "pong",
    "presence",
    "presence_change",
    "timestamp_of",
    "typing",
]

DEFAULT_HISTORY = 50
MAX_HISTORY = 300
MAX_ROOMS = 128
MAX_TEXT_CHARS = 4000
MAX_TOKEN_BYTES = 64  # of an `id`, a `ref`, a `session`, an epoch
MIN_SESSION_BYTES = 16
MAX_USERS_LISTED = 200
MAX_OFFSET = 2**53 - 1  # what JavaScript counts exactly
MAX_KEYS = 32  # of a command; the longest has 7
#: Publications in one reply, encoded: with what a stalled reader may hold otherwise
#: (the hub's log and backlog) it stays under 1.5 MB.
MAX_REPLY_BYTES = 256 * 1024


class Position(NamedTuple):
    """A place in a room's stream: the epoch of its history, and an offset."""

    epoch: str
    offset: int


class Publication(NamedTuple):
    """What is stored, numbered, and delivered to everyone in its room.

    `offset` is 0 until the history has given it one. `timestamp` is RFC 3339 in
    UTC with milliseconds.
    """

    room: str
    offset: int
    username: str
    text: str
    timestamp: str
    id: str | None = None


class Join(NamedTuple):
    room: str
    username: str | None = None
    history: int = DEFAULT_HISTORY
    since: Position | None = None
    session: str | None = None
    ref: str | None = None


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


class Ping(NamedTuple):
    ref: str | None = None


Command = Join | Leave | Message | Typing | GetHistory | Ping


# Commands in


def parse(payload: bytes) -> Command:
    """The command in a text message.

    Raises CommandError (`bad_json`, `bad_command`, `too_long`, `bad_room`,
    `bad_username`) with the command's `ref` and `id` where they could be read, and
    Violation 1007 when the payload is not UTF-8.
    """
    fields = _load(payload)
    kind = fields.get("type", "message")
    parser = _PARSERS.get(kind) if type(kind) is str else None
    try:
        if parser is None:
            raise _bad_command("There is no command of this type.")
        return parser(fields)
    except CommandError as refusal:
        refusal.ref = _echo(fields.get("ref"))
        refusal.id = _echo(fields.get("id"))
        raise


def join_from_query(parameters: dict[str, str]) -> Join:
    """The `join` that the query of ``/ws?username=Alice&room=lobby`` stands for.

    `parameters` may further hold ``epoch`` and ``offset``, and ``history``.
    Raises CommandError as `parse` does.
    """
    fields: dict[str, Any] = {"username": parameters["username"]}
    if "room" in parameters:
        fields["room"] = parameters["room"]
    if "history" in parameters:
        fields["history"] = _decimal(parameters, "history")
    if "epoch" in parameters or "offset" in parameters:
        fields["since"] = {
            "epoch": parameters.get("epoch"),
            "offset": _decimal(parameters, "offset"),
        }
    return _join(fields)


def _decimal(parameters: dict[str, str], name: str) -> int | None:
    digits = parameters.get(name, "")
    return int(digits) if re.fullmatch("[0-9]{1,16}", digits, re.ASCII) else None


def _load(payload: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(payload)
    except orjson.JSONDecodeError:
        raise _not_loadable(payload) from None
    if type(fields) is not dict:
        raise _bad_command("A command is a JSON object.")
    if len(fields) > MAX_KEYS:
        raise _bad_command(f"A command has at most {MAX_KEYS} keys.")
    # orjson lets the last of two equal keys win. Quotes give a repeated key away:
    # a flat object without one has two for each key and each string in it, and
    # more only if a string holds an escaped quote.
    quotes = 2 * len(fields)
    for value in fields.values():
        if type(value) is str:
            quotes += 2
        elif type(value) is dict or type(value) is list:
            quotes = -1
            break
    if payload.count(b'"') != quotes:
        _check_slowly(payload)
    return fields


def _not_loadable(payload: bytes) -> CommandError | Violation:
    """Say why orjson refused: not UTF-8, not JSON, or beyond what the protocol allows."""
    try:
        json.loads(payload.decode())
    except UnicodeDecodeError:
        return Violation(CloseCode.INVALID_TEXT, "a text message must be UTF-8")
    except json.JSONDecodeError:
        return CommandError(ErrorCode.BAD_JSON, "This is not valid JSON.")
    except (ValueError, RecursionError):  # digits beyond Python's limit; nesting
        pass
    # NaN, Infinity, a number out of range, a lone surrogate: JSON to some, not to us.
    return _bad_command("A command has only strings and numbers in range, nested once at most.")


def _check_slowly(payload: bytes) -> None:
    """Refuse repeated keys and deep nesting, by a parser that sees each pair."""
    try:
        value = json.loads(payload, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise _bad_command("A command repeats no key.") from None
    for inner in value.values():
        children: Iterable[Any] = ()
        if type(inner) is dict:
            children = inner.values()
        elif type(inner) is list:
            children = inner
        if any(type(child) in (dict, list) for child in children):
            raise _bad_command("A command nests one object at most.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise ValueError("repeated key")
    return unique


def _message(fields: dict[str, Any]) -> Message:
    text = fields.get("text")
    if type(text) is not str:
        raise _bad_command("A message needs `text`, a string.")
    return Message(_clean_text(text), _room_or_none(fields), _token(fields, "id"), _ref(fields))


def _join(fields: dict[str, Any]) -> Join:
    room = fields.get("room")
    username = fields.get("username")
    return Join(
        room=check_room("lobby" if room is None else room),
        username=None if username is None else check_username(username),
        history=_count(fields, "history", DEFAULT_HISTORY, low=0),
        since=_since(fields.get("since")),
        session=_session(fields),
        ref=_ref(fields),
    )


def _leave(fields: dict[str, Any]) -> Leave:
    return Leave(_room_or_none(fields), _ref(fields))


def _typing(fields: dict[str, Any]) -> Typing:
    return Typing(_room_or_none(fields), _ref(fields))


def _ping(fields: dict[str, Any]) -> Ping:
    return Ping(_ref(fields))


def _get_history(fields: dict[str, Any]) -> GetHistory:
    before, after = _offset(fields, "before"), _offset(fields, "after")
    if before is not None and after is not None:
        raise _bad_command("`history` takes `before` or `after`, not both.")
    limit = _count(fields, "limit", DEFAULT_HISTORY, low=1)
    return GetHistory(_room_or_none(fields), before, after, limit, _ref(fields))


_PARSERS: dict[str, Callable[[dict[str, Any]], Command]] = {
    "message": _message,
    "join": _join,
    "leave": _leave,
    "typing": _typing,
    "history": _get_history,
    "ping": _ping,
}

# C0 but tab and line feed, DEL, C1: they show nothing and spoil terminals and logs.
_CONTROLS = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)])


def _clean_text(text: str) -> str:
    text = text.rstrip()
    if not text.isprintable():
        text = text.replace("\r\n", "\n").translate(_CONTROLS).rstrip()
    if not text:
        raise _bad_command("A message has at least one character.")
    if len(text) > MAX_TEXT_CHARS:
        raise CommandError(
            ErrorCode.TOO_LONG,
            f"A message has at most {MAX_TEXT_CHARS:,} characters; this one has {len(text):,}.",
        )
    return text


def _room_or_none(fields: dict[str, Any]) -> str | None:
    room = fields.get("room")
    return None if room is None else check_room(room)


def _token(fields: dict[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    if type(value) is str and value and len(value.encode()) <= MAX_TOKEN_BYTES:
        return value
    raise _bad_command(f"`{name}` is a string of 1 to {MAX_TOKEN_BYTES} bytes.")


def _ref(fields: dict[str, Any]) -> str | None:
    return _token(fields, "ref")


def _session(fields: dict[str, Any]) -> str | None:
    session = _token(fields, "session")
    if session is not None and len(session.encode()) < MIN_SESSION_BYTES:
        raise _bad_command(f"A `session` has at least {MIN_SESSION_BYTES} bytes.")
    return session


def _echo(value: Any) -> str | None:
    return value if type(value) is str and 0 < len(value.encode()) <= MAX_TOKEN_BYTES else None


def _since(value: Any) -> Position | None:
    if value is None:
        return None
    if type(value) is not dict:
        raise _bad_command("`since` is an object of `epoch` and `offset`.")
    epoch, offset = _token(value, "epoch"), _offset(value, "offset")
    if epoch is None or offset is None:
        raise _bad_command("`since` needs both `epoch`, a string, and `offset`, a number.")
    return Position(epoch, offset)


def _offset(fields: dict[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is None or (type(value) is int and 0 <= value <= MAX_OFFSET):
        return value
    raise _bad_command(f"`{name}` is an offset, a whole number from 0.")


def _count(fields: dict[str, Any], name: str, default: int, *, low: int) -> int:
    value = fields.get(name, default)
    if type(value) is int and low <= value <= MAX_HISTORY:
        return value
    raise _bad_command(f"`{name}` is a whole number from {low} to {MAX_HISTORY}.")


def _bad_command(message: str) -> CommandError:
    return CommandError(ErrorCode.BAD_COMMAND, message)


# Publications and events out: each function returns the payload of one text message


def encode(publication: Publication) -> bytes:
    """A publication as everyone in its room gets it."""
    room, offset, username, text, timestamp, id = publication
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
    return orjson.dumps(fields)


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
    ref: str | None,
) -> bytes:
    """The reply to `join`; `messages` are encoded publications, oldest first."""
    return _event(
        {
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
        },
        ref=ref,
    )


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


def error(refusal: CommandError) -> bytes:
    return _event(
        {
            "type": "error",
            "code": refusal.code,
            "message": refusal.message,
            "temporary": refusal.temporary,
        },
        ref=refusal.ref,
        id=refusal.id,
    )


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
