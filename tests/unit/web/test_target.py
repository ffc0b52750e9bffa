"""Targets of requests: their forms, and the hosts that they and `Host` name."""

from __future__ import annotations

import pytest

from fastchat.web.target import Target, is_host, parse_target


@pytest.mark.parametrize(
    ("target", "parsed"),
    [
        (b"/", Target(b"/")),
        (b"/ws?username=Alice", Target(b"/ws?username=Alice")),
        (b"//x/y", Target(b"//x/y")),
        (b"/?http://a/", Target(b"/?http://a/")),
        (b"http://chat.example/ws", Target(b"/ws", b"chat.example")),
        (b"HTTPS://Chat.Example:8443/ws?a=b", Target(b"/ws?a=b", b"Chat.Example:8443")),
        (b"http://chat.example", Target(b"/", b"chat.example")),
        (b"http://chat.example:/", Target(b"/", b"chat.example:")),
        (b"http://chat.example?a=/b", Target(b"/?a=/b", b"chat.example")),
        (b"http://chat.example#a", Target(b"/#a", b"chat.example")),
        (b"http://[::1]:8080/", Target(b"/", b"[::1]:8080")),
        (b"http://192.0.2.1/", Target(b"/", b"192.0.2.1")),
        (b"http://a/\xff", Target(b"/\xff", b"a")),  # whatever follows the host is judged elsewhere
        (b"http:///ws", None),
        (b"http://:80/ws", None),
        (b"http://user@chat.example/ws", None),
        (b"http://user:secret@chat.example/ws", None),
        (b"http://a\\b/", None),
        (b"http:/ws", None),
        (b"http:ws", None),
        (b"ws://chat.example/ws", None),  # RFC 6455 §4.1: "an absolute http/https URI"
        (b"ftp://chat.example/", None),
        (b"file:///etc/passwd", None),
        (b"chat.example:443", None),
        (b"ws", None),
        (b"*", None),
        (b"", None),
        (b"\xff", None),
    ],
)
def test_target_becomes_a_path_and_a_host(target: bytes, parsed: Target | None) -> None:
    """RFC 9112 §3.2.1 and §3.2.2; every other form is refused."""
    assert parse_target(b"GET", target) == parsed


def test_only_options_can_ask_about_the_whole_server() -> None:
    """RFC 9112 §3.2.4 has the asterisk for OPTIONS alone."""
    assert parse_target(b"OPTIONS", b"*") == Target(b"/")
    assert parse_target(b"OPTIONS", b"http://a") == Target(b"/", b"a")
    for method in (b"GET", b"HEAD", b"POST", b"TRACE"):
        assert parse_target(method, b"*") is None
    assert parse_target(b"OPTIONS", b"**") is None


@pytest.mark.parametrize(
    ("value", "is_valid"),
    [
        (b"chat.example", True),
        (b"chat.example:8080", True),
        (b"chat.example:", True),
        (b"chat_1.example", True),
        (b"xn--bcher-kva.example", True),
        (b"192.0.2.1", True),
        (b"[2001:db8::1]:8080", True),
        (b"[fe80::1%25eth0]", True),
        (b"", True),  # RFC 9112 §3.2: for a target without a host
        (b"a b", False),
        (b"a@b", False),
        (b"a/b", False),
        (b"a?b", False),
        (b"a#b", False),
        (b"a\\b", False),
        (b"a:b", False),
        (b"a:80:80", False),
        (b"http://a", False),
        (b"<a>", False),
        (b"%", False),
        (b"::1", False),
        (b"[::1", False),
        (b"[]", False),
        (b"b\xfccher.example", False),
        (b"a\n", False),
    ],
)
def test_host_has_the_form_of_an_authority(value: bytes, is_valid: bool) -> None:
    """RFC 3986 §3.2.2 says which characters a host can have."""
    assert is_host(value) is is_valid
