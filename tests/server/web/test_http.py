"""HTTP: requests, upgrades, deadlines, and refusals."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import pytest

from fastchat.process.timings import WorkerTimings
from fastchat.web.context import HttpTimings
from fastchat.web.http import MAX_HEAD_BYTES, MAX_HEAD_LINES
from support.raw_websocket import (
    HANDSHAKE,
    HOST,
    Client,
    Response,
    Wire,
    ask,
    connected,
    ends_within,
    is_dated,
    is_secure,
    request,
    wired,
)
from support.server import TIMEOUT_UNIT_S, running_server, wait_until
from support.server_in_thread import Server, serving


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    with wired(server.port) as wire:
        yield wire


# Requests


def test_post_is_answered_before_its_body(server: Server) -> None:
    """A POST is answered with 405 at once, and its body ends the connection."""
    with wired(server.port) as wire:
        response = ask(wire, "/", ("Content-Length", "1000000000"), method="POST")
        assert response.status == 405
        with pytest.raises(ConnectionError):  # noqa: PT012 any of the writes can fail
            for _ in range(10_000):
                wire.write(b"x" * 65536)
    with wired(server.port) as wire:
        head = request("/", [HOST, ("Transfer-Encoding", "chunked")], method="POST")
        wire.write(head + b"5\r\nhello\r\n" * 100)
        assert wire.read_response().status == 405
        assert wire.read_all() == b""


def test_connection_serves_several_requests(wire: Wire) -> None:
    """Several requests on one connection are answered in their order."""
    statuses = [ask(wire, path).status for path in ("/", "/nope", "/static/app.css", "/")]
    assert statuses == [200, 404, 200, 200]


def test_connection_closes_on_request(server: Server) -> None:
    """A request with `Connection: close`, or of HTTP/1.0 without keep-alive, ends the
    connection."""
    with wired(server.port) as wire:
        assert ask(wire, "/nope", ("Connection", "close")).status == 404
        assert wire.read_all() == b""
    with wired(server.port) as wire:
        wire.write(request("/nope", [HOST], version="1.0"))
        assert wire.read_response().status == 404
        assert wire.read_all() == b""


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    """Several requests in one segment get as many answers, in their order."""
    with wired(server.port) as wire:
        paths = ["/static/app.css", "/nope", "/", "/static/icon.svg"] * 5
        wire.write(b"".join(request(path) for path in paths))
        for path in paths:
            assert wire.read_response().status == (404 if path == "/nope" else 200)


def test_too_many_pipelined_requests_are_refused(server: Server) -> None:
    """The number of requests that wait for an answer is limited: one more gets 429, and the
    connection ends."""
    with wired(server.port) as wire:
        with contextlib.suppress(OSError):
            wire.write(request("/nope") * 3000)
        assert b"HTTP/1.1 429 " in wire.read_all()


def test_upgrade_behind_an_unanswered_request_is_refused(server: Server) -> None:
    """Such an upgrade gets no 101, because the pending answer would enter the WebSocket."""
    with wired(server.port) as wire:
        wire.write(request("/nope") + request("/ws", HANDSHAKE.items()))
        answer = wire.read_all()
    assert b" 101 " not in answer
    assert answer.count(b"HTTP/1.1") == 1


def test_upgrade_after_an_answer_is_accepted(server: Server) -> None:
    """A connection that was used for the page can become a WebSocket."""
    with wired(server.port) as wire:
        assert ask(wire, "/").status == 200
        wire.write(request("/ws", HANDSHAKE.items()))
        assert wire.read_response().status == 101


@pytest.mark.parametrize(
    ("hosts", "version", "status"),
    [
        (["localhost"], "1.1", 200),
        ([], "1.1", 400),
        (["localhost", "localhost"], "1.1", 400),
        (["localhost", "evil"], "1.1", 400),
        ([], "1.0", 200),
        (["localhost"], "1.0", 200),
        (["localhost", "evil"], "1.0", 400),
        (["chat.example:8080"], "1.1", 200),
        (["[::1]:8080"], "1.1", 200),
        ([""], "1.1", 200),
        (["a b"], "1.1", 400),
        (["user@localhost"], "1.1", 400),
        (["localhost/static/app.js?"], "1.1", 400),
        (["http://localhost"], "1.1", 400),
        (["localhost:port"], "1.1", 400),
        (["l\xf6calhost"], "1.1", 400),
        (["a b"], "1.0", 400),
    ],
)
def test_request_must_have_one_valid_host(
    wire: Wire, hosts: list[str], version: str, status: int
) -> None:
    """RFC 9112 §3.2 demands one valid Host header; requests of HTTP/1.0, as of health checks, need
    none."""
    wire.write(request("/", [("Host", host) for host in hosts], version=version))
    response = wire.read_response()
    assert response.status == status
    assert is_secure(response)


@pytest.mark.parametrize(
    ("target", "method", "status"),
    [
        ("http://chat.example/", "GET", 200),
        ("HTTPS://chat.example:8443/static/app.js?v=2", "GET", 200),
        ("http://chat.example", "GET", 200),
        ("http://chat.example?v=2", "HEAD", 200),
        ("http://chat.example/nope", "GET", 404),
        ("http://chat.example/", "PUT", 405),
        ("http://chat.example", "OPTIONS", 204),
        ("http://chat.example/ws", "GET", 426),
        ("http:///", "GET", 400),
        ("http://user@chat.example/", "GET", 400),
        ("ftp://chat.example/", "GET", 400),
        ("file:///etc/passwd", "GET", 400),
        ("*", "GET", 400),
        ("chat.example:443", "GET", 400),
        ("chat.example:443", "CONNECT", 405),
        ("/", "CONNECT", 405),
    ],
)
def test_target_can_be_absolute(server: Server, target: str, method: str, status: int) -> None:
    """RFC 9112 §3.2.2 has a server accept the absolute form; other forms that name a host are
    refused."""
    with wired(server.port) as wire:
        response = ask(wire, target, method=method)
    assert response.status == status
    assert is_secure(response)
    assert is_dated(response)
    if status == 405:
        assert "GET" in response.headers["allow"]


@pytest.mark.parametrize(("hosts", "version"), [([], "1.1"), (["a", "a"], "1.1"), (["/"], "1.0")])
def test_host_is_checked_behind_an_absolute_target(
    wire: Wire, hosts: list[str], version: str
) -> None:
    """RFC 9112 §3.2 demands a valid Host header also if the target names the host."""
    headers = [("Host", host) for host in hosts]
    wire.write(request("http://localhost/", headers, version=version))
    assert wire.read_response().status == 400


@pytest.mark.parametrize("version", ["0.9", "2.0"])
@pytest.mark.parametrize("headers", [(HOST,), tuple(HANDSHAKE.items())], ids=["request", "upgrade"])
def test_other_version_is_refused(
    wire: Wire, version: str, headers: tuple[tuple[str, str], ...]
) -> None:
    """RFC 9110 §15.6.6: a version that the server does not speak gets 505."""
    wire.write(request("/ws", headers, version=version))
    assert wire.read_response().status == 505
    assert wire.read_all() == b""


@pytest.mark.parametrize(
    ("headers", "status"),
    [([], 400), ([HOST, ("x", "y" * MAX_HEAD_BYTES)], 431), (HANDSHAKE.items(), 405)],
)
def test_refusal_of_head_has_no_body(
    wire: Wire, headers: Iterable[tuple[str, str]], status: int
) -> None:
    """RFC 9110 §9.3.2: an answer to HEAD has no content, and says how much GET would get."""
    path = "/ws" if status == 405 else "/"
    wire.write(request(path, headers, method="HEAD"))
    response = wire.read_response(has_body=False)
    assert response.status == status
    assert int(response.headers["content-length"]) > 0
    assert wire.read_all() == b""


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request("/"), 200),
        (request("/", method="HEAD"), 200),
        (request("*", method="OPTIONS"), 204),
        (request("/nope"), 404),
        (request("/", method="PUT"), 405),
        (request("/ws"), 426),
        (request("/", []), 400),
        (b"nonsense\r\n\r\n", 400),
        (request("/", [HOST, ("x", "y" * MAX_HEAD_BYTES)]), 431),
        (request("/ws", HANDSHAKE.items()), 101),
        (request("/ws", [*HANDSHAKE.items(), ("Origin", "null")]), 403),
    ],
)
def test_every_answer_has_a_date(wire: Wire, data: bytes, status: int) -> None:
    """RFC 9110 §6.6.1 demands a date, whichever part of the server answers."""
    wire.write(data)
    response = wire.read_response(has_body=False)
    assert response.status == status
    assert is_dated(response)


SMUGGLED = request("/static/app.css")


@pytest.mark.parametrize(
    "headers",
    [
        [("Content-Length", "5"), ("Transfer-Encoding", "chunked")],
        [("Transfer-Encoding", "chunked"), ("Content-Length", "0")],
        [("Content-Length", "0"), ("Content-Length", str(len(SMUGGLED)))],
        [("Content-Length", f"0, {len(SMUGGLED)}")],
        [("Content-Length", "+0")],
        [("Content-Length", "0x0")],
        [("Content-Length", "-1")],
        [("Content-Length", "9" * 40)],
        [("Transfer-Encoding", "chunked, identity")],
        [("Transfer-Encoding", "xchunked")],
        [("Transfer-Encoding", "\x0bchunked")],
        [("Transfer-Encoding ", "chunked")],
        [("X", "a\r\n Transfer-Encoding: chunked")],
        [("X", "a\nTransfer-Encoding: chunked")],
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_ambiguous_request_ends_the_connection(
    server: Server, headers: list[tuple[str, str]], method: str
) -> None:
    """A request that a proxy can read differently gets one answer, and nothing behind it is
    read."""
    with wired(server.port) as wire:
        wire.write(request("/nope", [HOST, *headers], method=method) + SMUGGLED)
        wire.socket.shutdown(socket.SHUT_WR)
        answer = wire.read_all()
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 405 "))
    assert answer.count(b"HTTP/1.1 ") == 1


def test_nothing_is_read_behind_a_refused_handshake(server: Server) -> None:
    """A refused handshake gets one answer, whatever follows it in the same segment or later."""
    head = request("/ws", [*HANDSHAKE.items(), ("Origin", "null")])
    with wired(server.port) as wire:
        wire.write(head + request("/") + head)
        wire.socket.shutdown(socket.SHUT_WR)
        answer = wire.read_all()
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_upgrade_to_another_protocol_is_ignored(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """`curl --http2` gets the page, once, over HTTP/1.1, and nothing is logged."""
    upgrade = [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c")]
    with wired(server.port) as wire:
        wire.write(request("/nope", [HOST, *upgrade, ("HTTP2-Settings", "AAMAAABk")]) + SMUGGLED)
        response = wire.read_response()
        assert (response.status, response.headers["connection"]) == (404, "close")
        assert wire.read_all() == b""
    assert not caplog.records


# Bounds of a head


def refused(server: Server, data: bytes) -> Response:
    """Send too large a head and return the answer, which must end the connection."""
    with wired(server.port) as wire:
        with contextlib.suppress(OSError):
            wire.write(data)
        response = wire.read_response()
        assert response.headers["connection"] == "close"
        assert wire.read_all() == b""
        assert is_secure(response)
        return response


UPGRADE = tuple(HANDSHAKE.items())


@pytest.mark.parametrize("headers", [(HOST,), UPGRADE], ids=["request", "upgrade"])
def test_head_of_many_lines_is_refused(
    server: Server, headers: tuple[tuple[str, str], ...], caplog: pytest.LogCaptureFixture
) -> None:
    """128 header lines are read, one more gets 431, and the head is not logged."""
    path = "/ws" if headers is UPGRADE else "/nope"
    lines = [(f"x-{number}", "y") for number in range(MAX_HEAD_LINES - len(headers))]
    with wired(server.port) as wire:
        wire.write(request(path, [*headers, *lines]))
        assert wire.read_response().status == (101 if headers is UPGRADE else 404)
    assert refused(server, request(path, [*headers, *lines, ("one", "more")])).status == 431
    assert not caplog.records


@pytest.mark.parametrize("headers", [(HOST,), UPGRADE], ids=["request", "upgrade"])
def test_head_of_many_bytes_is_refused(
    server: Server, headers: tuple[tuple[str, str], ...]
) -> None:
    """16 KiB are read, and more gets 431, wherever in the head they are."""
    path = "/ws" if headers is UPGRADE else "/nope"
    with wired(server.port) as wire:
        wire.write(request(path, [*headers, ("x", "y" * (MAX_HEAD_BYTES - 1000))]))
        assert wire.read_response().status == (101 if headers is UPGRADE else 404)
    too_many = "y" * MAX_HEAD_BYTES
    assert refused(server, request(path, [*headers, ("x", too_many)])).status == 431
    assert refused(server, request(path, [*headers, (too_many, "x")])).status == 431
    assert refused(server, request(f"{path}?{too_many}", headers)).status == 431


def test_head_without_end_is_refused(server: Server) -> None:
    """431 is sent before the head is complete."""
    assert refused(server, b"GET /" + b"x" * 100_000).status == 431
    assert refused(server, b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000).status == 431
    assert refused(server, b"GET / HTTP/1.1\r\na: " + b"b" * 100_000).status == 431


def test_every_head_of_a_connection_is_bounded(server: Server) -> None:
    """The bound applies to each request of a connection."""
    with wired(server.port) as wire:
        assert ask(wire, "/").status == 200
        with contextlib.suppress(OSError):
            wire.write(b"GET / HTTP/1.1\r\na: " + b"b" * 100_000)
        assert wire.read_response().status == 431


def test_large_head_costs_no_memory() -> None:
    """10 MB of header are not stored in memory."""
    with running_server("--history", "memory") as server:
        with wired(server.port) as wire:
            assert ask(wire, "/").status == 200
        before = server.resident_bytes()
        for _ in range(3):
            with wired(server.port) as wire, contextlib.suppress(OSError):
                wire.write(b"GET / HTTP/1.1\r\n")
                for _ in range(100):
                    wire.write(b"a" * 50 + b": " + b"b" * 100_000 + b"\r\n")
        assert server.resident_bytes() - before < 2_000_000


# Deadlines


@pytest.fixture
def impatient_server() -> Iterator[Server]:
    http = HttpTimings(head_s=0.4, answer_s=0.6)
    timings = WorkerTimings(sweep_interval_s=0.05, keep_alive_s=1, http=http)
    with serving(timings=timings) as server:
        yield server


@pytest.mark.parametrize("sent", [b"", b"GET", b"GET / HTTP/1.1\r\nHost: a\r\n"])
def test_silent_connection_is_ended(impatient_server: Server, sent: bytes) -> None:
    """There is one deadline from the accept to a complete head."""
    with wired(impatient_server.port) as wire:
        wire.write(sent)
        assert wire.read_all() == b""


def test_slowly_sent_head_is_ended(impatient_server: Server) -> None:
    """Single bytes do not move the deadline, for a first request or a second."""
    for first in (False, True):
        with wired(impatient_server.port) as wire:
            if not first:
                assert ask(wire, "/nope").status == 404
            head = b"GET / HTTP/1.1\r\nname: " + b"x" * 100
            drips = 0
            with contextlib.suppress(OSError):
                while not ends_within(wire, 0.05):
                    wire.write(head[drips : drips + 1])
                    drips += 1
            assert drips < 50


def test_idle_connection_has_the_keep_alive_timeout(impatient_server: Server) -> None:
    """Between requests uvicorn's keep-alive applies, and not the deadline of a head."""
    with wired(impatient_server.port) as wire:
        for _ in range(2):
            assert ask(wire, "/nope").status == 404
            assert not ends_within(wire, 0.8)


def test_websocket_has_no_deadline_of_http(impatient_server: Server) -> None:
    """After the upgrade no deadline of HTTP applies."""
    with connected(impatient_server.port, "/ws?username=Alice") as client:
        client.receive_type("joined")
        assert not ends_within(client, 1.2)


@pytest.mark.parametrize("path", ["/static/app.css", "/ws"])
def test_unread_answer_is_aborted(
    impatient_server: Server, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that requests much and reads nothing loses its connection, and does not fill the
    log."""
    wire = Wire(impatient_server.port, receive_buffer=4096)
    with contextlib.closing(wire):
        with contextlib.suppress(OSError):  # More at once would be refused.
            for _ in range(30 if path == "/static/app.css" else 1000):
                wire.write(request(path))
        wait_until(lambda: not impatient_server.http.connections)
    assert not caplog.records


def test_missing_body_ends_with_the_keep_alive(impatient_server: Server) -> None:
    """If an announced body does not arrive, the connection ends with its keep-alive at the
    latest."""
    with wired(impatient_server.port) as wire:
        response = ask(wire, "/", ("Content-Length", "1000"), method="POST")
        assert response.status == 405
        assert wire.read_all() == b""


# Handshakes


class Handshake(NamedTuple):
    """The differences from a valid handshake, and the expected status.

    A header that is None is left out; one that is a list is sent several times.
    """

    name: str
    status: int
    headers: Mapping[str, str | list[str] | None] = MappingProxyType({})
    target: str = "/ws"
    method: str = "GET"
    version: str = "1.1"
    body: bytes = b""


KEY = HANDSHAKE["Sec-WebSocket-Key"]

HANDSHAKES = [
    Handshake("right", 101),
    Handshake("Firefox", 101, {"Connection": "keep-alive, Upgrade"}),
    Handshake("tokens in any case", 101, {"Connection": "UPGRADE", "Upgrade": "WebSocket"}),
    Handshake("a list of options", 101, {"Connection": "foo ,\tUPGRADE , bar"}),
    Handshake("two lines of options", 101, {"Connection": ["Upgrade", "keep-alive"]}),
    Handshake("a list of protocols", 101, {"Upgrade": "h2c, WebSocket"}),
    Handshake("two lines of protocols", 101, {"Upgrade": ["websocket", "h2c"]}),
    Handshake("absolute form", 101, target="http://localhost/ws"),
    Handshake("absolute form of TLS", 101, target="HTTPS://chat.example:443/ws?username=Alice"),
    Handshake("absolute form of another path", 404, target="http://localhost/other"),
    Handshake("absolute form of ws", 400, target="ws://localhost/ws"),
    Handshake("absolute form with a user", 400, target="http://user@localhost/ws"),
    Handshake("absolute form and two Hosts", 400, {"Host": ["a", "a"]}, target="http://a/ws"),
    Handshake("empty body announced", 101, {"Content-Length": "0"}),
    Handshake("query", 101, target="/ws?username=Alice&room=x"),
    Handshake("query of anything", 101, target="/ws?%00=%ff&&=&;#"),
    Handshake("HTTP/1.0", 426, version="1.0"),
    Handshake("no Upgrade", 426, {"Upgrade": None}),
    Handshake("other Upgrade", 426, {"Upgrade": "h2c"}),
    Handshake("no Connection", 426, {"Connection": None}),
    Handshake("version 8", 426, {"Sec-WebSocket-Version": "8"}),
    Handshake("version of a script", 426, {"Sec-WebSocket-Version": "<script>"}),
    Handshake("version of no ASCII", 426, {"Sec-WebSocket-Version": "\xff"}),
    Handshake("no version", 426, {"Sec-WebSocket-Version": None}),
    Handshake("two versions", 426, {"Sec-WebSocket-Version": ["13", "8"]}),
    Handshake("no Host", 400, {"Host": None}),
    Handshake("two Hosts", 400, {"Host": ["localhost", "evil"]}),
    Handshake("invalid Host", 400, {"Host": "localhost/"}),
    Handshake("no key", 400, {"Sec-WebSocket-Key": None}),
    Handshake("two keys", 400, {"Sec-WebSocket-Key": [KEY, KEY]}),
    Handshake("key of 15 bytes", 400, {"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAA"}),
    Handshake("key that is no base64", 400, {"Sec-WebSocket-Key": "!" * 24}),
    Handshake("key of no ASCII", 400, {"Sec-WebSocket-Key": "\xff" * 24}),
    Handshake("POST", 405, method="POST"),
    Handshake("HEAD", 405, method="HEAD"),
    Handshake("OPTIONS", 405, method="OPTIONS"),
    Handshake("CONNECT", 405, method="CONNECT", target="localhost:80"),
    Handshake("other path", 404, target="/websocket"),
    Handshake("path with a slash", 404, target="/ws/"),
    Handshake("encoded path", 404, target="/%77s"),
    Handshake("body announced", 400, {"Content-Length": "5"}),
    Handshake("body sent", 400, {"Content-Length": "5"}, body=b"hello"),
    Handshake("body in chunks", 400, {"Transfer-Encoding": "chunked"}, body=b"0\r\n\r\n"),
    Handshake("two lengths", 400, {"Content-Length": ["0", "5"]}),
    Handshake("CR in the path", 400, target="/ws?a=\rb"),
    Handshake("NUL in the path", 400, target="/ws?a=\0"),
    Handshake("no ASCII in the path", 400, target="/ws?a=\xff"),
    Handshake("CR in a header", 400, {"Origin": "a\rb: c"}),
    Handshake("NUL in a header", 400, {"Origin": "a\0b"}),
    Handshake("control in a header", 400, {"Origin": "a\x01b"}),
    Handshake("blank in a name", 400, {"Bad Name": "x"}),
    Handshake("folded header", 400, {"Origin": "a\r\n b"}),
]


def made(handshake: Handshake) -> bytes:
    headers: list[tuple[str, str]] = []
    for name, value in {**HANDSHAKE, **handshake.headers}.items():
        values = value if isinstance(value, list) else [value]
        headers += [(name, value) for value in values if value is not None]
    head = request(handshake.target, headers, method=handshake.method, version=handshake.version)
    return head + handshake.body


@pytest.mark.parametrize("handshake", HANDSHAKES, ids=lambda handshake: handshake.name)
def test_handshake_is_accepted_or_refused_in_one_answer(
    server: Server, handshake: Handshake
) -> None:
    """RFC 6455 §4.2.1 decides about each handshake; a refusal is complete, ends the connection and
    discloses nothing."""
    with wired(server.port) as wire:
        wire.write(made(handshake))
        response = wire.read_response(has_body=handshake.method != "HEAD")
        assert response.status == handshake.status, response
        if response.status == 101:
            assert response.headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
            assert "sec-websocket-protocol" not in response.headers
            assert is_secure(response)
            return
        assert wire.read_all() == b""
    options = response.headers["connection"].split(", ")
    assert options == ["close", *(["upgrade"] if response.status == 426 else [])]
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert is_secure(response)
    assert len(response.body) < 100
    if response.status == 405:
        assert response.headers["allow"] == "GET"
    if response.status == 426:
        assert response.headers["sec-websocket-version"] == "13"
        assert response.headers["upgrade"] == "websocket"


MARK = "Zq7mark"


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        (f"/{MARK}", {}),
        (f"/ws?{MARK}={MARK}", {"Sec-WebSocket-Version": "8"}),
        (f"/ws?{MARK}\x01", {}),
        ("/ws", {"Sec-WebSocket-Version": MARK}),
        ("/ws", {"Sec-WebSocket-Key": MARK}),
        ("/ws", {"Host": MARK, "Sec-WebSocket-Key": None}),
        ("/ws", {MARK: "x" * 20_000}),
        ("/ws", {f"{MARK} {MARK}": "x"}),
        ("/ws", {"Sec-WebSocket-Protocol": MARK}),
        ("/ws", {"Upgrade": MARK}),
        ("/ws", {"Connection": MARK}),
    ],
)
def test_answer_does_not_reflect_the_request(
    server: Server, target: str, headers: dict[str, str | None]
) -> None:
    """No path, query, name or value of a header is repeated in an answer."""
    with wired(server.port) as wire:
        wire.write(made(Handshake("", 0, {**headers}, target=target)))
        wire.socket.shutdown(socket.SHUT_WR)
        answer = wire.read_all()
    assert answer.startswith(b"HTTP/1.1 ")
    assert MARK.lower().encode() not in answer.lower()
    for name in (b"python", b"uvicorn", b"picows", b"traceback", b"server:"):
        assert name not in answer.lower()


@pytest.mark.parametrize(
    ("offered", "selected"),
    [
        ([], None),
        (["fastchat.v1"], "fastchat.v1"),
        (["fastchat.v2, fastchat.v1"], "fastchat.v1"),
        (["chat", "fastchat.v1"], "fastchat.v1"),
        (["fastchat.v1, fastchat.token.abc"], "fastchat.v1"),
        (["fastchat.token.abc"], None),
        (["fastchat.v10"], None),
        (["FASTCHAT.V1"], None),
        (["\xff"], None),
    ],
)
def test_offered_subprotocol_is_selected(
    server: Server, offered: list[str], selected: str | None
) -> None:
    """The server selects `fastchat.v1` or no subprotocol, and never a token."""
    with wired(server.port) as wire:
        headers: dict[str, str | list[str] | None] = {"Sec-WebSocket-Protocol": list(offered)}
        wire.write(made(Handshake("", 101, headers)))
        response = wire.read_response()
    assert response.status == 101
    assert response.headers.get("sec-websocket-protocol") == selected


def test_refused_handshake_logs_at_most_one_line(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """No refused handshake logs a traceback, or more than one line."""
    with caplog.at_level(logging.INFO):
        for handshake in HANDSHAKES:
            if handshake.status != 101:
                with wired(server.port) as wire:
                    wire.write(made(handshake))
                    wire.read_all()
    assert len(caplog.records) <= len(HANDSHAKES)
    assert all(len(record.getMessage()) < 300 for record in caplog.records)
    assert not any(record.exc_info for record in caplog.records)


#: What proxies make of a handshake by default, and the parts that are missing then.
DROPPED = [
    # nginx, with `proxy_pass` alone.
    (
        {"Upgrade": None, "Connection": "close", "Host": "127.0.0.1:8080"},
        "1.0",
        "HTTP/1.1, Upgrade: w",
    ),
    ({"Upgrade": None, "Connection": None}, "1.1", "Upgrade: websocket, Connection: Upgrade;"),
    # nginx, with one of the two headers, or without `proxy_http_version`.
    ({"Upgrade": None}, "1.1", "without Upgrade: websocket;"),
    ({"Connection": "close"}, "1.1", "without Connection: Upgrade;"),
    ({}, "1.0", "without HTTP/1.1;"),
]


@pytest.mark.parametrize(("headers", "version", "missing"), DROPPED)
def test_handshake_that_a_proxy_has_cut_is_logged(
    server: Server,
    caplog: pytest.LogCaptureFixture,
    headers: dict[str, str | list[str] | None],
    version: str,
    missing: str,
) -> None:
    """The operator reads what the proxy has to pass on, and the counter grows."""
    before = server.metrics.handshake_refusals["426"]
    with wired(server.port) as wire:
        wire.write(made(Handshake("", 426, headers, target="/ws?username=x", version=version)))
        response = wire.read_response()
        assert wire.read_all() == b""
    assert (response.status, response.headers["upgrade"]) == (426, "websocket")
    assert is_secure(response)
    assert is_dated(response)
    (record,) = caplog.records
    assert (record.levelname, record.name) == ("WARNING", "fastchat.http")
    message = record.getMessage()
    assert "from 127.0.0.1 " in message
    assert missing in message
    assert "proxy_set_header Upgrade $http_upgrade" in message
    assert server.metrics.handshake_refusals["426"] == before + 1


def test_only_handshakes_for_the_endpoint_are_logged(
    wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    """A person who opens /ws in a browser is no fault of a proxy, nor is a key elsewhere."""
    assert ask(wire, "/ws").status == 426
    assert ask(wire, "/ws", ("Upgrade", "websocket")).status == 426
    assert ask(wire, "/", ("Sec-WebSocket-Key", KEY)).status == 200
    assert not caplog.records


def test_refused_handshakes_are_counted(server: Server) -> None:
    """Each refusal of a handshake counts by its status."""
    before = server.metrics.handshake_refusals.copy()
    for handshake in HANDSHAKES:
        if handshake.status in (403, 404, 405, 426) and handshake.method == "GET":
            with wired(server.port) as wire:
                wire.write(made(handshake))
                wire.read_all()
    with wired(server.port) as wire:
        wire.write(request("/ws", [*HANDSHAKE.items(), ("Origin", "null")]))
        wire.read_all()
    grown = server.metrics.handshake_refusals - before
    expected = sum(handshake.status == 426 for handshake in HANDSHAKES)
    assert grown["426"] == expected
    assert grown["403"] == 1
    assert grown["404"] > 2


def test_clients_that_share_an_address_are_noted(caplog: pytest.LogCaptureFixture) -> None:
    """A page of https on a plain connection, or many connections of this machine, mean a proxy."""
    page = {"Host": "chat.example", "Origin": "https://chat.example"}
    for headers, count, found in [(page, 1, "a proxy at 127.0.0.1"), ({}, 16, "all connections")]:
        caplog.clear()
        with serving() as server, contextlib.ExitStack() as stack:
            for _ in range(count + 1):
                stack.enter_context(connected(server.port, headers=headers))
            (message,) = [line for line in caplog.messages if "X-Forwarded-For" in line]
        assert found in message
        assert "--trusted-proxy" in message


def test_client_over_the_limit_of_its_address_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The log names the limit, and the setting that counts the clients of a proxy apart."""
    caplog.set_level(logging.INFO)
    with (
        serving(max_address_connections=1) as server,
        connected(server.port),
        connected(server.port) as second,
    ):
        assert second.receive_type("closing")["code"] == 1013
    (message,) = [line for line in caplog.messages if "turned" in line]
    assert "--max-address-connections" in message
    assert "--trusted-proxy" in message


SECRET = "Zq7secret"


@pytest.mark.parametrize("format", ["text", "json"])
def test_secrets_of_an_address_are_not_logged(format: str) -> None:
    """Queries and secret headers are not logged at any level, whatever happens to the request."""
    asked = [
        request(f"/nope?token={SECRET}"),
        request(f"/ws?token={SECRET}"),
        request(f"/nope?token={SECRET}", []),
        request(f"/nope?token={SECRET}\x01"),
        request("/nope", [HOST, ("Authorization", f"Bearer {SECRET}"), ("Bad Name", "x")]),
        request("/files", [HOST, ("X-Upload-Ticket", SECRET)], method="POST"),
        request(f"/nope?{SECRET}{'x' * MAX_HEAD_BYTES}"),
        request(f"/ws?username={SECRET}%00&token={SECRET}", HANDSHAKE.items()),
        request(f"/ws?token={SECRET}", [*HANDSHAKE.items(), ("Origin", "https://evil.example")]),
        request(
            "/ws", [*HANDSHAKE.items(), ("Sec-WebSocket-Protocol", f"fastchat.token.{SECRET}")]
        ),
        request(f"/other?{SECRET}", HANDSHAKE.items()),
        request(f"/ws?{SECRET}", [(name, "x") for name in HANDSHAKE]),
    ]
    arguments = ("--history", "memory", "--log-level", "debug", "--log-format", format)
    with running_server(*arguments) as server:
        for head in asked:
            with wired(server.port) as wire:
                wire.write(head)
                wire.socket.shutdown(socket.SHUT_WR)
                wire.read_all()
        assert server.stop() == 0
    assert "evil.example" in server.errors
    assert SECRET not in server.errors


def test_flood_of_bad_handshakes_is_summarised_in_the_log() -> None:
    """10,000 bad handshakes log some lines and a count, and other connections continue."""
    bad = [
        request("/ws", [*HANDSHAKE.items(), ("Origin", "https://evil.example/" + "x" * 5000)]),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n" * 100,
        request("/ws", [(name, "\xff" * 100) for name in HANDSHAKE]),
        request("/nope", [HOST, ("Bad Name", "y" * 1000)]),
    ]
    with running_server("--history", "memory", "--limits", "off") as server:
        for number in range(10_000):
            with wired(server.port) as wire:
                wire.write(bad[number % len(bad)])
                wire.read_until(b"\r\n")
        with connected(server.port, "/ws?username=Alice") as client:
            client.receive_type("joined")
            client.send_close()
            client.receive_close()
        assert server.stop() == 0
    assert "more like this in 10 s)" in server.errors
    assert len(server.errors) < 100_000


def test_draining_server_sends_a_time_to_reconnect() -> None:
    """A client that connects while the server stops gets the reason and time as connected clients
    do, and joins no room."""
    with serving() as server, wired(server.port) as wire:
        assert ask(wire, "/nope").status == 404
        server.call(server.sessions.drain, 2.0)
        with connected(server.port, "/ws?username=Alice") as client:
            closing = client.receive()
            assert (closing["type"], closing["code"]) == ("closing", 1012)
            assert 250 <= closing["reconnect_after_ms"] <= 2250
            assert client.receive_close() == 1012


def test_stopping_server_answers_accepted_requests() -> None:
    """A stopping server answers requests under way, and soon closes idle connections."""
    with serving() as server, wired(server.port) as late, wired(server.port) as silent:
        wait_until(lambda: len(server.call(server.connections)) == 2)
        server.call(server.shut_down)
        late.write(request("/ws", HANDSHAKE.items()))
        assert late.read_response(has_body=False).status == 101
        assert silent.read_all() == b""


def test_independent_client_library_is_served(server: Server) -> None:
    """An independent implementation of WebSockets reports no error."""
    from websockets.sync.client import connect

    with connect(
        f"ws://127.0.0.1:{server.port}/ws?username=Alice&room=library",
        subprotocols=["fastchat.v1"],  # type: ignore[list-item]
    ) as client:
        assert client.subprotocol == "fastchat.v1"
        assert '"joined"' in str(client.recv(timeout=5 * TIMEOUT_UNIT_S))
        client.send('{"text":"Hello"}')
        assert '"Hello"' in str(client.recv(timeout=5 * TIMEOUT_UNIT_S))
        client.ping().wait(5 * TIMEOUT_UNIT_S)


def test_upgraded_connection_releases_http_objects(server: Server) -> None:
    """An idle WebSocket holds neither uvicorn's protocol nor its parser."""
    wait_until(lambda: not server.http.connections)
    clients = [Client(server.port) for _ in range(5)]
    assert not server.http.connections
    for client in clients:
        client.close()
