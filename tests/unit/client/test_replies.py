"""Quotes of replies are those of the page, and mentions are found outside of them."""

from __future__ import annotations

import pytest

from fastchat_client.replies import mentions, quote_of, without_quote


def test_quote_has_three_lines_without_quotes_and_the_names_of_files() -> None:
    """Long messages are cut; empty lines and quoted lines are left out."""
    link = f"/files/{'a' * 32}/cat.png?size=1"
    text = f"> @Bob #1\n> old\n\none\n\n{link}\nthree\nfour"
    assert quote_of("Ann", 7, text) == "> @Ann #7\n> one\n> cat.png\n> three…\n\n"
    assert quote_of("Ann", 7, "x" * 241) == f"> @Ann #7\n> {'x' * 240}…\n\n"


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("plain", "plain"),
        ("> @Ann #7\n> one\n\nyes", "yes"),
        ("> @Ann #7\n> one\nyes", "yes"),
        ("> @Ann #7\n> one", ""),
        ("> a quote\n\nyes", "> a quote\n\nyes"),
    ],
)
def test_text_without_the_quote_of_a_reply(text: str, own: str) -> None:
    """Only the quote of a reply at the beginning is removed."""
    assert without_quote(text) == own


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("@Ann hello", True),
        ("hello, @ANN!", True),
        ("> @Ann #7\n> one\n\nyes", True),
        ("@Anna hello", False),
        ("mail me@Ann", False),
        ("> @Bob #7\n> @Ann hello\n\nyes", False),
        ("Ann", False),
    ],
)
def test_mention_is_a_name_outside_of_quotes(text: str, found: bool) -> None:
    """A reply mentions the author of the message that it answers."""
    assert mentions(text, "Ann") is found
