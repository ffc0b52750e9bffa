"""Origins: which pages may open a WebSocket."""

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
        ("https://ch\u0430t.example", None),  # Cyrillic
        ("https://\u212aelvin.example", None),  # a Kelvin sign, of which lower() makes a k
        ("http://[::1", None),
        ("http://[:::]", None),
        ("http://[fe80::1%eth0]", None),
        ("http://*.chat.example", None),
    ],
)
def test_origin_is_taken_apart(text: str, origin: Origin | None) -> None:
    """A scheme, a host and a port, in one spelling; None for whatever browsers do not write."""
    assert parse_origin(text) == origin


#: Host, Origin, and whether that page may connect: to a plain port, and to one with TLS.
OWN = [
    ("chat.example", "http://chat.example", True, False),
    ("chat.example", "https://chat.example", True, True),  # or a proxy ends TLS
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
def test_page_of_the_host_itself_may_connect(
    host: str, origin: str, plain: bool, encrypted: bool
) -> None:
    """Scheme, host and port are compared, each as a whole."""
    origins, headers = Origins(()), [origin.encode()]
    assert origins.allow(headers, host.encode(), encrypted=False) is plain
    assert origins.allow(headers, host.encode(), encrypted=True) is encrypted


def test_without_an_origin_there_is_no_page() -> None:
    """What sends none is no browser; of two none counts."""
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
        ("https://chat.example", True),  # the host's own as well
        ("null", False),
    ],
)
def test_settings_add_origins(origin: str, allowed: bool) -> None:
    """Each is exact: no other scheme, port or subdomain comes with it."""
    more = ("https://other.example", "http://localhost:3000", "capacitor://localhost")
    found = Origins(more).allow([origin.encode()], b"chat.example", encrypted=False)
    assert found is allowed


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "\xff", ""])
def test_star_is_for_all(origin: str) -> None:
    """`*` lets in every page, also those without an origin of their own."""
    origins = Origins(("*", "https://other.example"))
    assert origins.allow([origin.encode("latin-1")], b"chat.example", encrypted=True)


def test_several_origins_come_from_every_source(tmp_path: Path) -> None:
    """A flag again and again, commas in the environment, a list in the file."""
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
def test_wrong_origin_is_named(wrong: str) -> None:
    """One sentence with the setting and what it wants."""
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


def answer(server: Server, *origins: str, host: str = "chat.example") -> Response:
    headers = [*{**HANDSHAKE, "Host": host}.items(), *(("Origin", origin) for origin in origins)]
    with wired(server.port) as wire:
        wire.write(request("/ws", headers))
        return wire.read_response()


def test_page_is_refused_before_the_upgrade(server: Server) -> None:
    """403 with a fixed body for pages of others; 101 for the host's, the allowed and no page."""
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


def test_refused_page_is_one_line_in_the_log(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """An operator sees which page it was and what would let it in."""
    answer(server, "https://evil.example" + "x" * 1000)
    (record,) = caplog.records
    message = record.getMessage()
    assert "https://evil.example" in message
    assert "--allow-origin" in message
    assert len(message) < 300
