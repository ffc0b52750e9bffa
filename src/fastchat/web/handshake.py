"""The checks of a handshake (RFC 6455 §4.2.1), before picows sees it.

picows answers a handshake that it refuses with the text of its exception, which contains a header
of the client. It also refuses Firefox's `Connection: keep-alive, Upgrade`. So a handshake is
checked here, and picows gets only requests that it accepts. Quotations are from RFC 6455 §4.2.1.
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Collection, Sequence
from typing import NamedTuple

from fastchat.connections.echo import ECHO_PATH
from fastchat.web.context import ADDRESS_HEADER, ONE_HOST, Refusal
from fastchat.web.origins import Origins

__all__ = [
    "UpgradeRequest",
    "check_upgrade",
    "dropped_from",
    "elements_of",
    "headers_for_picows",
]

logger = logging.getLogger("fastchat.http")

WEBSOCKET_PATH = b"/ws"

Headers = Sequence[tuple[bytes, bytes]]

#: The client's headers that picows gets.
_PASSED_ON = (b"host", b"sec-websocket-key", b"sec-websocket-protocol")


class UpgradeRequest(NamedTuple):
    """A request of HTTP/1.1 that asks for an upgrade to WebSocket.

    Its `target` begins with a slash. The names of headers are in lower case.
    """

    method: str
    target: bytes
    headers: Headers
    encrypted: bool


def check_upgrade(request: UpgradeRequest, origins: Origins, *, echo: bool) -> Refusal | None:
    """Why a handshake is refused; None if it is valid. `echo` allows /_echo.

    `Upgrade` and `Connection` have been checked: only upgrades to WebSocket come here.
    """
    values: dict[bytes, list[bytes]] = {}
    for name, value in request.headers:
        values.setdefault(name, []).append(value)
    path = request.target.partition(b"?")[0]
    if path != WEBSOCKET_PATH and not (echo and path == ECHO_PATH):
        return Refusal(404, "Not found")
    # "1. An HTTP/1.1 or higher GET request, including a 'Request-URI'".
    if request.method != "GET":
        return Refusal(405, "A handshake needs the method GET.")
    # The parser lets bytes through that are not allowed in a target (RFC 9112 §3.2), and picows
    # decodes it as ASCII.
    if not request.target.isascii() or any(byte <= 0x20 or byte == 0x7F for byte in request.target):
        return Refusal(400, "The address is malformed.")
    # "2. A |Host| header field containing the server's authority."
    hosts = values.get(b"host", [])
    if len(hosts) != 1:
        return Refusal(400, ONE_HOST)
    # "6. A |Sec-WebSocket-Version| header field, with a value of 13."
    if values.get(b"sec-websocket-version") != [b"13"]:
        return Refusal(426, "A handshake needs Sec-WebSocket-Version: 13.")
    # "5. A |Sec-WebSocket-Key| header field with a base64-encoded (see Section 4 of [RFC4648])
    # value that, when decoded, is 16 bytes in length."
    keys = values.get(b"sec-websocket-key", ())
    if len(keys) != 1 or not _is_key(keys[0]):
        return Refusal(400, "A handshake needs exactly one valid Sec-WebSocket-Key.")
    # A proxy could take these bytes for a body, and the server for the first bytes of the
    # WebSocket.
    if b"transfer-encoding" in values or set(values.get(b"content-length", ())) - {b"0"}:
        return Refusal(400, "A handshake cannot have a body.")
    # "7. Optionally, an |Origin| header field. This header field is sent by all browser clients."
    pages = values.get(b"origin", [])
    if not origins.allow(pages, hosts[0], encrypted=request.encrypted):
        page, host = (value[:100].decode("latin-1") for value in (pages[0], hosts[0]))
        logger.warning(
            "refused a page from %r that connects to %r; --allow-origin allows pages of other "
            "hosts, and a proxy must pass on Host unchanged",
            page,
            host,
        )
        return Refusal(403, "This page may not connect.")
    return None


def dropped_from(http_version: str, target: bytes, headers: Headers) -> str | None:
    """The parts of a handshake that a proxy has dropped; None if the request is not a handshake.

    Only a client that wants a WebSocket sends `Sec-WebSocket-Key`. Proxies pass that header on, but
    drop `Upgrade` and `Connection`, which belong to one connection only (RFC 9110 §7.6.1).
    """
    if target.partition(b"?")[0] != WEBSOCKET_PATH:
        return None
    if not any(name == b"sec-websocket-key" for name, _ in headers):
        return None
    parts = {
        "HTTP/1.1": http_version == "1.1",
        "Upgrade: websocket": b"websocket" in elements_of(b"upgrade", headers),
        "Connection: Upgrade": b"upgrade" in elements_of(b"connection", headers),
    }
    return ", ".join(part for part, is_there in parts.items() if not is_there) or None


def elements_of(field: bytes, headers: Headers) -> set[bytes]:
    """The elements of a header that is a list, in lower case (RFC 9110 §5.6.1).

    §5.3: several lines of a header are one list.
    """
    lists = b",".join(value for name, value in headers if name == field)
    return {element.strip(b" \t").lower() for element in lists.split(b",")}


def headers_for_picows(
    headers: Headers, address: str, credentials: Collection[bytes] = ()
) -> list[tuple[bytes, bytes]]:
    """The headers that picows gets instead of the client's. `address` is the client's address.

    `credentials` are the names of headers that the session needs besides.
    """
    return [
        (b"connection", b"Upgrade"),
        (b"upgrade", b"websocket"),
        (b"sec-websocket-version", b"13"),
        (ADDRESS_HEADER.encode(), address.encode()),
        *((name, value) for name, value in headers if name in _PASSED_ON),
        # picows decodes them as ASCII.
        *((name, value) for name, value in headers if name in credentials and value.isascii()),
    ]


def _is_key(key: bytes) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        return False
