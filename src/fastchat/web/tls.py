"""TLS (RFC 8446, 5246): the certificate and its key, and a limit on handshakes.

uvloop can start TLS itself when it accepts a connection. But then the server does not know of a
connection until its handshake is over, and the certificate cannot be replaced. So a connection is
accepted without TLS, and `Tls` puts uvloop's TLS between the connection and its protocol.

uvloop's TLS also hands encrypted bytes to the TCP transport without counting them: up to 64 KiB and
one write more, which can be a reply of 256 KiB. So a client that reads nothing would hold memory
that nobody knows of. `_Layer` and `_Encrypted` make an encrypted transport behave like a plain one:
its size includes the bytes that the TCP transport holds, and its protocol is paused and resumed by
both.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from uvloop.loop import SSLProtocol  # type: ignore[attr-defined]  # not in its stub

from fastchat.errors import SettingError

__all__ = ["MAX_HANDSHAKES", "Tls"]

logger = logging.getLogger("fastchat.tls")

#: From accept to the end of the handshake; the same as for a request's head (`HttpTimings.head_s`).
HANDSHAKE_TIMEOUT_S = 5.0
#: From our `close_notify` to the peer's; then the connection is aborted.
SHUTDOWN_TIMEOUT_S = 2.0
#: Handshakes under way in a process. One costs some 40 kB, and an honest client needs two round
#: trips. If more begin, the oldest is aborted.
MAX_HANDSHAKES = 256


class Tls:
    """TLS with a certificate (PEM, followed by its intermediate certificates) and its key.

    If `key` is empty, the key is in the certificate's file. Raises SettingError if they cannot be
    used.
    """

    def __init__(self, certificate: str, key: str) -> None:
        self._certificate = Path(certificate).absolute()
        self._key = Path(key or certificate).absolute()
        self._context = _load(self._certificate, self._key)
        # The oldest first.
        self._handshakes: dict[Any, None] = {}
        self._closed = False

    def __len__(self) -> int:
        """How many handshakes are under way."""
        return len(self._handshakes)

    def reload(self) -> None:
        """Read the files again, and use them for new connections.

        If that fails, it is logged, and the old certificate stays in use.
        """
        try:
            self._context = _load(self._certificate, self._key)
        except SettingError as error:
            logger.error("the old certificate stays in use: %s", error)
        else:
            logger.info("new connections get the certificate that was read again")

    def wrap(self, protocol: asyncio.Protocol, free: Callable[[], int]) -> asyncio.Protocol:
        """The protocol to accept a connection with; `protocol` gets it when it is encrypted.

        `free` returns how many connections fit into the process besides those whose handshake is
        over.
        """
        return _Starter(self, protocol, free)

    def close(self) -> None:
        """Abort the handshakes under way, and every later one."""
        self._closed = True
        self._drop(len(self._handshakes))

    def _begin(self, transport: Any, protocol: asyncio.Protocol, free: Callable[[], int]) -> None:
        if self._closed:
            transport.abort()
            return
        self._handshakes[transport] = None
        self._drop(len(self._handshakes) - min(MAX_HANDSHAKES, free()))
        if transport.is_closing():  # the new one has been dropped, too
            return
        loop = asyncio.get_running_loop()
        shaken: asyncio.Future[None] = loop.create_future()
        shaken.add_done_callback(lambda future: self._ended(transport, future.exception()))
        layer = _Layer(
            loop,
            _Opener(transport, protocol),
            self._context,
            shaken,
            server_side=True,
            ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S,
            ssl_shutdown_timeout=SHUTDOWN_TIMEOUT_S,
        )
        transport.set_protocol(layer)
        transport.set_write_buffer_limits(0, 0)  # the layer is paused while the transport has bytes
        layer.connection_made(transport)

    def _drop(self, count: int) -> None:
        for transport in list(self._handshakes)[: max(0, count)]:
            del self._handshakes[transport]
            transport.abort()

    def _ended(self, transport: Any, error: BaseException | None) -> None:
        """A handshake has succeeded, or failed, or its connection is lost."""
        self._handshakes.pop(transport, None)
        if error is not None:
            # Only at level debug: Internet scanners send HTTP, SSH and TLS 1.0 all the time.
            logger.debug("a TLS handshake has failed: %s", _reason(error))
            transport.abort()


class _Starter(asyncio.Protocol):
    """The protocol that a connection is accepted with; it starts TLS at once."""

    def __init__(self, tls: Tls, protocol: asyncio.Protocol, free: Callable[[], int]) -> None:
        self._arguments = (protocol, free)
        self._tls = tls

    def connection_made(self, transport: Any) -> None:
        self._tls._begin(transport, *self._arguments)


class _Opener(asyncio.Protocol):
    """The first protocol of an encrypted connection: it opens the real one after the handshake."""

    def __init__(self, tcp: Any, protocol: asyncio.Protocol) -> None:
        self._tcp = tcp
        self._protocol = protocol

    def connection_made(self, transport: Any) -> None:
        encrypted = _Encrypted(transport, self._tcp)
        self._tcp.get_protocol().encrypted = encrypted
        transport.set_protocol(self._protocol)
        self._protocol.connection_made(encrypted)  # type: ignore[arg-type]  # it has all methods


class _Layer(SSLProtocol):  # type: ignore[misc]  # not in the stub, hence untyped
    """uvloop's TLS; the TCP transport pauses and resumes the protocol above it, too."""

    __slots__ = ("encrypted",)

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        #: The transport of the protocol above; None before the end of the handshake.
        self.encrypted: _Encrypted | None = None

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.encrypted is not None and (protocol := self.encrypted.get_protocol()) is not None:
            protocol.pause_writing()

    def resume_writing(self) -> None:
        super().resume_writing()  # it gives the transport what has been encrypted in the meantime
        encrypted = self.encrypted
        if encrypted is None or encrypted.get_write_buffer_size():
            return
        if (protocol := encrypted.get_protocol()) is not None:
            protocol.resume_writing()


class _Encrypted:
    """uvloop's encrypted transport, whose size includes the bytes in the TCP transport."""

    __slots__ = ("_size", "_tcp_size", "_transport", "write")

    def __init__(self, transport: Any, tcp: Any) -> None:
        self._size = transport.get_write_buffer_size
        self._tcp_size = tcp.get_write_buffer_size
        self._transport = transport
        # This is called for each batch of messages, and costs no more than on the transport itself.
        self.write = transport.write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def get_write_buffer_size(self) -> int:
        size: int = self._size() + self._tcp_size()
        return size


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "unknown").lower().replace("_", " ")
    return str(error) or type(error).__name__


# Reading the files


def _load(certificate: Path, key: Path) -> ssl.SSLContext:
    _check_certificate(certificate)
    _read(key, "--ssl-keyfile")
    # Python's defaults: TLS 1.2 and 1.3, forward secrecy, no compression.
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        # OpenSSL would ask for a password at the terminal if none were given.
        context.load_cert_chain(certificate, key, password=lambda: b"")
    except ssl.SSLError as error:
        raise SettingError(_why_not(error, certificate, key)) from None
    except OSError as error:  # the file has been removed in the meantime
        raise SettingError(f"--ssl-certfile {certificate}: {error.strerror}.") from None
    return context


def _check_certificate(file: Path) -> None:
    """Warn about a certificate that is not valid now; it is used, because a clock may be wrong."""
    try:
        (first, *_) = x509.load_pem_x509_certificates(_read(file, "--ssl-certfile"))
    except ValueError:
        raise SettingError(f"--ssl-certfile {file} contains no PEM certificate.") from None
    now = datetime.now(UTC)
    if now > first.not_valid_after_utc:
        logger.warning(
            "the certificate in %s has expired on %s; clients will refuse it",
            file,
            first.not_valid_after_utc.date(),
        )
    elif now < first.not_valid_before_utc:
        logger.warning(
            "the certificate in %s is not valid before %s", file, first.not_valid_before_utc.date()
        )


def _read(file: Path, flag: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SettingError(f"{flag} {file} cannot be read: {error.strerror}.") from None


def _why_not(error: ssl.SSLError, certificate: Path, key: Path) -> str:
    if error.reason in ("KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
        return (
            f"--ssl-keyfile {key} is not the key of the certificate in {certificate}, "
            "or that certificate is not the first one in the file."
        )
    if error.reason is None and key == certificate:
        return f"--ssl-certfile {certificate} has no private key; name its file with --ssl-keyfile."
    if error.reason is None:
        return (
            f"--ssl-keyfile {key} has no private key in PEM, or one with a password "
            "(openssl pkey -in FILE -out FILE removes the password)."
        )
    return f"--ssl-certfile {certificate} cannot be used: {_reason(error)}."
