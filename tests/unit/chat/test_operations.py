"""What keys and operators can have done."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fastchat.chat.operations import OPERATOR, Operations, check_options
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


@pytest.mark.parametrize(
    ("verb", "arguments", "message"),
    [
        ("shout", {}, "There is no operation `shout`; these are known: publish, "),
        ("run", {}, "There is no operation `run`"),
        ("ban", {"user": "u_1"}, "`ban` needs the argument `seconds`."),
        ("ban", {"user": "u_1", "seconds": True}, "`seconds` of `ban` must be of the type int."),
        ("bans", {"room": "a"}, "`bans` has no argument `room`; it has these: none."),
        ("publish", {"room": "a", "text": "x", "speaker": "me"}, "`publish` has no argument"),
    ],
)
def test_operation_is_run_by_its_name_only_if_all_is_right(
    verb: str, arguments: dict[str, Any], message: str
) -> None:
    operations = Operations(None, None, None, clock=lambda: 0.0)  # type: ignore[arg-type]
    with pytest.raises(CommandError) as caught:
        asyncio.run(operations.run(OPERATOR, verb, arguments))
    assert caught.value.message.startswith(message)
