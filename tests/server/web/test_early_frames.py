"""Frames that arrive together with the handshake, before the client has read the answer."""

from __future__ import annotations

import contextlib
import itertools
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from support.raw_websocket import (
    CLOSE,
    HANDSHAKE,
    HOST,
    TEXT,
    Client,
    connected,
    frame,
    request,
    text,
    wired,
)
from support.server import Server, running_server

AUTHORITY = trustme.CA()
_numbers = itertools.count()

#: Connects to the server with bytes behind the handshake.
Connect = Callable[[bytes], contextlib.AbstractContextManager[Client]]


@pytest.fixture(scope="module", params=["plain", "tls"])
def tls(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ssl.SSLContext | None, tuple[str, ...]]:
    """The context of a client, and the flags of its server."""
    if request.param == "plain":
        return None, ()
    file = Path(tmp_path_factory.mktemp("tls")) / "server.pem"
    AUTHORITY.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    AUTHORITY.configure_trust(context)
    return context, ("--ssl-certfile", str(file))


@pytest.fixture(scope="module")
def server(tls: tuple[ssl.SSLContext | None, tuple[str, ...]]) -> Iterator[Server]:
    with running_server("--history", "memory", "--limits", "off", *tls[1]) as server:
        yield server


@pytest.fixture
def connect(server: Server, tls: tuple[ssl.SSLContext | None, tuple[str, ...]]) -> Connect:
    return lambda early: connected(server.port, tls=tls[0], early=early)


def join_command() -> bytes:
    """A `join` with a name that nobody has had before."""
    return text({"type": "join", "username": f"u{next(_numbers)}"})


def test_frame_behind_the_handshake_is_processed(connect: Connect) -> None:
    """A command in the segment of the handshake runs like any other."""
    with connect(join_command()) as client:
        assert client.receive()["type"] == "joined"
        client.send({"type": "ping", "ref": "later"})
        assert client.receive_type("pong")["ref"] == "later"


def test_several_frames_are_processed_in_order(connect: Connect) -> None:
    """All commands behind the handshake run in their order, also more than a read buffer holds."""
    texts = [f"{number} ".ljust(2000, "x").rstrip() for number in range(20)]
    with connect(join_command() + b"".join(text({"text": each}) for each in texts)) as client:
        assert [client.receive_type("message")["text"] for _ in texts] == texts


@pytest.mark.parametrize("size", [1, 2, 5, 6, 7, 20, -1])
def test_frame_that_is_cut_continues_later(connect: Connect, size: int) -> None:
    """The rest of a frame can arrive later, wherever the frame is cut."""
    join = join_command()
    with connect(join[:size]) as client:
        client.write(join[size:] + text({"text": "Hello"}))
        assert client.receive()["type"] == "joined"
        assert client.receive_type("message")["text"] == "Hello"


def test_large_message_behind_the_handshake_is_processed(connect: Connect) -> None:
    """A message of the largest size is accepted, and its rest can arrive later."""
    for size in (70_000, 50_000):
        command = f'{{"type":"join","username":"u{next(_numbers)}"}}'.encode()
        large = text(command.ljust(65_536))
        with connect(large[:size]) as client:
            client.write(large[size:])
            assert client.receive()["type"] == "joined"


def test_message_behind_the_handshake_can_be_too_large(connect: Connect) -> None:
    """A message that is too large closes the connection with 1009."""
    with connect(frame(TEXT, b"x" * 70_000)) as client:
        assert client.receive_end() == 1009


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\r\n\r\n",
        b"\xff" * 50,
        frame(TEXT, b"{}", mask=None),
    ],
    ids=["request", "lines", "bytes", "unmasked"],
)
def test_bytes_that_are_no_frames_close_the_connection(connect: Connect, garbage: bytes) -> None:
    """Bytes that are no valid frames are a protocol error; no HTTP answer follows."""
    with connect(garbage) as client:
        assert client.receive_close() == 1002


def test_valid_frame_before_garbage_is_closed_cleanly(connect: Connect) -> None:
    """Garbage behind a valid frame closes the connection, and the server stays up."""
    with connect(join_command() + b"\xff" * 50) as client:
        assert client.receive_close() == 1002
    with connect(join_command()) as client:
        assert client.receive()["type"] == "joined"


def test_client_can_close_at_once(connect: Connect) -> None:
    """A close frame behind the handshake is answered, and nothing after it is read."""
    with connect(
        join_command() + frame(CLOSE, (1000).to_bytes(2, "big")) + text({"text": "late"})
    ) as client:
        assert client.receive_close() == 1000
        assert client.read_all() == b""


def test_head_in_two_segments_keeps_its_frames(
    server: Server, tls: tuple[ssl.SSLContext | None, tuple[str, ...]]
) -> None:
    """Frames behind the second part of a handshake are processed, too."""
    head = request(f"/ws?username=u{next(_numbers)}", HANDSHAKE.items())
    with wired(server.port, tls=tls[0]) as wire:
        wire.write(head[:30])
        time.sleep(0.05)
        wire.write(head[30:] + text({"text": "Hello"}))
        assert wire.read_response().status == 101
        assert b'"text":"Hello"' in wire.read_until(b'"text":"Hello"')


@pytest.mark.parametrize(
    ("target", "change", "status"),
    [
        ("/nowhere", {}, 404),
        ("/ws", {"Sec-WebSocket-Version": "12"}, 426),
        ("/ws", {"Origin": "http://other.example"}, 403),
        ("/ws", {"Content-Length": "5"}, 400),
    ],
)
@pytest.mark.parametrize(
    "behind", [text({"type": "ping"}), request("/", [HOST])], ids=["frame", "request"]
)
def test_bytes_behind_a_refused_handshake_are_not_used(
    server: Server,
    tls: tuple[ssl.SSLContext | None, tuple[str, ...]],
    behind: bytes,
    target: str,
    change: dict[str, str],
    status: int,
) -> None:
    """A refused handshake gets one answer, and the connection ends without a second one."""
    with wired(server.port, tls=tls[0]) as wire:
        wire.write(request(target, {**HANDSHAKE, **change}.items()) + behind)
        assert wire.read_response().status == status
        assert wire.read_all() == b""


def test_client_that_sends_on_can_read_why_its_handshake_is_refused(
    server: Server, tls: tuple[ssl.SSLContext | None, tuple[str, ...]]
) -> None:
    """The rest of a frame that arrives after the refusal does not reset the connection."""
    large = text(b"x" * 60_000)
    with wired(server.port, tls=tls[0]) as wire:
        wire.write(request("/nowhere", HANDSHAKE.items()) + large[:1000])
        time.sleep(0.05)
        wire.write(large[1000:])
        time.sleep(0.05)
        assert wire.read_response().status == 404
