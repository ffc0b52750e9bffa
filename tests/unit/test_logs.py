"""Logs: one line an event, whatever its text is."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
import warnings
from collections.abc import Iterator

import pytest

from fastchat.logs import (
    BURST,
    MAX_KINDS,
    MAX_LINE_BYTES,
    MAX_TRACEBACK_BYTES,
    WINDOW_S,
    formatted,
    log_failure,
    log_repeated,
    log_uncaught_exceptions,
    set_up_logging,
)

HOSTILE = [
    "plain",
    'x\n{"level":"FATAL"}',
    "x\r\nERROR root: all is lost",
    "\x1b[2J\x1b]0;title\x07",
    "\x00\x01\x7f\x85\x9b31m",
    "a\u2028b\u2029c",
    "\u202egnp.exe",
    "\u2066\u200f\u200e",
    "\u200b\ufeff\u061c\u2060",
    "\u2028" * 100_000,
    "\U0001f600" * 100_000,
    "\x1b" * 100_000,
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
    """The log lines of one event, split at everything that a reader takes for a line break."""
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


def is_harmless(line: str) -> bool:
    """Whether a text is one line for every reader, and a terminal shows it unchanged."""
    controls = any(ord(char) < 32 or 0x7F <= ord(char) < 0xA0 for char in line)
    unseen = set(line) & set("\u202e\u2066\u200f\u2028\u2029\u200b\ufeff\u061c\u2060")
    return not controls and not unseen and len(line.splitlines()) == 1


@pytest.mark.parametrize("exception", [False, True])
@pytest.mark.parametrize("message", HOSTILE, ids=lambda text: ascii(text)[:20])
def test_text_event_is_one_safe_line(message: str, exception: bool) -> None:
    """Every character that could end a line or control a terminal is escaped."""
    line, *rest = lines_of("text", message, exception=exception)
    assert rest == [""]
    assert len(line.splitlines()) == 1
    assert is_harmless(line)
    assert len(line.encode()) <= MAX_LINE_BYTES + exception * MAX_TRACEBACK_BYTES


@pytest.mark.parametrize("exception", [False, True])
@pytest.mark.parametrize("message", HOSTILE, ids=lambda text: ascii(text)[:20])
def test_json_event_is_one_valid_object(message: str, exception: bool) -> None:
    """Each line is a JSON object with the time, the level, the logger and the message."""
    line, *rest = lines_of("json", message, exception=exception)
    assert rest == [""]
    assert is_harmless(line)
    assert len(line.encode()) <= MAX_LINE_BYTES + exception * MAX_TRACEBACK_BYTES
    event = json.loads(line)
    assert list(event) == ["time", "level", "logger", "message"]
    assert event["level"] == ("error" if exception else "info")
    assert event["logger"] == "fastchat.test"
    assert event["message"].startswith("failed: " if exception else "saw ")


def test_traceback_is_on_the_line_of_its_event() -> None:
    """An exception is logged with its traceback on one line."""
    line, _ = lines_of("text", "boom", exception=True)
    assert "ValueError: boom" in line
    assert "Traceback" in line


def test_long_traceback_keeps_its_end() -> None:
    """A long traceback is cut, and its last lines stay because they name the exception."""
    stream = io.StringIO()
    set_up_logging("info", "text", stream)
    try:
        raise ValueError("x" * 1_000_000 + "the end")
    except ValueError:
        logging.getLogger("fastchat").exception("failed")
    line = stream.getvalue()
    assert line.endswith("the end\n")
    assert len(line) <= MAX_LINE_BYTES + MAX_TRACEBACK_BYTES


def test_events_below_the_level_are_not_logged() -> None:
    """Only events of at least the configured level are logged."""
    stream = io.StringIO()
    set_up_logging("warning", "text", stream)
    logging.getLogger("fastchat").info("quiet")
    logging.getLogger("fastchat").warning("loud")
    assert "quiet" not in stream.getvalue()
    assert "loud" in stream.getvalue()


@pytest.mark.parametrize(("level", "told"), [("debug", False), ("info", False), ("error", False)])
def test_libraries_log_warnings_and_errors_only(level: str, told: bool) -> None:
    """Messages of uvicorn and asyncio about single requests are not logged at any level."""
    stream = io.StringIO()
    set_up_logging(level, "text", stream)
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).info("a request")
    assert ("a request" in stream.getvalue()) is told


def test_second_set_up_replaces_the_first() -> None:
    """An event is logged once, however often logging was set up."""
    streams = [io.StringIO(), io.StringIO()]
    for stream in streams:
        set_up_logging("info", "text", stream)
    logging.getLogger("fastchat").info("once")
    assert streams[0].getvalue() == ""
    assert streams[1].getvalue().count("once") == 1


# Repetitions


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stream(clock: Clock) -> io.StringIO:
    """The log's output from now on."""
    stream = io.StringIO()
    set_up_logging("info", "text", stream, clock)
    return stream


def messages(stream: io.StringIO) -> list[str]:
    return [line.partition(": ")[2] for line in stream.getvalue().splitlines()]


def test_repeated_event_is_counted(stream: io.StringIO, clock: Clock) -> None:
    """The first events are logged; the others become one line with their number at the end of the
    window."""
    logger = logging.getLogger("fastchat.test")
    for number in range(BURST + 941):
        logger.warning("bad thing %d", number)
    assert messages(stream) == [f"bad thing {number}" for number in range(BURST)]
    clock.now_s += WINDOW_S
    log_repeated()
    assert messages(stream)[BURST:] == [f"bad thing {BURST} (and 941 more like this in 10 s)"]
    log_repeated()
    assert len(messages(stream)) == BURST + 1
    assert "WARNING fastchat.test: " in stream.getvalue().splitlines()[-1]


def test_count_precedes_the_next_line(stream: io.StringIO, clock: Clock) -> None:
    """Whatever event is logged next, the line with the count is written before it."""
    for _ in range(BURST + 2):
        logging.getLogger("a").info("again")
    clock.now_s += WINDOW_S
    logging.getLogger("b").info("something else")
    assert messages(stream)[BURST:] == ["again (and 2 more like this in 10 s)", "something else"]
    logging.getLogger("a").info("again")  # a new window has started
    assert messages(stream)[-1] == "again"


def test_count_is_logged_when_the_process_ends(stream: io.StringIO) -> None:
    """A process that ends logs what it has counted until then."""
    for _ in range(BURST + 1):
        logging.getLogger("a").info("again")
    handler = logging.getLogger().handlers[0]
    handler.close()
    assert messages(stream)[-1] == "again (and 1 more like this in 10 s)"


def test_few_events_are_not_counted(stream: io.StringIO, clock: Clock) -> None:
    """Events up to the limit are logged one by one in every window."""
    for _ in range(5):
        for _ in range(BURST):
            logging.getLogger("a").info("again")
        clock.now_s += WINDOW_S
    log_repeated()
    assert messages(stream) == ["again"] * (5 * BURST)


def test_flood_hides_no_other_event(stream: io.StringIO) -> None:
    """Other events, and the same message of another logger, are still logged."""
    for number in range(10_000):
        logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
        if number % 1000 == 0:
            logging.getLogger("fastchat").info("event %d", number)
    logging.getLogger("fastchat").warning("Invalid HTTP request received.")
    assert len(messages(stream)) == BURST + 10 + 1


def test_memory_is_bounded_whatever_is_logged(stream: io.StringIO, clock: Clock) -> None:
    """Messages that are all different and have no template take bounded memory, too."""
    logger = logging.getLogger("asyncio")
    for number in range(5000):
        logger.error(f"{number} {'x' * 200}")
    handler = logging.getLogger().handlers[0]
    assert len(handler._repetitions._kinds) <= MAX_KINDS + 1  # type: ignore[attr-defined]
    assert len(messages(stream)) <= MAX_KINDS + BURST
    clock.now_s += WINDOW_S
    log_repeated()
    assert not handler._repetitions._kinds  # type: ignore[attr-defined]
    assert f"{5000 - MAX_KINDS - BURST:,} more like this" in messages(stream)[-1]


def test_hostile_sample_is_harmless_and_keeps_its_count(stream: io.StringIO, clock: Clock) -> None:
    """A client's text in a counted event is cut and escaped, and the count stays in the line."""
    for _ in range(BURST + 7):
        logging.getLogger("a").info("saw %s", "\u202e" * 5000)
    clock.now_s += WINDOW_S
    log_repeated()
    last = stream.getvalue().split("\n")[-2]
    assert is_harmless(last)
    assert last.endswith("(and 7 more like this in 10 s)")


def test_wrong_template_costs_only_its_line(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A logging call with a wrong template loses its own line only, counted or not."""
    monkeypatch.setattr(logging, "raiseExceptions", False)
    for _ in range(BURST + 5):
        logging.getLogger("a").info("%d", "no number")
    logging.getLogger("a").info("fine")
    assert messages(stream) == ["fine"]


def test_wrong_template_is_logged_with_its_traceback(stream: io.StringIO) -> None:
    """A logging call with a wrong template is logged as a fault, in the log's format."""
    # Not through a logger: pytest's own handler would raise.
    record = logging.LogRecord("a", logging.INFO, "", 0, "%d", ("no number",), None)
    logging.getLogger().handlers[0].handle(record)
    (line,) = stream.getvalue().splitlines()
    assert "a line could not be logged: '%d' | Traceback" in line
    assert is_harmless(line)


# What else goes to the log


@pytest.mark.parametrize("level", ["info", "error"])
def test_sentence_at_the_end_follows_the_format(level: str) -> None:
    """The sentence with which a server ends is plain text, or an event of a log of JSON, whatever
    the level is."""
    stream = io.StringIO()
    set_up_logging(level, "text", stream)
    log_failure("--data x is in use.")
    assert stream.getvalue() == "fastchat: --data x is in use.\n"
    stream = io.StringIO()
    set_up_logging(level, "json", stream)
    log_failure("--data \udcff is in use.")
    event = json.loads(stream.getvalue())
    assert (event["level"], event["message"]) == ("error", "--data \\udcff is in use.")


def test_line_is_formatted_as_an_event() -> None:
    """A line that is printed elsewhere has the fields of an event."""
    event = json.loads(formatted("fastchat is at http://127.0.0.1:8080", format="json"))
    assert list(event) == ["time", "level", "logger", "message"]
    assert event["message"] == "fastchat is at http://127.0.0.1:8080"


@pytest.fixture
def _hooks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set the hooks for uncaught exceptions, and restore them."""
    for owner, hook in ((sys, "excepthook"), (threading, "excepthook"), (sys, "unraisablehook")):
        monkeypatch.setattr(owner, hook, getattr(owner, hook))
    log_uncaught_exceptions()
    yield
    logging.captureWarnings(False)


@pytest.mark.usefixtures("_hooks")
def test_uncaught_exceptions_are_logged(stream: io.StringIO) -> None:
    """An exception that ends the process or a thread, or that is ignored, is one line."""

    def fail() -> None:
        raise ValueError("in a thread")

    class Failing:
        def __del__(self) -> None:
            raise ValueError("in a finalizer")

    try:
        raise ValueError("in the process")
    except ValueError as error:
        sys.excepthook(ValueError, error, error.__traceback__)
    thread = threading.Thread(target=fail, name="worker")
    thread.start()
    thread.join()
    Failing()
    lines = stream.getvalue().splitlines()
    for line, words in zip(lines, ("process ends", "'worker' ends", "ignored in"), strict=True):
        assert words in line
        assert "ValueError: in " in line
        assert is_harmless(line)


@pytest.mark.usefixtures("_hooks")
def test_warnings_are_logged(stream: io.StringIO) -> None:
    """A warning of a library is an event of the log."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)  # after `catch_warnings`, which has replaced the function
        warnings.warn("this is old", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(False)
    assert "this is old" in stream.getvalue()
