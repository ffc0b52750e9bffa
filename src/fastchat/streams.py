"""The standard streams of a process: descriptors 0, 1 and 2, and the text that is printed there.

Each of them can be closed, full, or a pipe without a reader. A command whose purpose is its output
then fails with a sentence (`output`). An error message that cannot be printed is lost (`complain`).
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import TextIO

from fastchat.errors import OutputError

__all__ = [
    "complain",
    "discard_output",
    "keep_open",
    "open_output",
    "output",
    "print_error",
    "write_some",
    "writing",
]


def keep_open() -> None:
    """Open /dev/null in place of each standard stream that is closed.

    Otherwise the next socket or file would get the number of that stream. Printed text would go to
    the socket, and a child process would get the socket as its standard stream. `sys.stdin` and
    `sys.stdout` stay None, so that a command can see that they were closed. Call this function
    before anything is opened.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            assert opened == descriptor
            os.set_inheritable(opened, True)
    if sys.stderr is None:
        # `print(file=None)` prints to standard output.
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def open_output() -> TextIO:
    """Standard output, which escapes characters that its encoding lacks. Write to it in `writing`.

    Raises OutputError if standard output is closed.
    """
    if sys.stdout is None:
        raise OutputError("standard output is closed.")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return sys.stdout


@contextlib.contextmanager
def output() -> Iterator[TextIO]:
    """Standard output, for a block that does nothing else than write to it; flushed at the end.

    Raises OutputError if standard output is closed or cannot be written to, and BrokenPipeError if
    its reader has ended.
    """
    out = open_output()
    with writing():
        yield out
        out.flush()


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Translate errors of standard output to OutputError, except BrokenPipeError."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"standard output cannot be written to: {error.strerror}.") from None


def discard_output() -> None:
    """Drop the text that could not be written to standard output.

    Otherwise Python would try again at the end of the process, and fail again.
    """
    _discard(sys.stdout)


def complain(sentence: str) -> None:
    """Print a sentence to standard error. If that cannot be written to, the sentence is lost."""
    print_error(f"fastchat: {sentence}")


def print_error(text: str) -> None:
    """Print lines to standard error. If that cannot be written to, the lines are lost."""
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        _discard(sys.stderr)


def write_some(descriptor: int, data: bytes) -> int:
    """Write as much as the descriptor takes, at least a byte, and return the number of bytes.

    Waits until the descriptor takes a byte, however long, even if it is in non-blocking mode: other
    processes can share the open file, and can have set the mode. Raises OSError.
    """
    while True:
        try:
            return os.write(descriptor, data)
        except BlockingIOError:
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()


def _discard(stream: TextIO | None) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or no file
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, stream.fileno())  # type: ignore[union-attr]  # None has no fileno
        finally:
            os.close(null)
