"""Logs: one line an event, as text or JSON, whatever a client put into it."""

from __future__ import annotations

import logging
import re
import sys
from typing import IO

import orjson

from fastchat.protocol import timestamp_of

__all__ = ["set_up_logging"]

#: Longer lines are cut: a client shall not fill the disk by being refused.
MAX_LINE_CHARS = 2000

# C0, DEL, C1, line and paragraph separators, bidirectional controls: all that could
# end a line, or show a terminal something else than what is there.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        head = f"{timestamp_of(record.created)} {record.levelname:<7} {record.name}: "
        return head + _one_line(_message(self, record))


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return orjson.dumps(
            {
                "time": timestamp_of(record.created),
                "level": record.levelname.lower(),
                "logger": record.name,
                "message": _encodable(_message(self, record)[:MAX_LINE_CHARS]),
            }
        ).decode()


def _message(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    message = record.getMessage()
    if record.exc_info:
        message += " | " + formatter.formatException(record.exc_info)
    return message


def _encodable(message: str) -> str:
    """Lone surrogates, as of a path that is not UTF-8, as escapes."""
    return message.encode("utf-8", "backslashreplace").decode()


def _one_line(message: str) -> str:
    return _UNSAFE.sub(_escape, message)[:MAX_LINE_CHARS]


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def set_up_logging(level: str, format: str, stream: IO[str] | None = None) -> None:
    """Log everything of `level` and above to `stream` (default: standard error)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonFormatter() if format == "json" else _TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # uvicorn and asyncio tell of single requests and clients: only what is wrong.
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
