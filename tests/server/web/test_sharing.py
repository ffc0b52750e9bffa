"""Files for pages of other origins: what a browser is allowed to do with an answer."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from support.raw_websocket import HOST, Client, Response, Wire, ask, connected, request, wired
from support.server_in_thread import Server, serving

OTHER, EVIL, OWN = "https://other.example", "https://evil.example", "http://localhost"
CONTENT = b"0123456789"


class Shared(NamedTuple):
    """A server, a client in its lobby, an HTTP connection, and the link of a file."""

    server: Server
    alice: Client
    wire: Wire
    link: str

    def upload(self, *headers: tuple[str, str]) -> Response:
        self.alice.send({"type": "upload", "name": "a.txt", "size": len(CONTENT)})
        ticket = self.alice.receive_type("upload")["ticket"]
        length = ("Content-Length", str(len(CONTENT)))
        head = [HOST, length, ("X-Upload-Ticket", ticket), *headers]
        self.wire.write(request("/files", head, method="POST") + CONTENT)
        return self.wire.read_response()


@contextlib.contextmanager
def sharing(data: Path, *allowed: str) -> Iterator[Shared]:
    with (
        serving(history="sqlite", data=str(data), allow_origin=allowed) as server,
        connected(server.port, "/ws?username=Alice") as alice,
        wired(server.port) as wire,
    ):
        alice.receive_type("joined")
        shared = Shared(server, alice, wire, "")
        yield shared._replace(link=json.loads(shared.upload().body)["link"])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    with sharing(tmp_path_factory.mktemp("data"), OTHER, "http://localhost:3000") as shared:
        yield shared


def cors(response: Response) -> dict[str, str]:
    """The headers of an answer that belong to CORS."""
    name = "access-control-"
    return {
        key.removeprefix(name): value
        for key, value in response.headers.items()
        if key.startswith(name)
    }


def from_page(*origins: str) -> list[tuple[str, str]]:
    return [("Origin", origin) for origin in origins]


def assert_allows(response: Response, origin: str = OTHER) -> None:
    assert cors(response) == {
        "allow-origin": origin,
        "expose-headers": "accept-ranges, content-disposition, content-range, etag, location, "
        "retry-after",
    }
    assert response.headers["cross-origin-resource-policy"] == "cross-origin"
    assert response.headers["vary"] == "Origin"


def assert_refuses(response: Response) -> None:
    assert not cors(response)
    assert response.headers["cross-origin-resource-policy"] == "same-origin"


def test_allowed_page_can_upload_and_read(shared: Shared) -> None:
    """Every answer to a page of an allowed origin names that origin, errors included."""
    for origin in (OTHER, "http://localhost:3000", "HTTPS://OTHER.example:443"):
        uploaded = shared.upload(*from_page(origin))
        assert uploaded.status == 201
        assert_allows(uploaded, origin)
    page = from_page(OTHER)
    etag = ask(shared.wire, shared.link).headers["etag"]
    for headers, status in [
        ([], 200),
        ([("Range", "bytes=2-5")], 206),
        ([("Range", "bytes=99-")], 416),
        ([("If-None-Match", etag)], 304),
    ]:
        response = ask(shared.wire, shared.link, *page, *headers)
        assert response.status == status
        assert_allows(response)
        assert_allows(ask(shared.wire, shared.link, *page, *headers, method="HEAD"))
    for path, method, status in [
        ("/files/nothing/a.txt", "GET", 404),
        ("/files/nothing", "GET", 404),
        ("/files", "GET", 404),
        ("/files", "PUT", 405),
        (shared.link, "DELETE", 405),
    ]:
        response = ask(shared.wire, path, *page, method=method)
        assert response.status == status
        assert_allows(response)


def test_allowed_page_can_read_why_an_upload_is_refused(shared: Shared) -> None:
    """401 and 413 are for the page's script, so it must be able to read them."""
    head = [HOST, *from_page(OTHER), ("X-Upload-Ticket", "x")]
    for length, status in [("3", 401), (str(10**12), 413)]:
        with wired(shared.server.port) as wire:
            lengths = [("Content-Length", length)]
            wire.write(request("/files", [*head, *lengths], method="POST") + b"abc")
            response = wire.read_response()
        assert response.status == status
        assert_allows(response)


@pytest.mark.parametrize(
    ("target", "methods"), [("/files", "OPTIONS, POST"), ("link", "GET, HEAD, OPTIONS")]
)
def test_preflight_of_an_allowed_page_succeeds(shared: Shared, target: str, methods: str) -> None:
    """A browser asks whether a page can send the header of a ticket, or request a range."""
    asked = [
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "content-type,x-upload-ticket"),
    ]
    path = shared.link if target == "link" else target
    response = ask(shared.wire, path, *from_page(OTHER), *asked, method="OPTIONS")
    assert response.status == 204
    assert response.headers["allow"] == methods
    assert response.headers["vary"] == "Origin"
    allowed = cors(response)
    assert allowed["allow-origin"] == OTHER
    assert allowed["allow-methods"] == methods
    sent = set(allowed["allow-headers"].split(", "))
    assert sent >= {"authorization", "content-type", "x-upload-ticket", "range", "if-none-match"}
    assert int(allowed["max-age"]) > 0
    assert "allow-credentials" not in allowed


@pytest.mark.parametrize(
    "origins",
    [
        [EVIL],
        ["null"],
        [""],
        ["*"],
        ["\xff"],
        [OTHER + "/"],
        [OTHER + ".evil.example"],
        ["https://sub.other.example"],
        ["http://other.example"],
        [OTHER + ":8443"],
        [OTHER, OTHER],
        [OTHER, EVIL],
        [OWN],
    ],
)
def test_other_page_cannot_read(shared: Shared, origins: list[str]) -> None:
    """Only the origins that are named can read; the host's own page does not need the headers."""
    page = from_page(*origins)
    preflight = ("Access-Control-Request-Method", "POST")
    for response in (
        ask(shared.wire, shared.link, *page),
        shared.upload(*page),
        ask(shared.wire, "/files", *page, preflight, method="OPTIONS"),
    ):
        assert_refuses(response)
        assert response.headers["vary"] == "Origin"  # so that no cache mixes the answers up


def test_refused_preflight_is_logged(shared: Shared, caplog: pytest.LogCaptureFixture) -> None:
    """The log names the page and the setting that would allow it; other requests log nothing."""
    preflight = ("Access-Control-Request-Method", "POST")
    ask(shared.wire, "/files", *from_page(OTHER), preflight, method="OPTIONS")
    ask(shared.wire, "/files", *from_page(EVIL), method="OPTIONS")
    ask(shared.wire, "/files", preflight, method="OPTIONS")
    ask(shared.wire, shared.link, *from_page(EVIL))
    assert not caplog.records
    page = from_page(EVIL + "x" * 1000)
    ask(shared.wire, "/files", *page, preflight, method="OPTIONS")
    (record,) = caplog.records
    message = record.getMessage()
    assert EVIL in message
    assert "--allow-origin" in message
    assert len(message) < 300


def test_image_of_a_file_can_be_shown_by_allowed_pages(shared: Shared) -> None:
    """A browser does not name the page that shows an image, so every page can show it."""
    response = ask(shared.wire, shared.link)
    assert response.headers["cross-origin-resource-policy"] == "cross-origin"
    assert response.headers["vary"] == "Origin"
    assert not cors(response)


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/ws", "/nope", "/filesx", "/embed.js"])
def test_only_files_are_shared(shared: Shared, path: str) -> None:
    """The page and its files stay with their own origin."""
    plain = ask(shared.wire, path)
    response = ask(shared.wire, path, *from_page(OTHER))
    assert not cors(response)
    for name in ("vary", "cross-origin-resource-policy"):
        assert response.headers.get(name) == plain.headers.get(name)


def test_star_shares_files_with_every_page(tmp_path: Path) -> None:
    """`*` is answered with `*`, also to a page without an origin, and never with credentials."""
    with sharing(tmp_path, "*", OTHER) as shared:
        for origin in (EVIL, OTHER, "null", OWN):
            assert_allows(ask(shared.wire, shared.link, *from_page(origin)), "*")
            assert_allows(shared.upload(*from_page(origin)), "*")
        assert not cors(ask(shared.wire, shared.link, *from_page(EVIL, EVIL)))
        preflight = ("Access-Control-Request-Method", "GET")
        response = ask(shared.wire, shared.link, *from_page(EVIL), preflight, method="OPTIONS")
        assert cors(response)["allow-origin"] == "*"
        assert "allow-credentials" not in cors(response)


def test_files_are_not_shared_by_default(tmp_path: Path) -> None:
    """Without `--allow-origin`, no answer depends on the page."""
    with sharing(tmp_path) as shared:
        preflight = ("Access-Control-Request-Method", "POST")
        for response in (
            ask(shared.wire, shared.link),
            ask(shared.wire, shared.link, *from_page(EVIL)),
            shared.upload(*from_page(EVIL)),
            ask(shared.wire, "/files", *from_page(EVIL), preflight, method="OPTIONS"),
        ):
            assert_refuses(response)
            assert "vary" not in response.headers
