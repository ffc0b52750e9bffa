"""Limits that count connections, rooms and frames, against a real server.

`test_flood.py` has the limits that depend on time.
"""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from pathlib import Path

import pytest

from support.limited_server import (
    SERVERS,
    SESSION,
    connection_state,
    enter,
    limited_server,
    outcomes,
    refusals,
    say,
    snapshots,
)
from support.raw_websocket import PONG, connected, frame, request, text
from support.server import TIMEOUT_UNIT_S, Server, running_server, wait_until

#: On a busy machine, clients that have not joined stay connected all the same.
NO_JOIN_TIMEOUT = ("--join-timeout", "0")

# Connections


@SERVERS
def test_address_has_exactly_its_limit_of_connections(tmp_path: Path, workers: str) -> None:
    """Of two hundred connections a hundred live; the others get the reason in an event that a
    browser can read."""
    limit = ("--max-address-connections", "100", *NO_JOIN_TIMEOUT)
    with (
        limited_server(tmp_path, *limit, workers=workers) as server,
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(connected(server.port)) for _ in range(200)]
        wait_until(lambda: refusals(server, "address") == 100)
        fates = [connection_state(client) for client in clients]
        assert Counter(fates) == {"lives": 100, "too many connections from this address": 100}
        clients[fates.index("lives")].close()
        wait_until(lambda: connections(server) == 99)
        late = [stack.enter_context(connected(server.port)) for _ in range(2)]
        wait_until(lambda: refusals(server, "address") == 101)
        assert sorted(map(connection_state, late)) == [
            "lives",
            "too many connections from this address",
        ]


def connections(server: Server) -> int:
    return sum(part.get("connections", 0) for part in snapshots(server).values())


@SERVERS
def test_user_has_exactly_their_limit_of_connections(tmp_path: Path, workers: str) -> None:
    """A user is recognised by their session, and another user is admitted."""
    with (
        limited_server(tmp_path, "--max-user-connections", "3", workers=workers) as server,
        contextlib.ExitStack() as stack,
    ):
        clients = [
            stack.enter_context(contextlib.closing(enter(server, "Ann", session=SESSION)))
            for _ in range(8)
        ]
        wait_until(lambda: refusals(server, "user") == 5)
        fates = Counter(connection_state(client) for client in clients)
        assert fates == {"lives": 3, "too many connections of this user": 5}
        with contextlib.closing(enter(server, "Bob")) as bob:
            assert connection_state(bob) == "lives"


@SERVERS
def test_server_has_exactly_its_limit_of_connections(tmp_path: Path, workers: str) -> None:
    with (
        limited_server(
            tmp_path, "--max-connections", "20", *NO_JOIN_TIMEOUT, workers=workers
        ) as server,
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(connected(server.port)) for _ in range(30)]
        wait_until(lambda: refusals(server, "connections") == 10)
        fates = Counter(connection_state(client) for client in clients)
        assert fates == {"lives": 20, "the server is full": 10}


def test_silent_connections_of_an_address_are_limited(tmp_path: Path) -> None:
    """Connections without a WebSocket count for their address, too, so others are admitted."""
    with (
        running_server("--data", str(tmp_path), open_files=256) as server,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(300):
            connection = stack.enter_context(socket.socket())
            connection.connect(("127.0.0.1", server.port))
        other = stack.enter_context(socket.socket())
        other.bind(("127.0.0.9", 0))
        other.connect(("127.0.0.1", server.port))
        other.settimeout(5 * TIMEOUT_UNIT_S)
        other.sendall(request("/"))
        assert other.recv(12) == b"HTTP/1.1 200"


# Messages


def test_outbox_of_a_page_is_within_the_limits(tmp_path: Path) -> None:
    """The messages that a page has written offline, and sends twice if in doubt, are no flood."""
    with limited_server(tmp_path) as server:
        for _ in range(2):
            with contextlib.closing(enter(server, "Ann", session=SESSION)) as ann:
                say(ann, *(f"pending {number}" for number in range(20)))
                seen = [ann.receive() for _ in range(20)]
                assert {event["type"] for event in seen} <= {"message", "ack"}


@pytest.mark.parametrize(
    "sent", [text({"type": "typing"}), frame(PONG, b"")], ids=["typing", "pongs"]
)
def test_flood_of_unanswered_frames_is_closed(tmp_path: Path, sent: bytes) -> None:
    """Frames without a reply cost the server time to read, so a flood of them is closed."""
    with limited_server(tmp_path) as server, contextlib.closing(enter(server, "Eve")) as eve:
        with contextlib.suppress(OSError):
            eve.write(sent * 20_000)
        wait_until(lambda: snapshots(server)["server"]["closes"].get("4504") == 1)


# Rooms


@SERVERS
def test_rooms_of_a_connection_are_limited(tmp_path: Path, workers: str) -> None:
    """Random rooms are refused beyond the limit, and empty rooms leave nothing behind."""
    limits = ("--max-rooms", "500", "--max-connection-rooms", "0", "--new-room-rate", "0")
    rates = ("--command-rate", "0", "--address-command-rate", "0", "--max-errors", "0")
    more = (*rates, "--max-lag-bytes", "1000000000")
    with limited_server(tmp_path, *limits, *more, workers=workers) as server:
        for attempt in range(2):
            with contextlib.closing(enter(server, "Eve", "home")) as eve:
                codes: Counter[str] = Counter()
                for start in range(0, 5000, 500):
                    rooms = [f"{attempt}-{number}" for number in range(start, start + 500)]
                    eve.write(b"".join(text({"type": "join", "room": room}) for room in rooms))
                    for _ in rooms:
                        event = eve.receive()
                        while event["type"] not in ("joined", "error"):
                            event = eve.receive()
                        codes[event.get("code", event["type"])] += 1
                assert codes == {"joined": 499, "too_many_rooms": 4501}
            wait_until(lambda: user_count(server) == 0, timeout_s=15 * TIMEOUT_UNIT_S)
            if attempt == 0:
                before = server.resident_bytes()
        assert server.resident_bytes() < 1.1 * before


def user_count(server: Server) -> int:
    """Return the number of users in all rooms."""
    parts = snapshots(server)
    found: int = (parts.get("relay") or parts["server"])["users"]
    return found


# No limits


def test_limits_can_be_switched_off(tmp_path: Path) -> None:
    """`--limits off` admits the load of a load test."""
    with limited_server(tmp_path, "--limits", "off") as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected(server.port)) for _ in range(600)]
        assert {connection_state(client) for client in clients} == {"lives"}
        with contextlib.closing(enter(server, "Ann", session=SESSION)) as ann:
            say(ann, *map(str, range(1000)))
            assert outcomes(ann, 1000) == ([*map(str, range(1000))], {})
            rooms = [f"r{number}" for number in range(400)]
            ann.write(b"".join(text({"type": "join", "room": room}) for room in rooms))
            assert {ann.receive_type("joined")["room"] for _ in rooms} == set(rooms)
            ann.write(b"".join(text({"type": "no"}) for _ in range(200)))
            assert {ann.receive_type("error")["code"] for _ in range(200)} == {"bad_command"}
