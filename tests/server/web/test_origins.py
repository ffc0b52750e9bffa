"""Origins: which pages can open a WebSocket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fastchat.errors import SettingError
from fastchat.settings import Settings, load_settings
from fastchat.web.origins import Origin, Origins, parse_origin
from support.raw_websocket import HANDSHAKE, Response, request, wired
from support.server_in_thread import Server, serving


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://chat.example", Origin("https", "chat.example", 443)),
        ("http://chat.example", Origin("http", "chat.example", 80)),
        ("https://chat.example:8443", Origin("https", "chat.example", 8443)),
        ("HTTPS://Chat.Example:443", Origin("https", "chat.example", 443)),
        ("http://[::1]:8080", Origin("http", "::1", 8080)),
        ("http://[0:0::0001]", Origin("http", "::1", 80)),
        ("chrome-extension://abcdefgh", Origin("chrome-extension", "abcdefgh", None)),
        ("null", None),
        ("", None),
        ("*", None),
        ("https://", None),
        ("chat.example", None),
        ("//chat.example", None),
        ("https://chat.example/", None),
        ("https://chat.example/path", None),
        ("https://user@chat.example", None),
        ("https://chat.example:", None),
        ("https://chat.example:0", None),
        ("https://chat.example:65536", None),
        ("https://chat.example:443 ", None),
        (" https://chat.example", None),
        ("https://chat.example https://other.example", None),
        ("https://chat.example,https://other.example", None),
        ("https://chat.example\n", None),
        ("https://ch\u0430t.example", None),  # A Cyrillic letter.
        ("https://\u212aelvin.example", None),  # A Kelvin sign, which lower() turns into a k.
        ("http://[::1", None),
        ("http://[:::]", None),
        ("http://[fe80::1%eth0]", None),
        ("http://*.chat.example", None),
    ],
)
def test_origin_is_parsed(text: str, origin: Origin | None) -> None:
    """An origin gives a scheme, a host and a port in one spelling, and None for values that
    browsers do not send."""
    assert parse_origin(text) == origin


#: Host, Origin, and whether that page can connect: to a plain port, and to one with TLS.
OWN = [
    ("chat.example", "http://chat.example", True, False),
    ("chat.example", "https://chat.example", True, True),  # A proxy can end TLS.
    ("chat.example:80", "http://chat.example", True, False),
    ("chat.example:443", "https://chat.example", True, True),
    ("chat.example", "https://chat.example:443", True, True),
    ("Chat.Example", "https://chat.example", True, True),
    ("chat.example", "HTTPS://CHAT.EXAMPLE", True, True),
    ("chat.example:8443", "https://chat.example:8443", True, True),
    ("localhost:8080", "http://localhost:8080", True, False),
    ("[::1]:8080", "http://[::1]:8080", True, False),
    ("[0::1]:8080", "http://[::1]:8080", True, False),
    ("chat.example", "http://chat.example:8080", False, False),
    ("chat.example:8080", "http://chat.example", False, False),
    ("chat.example:80", "https://chat.example", False, False),
    ("chat.example", "https://chat.example.evil.example", False, False),
    ("chat.example", "https://evil.example", False, False),
    ("chat.example", "https://evilchat.example", False, False),
    ("chat.example", "https://chat.example@evil.example", False, False),
    ("chat.example", "https://evil.example#chat.example", False, False),
    ("chat.example", "https://evil.example/chat.example", False, False),
    ("chat.example", "https://chat.exampl", False, False),
    ("chat.example", "https://chat.example.", False, False),
    ("chat.example", "ftp://chat.example", False, False),
    ("chat.example", "chrome-extension://chat.example", False, False),
    ("chat.example", "null", False, False),
    ("null", "null", False, False),
    ("", "", False, False),
    ("evil.example/", "https://evil.example", False, False),
    ("a b", "https://a b", False, False),
]


@pytest.mark.parametrize(("host", "origin", "plain", "encrypted"), OWN)
def test_page_of_the_host_itself_can_connect(
    host: str, origin: str, plain: bool, encrypted: bool
) -> None:
    """Scheme, host and port are compared, each as a whole."""
    origins, headers = Origins(()), [origin.encode()]
    assert origins.allow(headers, host.encode(), encrypted=False) is plain
    assert origins.allow(headers, host.encode(), encrypted=True) is encrypted


def test_request_without_an_origin_is_accepted() -> None:
    """A client without an origin is not a browser; two origins are refused."""
    for allowed in ((), ("*",)):
        origins = Origins(allowed)
        assert origins.allow([], b"chat.example", encrypted=False)
        twice = [b"https://chat.example"] * 2
        assert not origins.allow(twice, b"chat.example", encrypted=False)


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://other.example", True),
        ("https://other.example:443", True),
        ("http://other.example", False),
        ("https://other.example:8443", False),
        ("https://sub.other.example", False),
        ("http://localhost:3000", True),
        ("http://localhost:3001", False),
        ("capacitor://localhost", True),
        ("https://chat.example", True),  # The host's own origin, too.
        ("null", False),
    ],
)
def test_allowed_origins_are_compared_exactly(origin: str, allowed: bool) -> None:
    """An allowed origin includes no other scheme, port or subdomain."""
    more = ("https://other.example", "http://localhost:3000", "capacitor://localhost")
    found = Origins(more).allow([origin.encode()], b"chat.example", encrypted=False)
    assert found is allowed


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "\xff", ""])
def test_star_allows_every_origin(origin: str) -> None:
    """`*` admits every page, including those with an opaque origin."""
    origins = Origins(("*", "https://other.example"))
    assert origins.allow([origin.encode("latin-1")], b"chat.example", encrypted=True)


def test_several_origins_can_be_set(tmp_path: Path) -> None:
    """The flag can be repeated, the environment has commas, and the file has a list."""
    both = ("https://a.example", "http://b.example:81")
    assert load_settings({"allow_origin": list(both)}, {}, None).allow_origin == both
    variables = {"FASTCHAT_ALLOW_ORIGIN": " https://a.example, http://b.example:81,"}
    assert load_settings({}, variables, None).allow_origin == both
    file = tmp_path / "fastchat.toml"
    file.write_text("allow-origin = ['https://a.example', 'http://b.example:81']", "utf-8")
    assert load_settings({}, {}, file).allow_origin == both


@pytest.mark.parametrize(
    "wrong", ["null", "https://a.example/", "a.example", "https://*.a.example"]
)
def test_invalid_origin_is_reported_in_one_sentence(wrong: str) -> None:
    """The sentence names the setting and the expected form."""
    with pytest.raises(SettingError, match="--allow-origin must be") as caught:
        Settings(allow_origin=("https://b.example", wrong))
    assert repr(wrong) in str(caught.value)
    with pytest.raises(ValueError, match="not an origin"):
        Origins((wrong,))


# At the server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(allow_origin=("https://other.example",)) as server:
        yield server


def answer(
    server: Server, *origins: str, host: str = "chat.example", target: str = "/ws"
) -> Response:
    headers = [*{**HANDSHAKE, "Host": host}.items(), *(("Origin", origin) for origin in origins)]
    with wired(server.port) as wire:
        wire.write(request(target, headers))
        return wire.read_response()


def test_page_is_refused_before_the_upgrade(server: Server) -> None:
    """Foreign pages get 403 with a fixed body; the host's page, an allowed one and a client without
    a page get 101."""
    assert answer(server).status == 101
    assert answer(server, "https://chat.example").status == 101
    assert answer(server, "http://chat.example:81", host="chat.example:81").status == 101
    assert answer(server, "https://other.example").status == 101
    bodies = set()
    for wrong in (
        ("https://evil.example",),
        ("https://chat.example.evil.example",),
        ("null",),
        ("",),
        ("\xff",),
        ("https://chat.example", "https://chat.example"),
        ("https://chat.example", "https://evil.example"),
    ):
        refused = answer(server, *wrong)
        assert refused.status == 403, wrong
        assert refused.headers["connection"] == "close"
        assert refused.headers["x-content-type-options"] == "nosniff"
        bodies.add(refused.body)
    assert bodies == {b"This page may not connect.\n"}


def test_host_of_an_absolute_target_decides(server: Server) -> None:
    """RFC 9112 §3.2.2: the target's host is the server's, and not the one in `Host`."""
    target = "http://chat.example/ws"
    for host in ("chat.example", "evil.example"):
        assert answer(server, "https://chat.example", host=host, target=target).status == 101
        assert answer(server, "https://evil.example", host=host, target=target).status == 403


def test_refused_page_is_one_line_in_the_log(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names the refused page, and the setting that would admit it."""
    answer(server, "https://evil.example" + "x" * 1000)
    (record,) = caplog.records
    message = record.getMessage()
    assert "https://evil.example" in message
    assert "--allow-origin" in message
    assert len(message) < 300
