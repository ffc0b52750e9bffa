"""File descriptors: how many connections fit, and how the server refuses more.

`test_flood.py` has floods of connections.
"""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastchat.errors import SettingError
from fastchat.web import capacity
from fastchat.web.capacity import (
    MIN_CONNECTIONS,
    MIN_REFUSED,
    RESERVE,
    Capacity,
    count_transfers,
    measure_capacity,
)
from support.raw_websocket import HANDSHAKE, connected, ends_within, request, wired
from support.server import TIMEOUT_UNIT_S
from support.server_in_thread import Server, serving

USED = 20


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Simulate a process with 20 open files, whose limits can be set."""
    limits = {"soft": 1024, "hard": 4096}

    def set_limits(kind: int, pair: tuple[int, int]) -> None:
        limits["soft"], limits["hard"] = pair

    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limits["soft"], limits["hard"]))
    monkeypatch.setattr(resource, "setrlimit", set_limits)
    monkeypatch.setattr(capacity, "_open_files", lambda: USED)
    return limits


def test_soft_limit_is_raised_to_the_hard_limit(limits: dict[str, int]) -> None:
    """The server raises the limit itself, so that an operator need not call `ulimit -n`."""
    capacity = measure_capacity()
    assert limits == {"soft": 4096, "hard": 4096}
    assert capacity.accepted == 4096 - USED - RESERVE
    assert 0.9 * capacity.accepted < capacity.served < capacity.accepted


def test_limit_that_cannot_be_raised_applies(
    limits: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If raising the limit is forbidden, the soft limit applies."""

    def forbid(kind: int, pair: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "setrlimit", forbid)
    assert measure_capacity().accepted == 1024 - USED - RESERVE


def test_unlimited_is_the_kernel_s_maximum(
    limits: dict[str, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """For `unlimited` the kernel's maximum applies."""
    (tmp_path / "nr_open").write_text("5000\n", "ascii")
    monkeypatch.setattr(capacity, "_NR_OPEN", tmp_path / "nr_open")
    limits.update(soft=resource.RLIM_INFINITY, hard=resource.RLIM_INFINITY)
    assert measure_capacity().accepted == 5000 - USED - RESERVE
    monkeypatch.setattr(capacity, "_NR_OPEN", tmp_path / "missing")
    limits.update(soft=1024, hard=resource.RLIM_INFINITY)
    assert measure_capacity().accepted == 1024 - USED - RESERVE


def test_error_names_the_least_sufficient_limit(limits: dict[str, int]) -> None:
    """The limit named in the sentence is enough, and one less is not."""
    needed = USED + RESERVE + MIN_REFUSED + MIN_CONNECTIONS
    limits.update(soft=needed, hard=needed)
    assert measure_capacity() == Capacity(MIN_CONNECTIONS, MIN_CONNECTIONS + MIN_REFUSED)
    limits.update(soft=needed - 1, hard=needed - 1)
    with pytest.raises(
        SettingError, match=rf"ulimit -n\) is {needed - 1}; the server needs {needed},"
    ):
        measure_capacity()
    limits.update(soft=needed, hard=needed)
    with pytest.raises(SettingError, match=f"needs {needed + 5},"):
        measure_capacity(5)


@pytest.mark.parametrize(("limit", "transfers"), [(40, 1), (1024, 21), (4096, 85), (90_000, 128)])
def test_shared_files_have_a_share_of_the_descriptors(
    limits: dict[str, int], limit: int, transfers: int
) -> None:
    """Shared files get some descriptors always, more with a higher limit, and never most of
    them."""
    limits.update(soft=min(limit, 1024), hard=limit)
    assert count_transfers() == transfers
    assert limits["soft"] == limit


# At the server


@pytest.fixture
def small_server() -> Iterator[Server]:
    with serving(capacity=Capacity(3, 5)) as server:
        yield server


def test_request_above_the_capacity_gets_503(small_server: Server) -> None:
    """Above the capacity a request gets 503 with Retry-After, and its connection ends; below it
    requests are served."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(wired(small_server.port)) for _ in range(2)]
        with connected(small_server.port, "/ws?username=Alice") as client:
            client.receive_type("joined")
            with wired(small_server.port) as wire:
                wire.write(request("/"))
                response = wire.read_response()
                assert wire.read_all() == b""
        assert (response.status, response.body) == (503, b"The server is full.\n")
        assert int(response.headers["retry-after"]) > 0
        assert response.headers["connection"] == "close"
        assert response.headers["x-content-type-options"] == "nosniff"
        held[0].write(request("/"))
        assert held[0].read_response().status == 200


def test_handshake_above_the_capacity_is_refused_by_an_event(small_server: Server) -> None:
    """A handshake above the capacity gets 101 and an event with the reason, because a script in a
    browser cannot read a status."""
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(wired(small_server.port))
        wire = stack.enter_context(wired(small_server.port))
        wire.write(request("/ws", HANDSHAKE.items()))
        assert wire.read_response().status == 101


def test_connection_far_above_the_capacity_is_refused_at_once(
    small_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection gets 503 before a request, the log has one line, and there is room again once
    a client leaves."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(wired(small_server.port)) for _ in range(5)]
        with wired(small_server.port) as wire:
            assert wire.read_response().status == 503
            assert wire.read_all() == b""
        (record,) = caplog.records
        assert "5 connections are open" in record.getMessage()
        held.pop().close()
        with wired(small_server.port) as wire:
            assert not ends_within(wire, 0.3)


# With a real limit


@pytest.mark.parametrize("workers", [1, 2])
def test_insufficient_limit_is_one_sentence(workers: int, tmp_path: Path) -> None:
    """If the limit leaves no room for clients, the server does not start, and says how many
    descriptors it needs."""
    command = 'ulimit -n 44; exec "$@"'
    arguments = ["serve", "--port", "0", "--data", str(tmp_path), "--workers", str(workers)]
    ended = subprocess.run(
        ["sh", "-c", command, "sh", sys.executable, "-m", "fastchat", *arguments],
        capture_output=True,
        text=True,
        timeout=20 * TIMEOUT_UNIT_S,
    )
    assert ended.returncode == 2
    assert "fastchat: The limit of open files (ulimit -n) is 44; " in ended.stderr
    assert "Traceback" not in ended.stderr
