"""Standard streams of a server that are closed, full, or not read by anybody."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.raw_websocket import connected, wired
from support.server import START_TIMEOUT_S, TIMEOUT_UNIT_S, lasting_port, wait_until

#: Both kinds of servers: one process, and several.
KINDS = pytest.mark.parametrize("workers", [1, 2])


class Pipe:
    """A pipe for the log; `fill` makes every further write to it wait for a reader."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        self.filler = 0
        self._data = b""

    def fill(self) -> None:
        os.set_blocking(self.write_end, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.filler += os.write(self.write_end, b"." * 1024)
        os.set_blocking(self.write_end, True)

    def close_writer(self) -> None:
        os.close(self.write_end)
        self.write_end = -1

    def close_reader(self) -> None:
        os.close(self.read_end)
        self.read_end = -1

    def await_words(self, words: str) -> None:
        """Wait until these words have been written."""

        def is_written() -> bool:
            if select.select([self.read_end], [], [], 0.1)[0]:
                self._data += os.read(self.read_end, 65536)
            return words in self._data.decode()

        wait_until(is_written, timeout_s=START_TIMEOUT_S)

    def read(self) -> str:
        """Return what was written after the filler, once no process can write any more."""
        while part := os.read(self.read_end, 65536):
            self._data += part
        return self._data[self.filler :].decode()

    def close(self) -> None:
        for descriptor in (self.read_end, self.write_end):
            if descriptor >= 0:
                os.close(descriptor)


@pytest.fixture
def log() -> Iterator[Pipe]:
    with contextlib.closing(Pipe()) as pipe:
        yield pipe


class Started:
    """A server whose standard streams can be anything, so that its address is known before."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, admin_port: int) -> None:
        self.process = process
        self.port = port
        self.admin_port = admin_port

    def is_ready(self) -> bool:
        assert self.process.poll() is None, "the server has ended"
        with contextlib.suppress(OSError):
            url = f"http://127.0.0.1:{self.admin_port}/readyz"
            with urllib.request.urlopen(url, timeout=TIMEOUT_UNIT_S) as answer:
                return bool(answer.status == 200)
        return False

    def metrics(self) -> str:
        url = f"http://127.0.0.1:{self.admin_port}/metrics"
        with urllib.request.urlopen(url, timeout=5 * TIMEOUT_UNIT_S) as answer:
            return str(answer.read().decode())

    def dropped_lines(self) -> float:
        found = re.findall(r"^fastchat_dropped_log_lines_total\{.*\} (\S+)$", self.metrics(), re.M)
        return sum(map(float, found))

    def chat(self, name: str) -> None:
        """Say something, and see it."""
        with connected(self.port, f"/ws?username={name}") as client:
            client.receive_type("joined")
            client.send({"text": name})
            assert client.receive_type("message")["text"] == name

    def provoke(self, count: int = 24) -> None:
        """Send requests that the server refuses, and logs."""
        for _ in range(count):
            with wired(self.port) as wire:
                wire.write(b"nonsense\r\n\r\n")
                wire.read_response()

    def stop(self) -> None:
        """Stop it, and check that it ends in order. A thread that writes may not hold it up."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(START_TIMEOUT_S) == 0


def free_port() -> int:
    if port := lasting_port():
        return port
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def started(
    data: Path, workers: int, *arguments: str, script: str = 'exec "$@"', **streams: int
) -> Iterator[Started]:
    """A server that is ready. `script` redirects its streams, and `streams` are those of Popen."""
    port, admin_port = free_port(), free_port()
    flags = ["--port", str(port), "--admin-port", str(admin_port), "--workers", str(workers)]
    command = [sys.executable, "-m", "fastchat", "serve", "--data", str(data), *flags, *arguments]
    process = subprocess.Popen(["sh", "-c", script, "sh", *command], **streams)  # type: ignore[call-overload]
    server = Started(process, port, admin_port)
    try:
        wait_until(server.is_ready, timeout_s=START_TIMEOUT_S)
        yield server
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


# Nobody reads


@KINDS
def test_log_that_nobody_reads_stops_nothing(workers: int, log: Pipe, tmp_path: Path) -> None:
    """If the pipe of both streams is full from the start, the server starts, chats, and stops in
    time."""
    log.fill()
    streams = {"stdout": log.write_end, "stderr": log.write_end}
    with started(tmp_path, workers, **streams) as server:
        server.chat("Alice")
        server.provoke()
        server.chat("Bob")
        server.stop()
    log.close_writer()
    assert log.read() == ""


def test_lines_that_waited_are_written_when_somebody_reads(log: Pipe, tmp_path: Path) -> None:
    """The log continues as soon as the pipe is read, and has every line that fitted the queue."""
    log.fill()
    with started(tmp_path, 1, stdout=subprocess.DEVNULL, stderr=log.write_end) as server:
        log.close_writer()
        server.provoke(5)
        unread = log.filler
        while unread > 0:
            unread -= len(os.read(log.read_end, unread))
        log.filler = 0
        server.stop()
    lines = log.read().splitlines()
    assert sum("Invalid HTTP request" in line for line in lines) == 5
    assert "serving at" in lines[0]
    assert "stopped" in lines[-1]


@KINDS
def test_reader_of_the_log_can_end(workers: int, log: Pipe, tmp_path: Path) -> None:
    """A server whose log has lost its reader goes on; the lines that are lost are counted."""
    with started(tmp_path, workers, stdout=subprocess.DEVNULL, stderr=log.write_end) as server:
        log.close_reader()
        server.provoke(3)
        server.chat("Alice")
        wait_until(lambda: server.dropped_lines() >= 3)
        server.stop()


# Standard output that cannot be written to


@KINDS
@pytest.mark.parametrize("output", ["full", "closed", "unread"])
def test_server_starts_if_its_address_cannot_be_printed(
    workers: int, output: str, log: Pipe, tmp_path: Path
) -> None:
    """The server serves, and the log says that the address was not printed."""
    script = {"full": 'exec "$@" >/dev/full', "closed": 'exec "$@" >&-', "unread": 'exec "$@"'}
    with contextlib.closing(Pipe()) as printed:
        printed.close_reader()
        streams = {"stdout": printed.write_end, "stderr": log.write_end}
        with started(tmp_path, workers, script=script[output], **streams) as server:
            server.chat("Alice")
            log.await_words("serving at" if output == "closed" else "could not be printed")
            server.stop()
    log.close_writer()
    assert "Traceback" not in log.read()


@KINDS
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_sockets(workers: int, closed: str, tmp_path: Path) -> None:
    """No socket or file gets the number of a standard stream, in no process of the server."""
    with started(tmp_path, workers, script=f'exec "$@" {closed}') as server:
        server.chat("Alice")
        pids = [server.process.pid, *children(server.process.pid)]
        assert len(pids) == (1 if workers == 1 else workers + 2)
        for pid in pids:
            for descriptor in (0, 1, 2):
                target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
                assert not target.startswith(("socket:", "anon_inode:", str(tmp_path))), target
        server.stop()


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# JSON


@KINDS
def test_json_log_is_json_only(workers: int, log: Pipe, tmp_path: Path) -> None:
    """Both streams have JSON only, from the first line to the last."""
    streams = {"stdout": log.write_end, "stderr": log.write_end}
    with started(tmp_path, workers, "--log-format", "json", **streams) as server:
        port = server.port
        log.await_words("fastchat is at")
        server.provoke(2)
        server.stop()
    log.close_writer()
    messages = [json.loads(line)["message"] for line in log.read().splitlines()]
    for words in ("fastchat is at", f"127.0.0.1:{port}", f"kept in {tmp_path}", "stopped"):
        assert any(words in message for message in messages)


def test_start_that_fails_is_json(tmp_path: Path) -> None:
    """The sentence about a setting that cannot be used is an event of the log."""
    (tmp_path / "file").touch()
    flags = ["--log-format", "json", "--port", "0", "--data", str(tmp_path / "file")]
    run = subprocess.run(
        [sys.executable, "-m", "fastchat", "serve", *flags],
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
    )
    assert (run.returncode, run.stdout) == (2, "")
    event = json.loads(run.stderr)
    assert event["level"] == "error"
    assert event["message"].startswith("--data ")
