"""Clients that send too much or too slowly: who is refused and how, and that others are served."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.bystander import Person, has_ended, settled_bytes
from support.raw_websocket import (
    CONTINUATION,
    HANDSHAKE,
    PATIENCE_S,
    PONG,
    TEXT,
    Client,
    Wire,
    connected,
    frame,
    request,
    text,
)
from support.server import TIMEOUT_UNIT_S, Server, running_server, wait_until

ELSEWHERE = "127.0.0.20"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running_server("--data", str(tmp_path)) as server:
        yield server


def client_from(address: str, port: int, target: str = "/ws", **headers: str) -> Client:
    """Connect a client from another address of this machine."""
    client = Client.__new__(Client)
    client.unread = b""
    client.socket = socket.create_connection(("127.0.0.1", port), PATIENCE_S, (address, 0))
    client.write(request(target, {**HANDSHAKE, **headers}.items()))
    client.response = client.read_response()
    return client


def is_live(client: Client) -> bool:
    """Return whether the connection was admitted: the server replies to a ping, and does not close
    it."""
    client.send({"type": "ping", "ref": "live"})
    with contextlib.suppress(EOFError):
        while (event := client.receive())["type"] not in ("pong", "closing"):
            pass
        if event["type"] == "closing":
            assert (event["code"], client.receive_close()) == (1013, 1013)
            assert event["reconnect_after_ms"] >= 1000
            return False
        return True
    raise AssertionError("the connection ended without a closing event")


# Connections


@pytest.mark.parametrize("workers", ["1", "2"])
def test_address_has_exactly_its_connections(workers: str, tmp_path: Path) -> None:
    """T15, T16. Of 200 connections of one address exactly 100, its limit, are admitted.

    The others receive a time to reconnect. `X-Forwarded-For` from an untrusted address is ignored,
    and other addresses are not affected.
    """
    arguments = ("--data", str(tmp_path), "--workers", workers, "--max-address-connections", "100")
    with (
        running_server(*arguments, "--address-handshake-rate", "0") as server,
        contextlib.ExitStack() as stack,
    ):
        clients = []
        for number in range(200):
            spoofed = {
                "X-Forwarded-For": f"203.0.113.{number}",
                "Forwarded": f"for=10.0.0.{number}",
            }
            client = client_from(ELSEWHERE, server.port, "/ws", **spoofed)
            clients.append(stack.enter_context(contextlib.closing(client)))
        live = [client for client in clients if is_live(client)]
        assert len(live) == 100
        with connected(server.port) as other:
            assert is_live(other)
        live[0].send_close()
        live[0].receive_close()
        live[0].close()

        def is_free() -> bool:
            with contextlib.closing(client_from(ELSEWHERE, server.port)) as again:
                return is_live(again)

        wait_until(is_free)


def test_address_behind_a_trusted_proxy_is_counted() -> None:
    """T16. The last hop that is not a trusted proxy is counted; earlier hops are ignored."""
    arguments = ("--history", "memory", "--max-address-connections", "3")
    with (
        running_server(*arguments, "--trusted-proxy", ELSEWHERE) as server,
        contextlib.ExitStack() as stack,
    ):

        def live(peer: str, *forwarded: str) -> bool:
            client = client_from(peer, server.port, **{"X-Forwarded-For": ", ".join(forwarded)})
            return is_live(stack.enter_context(contextlib.closing(client)))

        assert [live(ELSEWHERE, f"10.1.1.{n}", "192.0.2.1") for n in range(6)].count(True) == 3
        assert [live(ELSEWHERE, "192.0.2.1", f"10.1.1.{n}") for n in range(6)].count(True) == 6
        assert [live("127.0.0.1", f"10.1.2.{n}") for n in range(6)].count(True) == 3


def test_handshakes_are_limited_by_address(server: Server) -> None:
    """T15. Too many handshakes get 503 with `Retry-After` and a short body; other addresses are
    served as before."""
    answers: Counter[int] = Counter()
    for _ in range(600):
        with contextlib.closing(client_from(ELSEWHERE, server.port)) as client:
            answers[client.response.status] += 1
            if client.response.status != 101:
                assert client.response.status == 503
                assert int(client.response.headers["retry-after"]) > 0
                assert len(client.response.body) < 100
    assert 300 < answers[101] < 590
    with connected(server.port, "/ws?username=Alice") as alice:
        alice.receive_type("joined")


# Messages and rooms


@pytest.mark.parametrize("workers", ["1", "2"])
def test_flooding_sender_is_warned_and_then_closed(workers: str, tmp_path: Path) -> None:
    """T19. A flooding sender gets `rate_limited` with a time to wait, then 4504; the room receives
    only a few of its messages."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(running_server("--data", str(tmp_path), "--workers", workers))
        reader = Person(server.port, "busy", "Reader", ELSEWHERE)
        stack.callback(reader.close)
        with connected(server.port, "/ws?username=Sender&room=busy") as sender:
            sender.receive_type("joined")
            with contextlib.suppress(OSError):
                sender.write(text({"text": "spam"}) * 50_000)
            seen: Counter[str] = Counter()
            with contextlib.suppress(AssertionError):
                while True:
                    event = sender.receive()
                    seen[event["code"] if event["type"] == "error" else event["type"]] += 1
                    if event["type"] == "error":
                        assert event["temporary"]
                        assert 0 < event["retry_after_ms"] <= 60_000
            assert 50 < seen["rate_limited"] < 1000
            assert sender.unread == b""
            ends = map(str, itertools.count())
            wait_until(lambda: reader.round_trip_s(next(ends)) > 0 and reader.offset >= 20)
            assert reader.offset <= 100


def test_every_flood_ends_with_4504(server: Server) -> None:
    """T11, T13, T19. Every flood ends with 4504, even if the sender ignores the errors, and nothing
    follows the close frame."""
    floods = {
        "messages": text({"text": "x"}) * 5000,
        "typing and errors": (text({"type": "typing"}) + text({"type": "x"})) * 500,
        "joins": b"".join(text({"type": "join", "room": f"r{n}"}) for n in range(5000)),
        "leaves": text({"type": "leave", "room": "nowhere"}) * 5000,
        "fragments": frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"", fin=False) * 1000,
    }
    for name, data in floods.items():
        # The name of the sender before is kept for them.
        with connected(server.port, f"/ws?username={name.split()[0]}") as client:
            client.receive_type("joined")
            with contextlib.suppress(OSError):
                client.write(data)
            assert client.receive_close() == 4504, name


def test_flood_of_unsolicited_pongs_is_closed(server: Server) -> None:
    """T13. Too many unsolicited pongs get 4504, as pings do."""
    with connected(server.port, "/ws?username=Sender") as sender:
        sender.receive_type("joined")
        with contextlib.suppress(OSError):
            sender.write(frame(PONG, b"x" * 125) * 20_000)
        assert sender.receive_close() == 4504


def test_flood_of_typing_is_hardly_delivered(server: Server) -> None:
    """T19. A room receives only a few events of a flood of typing, whether the connection goes on
    or is closed."""
    with (
        contextlib.closing(Person(server.port, "quiet", "Reader", ELSEWHERE)) as reader,
        connected(server.port, "/ws?username=Sender&room=quiet") as sender,
    ):
        sender.receive_type("joined")
        with contextlib.suppress(OSError):
            sender.write(text({"type": "typing"}) * 20_000)
        reader.send({"type": "ping"})
        heard: Counter[str] = Counter()
        while (event := reader.receive())["type"] != "pong":
            heard[event["type"]] += 1
        assert heard["typing"] < 30


@pytest.mark.parametrize("workers", ["1", "2"])
def test_number_of_new_rooms_is_limited(workers: str, tmp_path: Path) -> None:
    """T20. A connection joins at most 128 rooms, and an address creates at most some hundreds.

    Memory is as before once the connections are gone, and other users can still create a room.
    """
    with running_server("--data", str(tmp_path), "--workers", workers) as server:
        with connected(server.port, "/ws?username=Alice") as alice:
            alice.receive_type("joined")
        before = settled_bytes(server)
        joined = 0
        with contextlib.ExitStack() as stack:
            for number in range(8):
                client = client_from(ELSEWHERE, server.port)
                stack.callback(client.close)
                names = (os.urandom(16).hex() for _ in range(1000))
                with contextlib.suppress(OSError):
                    client.write(
                        b"".join(
                            text({"type": "join", "room": name, "username": f"x{number}"})
                            for name in names
                        )
                    )
                mine = 0
                with contextlib.suppress(AssertionError):
                    while True:
                        mine += client.receive()["type"] == "joined"
                assert mine <= 128
                joined += mine
            assert 100 < joined < 400
            with connected(server.port) as other:
                other.join(room="a-room-of-ones-own", username="Bob")
        assert settled_bytes(server) < 1.1 * before
        assert server.stop() == 0


def fill(server: Server, count: int) -> None:
    """Publish this number of messages of 2 kB in one room."""
    with contextlib.closing(Person(server.port, "long", "Alice")) as alice:
        for _ in range(count // 50):
            alice.write(b"".join(text({"text": os.urandom(1000).hex()}) for _ in range(50)))
            for _ in range(50):
                alice.receive_type("message")


def test_history_of_a_room_is_bounded(tmp_path: Path) -> None:
    """T21. The history's file is as large after eight times the stored number of messages as after
    twice that number."""
    sizes = []
    for count in (400, 1600):
        arguments = ("--data", str(tmp_path), "--history-max-messages", "200", "--limits", "off")
        with running_server(*arguments) as server:
            fill(server, count)
            assert server.stop() == 0
        sizes.append(sum(file.stat().st_size for file in tmp_path.iterdir()))
    assert sizes[1] < 1.3 * sizes[0]


# Slow clients


def test_slow_readers_are_evicted_and_others_miss_nothing() -> None:
    """T18. If a third of a room reads nothing, these clients are evicted, and the others receive
    every message."""
    arguments = ("--history", "memory", "--history-max-messages", "1", "--max-lag-bytes", "65536")
    with (
        running_server(*arguments, "--limits", "off") as server,
        contextlib.ExitStack() as stack,
    ):
        people, stalled = [], []
        for number in range(20):
            person = Person(server.port, "big", f"p{number}")
            people.append(stack.enter_context(contextlib.closing(person)))
        for number in range(10):
            target = f"/ws?username=s{number}&room=big"
            wire = Client(server.port, target, receive_buffer=4096)
            stalled.append(stack.enter_context(contextlib.closing(wire)))
        before = settled_bytes(server)
        for _ in range(100):  # 8 MB, more than the kernel's buffers hold.
            people[0].write(text({"text": "x" * 3900}) * 20)
            for person in people:
                for _ in range(20):
                    person.receive_type("message")
        for wire in stalled:
            # The server drops the messages that these clients had not read.
            with contextlib.suppress(EOFError):
                assert wire.receive_close() == 4008
        assert settled_bytes(server) - before < 10_000_000
        assert server.stop() == 0
    assert "(4008)" in server.errors
    assert "Traceback" not in server.errors


def test_slow_readers_in_many_rooms_share_one_bound() -> None:
    """T18. Clients that lag a little in each of many rooms cost no more than the bound of the
    process. A client that reads misses nothing, and the memory is given back."""
    bound = 8 << 20
    arguments = ("--history", "memory", "--history-max-messages", "1", "--limits", "off")
    rooms = [[f"r{group}-{room}" for room in range(10)] for group in range(6)]
    with (
        running_server(*arguments, "--max-lag-total-bytes", str(bound)) as server,
        contextlib.ExitStack() as stack,
    ):
        alice = stack.enter_context(connected(server.port))
        for room in itertools.chain(*rooms):
            alice.join(room=room, username="Alice", history=0)
        for group, theirs in enumerate(rooms):
            slow = stack.enter_context(connected(server.port, receive_buffer=4096))
            for room in theirs:
                slow.join(room=room, username=f"Slow{group}", history=0)
        before, most = settled_bytes(server), 0
        message = "x" * 3900
        for _ in range(100):  # 24 MB, of which the kernel's buffers hold less than 2 MB
            for theirs in rooms:
                alice.write(b"".join(text({"text": message, "room": room}) for room in theirs))
                for _ in theirs:
                    alice.receive_type("message")
            most = max(most, server.resident_bytes() - before)
        assert most < 1.5 * bound
        stack.close()
        wait_until(lambda: server.resident_bytes() - before < bound / 2)
        assert server.stop() == 0
    assert "--max-lag-total-bytes is 8388608" in server.errors
    assert "Traceback" not in server.errors


def test_slow_requests_end_in_time(server: Server) -> None:
    """T14. Slow request heads end within seconds, whatever they send meanwhile.

    80 connections each send no byte, one byte, or half a head, and then a byte from time to time;
    another user talks without a delay.
    """
    silent = [b"", b"G", b"GET /ws HTTP/1.1\r\nHost: localhost\r\nX: "]
    with contextlib.ExitStack() as stack:
        person = stack.enter_context(contextlib.closing(Person(server.port, "slow", "Alice")))
        begun = time.monotonic()
        wires = []
        for head in silent * 80:
            wire = stack.enter_context(contextlib.closing(Wire(server.port)))
            wire.write(head)
            wires.append(wire)
        slowest = 0.0
        number = 0
        while wires and time.monotonic() < begun + 12 * TIMEOUT_UNIT_S:
            number += 1
            slowest = max(slowest, person.round_trip_s(f"m{number}"))
            for wire in wires[::7]:
                with contextlib.suppress(OSError):
                    wire.write(b"x")
            wires = [wire for wire in wires if not has_ended(wire)]
            time.sleep(0.15)
        assert not wires
        assert 4 < time.monotonic() - begun < 12 * TIMEOUT_UNIT_S
        assert slowest < 0.5 * TIMEOUT_UNIT_S


def test_silent_client_is_gone_after_forty_seconds() -> None:
    """T14. The default timings end a silent connection within 40 s; test_session shows that they
    are obeyed."""
    from fastchat.process.timings import WorkerTimings

    timings = WorkerTimings()
    silence_s = timings.ping_interval_s + timings.pong_timeout_s + 2 * timings.sweep_interval_s
    assert silence_s <= 40
