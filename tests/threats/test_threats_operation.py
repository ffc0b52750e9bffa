"""An operator's guarantees: a log without forged lines, a private relay, and timers that do not
follow the system clock."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import jwt
import pytest

from support import server_in_thread
from support.bystander import Person
from support.naughty_strings import naughty
from support.raw_websocket import PING, TEXT, connected, frame, request, text, wired
from support.server import TIMEOUT_UNIT_S, running_server

SOURCES = Path(__file__).parents[2] / "src" / "fastchat"

# T26


@pytest.mark.parametrize("format", ["json", "text"])
def test_every_event_is_one_log_line(format: str) -> None:
    """T26. Whatever strangers send, each log line is one event of the server, and there are not
    many.

    Hostile names, rooms, queries, origins, tokens, heads and frames all are logged somewhere, or
    were once.
    """
    forged = '\r\n{"level":"fatal","message":"all is lost"}\n2025-01-01T00:00:00.000Z ERROR x: y'
    arguments = ("--history", "memory", "--limits", "off", "--log-level", "debug")
    with running_server(*arguments, "--log-format", format) as server:
        for string in [forged, *naughty()[::5]]:
            hostile = (string + forged)[:900]
            for target in (f"/ws?username={quote(hostile)}", f"/{quote(hostile)}?{quote(hostile)}"):
                with contextlib.suppress(AssertionError), connected(server.port, target) as client:
                    client.write(text({"type": hostile, "username": hostile}) * 30)
                    client.write(frame(PING, b"x") * 50 + frame(TEXT, b"\xff"))
                    client.receive_close()
            for header in (
                "Origin",
                "Host",
                "User-Agent",
                "Sec-WebSocket-Protocol",
                "X-Forwarded-For",
            ):
                with wired(server.port) as wire:
                    value = hostile.encode().decode("latin-1")
                    wire.write(request("/ws", [("Host", "a"), (header, value)]))
                    wire.socket.shutdown(socket.SHUT_WR)
                    wire.read_all()
        assert server.stop() == 0
    lines = server.errors.split("\n")
    assert lines.pop() == ""
    assert len(server.errors) < 100_000
    for line in lines:
        assert line.isprintable()
        if format == "json":
            assert json.loads(line)["level"] in ("debug", "info", "warning", "error")
        else:
            assert line.split()[1] in ("DEBUG", "INFO", "WARNING")
    assert "Traceback" not in server.errors


# T31


def test_garbage_on_the_relay_s_socket_is_dropped(tmp_path: Path) -> None:
    """T31. Only the server's user can open the relay's socket; garbage on the socket is logged, its
    connection is dropped, and clients are not disturbed."""
    arguments = ("--data", str(tmp_path), "--workers", "2", "--limits", "off")
    with running_server(*arguments) as server:
        (place,) = [file for file in tmp_path.iterdir() if file.is_socket()]
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
        parts = children(server.pid)
        with (
            contextlib.closing(Person(server.port, "bus", "Alice")) as alice,
            contextlib.closing(Person(server.port, "bus", "Bob")) as bob,
        ):
            for number in range(300):
                with socket.socket(socket.AF_UNIX) as stranger:
                    stranger.settimeout(5 * TIMEOUT_UNIT_S)
                    with contextlib.suppress(OSError):
                        stranger.connect(str(place))
                        stranger.sendall(garbage(number))
                        if number % 2:
                            stranger.shutdown(socket.SHUT_WR)
                            stranger.recv(1)
                if number % 30 == 0:
                    alice.round_trip_s(f"m{number}")
            alice.round_trip_s("end")
            while bob.receive_type("message").get("id") != "end":
                pass
            assert alice.offset == bob.offset == 11
        assert children(server.pid) == parts
        assert server.stop() == 0
    assert "closing the connection of" in server.errors
    assert "Traceback" not in server.errors
    assert len(server.errors) < 20_000


def garbage(number: int) -> bytes:
    kinds = [
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x00" * 1000,
        b"FLUSHALL\r\n",
        b'{"type":"message","room":"bus","text":"injected"}\n',
        len(b'["bus"]').to_bytes(4, "big") + b'["bus"]',
        b"\x00\x00\x01\x00" + bytes([number % 256]) + os.urandom(255),
        os.urandom(5000),
        b"",
    ]
    return kinds[number % len(kinds)]


def children(pid: int) -> set[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    found = (task.joinpath("children").read_text("ascii").split() for task in tasks)
    return {int(child) for each in found for child in each}


# T32

#: The modules that can read the system clock, and what for.
SYSTEM_CLOCK_READERS = {
    "api/hook_file.py": "when a webhook was made",
    "api/key_file.py": "when a key was made",
    "api/watching.py": "timestamps of joins and leaves",
    "auth/issuing.py": "`exp` and `iat` of the tokens it issues",
    "auth/tokens.py": "`exp`, `nbf` and `iat` of tokens",
    "clocks.py": "ages, which it keeps from jumping with that clock",
    "connections/registry.py": "`exp` of tokens, a time of the system clock",
    "directory.py": "whether the time of a directory is old enough to be trusted",
    "files/orphans.py": "which files are old enough to be orphans",
    "history/exports.py": "timestamps of imported publications",
    "history/transfer.py": "timestamps of imported publications",
    "ledger/health.py": "how far it differs from the clock of PostgreSQL",
    "ledger/transfer.py": "which imported ids are recent",
    "process/assembly/api.py": "`exp` and `iat` of tokens",
    "process/assembly/engine.py": "timestamps of publications, and how old they are",
    "process/assembly/relay.py": "timestamps of what an operator publishes",
    "process/assembly/storage.py": "timestamps, ends of removals, start of the steady clock",
    "process/assembly/worker.py": "timestamps of publications",
    "web/mounts.py": "the header `Date`",
    "web/tls.py": "the expiry of a certificate",
    "webhooks/delivery.py": "how old publications are that cannot be delivered",
    "webhooks/sending.py": "the time in signatures, and `Retry-After` with a date",
}


def test_only_listed_modules_read_the_system_clock() -> None:
    """T32. No module but those listed reads the system clock: deadlines, rates and timers are
    monotonic."""
    found = set()
    for file in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                name = f"{node.value.id}.{node.attr}"
                if name in ("time.time", "time.time_ns", "datetime.now", "datetime.utcnow"):
                    found.add(file.relative_to(SOURCES).as_posix())
            if isinstance(node, ast.ImportFrom) and node.module == "time":
                assert not {alias.name for alias in node.names} & {"time", "time_ns"}, file
    assert found == set(SYSTEM_CLOCK_READERS)
    for file in SOURCES.glob("*.p[yx]*"):
        if file.suffix != ".py":
            assert "time.time" not in file.read_text("utf-8")
            assert "CLOCK_REALTIME" not in file.read_text("utf-8")


class SystemClock:
    """The system clock, which a test can set ahead or back."""

    ahead_s = 0.0


@pytest.fixture
def system_clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[SystemClock]:
    system_clock, real = SystemClock(), time.time
    monkeypatch.setattr(time, "time", lambda: real() + system_clock.ahead_s)
    yield system_clock
    system_clock.ahead_s = 0.0  # Objects that were built meanwhile still use this clock.


@pytest.mark.parametrize("jump_s", [7200.0, -7200.0])
def test_jump_of_the_system_clock_disturbs_no_client(
    jump_s: float, system_clock: SystemClock, tmp_path: Path
) -> None:
    """T32. If the system clock jumps, no client is closed, limited or announced as gone; messages
    are ordered by offset, not by time."""
    with (
        server_in_thread.serving(history="sqlite", data=str(tmp_path)) as server,
        contextlib.closing(Person(server.port, "clock", "Alice")) as alice,
        connected(server.port) as halfway,
    ):
        alice.round_trip_s("before")
        halfway.send_frame(TEXT, b'{"type":"join",', fin=False)
        system_clock.ahead_s = jump_s
        alice.round_trip_s("after")
        time.sleep(2.2)  # Two sweeps.
        alice.round_trip_s("later")
        halfway.send_frame(0, b'"room":"clock","username":"Bob"}')
        joined = halfway.receive_type("joined")
        assert [message["id"] for message in joined["messages"]] == ["before", "after", "later"]
        assert [message["offset"] for message in joined["messages"]] == [1, 2, 3]
        times = [message["timestamp"] for message in joined["messages"]]
        assert (times[1] > times[0]) is (jump_s > 0)
        halfway.send({"type": "leave"})
        halfway.receive_type("left")
        assert [user["username"] for user in joined["users"]] == ["Alice", "Bob"]


def test_token_expires_by_the_system_clock(system_clock: SystemClock, tmp_path: Path) -> None:
    """T4, T32. If the system clock passes the expiry of a token, its client gets 4011 within 5 s,
    and others stay."""
    key = tmp_path / "key"
    key.write_text("a-Secret-of-more-than-32-bytes-in-all", "ascii")

    def token(sub: str, lasts_s: int) -> str:
        claims = {"sub": sub, "exp": int(time.time()) + lasts_s}
        return jwt.encode(claims, key.read_text("ascii"), algorithm="HS256")

    with (
        server_in_thread.serving(auth="jwt", jwt_key_file=(str(key),)) as server,
        connected(server.port) as short,
        connected(server.port) as long,
    ):
        short.join(room="a", token=token("u-1", 3000))
        long.join(room="a", token=token("u-2", 9000))
        system_clock.ahead_s = 3600
        begun = time.monotonic()
        assert short.receive_type("closing")["code"] == 4011
        assert short.receive_close() == 4011
        assert time.monotonic() - begun < 5 * TIMEOUT_UNIT_S
        long.send({"type": "ping"})
        long.receive_type("pong")
