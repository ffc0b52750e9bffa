"""Files that one connection sends by binary messages: their order, limits and failures."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import select
import time
from collections.abc import Iterator
from typing import Any

import pytest

from fastchat.errors import CommandError, ErrorCode
from fastchat.files.incoming import STALL_S, IncomingFiles
from fastchat.process.timings import WorkerTimings
from support.files_in_memory import FilesInMemory
from support.raw_websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Client,
    connected,
    frame,
    text,
)
from support.server import TIMEOUT_UNIT_S, wait_until
from support.server_in_thread import Server, serving

#: More bytes than the kernel buffers for a connection from which the server does not read.
FLOOD_BYTES = 32 << 20


@pytest.fixture
def files() -> FilesInMemory:
    """The files of the servers in a test."""
    files = FilesInMemory()
    files.max_bytes = FLOOD_BYTES
    return files


def serving_files(
    files: FilesInMemory, *, stall_s: float = STALL_S, **arguments: Any
) -> contextlib.AbstractContextManager[Server]:
    """Run a server that stores files in `files`."""
    incoming_files = IncomingFiles(files, files.transfers, stall_s=stall_s)
    return serving(incoming_files=incoming_files, **arguments)


@pytest.fixture
def server(files: FilesInMemory) -> Iterator[Server]:
    with serving_files(files, upload_rate=0.0) as server:
        yield server


@pytest.fixture
def alice(server: Server) -> Iterator[Client]:
    """A client in the lobby."""
    with connected(server.port, "/ws?username=Alice") as alice:
        alice.receive_type("joined")
        yield alice


def announce(client: Client, size: int, **fields: Any) -> dict[str, Any]:
    """Announce a file, and return the event `upload`."""
    client.send({"type": "upload", "name": "a.bin", "size": size, **fields})
    return client.receive_type("upload")


def still_works(client: Client) -> bool:
    """Return whether the server answers a ping of a client."""
    client.send({"type": "ping", "ref": "still"})
    return client.receive_type("pong")["ref"] == "still"


def test_binary_messages_become_a_file(alice: Client, files: FilesInMemory) -> None:
    """Binary messages are concatenated, even if other messages are sent between them."""
    assert announce(alice, 7, ref="r")["chunk_bytes"] == 65_536
    alice.send_frame(BINARY, b"\x00\xff\x80")
    alice.send({"text": "between"})
    assert alice.receive_type("message")["text"] == "between"
    alice.send_frame(BINARY, b"")
    alice.send_frame(BINARY, b"abcd")
    file = alice.receive()
    assert (file["type"], file["size"], file["ref"]) == ("file", 7, "r")
    assert files.writers[0].data == b"\x00\xff\x80abcd"
    assert still_works(alice)


def test_binary_messages_can_be_sent_before_the_reply(server: Server, files: FilesInMemory) -> None:
    """A `join`, an `upload`, binary messages and a message are processed in their order."""
    with connected(server.port) as client:
        client.write(
            text({"type": "join", "username": "Alice"})
            + text({"type": "upload", "name": "a", "size": 4})
            + frame(BINARY, b"ab")
            + frame(BINARY, b"cd")
            + text({"text": "behind"})
        )
        assert [client.receive()["type"] for _ in range(4)] == [
            *("joined", "upload", "file", "message")
        ]
    assert files.writers[0].data == b"abcd"


def test_binary_message_can_be_fragmented(alice: Client, files: FilesInMemory) -> None:
    """The fragments form one write, even if a ping is between them (RFC 6455 §5.4)."""
    announce(alice, 6)
    alice.send_frame(BINARY, b"\xff\xfe", fin=False)
    alice.send_frame(CONTINUATION, b"", fin=False)
    alice.send_frame(PING, b"between")
    alice.send_frame(CONTINUATION, b"\xfd", fin=False)
    alice.send_frame(CONTINUATION, b"xyz")
    assert alice.receive_frame() == (PONG, b"between", True, 0)
    assert alice.receive()["type"] == "file"
    assert (files.writers[0].data, files.writers[0].writes) == (b"\xff\xfe\xfdxyz", 1)


@pytest.mark.parametrize("fin", [True, False])
def test_text_between_fragments_closes_with_1002(alice: Client, fin: bool) -> None:
    """The fragments of two messages must not be interleaved (RFC 6455 §5.4)."""
    announce(alice, 9)
    alice.send_frame(BINARY, b"x", fin=False)
    alice.send_frame(TEXT, b"{}", fin=fin)
    assert alice.receive_end() == 1002


def test_binary_message_of_the_largest_size_is_accepted(alice: Client) -> None:
    """A binary message can have `chunk_bytes`."""
    announce(alice, 65_536)
    alice.send_frame(BINARY, bytes(65_536))
    assert alice.receive()["type"] == "file"


def test_too_big_message_is_refused_by_its_header(alice: Client, files: FilesInMemory) -> None:
    """The header of a too big binary message closes the connection, and the file is abandoned."""
    announce(alice, 200_000)
    alice.send_frame(BINARY, b"begun")
    alice.send_frame(BINARY, b"", announced=65_537)
    assert alice.receive_close() == 1009
    wait_until(lambda: files.states() == ["abandoned"])


def test_too_big_sum_of_fragments_closes_with_1009(alice: Client) -> None:
    """The limit for a binary message applies to the sum of its fragments."""
    announce(alice, 200_000)
    alice.send_frame(BINARY, bytes(60_000), fin=False)
    alice.send_frame(CONTINUATION, bytes(5_537), fin=False)
    assert alice.receive_end() == 1009


def test_incomplete_binary_message_closes_with_4504(files: FilesInMemory) -> None:
    """The last fragment of a binary message must arrive within `message_timeout_s`."""
    timings = WorkerTimings(sweep_interval_s=0.05, message_timeout_s=0.2)
    with (
        serving_files(files, timings=timings) as server,
        connected(server.port, "/ws?username=Alice") as alice,
    ):
        announce(alice, 9)
        alice.send_frame(BINARY, b"x", fin=False)
        assert alice.receive_end() == 4504
        assert files.states() == ["reserved"]


def test_stalled_file_is_given_up(files: FilesInMemory) -> None:
    """The sender of a stalled file receives an error and stays connected."""
    timings = WorkerTimings(sweep_interval_s=0.05)
    with (
        serving_files(files, stall_s=0.2, timings=timings) as server,
        connected(server.port, "/ws?username=Alice") as alice,
    ):
        alice.receive_type("joined")
        announce(alice, 9, ref="r")
        alice.send_frame(BINARY, b"x")
        error = alice.receive()
        assert (error["code"], error["temporary"], error["ref"]) == ("unavailable", True, "r")
        wait_until(lambda: files.states() == ["abandoned"])
        assert still_works(alice)


def test_bytes_of_a_file_count_as_a_pong(files: FilesInMemory) -> None:
    """A client that sends bytes of a file is not closed for a missing pong."""
    timings = WorkerTimings(sweep_interval_s=0.05, ping_interval_s=0.3, pong_timeout_s=0.3)
    with (
        serving_files(files, timings=timings) as server,
        connected(server.port, "/ws?username=Alice") as alice,
    ):
        announce(alice, 100)
        for _ in range(4):
            while alice.receive_frame().opcode != PING:
                pass
            alice.send_frame(BINARY, b"x")
        assert alice.receive_end() == 4009


@pytest.mark.parametrize("fin", [True, False])
def test_binary_message_without_announcement_closes_with_1003(alice: Client, fin: bool) -> None:
    """The first fragment of an unexpected binary message closes the connection."""
    alice.send_frame(BINARY, b"x", fin=fin)
    assert alice.receive_end() == 1003


@pytest.mark.parametrize("between", [False, True])
def test_binary_message_after_the_last_byte_closes_with_1003(alice: Client, between: bool) -> None:
    """No binary message is expected after the announced bytes, even if a command is between."""
    announce(alice, 1)
    search = text({"type": "search", "query": "x"}) if between else b""
    alice.write(frame(BINARY, b"x") + search + frame(BINARY, b"y") + text({"text": "never"}))
    assert alice.receive_type("file")["size"] == 1
    assert alice.receive_end() == 1003


def test_bytes_after_a_refused_announcement_close_with_1003(alice: Client) -> None:
    """A client that does not wait for the reply to a refused `upload` is closed."""
    alice.write(
        text({"type": "upload", "name": "a", "size": FLOOD_BYTES + 1, "ref": "r"})
        + frame(BINARY, b"x")
    )
    error = alice.receive()
    assert (error["code"], error["ref"]) == ("too_long", "r")
    assert alice.receive_end() == 1003


def test_failure_is_sent_once(alice: Client, files: FilesInMemory) -> None:
    """After one error, the rest of a failed file is dropped, and the connection stays open."""
    announce(alice, 30, ref="r")
    files.failure = CommandError(ErrorCode.UNAVAILABLE, "The disk is full.", temporary=True)
    alice.write(frame(BINARY, b"x") * 30)
    error = alice.receive()
    assert (error["code"], error["temporary"], error["ref"]) == ("unavailable", True, "r")
    assert still_works(alice)
    assert files.states() == ["abandoned"]
    files.failure = None
    announce(alice, 1)
    alice.send_frame(BINARY, b"x")
    assert alice.receive()["type"] == "file"


def test_internal_error_closes_with_1011(alice: Client, files: FilesInMemory) -> None:
    """An internal error closes the connection without detail, and the file is abandoned."""
    announce(alice, 3)
    files.failure = ZeroDivisionError("secret detail")
    alice.send_frame(BINARY, b"x")
    assert alice.receive_end() == 1011
    assert alice.reason == ""
    wait_until(lambda: files.states() == ["abandoned"])


@pytest.mark.parametrize("how", ["drop", "reset", "close frame", "violation"])
def test_file_is_abandoned_when_its_connection_ends(
    server: Server, files: FilesInMemory, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An incomplete file is abandoned, however its connection ends, and no error is logged."""
    with connected(server.port, "/ws?username=Alice") as alice:
        announce(alice, 100)
        alice.send_frame(BINARY, b"x")
        wait_until(lambda: files.writers[0].data == b"x")
        if how == "drop":
            alice.close()
        elif how == "reset":
            alice.reset()
        elif how == "close frame":
            alice.write(frame(BINARY, b"y") + frame(CLOSE, b"\x03\xe8"))
            assert alice.receive_close() == 1000
        else:
            alice.send_frame(TEXT, b"\xff")
            assert alice.receive_close() == 1007
        wait_until(lambda: files.states() == ["abandoned"])
    wait_until(lambda: len(server.sessions) == 0)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_bytes_before_a_close_frame_complete_the_file(alice: Client) -> None:
    """A file is stored if its last bytes arrive together with a close frame."""
    announce(alice, 2)
    alice.write(frame(BINARY, b"a") + frame(BINARY, b"b") + frame(CLOSE, b"\x03\xe8"))
    assert alice.receive()["type"] == "file"
    assert alice.receive_close() == 1000


def test_slow_disk_stops_reading(server: Server, files: FilesInMemory, alice: Client) -> None:
    """While the disk is busy, the server stops reading, and has few messages in memory."""
    announce(alice, FLOOD_BYTES)
    server.call(functools.partial(setattr, files, "unblocked", asyncio.Event()))
    stream = memoryview(frame(BINARY, bytes(65_536)) * (FLOOD_BYTES // 65_536))
    unsent = stream
    alice.socket.setblocking(False)
    while unsent and select.select([], [alice.socket], [], 0.5 * TIMEOUT_UNIT_S)[1]:
        unsent = unsent[alice.socket.send(unsent) :]
    assert len(unsent) > len(stream) / 2, "the server has read on"
    (session,) = server.sessions._all
    assert len(session._inbox._waiting or ()) < 10
    alice.socket.setblocking(True)
    assert files.unblocked is not None
    server.call(files.unblocked.set)
    alice.write(unsent)
    assert alice.receive_type("file")["size"] == FLOOD_BYTES
    assert len(files.writers[0].data) == FLOOD_BYTES


def test_binary_messages_do_not_count_as_messages(alice: Client) -> None:
    """Binary messages use up neither the rate of messages nor that of commands."""
    announce(alice, 300)
    alice.write(frame(BINARY, b"x") * 300)
    assert alice.receive_type("file")["size"] == 300
    alice.write(b"".join(text({"text": str(number)}) for number in range(40)))
    assert [alice.receive()["text"] for _ in range(40)] == [*map(str, range(40))]


def test_bytes_over_the_upload_rate_are_read_later(files: FilesInMemory) -> None:
    """If a client exceeds --upload-rate, the server reads later and refuses nothing."""
    with (
        serving_files(files, upload_rate=1e6) as server,
        connected(server.port, "/ws?username=Al") as alice,
    ):
        announce(alice, 1_500_000)
        start_s = time.monotonic()
        for _ in range(30):
            alice.send_frame(BINARY, bytes(50_000))
        assert alice.receive()["type"] == "file"
        assert time.monotonic() - start_s > 0.4


def test_connections_send_files_concurrently(server: Server, files: FilesInMemory) -> None:
    """Each connection has a file of its own."""
    clients = [Client(server.port, f"/ws?username=User{number}") for number in range(20)]
    try:
        for client in clients:
            announce(client, 4)
        for data, client in itertools.product((b"ab", b"cd"), clients):
            client.send_frame(BINARY, data)
        for client in clients:
            assert client.receive_type("file")["size"] == 4
    finally:
        for client in clients:
            client.close()
    assert [writer.data for writer in files.writers] == [b"abcd"] * 20
