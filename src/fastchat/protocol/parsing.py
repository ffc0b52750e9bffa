"""Parses the payloads of clients into typed commands, or refuses them.

docs/protocol.md is the reference; `fastchat.protocol.commands` has the types.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

import orjson

from fastchat._codec import Parser
from fastchat.errors import CloseReason, CommandError, ErrorCode, Violation
from fastchat.protocol.commands import (
    DEFAULT_HISTORY,
    MAX_HISTORY,
    Command,
    Delete,
    Edit,
    GetHistory,
    Join,
    Leave,
    Ping,
    React,
    Remove,
    Search,
    Send,
    Typing,
    Upload,
)
from fastchat.protocol.names import DEFAULT_ROOM, MAX_ROOM_CHARS, check_room, check_username
from fastchat.protocol.publications import Position
from fastchat.protocol.users import check_user
from fastchat.protocol.values import (
    MAX_OFFSET,
    MAX_TEXT_CHARS,
    MAX_TOKEN_BYTES,
    check_emoji,
    check_epoch,
    check_id,
    check_text,
)

__all__ = ["join_from_query", "parse", "parse_any"]

#: A session is a secret; a shorter one could be guessed.
MIN_SESSION_BYTES = 16
#: Keys of a command. The longest command has 7; unknown keys are ignored.
MAX_KEYS = 32
MAX_QUERY_CHARS = 200
#: Windows allows 255 UTF-16 units, which take up to 765 bytes. `fastchat.files` shortens names.
MAX_FILE_NAME_BYTES = 1024
#: Messages that a search returns if the client gives no `limit`.
DEFAULT_RESULTS = 50
#: Seconds for which a removed user stays out if the moderator gives none, and at most.
DEFAULT_REMOVAL_S = 600
MAX_REMOVAL_S = 30 * 86400


def parse_any(payload: bytes) -> Command:
    """Do what `parse` does, without the compiled parser for plain messages."""
    fields = _load(payload)
    kind = fields.get("type", "message")
    parser = _PARSERS.get(kind) if type(kind) is str else None
    try:
        if parser is None:
            raise _bad_command("`type` is not the type of any command.")
        return parser(fields)
    except CommandError as refusal:
        refusal.ref = _echo(fields.get("ref"))
        refusal.id = _echo(fields.get("id"))
        raise


#: Returns the command in the payload of a text message.
#:
#: Raises CommandError (`bad_json`, `bad_command`, `too_long`, `bad_room`, `bad_username`) with
#: the command's `ref` and `id` if they could be read. Raises Violation 1007 if the payload is not
#: UTF-8.
parse: Callable[[bytes], Command] = Parser(
    parse_any, Send, MAX_TEXT_CHARS, MAX_ROOM_CHARS, MAX_TOKEN_BYTES
)


def join_from_query(parameters: dict[str, str]) -> Join:
    """The `join` in the query of an address like ``/ws?username=Alice&room=lobby``.

    `parameters` can have ``username``, ``room``, ``history``, ``epoch``, ``offset`` and
    ``timestamp``. Raises CommandError as `parse` does.
    """
    fields: dict[str, Any] = {
        name: parameters[name] for name in ("username", "room") if name in parameters
    }
    if "history" in parameters:
        fields["history"] = _decimal(parameters, "history")
    if "epoch" in parameters or "offset" in parameters:
        fields["since"] = {
            "epoch": parameters.get("epoch"),
            "offset": _decimal(parameters, "offset"),
            "timestamp": parameters.get("timestamp"),
        }
    return _join(fields)


def _decimal(parameters: dict[str, str], name: str) -> int | None:
    """The number in a parameter; None if it is missing or not a decimal number."""
    digits = parameters.get(name, "")
    return int(digits) if re.fullmatch("[0-9]{1,16}", digits, re.ASCII) else None


def _load(payload: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(payload)
    except orjson.JSONDecodeError:
        raise _not_loadable(payload) from None
    if type(fields) is not dict:
        raise _bad_command("A command must be a JSON object.")
    if len(fields) > MAX_KEYS:
        raise _bad_command(f"A command can have at most {MAX_KEYS} keys.")
    # If a key is repeated, orjson takes the last value. A count of the quotes finds repeated keys
    # cheaply: an object without them has two quotes for each key and each string, and more only
    # if a string has an escaped quote. If the count differs, a slower parser decides.
    quotes = 2 * len(fields)
    for value in fields.values():
        if type(value) is str:
            quotes += 2
        elif type(value) is dict or type(value) is list:
            quotes += _quotes_inside(value)
    if payload.count(b'"') != quotes:
        _check_slowly(payload)
    return fields


def _quotes_inside(inner: dict[str, Any] | list[Any]) -> int:
    """The quotes in an object or list inside a command; raises if it is nested more deeply."""
    quotes = 0
    children: Iterable[Any] = inner
    if type(inner) is dict:
        quotes = 2 * len(inner)
        children = inner.values()
    for child in children:
        if type(child) is str:
            quotes += 2
        elif type(child) is dict or type(child) is list:
            raise _bad_command(
                "The command is nested too deeply; it can have one level of objects."
            )
    return quotes


def _not_loadable(payload: bytes) -> CommandError | Violation:
    """The error for a payload that orjson refused, with the reason found by Python's parser."""
    try:
        json.loads(payload.decode())
    except UnicodeDecodeError:
        return Violation(CloseReason.INVALID_UTF8)
    except json.JSONDecodeError:
        return CommandError(ErrorCode.BAD_JSON, "The message is not valid JSON.")
    except (ValueError, RecursionError):  # a number with too many digits; too deep nesting
        pass
    # NaN, Infinity, numbers out of range and lone surrogates: some parsers accept these, but
    # the protocol does not.
    return _bad_command(
        "The command has a number out of range or an invalid string, or is nested too deeply."
    )


def _check_slowly(payload: bytes) -> None:
    """Refuse repeated keys, with a parser that reports each pair of key and value."""
    try:
        json.loads(payload, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise _bad_command("The command has the same key twice.") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise ValueError("repeated key")
    return unique


def _message(fields: dict[str, Any]) -> Send:
    text = check_text(fields.get("text"))
    return Send(text, _room_or_none(fields), _token(fields, "id"), _ref(fields))


def _join(fields: dict[str, Any]) -> Join:
    room = fields.get("room")
    username = fields.get("username")
    return Join(
        room=check_room(DEFAULT_ROOM if room is None else room),
        username=None if username is None else check_username(username),
        history=_count(fields, "history", DEFAULT_HISTORY, low=0),
        since=_since(fields.get("since")),
        session=_session(fields),
        ref=_ref(fields),
        token=_bearer_token(fields),
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
        raise _bad_command("`history` can have `before` or `after`, but not both.")
    limit = _count(fields, "limit", DEFAULT_HISTORY, low=1)
    return GetHistory(_room_or_none(fields), before, after, limit, _ref(fields))


def _edit(fields: dict[str, Any]) -> Edit:
    text = fields.get("text")
    if type(text) is not str:
        raise _bad_command("`text` must be a string.")
    return Edit(_target(fields), check_text(text), _room_or_none(fields), _ref(fields))


def _delete(fields: dict[str, Any]) -> Delete:
    return Delete(_target(fields), _room_or_none(fields), _ref(fields))


def _react(fields: dict[str, Any]) -> React:
    emoji, remove = check_emoji(fields.get("emoji")), fields.get("remove", False)
    if type(remove) is not bool:
        raise _bad_command("`remove` must be true or false.")
    return React(_target(fields), emoji, remove, _room_or_none(fields), _ref(fields))


def _search(fields: dict[str, Any]) -> Search:
    query = fields.get("query")
    if type(query) is not str or not 1 <= len(query) <= MAX_QUERY_CHARS:
        raise _bad_command(f"`query` must be a string of 1 to {MAX_QUERY_CHARS} characters.")
    limit = _count(fields, "limit", DEFAULT_RESULTS, low=1)
    return Search(query, limit, _room_or_none(fields), _ref(fields))


def _remove(fields: dict[str, Any]) -> Remove:
    user, username = fields.get("user"), fields.get("username")
    seconds = fields.get("seconds", DEFAULT_REMOVAL_S)
    if user is None and username is None:
        raise _bad_command("`remove` needs a `user` or a `username`.")
    if type(seconds) is not int or not 0 <= seconds <= MAX_REMOVAL_S:
        raise _bad_command(f"`seconds` must be a whole number from 0 to {MAX_REMOVAL_S:,}.")
    return Remove(
        None if user is None else check_user(user),
        None if username is None else check_username(username),
        seconds,
        _room_or_none(fields),
        _ref(fields),
    )


def _upload(fields: dict[str, Any]) -> Upload:
    name, size = fields.get("name"), fields.get("size")
    name = name.strip() if type(name) is str else ""
    if not 1 <= len(name.encode()) <= MAX_FILE_NAME_BYTES:
        raise _bad_command(f"`name` must be a string of 1 to {MAX_FILE_NAME_BYTES:,} bytes.")
    if type(size) is not int or not 1 <= size <= MAX_OFFSET:
        raise _bad_command("`size` must be the file's size in bytes, a whole number from 1.")
    return Upload(name, size, _room_or_none(fields), _ref(fields))


def _target(fields: dict[str, Any]) -> int:
    offset = _offset(fields, "offset")
    if offset is None:
        raise _bad_command("`offset` is missing; it must be the offset of a message.")
    return offset


_PARSERS: dict[str, Callable[[dict[str, Any]], Command]] = {
    "message": _message,
    "edit": _edit,
    "delete": _delete,
    "react": _react,
    "search": _search,
    "remove": _remove,
    "upload": _upload,
    "join": _join,
    "leave": _leave,
    "typing": _typing,
    "history": _get_history,
    "ping": _ping,
}


def _room_or_none(fields: dict[str, Any]) -> str | None:
    room = fields.get("room")
    return None if room is None else check_room(room)


def _token(fields: dict[str, Any], name: str) -> str | None:
    value = fields.get(name)
    return None if value is None else check_id(value, name)


def _ref(fields: dict[str, Any]) -> str | None:
    return _token(fields, "ref")


def _session(fields: dict[str, Any]) -> str | None:
    session = _token(fields, "session")
    if session is not None and len(session.encode()) < MIN_SESSION_BYTES:
        raise _bad_command(f"`session` must have at least {MIN_SESSION_BYTES} bytes.")
    return session


def _bearer_token(fields: dict[str, Any]) -> str | None:
    """A `token` of any length; the authenticator refuses one that is too long."""
    token = fields.get("token")
    if token is None or type(token) is str:
        return token
    raise _bad_command("`token` must be a string.")


def _echo(value: Any) -> str | None:
    """A `ref` or `id` that the error can carry; None if the value is not valid as one."""
    return value if type(value) is str and 0 < len(value.encode()) <= MAX_TOKEN_BYTES else None


def _since(value: Any) -> Position | None:
    if value is None:
        return None
    if type(value) is not dict:
        raise _bad_command("`since` must be an object with `epoch` and `offset`.")
    epoch, offset = value.get("epoch"), _offset(value, "offset")
    if epoch is None or offset is None:
        raise _bad_command("`since` must have both `epoch`, a string, and `offset`, a number.")
    return Position(check_epoch(epoch), offset, _token(value, "timestamp"))


def _offset(fields: dict[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is None or (type(value) is int and 0 <= value <= MAX_OFFSET):
        return value
    raise _bad_command(f"`{name}` must be an offset, a whole number from 0.")


def _count(fields: dict[str, Any], name: str, default: int, *, low: int) -> int:
    value = fields.get(name, default)
    if type(value) is int and low <= value <= MAX_HISTORY:
        return value
    raise _bad_command(f"`{name}` must be a whole number from {low} to {MAX_HISTORY}.")


def _bad_command(message: str) -> CommandError:
    return CommandError(ErrorCode.BAD_COMMAND, message)
