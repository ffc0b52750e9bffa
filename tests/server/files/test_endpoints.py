"""Files over HTTP, at a real server: sent with a ticket, read by a link."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastchat.files.endpoints import CHUNK_BYTES, DRAIN_BYTES
from fastchat.process.timings import WorkerTimings
from fastchat.web.edge import HttpTimings
from support.file_store import files_on_disk, png
from support.raw_websocket import (
    HOST,
    Client,
    Response,
    Wire,
    ask,
    connected,
    ends_within,
    request,
    wired,
)
from support.server import TIMEOUT_UNIT_S, wait_until
from support.server_in_thread import Server, serving

MAX_BYTES = 4 << 20


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def server(data: Path) -> Iterator[Server]:
    with serving(history="sqlite", data=str(data), max_file_bytes=MAX_BYTES) as server:
        yield server


@pytest.fixture
def alice(server: Server) -> Iterator[Client]:
    """In the lobby."""
    with connected(server.port, "/ws?username=Alice") as alice:
        alice.receive_type("joined")
        yield alice


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    with wired(server.port) as wire:
        yield wire


def announce(client: Client, size: int, name: str = "a.bin") -> str:
    """A ticket."""
    client.send({"type": "upload", "name": name, "size": size})
    ticket: str = client.receive_type("upload")["ticket"]
    return ticket


def head(
    ticket: str | None, size: int | None, *more: tuple[str, str], version: str = "1.1"
) -> bytes:
    """Of a request that sends a file."""
    headers = [HOST, *more]
    if ticket is not None:
        headers.append(("Authorization", f"Bearer {ticket}"))
    if size is not None:
        headers.append(("Content-Length", str(size)))
    return request("/files", headers, method="POST", version=version)


def post(wire: Wire, ticket: str | None, content: bytes, *more: tuple[str, str]) -> Response:
    wire.write(head(ticket, len(content), *more) + content)
    return wire.read_response()


def share(alice: Client, wire: Wire, content: bytes, name: str = "a.bin") -> dict[str, Any]:
    """What is known of a file that was sent."""
    response = post(wire, announce(alice, len(content), name), content)
    assert response.status == 201, response
    shared: dict[str, Any] = json.loads(response.body)
    return shared


def refusal(response: Response) -> tuple[int, str]:
    """The status and the code; there is a sentence, too."""
    body = json.loads(response.body)
    assert body.keys() == {"code", "message"}
    assert body["message"].endswith(".")
    return response.status, body["code"]


# Sending


def test_file_is_sent_and_read(alice: Client, wire: Wire, server: Server) -> None:
    """On one connection, which goes on; what is answered is what messages are to have."""
    content = png(640, 480, os.urandom(1_000_000))
    response = post(wire, announce(alice, len(content), "my cat.png"), content)
    assert response.status == 201
    shared = json.loads(response.body)
    assert shared == {
        "room": "lobby",
        "link": response.headers["location"],
        "name": "my cat.png",
        "size": len(content),
        "media_type": "image/png",
        "width": 640,
        "height": 480,
    }
    got = ask(wire, shared["link"])
    assert (got.status, got.body) == (200, content)
    assert (server.metrics.files_total, server.metrics.file_bytes_total) == (1, len(content))


def test_largest_file_is_taken(alice: Client, wire: Wire) -> None:
    content = os.urandom(MAX_BYTES)
    shared = share(alice, wire, content)
    assert ask(wire, shared["link"]).body == content


def test_ticket_is_good_when_its_connection_is_gone(server: Server, wire: Wire) -> None:
    """A phone that loses its WebSocket need not begin again."""
    with connected(server.port, "/ws?username=Alice") as alice:
        alice.receive_type("joined")
        ticket = announce(alice, 7)
    wait_until(lambda: len(server.sessions) == 0)
    assert post(wire, ticket, b"content").status == 201


def test_ticket_is_good_once(alice: Client, wire: Wire, data: Path) -> None:
    ticket = announce(alice, 7)
    assert post(wire, ticket, b"content").status == 201
    response = post(wire, ticket, b"another")
    assert refusal(response) == (401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"
    assert len(files_on_disk(data)) == 1


@pytest.mark.parametrize("how", [None, "Bearer", "Bearer ", "Basic x", "Bearer a b", "Bearer \xff"])
def test_unknown_ticket_is_refused_when_all_was_heard(
    wire: Wire, server: Server, how: str | None
) -> None:
    """Who is hung up on while he sends would read nothing; the connection goes on."""
    headers = [] if how is None else [("Authorization", how)]
    assert refusal(post(wire, None, bytes(1_000_000), *headers)) == (401, "unauthorized")
    assert ask(wire, "/files/nothing").status == 404
    assert server.metrics.file_refusals == {"401": 1}


@pytest.mark.parametrize("size", [0, 6, 8, 100_000])
def test_other_size_than_announced_is_refused(
    alice: Client, wire: Wire, data: Path, size: int
) -> None:
    """It was the one attempt, and nothing is kept."""
    ticket = announce(alice, 7)
    assert refusal(post(wire, ticket, bytes(size))) == (400, "bad_command")
    assert refusal(post(wire, ticket, b"content")) == (401, "unauthorized")
    assert files_on_disk(data) == []


def test_too_large_a_body_is_not_read(alice: Client, server: Server) -> None:
    """Refused by what it says of itself; the connection ends."""
    with wired(server.port) as wire:
        wire.write(head(announce(alice, 7), MAX_BYTES + 1))
        response = wire.read_response()
        assert refusal(response) == (413, "too_long")
        assert response.headers["connection"] == "close"
        assert wire.read_all() == b""


@pytest.mark.parametrize(
    "headers", [[], [("Transfer-Encoding", "chunked")], [("Transfer-Encoding", "gzip, chunked")]]
)
def test_length_is_needed(alice: Client, wire: Wire, headers: list[tuple[str, str]]) -> None:
    """A file that ends somewhere could end anywhere."""
    wire.write(head(announce(alice, 7), None, *headers))
    response = wire.read_response()
    assert refusal(response) == (411, "bad_command")
    assert response.headers["connection"] == "close"


@pytest.mark.parametrize(
    ("encoding", "status"), [("gzip", 415), ("br, gzip", 415), ("Identity", 201)]
)
def test_file_comes_as_it_is(alice: Client, wire: Wire, encoding: str, status: int) -> None:
    """Packed, it would be kept as it came and served as what it is not; a size is of neither."""
    wire.write(head(announce(alice, 7), 7, ("Content-Encoding", encoding)) + b"content")
    response = wire.read_response()
    assert response.status == status
    if status == 415:
        assert refusal(response) == (415, "bad_command")
        assert response.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("behind", [b"", b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_who_has_sent_all_and_says_so_is_answered(
    alice: Client, server: Server, behind: bytes
) -> None:
    """RFC 9112 §9.6: half a connection is closed; the answers come by the other."""
    with wired(server.port) as wire:
        wire.write(head(announce(alice, 7), 7) + b"content" + behind)
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.read_response().status == 201
        if behind:
            assert wire.read_response().status == 404
        assert wire.read_all() == b""


def test_two_lengths_are_no_request(wire: Wire) -> None:
    wire.write(head("ticket", 7, ("Content-Length", "8")) + b"content")
    assert wire.read_response().status == 400


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_else_is_done_to_files(alice: Client, wire: Wire, method: str) -> None:
    """No other page may send with a ticket, either: OPTIONS grants nothing."""
    shared = share(alice, wire, b"content")
    for target in ("/files", shared["link"]):
        response = ask(wire, target, method=method)
        assert response.status == 405
        assert not [name for name in response.headers if name.startswith("access-control")]


def test_body_of_any_other_request_is_not_read(wire: Wire) -> None:
    """As ever: it is answered, and then the connection ends."""
    wire.write(request("/", [HOST, ("Content-Length", "9")], method="POST") + b"unwanted!")
    response = wire.read_response()
    assert response.status == 405
    assert wire.read_all() == b""


def test_body_is_asked_for(alice: Client, wire: Wire, data: Path) -> None:
    """RFC 9110 §10.1.1: who expects 100 is told to go on, once the ticket is found to be good."""
    ticket = announce(alice, 7)
    wire.write(head(ticket, 7, ("Expect", "100-continue")))
    assert wire.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    wire.write(b"content")
    assert wire.read_response().status == 201
    wire.write(head(ticket, 7, ("Expect", "100-continue")))
    response = wire.read_response()
    assert refusal(response) == (401, "unauthorized")
    assert response.headers["connection"] == "close"
    assert wire.read_all() == b""


def test_http_1_0_may_send(alice: Client, wire: Wire) -> None:
    """It knows of no 100, and its connection ends."""
    expect = ("Expect", "100-continue")
    wire.write(head(announce(alice, 7), 7, expect, version="1.0") + b"content")
    assert wire.read_response().status == 201
    assert wire.read_all() == b""


def test_absolute_address_is_one(alice: Client, wire: Wire) -> None:
    """RFC 9112 §3.2.2, as a proxy asks."""
    headers = [HOST, ("Authorization", f"bearer {announce(alice, 7)}"), ("Content-Length", "7")]
    target = "http://localhost/files?x=1"
    wire.write(request(target, headers, method="POST") + b"content")
    assert wire.read_response().status == 201


def test_request_behind_a_file_is_answered(alice: Client, wire: Wire) -> None:
    """Pipelined in the same segment, or in the next."""
    ticket = announce(alice, 7)
    wire.write(head(ticket, 7) + b"content" + request("/nothing") + request("/")[:9])
    assert wire.read_response().status == 201
    assert wire.read_response().status == 404
    wire.write(request("/")[9:])
    assert wire.read_response().status == 200


def test_file_behind_an_unanswered_request_is_refused(alice: Client, wire: Wire) -> None:
    """RFC 9112 §9.3.2: its body would wait in memory."""
    first, second = announce(alice, 7), announce(alice, 7)
    wire.write(head(first, 7) + b"content" + head(second, 7) + b"another")
    assert wire.read_response().status == 201
    response = wire.read_response()
    assert refusal(response) == (400, "bad_command")
    assert wire.read_all() == b""
    with wired(wire.socket.getpeername()[1]) as again:
        assert post(again, second, b"content").status == 201


def test_file_with_an_upgrade_is_refused(alice: Client, wire: Wire) -> None:
    """The parser does not read its body. The ticket is good for whoever sends it without."""
    ticket = announce(alice, 7)
    upgrade = ("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "")
    wire.write(head(ticket, 7, *upgrade) + b"content")
    response = wire.read_response()
    assert refusal(response) == (400, "bad_command")
    assert "Upgrade" in json.loads(response.body)["message"]
    with wired(wire.socket.getpeername()[1]) as again:
        assert post(again, ticket, b"content").status == 201


def test_file_is_not_kept_in_memory(
    alice: Client, server: Server, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is slow holds the sender back: what waits here is a few hundred kilobytes."""
    from fastchat.files.store import DiskFileWriter

    write, release = DiskFileWriter._write, []

    def slow(self: DiskFileWriter, data: bytes) -> None:
        deadline = time.monotonic() + 30 * TIMEOUT_UNIT_S
        while not release and time.monotonic() < deadline:
            time.sleep(0.01)
        write(self, data)

    monkeypatch.setattr(DiskFileWriter, "_write", slow)
    content = os.urandom(MAX_BYTES)
    wire.write(head(announce(alice, MAX_BYTES), MAX_BYTES))
    wire.socket.setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < MAX_BYTES:  # what the kernel takes, and no more
            sent += wire.socket.send(content[sent : sent + 65536])

    def waiting() -> int:
        cycles = [connection.cycle for connection in server.connections()]
        return sum(len(cycle.body) for cycle in cycles if cycle is not None)

    wait_until(lambda: server.call(waiting) > 65_536)
    assert server.call(waiting) < 512 * 1024
    wire.socket.settimeout(10 * TIMEOUT_UNIT_S)
    release.append(True)
    wire.write(content[sent:])
    assert wire.read_response().status == 201


# Senders who hear it only when they have sent it all


def sent_and_heard(server: Server, ticket: str, size: int) -> tuple[int, str]:
    """What a client reads that does so when it has sent all of it, as most do."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10 * TIMEOUT_UNIT_S)
    with contextlib.closing(connection):
        connection.request("POST", "/files", bytes(size), {"Authorization": f"Bearer {ticket}"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())["code"]


def test_refusal_is_read_by_who_still_sends(server: Server, alice: Client) -> None:
    """Of a file that is too large, and of a wrong ticket; whatever was on its way."""
    for _ in range(5):
        ticket = announce(alice, 7)
        assert sent_and_heard(server, ticket, 5 * MAX_BYTES) == (413, "too_long")
        assert sent_and_heard(server, "nonsense", MAX_BYTES) == (401, "unauthorized")


def test_full_server_is_heard_by_who_still_sends(narrow: tuple[Server, Client], data: Path) -> None:
    server, alice = narrow
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            sender = stack.enter_context(wired(server.port))
            sender.write(head(announce(alice, 9), 9) + b"begun")
        wait_until(lambda: len(files_on_disk(data)) == 2)
        for _ in range(5):
            ticket = announce(alice, 20_000_000)
            assert sent_and_heard(server, ticket, 20_000_000) == (503, "unavailable")


@pytest.mark.parametrize("how", ["much", "long"])
def test_refused_sender_that_still_sends_is_heard_for_a_while(data: Path, how: str) -> None:
    """Bytes and time are limited, and the connection counts for as long."""
    timings = HttpTimings(linger_bytes=1_000_000) if how == "much" else HttpTimings(linger_s=0.2)
    with (
        serving(timings=WorkerTimings(http=timings), history="sqlite", data=str(data)) as server,
        connected(server.port, "/ws?username=Alice") as alice,
        wired(server.port) as wire,
    ):
        alice.receive_type("joined")
        wire.write(head(announce(alice, 7), 1 << 40))
        assert wire.read_response().status == 413
        assert wire.read_all() == b""
        assert len(server.call(server.connections)) == 1
        with contextlib.suppress(ConnectionError):
            for _ in range(20 if how == "much" else 1):
                wire.write(bytes(65_536))
        wait_until(lambda: server.call(server.connections) == [])


def test_nothing_behind_a_refused_file_is_answered(alice: Client, server: Server) -> None:
    """It may be the rest of it."""
    with wired(server.port) as wire:
        wire.write(head(announce(alice, 7), 1 << 40) + request("/") + request("/"))
        assert wire.read_response().status == 413
        assert wire.read_all() == b""


# Senders who do not finish


def test_sender_who_goes_away_leaves_nothing(alice: Client, server: Server, data: Path) -> None:
    """By a FIN or an RST; nothing is logged as a fault."""
    for end in (Wire.close, Wire.reset):
        wire = Wire(server.port)
        wire.write(head(announce(alice, 1_000_000), 1_000_000) + bytes(300_000))
        wait_until(lambda: files_on_disk(data) != [])
        end(wire)
        wait_until(lambda: files_on_disk(data) == [])
    assert share_works(alice, server)


def share_works(alice: Client, server: Server) -> bool:
    with wired(server.port) as wire:
        return bool(share(alice, wire, os.urandom(8)))


IMPATIENT = HttpTimings(answer_s=1.0 * TIMEOUT_UNIT_S)


@pytest.fixture
def impatient(data: Path) -> Iterator[tuple[Server, Client]]:
    """A server that gives a file a second for each 16 KiB, and Alice."""
    timings = WorkerTimings(sweep_interval_s=0.05, http=IMPATIENT)
    with (
        serving(timings=timings, history="sqlite", data=str(data)) as server,
        connected(server.port, "/ws?username=Alice") as alice,
    ):
        alice.receive_type("joined")
        yield server, alice


@pytest.mark.parametrize("trickle", [False, True])
def test_sender_who_stops_is_cut_off(
    impatient: tuple[Server, Client], data: Path, trickle: bool
) -> None:
    """Also one who sends a byte now and then; nothing is left."""
    server, alice = impatient
    with wired(server.port) as wire:
        wire.write(head(announce(alice, 1_000_000), 1_000_000) + bytes(100_000))
        deadline = time.monotonic() + 5 * TIMEOUT_UNIT_S
        while not ends_within(wire, 0.05) and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                wire.write(b"x" if trickle else b"")
        assert ends_within(wire, 0.1)
        wait_until(lambda: files_on_disk(data) == [])
    assert share_works(alice, server)


def test_sender_who_is_slow_and_steady_is_refuse_and_drain(
    impatient: tuple[Server, Client],
) -> None:
    """What counts is that it goes on, not how long it takes."""
    server, alice = impatient
    pieces = 20
    with wired(server.port) as wire:
        size = pieces * 16_384
        wire.write(head(announce(alice, size), size))
        for _ in range(pieces):
            wire.write(bytes(16_384))
            time.sleep(0.1 * TIMEOUT_UNIT_S)
        assert wire.read_response().status == 201


def test_reader_who_stops_is_cut_off(impatient: tuple[Server, Client]) -> None:
    """And his place is free for others."""
    server, alice = impatient
    with wired(server.port) as wire:
        shared = share(alice, wire, os.urandom(20_000_000))
    with wired(server.port, receive_buffer=4096) as reader:
        reader.write(request(shared["link"]))
        reader.read_until(b"\r\n\r\n")
        assert open_contents()
        wait_until(lambda: server.call(lambda: not server.connections()))
        wait_until(lambda: not open_contents())


def test_reader_who_is_slow_and_steady_gets_it_all(impatient: tuple[Server, Client]) -> None:
    """In several times what he would have if he had stopped."""
    server, alice = impatient
    content = os.urandom(2_000_000)
    with wired(server.port) as wire:
        shared = share(alice, wire, content)
    with wired(server.port, receive_buffer=65_536) as reader:
        reader.write(request(shared["link"]))
        reader.read_until(b"\r\n\r\n")
        began, got = time.monotonic(), bytearray(reader.unread)
        while len(got) < len(content):
            piece = reader.socket.recv(65_536)
            assert piece, "cut off"
            got += piece
            time.sleep(0.08 * TIMEOUT_UNIT_S)
    assert got == content
    assert time.monotonic() - began > 2 * IMPATIENT.answer_s


def test_reader_who_goes_away_costs_nothing(alice: Client, server: Server, wire: Wire) -> None:
    """Nothing more is read for him, and nothing stays open."""
    shared = share(alice, wire, os.urandom(MAX_BYTES))
    for _ in range(20):
        with wired(server.port, receive_buffer=4096) as reader:
            reader.write(request(shared["link"]))
            reader.read_until(b"\r\n\r\n")
    wait_until(lambda: not open_contents())


def open_contents() -> list[str]:
    """The contents of files that this process has open."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return [path for path in found if "/files/" in path and "index.sqlite3" not in path]


# How many at once


@pytest.fixture
def narrow(data: Path) -> Iterator[tuple[Server, Client]]:
    """A server that allows two uploads and two downloads at once for each address; and Alice."""
    with narrow_server(data) as served:
        yield served


@contextlib.contextmanager
def narrow_server(
    data: Path, timings: WorkerTimings | None = None
) -> Iterator[tuple[Server, Client]]:
    with (
        serving(transfers=8, history="sqlite", data=str(data), timings=timings) as server,
        connected(server.port, "/ws?username=Alice") as alice,
    ):
        alice.receive_type("joined")
        yield server, alice


def test_one_address_has_a_share_of_the_places(narrow: tuple[Server, Client], data: Path) -> None:
    """One more is told to come back; when one has ended, there is a place again."""
    server, alice = narrow
    with contextlib.ExitStack() as stack:
        senders = [stack.enter_context(wired(server.port)) for _ in range(2)]
        for sender in senders:
            sender.write(head(announce(alice, 9), 9) + b"begun")
        wait_until(lambda: len(files_on_disk(data)) == 2)
        with wired(server.port) as wire:
            wire.write(head(announce(alice, 7), 7, ("Expect", "100-continue")))
            response = wire.read_response()
            assert refusal(response) == (503, "unavailable")
            assert int(response.headers["retry-after"]) > 0
            assert response.headers["connection"] == "close"
        assert server.metrics.file_refusals == {"503": 1}
        senders[0].write(b" now")
        assert senders[0].read_response().status == 201
        with wired(server.port) as wire:
            assert post(wire, announce(alice, 7), b"content").status == 201


def test_refused_attempt_does_not_count(narrow: tuple[Server, Client], data: Path) -> None:
    """Neither one that was too much, nor one whose head is wrong: its sender may announce again
    what is as large as all that he may have."""
    server, alice = narrow
    server.files.index._quotas._max_author_bytes = 100_000
    expect = ("Expect", "100-continue")
    with contextlib.ExitStack() as stack:
        for size, status in ((None, 411), (1 << 40, 413), (99, 400)):
            wire = stack.enter_context(wired(server.port))
            wire.write(head(announce(alice, 90_000), size, expect))
            assert wire.read_response().status == status
        for _ in range(2):
            sender = stack.enter_context(wired(server.port))
            sender.write(head(announce(alice, 9), 9) + b"begun")
        wait_until(lambda: len(files_on_disk(data)) == 2)
        for name in ("a", "b", "c"):
            wire = stack.enter_context(wired(server.port))
            wire.write(head(announce(alice, 90_000, name), 90_000, expect))
            assert wire.read_response().status == 503


def test_readers_take_no_place_from_senders(narrow: tuple[Server, Client], data: Path) -> None:
    """Nor the other way: a file can be read while its address sends as many as it may."""
    server, alice = narrow
    with contextlib.ExitStack() as stack:
        with wired(server.port) as wire:
            shared = share(alice, wire, os.urandom(3_000_000))
        readers = [reading(stack, server, shared["link"]) for _ in range(2)]
        with wired(server.port) as wire:
            assert post(wire, announce(alice, 7), b"content").status == 201
        senders = [stack.enter_context(wired(server.port)) for _ in range(2)]
        for sender in senders:
            sender.write(head(announce(alice, 9), 9) + b"begun")
        wait_until(lambda: sum(name.startswith("incoming") for name in files_on_disk(data)) == 2)
        readers.pop().close()
        with wired(server.port) as wire:
            assert ask(wire, shared["link"]).status == 200


def test_reader_waits_for_a_place(narrow: tuple[Server, Client]) -> None:
    """An office of one address reads one picture, and everybody gets it."""
    server, alice = narrow
    with contextlib.ExitStack() as stack:
        with wired(server.port) as wire:
            shared = share(alice, wire, os.urandom(3_000_000))
        first, second = [reading(stack, server, shared["link"]) for _ in range(2)]
        others = [stack.enter_context(wired(server.port)) for _ in range(10)]
        for other in others:
            other.write(request(shared["link"]))
        wait_until(lambda: server.call(lambda: server.readers.waiting) == 10)
        first.close()
        for other in others:
            assert len(other.read_response().body) == 3_000_000
        assert not ends_within(second, 0)
        assert server.metrics.file_refusals == {}


def test_download_without_a_turn_is_refused_after_a_while(data: Path) -> None:
    """The client is asked to try again later."""
    with contextlib.ExitStack() as stack:
        server, alice = stack.enter_context(narrow_server(data, WorkerTimings(download_wait_s=0.1)))
        with wired(server.port) as wire:
            shared = share(alice, wire, os.urandom(3_000_000))
        for _ in range(2):
            reading(stack, server, shared["link"])
        with wired(server.port) as wire:
            response = ask(wire, shared["link"])
            assert refusal(response) == (503, "unavailable")
            assert int(response.headers["retry-after"]) > 0


def test_reader_who_goes_away_while_he_waits_gets_no_place(narrow: tuple[Server, Client]) -> None:
    """His turn is that of the next."""
    server, alice = narrow
    with contextlib.ExitStack() as stack:
        with wired(server.port) as wire:
            shared = share(alice, wire, os.urandom(3_000_000))
        first, _ = [reading(stack, server, shared["link"]) for _ in range(2)]
        gone, next_one = [stack.enter_context(wired(server.port)) for _ in range(2)]
        for number, other in enumerate((gone, next_one), 1):
            other.write(request(shared["link"]))
            wait_until(lambda n=number: server.call(lambda: server.readers.waiting) == n)
        gone.reset()
        wait_until(lambda: len(server.call(server.connections)) == 3)
        first.close()
        assert len(next_one.read_response().body) == 3_000_000


def test_what_reads_nothing_needs_no_place(narrow: tuple[Server, Client]) -> None:
    """HEAD, and 304 for who has it."""
    server, alice = narrow
    with contextlib.ExitStack() as stack:
        with wired(server.port) as wire:
            shared = share(alice, wire, os.urandom(3_000_000))
            etag = ask(wire, shared["link"], method="HEAD").headers["etag"]
        for _ in range(2):
            reading(stack, server, shared["link"])
        with wired(server.port) as wire:
            assert ask(wire, shared["link"], method="HEAD").status == 200
            assert ask(wire, shared["link"], ("If-None-Match", etag)).status == 304
            gone = f"/files/{'a' * 32}/x"
            assert ask(wire, gone, ("If-None-Match", "*")).status == 404
            assert ask(wire, gone, method="HEAD").status == 404


def reading(stack: contextlib.ExitStack, server: Server, link: str) -> Wire:
    """Somebody who has begun to read a file, and does not go on."""
    reader = stack.enter_context(wired(server.port, receive_buffer=4096))
    reader.write(request(link))
    reader.read_until(b"\r\n\r\n")
    return reader


def test_without_a_ticket_nobody_has_a_place(narrow: tuple[Server, Client]) -> None:
    """However much he says that he sends, and however slowly."""
    server, alice = narrow
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            sender = stack.enter_context(wired(server.port))
            sender.write(head("nonsense", 1_000_000) + bytes(1000))
        with wired(server.port) as wire:
            shared = share(alice, wire, b"content")
            assert ask(wire, shared["link"]).body == b"content"


def test_refused_sender_is_heard_for_a_while(
    alice: Client, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for all that he says is to come, nor for as long as that takes."""
    with wired(server.port) as much:
        much.write(head("nonsense", MAX_BYTES) + bytes(DRAIN_BYTES + 1))
        response = much.read_response()
        assert refusal(response) == (401, "unauthorized")
        assert response.headers["connection"] == "close"
    monkeypatch.setattr("fastchat.files.endpoints.DRAIN_S", 0.1)
    with wired(server.port) as slow:
        slow.write(head("nonsense", MAX_BYTES) + b"slow")
        response = slow.read_response()
        assert refusal(response) == (401, "unauthorized")
        assert response.headers["connection"] == "close"


def test_without_limits_an_address_has_all_the_places(data: Path) -> None:
    """There are no more of them, for each takes a descriptor."""
    with (
        serving(transfers=2, history="sqlite", data=str(data), limits="off") as server,
        connected(server.port, "/ws?username=Alice") as alice,
        contextlib.ExitStack() as stack,
    ):
        alice.receive_type("joined")
        for _ in range(2):
            sender = stack.enter_context(wired(server.port))
            sender.write(head(announce(alice, 9), 9) + b"begun")
        wait_until(lambda: len(files_on_disk(data)) == 2)
        with wired(server.port) as wire:
            wire.write(head(announce(alice, 9), 9))
            assert wire.read_response().status == 503


# Reading


def test_what_is_served_is_data(alice: Client, wire: Wire) -> None:
    """HTML and SVG, whatever they are called, are saved; and nothing of a file may run."""
    for name, content in [
        ("a.html", b"<!doctype html><script>alert(1)</script>"),
        ("a.svg", b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'),
        ("a.png", b"<html><script>alert(1)</script></html>"),
        ("a.pdf", b"%PDF-1.7"),
        ("a.xml", b"<?xml version='1.0'?><a xmlns:h='http://www.w3.org/1999/xhtml'/>"),
    ]:
        headers = ask(wire, share(alice, wire, content, name)["link"]).headers
        assert headers["content-type"] == "application/octet-stream"
        assert headers["content-disposition"].startswith(f'attachment; filename="{name}"')
        assert_is_safe(headers)


def assert_is_safe(headers: dict[str, str]) -> None:
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "private, max-age=86400, immutable"


def test_image_is_shown_as_what_it_is(alice: Client, wire: Wire) -> None:
    """Not as what it is called: a name in an address is anybody's."""
    shared = share(alice, wire, png(640, 480), "a.html")
    headers = ask(wire, shared["link"]).headers
    assert headers["content-type"] == "image/png"
    assert headers["content-disposition"].startswith('inline; filename="a.html"')
    assert_is_safe(headers)


@pytest.mark.parametrize(
    ("name", "saved_as"),
    [
        ("x%0d%0aSet-Cookie:%20a=b", "xSet-Cookie: a=b"),
        ('%22;%20filename="evil.exe', '"; filename="evil.exe'),
        ("%E2%80%AEgpj.exe", "gpj.exe"),
        ("..%5C..%5Ca", "_.._a"),
        ("%FF%FE", "\ufffd\ufffd"),
        ("%C3%BC.txt", "ü.txt"),
    ],
)
def test_forged_name_is_cleaned(alice: Client, wire: Wire, name: str, saved_as: str) -> None:
    """It stays in its header, and in the folder where files are saved."""
    from urllib.parse import unquote

    shared = share(alice, wire, b"content")
    folder = shared["link"].rpartition("/")[0]
    response = ask(wire, f"{folder}/{name}")
    assert (response.status, response.body) == (200, b"content")
    assert "set-cookie" not in response.headers
    disposition = response.headers["content-disposition"]
    assert disposition.count('"') == 2
    assert unquote(disposition.partition("filename*=UTF-8''")[2]) == saved_as


@pytest.mark.parametrize(
    "target",
    [
        "/files",
        "/files/",
        "/files/{id}",
        "/files/{id}/",
        "/files/{id}/a/b",
        "/files/{id}/..%2f..%2fhistory.db",
        "/files/{other}/a",
        "/files/{ID}/a",
        "/files/../history.db",
        "/files/%2e%2e/history.db",
        "/files/..%2fhistory.db/a",
        "/files/index.sqlite3/a",
        "/files/incoming/1",
        "/files/{id}%00/a",
        "//files/{id}/a",
    ],
)
def test_only_a_link_leads_to_a_file(alice: Client, wire: Wire, target: str) -> None:
    """An id is looked up in the index, and no other part of an address becomes a path."""
    id = share(alice, wire, b"content")["link"].split("/")[2]
    target = target.format(id=id, ID=id.upper(), other="a" * 32)
    assert ask(wire, target).status == 404
    assert ask(wire, f"/files/{id}/a").status == 200


def test_head_is_get_without_a_body(alice: Client, wire: Wire) -> None:
    link = share(alice, wire, b"content")["link"]
    got, told = ask(wire, link), ask(wire, link, method="HEAD")
    assert told.status == got.status == 200
    assert told.headers == got.headers
    ranged = ask(wire, link, ("Range", "bytes=0-1"), method="HEAD")
    assert ranged.headers == got.headers  # RFC 9110 §14.2: ranges are of GET only
    assert ask(wire, link).body == b"content"


CONTENT = bytes(range(256)) * 1000


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, 256_000),
        ("bytes=100-199", 100, 200),
        (f"bytes=1-{CHUNK_BYTES}", 1, CHUNK_BYTES + 1),
        ("bytes=255999-", 255_999, 256_000),
        ("bytes=255000-999999999", 255_000, 256_000),
        ("bytes=-1", 255_999, 256_000),
        ("bytes=-999999999", 0, 256_000),
        ("Bytes= 5-6 ", 5, 7),
    ],
)
def test_part_is_served(alice: Client, wire: Wire, asked: str, start: int, end: int) -> None:
    """RFC 9110 §14: a download goes on where it was broken off."""
    link = share(alice, wire, CONTENT)["link"]
    response = ask(wire, link, ("Range", asked))
    assert response.status == 206
    assert response.headers["content-range"] == f"bytes {start}-{end - 1}/256000"
    assert response.body == CONTENT[start:end]
    assert_is_safe(response.headers)


@pytest.mark.parametrize("asked", ["bytes=256000-", "bytes=999999999-", "bytes=-0"])
def test_part_that_is_not_there_is_refused(alice: Client, wire: Wire, asked: str) -> None:
    link = share(alice, wire, CONTENT)["link"]
    response = ask(wire, link, ("Range", asked))
    assert (response.status, response.body) == (416, b"")
    assert response.headers["content-range"] == "bytes */256000"


@pytest.mark.parametrize(
    "asked",
    [
        *("", "bytes", "bytes=", "bytes=-", "bytes=2-1", "bytes=a-b", "lines=1-2"),
        *(
            "bytes=0-1,5-6",
            "bytes=" + "9" * 5000 + "-",
            "bytes=+1-2",
            "bytes=1_0-2_0",
            "bytes=\xb2-",
        ),
    ],
)
def test_what_is_no_range_gets_all(alice: Client, wire: Wire, asked: str) -> None:
    """And several at once do, which a server may ignore (RFC 9110 §14.2)."""
    link = share(alice, wire, CONTENT)["link"]
    response = ask(wire, link, ("Range", asked))
    assert (response.status, response.body) == (200, CONTENT)


def test_part_is_of_the_same_file_only(alice: Client, wire: Wire) -> None:
    """RFC 9110 §13.1.5: if it has changed since, or may have, all of it comes."""
    link = share(alice, wire, CONTENT)["link"]
    etag = ask(wire, link).headers["etag"]
    for condition, status in [
        (etag, 206),
        (f"W/{etag}", 200),
        ('"other"', 200),
        ("Sat, 21 Nov 2026 00:00:00 GMT", 200),
    ]:
        response = ask(wire, link, ("Range", "bytes=1-2"), ("If-Range", condition))
        assert response.status == status


def test_known_file_is_not_sent_again(alice: Client, wire: Wire) -> None:
    """304 without a body, for whoever shows its ETag; a range does not matter then."""
    link = share(alice, wire, CONTENT)["link"]
    etag = ask(wire, link).headers["etag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        for method in ("GET", "HEAD"):
            response = ask(
                wire, link, ("If-None-Match", known), ("Range", "bytes=1-2"), method=method
            )
            assert (response.status, response.body) == (304, b"")
            assert response.headers["etag"] == etag
    assert ask(wire, link, ("If-None-Match", '"other"')).body == CONTENT


def test_many_read_and_write_at_once(alice: Client, server: Server) -> None:
    """Each gets his own."""
    contents = [os.urandom(300_000) for _ in range(12)]
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(wired(server.port)) for _ in contents]
        tickets = [announce(alice, len(content)) for content in contents]
        for wire, ticket, content in zip(wires, tickets, contents, strict=True):
            wire.write(head(ticket, len(content)) + content[:100_000])
        for wire, content in zip(wires, contents, strict=True):
            wire.write(content[100_000:])
        links = [json.loads(wire.read_response().body)["link"] for wire in wires]
        for wire, link in zip(wires, links, strict=True):
            wire.write(request(link))
        for wire, content in zip(wires, contents, strict=True):
            got = wire.read_response().body
            assert hashlib.sha256(got).digest() == hashlib.sha256(content).digest()


def test_server_that_stops_ends_transfers(alice: Client, server: Server, data: Path) -> None:
    """Who sends at that moment sends again to the next; nothing is left."""
    with wired(server.port) as wire:
        wire.write(head(announce(alice, 1_000_000), 1_000_000) + bytes(100_000))
        wait_until(lambda: files_on_disk(data) != [])
        server.call(server.shut_down)
        assert ends_within(wire, 4 * TIMEOUT_UNIT_S)
        wait_until(lambda: files_on_disk(data) == [])


# Where there are none


@pytest.mark.parametrize("settings", [{"history": "memory"}, {"files": "off"}])
def test_server_without_files_takes_none(tmp_path: Path, settings: dict[str, str]) -> None:
    """It says so over the WebSocket, and HTTP knows nothing of files."""
    with (
        serving(**{"history": "sqlite", "data": str(tmp_path), **settings}) as server,
        connected(server.port, "/ws?username=Alice") as alice,
    ):
        assert "files" not in alice.receive_type("joined")
        alice.send({"type": "upload", "name": "a", "size": 7})
        assert alice.receive_type("error")["code"] == "forbidden"
        with wired(server.port) as wire:
            assert ask(wire, f"/files/{'a' * 32}/a").status == 404
            wire.write(head("ticket", 7) + b"content")
            assert wire.read_response().status == 405
    assert not (tmp_path / "files").exists()
