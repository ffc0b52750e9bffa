"""Files by binary messages, as one connection sends them: in turn, bounded, given up with it."""

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

#: More than what the kernel holds for a connection whose server does not read.
FLOOD_BYTES = 32 << 20


@pytest.fixture
def files() -> FilesInMemory:
    """Where the servers of a test keep their files."""
    files = FilesInMemory()
    files.max_bytes = FLOOD_BYTES
    return files


def sharing(
    files: FilesInMemory, *, stall_s: float = STALL_S, **arguments: Any
) -> contextlib.AbstractContextManager[Server]:
    """A server that keeps its files on a files."""
    return serving(
        incoming_files=IncomingFiles(files, files.transfers, stall_s=stall_s), **arguments
    )


@pytest.fixture
def server(files: FilesInMemory) -> Iterator[Server]:
    with sharing(files, upload_rate=0.0) as server:
        yield server


@pytest.fixture
def alice(server: Server) -> Iterator[Client]:
    """In the lobby."""
    with connected(server.port, "/ws?username=Alice") as alice:
        alice.receive_type("joined")
        yield alice


def announce(client: Client, size: int, **fields: Any) -> dict[str, Any]:
    client.send({"type": "upload", "name": "a.bin", "size": size, **fields})
    return client.receive_type("upload")


def still_works(client: Client) -> bool:
    client.send({"type": "ping", "ref": "still"})
    return client.receive_type("pong")["ref"] == "still"


def test_pieces_become_a_file(alice: Client, files: FilesInMemory) -> None:
    """Each binary message goes on where the last one ended, whatever else is said between."""
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


def test_pieces_need_not_wait_for_the_reply(server: Server, files: FilesInMemory) -> None:
    """They take their turn behind the `join` and the `upload`, and the message behind them."""
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


def test_piece_may_be_fragmented(alice: Client, files: FilesInMemory) -> None:
    """RFC 6455 §5.4, with bytes that are not UTF-8 and a ping between."""
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
def test_text_within_a_piece_closes_with_1002(alice: Client, fin: bool) -> None:
    """RFC 6455 §5.4: fragments of two messages are not interleaved."""
    announce(alice, 9)
    alice.send_frame(BINARY, b"x", fin=False)
    alice.send_frame(TEXT, b"{}", fin=fin)
    assert alice.receive_end() == 1002


def test_piece_of_the_largest_size_is_taken(alice: Client) -> None:
    announce(alice, 65_536)
    alice.send_frame(BINARY, bytes(65_536))
    assert alice.receive()["type"] == "file"


def test_piece_too_big_is_refused_by_its_length_alone(alice: Client, files: FilesInMemory) -> None:
    """1009, as for any message; what has come of the file is given up."""
    announce(alice, 200_000)
    alice.send_frame(BINARY, b"begun")
    alice.send_frame(BINARY, b"", announced=65_537)
    assert alice.receive_close() == 1009
    wait_until(lambda: files.states() == ["abandoned"])


def test_sum_of_the_fragments_of_a_piece_is_bounded(alice: Client) -> None:
    announce(alice, 200_000)
    alice.send_frame(BINARY, bytes(60_000), fin=False)
    alice.send_frame(CONTINUATION, bytes(5_537), fin=False)
    assert alice.receive_end() == 1009


def test_half_sent_piece_ends(files: FilesInMemory) -> None:
    """A fragmented message has 30 s from its first fragment to its last, of a file as well."""
    timings = WorkerTimings(sweep_interval_s=0.05, message_timeout_s=0.2)
    with (
        sharing(files, timings=timings) as server,
        connected(server.port, "/ws?username=Alice") as alice,
    ):
        announce(alice, 9)
        alice.send_frame(BINARY, b"x", fin=False)
        assert alice.receive_end() == 4504
        assert files.states() == ["reserved"]


def test_file_that_does_not_go_on_is_given_up(files: FilesInMemory) -> None:
    """Its sender reads why, and is as connected as before."""
    timings = WorkerTimings(sweep_interval_s=0.05)
    with (
        sharing(files, stall_s=0.2, timings=timings) as server,
        connected(server.port, "/ws?username=Alice") as alice,
    ):
        alice.receive_type("joined")
        announce(alice, 9, ref="r")
        alice.send_frame(BINARY, b"x")
        error = alice.receive()
        assert (error["code"], error["temporary"], error["ref"]) == ("unavailable", True, "r")
        wait_until(lambda: files.states() == ["abandoned"])
        assert still_works(alice)


def test_pieces_are_a_sign_of_life(files: FilesInMemory) -> None:
    """On a slow line a pong waits behind what was sent before it."""
    timings = WorkerTimings(sweep_interval_s=0.05, ping_interval_s=0.3, pong_timeout_s=0.3)
    with (
        sharing(files, timings=timings) as server,
        connected(server.port, "/ws?username=Alice") as alice,
    ):
        announce(alice, 100)
        for _ in range(4):
            while alice.receive_frame().opcode != PING:
                pass
            alice.send_frame(BINARY, b"x")
        assert alice.receive_end() == 4009


@pytest.mark.parametrize("fin", [True, False])
def test_piece_before_any_announcement_closes_with_1003(alice: Client, fin: bool) -> None:
    """At once, with the first fragment."""
    alice.send_frame(BINARY, b"x", fin=fin)
    assert alice.receive_end() == 1003


@pytest.mark.parametrize("between", [False, True])
def test_piece_behind_the_last_closes_with_1003(alice: Client, between: bool) -> None:
    """Only what was announced is expected, also when something else has its turn."""
    announce(alice, 1)
    search = text({"type": "search", "query": "x"}) if between else b""
    alice.write(frame(BINARY, b"x") + search + frame(BINARY, b"y") + text({"text": "never"}))
    assert alice.receive_type("file")["size"] == 1
    assert alice.receive_end() == 1003


def test_refused_announcement_expects_nothing(alice: Client) -> None:
    """Whoever does not wait for the reply to his `upload` may meet 1003."""
    alice.write(
        text({"type": "upload", "name": "a", "size": FLOOD_BYTES + 1, "ref": "r"})
        + frame(BINARY, b"x")
    )
    error = alice.receive()
    assert (error["code"], error["ref"]) == ("too_long", "r")
    assert alice.receive_end() == 1003


def test_failure_is_told_once_and_the_rest_is_dropped(alice: Client, files: FilesInMemory) -> None:
    """The connection stays, and so does everybody's chat."""
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


def test_fault_of_ours_closes_with_1011(alice: Client, files: FilesInMemory) -> None:
    announce(alice, 3)
    files.failure = ZeroDivisionError("secret detail")
    alice.send_frame(BINARY, b"x")
    assert alice.receive_end() == 1011
    assert alice.reason == ""
    wait_until(lambda: files.states() == ["abandoned"])


@pytest.mark.parametrize("how", ["drop", "reset", "close frame", "violation"])
def test_connection_that_ends_in_the_middle_gives_the_file_up(
    server: Server, files: FilesInMemory, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """However it ends; nothing is logged as a fault."""
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


def test_last_piece_before_a_close_frame_still_counts(alice: Client, files: FilesInMemory) -> None:
    announce(alice, 2)
    alice.write(frame(BINARY, b"a") + frame(BINARY, b"b") + frame(CLOSE, b"\x03\xe8"))
    assert alice.receive()["type"] == "file"
    assert alice.receive_close() == 1000


def test_slow_disk_holds_the_sender_back(
    server: Server, files: FilesInMemory, alice: Client
) -> None:
    """TCP does: the server keeps a few pieces, not what a client can send meanwhile."""
    announce(alice, FLOOD_BYTES)
    server.call(functools.partial(setattr, files, "unblocked", asyncio.Event()))
    stream = memoryview(frame(BINARY, bytes(65_536)) * (FLOOD_BYTES // 65_536))
    unsent = stream
    alice.socket.setblocking(False)
    while unsent and select.select([], [alice.socket], [], 0.5 * TIMEOUT_UNIT_S)[1]:
        unsent = unsent[alice.socket.send(unsent) :]
    assert len(unsent) > len(stream) / 2, "nothing has held the sender back"
    (session,) = server.sessions._all
    assert len(session._inbox._waiting or ()) < 10
    alice.socket.setblocking(True)
    assert files.unblocked is not None
    server.call(files.unblocked.set)
    alice.write(unsent)
    assert alice.receive_type("file")["size"] == FLOOD_BYTES
    assert len(files.writers[0].data) == FLOOD_BYTES


def test_pieces_cost_no_messages(alice: Client) -> None:
    """Nor commands: who shares a file may go on talking."""
    announce(alice, 300)
    alice.write(frame(BINARY, b"x") * 300)
    assert alice.receive_type("file")["size"] == 300
    alice.write(b"".join(text({"text": str(number)}) for number in range(40)))
    assert [alice.receive()["text"] for _ in range(40)] == [*map(str, range(40))]


def test_pieces_are_paced(files: FilesInMemory) -> None:
    """What is over the rate is read later, and nothing is refused."""
    with (
        sharing(files, upload_rate=1e6) as server,
        connected(server.port, "/ws?username=Al") as alice,
    ):
        announce(alice, 1_500_000)
        began = time.monotonic()
        for _ in range(30):
            alice.send_frame(BINARY, bytes(50_000))
        assert alice.receive()["type"] == "file"
        assert time.monotonic() - began > 0.4


def test_many_share_at_once(server: Server, files: FilesInMemory) -> None:
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
