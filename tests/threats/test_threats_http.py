"""Hostile HTTP requests: which ones a server with default settings refuses, and that it discloses
nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastchat.web.headers import SECURITY_HEADERS
from support.raw_websocket import HANDSHAKE, connected, request, wired
from support.server import Server, running_server

HOST = ("Host", "localhost")
ORIGINS = [
    "null",
    "http://evil.example",
    "http://localhost.evil.example",
    "http://localhost@evil.example",
    "http://evil.example/localhost",
    "http://evil.example#localhost",
    "http://evil.example?localhost",
    "http://evil.example\\localhost",
    "http://localhost:81",
    "http://localhost.",
    "http://xlocalhost",
    "http://127.0.0.1",
    "http://localhost,http://localhost",
    "file://",
    "ws://localhost",
    "data:text/html,x",
    "chrome-extension://localhost",
    "http://loc\xe4lhost",
    "http://localhost/../",
    "//localhost",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    arguments = ("--data", str(tmp_path_factory.mktemp("data")), "--limits", "off")
    with running_server(*arguments) as server:
        yield server
        with connected(server.port, "/ws?username=Alice") as alice:
            assert alice.receive()["type"] == "joined"
        assert server.stop() == 0
    assert "Traceback" not in server.errors


def answer(server: Server, data: bytes) -> bytes:
    """Send these bytes, end the sending side, and return all that the server sends."""
    with wired(server.port) as wire:
        wire.write(data)
        wire.socket.shutdown(socket.SHUT_WR)
        return wire.read_all()


@pytest.mark.parametrize("origin", ORIGINS)
def test_page_of_another_site_is_refused(server: Server, origin: str) -> None:
    """T1. A request with a foreign `Origin` gets 403 before the upgrade; a request without
    `Origin`, as programs send it, is accepted."""
    headers = list(HANDSHAKE.items())
    refused = answer(server, request("/ws", [*headers, ("Origin", origin)]))
    assert refused.startswith(b"HTTP/1.1 403 ")
    twice = [("Origin", "http://localhost"), ("Origin", origin)]
    assert answer(server, request("/ws", [*headers, *twice])).startswith(b"HTTP/1.1 403 ")
    assert b"HTTP/1.1 101 " in answer(server, request("/ws", headers))
    own = [*headers, ("Origin", "http://LOCALHOST")]
    assert b"HTTP/1.1 101 " in answer(server, request("/ws", own))


BAD = {
    "CR for CRLF": b"GET /ws HTTP/1.1\rHost: localhost\r\r",
    "LF for CRLF, with a smuggled head": b"GET / HTTP/1.1\nHost: localhost\n\nGET /ws",
    "no target": b"GET HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/9.9": b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
    "lower case": b"get / http/1.1\r\nhost: localhost\r\n\r\n",
    "colon missing": b"GET / HTTP/1.1\r\nHost localhost\r\n\r\n",
    "empty name": b"GET / HTTP/1.1\r\nHost: localhost\r\n: x\r\n\r\n",
    "NUL in a name": b"GET / HTTP/1.1\r\nHost: localhost\r\nX\0: y\r\n\r\n",
    "NUL in a value": b"GET / HTTP/1.1\r\nHost: localhost\r\nX: y\0\r\n\r\n",
    "CR in a value": b"GET / HTTP/1.1\r\nHost: localhost\r\nX: y\rSet-Cookie: a\r\n\r\n",
    "continued first line": b"GET / HTTP/1.1\r\n Host: localhost\r\n\r\n",
    "chunk of a negative size": b"POST / HTTP/1.1\r\nHost: localhost\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n0\r\n\r\n",
    "chunk of an endless size": b"POST / HTTP/1.1\r\nHost: localhost\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\n",
    "two kinds of length": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a proxy's own": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "TRACE": b"TRACE / HTTP/1.1\r\nHost: localhost\r\nCookie: secret=1\r\n\r\n",
    "unknown method": b"BREW / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) + b"\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.0\r\n",
    "Redis": b"*1\r\n$8\r\nFLUSHALL\r\n",
    "bytes": bytes(range(256)) * 20 + b"\r\n\r\n",
    "SMTP": b"EHLO evil.example\r\nMAIL FROM:<a@b>\r\n",
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_malformed_request_gets_at_most_one_refusal(server: Server, data: bytes) -> None:
    """T7, T8, T9. The refusal repeats no byte of the request, nothing behind the request is read,
    and no request is an upgrade."""
    said = answer(server, data)
    assert said.count(b"HTTP/1.1 ") <= 1
    assert not said or said.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 405 ", b"HTTP/1.1 404 "))
    for word in (b"evil", b"secret", b"FLUSHALL", b"OpenSSH", b"set-cookie", b"uvicorn", b"Python"):
        assert word.lower() not in said.lower()
    if said:
        assert all(f"{name}: {value}".encode() in said for name, value in SECURITY_HEADERS)


TARGETS = [
    "http://localhost/../../etc/passwd",
    "file:///etc/passwd",
    "/static/../../../src/fastchat/errors.py",
    "/static//etc/passwd",
    "/static/\\..\\..\\etc\\passwd",
    "/static/..;/errors.py",
    "/static/.%00./errors.py",
    "/static/%c0%ae%c0%ae/errors.py",
    "/static/index.html%00.js",
    "/static/index.html/../../errors.py",
    "/proc/self/environ",
    "/.git/config",
    "/.env",
    "/fastchat-data/history.db",
    "/static/__init__.py",
    "/static/",
    "*",
    "/" + "../" * 1000 + "etc/passwd",
    "/%",
    "/%zz",
    "/static/app.js?/../../x#/etc/passwd",
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target[:40])
def test_only_files_of_the_page_are_served(server: Server, target: str) -> None:
    """T27, T29. Every hostile target gets a file of the page or a fixed sentence."""
    said = answer(server, request(target))
    status = said[9:12]
    assert status in (b"400", b"404", b"200")
    body = said.partition(b"\r\n\r\n")[2]
    if status == b"200":
        path = target.partition("?")[0].removeprefix("http://localhost")
        assert answer(server, request(path)).endswith(body)
        assert b"root:" not in body
    else:
        assert len(body) < 100
        assert target.encode("latin-1") not in body or target == "/"


@pytest.mark.parametrize(
    "path",
    [*("/metrics", "/live", "/ready", "/status", "/admin", "/debug", "/_echo", "/health")],
)
def test_public_port_discloses_nothing_for_operators(server: Server, path: str) -> None:
    """T30. Metrics, probes and status are not on the public port, and no admin port is open by
    default."""
    assert answer(server, request(path)).startswith(b"HTTP/1.1 404 ")
    assert answer(server, request(path, HANDSHAKE.items())).startswith(b"HTTP/1.1 404 ")
    assert listening_addresses(server.pid) == {f"0100007F:{server.port:04X}"}


def test_admin_port_is_on_loopback(tmp_path: Path) -> None:
    """T30. The admin port listens on loopback, even if the server listens on all addresses."""
    with (
        FreePort() as port,
        running_server(
            *("--data", str(tmp_path), "--host", "0.0.0.0", "--admin-port", str(port()))
        ) as server,
    ):
        admin = {
            address
            for address in listening_addresses(server.pid)
            if not address.startswith("00000000")
        }
        assert {address.partition(":")[0] for address in admin} == {"0100007F"}


class FreePort:
    """Reserves a free port, and releases it when it is called."""

    def __enter__(self) -> FreePort:
        self._socket = socket.create_server(("127.0.0.1", 0))
        return self

    def __call__(self) -> int:
        port: int = self._socket.getsockname()[1]
        self._socket.close()
        return port

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def listening_addresses(pid: int) -> set[str]:
    """Return where a process accepts TCP connections, as /proc/net/tcp writes it."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(str(link.readlink()).removeprefix("socket:[").rstrip("]"))
        except OSError:
            continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text("ascii").splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and inode in inodes:
                found.add(local)
    return found
