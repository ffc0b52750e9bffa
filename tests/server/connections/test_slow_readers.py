"""What the server keeps for clients that do not read: how it is counted, and what it costs them."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from fastchat.process.timings import WorkerTimings
from support.raw_websocket import Client, connected, text
from support.server import wait_until
from support.server_in_thread import Server, serving

#: Nobody is evicted because of time.
PATIENT: dict[str, Any] = {"limits": "off", "max_lag_seconds": 3600.0}


@pytest.fixture(params=["plain", "tls"])
def tls(
    request: pytest.FixtureRequest, tmp_path: Path
) -> tuple[ssl.SSLContext | None, dict[str, str]]:
    """The context of a client, and the settings of its server."""
    if request.param == "plain":
        return None, {}
    authority = trustme.CA()
    file = tmp_path / "server.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context, {"ssl_certfile": str(file)}


Tls = tuple[ssl.SSLContext | None, dict[str, str]]


@contextlib.contextmanager
def stalled(server: Server, tls: Tls, name: str, *rooms: str) -> Iterator[Client]:
    """A client that joins rooms and then reads nothing."""
    with connected(server.port, tls=tls[0], receive_buffer=4096) as client:
        for room in rooms:
            client.join(room=room, username=name, history=0)
        yield client


def fill(client: Client, room: str, count: int) -> None:
    """Publish so many messages of 4 kB in a room."""
    for _ in range(count):
        client.send({"text": "x" * 3900, "room": room})
        client.receive_type("message")


def lag_bytes(server: Server) -> int:
    return server.call(server.hub.stats)["lag_bytes"]


def test_unread_reply_counts(tls: Tls) -> None:
    """A large reply that a client does not read counts, also if the connection is encrypted, and
    not any more once the client has read it."""
    with (
        serving(**PATIENT, **tls[1]) as server,
        connected(server.port, "/ws?username=Alice", tls=tls[0]) as alice,
        stalled(server, tls, "Bob", "lobby") as bob,
    ):
        fill(alice, "lobby", 80)
        while bob.receive_type("message")["offset"] < 80:
            pass
        assert lag_bytes(server) == 0
        for _ in range(2):  # the kernel takes a part of the first
            bob.send({"type": "history", "limit": 70})
            wait_until(lambda: lag_bytes(server) > 100_000)
            server.call(server.hub.verify)
            bob.receive_type("history")
            wait_until(lambda: lag_bytes(server) == 0)


def test_client_that_lags_in_many_rooms_is_evicted(tls: Tls) -> None:
    """A client that lags in each of its rooms by less than the bound of a room is evicted with 4008
    at the bound for all of them, and the others get every message."""
    bounds = {"max_connection_lag_bytes": 500_000, "max_lag_bytes": 400_000}
    rooms = [f"room-{number}" for number in range(20)]
    with (
        serving(**PATIENT, **bounds, **tls[1]) as server,
        connected(server.port, tls=tls[0]) as alice,
        stalled(server, tls, "Slow", *rooms) as slow,
    ):
        for room in rooms:
            alice.join(room=room, username="Alice", history=0)
        for _ in range(40):
            for room in rooms:
                fill(alice, room, 1)
            if server.call(server.hub.stats)["slow_evictions"]["connection"]:
                break
            assert lag_bytes(server) < 600_000
        assert server.call(server.hub.stats)["slow_evictions"]["connection"] == 1
        with contextlib.suppress(EOFError):  # the abort can arrive before the end of the backlog
            assert slow.receive_close() == 4008
        wait_until(lambda: server.metrics.closes[4008] == 1)
        assert lag_bytes(server) == 0


def test_slowest_clients_are_evicted_if_the_process_keeps_too_much(tls: Tls) -> None:
    """Above the bound for all clients, the slowest go; a client that reads slowly but lags little
    stays."""
    with (
        serving(**PATIENT, max_lag_total_bytes=1 << 20, **tls[1]) as server,
        contextlib.ExitStack() as stack,
    ):
        for number in range(4):
            stack.enter_context(stalled(server, tls, f"slow{number}", f"room-{number}"))
        alice = stack.enter_context(connected(server.port, tls=tls[0]))
        little = stack.enter_context(stalled(server, tls, "Little", "room-9"))
        for room in (*range(4), 9):
            alice.join(room=f"room-{room}", username="Alice", history=0)
        fill(alice, "room-9", 60)
        for number in range(4):
            fill(alice, f"room-{number}", 150)
            assert lag_bytes(server) < 1_150_000
        evictions = server.call(server.hub.stats)["slow_evictions"]
        assert 1 <= evictions["total"] < 4
        assert sum(evictions.values()) == evictions["total"]
        server.call(server.hub.verify)
        while little.receive_type("message")["offset"] < 60:
            pass


def test_bytes_of_a_refused_frame_are_kept_only_until_the_abort(tls: Tls) -> None:
    """A client that reads nothing and breaks the protocol is aborted in time; until then, what its
    connection holds counts."""
    timings = WorkerTimings(close_grace_s=0.5)
    with (
        serving(timings=timings, **PATIENT, **tls[1]) as server,
        connected(server.port, "/ws?username=Alice", tls=tls[0]) as alice,
        stalled(server, tls, "Bob", "lobby") as bob,
    ):
        fill(alice, "lobby", 80)
        wait_until(lambda: server.call(server.hub.stats)["blocked"] == 1)
        for _ in range(2):
            bob.write(text({"type": "history", "limit": 30}))
        wait_until(lambda: lag_bytes(server) > 100_000)
        bob.write(b"\xff" * 10)
        wait_until(lambda: server.metrics.closes[1002] == 1)
        assert lag_bytes(server) == 0
        server.call(server.hub.verify)
