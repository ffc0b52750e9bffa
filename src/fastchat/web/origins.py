"""The pages that can use the server: the `Origin` of a request (RFC 6455 §10.2, RFC 6454).

A browser lets any page connect to any server, and names the page's origin in `Origin`. Without a
check, a page of another site could chat in the name of the person who opens it. Origins are
compared by scheme, host and port (RFC 6454 §5), and never as text.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

__all__ = ["ANY_ORIGIN", "Origin", "Origins", "parse_origin"]

#: Stands for all origins in a setting.
ANY_ORIGIN = "*"

_DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST_AND_PORT = r"(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
_ORIGIN = re.compile(rf"(?P<scheme>[a-z][a-z0-9+.-]*)://{_HOST_AND_PORT}", re.IGNORECASE)
_HOST = re.compile(_HOST_AND_PORT, re.IGNORECASE)


class Origin(NamedTuple):
    """The origin of a page. `port` is None for a scheme without a default port."""

    scheme: str
    host: str
    port: int | None


def parse_origin(text: str) -> Origin | None:
    """Parse an origin as browsers write it; None for `null` and any text that is not an origin."""
    match = _ORIGIN.fullmatch(text) if text.isascii() else None
    if match is None:
        return None
    scheme = match["scheme"].lower()
    address = _address_of(match, _DEFAULT_PORTS.get(scheme))
    return None if address is None else Origin(scheme, *address)


def _address_of(match: re.Match[str], default_port: int | None) -> tuple[str, int | None] | None:
    host = match["host"].lower()
    if host.startswith("["):
        try:
            host = str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            return None
    port = default_port if match["port"] is None else int(match["port"])
    return None if port is not None and not 0 < port < 65536 else (host, port)


class Origins:
    """The pages that can connect: the host's own, and those of the `allowed` origins.

    Raises ValueError for a text that is not an origin.
    """

    def __init__(self, allowed: Iterable[str]) -> None:
        texts = set(allowed)
        self._any = ANY_ORIGIN in texts
        self._allowed = {parse_origin(text) for text in texts - {ANY_ORIGIN}}
        if None in self._allowed:
            raise ValueError("not an origin")

    def allow(self, origins: Sequence[bytes], host: bytes, *, encrypted: bool) -> bool:
        """Whether a handshake with these `Origin` headers, to this `Host`, is allowed.

        A connection that is not `encrypted` may come through a proxy that terminates TLS. Therefore
        the host's own pages can be of http or of https there.
        """
        # RFC 6455 §4.2.1: "A connection attempt lacking this header field SHOULD NOT be interpreted
        # as coming from a browser client." So it does not come from a page.
        if not origins:
            return True
        if len(origins) > 1:
            return False
        if self._any:
            return True
        origin = parse_origin(origins[0].decode("latin-1"))
        return origin is not None and (
            origin in self._allowed or _is_own(origin, host.decode("latin-1"), encrypted)
        )

    @property
    def allows_any(self) -> bool:
        """Whether the pages of every origin are allowed."""
        return self._any

    @property
    def has_others(self) -> bool:
        """Whether the pages of any other origin are allowed."""
        return self._any or bool(self._allowed)

    def shared_with(self, origins: Sequence[bytes]) -> str | None:
        """The `Access-Control-Allow-Origin` for a request with these `Origin` headers.

        None if its page is not of an allowed origin. The host's own pages do not need the header.
        """
        if len(origins) != 1:
            return None
        if self._any:
            return ANY_ORIGIN
        text = origins[0].decode("latin-1")
        origin = parse_origin(text)
        return None if origin is None or origin not in self._allowed else text


def _is_own(origin: Origin, host: str, encrypted: bool) -> bool:
    match = _HOST.fullmatch(host) if host.isascii() else None
    if match is None or origin.scheme not in (("https",) if encrypted else ("https", "http")):
        return False
    # A Host without a port has the default port of the scheme that the browser used.
    return _address_of(match, _DEFAULT_PORTS[origin.scheme]) == (origin.host, origin.port)
