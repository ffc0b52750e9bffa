"""Addresses of servers, as people write them."""

from __future__ import annotations

import contextlib
from ipaddress import ip_address
from urllib.parse import urlsplit, urlunsplit

__all__ = ["api_url", "http_origin", "is_loopback", "websocket_url"]

_SCHEMES = {"ws": "ws", "http": "ws", "wss": "wss", "https": "wss"}


def websocket_url(address: str) -> str:
    """The URL of the WebSocket of a server, or of a page of its chat.

    The WebSocket of the page at `http://host:8080/` is `ws://host:8080/ws`. A path that does not
    end with a slash is the path of a WebSocket. A fragment is ignored. Raises ValueError if
    `address` is not the address of a server, or has a query or a user.
    """
    try:
        parts = urlsplit(address)
        scheme = _SCHEMES[parts.scheme]
        _ = parts.port  # raises ValueError
    except (KeyError, ValueError):
        parts, scheme = urlsplit(""), ""
    if not parts.hostname or not address.isprintable():
        raise ValueError(f"{address!r} is not an address; give one like ws://127.0.0.1:8080.")
    if parts.query or parts.username is not None:
        raise ValueError("The address must have no query (?…) and no user.")
    path = parts.path or "/"
    return f"{scheme}://{parts.netloc}{path}{'ws' if path.endswith('/') else ''}"


def http_origin(url: str) -> str:
    """The origin of the server with this WebSocket: `https://chat.example` for `wss://…`."""
    parts = urlsplit(url)
    scheme = "https" if parts.scheme == "wss" else "http"
    return urlunsplit((scheme, parts.netloc, "", "", ""))


def api_url(address: str) -> str:
    """The URL below which the HTTP API of a server is, from the same addresses as `websocket_url`.

    For the page at `https://host/chat/` it is `https://host/chat/api/v1`.
    """
    url = websocket_url(address)
    return f"{http_origin(url)}{urlsplit(url).path.rpartition('/')[0]}/api/v1"


def is_loopback(url: str) -> bool:
    """Whether a server is on this machine, where no proxy of the system is asked."""
    host = urlsplit(url).hostname or ""
    with contextlib.suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")
