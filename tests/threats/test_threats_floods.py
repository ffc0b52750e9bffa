"""Floods, and that nobody else notices them: neither the other clients nor who runs the server."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.attacker import KINDS
from support.bystander import Healthy, attacking, healthy_at, open_files, settled_bytes, slowed_down
from support.server import TIMEOUT_UNIT_S, Server, running_server, wait_until

LOG_BYTES_A_MINUTE = 1_000_000
#: What the first search opens, and the second uses: the history's file once more.
SEARCH_FILES = 4


def test_memory_comes_back(tmp_path: Path) -> None:
    """T10, T11, T13, T15, T19, T20. All floods together: later ones cost no more than the first.

    What they need at once stays with the allocator; what leaks grows each time.
    """
    with running_server("--data", str(tmp_path)) as server:
        before = after = 0
        for _ in range(4):
            before = after
            with attacking("all", server):
                time.sleep(2.0)
            wait_until(lambda: open_files(server.pid) < 32)
            after = settled_bytes(server)
            if before and after < 1.1 * before:
                break
        assert after < 1.1 * before
        assert server.stop() == 0
    assert "Traceback" not in server.errors


@pytest.fixture(scope="module")
def flooded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Healthy]]:
    """A server as it is run, with its usual limits; at the end the log and the exit are looked at.

    All floods have the same one, one after the other.
    """
    begun = time.monotonic()
    with running_server("--data", str(tmp_path_factory.mktemp("data"))) as server:
        with healthy_at(server) as healthy:
            yield server, healthy
            healthy.hear_all()
        assert server.stop() == 0
    minutes = 1 + (time.monotonic() - begun) / 60
    assert len(server.errors) < LOG_BYTES_A_MINUTE * minutes
    assert "Traceback" not in server.errors


@pytest.mark.parametrize("kind", KINDS)
def test_flood_is_not_noticed(flooded: tuple[Server, Healthy], kind: str) -> None:
    """T10, T11, T13, T15, T19, T20, T24, T26. Who comes back as often as he is thrown out.

    Messages of others take no longer than twice what they take in quiet, none is lost or out
    of order, and all files are closed when the attacker is gone.
    """
    server, healthy = flooded
    files = open_files(server.pid)
    with attacking(kind, server) as attack:
        slow = slowed_down(healthy, attack)
        attack.go_on()
    assert not slow
    assert server.process.poll() is None
    healthy.hear_all()
    wait_until(lambda: open_files(server.pid) <= files + SEARCH_FILES)


class Stutter:
    """Stops a server for most of the time."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._going_on = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self.halt, self.go_on = self._going_on.clear, self._going_on.set

    def _run(self) -> None:
        while not self._ended:
            self._going_on.wait()
            self._server.signal(signal.SIGSTOP)
            time.sleep(0.1 * TIMEOUT_UNIT_S)
            self._server.signal(signal.SIGCONT)
            time.sleep(0.01)

    def end(self) -> None:
        self._ended = True
        self._going_on.set()
        self._thread.join()


def test_flood_that_is_noticed_would_be_seen(flooded: tuple[Server, Healthy]) -> None:
    """The test above can fail: it does so for a server that stutters."""
    server, healthy = flooded
    stutter = Stutter(server)
    try:
        assert "99th percentile" in slowed_down(healthy, stutter, rounds=1)
    finally:
        stutter.end()
