"""Standard input and output of `fastchat tail`: the lines to send, and the events of a room."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Mapping
from datetime import date, datetime
from typing import Any, TextIO

import orjson

from fastchat.cli.text import escape_json, safe
from fastchat.protocol import Kind
from fastchat.streams import writing

__all__ = ["JsonScreen", "Screen", "has_color", "has_lines", "lines_of"]

#: A longer line is cut into pieces of about this length, which bounds the memory for a line. The
#: longest command is shorter, so the server would refuse such a line anyway.
MAX_LINE_BYTES = 64 * 1024
_CHUNK_BYTES = 64 * 1024


# Standard input


def has_lines(stdin: TextIO | None) -> bool:
    """Whether standard input is a terminal, a pipe or a file; /dev/null has no lines."""
    try:
        assert stdin is not None
        mode = os.fstat(stdin.fileno()).st_mode
        return os.isatty(stdin.fileno()) or not stat.S_ISCHR(mode)
    except (AssertionError, OSError, ValueError):  # closed
        return False


async def lines_of(descriptor: int) -> AsyncIterator[bytes]:
    """Yield the lines of standard input, and read on only when the caller wants the next line.

    The descriptor stays in blocking mode: in a terminal, standard output uses the same open file,
    and a mode is a property of the file.
    """
    rest = b""
    while chunk := await _read(descriptor):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
        if len(rest) > MAX_LINE_BYTES:
            yield rest
            rest = b""
    if rest:
        yield rest


async def _read(descriptor: int) -> bytes:
    # A regular file is always ready, and epoll refuses it (EPERM, epoll_ctl(2)).
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(descriptor, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(descriptor)
    return os.read(descriptor, _CHUNK_BYTES)


# Standard output

#: Further lines of a text are indented, so that none looks like another person's message.
_INDENT = "\n" + 9 * " "


def has_color(out: TextIO) -> bool:
    environment = os.environ
    return (
        out.isatty()
        and not environment.get("NO_COLOR")  # https://no-color.org
        and environment.get("TERM") != "dumb"
    )


class Screen:
    """Shows a room to a person: one line for each event, which starts with the event's time.

    Each method raises OutputError if `out` cannot be written to, and BrokenPipeError if its reader
    has ended.
    """

    def __init__(self, out: TextIO, *, color: bool) -> None:
        self._out = out
        self._color = color
        self._day = date.today()

    def publication(self, event: Mapping[str, Any]) -> None:
        name = safe(event["username"])
        text = _INDENT.join(map(safe, str(event.get("text", "")).split("\n")))
        match event["type"]:
            case Kind.MESSAGE if event.get("deleted"):
                self._print(event, f"{name} deleted this message", dim=True)
            case Kind.MESSAGE:
                self._print(event, f"{name}: {text}")
            case Kind.EDIT:
                self._print(event, f"{name} (edited): {text}")
            case Kind.DELETE:
                self._print(event, f"{name} deleted a message", dim=True)
            case Kind.REACT:
                verb = "took back" if event.get("remove") else "reacted with"
                self._print(event, f"{name} {verb} {safe(event['emoji'])}", dim=True)

    def presence(self, event: Mapping[str, Any]) -> None:
        self._print(event, safe(event["text"]), dim=True)

    def flush(self) -> None:
        with writing():
            self._out.flush()

    def _print(self, event: Mapping[str, Any], text: str, *, dim: bool = False) -> None:
        time = datetime.fromisoformat(event["timestamp"]).astimezone()
        if time.date() != self._day:
            self._day = time.date()
            self._write(f"--- {self._day:%Y-%m-%d} ---", dim=True)
        self._write(f"{time:%H:%M:%S} {text}", dim=dim)

    def _write(self, line: str, *, dim: bool) -> None:
        with writing():
            self._out.write(f"\x1b[2m{line}\x1b[22m\n" if dim and self._color else f"{line}\n")


class JsonScreen(Screen):
    """Prints each publication, join and leave as one line of JSON, as the server sent it."""

    def __init__(self, out: TextIO) -> None:
        super().__init__(out, color=False)

    def publication(self, event: Mapping[str, Any]) -> None:
        self._write(escape_json(orjson.dumps(event).decode()), dim=False)

    presence = publication
