"""What keys and operators can have done."""

from __future__ import annotations

from typing import Any

import pytest

from fastchat.chat.operations import check_options
from fastchat.chat.quotes import quote_of
from fastchat.errors import CommandError


def test_quote_is_the_one_of_the_page() -> None:
    """A quote names the author and the message, and leaves out quotes and what is too long."""
    assert quote_of("Ann", 42, "Hello") == "> @Ann #42\n> Hello\n\n"
    assert quote_of("Ann", 1, "> @Bob #0\n> old\n\nnew") == "> @Ann #1\n> new\n\n"
    assert quote_of("Ann", 1, "1\n2\n3\n4") == "> @Ann #1\n> 1\n> 2\n> 3…\n\n"
    assert quote_of("Ann", 1, "x" * 300) == f"> @Ann #1\n> {'x' * 240}…\n\n"
    link = f"/files/{'a' * 32}/cat.png"
    assert quote_of("Ann", 1, f"see {link}") == "> @Ann #1\n> see cat.png\n\n"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tilte": "x"}, "no option 'tilte'"),
        ({"title": "two\nlines"}, "`title` must be a line of at most 80 characters."),
        ({"topic": 1}, "`topic` must be a line"),
        ({"closed": 1}, "`closed` must be true or false."),
        ({"slow_s": True}, "`slow_s` must be a whole number of seconds from 0 to 21600."),
        ({"slow_s": -1}, "`slow_s` must be"),
        ({"max_messages": 9}, "`max_messages` must be 0, or a whole number from 10 to"),
    ],
)
def test_options_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CommandError, match=message.replace("'", ".")):
        check_options(changes)
