"""Checks of the fields of a record.

Each function takes a value that was decoded from JSON, and returns it with its type. It raises
BadRecord if the value has another type. The checks compare types instead of calling isinstance,
because in Python `True` is an int, and JSON's `true` is no number.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, TypeVar

from fastchat.brokers.relay.wire import BadRecord
from fastchat.protocol import Position
from fastchat.rooms import Member

__all__ = [
    "Snapshot",
    "expect_choice",
    "expect_fields",
    "expect_flag",
    "expect_list",
    "expect_member",
    "expect_members",
    "expect_natural",
    "expect_null",
    "expect_object",
    "expect_position",
    "expect_positive",
    "expect_rows",
    "expect_seconds",
    "expect_share",
    "expect_text",
]

#: The counters of a process, as `fastchat.metrics.Metrics.snapshot` returns them.
Snapshot = Mapping[str, Any]


def expect_list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise _unexpected("a list", value)
    return value


def expect_fields(value: Any, count: int) -> list[Any]:
    """A list of `count` fields."""
    if type(value) is not list or len(value) != count:
        raise _unexpected(f"{count} fields", value)
    return value


def expect_rows(value: Any, count: int) -> list[list[Any]]:
    """A list of lists of `count` fields each."""
    for row in expect_list(value):
        if type(row) is not list or len(row) != count:
            raise _unexpected(f"{count} fields", row)
    return value  # type: ignore[no-any-return]  # `expect_list` has checked the outer list, and the loop the inner ones


def expect_object(value: Any) -> dict[str, Any]:
    if type(value) is not dict:
        raise _unexpected("an object", value)
    return value


def expect_text(value: Any) -> str:
    if type(value) is not str:
        raise _unexpected("a text", value)
    return value


def expect_natural(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise _unexpected("a number from 0", value)
    return value


def expect_positive(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise _unexpected("a number from 1", value)
    return value


def expect_seconds(value: Any) -> float:
    if type(value) is not float and type(value) is not int:
        raise _unexpected("seconds", value)
    return value


def expect_share(value: Any) -> float:
    if type(value) not in (float, int) or not 0 <= value <= 1:
        raise _unexpected("a share from 0 to 1", value)
    return float(value)


def expect_flag(value: Any) -> bool:
    if type(value) is not bool:
        raise _unexpected("true or false", value)
    return value


def expect_null(value: Any) -> None:
    if value is not None:
        raise _unexpected("null", value)


Choice = TypeVar("Choice", bound=StrEnum)


def expect_choice(choices: type[Choice], value: Any) -> Choice:
    try:
        return choices(value)
    except ValueError:
        raise _unexpected(f"one of {choices.__name__}", value) from None


def expect_member(value: Any) -> Member:
    name, user = expect_fields(value, 2)
    return Member(None if name is None else expect_text(name), expect_text(user))


def expect_members(value: Any) -> list[Member] | None:
    """A list of members, or null."""
    return None if value is None else [expect_member(each) for each in expect_list(value)]


def expect_position(value: Any) -> Position:
    epoch, offset, timestamp = expect_fields(value, 3)
    return Position(
        expect_text(epoch),
        expect_natural(offset),
        None if timestamp is None else expect_text(timestamp),
    )


def _unexpected(expected: str, found: Any) -> BadRecord:
    return BadRecord(f"{expected} expected, not {type(found).__name__}")
