"""Log lines: one line for each event, as text or JSON.

Clients choose parts of what is logged: names, paths, headers. So a line escapes characters that
could end it or steer a terminal, its length is bounded, and events that repeat are counted
instead of logged one by one. Logging never waits for the reader of the log (`log_writer`).
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO, Any

import orjson

from fastchat.log_writer import FLUSH_S, LogWriter
from fastchat.protocol import timestamp_of

__all__ = [
    "dropped_lines",
    "flush_log",
    "formatted",
    "log_failure",
    "log_repeated",
    "log_uncaught_exceptions",
    "set_up_logging",
]

#: Longer lines are cut, so that a client cannot fill the disk by being refused. A traceback means a
#: fault of ours and can be longer; its last part is logged, because the end says what happened.
MAX_LINE_BYTES = 1024
MAX_TRACEBACK_BYTES = 16 * 1024
#: At most 20 lines of one kind of event in 10 s are logged; further ones are counted.
BURST, WINDOW_S = 20, 10.0
#: Kinds of events that are counted apart. Further ones count as one kind for each logger.
MAX_KINDS = 256
#: Characters of the first event that the line about its repetitions quotes.
SAMPLE_CHARS = 150
STANDARD_ERROR = 2

# C0, DEL, C1, line and paragraph separators, zero-width characters and bidirectional controls:
# characters that could end a line, or make a terminal show something other than the text.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u2028\u2029\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]"
)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        head = f"{timestamp_of(record.created)} {record.levelname:<7} {record.name}: "
        return _truncated(self, record, lambda message: head + _UNSAFE.sub(_escape, message))


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": timestamp_of(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
        }

        def render(message: str) -> str:
            line = orjson.dumps({**event, "message": message}).decode()
            return _UNSAFE.sub(_escape_in_json, line)  # they occur in JSON strings only

        return _truncated(self, record, render)


def _truncated(
    formatter: logging.Formatter, record: logging.LogRecord, render: Callable[[str], str]
) -> str:
    """Render a record's message with `render`; the message is cut if the line is too long."""
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
    """Escape lone surrogates, which a path that is not UTF-8 contains."""
    return message.encode("utf-8", "backslashreplace").decode()


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def _escape_in_json(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


class _Kind:
    """A kind of event, which has one logger and one template, since its first event."""

    __slots__ = ("count", "level", "name", "sample", "since")

    def __init__(self, record: logging.LogRecord, now: float) -> None:
        self.name = record.name
        self.level = record.levelno
        self.since = now
        self.count = 0
        self.sample = ""

    def repeated(self) -> logging.LogRecord | None:
        """A record about the events that were not logged; None if all were."""
        more = self.count - BURST
        if more <= 0:
            return None
        text, arguments = (
            "%s (and %s more like this in %.0f s)",
            (self.sample, f"{more:,}", WINDOW_S),
        )
        return _record(self.name, self.level, text, arguments)


class _Repetitions:
    """Passes on the first events of a kind, and one record for all further ones.

    The memory that it needs is bounded by MAX_KINDS.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # In the order of their first events.
        self._kinds: dict[tuple[str, str], _Kind] = {}

    def pass_on(self, record: logging.LogRecord) -> Iterator[logging.LogRecord]:
        """The records to log now that `record` has arrived."""
        yield from self.expire()
        kind = self._kind_of(record)
        kind.count += 1
        if kind.count <= BURST:
            yield record
        elif kind.count == BURST + 1:
            kind.sample = record.getMessage()[:SAMPLE_CHARS]

    def expire(self, *, all: bool = False) -> Iterator[logging.LogRecord]:
        """Records about kinds whose time is over; about every kind with `all`."""
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


class _Handler(logging.Handler):
    """Formats records, and passes the lines to `writer`, or to `stream` if there is one."""

    def __init__(
        self, formatter: logging.Formatter, stream: IO[str] | None, clock: Callable[[], float]
    ) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.writer = None if stream is not None else LogWriter(STANDARD_ERROR, self._lost)
        self._stream = stream
        self._repetitions = _Repetitions(clock)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            for passed in self._repetitions.pass_on(record):
                self._write(passed)
        except Exception:  # a template with wrong arguments; logging.Handler.emit does the same
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 logging's name
        if logging.raiseExceptions:
            text, arguments = "a line could not be logged: %.150r", (record.msg,)
            self._write(_record(__name__, logging.ERROR, text, arguments, sys.exc_info()))

    def log_repeated(self, *, all: bool = False) -> None:
        self.acquire()
        try:
            for record in self._repetitions.expire(all=all):
                self._write(record)
        finally:
            self.release()

    def write_sentence(self, sentence: str) -> None:
        record = _record("fastchat", logging.ERROR, "%s", (sentence,))
        is_json = isinstance(self.formatter, _JsonFormatter)
        self._write_line(self.format(record) if is_json else f"fastchat: {sentence}")

    def close(self) -> None:
        self.log_repeated(all=True)
        if self.writer is not None:
            self.writer.close()
        super().close()

    def _write(self, record: logging.LogRecord) -> None:
        self._write_line(self.format(record))

    def _write_line(self, line: str) -> None:
        if self.writer is not None:
            self.writer.write(line.encode("utf-8", "backslashreplace") + b"\n")
        elif self._stream is not None:
            self._stream.write(line + "\n")

    def _lost(self, lines: int) -> bytes:
        text = "%s log lines were dropped here, because standard error did not take them"
        record = _record(__name__, logging.WARNING, text, (f"{lines:,}",))
        return self.format(record).encode() + b"\n"


def _record(
    logger: str, level: int, text: str, arguments: tuple[Any, ...] = (), exception: Any = None
) -> logging.LogRecord:
    return logging.LogRecord(logger, level, "", 0, text, arguments, exception)


def _formatter(format: str) -> logging.Formatter:
    return _JsonFormatter() if format == "json" else _TextFormatter()


def set_up_logging(
    level: str,
    format: str,
    stream: IO[str] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Log everything of `level` and above to standard error, or to `stream` if it is given.

    Lines to standard error are written by a thread, and the caller never waits. If standard error
    does not take them, lines are dropped and counted (`dropped_lines`). The last lines are written
    when the process ends; call `flush_log` before `os._exit`.

    Events that repeat are counted; call `log_repeated` once a second. Replaces the handlers of
    the root logger.
    """
    root = logging.getLogger()
    for handler in _handlers():
        handler.close()
    root.handlers[:] = [_Handler(_formatter(format), stream, clock)]
    root.setLevel(level.upper())
    # Below WARNING, uvicorn and asyncio log single requests and clients.
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def log_uncaught_exceptions() -> None:
    """Log what Python would print to standard error, for the rest of the process.

    That is an exception that ends the process or a thread, one that nobody can catch, and a
    warning. So each line has the log's format, and printing cannot block.
    """
    logger = logging.getLogger("fastchat")

    def on_exception(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            logger.error("internal error; the process ends", exc_info=(kind, error, trace))

    def in_thread(happened: threading.ExceptHookArgs) -> None:
        if happened.exc_type is not SystemExit and happened.exc_value is not None:
            exception = (happened.exc_type, happened.exc_value, happened.exc_traceback)
            name = "?" if happened.thread is None else happened.thread.name
            logger.error("internal error; the thread %r ends", name, exc_info=exception)

    def unraisable(happened: sys.UnraisableHookArgs) -> None:
        error = happened.exc_value
        exception = None if error is None else (type(error), error, happened.exc_traceback)
        why = happened.err_msg or "exception ignored in"
        logger.error("internal error; %s: %.200r", why, happened.object, exc_info=exception)

    sys.excepthook = on_exception
    threading.excepthook = in_thread
    sys.unraisablehook = unraisable
    logging.captureWarnings(True)


def formatted(text: str, *, format: str, level: int = logging.INFO) -> str:
    """Return a line with `text` as an event of the logger `fastchat`, without a line feed."""
    return _formatter(format).format(_record("fastchat", level, text))


def log_failure(sentence: str) -> None:
    """Write the sentence with which a server ends: an event in a log of JSON, else only the text.

    It follows the lines that were logged before, and is never left out because of the level.
    """
    for handler in _handlers():
        handler.write_sentence(sentence)


def log_repeated() -> None:
    """Log how often events were repeated, for kinds whose time is over.

    Without this call, the next line that is logged or the end of the process does it.
    """
    for handler in _handlers():
        handler.log_repeated()


def flush_log(within_s: float = FLUSH_S) -> None:
    """Wait until the lines that were logged are written, at most for `within_s` seconds."""
    for handler in _handlers():
        if handler.writer is not None:
            handler.writer.flush(within_s)


def dropped_lines() -> int:
    """The number of log lines of this process that standard error did not take."""
    return sum(each.writer.dropped for each in _handlers() if each.writer is not None)


def _handlers() -> list[_Handler]:
    return [each for each in logging.getLogger().handlers if isinstance(each, _Handler)]
