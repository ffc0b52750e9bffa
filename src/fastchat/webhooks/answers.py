"""The answers of hooks: JSON of another program, checked before it has an effect."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import orjson

from fastchat.auth import Right
from fastchat.errors import CommandError
from fastchat.protocol.characters import has_hidden
from fastchat.protocol.names import clean_username
from fastchat.protocol.users import MAX_SUBJECT_CHARS
from fastchat.protocol.values import check_text

__all__ = [
    "BadAnswer",
    "Disconnect",
    "JoinAnswer",
    "PublishAnswer",
    "Refuse",
    "parse_join",
    "parse_publish",
]

#: The longest refusal that a user sees.
MAX_REFUSAL_CHARS = 300
#: The longest time for which a user is kept out: that of a moderator, 30 days.
MAX_SECONDS = 30 * 86400
#: What a refusal without a `message` says.
NOT_ALLOWED = "This is not allowed here."


class BadAnswer(Exception):
    """An answer does not say what to do. The message says why, and has nothing of the answer."""


class Refuse(NamedTuple):
    """The command is refused; the user is told why."""

    message: str


class Disconnect(NamedTuple):
    """The user is disconnected, and kept out for so many seconds."""

    seconds: int


class PublishAnswer(NamedTuple):
    """The command can run, with another text unless it is None."""

    text: str | None = None


class JoinAnswer(NamedTuple):
    """The client can join: as the user with this subject, under this name, with these rights.

    What is None stays as it is.
    """

    subject: str | None = None
    username: str | None = None
    rights: frozenset[Right] | None = None


def parse_publish(body: bytes) -> PublishAnswer | Refuse | Disconnect:
    """Parse the answer to a command. Raises BadAnswer."""
    fields = _fields(body)
    if (verdict := _verdict(fields)) is not None:
        return verdict
    text = fields.get("text")
    if text is None:
        return PublishAnswer()
    try:
        return PublishAnswer(check_text(text))
    except CommandError:
        raise BadAnswer("`text` is no text of a message") from None


def parse_join(body: bytes) -> JoinAnswer | Refuse | Disconnect:
    """Parse the answer to a join. Raises BadAnswer."""
    fields = _fields(body)
    if (verdict := _verdict(fields)) is not None:
        return verdict
    subject, username, rights = (fields.get(key) for key in ("user", "username", "rights"))
    if subject is not None and (
        type(subject) is not str
        or not 1 <= len(subject) <= MAX_SUBJECT_CHARS
        or has_hidden(subject)
    ):
        raise BadAnswer(f"`user` is not a string of 1 to {MAX_SUBJECT_CHARS} printable characters")
    name = None
    if username is not None:
        name = clean_username(username) if type(username) is str else None
        if name is None:
            raise BadAnswer("`username` is no name")
    if subject is not None and name is None:
        raise BadAnswer("it has a `user` without a `username`")
    return JoinAnswer(subject, name, None if rights is None else _rights(rights))


def _fields(body: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(body)
        # orjson takes the last value of a repeated key. This parser reports each of them.
        json.loads(body, object_pairs_hook=_check_pairs)
    except orjson.JSONDecodeError:
        raise BadAnswer("it is not JSON") from None
    except RecursionError:
        raise BadAnswer("it is nested too deeply") from None
    if type(fields) is not dict:
        raise BadAnswer("it is not a JSON object")
    return fields


def _check_pairs(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) != len(pairs):
        raise BadAnswer("it has the same key twice")


def _verdict(fields: dict[str, Any]) -> Refuse | Disconnect | None:
    """The verdict of an answer; None if it allows what was asked."""
    allow, disconnect = fields.get("allow"), fields.get("disconnect", False)
    if type(disconnect) is not bool:
        raise BadAnswer("`disconnect` is not true or false")
    if disconnect:
        seconds = fields.get("seconds", 0)
        if type(seconds) is not int or not 0 <= seconds <= MAX_SECONDS:
            raise BadAnswer(f"`seconds` is not a whole number from 0 to {MAX_SECONDS:,}")
        return Disconnect(seconds)
    if type(allow) is not bool:
        raise BadAnswer("it has neither `allow` nor `disconnect`")
    if allow:
        return None
    message = fields.get("message", NOT_ALLOWED)
    if type(message) is not str or not 1 <= len(message) <= MAX_REFUSAL_CHARS:
        raise BadAnswer(f"`message` is not a string of 1 to {MAX_REFUSAL_CHARS} characters")
    if has_hidden(message):
        raise BadAnswer("`message` has invisible characters")
    return Refuse(message)


def _rights(names: Any) -> frozenset[Right]:
    known = {right.value: right for right in Right}
    if type(names) is not list or not all(type(name) is str and name in known for name in names):
        raise BadAnswer(f"`rights` is not a list of {', '.join(known)}")
    return frozenset(known[name] for name in names)
