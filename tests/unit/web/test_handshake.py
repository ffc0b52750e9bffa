"""The checks of a handshake; tests/server/web/test_http.py has the long table, over sockets."""

from __future__ import annotations

import pytest

from fastchat.web.context import ADDRESS_HEADER
from fastchat.web.handshake import (
    UpgradeRequest,
    check_upgrade,
    dropped_from,
    elements_of,
    headers_for_picows,
)
from fastchat.web.origins import Origins

HEADERS = (
    (b"host", b"chat.example"),
    (b"connection", b"keep-alive, Upgrade"),
    (b"upgrade", b"websocket"),
    (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),  # RFC 6455 §1.3
    (b"sec-websocket-version", b"13"),
    (b"origin", b"https://chat.example"),
)
VALID = UpgradeRequest("GET", b"/ws?username=Alice", HEADERS, encrypted=True)


def status(request: UpgradeRequest, *, echo: bool = False) -> int | None:
    refusal = check_upgrade(request, Origins([]), echo=echo)
    return None if refusal is None else refusal.status


def test_valid_handshake_is_not_refused() -> None:
    """A browser's handshake passes every check."""
    assert status(VALID) is None


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (b"host", None, 400),
        (b"sec-websocket-key", b"c2hvcnQ=", 400),
        (b"sec-websocket-version", b"8", 426),
        (b"content-length", b"1", 400),
        (b"transfer-encoding", b"chunked", 400),
        (b"origin", b"https://other.example", 403),
        (b"origin", None, None),
    ],
)
def test_header_decides(name: bytes, value: bytes | None, expected: int | None) -> None:
    """Each header of RFC 6455 §4.2.1 has a status of its own."""
    headers = [header for header in HEADERS if header[0] != name]
    if value is not None:
        headers.append((name, value))
    assert status(VALID._replace(headers=headers)) == expected


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"method": "POST"}, 405),
        ({"target": b"/chat"}, 404),
        ({"target": b"/ws?\x7f"}, 400),
        ({"target": b"/_echo"}, 404),
    ],
)
def test_request_line_decides(changed: dict[str, object], expected: int) -> None:
    """Method and target are checked, too."""
    assert status(VALID._replace(**changed)) == expected


def test_echo_is_opened_on_demand() -> None:
    """/_echo is there under --debug-echo only."""
    assert status(VALID._replace(target=b"/_echo"), echo=True) is None


def test_lines_of_a_header_are_one_list() -> None:
    """RFC 9110 §5.3 and §5.6.1: lines are joined, blanks around elements and case do not matter."""
    headers = [(b"a", b"X,\ty , "), (b"b", b"z"), (b"a", b"Z")]
    assert elements_of(b"a", headers) - {b""} == {b"x", b"y", b"z"}
    assert elements_of(b"c", headers) == {b""}


@pytest.mark.parametrize(
    ("version", "target", "left_out", "dropped"),
    [
        ("1.1", b"/ws", (), None),
        ("1.1", b"/ws?username=Alice", (b"upgrade",), "Upgrade: websocket"),
        ("1.1", b"/ws", (b"connection",), "Connection: Upgrade"),
        ("1.0", b"/ws", (), "HTTP/1.1"),
        (
            "1.0",
            b"/ws",
            (b"upgrade", b"connection"),
            "HTTP/1.1, Upgrade: websocket, Connection: Upgrade",
        ),
        ("1.0", b"/ws", (b"sec-websocket-key",), None),
        ("1.0", b"/", (b"upgrade",), None),
        ("1.0", b"/wss", (b"upgrade",), None),
    ],
)
def test_parts_that_a_proxy_has_dropped_are_named(
    version: str, target: bytes, left_out: tuple[bytes, ...], dropped: str | None
) -> None:
    """A request for /ws with a key is a handshake, whatever is missing."""
    headers = [header for header in HEADERS if header[0] not in left_out]
    assert dropped_from(version, target, headers) == dropped


def test_picows_gets_only_what_it_accepts() -> None:
    """Neither the client's `Connection` nor an address header of its own is passed on."""
    forged = (ADDRESS_HEADER.encode(), b"192.0.2.66")
    passed = headers_for_picows([*HEADERS, forged, (b"cookie", b"secret")], "192.0.2.1")
    assert dict(passed) == {
        b"connection": b"Upgrade",
        b"upgrade": b"websocket",
        b"sec-websocket-version": b"13",
        ADDRESS_HEADER.encode(): b"192.0.2.1",
        b"host": b"chat.example",
        b"sec-websocket-key": b"dGhlIHNhbXBsZSBub25jZQ==",
    }
    assert len(passed) == 6
