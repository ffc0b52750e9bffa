"""The words of a command become the arguments of its function."""

from __future__ import annotations

from typing import Any

import pytest

from fastchat_client.arguments import Parameters, UsageError


async def roll(message: object, sides: int = 6, times: int | None = None) -> None: ...
async def add(message: object, first: float, second: float) -> None: ...
async def switch(message: object, on: bool) -> None: ...
async def choose(message: object, *words: str) -> None: ...
async def remind(message: object, minutes: int, *, text: str) -> None: ...
async def say(message: object, *, text: str = "nothing") -> None: ...


@pytest.mark.parametrize(
    ("function", "text", "arguments", "named"),
    [
        (roll, "", [], {}),
        (roll, "20", [20], {}),
        (roll, "20 3", [20, 3], {}),
        (add, "1 2.5", [1.0, 2.5], {}),
        (switch, "On", [True], {}),
        (switch, "no", [False], {}),
        (choose, 'tea "black coffee"', ["tea", "black coffee"], {}),
        (choose, "don't", ["don't"], {}),
        (remind, '5 Buy "milk"  now', [5], {"text": 'Buy "milk"  now'}),
        (say, "", [], {}),
        (say, "two words", [], {"text": "two words"}),
    ],
)
def test_words_are_converted(
    function: Any, text: str, arguments: list[Any], named: dict[str, Any]
) -> None:
    """Each word has the type of its parameter; the last one can take the rest of the text."""
    assert Parameters(function).parse(text) == (arguments, named)


@pytest.mark.parametrize(
    ("function", "text", "sentence"),
    [
        (roll, "six", "`sides` must be a whole number, not `six`."),
        (add, "1", "`second` is missing."),
        (roll, "1 2 3", "`3` is too much."),
        (switch, "maybe", "`on` must be yes or no, not `maybe`."),
        (remind, "5", "`text` is missing."),
    ],
)
def test_words_that_do_not_fit_are_explained(function: Any, text: str, sentence: str) -> None:
    """The sentence names the parameter."""
    with pytest.raises(UsageError) as error:
        Parameters(function).parse(text)
    assert str(error.value) == sentence


def test_usage_names_the_parameters() -> None:
    """Those that can be left out are in brackets."""
    usages = [Parameters(each).usage for each in (roll, add, choose, remind, say)]
    assert usages == ["[sides] [times]", "first second", "[words …]", "minutes text", "[text]"]


async def without_message() -> None: ...
async def with_bytes(message: object, data: bytes) -> None: ...
async def with_two_rests(message: object, *, one: str, two: str) -> None: ...
async def with_any(message: object, **words: str) -> None: ...
def plain(message: object) -> None: ...


@pytest.mark.parametrize("function", [without_message, with_bytes, with_two_rests, with_any, plain])
def test_function_that_cannot_be_a_command_is_refused(function: Any) -> None:
    """The mistake is found when the command is defined."""
    with pytest.raises(TypeError):
        Parameters(function)
