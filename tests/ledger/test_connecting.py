"""Tests of connections to PostgreSQL: hosts, TLS, poolers, and what the log warns of."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
import trustme

from contracts.history import draft
from fastchat.errors import SettingError
from fastchat.ledger import LedgerError, connecting
from fastchat.ledger.appending import Limits
from fastchat.ledger.connecting import (
    OLDEST_SERVER,
    bounded,
    check_server,
    check_version,
    connect,
    ledger_error,
)
from fastchat.ledger.schema import prepare_ledger
from fastchat.ledger.url import EngineUrl, parse_url
from support.ledger import Machine, in_loop
from support.pgbouncer import find_pgbouncer, pgbouncer
from support.postgresql import PostgreSQL, postgresql
from support.server import wait_until
from support.wire import Wire

LIMITS = Limits(stored=100, slack=10)


def local(port: int, parameters: str = "") -> EngineUrl:
    return parse_url(f"postgresql://postgres@127.0.0.1:{port}/postgres?{parameters}")


def test_error_of_the_server_is_one_line() -> None:
    """Details and hints of PostgreSQL are left out of what an operator reads."""
    error = asyncpg.CannotConnectNowError("the database system is starting up")
    error.detail = "Consistent recovery state has not been yet reached."
    assert "\n" in str(error)
    assert str(ledger_error(error)) == "PostgreSQL says: the database system is starting up"


class TestConnection:
    @in_loop
    async def test_search_path_is_the_schema(self, url: EngineUrl) -> None:
        """The tables need no name of a schema."""
        db = await connect(url)
        assert await db.fetchval("SELECT count(*) FROM identity") == 1
        await db.close()

    @in_loop
    async def test_kernel_ends_a_dead_connection(self, url: EngineUrl) -> None:
        """An answer can be waited for without limit, but not if the other end is gone."""
        db = await connect(url)
        peer = db._transport.get_extra_info("socket")
        assert peer.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 2
        assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 8000
        await db.close()

    @pytest.mark.parametrize(
        ("default", "present"),
        [("off", "on"), ("local", "on"), ("on", "on"), ("remote_apply", "remote_apply")],
    )
    @in_loop
    async def test_commits_wait_for_the_disk(
        self, server: PostgreSQL, default: str, present: str
    ) -> None:
        """A role's default that loses commits is overridden; one that waits longer is kept."""
        server.query(f"ALTER ROLE postgres SET synchronous_commit = '{default}'")
        try:
            db = await connect(local(server.port))
            assert await db.fetchval("SELECT current_setting('synchronous_commit')") == present
            await db.close()
        finally:
            server.query("ALTER ROLE postgres RESET synchronous_commit")

    @in_loop
    async def test_answer_that_does_not_come(
        self, server: PostgreSQL, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A server that accepts a connection and says nothing is given up."""
        monkeypatch.setattr(connecting, "CONNECT_S", 0.2)
        async with Wire(server.port) as wire:
            wire.loses_answers = True
            with pytest.raises(LedgerError, match="does not answer"):
                await connect(local(wire.port))

    @in_loop
    async def test_bounded_block_asks_for_no_cancellation(self, server: PostgreSQL) -> None:
        """After the time, the socket is closed. What runs in the server goes on."""
        db = await connect(local(server.port))
        process = db.get_server_pid()
        with pytest.raises(connecting.FAILED), bounded(db, 0.1):
            await db.execute("SELECT pg_sleep(1)")
        await asyncio.sleep(0.2)
        sleeping = server.query("SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
        assert sleeping == str(process)

    @in_loop
    async def test_silent_host_is_passed_over(
        self, server: PostgreSQL, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A host that is not there costs its time once; then the one that answers comes first."""
        monkeypatch.setattr(connecting, "CONNECT_S", 0.5)
        async with Wire(server.port) as silent:
            silent.loses_answers = True
            hosts = f"127.0.0.1:{silent.port},127.0.0.1:{server.port}"
            url = parse_url(f"postgresql://postgres@{hosts}/postgres")
            dsns = url.dsns
            db = await connect(url, dsns=dsns)
            assert str(server.port) in dsns[0]
            assert str(silent.port) in dsns[1]
            await db.close()

    @in_loop
    async def test_all_hosts_are_in_the_error(self, server: PostgreSQL) -> None:
        """If no host can be used, each has its reason."""
        async with Wire(server.port) as refusing:
            refusing.refuses = True
            hosts = f"127.0.0.1:{refusing.port},127.0.0.1:1"
            url = parse_url(f"postgresql://postgres:s3cret@{hosts}/postgres")
            with pytest.raises(LedgerError) as caught:
                await connect(url)
            assert f"127.0.0.1:{refusing.port}: " in str(caught.value)
        assert "; 127.0.0.1:1: PostgreSQL cannot be reached" in str(caught.value)
        assert "s3cret" not in str(caught.value)

    @in_loop
    async def test_wrong_value_of_a_parameter(self, server: PostgreSQL) -> None:
        """What asyncpg says of a parameter is an error of the setting."""
        with pytest.raises(SettingError, match="sslmode"):
            await connect(local(server.port, "sslmode=sometimes"))


@pytest.fixture
def careful(server: PostgreSQL) -> Iterator[PostgreSQL]:
    """The server, which waits for its disk during the test."""
    set_fsync(server, "on")
    yield server
    set_fsync(server, "off")


def set_fsync(server: PostgreSQL, value: str) -> None:
    server.configure_now(f"fsync = {value}")
    wait_until(lambda: server.query("SHOW fsync") == value)


class TestCheck:
    def test_oldest_version(self) -> None:
        """A server that is too old has a sentence with both versions."""
        check_version(OLDEST_SERVER)
        check_version(OLDEST_SERVER + 5)
        with pytest.raises(SettingError, match="is PostgreSQL 12; fastchat needs 13 or newer"):
            check_version(12)

    @in_loop
    async def test_nothing_to_warn_of(
        self, careful: PostgreSQL, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A server on this machine that keeps what it has committed needs no warning."""
        url = local(careful.port)
        db = await connect(url)
        await check_server(db, url)
        await db.close()
        assert caplog.messages == []

    @in_loop
    async def test_unix_socket(self, careful: PostgreSQL, caplog: pytest.LogCaptureFixture) -> None:
        """A connection by a Unix socket works, and needs no TLS."""
        url = parse_url(
            f"postgresql:///postgres?user=postgres&host={careful.home}&port={careful.port}"
        )
        db = await connect(url)
        await check_server(db, url)
        await db.close()
        assert caplog.messages == []

    @in_loop
    async def test_server_without_fsync(
        self, server: PostgreSQL, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A server that does not wait for its disk is used, with a warning."""
        url = local(server.port)
        db = await connect(url)
        await check_server(db, url)
        await db.close()
        assert [each for each in caplog.messages if "fsync = off" in each]

    @in_loop
    async def test_remote_server_without_tls(
        self,
        careful: PostgreSQL,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Others on the network can read everything, which the log says without the password."""
        monkeypatch.setattr(connecting, "_is_local", lambda _: False)
        url = parse_url(f"postgresql://postgres:s3cret@127.0.0.1:{careful.port}/postgres")
        db = await connect(url)
        await check_server(db, url)
        await db.close()
        (warning,) = caplog.messages
        assert "not encrypted: add sslmode=verify-full" in warning
        assert "s3cret" not in warning

    def test_local_addresses(self) -> None:
        """A connection from an address to itself does not leave the machine."""
        for family, own, other, expected in (
            (socket.AF_INET, "127.0.0.1", "127.0.0.2", True),
            (socket.AF_INET6, "::1", "::1", True),
            (socket.AF_INET, "10.0.0.1", "10.0.0.1", True),
            (socket.AF_INET, "10.0.0.1", "10.0.0.2", False),
            (socket.AF_INET6, "fe80::1%eth0", "fe80::2%eth0", False),
            (socket.AF_UNIX, "", "", True),
        ):
            assert connecting._is_local(Ends(family, own, other)) is expected  # type: ignore[arg-type]


class Ends:
    """The addresses of a socket."""

    def __init__(self, family: int, own: str, other: str) -> None:
        self.family = family
        self.getsockname = lambda: (own, 1)
        self.getpeername = lambda: (other, 2)


@pytest.mark.skipif(find_pgbouncer() is None, reason="no pgbouncer: apt-get install pgbouncer")
class TestPooler:
    @in_loop
    async def test_transaction_mode_is_refused(self, server: PostgreSQL) -> None:
        """Listening and the fence need a connection that lasts."""
        refused = pytest.raises(SettingError, match="pooler in transaction mode")
        with pgbouncer(server, "transaction") as port, refused:
            await prepare_ledger(local(port))

    @in_loop
    async def test_session_mode_is_used(self, server: PostgreSQL, url: EngineUrl) -> None:
        """A pool that keeps a process of the server for each connection is like none."""
        with pgbouncer(server, "session") as port:
            pooled = local(port, f"schema={url.schema}")
            await prepare_ledger(pooled)
            machine = Machine(pooled, LIMITS)
            await machine.session.open()
            await machine.append(draft("one"))
            assert len(await machine.stored()) == 1
            await machine.session.close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def secured(authority: trustme.CA) -> Iterator[PostgreSQL]:
    """A server that accepts connections by TLS only."""
    with postgresql() as server:
        issued = authority.issue_cert("127.0.0.1")
        key, certificate = server.home / "key.pem", server.home / "certificate.pem"
        issued.private_key_pem.write_to_path(key)
        issued.cert_chain_pems[0].write_to_path(certificate)
        key.chmod(0o600)
        if os.geteuid() == 0:
            shutil.chown(key, server.home.owner())
            shutil.chown(certificate, server.home.owner())
        server.configure("ssl = on", f"ssl_key_file = '{key}'", f"ssl_cert_file = '{certificate}'")
        (server.data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 trust\n")
        server.stop()
        server.start()
        yield server


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path) -> Path:
    file = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(file)
    return file


class TestTls:
    @in_loop
    async def test_certificate_is_verified(
        self, secured: PostgreSQL, trusted: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A machine works over TLS to a server with the right certificate."""
        url = local(secured.port, f"sslmode=verify-full&sslrootcert={trusted}")
        await prepare_ledger(url)
        machine = Machine(url, LIMITS)
        await machine.session.open()
        await machine.append(draft("one"))
        assert len(await machine.stored()) == 1
        encrypted = "SELECT count(*) FROM pg_stat_ssl WHERE ssl AND pid <> pg_backend_pid()"
        assert (await machine.session.fetch(encrypted))[0][0] == 3
        await machine.session.close()
        assert caplog.messages == []

    @in_loop
    async def test_other_authority_is_refused(self, secured: PostgreSQL, tmp_path: Path) -> None:
        """A certificate of somebody else is an error that says so."""
        file = tmp_path / "other.pem"
        trustme.CA().cert_pem.write_to_path(file)
        url = local(secured.port, f"sslmode=verify-full&sslrootcert={file}")
        with pytest.raises(SettingError, match="certificate verify failed"):
            await connect(url)

    @in_loop
    async def test_other_name_is_refused(self, secured: PostgreSQL, trusted: Path) -> None:
        """A certificate of another host is an error that says so."""
        url = parse_url(
            f"postgresql://postgres@localhost:{secured.port}/postgres"
            f"?sslmode=verify-full&sslrootcert={trusted}"
        )
        with pytest.raises(SettingError, match="localhost"):
            await connect(url)

    @in_loop
    async def test_missing_root_certificate(self, secured: PostgreSQL) -> None:
        """A file that is not there is an error that names it."""
        url = local(secured.port, "sslmode=verify-full&sslrootcert=/nowhere/ca.pem")
        with pytest.raises(SettingError, match=r"no file '/nowhere/ca\.pem' \(sslrootcert\)"):
            await connect(url)

    @in_loop
    async def test_server_without_tls(self, server: PostgreSQL) -> None:
        """A server that cannot encrypt is not used if the URL asks for it."""
        with pytest.raises(LedgerError, match="SSL"):
            await connect(local(server.port, "sslmode=require"))
