"""Connections to a PostgreSQL, and what is asked of it before it is used."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import asyncpg
import orjson

from fastchat.errors import SettingError
from fastchat.ledger import LedgerError, NotCommittedError
from fastchat.ledger.url import EngineUrl

__all__ = [
    "ANSWER_S",
    "ASYNCHRONOUS",
    "FAILED",
    "HELPER_SETTINGS",
    "OLDEST_SERVER",
    "bounded",
    "check_server",
    "check_version",
    "connect",
    "fetch",
    "ledger_error",
]

logger = logging.getLogger("fastchat.ledger")

#: The oldest PostgreSQL that is used: `autovacuum_vacuum_insert_scale_factor` came with it.
OLDEST_SERVER = 13
#: How long a connection can take to be made, and then a short question to take.
CONNECT_S = ANSWER_S = 3.0
#: After this time without an acknowledgement, the kernel ends a connection, on both sides.
SILENT_MS = 8000
#: What can be raised by asyncpg if a connection or a statement fails.
FAILED = (
    asyncpg.PostgresError,
    OSError,
    TimeoutError,
    ssl.SSLError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
#: Classes of errors (SQLSTATE) that end a statement before its commit. After any other error of a
#: commit, nobody knows: a server that shuts down can have committed already.
_BEFORE_COMMIT = frozenset(
    ("0A", "21", "22", "23", "25", "3F", "40", "42", "53", "54", "55", "FC", "P0")
)
_CANCELLED, _UNKNOWN = "57014", "40003"
#: The settings of every connection. A pooler refuses most of them in the startup packet, so they
#: are set afterwards. Functions and their plans are made for small steps on large tables.
_SETTINGS = {
    "application_name": "fastchat",
    "client_min_messages": "warning",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "idle_in_transaction_session_timeout": "5s",
    "jit": "off",
    "lock_timeout": "1500ms",
    "plan_cache_mode": "force_generic_plan",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_seqscan": "off",
    "statement_timeout": "2s",
    "tcp_keepalives_count": "3",
    "tcp_keepalives_idle": "2",
    "tcp_keepalives_interval": "1",
    "tcp_user_timeout": str(SILENT_MS),
}
#: The same of our side, where the system has these options.
_SOCKET_OPTIONS = (
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 2),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 1),
    (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", SILENT_MS),
)
#: So many connections are tried: a pooler prefers the process that was used last.
_OTHERS = 3
#: Parameters of the URL that are files. asyncpg does not say which one is missing.
_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_INTERNET = (socket.AF_INET, socket.AF_INET6)

_NONE: Mapping[str, str] = {}
#: Of a connection whose commits do not wait for the disk.
ASYNCHRONOUS = {"synchronous_commit": "off"}
#: Of a connection for work that takes long. Its queries are planned by what they ask for.
HELPER_SETTINGS = {
    **ASYNCHRONOUS,
    "enable_bitmapscan": "on",
    "plan_cache_mode": "force_custom_plan",
    "statement_timeout": "20s",
}


async def connect(
    url: EngineUrl, settings: Mapping[str, str] = _NONE, *, dsns: list[str] | None = None
) -> asyncpg.Connection:
    """Make a connection whose search path is the schema; `settings` differ from the usual ones.

    The hosts of the URL are tried in the order of `dsns`, which has those that fail at its end
    afterwards. The connection's commits wait at least for the disk, whatever the server's default
    is, unless the settings are `ASYNCHRONOUS`. Raises LedgerError if no host can be used.
    """
    hosts = url.dsns if dsns is None else dsns
    why: list[str] = []
    for dsn in list(hosts):
        try:
            return await _connect(url, dsn, settings)
        except LedgerError as error:
            if len(hosts) == 1:
                raise
            hosts.remove(dsn)
            hosts.append(dsn)
            why.append(f"{_place_of(dsn)}: {error}")
    raise LedgerError("; ".join(why))


def _place_of(dsn: str) -> str:
    parts = urlsplit(dsn)
    return parts.netloc.rpartition("@")[2] or dict(parse_qsl(parts.query))["host"]


async def _connect(url: EngineUrl, dsn: str, settings: Mapping[str, str]) -> asyncpg.Connection:
    try:
        db = await asyncpg.connect(dsn, timeout=CONNECT_S)
    except (asyncpg.ClientConfigurationError, ssl.CertificateError, ValueError) as error:
        raise SettingError(f"--engine: {url.shown}: {error}") from None
    except FAILED as error:
        if isinstance(error, FileNotFoundError):
            _check_files(dsn)
        raise ledger_error(error) from error
    try:
        _keep_alive(db)
        with bounded(db):
            present = await db.fetchval("SELECT current_setting('synchronous_commit')")
            waits = {"synchronous_commit": "on"} if present in ("off", "local") else {}
            path = {"search_path": f'"{url.schema}"'}
            await db.execute(
                "SELECT set_config(name, value, false) "
                "FROM json_each_text($1::json) AS s(name, value)",
                orjson.dumps({**_SETTINGS, **waits, **path, **settings}).decode(),
            )
    except BaseException as error:
        db.terminate()
        if isinstance(error, FAILED):
            raise ledger_error(error) from error
        raise
    return db


def _check_files(dsn: str) -> None:
    for name, value in parse_qsl(urlsplit(dsn).query):
        if name in _FILES and not Path(value).exists():
            raise SettingError(f"--engine: there is no file {value!r} ({name}).")


def _keep_alive(db: asyncpg.Connection) -> None:
    """Let the kernel end a connection whose other end is gone, also while nothing is sent.

    A new writer can wait for minutes for an answer. asyncpg has no option for it.
    """
    peer = _socket_of(db)
    if peer.family in _INTERNET:
        for level, name, value in _SOCKET_OPTIONS:
            if hasattr(socket, name):
                peer.setsockopt(level, getattr(socket, name), value)


def _socket_of(db: asyncpg.Connection) -> socket.socket:
    transport = db._transport
    found: socket.socket | None = transport and transport.get_extra_info("socket")
    if found is None:
        raise ConnectionError("the connection is lost already")
    return found


async def fetch(db: asyncpg.Connection, query: str, *arguments: Any) -> Sequence[Any]:
    """Run a query and return its rows. Raises what is in `FAILED`."""
    try:
        rows: Sequence[Any] = await db.fetch(query, *arguments)
    except AttributeError as error:
        # asyncpg raises it if the connection is closed between two of its steps.
        if not db.is_closed():
            raise
        raise ConnectionError("the connection is closed") from error
    return rows


@contextmanager
def bounded(db: asyncpg.Connection, seconds: float = ANSWER_S) -> Iterator[None]:
    """Close a connection's socket if the block takes longer; what waits for an answer fails then.

    The timeouts of asyncpg would ask the server to cancel, which must not be done to a commit.
    """
    timer = asyncio.get_running_loop().call_later(seconds, db.terminate)
    try:
        yield
    finally:
        timer.cancel()


async def check_server(db: asyncpg.Connection, url: EngineUrl) -> None:
    """Raise SettingError if a server cannot have a ledger: too old, or behind a pooler.

    The log warns if the server can lose commits, or if anybody on the way can read them.
    """
    check_version(db.get_server_version().major)
    if await _is_shared(db, url):
        raise SettingError(
            "--engine: there is a connection pooler in transaction mode before the server, but "
            "connections have to last; use the server's own port, or a pool in session mode."
        )
    if await db.fetchval("SELECT current_setting('fsync')") == "off":
        logger.warning(
            "the server has fsync = off: if its machine crashes, the ledger can be lost or damaged"
        )
    is_encrypted = await db.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    if not is_encrypted and not _is_local(_socket_of(db)):
        logger.warning(
            "the connection to PostgreSQL is not encrypted: add sslmode=verify-full to the URL "
            "of --engine, %s",
            url.shown,
        )


async def _is_shared(db: asyncpg.Connection, url: EngineUrl) -> bool:
    """Whether a pooler lets other clients use the server's process of an open connection."""
    process = await db.fetchval("SELECT pg_backend_pid()")
    if process == db.get_server_pid():
        return False  # a pooler would have invented it
    others: list[asyncpg.Connection] = []
    try:
        for _ in range(_OTHERS):
            others.append(other := await connect(url))
            await other.execute("BEGIN")
            if await other.fetchval("SELECT pg_backend_pid()") == process:
                return True
    finally:
        for other in others:
            other.terminate()
    return False


def _is_local(peer: socket.socket) -> bool:
    """Whether a socket does not leave this machine."""
    if peer.family not in _INTERNET:
        return True
    address = ip_address(peer.getpeername()[0].partition("%")[0])
    return address.is_loopback or peer.getpeername()[0] == peer.getsockname()[0]


def check_version(major: int) -> None:
    """Raise SettingError if a server of this major version cannot have a ledger."""
    if major < OLDEST_SERVER:
        raise SettingError(
            f"--engine: the server is PostgreSQL {major}; fastchat needs {OLDEST_SERVER} or newer."
        )


def ledger_error(error: BaseException) -> LedgerError:
    """What an error of a connection or a statement means."""
    if isinstance(error, LedgerError):
        return error
    if isinstance(error, TimeoutError):
        return LedgerError("PostgreSQL does not answer")
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return LedgerError("the server is a standby or read-only, and cannot be written")
    if not isinstance(error, asyncpg.PostgresError):
        return LedgerError(f"PostgreSQL cannot be reached: {error or type(error).__name__}")
    # Details and hints follow on lines of their own.
    code, message = str(error.sqlstate), f"PostgreSQL says: {str(error).partition(chr(10))[0]}"
    if code == _CANCELLED or (code[:2] in _BEFORE_COMMIT and code != _UNKNOWN):
        return NotCommittedError(message, code)
    return LedgerError(message)
