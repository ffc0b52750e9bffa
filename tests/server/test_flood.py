"""Floods of every kind against a real server, limits that depend on time, and what other clients
notice.

`test_limits.py` has the limits that only count.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from support.limited_server import (
    SERVERS,
    SESSION,
    enter,
    limited_server,
    outcomes,
    refusals,
    say,
    snapshots,
)
from support.raw_websocket import HANDSHAKE, Client, Wire, connected, request, text, wired
from support.server import TIMEOUT_UNIT_S, Server, running_server, wait_until

# Connections


def handshake(server: Server, *forwarded: str) -> tuple[int, dict[str, str]]:
    headers = [*HANDSHAKE.items(), *(("X-Forwarded-For", value) for value in forwarded)]
    with wired(server.port) as wire:
        wire.write(request("/ws", headers))
        response = wire.read_response()
        if response.status != 101:
            assert wire.read_all() == b""
        return response.status, response.headers


def test_flood_of_handshakes_is_refused_without_a_session(tmp_path: Path) -> None:
    """A flood of handshakes gets 503 with a time to reconnect, without a session, and connected
    clients notice nothing."""
    with limited_server(tmp_path) as server, contextlib.closing(enter(server, "Ann")) as ann:
        answers = [handshake(server) for _ in range(1000)]
        refused = [headers for status, headers in answers if status == 503]
        # The burst is worth twenty seconds; in the long run the rate is twenty a second.
        assert 300 < len(refused) < 601
        assert {status for status, _ in answers} == {101, 503}
        assert all(int(headers["retry-after"]) > 0 for headers in refused)
        assert all(headers["connection"] == "close" for headers in refused)
        assert refusals(server, "address_upgrades") == len(refused)
        say(ann, "still here")
        assert outcomes(ann, 1) == (["still here"], {})


def processor_seconds(server: Server) -> float:
    fields = Path(f"/proc/{server.pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def flooded(server: Server, count: int, kind: str) -> list[Wire]:
    """Open this number of connections, or as many as the server accepts: silent ones, or
    WebSockets."""
    wires = []
    for _ in range(count):
        wire = Wire(server.port)
        wires.append(wire)
        if kind == "websockets":
            with contextlib.suppress(OSError):
                wire.write(request("/ws?username=Flood", HANDSHAKE.items()))
    return wires


@pytest.mark.parametrize("kind", ["silent", "websockets"])
@pytest.mark.parametrize("open_files", [96, 160])
def test_flood_of_connections_does_not_disturb_clients(
    open_files: int, kind: str, tmp_path: Path
) -> None:
    """Connected clients are served, including requests that open files, and new clients are served
    at once after the flood."""
    with (
        running_server("--data", str(tmp_path), "--limits", "off", open_files=open_files) as server,
        connected(server.port, "/ws?username=Alice") as alice,
    ):
        alice.receive_type("joined")
        wires = flooded(server, 400, kind)
        try:
            used, begin = processor_seconds(server), time.monotonic()
            while time.monotonic() < begin + 1:
                asked = time.monotonic()
                alice.send({"text": "still here"})
                assert alice.receive_type("message")["text"] == "still here"
                assert time.monotonic() - asked < 0.5 * TIMEOUT_UNIT_S
                time.sleep(0.1)
            share = (processor_seconds(server) - used) / (time.monotonic() - begin)
            assert share < 0.2 * TIMEOUT_UNIT_S
            alice.send({"type": "search", "query": "still"})
            assert alice.receive_type("results")["messages"]
            assert len(os.listdir(f"/proc/{server.pid}/fd")) < open_files
        finally:
            for wire in wires:
                wire.reset()
        ended = time.monotonic()
        wait_until(lambda: is_served(server), timeout_s=TIMEOUT_UNIT_S)
        assert time.monotonic() - ended < TIMEOUT_UNIT_S
        alice.send_close()
        alice.receive_close()
        assert server.stop() == 0
    assert len(server.errors) < 10_000
    assert "Traceback" not in server.errors


def is_served(server: Server) -> bool:
    try:
        with contextlib.closing(Client(server.port, "/ws?username=Bob")) as client:
            client.receive_type("joined")
            return True
    except (OSError, EOFError, AssertionError):
        return False


def test_forwarded_for_counts_from_trusted_proxies_only(tmp_path: Path) -> None:
    """A forged header changes nothing, and nor does its part before the client's address."""
    limits = ("--address-handshake-rate", "0.05")
    with limited_server(tmp_path / "a", *limits) as server:
        assert handshake(server, "198.51.100.1")[0] == 101
        assert handshake(server, "198.51.100.2")[0] == 503
    with limited_server(tmp_path / "b", *limits, "--trusted-proxy", "127.0.0.1") as server:
        assert handshake(server, "203.0.113.1, 198.51.100.1")[0] == 101
        assert handshake(server, "203.0.113.2, 198.51.100.1")[0] == 503
        assert handshake(server, "198.51.100.2", "198.51.100.1")[0] == 503
        assert handshake(server, "198.51.100.2")[0] == 101
        assert handshake(server, "2001:db8::1")[0] == 101
        assert handshake(server, "2001:db8::ffff:2")[0] == 503
        assert handshake(server, "2001:db8:0:1::1")[0] == 101


# Messages


def test_flood_of_messages_is_throttled_and_then_closed(tmp_path: Path) -> None:
    """The flooding client is refused, then closed with 4504, while others talk undisturbed."""
    with (
        limited_server(tmp_path) as server,
        contextlib.closing(enter(server, "Ann")) as ann,
        contextlib.closing(enter(server, "Eve")) as eve,
    ):
        assert max(latencies(ann, 5)) < 2 * TIMEOUT_UNIT_S
        flood = threading.Thread(target=write_until_closed, args=(eve,))
        flood.start()
        assert max(latencies(ann, 20)) < 1 * TIMEOUT_UNIT_S
        kinds: Counter[str] = Counter()
        with contextlib.suppress(AssertionError):  # A close frame.
            while True:
                event = eve.receive()
                kinds[event.get("code", event["type"])] += 1
                if kinds["rate_limited"] > 1000:
                    break
        flood.join(10 * TIMEOUT_UNIT_S)
        assert not flood.is_alive()
        # The burst, and the tokens of a second or two; each refusal counts as a tenth of an error.
        assert 40 <= kinds["message"] < 150
        assert 150 < kinds["rate_limited"] < 300
        wait_until(lambda: snapshots(server)["server"]["closes"].get("4504") == 1)


def latencies(client: Client, count: int) -> list[float]:
    """Return the times until a client's own messages have arrived."""
    took = []
    for number in range(count):
        begun = time.monotonic()
        say(client, f"lone {number} {begun}")
        while client.receive_type("message")["username"] != "Ann":
            pass
        took.append(time.monotonic() - begun)
        time.sleep(0.02)
    return took


def write_until_closed(client: Client) -> None:
    numbers = itertools.count()
    with contextlib.suppress(OSError):
        for _ in range(200):
            client.write(b"".join(text({"text": f"spam {next(numbers)}"}) for _ in range(250)))


@SERVERS
def test_user_has_one_budget_for_all_connections(tmp_path: Path, workers: str) -> None:
    """The connections of a user share one budget, even in different processes; another user has
    another."""
    limits = ("--user-rate", "0.2", "--user-burst", "10", "--max-errors", "0")
    with (
        limited_server(tmp_path, *limits, workers=workers) as server,
        contextlib.ExitStack() as stack,
    ):
        tabs = [
            stack.enter_context(contextlib.closing(enter(server, "Ann", room, session=SESSION)))
            for room in ("one", "two", "three", "four")
        ]
        published = 0
        for number, tab in enumerate(tabs):
            say(tab, *(f"{number}-{each}" for each in range(10)))
            published += len(outcomes(tab, 10)[0])
        assert 10 <= published <= 12
        bob = stack.enter_context(contextlib.closing(enter(server, "Bob", "one")))
        say(bob, "hello")
        assert bob.receive_type("message")["text"] == "hello"


@SERVERS
def test_room_rate_slows_a_room_for_all_users(tmp_path: Path, workers: str) -> None:
    """`--room-rate` limits a room; a refused message is not published and can be sent again."""
    limits = ("--room-rate", "2", "--room-burst", "3")
    with (
        limited_server(tmp_path, *limits, workers=workers) as server,
        contextlib.ExitStack() as stack,
    ):
        ann, bob = (
            stack.enter_context(contextlib.closing(enter(server, name))) for name in ("Ann", "Bob")
        )
        say(ann, "a1", "a2", "a3")
        assert outcomes(ann, 3)[0] == ["a1", "a2", "a3"]
        for _ in range(3):
            bob.receive_type("message")
        say(bob, "b1")
        published, refused = outcomes(bob, 1)
        assert not published
        # A refused id is not remembered: the same message sent again is published, once.
        time.sleep(refused["b1"]["retry_after_ms"] / 1000)
        say(bob, "b1")
        assert bob.receive_type("message")["text"] == "b1"
        cid = stack.enter_context(contextlib.closing(enter(server, "Cid", "other")))
        say(cid, "c1")
        assert cid.receive_type("message")["text"] == "c1"


def test_edits_deletions_and_reactions_count_as_messages(tmp_path: Path) -> None:
    limits = ("--message-rate", "0.1", "--message-burst", "4")
    with (
        limited_server(tmp_path, *limits) as server,
        contextlib.closing(enter(server, "Ann")) as ann,
    ):
        say(ann, "one")
        ann.receive_type("message")
        ann.send({"type": "react", "offset": 1, "emoji": "👋"})
        ann.send({"type": "edit", "offset": 1, "text": "two"})
        ann.send({"type": "delete", "offset": 1})
        for kind in ("react", "edit", "delete"):
            ann.receive_type(kind)
        ann.send({"type": "edit", "offset": 1, "text": "three", "ref": "r"})
        error = ann.receive_type("error")
        assert (error["code"], error["ref"]) == ("rate_limited", "r")


def test_excess_typing_is_dropped_silently(tmp_path: Path) -> None:
    with (
        limited_server(tmp_path) as server,
        contextlib.closing(enter(server, "Ann")) as ann,
        contextlib.closing(enter(server, "Bob")) as bob,
    ):
        ann.write(b"".join(text({"type": "typing"}) for _ in range(500)))
        say(ann, "done")
        while (event := ann.receive())["type"] != "message":
            assert event["type"] != "error"
        kinds: Counter[str] = Counter()
        while (event := bob.receive())["type"] != "message":
            kinds[event["type"]] += 1
        assert 1 <= kinds["typing"] <= 20


def test_one_address_cannot_use_up_a_room_s_rate(tmp_path: Path) -> None:
    """However many users one address connects, other users can send messages."""
    limits = ("--address-message-rate", "1", "--room-rate", "1", "--room-burst", "20")
    with limited_server(tmp_path, *limits, "--trusted-proxy", "127.0.0.1") as server:
        crowd = [enter(server, f"eve{number}", forwarded="192.0.2.1") for number in range(5)]
        for eve in crowd:
            say(eve, *map(str, range(10)))
            eve.send({"type": "ping"})
            eve.receive_type("pong")
        with contextlib.closing(enter(server, "Ann", history=0, forwarded="192.0.2.2")) as ann:
            say(ann, "hello")
            assert ann.receive_type("message")["text"] == "hello"
        for eve in crowd:
            eve.close()


def test_flood_of_history_requests_is_refused(tmp_path: Path) -> None:
    """Pages of the history are limited, because they cost the server more than the client."""
    with limited_server(tmp_path) as server, contextlib.closing(enter(server, "Ann")) as ann:
        ann.write(b"".join(text({"type": "history", "limit": 300}) for _ in range(300)))
        kinds = Counter(event.get("code", event["type"]) for event in receive(ann, 300))
        assert kinds["history"] + kinds["rate_limited"] == 300
        assert 150 < kinds["history"] < 260


def receive(client: Client, count: int) -> list[dict[str, Any]]:
    return [client.receive() for _ in range(count)]


# Rooms


@SERVERS
def test_new_rooms_of_an_address_are_limited(tmp_path: Path, workers: str) -> None:
    """New rooms are limited over all connections of an address; joins of occupied rooms are
    free."""
    limits = ("--new-room-rate", "0.1")
    with (
        limited_server(tmp_path, *limits, workers=workers) as server,
        contextlib.ExitStack() as stack,
    ):
        for number in range(5):
            stack.enter_context(contextlib.closing(enter(server, f"u{number}", f"r{number}")))
        with connected(server.port) as late:
            late.send({"type": "join", "room": "r6", "username": "late", "ref": "r"})
            error = late.receive_type("error")
            assert (error["code"], error["ref"]) == ("rate_limited", "r")
            assert 1000 < error["retry_after_ms"] <= 10_000
            late.join(room="r3", username="late")
