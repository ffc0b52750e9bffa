"""The rules of single values, which commands and imports share."""

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
def test_good_value_is_returned(check: Callable[[object], str], value: str) -> None:
    """A value that obeys its rule comes back as it is."""
    assert check(value) == value


@pytest.mark.parametrize("check", VALUES)
@pytest.mark.parametrize("value", [None, 7, ["x"], "", "x" * 64 + "é"])
def test_value_of_another_type_or_size_is_refused(
    check: Callable[[object], str], value: object
) -> None:
    """Whatever is read from JSON can be given to a check."""
    if check is check_text and value:
        value = value if not isinstance(value, str) else value * MAX_TEXT_CHARS
    with pytest.raises(CommandError) as refused:
        check(value)
    assert refused.value.code in (ErrorCode.BAD_COMMAND, ErrorCode.TOO_LONG)


def test_error_names_the_field() -> None:
    """`ref`, `session` and an epoch have the rule of an `id`, and an error of their own."""
    with pytest.raises(CommandError, match="`epoch`"):
        check_epoch(7)
    with pytest.raises(CommandError, match="`ref`"):
        check_id(7, "ref")
