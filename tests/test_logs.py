"""Logs: one line an event, whatever is in it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from fastchat.logs import MAX_LINE_CHARS, set_up_logging

HOSTILE = [
    "plain",
    'x\n{"level":"FATAL"}',
    "x\r\nERROR root: all is lost",
    "\x1b[2J\x1b]0;title\x07",
    "\x00\x01\x7f\x85\x9b31m",
    "a\u2028b\u2029c",
    "\u202egnp.exe",
    "\u2066\u200f\u200e",
    "\ud800 alone",
    'quote " and \\ backslash',
    "%s %d %n",
    "é😀",
    "x" * 100_000,
    "\n" * 100_000,
]


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    """Leave the loggers of pytest and of the other tests as they were."""
    loggers = [logging.getLogger(name) for name in ("", "uvicorn.error", "asyncio")]
    before = [(logger.level, logger.handlers[:]) for logger in loggers]
    yield
    for logger, (level, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers[:] = handlers


def lines_of(format: str, message: str, *, exception: bool = False) -> list[str]:
    """What is logged of one event, split wherever anybody might see a new line."""
    stream = io.StringIO()
    set_up_logging("info", format, stream)
    logger = logging.getLogger("fastchat.test")
    if exception:
        try:
            raise ValueError(message)
        except ValueError:
            logger.exception("failed: %s", message)
    else:
        logger.info("saw %s", message)
    return stream.getvalue().split("\n")


@pytest.mark.parametrize("exception", [False, True])
@pytest.mark.parametrize("message", HOSTILE, ids=lambda text: ascii(text)[:20])
def test_text_event_is_one_safe_line(message: str, exception: bool) -> None:
    """Whatever could end a line or steer a terminal is escaped."""
    line, *rest = lines_of("text", message, exception=exception)
    assert rest == [""]
    assert len(line.splitlines()) == 1
    assert not any(ord(char) < 32 or 0x7F <= ord(char) < 0xA0 for char in line)
    assert not set(line) & set("\u202e\u2066\u200f\u2028")
    assert len(line) <= MAX_LINE_CHARS + 100


@pytest.mark.parametrize("exception", [False, True])
@pytest.mark.parametrize("message", HOSTILE, ids=lambda text: ascii(text)[:20])
def test_json_event_is_one_valid_object(message: str, exception: bool) -> None:
    """Each line is a JSON object that says when, how bad, who and what."""
    line, *rest = lines_of("json", message, exception=exception)
    assert rest == [""]
    event = json.loads(line)
    assert list(event) == ["time", "level", "logger", "message"]
    assert event["level"] == ("error" if exception else "info")
    assert event["logger"] == "fastchat.test"
    assert event["message"].startswith("failed: " if exception else "saw ")


def test_traceback_is_on_the_line_of_its_event() -> None:
    """An exception is logged with its traceback, on one line."""
    line, _ = lines_of("text", "boom", exception=True)
    assert "ValueError: boom" in line
    assert "Traceback" in line


def test_events_below_the_level_are_not_logged() -> None:
    """The level is the least important one that is logged."""
    stream = io.StringIO()
    set_up_logging("warning", "text", stream)
    logging.getLogger("fastchat").info("quiet")
    logging.getLogger("fastchat").warning("loud")
    assert "quiet" not in stream.getvalue()
    assert "loud" in stream.getvalue()


@pytest.mark.parametrize(("level", "told"), [("debug", False), ("info", False), ("error", False)])
def test_libraries_tell_only_what_is_wrong(level: str, told: bool) -> None:
    """uvicorn's and asyncio's news of single requests is not logged at any level."""
    stream = io.StringIO()
    set_up_logging(level, "text", stream)
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).info("a request")
    assert ("a request" in stream.getvalue()) is told


def test_set_up_again_replaces_the_first() -> None:
    """An event is logged once, however often logging was set up."""
    streams = [io.StringIO(), io.StringIO()]
    for stream in streams:
        set_up_logging("info", "text", stream)
    logging.getLogger("fastchat").info("once")
    assert streams[0].getvalue() == ""
    assert streams[1].getvalue().count("once") == 1
