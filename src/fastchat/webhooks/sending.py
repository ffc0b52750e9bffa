"""The HTTP client of webhooks and hooks. Only this module imports aiohttp.

* A request has one deadline, from the wait for a connection to the last byte of the answer, so a
  service that answers byte by byte cannot hold it longer.
* Of an answer at most MAX_ANSWER_BYTES are read, and the rest is dropped with the connection.
* Redirects are not followed, cookies are not kept, and proxies of the environment are not used.
* The address of each connection is checked when it is made, after the name was resolved. So a
  public name that leads to a private address (DNS rebinding) gets no connection.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp

from fastchat._version import __version__
from fastchat.webhooks.addresses import is_public
from fastchat.webhooks.config import Target
from fastchat.webhooks.outcome import Answer, NotDeliveredError
from fastchat.webhooks.signing import signed

__all__ = ["Sender"]

#: An answer of a hook has a text of at most 4,000 characters, which take up to 24 kB in JSON.
MAX_ANSWER_BYTES = 64 * 1024
#: The headers of an answer.
MAX_HEADER_BYTES = 8 * 1024
CONNECT_TIMEOUT_S = 5.0
#: A connection without a request is closed after this time. Most servers keep one for longer, so it
#: is rarely they who close it, which can lose a request.
KEEP_ALIVE_S = 4.0
PRIVATE = "its name leads to a private address; if that is right, set `allow-private`"


class Sender:
    """Sends signed requests to one service, over at most `connections` connections.

    It must be built in a running loop. `clock`: seconds since 1970.
    """

    def __init__(
        self, target: Target, *, connections: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._target = target
        self._clock = clock
        connector = aiohttp.TCPConnector(
            limit=connections,
            keepalive_timeout=KEEP_ALIVE_S,
            ttl_dns_cache=10,
            socket_factory=self._socket,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            headers={
                "User-Agent": f"fastchat/{__version__}",
                "Content-Type": "application/json",
                "Accept-Encoding": "identity",
            },
        )

    async def post(self, id: str, body: bytes, *, timeout_s: float) -> Answer:
        """Send a request, and return the answer, whatever its status.

        Raises NotDeliveredError if there was none within `timeout_s` seconds. The service can have
        had the request nevertheless.
        """
        headers = signed(id, int(self._clock()), body, self._target.secrets)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._post(body, headers)
        except TimeoutError:
            why = f"it did not answer within {timeout_s:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            why = _reason(error)
        # Raised here, because the library's errors have the whole address in them.
        raise NotDeliveredError(why)

    async def _post(self, body: bytes, headers: dict[str, str]) -> Answer:
        try:
            return await self._try(body, headers)
        except aiohttp.ServerDisconnectedError:
            # The service has closed a kept connection at the moment at which it was used again.
            return await self._try(body, headers)

    async def _try(self, body: bytes, headers: dict[str, str]) -> Answer:
        async with self._session.post(
            self._target.url,
            data=body,
            headers=headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(connect=CONNECT_TIMEOUT_S),
        ) as response:
            retry_after_s = _seconds(response.headers.get("Retry-After"), self._clock())
            content = bytearray()
            while len(content) <= MAX_ANSWER_BYTES:
                piece = await response.content.read(MAX_ANSWER_BYTES + 1 - len(content))
                if not piece:
                    return Answer(response.status, bytes(content), retry_after_s)
                content += piece
            response.close()
            return Answer(response.status, None, retry_after_s)

    async def close(self) -> None:
        """Close the connections. Requests under way must have ended."""
        await self._session.close()

    def _socket(self, address: tuple[Any, ...]) -> socket.socket:
        """A socket for a connection to an address that a name was resolved to."""
        family, kind, protocol, _, where = address
        if not self._target.may_be_private and not is_public(where[0]):
            raise OSError(PRIVATE)
        return socket.socket(family, kind, protocol)


def _seconds(retry_after: str | None, now_s: float) -> float | None:
    """The seconds in a `Retry-After` header (RFC 9110 §10.2.3); None if there are none."""
    if retry_after is None or len(retry_after) > 40:
        return None
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - now_s)
    except (ValueError, TypeError, OverflowError):
        return None


def _reason(error: Exception) -> str:
    """Why a request has failed, without the address."""
    # The library puts the errors of several addresses into one.
    if isinstance(error, aiohttp.ClientConnectorError) and PRIVATE in str(error.os_error):
        return PRIVATE
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name cannot be resolved"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its certificate is not valid"
    if isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ServerConnectionError)):
        return f"no connection ({type(error).__name__})"
    return f"no valid answer ({type(error).__name__})"
