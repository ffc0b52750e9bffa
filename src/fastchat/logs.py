"""Logs: one line an event, as text or JSON, whatever a client put into it, however often."""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import IO

import orjson

from fastchat.protocol import timestamp_of

__all__ = ["log_repeated", "set_up_logging"]

#: Longer lines are cut: a client shall not fill the disk by being refused. A traceback,
#: which is a fault of ours, may be longer; its end says what happened.
MAX_LINE_BYTES = 1024
MAX_TRACEBACK_BYTES = 16 * 1024
#: Of one kind of event this many lines in this time; those beyond are counted.
BURST, WINDOW_S = 20, 10.0
#: Kinds that are told apart; those beyond are one kind for each logger.
MAX_KINDS = 256
#: What is quoted of an event that stands for others.
SAMPLE_CHARS = 150

# C0, DEL, C1, line and paragraph separators, zero-width characters, bidirectional controls:
# all that could end a line, or show a terminal something else than what is there.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u2028\u2029\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]"
)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        head = f"{timestamp_of(record.created)} {record.levelname:<7} {record.name}: "
        return _fitting(self, record, lambda message: head + _UNSAFE.sub(_escape, message))


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": timestamp_of(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
        }

        def render(message: str) -> str:
            line = orjson.dumps({**event, "message": message}).decode()
            return _UNSAFE.sub(_escape_in_json, line)  # all of them are in strings

        return _fitting(self, record, render)


def _fitting(
    formatter: logging.Formatter, record: logging.LogRecord, render: Callable[[str], str]
) -> str:
    """The line that `render` makes of a record's message, or of as much of it as fits."""
    message = _encodable(record.getMessage()[:MAX_LINE_BYTES])
    limit = MAX_LINE_BYTES
    if record.exc_info:
        traceback = _encodable(formatter.formatException(record.exc_info))
        message += " | " + traceback[-MAX_TRACEBACK_BYTES // 2 :]
        limit += MAX_TRACEBACK_BYTES
    line = render(message)
    while message and (size := len(line.encode())) > limit:
        message = message[: min(len(message) - 1, len(message) * limit // size)]
        line = render(message + "…")
    return line


def _encodable(message: str) -> str:
    """Lone surrogates, as of a path that is not UTF-8, as escapes."""
    return message.encode("utf-8", "backslashreplace").decode()


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def _escape_in_json(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


class _Kind:
    """Events of one logger and one template, since the first of them."""

    __slots__ = ("count", "level", "name", "sample", "since")

    def __init__(self, record: logging.LogRecord, now: float) -> None:
        self.name = record.name
        self.level = record.levelno
        self.since = now
        self.count = 0
        self.sample = ""

    def repeated(self) -> logging.LogRecord | None:
        """What to say of the events that were not logged, if there were any."""
        more = self.count - BURST
        if more <= 0:
            return None
        text, arguments = (
            "%s (and %s more like this in %.0f s)",
            (self.sample, f"{more:,}", WINDOW_S),
        )
        return logging.LogRecord(self.name, self.level, "", 0, text, arguments, None)


class _Repetitions:
    """Lets through the first events of a kind, and one for all the others.

    What is kept is bounded, whatever is logged.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # In the order of their beginnings.
        self._kinds: dict[tuple[str, str], _Kind] = {}

    def pass_on(self, record: logging.LogRecord) -> Iterator[logging.LogRecord]:
        """The records to be logged now that this one has come."""
        yield from self.expire()
        kind = self._kind_of(record)
        kind.count += 1
        if kind.count <= BURST:
            yield record
        elif kind.count == BURST + 1:
            kind.sample = record.getMessage()[:SAMPLE_CHARS]

    def expire(self, *, all: bool = False) -> Iterator[logging.LogRecord]:
        """Records for the repetitions whose time is over."""
        over = self._clock() - WINDOW_S
        while self._kinds:
            key, kind = next(iter(self._kinds.items()))
            if kind.since > over and not all:
                return
            del self._kinds[key]
            if (repeated := kind.repeated()) is not None:
                yield repeated

    def _kind_of(self, record: logging.LogRecord) -> _Kind:
        key = (record.name, str(record.msg)[:SAMPLE_CHARS])
        if key not in self._kinds and len(self._kinds) >= MAX_KINDS:
            key = (record.name, "")
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = _Kind(record, self._clock())
        return kind


class _Handler(logging.StreamHandler[IO[str]]):
    def __init__(self, stream: IO[str], clock: Callable[[], float]) -> None:
        super().__init__(stream)
        self._repetitions = _Repetitions(clock)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            for passed in self._repetitions.pass_on(record):
                super().emit(passed)
        except Exception:  # a wrong template, as what it inherits has it
            self.handleError(record)

    def log_repeated(self, *, all: bool = False) -> None:
        self.acquire()
        try:
            for record in self._repetitions.expire(all=all):
                super().emit(record)
        finally:
            self.release()

    def close(self) -> None:
        self.log_repeated(all=True)
        super().close()


def set_up_logging(
    level: str,
    format: str,
    stream: IO[str] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Log everything of `level` and above to `stream` (default: standard error).

    What repeats itself is counted: see `log_repeated`.
    """
    handler = _Handler(stream or sys.stderr, clock)
    handler.setFormatter(_JsonFormatter() if format == "json" else _TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # uvicorn and asyncio tell of single requests and clients: only what is wrong.
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def log_repeated() -> None:
    """Say how often events were repeated, of those for which it is time.

    Else it is said with the next line that is logged, or at the end of the process.
    """
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _Handler):
            handler.log_repeated()
