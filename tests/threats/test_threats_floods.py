"""Floods, which neither the other clients nor the operator must notice."""

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
#: Bytes of memory that the first search takes and later searches use again: it opens the history's
#: file once more.
SEARCH_FILES = 4


def test_floods_leak_no_memory(tmp_path: Path) -> None:
    """T10, T11, T13, T15, T19, T20. All floods together take no more memory the second time.

    The allocator retains the memory that the first round needs; a leak would grow with each round.
    """
    with running_server("--data", str(tmp_path)) as server:
        idle, before, after = open_files(server.pid), 0, 0
        for _ in range(4):
            before = after
            with attacking("all", server):
                time.sleep(2.0)
            wait_until(lambda: open_files(server.pid) <= idle + SEARCH_FILES)
            after = settled_bytes(server)
            if before and after < 1.1 * before:
                break
        assert after < 1.1 * before
        assert server.stop() == 0
    assert "Traceback" not in server.errors


@pytest.fixture(scope="module")
def flooded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Healthy]]:
    """Run a server with its default limits for all floods; check its log and exit status at the
    end.

    All floods share one server, one after the other.
    """
    begun = time.monotonic()
    with running_server("--data", str(tmp_path_factory.mktemp("data"))) as server:
        with healthy_at(server) as healthy:
            yield server, healthy
            healthy.receive_all()
        assert server.stop() == 0
    minutes = 1 + (time.monotonic() - begun) / 60
    assert len(server.errors) < LOG_BYTES_A_MINUTE * minutes
    assert "Traceback" not in server.errors


@pytest.mark.parametrize("kind", KINDS)
def test_flood_does_not_slow_others_down(flooded: tuple[Server, Healthy], kind: str) -> None:
    """T10, T11, T13, T15, T19, T20, T24, T26. A flood by an attacker who always reconnects does not
    disturb others.

    Messages of other users take at most twice as long as in quiet, none is lost or out of order,
    and all descriptors are closed once the attacker is gone.
    """
    server, healthy = flooded
    files = open_files(server.pid)
    with attacking(kind, server) as attack:
        slow = slowed_down(healthy, attack)
        attack.go_on()
    assert not slow
    assert server.process.poll() is None
    healthy.receive_all()
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


def test_measurement_detects_a_slow_server(flooded: tuple[Server, Healthy]) -> None:
    """The measurement of the test above fails for a server that is stopped for most of the time."""
    server, healthy = flooded
    stutter = Stutter(server)
    try:
        assert "99th percentile" in slowed_down(healthy, stutter, rounds=1)
    finally:
        stutter.end()
