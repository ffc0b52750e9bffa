"""The thread that writes the log: order, bounds and losses."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastchat.log_writer import LogWriter
from support.server import TIMEOUT_UNIT_S, wait_until

#: The smallest pipe: one page.
PIPE_BYTES = 4096


def lost(lines: int) -> bytes:
    return b"(%d lost)\n" % lines


class Pipe:
    """A small pipe, a writer to it, and its reader."""

    def __init__(self, **bounds: int) -> None:
        self.read_end, self.write_end = os.pipe()
        fcntl.fcntl(self.write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self.writer = LogWriter(self.write_end, lost, **bounds)

    def close_reader(self) -> None:
        os.close(self.read_end)
        self.read_end = -1

    def lead_to(self, file: Path) -> None:
        """Have the writer's descriptor lead to a file."""
        opened = os.open(file, os.O_WRONLY | os.O_CREAT)
        os.dup2(opened, self.write_end)
        os.close(opened)

    def read_until(self, end: bytes) -> list[bytes]:
        """Return all lines up to one that ends with `end`."""
        data = b""
        while not data.endswith(end + b"\n"):
            data += os.read(self.read_end, 65536)
        return data.splitlines()

    def close(self) -> None:
        if self.read_end >= 0:
            self.close_reader()
        self.writer.close()
        os.close(self.write_end)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    with contextlib.closing(Pipe()) as made:
        yield made


def numbered(number: int) -> bytes:
    return b"line %06d\n" % number


def test_lines_are_written_in_order(pipe: Pipe) -> None:
    """Lines arrive as they were written, and none is dropped while somebody reads."""
    for number in range(1000):
        pipe.writer.write(numbered(number))
    assert pipe.read_until(b"000999") == [numbered(number)[:-1] for number in range(1000)]
    assert pipe.writer.flush(10 * TIMEOUT_UNIT_S)
    assert pipe.writer.dropped == 0


def test_writer_does_not_wait_for_a_reader() -> None:
    """If nobody reads, lines beyond the bound are dropped; their number is written at their place
    as soon as somebody reads, and the lines after it follow."""
    longest = b"x" * (2 * PIPE_BYTES) + b"\n"  # longer than the pipe
    with contextlib.closing(Pipe(max_queued_bytes=len(longest) + 100 * len(numbered(0)))) as pipe:
        pipe.writer.write(longest)
        for number in range(1000):
            pipe.writer.write(numbered(number))
        assert not pipe.writer.flush(0.01)
        assert pipe.writer.dropped == 900
        lines = pipe.read_until(b"(900 lost)")
        assert lines[1:-1] == [numbered(number)[:-1] for number in range(100)]
        pipe.writer.write(b"the next\n")
        assert pipe.read_until(b"the next") == [b"the next"]
        assert pipe.writer.dropped == 900


def test_each_gap_has_its_own_number() -> None:
    """Two gaps with lines between them are two numbers at two places."""
    with contextlib.closing(Pipe(max_queued_bytes=2 * PIPE_BYTES)) as pipe:
        pipe.writer.write(b"x" * (2 * PIPE_BYTES - 10) + b"\n")  # longer than the pipe
        pipe.writer.write(b"too long for the rest\n")
        pipe.writer.write(b"fits\n")
        pipe.writer.write(b"too long for the rest\n")
        pipe.writer.write(b"too long for the rest\n")
        pipe.writer.write(b"end\n")
        assert pipe.read_until(b"end")[1:] == [b"(1 lost)", b"fits", b"(2 lost)", b"end"]
        assert pipe.writer.dropped == 3


def test_reader_that_has_ended_costs_lines_only(pipe: Pipe, tmp_path: Path) -> None:
    """Lines to a pipe without a reader are counted, and told of when lines can be written again."""
    pipe.close_reader()
    for number in range(7):
        pipe.writer.write(numbered(number))
    assert pipe.writer.flush(10 * TIMEOUT_UNIT_S)
    assert pipe.writer.dropped == 7
    pipe.lead_to(tmp_path / "log")
    pipe.writer.write(b"again\n")
    assert pipe.writer.flush(10 * TIMEOUT_UNIT_S)
    assert (tmp_path / "log").read_bytes() == b"(7 lost)\nagain\n"
    assert pipe.writer.dropped == 7


@pytest.mark.parametrize("file", ["/dev/full", "/dev/null"])
def test_full_disk_costs_lines_only(file: str, pipe: Pipe, tmp_path: Path) -> None:
    """Lines that a disk has no space for are counted, and lines to /dev/null are written."""
    pipe.lead_to(Path(file))
    for number in range(5):
        pipe.writer.write(numbered(number))
    assert pipe.writer.flush(10 * TIMEOUT_UNIT_S)
    pipe.lead_to(tmp_path / "log")
    pipe.writer.write(b"again\n")
    assert pipe.writer.flush(10 * TIMEOUT_UNIT_S)
    told = b"(5 lost)\n" if file == "/dev/full" else b""
    assert (tmp_path / "log").read_bytes() == told + b"again\n"


def test_line_that_was_cut_off_is_ended_first(pipe: Pipe, tmp_path: Path) -> None:
    """The next line does not continue a line of which only a part was written."""
    pipe.writer.write(b"x" * (2 * PIPE_BYTES) + b"\n")
    wait_until(lambda: len(os.read(pipe.read_end, 1)) == 1)
    pipe.close_reader()
    assert pipe.writer.flush(10 * TIMEOUT_UNIT_S)
    pipe.lead_to(tmp_path / "log")
    pipe.writer.write(b"again\n")
    pipe.writer.write(b"and again\n")
    assert pipe.writer.flush(10 * TIMEOUT_UNIT_S)
    assert (tmp_path / "log").read_bytes() == b"\n(1 lost)\nagain\nand again\n"


def test_descriptor_in_non_blocking_mode_loses_nothing(pipe: Pipe) -> None:
    """The thread waits for a reader although the descriptor does not."""
    os.set_blocking(pipe.write_end, False)
    for number in range(1000):
        pipe.writer.write(numbered(number))
    assert len(pipe.read_until(b"000999")) == 1000
    assert pipe.writer.dropped == 0


def test_flush_has_a_bound(pipe: Pipe) -> None:
    """A process that ends does not wait for a reader that does not read."""
    pipe.writer.write(b"x" * (2 * PIPE_BYTES) + b"\n")
    began = time.monotonic()
    assert not pipe.writer.flush(0.1)
    assert 0.1 <= time.monotonic() - began < 5 * TIMEOUT_UNIT_S
    pipe.close_reader()
    assert pipe.writer.flush(10 * TIMEOUT_UNIT_S)


def test_close_writes_everything_and_ends_the_thread() -> None:
    """After `close` no line is left, and no thread."""
    before = set(threading.enumerate())
    with contextlib.closing(Pipe()) as pipe:
        (thread,) = set(threading.enumerate()) - before
        for number in range(100):
            pipe.writer.write(numbered(number))
        pipe.writer.close(10 * TIMEOUT_UNIT_S)
        assert len(pipe.read_until(b"000099")) == 100
        thread.join(10 * TIMEOUT_UNIT_S)
        assert not thread.is_alive()


def test_code_that_logs_while_a_line_is_queued_does_not_block(pipe: Pipe) -> None:
    """The garbage collector can run code that logs at any moment, also within the writer's lock."""
    with pipe.writer._changed:
        pipe.writer.write(b"inner\n")
    assert pipe.read_until(b"inner") == [b"inner"]
