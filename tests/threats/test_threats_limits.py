"""Too much of everything, and too slowly: who is refused, in which words, and who is not."""

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


def client_of(address: str, port: int, target: str = "/ws", **headers: str) -> Client:
    """A client that comes from another address of this machine."""
    client = Client.__new__(Client)
    client.unread = b""
    client.socket = socket.create_connection(("127.0.0.1", port), PATIENCE_S, (address, 0))
    client.write(request(target, {**HANDSHAKE, **headers}.items()))
    client.response = client.read_response()
    return client


def is_live(client: Client) -> bool:
    """Whether a connection was let in: it is answered, and not told to go."""
    client.send({"type": "ping", "ref": "live"})
    with contextlib.suppress(EOFError):
        while (event := client.receive())["type"] not in ("pong", "closing"):
            pass
        if event["type"] == "closing":
            assert (event["code"], client.receive_close()) == (1013, 1013)
            assert event["reconnect_after_ms"] >= 1000
            return False
        return True
    raise AssertionError("it ended without a word")


# Connections


@pytest.mark.parametrize("workers", ["1", "2"])
def test_address_has_exactly_its_connections(workers: str, tmp_path: Path) -> None:
    """T15, T16. 200 of one address, of which 100 may be: just these live, whatever they say.

    The others are told when to come back. `X-Forwarded-For` of a stranger counts for nothing,
    and other addresses are not concerned.
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
            client = client_of(ELSEWHERE, server.port, "/ws", **spoofed)
            clients.append(stack.enter_context(contextlib.closing(client)))
        live = [client for client in clients if is_live(client)]
        assert len(live) == 100
        with connected(server.port) as other:
            assert is_live(other)
        live[0].send_close()
        live[0].receive_close()
        live[0].close()

        def is_free() -> bool:
            with contextlib.closing(client_of(ELSEWHERE, server.port)) as again:
                return is_live(again)

        wait_until(is_free)


def test_proxy_that_is_trusted_says_who_it_is() -> None:
    """T16. The last hop that is no proxy of ours is counted; what stands before it is hearsay."""
    arguments = ("--history", "memory", "--max-address-connections", "3")
    with (
        running_server(*arguments, "--trusted-proxy", ELSEWHERE) as server,
        contextlib.ExitStack() as stack,
    ):

        def live(peer: str, *forwarded: str) -> bool:
            client = client_of(peer, server.port, **{"X-Forwarded-For": ", ".join(forwarded)})
            return is_live(stack.enter_context(contextlib.closing(client)))

        assert [live(ELSEWHERE, f"10.1.1.{n}", "192.0.2.1") for n in range(6)].count(True) == 3
        assert [live(ELSEWHERE, "192.0.2.1", f"10.1.1.{n}") for n in range(6)].count(True) == 6
        assert [live("127.0.0.1", f"10.1.2.{n}") for n in range(6)].count(True) == 3


def test_handshakes_of_one_address_have_a_rate(server: Server) -> None:
    """T15. 503 with `Retry-After` and a short body; others come in as ever."""
    answers: Counter[int] = Counter()
    for _ in range(600):
        with contextlib.closing(client_of(ELSEWHERE, server.port)) as client:
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
def test_sender_of_too_much_is_told_and_then_closed(workers: str, tmp_path: Path) -> None:
    """T19. First `rate_limited` with a time to wait, then 4504; the room hears a few of it."""
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


def test_codes_of_those_who_flood(server: Server) -> None:
    """T11, T13, T19. 4504, also to who does not look at what he is told; nothing comes after it."""
    floods = {
        "messages": text({"text": "x"}) * 5000,
        "typing and errors": (text({"type": "typing"}) + text({"type": "x"})) * 500,
        "joins": b"".join(text({"type": "join", "room": f"r{n}"}) for n in range(5000)),
        "leaves": text({"type": "leave", "room": "nowhere"}) * 5000,
        "fragments": frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"", fin=False) * 1000,
    }
    for name, data in floods.items():
        with connected(server.port, "/ws?username=Flood") as client:
            client.receive_type("joined")
            with contextlib.suppress(OSError):
                client.write(data)
            assert client.receive_close() == 4504, name


def test_pongs_that_nobody_asked_for_are_a_flood(server: Server) -> None:
    """T13. As pings are: 4504."""
    with connected(server.port, "/ws?username=Sender") as sender:
        sender.receive_type("joined")
        with contextlib.suppress(OSError):
            sender.write(frame(PONG, b"x" * 125) * 20_000)
        assert sender.receive_close() == 4504


def test_typing_without_end_reaches_nobody(server: Server) -> None:
    """T19. The others hear some of it; whether it goes on or is closed, nobody hears more."""
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
def test_random_rooms_are_refused(workers: str, tmp_path: Path) -> None:
    """T20. A connection is in 128 rooms at most, an address begins some hundreds, and that is all.

    Memory is as before when they are gone; nobody else is kept from a room of his own.
    """
    with running_server("--data", str(tmp_path), "--workers", workers) as server:
        with connected(server.port, "/ws?username=Alice") as alice:
            alice.receive_type("joined")
        before = settled_bytes(server)
        joined = 0
        with contextlib.ExitStack() as stack:
            for number in range(8):
                client = client_of(ELSEWHERE, server.port)
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
    """So many messages of 2 kB into one room."""
    with contextlib.closing(Person(server.port, "long", "Alice")) as alice:
        for _ in range(count // 50):
            alice.write(b"".join(text({"text": os.urandom(1000).hex()}) for _ in range(50)))
            for _ in range(50):
                alice.receive_type("message")


def test_history_of_a_room_does_not_grow_for_ever(tmp_path: Path) -> None:
    """T21. After eight times as much as is kept, the file is what it was after twice as much."""
    sizes = []
    for count in (400, 1600):
        arguments = ("--data", str(tmp_path), "--history-max-messages", "200", "--limits", "off")
        with running_server(*arguments) as server:
            fill(server, count)
            assert server.stop() == 0
        sizes.append(sum(file.stat().st_size for file in tmp_path.iterdir()))
    assert sizes[1] < 1.3 * sizes[0]


# Slowness


def test_slow_readers_are_evicted_and_nobody_waits() -> None:
    """T18. A third of a room reads nothing: it is closed, and the others miss nothing."""
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
        for _ in range(100):  # 8 MB: more than all that kernels buffer
            people[0].write(text({"text": "x" * 3900}) * 20)
            for person in people:
                for _ in range(20):
                    person.receive_type("message")
        for wire in stalled:
            with contextlib.suppress(EOFError):  # what they had not read was thrown away
                assert wire.receive_close() == 4008
        assert settled_bytes(server) - before < 10_000_000
        assert server.stop() == 0
    assert "(4008)" in server.errors
    assert "Traceback" not in server.errors


def test_slow_everything_ends_in_time(server: Server) -> None:
    """T14. Heads that drip, bodies that never come, half frames, answers that nobody reads.

    80 of each at once: those that have not yet become WebSockets are gone some seconds later,
    whatever they drip meanwhile; and a person who talks notices nothing.
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


def test_silence_is_over_in_forty_seconds() -> None:
    """T14. Who is gone without a word has left by then; test_session shows that it works."""
    from fastchat.process.timings import WorkerTimings

    timings = WorkerTimings()
    silence_s = timings.ping_interval_s + timings.pong_timeout_s + 2 * timings.sweep_interval_s
    assert silence_s <= 40
