"""Harmless clients, and how they are affected by attackers."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median, median_low
from typing import Any, Protocol

from support.raw_websocket import HANDSHAKE, PATIENCE_S, PING, PONG, Client, Frame, Wire, request
from support.server import TIMEOUT_UNIT_S, Server

ATTACKER = Path(__file__).parent / "attacker.py"
#: The length of a window in which latencies are measured, and the number of each kind.
WINDOW_S, WINDOWS = 0.15, 3
#: A busy machine causes single slow rounds, so a test fails only if all of these are slow.
ROUNDS = 4
ALLOWANCE_S = 0.02 * TIMEOUT_UNIT_S


class Person(Client):
    """A client that behaves like a browser: it answers pings and counts its publications."""

    def __init__(self, port: int, room: str, name: str, address: str = "127.0.0.1") -> None:
        self.unread = b""
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE_S, (address, 0))
        try:
            self.write(request(f"/ws?username={name}&room={room}", HANDSHAKE.items()))
            self.response = self.read_response()
            assert self.response.status == 101, self.response
            self.receive_type("joined")
        except BaseException:
            self.close()
            raise

    def receive_frame(self) -> Frame:
        received = super().receive_frame()
        while received.opcode == PING:
            self.send_frame(PONG, received.payload)
            received = super().receive_frame()
        return received

    def receive(self) -> dict[str, Any]:
        event = super().receive()
        assert event["type"] != "error", event
        if event["type"] == "joined":
            self.offset: int = event["offset"]
        elif "offset" in event:
            assert event["offset"] == self.offset + 1, "a hole, or out of order"
            self.offset += 1
        return event

    def round_trip_s(self, id: str) -> float:
        """The seconds until a message has come back to its sender."""
        begun = time.perf_counter()
        self.send({"text": "healthy", "id": id})
        while self.receive_type("message").get("id") != id:
            pass
        return time.perf_counter() - begun


class Healthy:
    """Twenty people in four rooms, with an address each, who send one after the other."""

    def __init__(self, port: int) -> None:
        self._people: list[Person] = []
        with contextlib.ExitStack() as failed:
            for number in range(20):
                room, name = f"room-{number // 5}", f"person-{number}"
                self._people.append(Person(port, room, name, f"127.0.1.{number + 1}"))
                failed.callback(self._people[-1].close)
            failed.pop_all()
        self._turns = itertools.cycle(self._people)
        self._ids = itertools.count()

    def close(self) -> None:
        for person in self._people:
            person.close()

    def p99_s(self, seconds: float = WINDOW_S) -> float:
        """The 99th percentile of a message's round trip, at about 150 messages a second."""
        taken: list[float] = []
        end = time.monotonic() + seconds
        while time.monotonic() < end or len(taken) < 20:
            taken.append(next(self._turns).round_trip_s(f"id-{next(self._ids)}"))
            time.sleep(max(0.0, 0.0065 - taken[-1]))
        return sorted(taken)[int(0.99 * (len(taken) - 1))]

    def receive_all(self) -> None:
        """Check that all members of each room have the same number of messages, in order."""
        for turn in range(0, len(self._people), 5):
            room = self._people[turn : turn + 5]
            id = f"last-{next(self._ids)}"
            room[0].round_trip_s(id)
            for person in room[1:]:
                while person.receive_type("message").get("id") != id:
                    pass
            assert len({person.offset for person in room}) == 1


@contextlib.contextmanager
def healthy_at(server: Server) -> Iterator[Healthy]:
    with contextlib.closing(Healthy(server.port)) as healthy:
        healthy.p99_s()  # a warm-up, so that every path has run once
        yield healthy


class Attack:
    """An attacker's process (`attacker.py`), which can be halted for a while."""

    def __init__(self, kind: str, server: Server) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(ATTACKER), kind, str(server.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert json.loads(self._process.stdout.readline()) == kind

    def halt(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def attacking(kind: str, server: Server) -> Iterator[Attack]:
    attack = Attack(kind, server)
    try:
        yield attack
    finally:
        attack.end()


class Pausable(Protocol):
    def halt(self) -> None: ...
    def go_on(self) -> None: ...


def slowed_down(healthy: Healthy, attack: Pausable, rounds: int = ROUNDS) -> str:
    """Compare a message's round trip in quiet and under attack; an empty text means not slower.

    The text is empty if in one round the 99th percentile under attack is at most twice the quiet
    one plus ALLOWANCE_S; otherwise it has both values. Quiet times and attacks alternate, so that
    other work of the machine affects both.
    """
    for _ in range(rounds):
        quiet, flooded = [], []
        for _ in range(WINDOWS):
            attack.halt()
            quiet.append(healthy.p99_s())
            attack.go_on()
            time.sleep(0.05)
            flooded.append(healthy.p99_s())
        if median_low(flooded) <= 2 * median(quiet) + ALLOWANCE_S:
            return ""
    return f"99th percentile {median_low(flooded):.3f} s, in quiet {median(quiet):.3f} s"


def settled_bytes(server: Server) -> int:
    """The resident bytes of a server: the minimum over half a second, because memory is freed
    late."""
    least = server.resident_bytes()
    for _ in range(10):
        time.sleep(0.05)
        least = min(least, server.resident_bytes())
    return least


def has_ended(wire: Wire) -> bool:
    """Whether a connection has ended, even if unread bytes are left."""
    # The first byte is tcpi_state; 1 is TCP_ESTABLISHED (Linux's <netinet/tcp.h>).
    return wire.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != 1


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))
