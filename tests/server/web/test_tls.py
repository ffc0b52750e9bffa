"""TLS and SIGHUP from outside: the certificates that clients see, before and after a renewal."""

from __future__ import annotations

import contextlib
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.x509 import load_pem_x509_certificate

from fastchat.auth.issuing import create_secret, make_token
from fastchat.settings import Settings
from fastchat.web.tls import HANDSHAKE_TIMEOUT_S, MAX_HANDSHAKES, Tls
from support.raw_websocket import Client, Wire, connected, ends_within, request, wired
from support.server import START_TIMEOUT_S, TIMEOUT_UNIT_S, Server, running_server, wait_until

AUTHORITY = trustme.CA()
HTTP_GET = request("/")


class Files:
    """The files of a certificate and its key, and the flags that name them."""

    def __init__(self, directory: Path) -> None:
        self.certificate = directory / "cert.pem"
        self.key = directory / "key.pem"
        self.flags = ("--ssl-certfile", str(self.certificate), "--ssl-keyfile", str(self.key))
        self.renew()

    def renew(self, **validity: datetime) -> int:
        """Write a new certificate and key, and return its serial number."""
        issued = AUTHORITY.issue_cert("localhost", **validity)
        chain = b"".join(part.bytes() for part in issued.cert_chain_pems)
        self.certificate.write_bytes(chain)
        issued.private_key_pem.write_to_path(str(self.key))
        return load_pem_x509_certificate(chain).serial_number


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def server(files: Files) -> Iterator[Server]:
    with running_server("--history", "memory", *files.flags) as server:
        yield server


def trusting() -> ssl.SSLContext:
    """Return the context of a client that trusts only our authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    AUTHORITY.configure_trust(context)
    return context


def of_version(version: ssl.TLSVersion) -> ssl.SSLContext:
    """Return such a context for one version of TLS, however old."""
    context = trusting()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = version
    return context


def serial(port: int) -> int:
    """Return the serial number of the certificate that a new connection gets."""
    with wired(port, tls=trusting()) as wire:
        assert isinstance(wire.socket, ssl.SSLSocket)
        shown = wire.socket.getpeercert()
        assert shown is not None
        return int(str(shown["serialNumber"]), 16)


def children(server: Server) -> list[int]:
    listed = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text()
    return [int(pid) for pid in listed.split()]


@contextlib.contextmanager
def connections(port: int, count: int) -> Iterator[list[Wire]]:
    """Open TCP connections that send nothing."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(wired(port)) for _ in range(count)]


# Serving


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_page_and_chat_are_encrypted(version: ssl.TLSVersion, server: Server) -> None:
    """The page and the chat work over TLS 1.2 and 1.3, and ALPN selects HTTP/1.1."""
    assert server.url.startswith("https://")
    tls = of_version(version)
    tls.set_alpn_protocols(["h2", "http/1.1"])
    with wired(server.port, tls=tls) as wire:
        assert isinstance(wire.socket, ssl.SSLSocket)
        assert wire.socket.version() == version.name.replace("_", ".")
        assert wire.socket.selected_alpn_protocol() == "http/1.1"
        assert wire.socket.compression() is None
        wire.write(HTTP_GET)
        answer = wire.read_response()
        assert answer.status == 200
        assert b"<!doctype html>" in answer.body[:100].lower()
        # HSTS would apply to all ports of the host, which are not ours to decide about.
        assert "strict-transport-security" not in answer.headers
    with (
        connected(server.port, "/ws?username=Alice", tls=tls) as alice,
        connected(server.port, "/ws?username=Bob", tls=tls) as bob,
    ):
        text = "ü" * 4000  # Its frames have to be put together again.
        alice.send({"text": text})
        assert bob.receive_type("message")["text"] == text
    assert server.stop() == 0
    assert "Traceback" not in server.errors


def test_only_https_pages_of_the_host_can_connect(server: Server) -> None:
    """`Origin` is compared as https, so a page over http has another origin."""
    host = f"localhost:{server.port}"
    headers = {"Host": host, "Origin": f"https://{host}"}
    with connected(server.port, tls=trusting(), headers=headers) as client:
        assert client.join(username="Alice")["online"] == 1
    with wired(server.port, tls=trusting()) as wire:
        head = request("/ws", {**_UPGRADE, "Host": host, "Origin": f"http://{host}"}.items())
        wire.write(head)
        assert wire.read_response().status == 403


_UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def test_invalid_tls_is_closed_and_hardly_logged(files: Files) -> None:
    """Old TLS, plain HTTP and noise are closed at once, with a line at debug level and no
    traceback."""
    flags = ("--history", "memory", "--log-level", "debug", *files.flags)
    with running_server(*flags) as server:
        for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                Wire(server.port, tls=of_version(version))
        for noise in (HTTP_GET, b"SSH-2.0-OpenSSH_9.2\r\n", bytes(range(256)) * 100, b"\x16\x03"):
            with wired(server.port) as wire:
                with contextlib.suppress(ConnectionError):
                    wire.write(noise)
                if len(noise) == 2:  # The start of a handshake, and then the end.
                    wire.close()
                else:
                    assert b"HTTP" not in wire.read_all()
        with connected(server.port, tls=trusting()) as client:
            client.join(username="Alice")
        assert server.stop() == 0
    lines = server.errors.splitlines()
    assert sum("DEBUG   fastchat.tls: a TLS handshake has failed" in line for line in lines) >= 5
    assert "unsupported protocol" in server.errors
    assert "http request" in server.errors
    assert not [line for line in lines if " INFO " not in line and " DEBUG " not in line]


# Unfinished handshakes


def test_unfinished_tls_handshake_ends_in_time(server: Server) -> None:
    """A client that sends nothing, or stops in the middle of the handshake, is closed after some
    seconds."""
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        trusting().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    hello = outgoing.read()
    with connections(server.port, 3) as (silent, half, dripping):
        began = time.monotonic()
        half.write(hello[: len(hello) // 2])
        while time.monotonic() < began + HANDSHAKE_TIMEOUT_S - 1:
            dripping.write(hello[:1])
            hello = hello[1:]
            time.sleep(0.5)
        assert not ends_within(silent, 0.01)
        for wire in (silent, half, dripping):
            assert ends_within(wire, 1 + 2 * TIMEOUT_UNIT_S)


def test_oldest_of_too_many_handshakes_is_closed(server: Server) -> None:
    """Unfinished handshakes do not keep new clients out, and end no established connection."""
    with (
        connected(server.port, "/ws?username=Alice", tls=trusting()) as alice,
        connections(server.port, MAX_HANDSHAKES + 10) as wires,
    ):
        for wire in wires[:10]:
            assert ends_within(wire, 2 * TIMEOUT_UNIT_S)
        assert not ends_within(wires[10], 0.1)
        with connected(server.port, "/ws?username=Bob", tls=trusting()) as bob:
            bob.send({"text": "I am in"})
            assert alice.receive_type("message")["text"] == "I am in"
        assert ends_within(wires[10], 2 * TIMEOUT_UNIT_S)  # This handshake was closed for Bob's.
        assert not ends_within(wires[-1], 0.1)


def test_handshakes_are_closed_when_descriptors_run_out(files: Files) -> None:
    """If few descriptors are left, the oldest handshakes are closed, even below their own limit."""
    flags = ("--history", "memory", *files.flags)
    with running_server(*flags, open_files=64) as server:
        with connections(server.port, 100) as wires:
            assert ends_within(wires[0], 2 * TIMEOUT_UNIT_S)
            with connected(server.port, "/ws?username=Alice", tls=trusting()) as alice:
                assert alice.receive_type("joined")["online"] == 1
        assert server.stop() == 0
    assert "Traceback" not in server.errors


def test_server_stops_in_time(server: Server) -> None:
    """Clients get `closing`; a client that does not answer, and an unfinished handshake, do not
    delay the end."""
    with (
        connected(server.port, "/ws?username=Alice", tls=trusting()) as alice,
        connected(server.port, "/ws?username=Deaf", tls=trusting()),
        wired(server.port) as half,
    ):
        alice.receive_type("joined")
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        assert alice.receive_type("closing")["code"] == 1012
        assert alice.receive_end() == 1012
        assert ends_within(half, TIMEOUT_UNIT_S)
        assert server.wait() == 0
        assert time.monotonic() < began + 5 * TIMEOUT_UNIT_S
    assert "Traceback" not in server.errors


# Fan-out


def test_all_clients_get_the_same_messages_in_the_same_order(files: Files) -> None:
    """A hundred encrypted clients, of which four talk at once, get the same messages in the same
    order."""
    count, senders, tls = 100, 4, trusting()
    expected = 100
    with running_server("--history", "memory", "--limits", "off", *files.flags) as server:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(connected(server.port, tls=tls)) for _ in range(count)]
            for number, client in enumerate(clients):
                client.join(username=f"user-{number}")

            def talk(client: Client) -> None:
                for number in range(expected // senders):
                    client.send({"text": f"{number} ".ljust(2000, "x")})

            threads = [threading.Thread(target=talk, args=(each,)) for each in clients[:senders]]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            seen = {tuple(_message(client) for _ in range(expected)) for client in clients}
        assert server.stop() == 0
    (order,) = seen
    assert [offset for offset, _ in order] == list(range(1, expected + 1))


def _message(client: Client) -> tuple[int, str]:
    message = client.receive_type("message")
    return message["offset"], message["text"]


def test_slow_reader_is_evicted(files: Files) -> None:
    """A client that reads nothing costs a bounded amount of memory, and the others are not
    disturbed."""
    kept = ("--history", "memory", "--history-max-messages", "10", "--limits", "off")
    flags = (*kept, "--max-lag-bytes", "65536", *files.flags)
    with running_server(*flags) as server:
        with (
            connected(server.port, "/ws?username=Alice", tls=trusting()) as alice,
            connected(
                server.port, "/ws?username=Slow", tls=trusting(), receive_buffer=4096
            ) as slow,
        ):
            slow.receive_type("joined")
            before = server.resident_bytes()
            for _ in range(1000):
                alice.send({"text": "x" * 4000})
                alice.receive_type("message")
            assert alice.receive_type("leave")["username"] == "Slow"
            assert server.resident_bytes() < before + 3_000_000  # 4 MB were published.
            assert len(slow.read_all()) < 1_000_000  # Then the connection ends.
        assert server.stop() == 0
    assert "evicted 'Slow'" in server.errors


def test_client_that_ends_without_close_notify_has_left(server: Server) -> None:
    """A FIN or an RST in place of `close_notify` ends the connection, and is not logged."""
    with connected(server.port, "/ws?username=Alice", tls=trusting()) as alice:
        for name in ("Fin", "Reset"):
            client = Client(server.port, f"/ws?username={name}", tls=trusting())
            assert alice.receive_type("join")["username"] == name
            client.reset() if name == "Reset" else client.close()
        # A user who is lost like this can return soon, so presence waits before it announces a
        # leave.
        assert {alice.receive_type("leave")["username"] for _ in range(2)} == {"Fin", "Reset"}
    assert server.stop() == 0
    assert "WARNING" not in server.errors


# The files


def refusal(*arguments: str) -> str:
    """Return the error of a server that does not start with these settings."""
    ended = subprocess.run(
        [sys.executable, "-m", "fastchat", "serve", "--port", "0", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
    )
    assert ended.returncode == 2, ended
    (sentence,) = ended.stderr.splitlines()
    return sentence


def test_invalid_files_are_refused_with_status_2(files: Files, tmp_path: Path) -> None:
    """Files that are missing, unreadable, not PEM, not a pair, or have a password stop the start
    with a sentence."""
    other, junk = tmp_path / "other.pem", tmp_path / "junk.pem"
    AUTHORITY.issue_cert("localhost").private_key_pem.write_to_path(str(other))
    junk.write_text("-----BEGIN PRIVATE KEY-----\nbm9uZQ==\n-----END PRIVATE KEY-----\n")
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        serialization.load_pem_private_key(files.key.read_bytes(), None).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    certificate = str(files.certificate)
    for given, key, words in (
        (str(tmp_path / "none.pem"), str(other), "none.pem cannot be read: No such file"),
        (certificate, str(tmp_path / "none.pem"), "none.pem cannot be read: No such file"),
        (certificate, str(tmp_path), "cannot be read: Is a directory"),
        (str(junk), str(other), "junk.pem contains no PEM certificate"),
        (certificate, str(other), "other.pem is not the key of the certificate"),
        (certificate, str(junk), "junk.pem has no private key in PEM"),
        (certificate, str(locked), "or one with a password"),
        (certificate, "", "has no private key; name its file with --ssl-keyfile"),
    ):
        with pytest.raises(Exception, match=words):
            Tls(given, key)
    with pytest.raises(Exception, match="--ssl-keyfile has no effect without --ssl-certfile"):
        Settings(ssl_keyfile=str(other))
    flags = ("--ssl-certfile", certificate, "--ssl-keyfile", str(other))
    assert "is not the key of the certificate" in refusal("--history", "memory", *flags)
    data = ("--workers", "2", "--data", str(tmp_path / "data"))
    assert "is not the key of the certificate" in refusal(*data, *flags)


def test_certificate_and_key_can_be_one_file(tmp_path: Path) -> None:
    """One file can hold the certificate and the key, and the key can be RSA."""
    both = tmp_path / "both.pem"
    issued = AUTHORITY.issue_cert("localhost", key_type=trustme.KeyType.RSA)
    issued.private_key_and_cert_chain_pem.write_to_path(str(both))
    with running_server("--history", "memory", "--ssl-certfile", str(both)) as server:
        assert serial(server.port)


def test_expired_certificate_is_served_with_a_warning(files: Files) -> None:
    """An expired certificate is served, because the clock can be wrong and clients check it
    themselves."""
    files.renew(not_after=datetime.now(UTC) - timedelta(days=1))
    with running_server("--history", "memory", *files.flags) as server:
        with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
            Wire(server.port, tls=trusting())
        assert server.stop() == 0
    assert "has expired on" in server.errors


# SIGHUP


@pytest.mark.parametrize("workers", [1, 2])
def test_new_certificate_loses_no_connection(workers: int, files: Files, tmp_path: Path) -> None:
    """After SIGHUP new handshakes get the new certificate, and connected clients stay."""
    first = files.renew()
    flags = ("--data", str(tmp_path / "data"), "--workers", str(workers), *files.flags)
    with running_server(*flags) as server:
        with connected(server.port, "/ws?username=Alice", tls=trusting()) as alice:
            alice.receive_type("joined")
            assert serial(server.port) == first
            second = files.renew()
            assert serial(server.port) == first  # No reload was requested yet.
            server.signal(signal.SIGHUP)
            wait_until(lambda: {serial(server.port) for _ in range(8)} == {second})
            AUTHORITY.issue_cert("localhost").private_key_pem.write_to_path(str(files.key))
            server.signal(signal.SIGHUP)  # This key does not belong to the certificate.
            with connected(server.port, "/ws?username=Bob", tls=trusting()) as bob:
                bob.receive_type("joined")
                for number in range(20):
                    alice.send({"text": str(number)})
                    assert alice.receive_type("message")["text"] == str(number)
                    assert bob.receive_type("message")["text"] == str(number)
                    time.sleep(0.02)
            assert {serial(server.port) for _ in range(8)} == {second}
            third = files.renew()
            server.signal(signal.SIGHUP)
            wait_until(lambda: {serial(server.port) for _ in range(8)} == {third})
            alice.send({"text": "still here"})
            assert alice.receive_type("message")["text"] == "still here"
        assert server.stop() == 0
    lines = server.errors.splitlines()
    refused = [line for line in lines if "the old certificate stays in use" in line]
    assert len(refused) == workers
    assert "is not the key of the certificate" in refused[0]
    assert sum("new connections get the certificate" in line for line in lines) == 2 * workers


@pytest.mark.parametrize("workers", [1, 2])
def test_new_token_key_replaces_the_old_one(workers: int, tmp_path: Path) -> None:
    """After SIGHUP tokens of the new key are accepted, and tokens of the old one are refused."""
    key = tmp_path / "jwt.key"
    flags = ("--auth", "jwt", "--jwt-key-file", str(key))
    data = ("--data", str(tmp_path / "data"), "--workers", str(workers))

    def token() -> str:
        return make_token(key, subject="u1", name="Alice", duration_s=600)

    def enters(token: str) -> bool:
        with connected(server.port) as client:
            client.send({"type": "join", "token": token})
            return bool(client.receive()["type"] == "joined")

    create_secret(key)
    old = token()
    with running_server(*data, *flags) as server:
        assert enters(old)
        key.unlink()
        create_secret(key)
        new = token()
        assert not enters(new)
        server.signal(signal.SIGHUP)
        wait_until(lambda: all(enters(new) for _ in range(8)))
        assert not enters(old)


@pytest.mark.parametrize("workers", [1, 2])
def test_sighup_without_files_is_logged(workers: int, tmp_path: Path) -> None:
    """Without files to read, SIGHUP logs a line, and the server continues."""
    with running_server("--data", str(tmp_path), "--workers", str(workers)) as server:
        with connected(server.port, "/ws?username=Alice") as alice:
            alice.receive_type("joined")
            server.signal(signal.SIGHUP)
            alice.send({"text": "still here"})
            assert alice.receive_type("message")["text"] == "still here"
        assert server.stop() == 0
    assert (
        server.errors.count("there is no certificate, no key and no file to read again") == workers
    )


def test_processes_survive_sighup_at_any_time(files: Files, tmp_path: Path) -> None:
    """SIGHUP ends neither the relay, which has no files to read, nor a worker that has just
    started."""
    flags = ("--data", str(tmp_path / "data"), "--workers", "2", *files.flags)
    with running_server(*flags) as server:
        relay, *workers = before = children(server)
        os.kill(workers[0], signal.SIGKILL)
        wait_until(lambda: len(children(server)) == 3 and children(server) != before)
        after = children(server)
        for _ in range(30):  # The new process starts meanwhile.
            for pid in after:
                os.kill(pid, signal.SIGHUP)
            time.sleep(0.05)
        wait_until(lambda: serial(server.port) != 0)
        assert children(server) == after
        assert relay in after
        with connected(server.port, "/ws?username=Alice", tls=trusting()) as alice:
            assert alice.receive_type("joined")["online"] == 1
        assert server.stop() == 0
    assert "was killed by SIGHUP" not in server.errors


@pytest.mark.parametrize("workers", [1, 2])
def test_closed_terminal_stops_the_server(workers: int, files: Files, tmp_path: Path) -> None:
    """While the terminal is open SIGHUP reads the files; once it is closed SIGHUP ends the server,
    which nobody could stop otherwise."""
    ours, theirs = os.openpty()
    try:
        flags = ("--data", str(tmp_path / "data"), "--workers", str(workers), *files.flags)
        with running_server(*flags, stdin=theirs) as server:
            os.close(theirs)
            second = files.renew()
            server.signal(signal.SIGHUP)
            wait_until(lambda: {serial(server.port) for _ in range(8)} == {second})
            with connected(server.port, "/ws?username=Alice", tls=trusting()) as alice:
                os.close(ours)
                server.signal(signal.SIGHUP)
                assert alice.receive_type("closing")["code"] == 1012
                alice.receive_end()
            assert server.wait() == 0
    finally:
        for descriptor in (ours, theirs):
            with contextlib.suppress(OSError):
                os.close(descriptor)
    assert "the terminal has closed" in server.errors
