"""Tests of the rules for single values, which commands and imports share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fastchat.errors import CommandError, ErrorCode
from fastchat.protocol import check_emoji, check_epoch, check_id, check_text
from fastchat.protocol.values import MAX_TEXT_CHARS

VALUES = {
    check_text: "Hello",
    check_id: "c7",
    check_epoch: "V-mb",
    check_emoji: "👋",
}


@pytest.mark.parametrize(("check", "value"), VALUES.items())
def test_valid_value_is_returned_unchanged(check: Callable[[object], str], value: str) -> None:
    """A check returns a value that obeys its rule."""
    assert check(value) == value


@pytest.mark.parametrize("check", VALUES)
@pytest.mark.parametrize("value", [None, 7, ["x"], "", "x" * 64 + "é"])
def test_value_of_another_type_or_size_is_refused(
    check: Callable[[object], str], value: object
) -> None:
    """A check accepts any value from JSON as its argument, and refuses invalid ones."""
    if check is check_text and value:
        value = value if not isinstance(value, str) else value * MAX_TEXT_CHARS
    with pytest.raises(CommandError) as refused:
        check(value)
    assert refused.value.code in (ErrorCode.BAD_COMMAND, ErrorCode.TOO_LONG)


def test_error_names_the_field() -> None:
    """`ref`, `session` and an epoch obey the rule of an `id`; the error names the field."""
    with pytest.raises(CommandError, match="`epoch`"):
        check_epoch(7)
    with pytest.raises(CommandError, match="`ref`"):
        check_id(7, "ref")
