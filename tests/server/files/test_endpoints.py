"""Files over HTTP on a real server: uploads with a ticket, and downloads of a link."""

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
from fastchat.web.context import HttpTimings
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
    """A client in the lobby."""
    with connected(server.port, "/ws?username=Alice") as alice:
        alice.receive_type("joined")
        yield alice


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    with wired(server.port) as wire:
        yield wire


def announce(client: Client, size: int, name: str = "a.bin") -> str:
    """Announce a file, and return its ticket."""
    client.send({"type": "upload", "name": name, "size": size})
    ticket: str = client.receive_type("upload")["ticket"]
    return ticket


def head(
    ticket: str | None, size: int | None, *more: tuple[str, str], version: str = "1.1"
) -> bytes:
    """Return the head of a request that uploads a file."""
    headers = [HOST, *more]
    if ticket is not None:
        headers.append(("Authorization", f"Bearer {ticket}"))
    if size is not None:
        headers.append(("Content-Length", str(size)))
    return request("/files", headers, method="POST", version=version)


def post(wire: Wire, ticket: str | None, content: bytes, *more: tuple[str, str]) -> Response:
    """Upload a file, and return the answer."""
    wire.write(head(ticket, len(content), *more) + content)
    return wire.read_response()


def share(alice: Client, wire: Wire, content: bytes, name: str = "a.bin") -> dict[str, Any]:
    """Announce and upload a file, and return its description."""
    response = post(wire, announce(alice, len(content), name), content)
    assert response.status == 201, response
    shared: dict[str, Any] = json.loads(response.body)
    return shared


def refusal(response: Response) -> tuple[int, str]:
    """Return the status and the error code of an answer, which must also have a sentence."""
    body = json.loads(response.body)
    assert body.keys() == {"code", "message"}
    assert body["message"].endswith(".")
    return response.status, body["code"]


# Uploads


def test_file_is_uploaded_and_downloaded(alice: Client, wire: Wire, server: Server) -> None:
    """A file is described after its upload, and can be downloaded on the same connection."""
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


def test_largest_file_is_accepted(alice: Client, wire: Wire) -> None:
    """A file can have --max-file-bytes."""
    content = os.urandom(MAX_BYTES)
    shared = share(alice, wire, content)
    assert ask(wire, shared["link"]).body == content


def test_ticket_is_valid_after_its_connection_ended(server: Server, wire: Wire) -> None:
    """A client that loses its WebSocket can still upload the announced file."""
    with connected(server.port, "/ws?username=Alice") as alice:
        alice.receive_type("joined")
        ticket = announce(alice, 7)
    wait_until(lambda: len(server.sessions) == 0)
    assert post(wire, ticket, b"content").status == 201


def test_ticket_is_valid_once(alice: Client, wire: Wire, data: Path) -> None:
    """A second upload with the same ticket is refused with 401."""
    ticket = announce(alice, 7)
    assert post(wire, ticket, b"content").status == 201
    response = post(wire, ticket, b"another")
    assert refusal(response) == (401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"
    assert len(files_on_disk(data)) == 1


@pytest.mark.parametrize("how", [None, "Bearer", "Bearer ", "Basic x", "Bearer a b", "Bearer \xff"])
def test_upload_with_an_unknown_ticket_is_read_and_refused(
    wire: Wire, server: Server, how: str | None
) -> None:
    """The body is read before the refusal, so that the client receives it and can go on."""
    headers = [] if how is None else [("Authorization", how)]
    assert refusal(post(wire, None, bytes(1_000_000), *headers)) == (401, "unauthorized")
    assert ask(wire, "/files/nothing").status == 404
    assert server.metrics.file_refusals == {"401": 1}


PASSWORD = ("Authorization", "Basic QWxpY2U6c2VjcmV0")


def ticketed(*tickets: str) -> list[tuple[str, str]]:
    return [("X-Upload-Ticket", ticket) for ticket in tickets]


@pytest.mark.parametrize("more", [[], [PASSWORD], [("Authorization", "Bearer of a proxy")]])
def test_ticket_can_have_a_header_of_its_own(
    alice: Client, wire: Wire, more: list[tuple[str, str]]
) -> None:
    """A ticket in `X-Upload-Ticket` leaves `Authorization` to a proxy that asks for a password."""
    ticket = announce(alice, 7)
    response = post(wire, None, b"content", *ticketed(ticket), *more)
    assert response.status == 201
    assert refusal(post(wire, None, b"content", *ticketed(ticket), *more)) == (401, "unauthorized")


@pytest.mark.parametrize("tickets", [[""], ["x"], ["a b"], ["{0}", "{0}"], ["{0}, {0}"], ["\xff"]])
def test_wrong_header_of_a_ticket_is_not_made_up_for(
    alice: Client, wire: Wire, tickets: list[str]
) -> None:
    """If there is an `X-Upload-Ticket`, only that header decides, and its ticket stays valid if it
    is not named properly."""
    ticket = announce(alice, 7)
    headers = ticketed(*(each.format(ticket) for each in tickets))
    assert refusal(post(wire, ticket, b"content", *headers)) == (401, "unauthorized")
    assert post(wire, None, b"content", *ticketed(ticket)).status == 201


def test_refusal_by_the_head_spends_any_ticket(alice: Client, server: Server) -> None:
    """A refused attempt uses the ticket up, whichever header names it."""
    for named in (lambda ticket: [("Authorization", f"Bearer {ticket}")], ticketed):
        ticket = announce(alice, 7)
        with wired(server.port) as wire:
            wire.write(head(None, MAX_BYTES + 1, *named(ticket)))
            assert refusal(wire.read_response()) == (413, "too_long")
        with wired(server.port) as wire:
            assert post(wire, ticket, b"content").status == 401


@pytest.mark.parametrize("size", [0, 6, 8, 100_000])
def test_other_size_than_announced_is_refused(
    alice: Client, wire: Wire, data: Path, size: int
) -> None:
    """An upload of another size uses the ticket, and nothing is stored."""
    ticket = announce(alice, 7)
    assert refusal(post(wire, ticket, bytes(size))) == (400, "bad_command")
    assert refusal(post(wire, ticket, b"content")) == (401, "unauthorized")
    assert files_on_disk(data) == []


def test_too_large_upload_is_refused_by_its_length(alice: Client, server: Server) -> None:
    """A too large Content-Length is refused without reading the body, and the connection ends."""
    with wired(server.port) as wire:
        wire.write(head(announce(alice, 7), MAX_BYTES + 1))
        response = wire.read_response()
        assert refusal(response) == (413, "too_long")
        assert response.headers["connection"] == "close"
        assert wire.read_all() == b""


@pytest.mark.parametrize(
    "headers", [[], [("Transfer-Encoding", "chunked")], [("Transfer-Encoding", "gzip, chunked")]]
)
def test_upload_needs_a_length(alice: Client, wire: Wire, headers: list[tuple[str, str]]) -> None:
    """An upload without a Content-Length, or with chunked coding, is refused with 411."""
    wire.write(head(announce(alice, 7), None, *headers))
    response = wire.read_response()
    assert refusal(response) == (411, "bad_command")
    assert response.headers["connection"] == "close"


@pytest.mark.parametrize(
    ("encoding", "status"), [("gzip", 415), ("br, gzip", 415), ("Identity", 201)]
)
def test_encoded_upload_is_refused(alice: Client, wire: Wire, encoding: str, status: int) -> None:
    """An upload with a Content-Encoding other than `identity` is refused with 415."""
    wire.write(head(announce(alice, 7), 7, ("Content-Encoding", encoding)) + b"content")
    response = wire.read_response()
    assert response.status == status
    if status == 415:
        assert refusal(response) == (415, "bad_command")
        assert response.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("behind", [b"", b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_client_that_half_closes_is_answered(alice: Client, server: Server, behind: bytes) -> None:
    """A client that closes its half of the connection receives all answers (RFC 9112 §9.6)."""
    with wired(server.port) as wire:
        wire.write(head(announce(alice, 7), 7) + b"content" + behind)
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.read_response().status == 201
        if behind:
            assert wire.read_response().status == 404
        assert wire.read_all() == b""


def test_request_with_two_lengths_is_refused(wire: Wire) -> None:
    """A request with two different lengths is malformed."""
    wire.write(head("ticket", 7, ("Content-Length", "8")) + b"content")
    assert wire.read_response().status == 400


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS"])
def test_other_methods_are_refused(alice: Client, wire: Wire, method: str) -> None:
    """Other methods are refused, and OPTIONS does not allow pages of other sites to upload."""
    shared = share(alice, wire, b"content")
    for target, methods in (("/files", "OPTIONS, POST"), (shared["link"], "GET, HEAD, OPTIONS")):
        if method in methods.split(", ") and method != "OPTIONS":
            continue
        response = ask(wire, target, ("Origin", "https://other.example"), method=method)
        assert response.status == (204 if method == "OPTIONS" else 405)
        assert response.headers["allow"] == methods
        assert not [name for name in response.headers if name.startswith("access-control")]


def test_body_of_any_other_request_is_not_read(wire: Wire) -> None:
    """Another request with a body is answered, and then its connection ends."""
    wire.write(request("/", [HOST, ("Content-Length", "9")], method="POST") + b"unwanted!")
    response = wire.read_response()
    assert response.status == 405
    assert wire.read_all() == b""


def test_client_that_expects_100_receives_it(alice: Client, wire: Wire, data: Path) -> None:
    """The server sends 100 only if the ticket is valid, else the refusal (RFC 9110 §10.1.1)."""
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


def test_http_1_0_can_upload(alice: Client, wire: Wire) -> None:
    """A client of HTTP/1.0 receives no 100, and its connection ends after the answer."""
    expect = ("Expect", "100-continue")
    wire.write(head(announce(alice, 7), 7, expect, version="1.0") + b"content")
    assert wire.read_response().status == 201
    assert wire.read_all() == b""


def test_upload_to_an_absolute_address_is_accepted(alice: Client, wire: Wire) -> None:
    """The target can be in absolute form, as proxies send it (RFC 9112 §3.2.2)."""
    headers = [HOST, ("Authorization", f"bearer {announce(alice, 7)}"), ("Content-Length", "7")]
    target = "http://localhost/files?x=1"
    wire.write(request(target, headers, method="POST") + b"content")
    assert wire.read_response().status == 201


def test_request_after_an_upload_is_answered(alice: Client, wire: Wire) -> None:
    """A request that is pipelined after an upload is answered, in the same segment or the next."""
    ticket = announce(alice, 7)
    wire.write(head(ticket, 7) + b"content" + request("/nothing") + request("/")[:9])
    assert wire.read_response().status == 201
    assert wire.read_response().status == 404
    wire.write(request("/")[9:])
    assert wire.read_response().status == 200


def test_upload_after_an_unanswered_request_is_refused(alice: Client, wire: Wire) -> None:
    """A pipelined upload is refused, and its ticket stays valid (RFC 9112 §9.3.2)."""
    first, second = announce(alice, 7), announce(alice, 7)
    wire.write(head(first, 7) + b"content" + head(second, 7) + b"another")
    assert wire.read_response().status == 201
    response = wire.read_response()
    assert refusal(response) == (400, "bad_command")
    assert wire.read_all() == b""
    with wired(wire.socket.getpeername()[1]) as again:
        assert post(again, second, b"content").status == 201


def test_upload_with_an_upgrade_is_refused(alice: Client, wire: Wire) -> None:
    """An upload with an Upgrade header is refused, and its ticket stays valid."""
    ticket = announce(alice, 7)
    upgrade = ("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "")
    wire.write(head(ticket, 7, *upgrade) + b"content")
    response = wire.read_response()
    assert refusal(response) == (400, "bad_command")
    assert "Upgrade" in json.loads(response.body)["message"]
    with wired(wire.socket.getpeername()[1]) as again:
        assert post(again, ticket, b"content").status == 201


def test_slow_disk_stops_reading_an_upload(
    alice: Client, server: Server, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the disk is busy, the server stops reading, and has less than 512 KiB in memory."""
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

    def fill() -> None:
        """Send what the kernel takes, and no more."""
        nonlocal sent
        with contextlib.suppress(BlockingIOError):
            while sent < MAX_BYTES:
                sent += wire.socket.send(content[sent : sent + 65536])

    def waiting() -> int:
        cycles = [connection.cycle for connection in server.connections()]
        return sum(len(cycle.body) for cycle in cycles if cycle is not None)

    def is_full() -> bool:
        fill()
        return server.call(waiting) > 65_536

    wait_until(is_full)
    assert server.call(waiting) < 512 * 1024
    wire.socket.settimeout(10 * TIMEOUT_UNIT_S)
    release.append(True)
    wire.write(content[sent:])
    assert wire.read_response().status == 201


# Clients that read the answer after they have sent the whole file


def upload_and_read(server: Server, ticket: str, size: int) -> tuple[int, str]:
    """Upload a file, then read the status and the error code, as most clients do."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10 * TIMEOUT_UNIT_S)
    with contextlib.closing(connection):
        connection.request("POST", "/files", bytes(size), {"Authorization": f"Bearer {ticket}"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())["code"]


def test_client_that_still_sends_receives_the_refusal(server: Server, alice: Client) -> None:
    """A client that reads last receives the refusal of a too large file or a wrong ticket."""
    for _ in range(5):
        ticket = announce(alice, 7)
        assert upload_and_read(server, ticket, 5 * MAX_BYTES) == (413, "too_long")
        assert upload_and_read(server, "nonsense", MAX_BYTES) == (401, "unauthorized")


def test_client_that_still_sends_receives_503(
    two_transfers: tuple[Server, Client], data: Path
) -> None:
    """A client that reads last receives the refusal for too many concurrent uploads."""
    server, alice = two_transfers
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            sender = stack.enter_context(wired(server.port))
            sender.write(head(announce(alice, 9), 9) + b"start")
        wait_until(lambda: len(files_on_disk(data)) == 2)
        for _ in range(5):
            ticket = announce(alice, 20_000_000)
            assert upload_and_read(server, ticket, 20_000_000) == (503, "unavailable")


@pytest.mark.parametrize("how", ["much", "long"])
def test_body_of_a_too_large_upload_is_read_for_a_while(data: Path, how: str) -> None:
    """After the refusal, a limited number of bytes is read for a limited time."""
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


def test_request_after_a_refused_upload_is_not_answered(alice: Client, server: Server) -> None:
    """Bytes after a refused upload are not parsed, because they can be its body."""
    with wired(server.port) as wire:
        wire.write(head(announce(alice, 7), 1 << 40) + request("/") + request("/"))
        assert wire.read_response().status == 413
        assert wire.read_all() == b""


# Clients that stop, are slow, or leave


def test_upload_of_a_closed_connection_leaves_nothing(
    alice: Client, server: Server, data: Path
) -> None:
    """If a connection ends by FIN or RST, its upload is removed, and uploads still work."""
    for end in (Wire.close, Wire.reset):
        wire = Wire(server.port)
        wire.write(head(announce(alice, 1_000_000), 1_000_000) + bytes(300_000))
        wait_until(lambda: files_on_disk(data) != [])
        end(wire)
        wait_until(lambda: files_on_disk(data) == [])
    assert can_share(alice, server)


def can_share(alice: Client, server: Server) -> bool:
    """Return whether a file can be uploaded."""
    with wired(server.port) as wire:
        return bool(share(alice, wire, os.urandom(8)))


SHORT_DEADLINE = HttpTimings(answer_s=1.0 * TIMEOUT_UNIT_S)


@pytest.fixture
def short_deadline(data: Path) -> Iterator[tuple[Server, Client]]:
    """A client, and a server whose transfers must make progress within a second."""
    timings = WorkerTimings(sweep_interval_s=0.05, http=SHORT_DEADLINE)
    with (
        serving(timings=timings, history="sqlite", data=str(data)) as server,
        connected(server.port, "/ws?username=Alice") as alice,
    ):
        alice.receive_type("joined")
        yield server, alice


@pytest.mark.parametrize("trickle", [False, True])
def test_stalled_upload_is_closed(
    short_deadline: tuple[Server, Client], data: Path, trickle: bool
) -> None:
    """An upload that stops, or receives a byte now and then, is closed and leaves nothing."""
    server, alice = short_deadline
    with wired(server.port) as wire:
        wire.write(head(announce(alice, 1_000_000), 1_000_000) + bytes(100_000))
        deadline = time.monotonic() + 5 * TIMEOUT_UNIT_S
        while not ends_within(wire, 0.05) and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                wire.write(b"x" if trickle else b"")
        assert ends_within(wire, 0.1)
        wait_until(lambda: files_on_disk(data) == [])
    assert can_share(alice, server)


def test_slow_and_steady_upload_completes(short_deadline: tuple[Server, Client]) -> None:
    """A slow upload that makes progress is not closed, however long it takes."""
    server, alice = short_deadline
    pieces = 20
    with wired(server.port) as wire:
        size = pieces * 16_384
        wire.write(head(announce(alice, size), size))
        for _ in range(pieces):
            wire.write(bytes(16_384))
            time.sleep(0.1 * TIMEOUT_UNIT_S)
        assert wire.read_response().status == 201


def test_stalled_download_is_closed(short_deadline: tuple[Server, Client], data: Path) -> None:
    """If a client stops reading, its connection and the file are closed."""
    server, alice = short_deadline
    with wired(server.port) as wire:
        shared = share(alice, wire, os.urandom(20_000_000))
    with wired(server.port, receive_buffer=4096) as reader:
        reader.write(request(shared["link"]))
        reader.read_until(b"\r\n\r\n")
        assert open_contents(data)
        wait_until(lambda: server.call(lambda: not server.connections()))
        wait_until(lambda: not open_contents(data))


def test_slow_and_steady_download_completes(short_deadline: tuple[Server, Client]) -> None:
    """A slow download that makes progress completes, even if it takes twice the deadline."""
    server, alice = short_deadline
    content = os.urandom(2_000_000)
    with wired(server.port) as wire:
        shared = share(alice, wire, content)
    with wired(server.port, receive_buffer=65_536) as reader:
        reader.write(request(shared["link"]))
        reader.read_until(b"\r\n\r\n")
        start_s, got = time.monotonic(), bytearray(reader.unread)
        while len(got) < len(content):
            piece = reader.socket.recv(65_536)
            assert piece, "the server has closed the connection"
            got += piece
            time.sleep(0.08 * TIMEOUT_UNIT_S)
    assert got == content
    assert time.monotonic() - start_s > 2 * SHORT_DEADLINE.answer_s


def test_download_of_a_closed_connection_ends(
    alice: Client, server: Server, wire: Wire, data: Path
) -> None:
    """If the client closes the connection, the file of its download is closed."""
    shared = share(alice, wire, os.urandom(MAX_BYTES))
    for _ in range(20):
        with wired(server.port, receive_buffer=4096) as reader:
            reader.write(request(shared["link"]))
            reader.read_until(b"\r\n\r\n")
    wait_until(lambda: not open_contents(data))


def open_contents(data: Path) -> list[str]:
    """Return the paths of the contents in a data directory that this process has open."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    folder = f"{data}/files/"
    return [path for path in found if path.startswith(folder) and "index.sqlite3" not in path]


# Limits on concurrent transfers


@pytest.fixture
def two_transfers(data: Path) -> Iterator[tuple[Server, Client]]:
    """A client, and a server with two concurrent uploads and two downloads for an address."""
    with two_transfers_server(data) as served:
        yield served


@contextlib.contextmanager
def two_transfers_server(
    data: Path, timings: WorkerTimings | None = None
) -> Iterator[tuple[Server, Client]]:
    with (
        serving(transfers=8, history="sqlite", data=str(data), timings=timings) as server,
        connected(server.port, "/ws?username=Alice") as alice,
    ):
        alice.receive_type("joined")
        yield server, alice


def test_uploads_of_an_address_are_limited(
    two_transfers: tuple[Server, Client], data: Path
) -> None:
    """A third concurrent upload is refused with 503; after one has ended, another is accepted."""
    server, alice = two_transfers
    with contextlib.ExitStack() as stack:
        senders = [stack.enter_context(wired(server.port)) for _ in range(2)]
        for sender in senders:
            sender.write(head(announce(alice, 9), 9) + b"start")
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


def test_refused_attempt_does_not_count(two_transfers: tuple[Server, Client], data: Path) -> None:
    """A refused upload does not count against the quota, so its file can be announced again."""
    server, alice = two_transfers
    server.files.index._quotas._max_user_bytes = 100_000
    expect = ("Expect", "100-continue")
    with contextlib.ExitStack() as stack:
        for size, status in ((None, 411), (1 << 40, 413), (99, 400)):
            wire = stack.enter_context(wired(server.port))
            wire.write(head(announce(alice, 90_000), size, expect))
            assert wire.read_response().status == status
        for _ in range(2):
            sender = stack.enter_context(wired(server.port))
            sender.write(head(announce(alice, 9), 9) + b"start")
        wait_until(lambda: len(files_on_disk(data)) == 2)
        for name in ("a", "b", "c"):
            wire = stack.enter_context(wired(server.port))
            wire.write(head(announce(alice, 90_000, name), 90_000, expect))
            assert wire.read_response().status == 503


def test_uploads_and_downloads_count_separately(
    two_transfers: tuple[Server, Client], data: Path
) -> None:
    """An address with all its downloads can upload, and the other way round."""
    server, alice = two_transfers
    with contextlib.ExitStack() as stack:
        with wired(server.port) as wire:
            shared = share(alice, wire, os.urandom(3_000_000))
        readers = [stalled_download(stack, server, shared["link"]) for _ in range(2)]
        with wired(server.port) as wire:
            assert post(wire, announce(alice, 7), b"content").status == 201
        senders = [stack.enter_context(wired(server.port)) for _ in range(2)]
        for sender in senders:
            sender.write(head(announce(alice, 9), 9) + b"start")
        wait_until(lambda: sum(name.startswith("incoming") for name in files_on_disk(data)) == 2)
        readers.pop().close()
        with wired(server.port) as wire:
            assert ask(wire, shared["link"]).status == 200


def test_download_over_the_limit_waits(two_transfers: tuple[Server, Client]) -> None:
    """Ten downloads of one address wait until another ends, and then complete."""
    server, alice = two_transfers
    with contextlib.ExitStack() as stack:
        with wired(server.port) as wire:
            shared = share(alice, wire, os.urandom(3_000_000))
        first, second = [stalled_download(stack, server, shared["link"]) for _ in range(2)]
        others = [stack.enter_context(wired(server.port)) for _ in range(10)]
        for other in others:
            other.write(request(shared["link"]))
        wait_until(lambda: server.call(lambda: server.readers.waiting) == 10)
        first.close()
        for other in others:
            assert len(other.read_response().body) == 3_000_000
        assert not ends_within(second, 0)
        assert server.metrics.file_refusals == {}


def test_download_that_waits_too_long_is_refused(data: Path) -> None:
    """A download that waits for longer than `download_wait_s` is refused with 503."""
    with contextlib.ExitStack() as stack:
        server, alice = stack.enter_context(
            two_transfers_server(data, WorkerTimings(download_wait_s=0.1))
        )
        with wired(server.port) as wire:
            shared = share(alice, wire, os.urandom(3_000_000))
        for _ in range(2):
            stalled_download(stack, server, shared["link"])
        with wired(server.port) as wire:
            response = ask(wire, shared["link"])
            assert refusal(response) == (503, "unavailable")
            assert int(response.headers["retry-after"]) > 0


def test_closed_connection_leaves_the_queue(two_transfers: tuple[Server, Client]) -> None:
    """If a client leaves while its download waits, the next download is served."""
    server, alice = two_transfers
    with contextlib.ExitStack() as stack:
        with wired(server.port) as wire:
            shared = share(alice, wire, os.urandom(3_000_000))
        first, _ = [stalled_download(stack, server, shared["link"]) for _ in range(2)]
        closed, waiting = [stack.enter_context(wired(server.port)) for _ in range(2)]
        for number, other in enumerate((closed, waiting), 1):
            other.write(request(shared["link"]))
            wait_until(lambda n=number: server.call(lambda: server.readers.waiting) == n)
        closed.reset()
        wait_until(lambda: len(server.call(server.connections)) == 3)
        first.close()
        assert len(waiting.read_response().body) == 3_000_000


def test_answer_without_content_is_no_download(two_transfers: tuple[Server, Client]) -> None:
    """HEAD, 304 and 404 are answered while an address has all its downloads."""
    server, alice = two_transfers
    with contextlib.ExitStack() as stack:
        with wired(server.port) as wire:
            shared = share(alice, wire, os.urandom(3_000_000))
            etag = ask(wire, shared["link"], method="HEAD").headers["etag"]
        for _ in range(2):
            stalled_download(stack, server, shared["link"])
        with wired(server.port) as wire:
            assert ask(wire, shared["link"], method="HEAD").status == 200
            assert ask(wire, shared["link"], ("If-None-Match", etag)).status == 304
            gone = f"/files/{'a' * 32}/x"
            assert ask(wire, gone, ("If-None-Match", "*")).status == 404
            assert ask(wire, gone, method="HEAD").status == 404


def stalled_download(stack: contextlib.ExitStack, server: Server, link: str) -> Wire:
    """Return a connection that has received the head of a download, and does not read on."""
    reader = stack.enter_context(wired(server.port, receive_buffer=4096))
    reader.write(request(link))
    reader.read_until(b"\r\n\r\n")
    return reader


def test_upload_without_a_valid_ticket_does_not_count(two_transfers: tuple[Server, Client]) -> None:
    """Uploads with an invalid ticket do not prevent others."""
    server, alice = two_transfers
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            sender = stack.enter_context(wired(server.port))
            sender.write(head("nonsense", 1_000_000) + bytes(1000))
        with wired(server.port) as wire:
            shared = share(alice, wire, b"content")
            assert ask(wire, shared["link"]).body == b"content"


def test_body_of_a_refused_upload_is_drained_for_a_while(
    alice: Client, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most DRAIN_BYTES of a refused body are read, for at most DRAIN_S."""
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


def test_without_limits_one_address_can_use_all_transfers(data: Path) -> None:
    """With --limits off, the total is still limited, because each transfer has a descriptor."""
    with (
        serving(transfers=2, history="sqlite", data=str(data), limits="off") as server,
        connected(server.port, "/ws?username=Alice") as alice,
        contextlib.ExitStack() as stack,
    ):
        alice.receive_type("joined")
        for _ in range(2):
            sender = stack.enter_context(wired(server.port))
            sender.write(head(announce(alice, 9), 9) + b"start")
        wait_until(lambda: len(files_on_disk(data)) == 2)
        with wired(server.port) as wire:
            wire.write(head(announce(alice, 9), 9))
            assert wire.read_response().status == 503


# Downloads


def test_files_are_served_as_data(alice: Client, wire: Wire) -> None:
    """Files that a browser could run, such as HTML and SVG, are saved, whatever their names."""
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
    """Check the headers that protect the origin of the page from a file."""
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "private, max-age=86400, immutable"


def test_type_of_an_image_is_from_its_content(alice: Client, wire: Wire) -> None:
    """An image is served with the type of its content, whatever its name."""
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
    """A forged name in a link adds no header, and names no other folder."""
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
    """A target that is not exactly a link of a stored file is not found."""
    id = share(alice, wire, b"content")["link"].split("/")[2]
    target = target.format(id=id, ID=id.upper(), other="a" * 32)
    assert ask(wire, target).status == 404
    assert ask(wire, f"/files/{id}/a").status == 200


def test_head_is_get_without_a_body(alice: Client, wire: Wire) -> None:
    """HEAD has the headers of a GET of the whole file, and ignores Range (RFC 9110 §14.2)."""
    link = share(alice, wire, b"content")["link"]
    got, without_body = ask(wire, link), ask(wire, link, method="HEAD")
    assert without_body.status == got.status == 200
    assert without_body.headers == got.headers
    ranged = ask(wire, link, ("Range", "bytes=0-1"), method="HEAD")
    assert ranged.headers == got.headers
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
def test_range_is_served(alice: Client, wire: Wire, asked: str, start: int, end: int) -> None:
    """A GET with a satisfiable range is answered with that range (RFC 9110 §14)."""
    link = share(alice, wire, CONTENT)["link"]
    response = ask(wire, link, ("Range", asked))
    assert response.status == 206
    assert response.headers["content-range"] == f"bytes {start}-{end - 1}/256000"
    assert response.body == CONTENT[start:end]
    assert_is_safe(response.headers)


@pytest.mark.parametrize("asked", ["bytes=256000-", "bytes=999999999-", "bytes=-0"])
def test_unsatisfiable_range_is_refused(alice: Client, wire: Wire, asked: str) -> None:
    """A range beyond the end of the file is refused with 416."""
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
def test_malformed_or_multiple_range_is_ignored(alice: Client, wire: Wire, asked: str) -> None:
    """A malformed range, or several ranges, are answered with the whole file (RFC 9110 §14.2)."""
    link = share(alice, wire, CONTENT)["link"]
    response = ask(wire, link, ("Range", asked))
    assert (response.status, response.body) == (200, CONTENT)


def test_range_needs_a_matching_if_range(alice: Client, wire: Wire) -> None:
    """If If-Range is not the strong ETag, the whole file is served (RFC 9110 §13.1.5)."""
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


def test_cached_file_is_not_sent_again(alice: Client, wire: Wire) -> None:
    """A request with the file's ETag in If-None-Match is answered with 304, even with a Range."""
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


def test_concurrent_transfers_do_not_mix(alice: Client, server: Server) -> None:
    """Each of several concurrent uploads and downloads has its own content."""
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
    """A server that stops closes the connections of uploads, and leaves nothing on the disk."""
    with wired(server.port) as wire:
        wire.write(head(announce(alice, 1_000_000), 1_000_000) + bytes(100_000))
        wait_until(lambda: files_on_disk(data) != [])
        server.call(server.shut_down)
        assert ends_within(wire, 4 * TIMEOUT_UNIT_S)
        wait_until(lambda: files_on_disk(data) == [])


# Servers without files


@pytest.mark.parametrize("settings", [{"history": "memory"}, {"files": "off"}])
def test_server_without_files_refuses_uploads(tmp_path: Path, settings: dict[str, str]) -> None:
    """`joined` does not offer files, `upload` is forbidden, and HTTP has no endpoints for files."""
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
