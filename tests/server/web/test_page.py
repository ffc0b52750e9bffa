"""How the page is served: types, compression, policies, and paths without a file."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from typing import NoReturn

import pytest

import fastchat.web.page
from fastchat.web.headers import SECURITY_HEADERS
from support.raw_websocket import Response, Wire, ask, is_dated, is_secure, request, wired
from support.server import wait_until
from support.server_in_thread import Server, serving


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    with wired(server.port) as wire:
        yield wire


# Files


FILES = [
    ("/", "text/html; charset=utf-8", b"<!doctype html>"),
    ("/static/index.html", "text/html; charset=utf-8", b"<!doctype html>"),
    ("/static/app.js", "text/javascript; charset=utf-8", b"import"),
    ("/static/app.css", "text/css; charset=utf-8", b"@layer"),
    ("/static/icon.svg", "image/svg+xml", b"<svg"),
    ("/static/manifest.webmanifest", "application/manifest+json", b'"icons"'),
    ("/static/lang/en.js", "text/javascript; charset=utf-8", b"export"),
    ("/static/sw.js", "text/javascript; charset=utf-8", b"caches"),
    ("/sw.js", "text/javascript; charset=utf-8", b"caches"),
]


@pytest.mark.parametrize(("path", "media_type", "beginning"), FILES)
def test_file_is_served_with_its_type(
    wire: Wire, path: str, media_type: str, beginning: bytes
) -> None:
    """Each file of the page has the type that browsers require."""
    response = ask(wire, path)
    assert response.status == 200
    assert response.headers["content-type"] == media_type
    assert beginning in response.body.lower()[:600]
    assert is_secure(response)


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/nope", "/ws"])
def test_head_is_get_without_a_body(wire: Wire, path: str) -> None:
    """HEAD gets the status and headers of GET, and the connection can be used again."""
    got = ask(wire, path)
    without_body = ask(wire, path, method="HEAD")
    assert without_body.status == got.status
    for name in ("content-length", "content-type", "etag"):
        assert without_body.headers.get(name) == got.headers.get(name)
    assert ask(wire, path).body == got.body


def test_unchanged_file_gets_304(wire: Wire) -> None:
    """A request with the file's ETag gets 304 without a body, and any other gets 200."""
    first = ask(wire, "/static/app.js")
    etag = first.headers["etag"]
    assert first.headers["cache-control"] == "no-cache"
    for known in (etag, f"W/{etag}", f'"other", {etag}'):
        again = ask(wire, "/static/app.js", ("If-None-Match", known))
        assert (again.status, again.body) == (304, b"")
        assert again.headers["etag"] == etag
        assert is_secure(again)
        assert is_dated(again)
    assert ask(wire, "/static/app.js", ("If-None-Match", '"other"')).status == 200
    assert ask(wire, "/static/app.css", ("If-None-Match", etag)).status == 200


def test_each_file_has_an_etag_of_its_own(wire: Wire) -> None:
    """An ETag belongs to a content, so a file under two names has one."""
    etags = {path: ask(wire, path).headers["etag"] for path, _, _ in FILES}
    assert etags.pop("/") == etags["/static/index.html"]
    assert etags.pop("/sw.js") == etags["/static/sw.js"]
    assert len(set(etags.values())) == len(etags)


@pytest.mark.parametrize(
    "path",
    [
        "/nope",
        "/static",
        "/static/",
        "/static/nope.js",
        "/index.html",
        "/app.js",
        "/static/lang",
        "/sw.js/",
        "//",
        "//static/app.js",
        "/static//app.js",
        "/static/app.js/",
        "/Static/app.js",
        "/static/APP.js",
        "/static/app.js%00",
        "/static/app.js%20",
        "/../etc/passwd",
        "/static/../../../../etc/passwd",
        "/static/../errors.py",
        "/static/lang/../app.js",
        "/static/..%2ferrors.py",
        "/static/%2e%2e/errors.py",
        "/static/%2e%2e%2ferrors.py",
        "/static/%252e%252e/errors.py",
        "/static/..\\errors.py",
        "/static/..%5cerrors.py",
        "/static/....//errors.py",
        "/static/./app.js",
        "/./static/app.js",
        "/etc/passwd",
        "/static/%2fetc/passwd",
        "/static/\xef\xbc\x8e\xef\xbc\x8e/errors.py",
        "/errors.py",
        "/static/client/outbox.js%23",
        "/static/%ff",
    ],
)
def test_path_is_matched_exactly(server: Server, path: str) -> None:
    """Only the exact paths of files are found; no path is resolved, normalised or guessed."""
    with wired(server.port) as wire:
        response = ask(wire, path)
    assert response.status in (400, 404)
    assert is_secure(response)
    assert b"root:" not in response.body
    assert b"import" not in response.body


def test_query_does_not_change_the_file(wire: Wire) -> None:
    """`?v=2` behind a file's name gets the file."""
    assert ask(wire, "/static/app.js?v=2&x=../").status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"])
@pytest.mark.parametrize("path", ["/", "/static/app.js", "/nope", "/ws"])
def test_other_method_gets_405(wire: Wire, method: str, path: str) -> None:
    """Another method gets 405 with the allowed methods."""
    response = ask(wire, path, ("Content-Length", "0"), method=method)
    assert response.status == 405
    assert response.headers["allow"] == "GET, HEAD, OPTIONS"
    assert is_secure(response)


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/ws", "*"])
def test_options_lists_the_methods(wire: Wire, path: str) -> None:
    """OPTIONS gets 204 and the methods (RFC 9110 §9.3.7), also about the whole server."""
    for _ in range(2):
        response = ask(wire, path, method="OPTIONS")
        assert (response.status, response.headers["allow"]) == (204, "GET, HEAD, OPTIONS")
        assert "content-length" not in response.headers  # RFC 9110 §8.6
        assert is_secure(response)
    assert ask(wire, "/nope", method="OPTIONS").status == 404


def test_plain_check_of_a_load_balancer_succeeds(wire: Wire) -> None:
    """HAProxy's `option httpchk` sends this by default, and takes any other answer than 2xx and 3xx
    for a server that is down."""
    wire.write(b"OPTIONS / HTTP/1.0\r\n\r\n")
    assert wire.read_response().status == 204
    assert wire.read_all() == b""


def test_plain_request_for_the_endpoint_is_explained(wire: Wire) -> None:
    """A plain request for /ws, as from a browser's address bar, gets 426."""
    response = ask(wire, "/ws")
    assert response.status == 426
    assert response.headers["upgrade"] == "websocket"
    assert is_secure(response)


def test_internal_error_discloses_nothing(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An internal error gets 500 with a fixed body and all security headers, and the log has the
    cause."""

    def fail(*arguments: object) -> NoReturn:
        raise RuntimeError("the secret is 42")

    monkeypatch.setattr(fastchat.web.page, "PlainTextResponse", fail)
    for path in ("/nope", "/ws"):
        with wired(server.port) as wire:
            response = ask(wire, path)
        assert (response.status, response.body) == (500, b"Internal Server Error")
        assert is_secure(response)
        assert is_dated(response)
    wait_until(lambda: [record.levelname for record in caplog.records] == ["ERROR"] * 2)


# Compression


def compressed(wire: Wire, path: str, *accepted: str) -> Response:
    return ask(wire, path, *(("Accept-Encoding", each) for each in accepted))


@pytest.mark.parametrize(
    "accepted",
    [
        ["gzip"],
        ["gzip, deflate, br, zstd"],
        ["br;q=1.0, gzip;q=0.8, *;q=0.1"],
        ["GZIP"],
        ["br", "gzip ; q=0.001"],
    ],
)
def test_text_is_compressed_if_accepted(wire: Wire, accepted: list[str]) -> None:
    """If the client accepts gzip, it gets the same content compressed, to about a quarter, with its
    encoding."""
    plain, small = ask(wire, "/static/app.css"), compressed(wire, "/static/app.css", *accepted)
    assert small.headers["content-encoding"] == "gzip"
    assert small.headers["content-type"] == plain.headers["content-type"]
    assert gzip.decompress(small.body) == plain.body
    assert len(small.body) < len(plain.body) / 2
    assert is_secure(small)


@pytest.mark.parametrize(
    "accepted",
    [
        [],
        [""],
        ["identity"],
        ["br, deflate"],
        ["*"],
        ["gzip;q=0"],
        ["br, gzip; q=0.000"],
        ["xgzip"],
    ],
)
def test_text_is_plain_if_gzip_is_not_accepted(wire: Wire, accepted: list[str]) -> None:
    """A client that does not name gzip, or refuses it, gets the plain content."""
    answer = compressed(wire, "/static/app.css", *accepted)
    assert "content-encoding" not in answer.headers
    assert answer.body == ask(wire, "/static/app.css").body


def test_caches_tell_compressed_from_plain_content(wire: Wire) -> None:
    """Both forms have `vary`, and each has an ETag of its own."""
    plain, small = ask(wire, "/static/app.css"), compressed(wire, "/static/app.css", "gzip")
    assert plain.headers["vary"] == small.headers["vary"] == "accept-encoding"
    etags = plain.headers["etag"], small.headers["etag"]
    assert etags[0] != etags[1]
    gzipped = ("Accept-Encoding", "gzip")
    for asked, etag, status in [
        ([], etags[0], 304),
        ([], etags[1], 200),
        ([gzipped], etags[1], 304),
        ([gzipped], etags[0], 200),
    ]:
        answer = ask(wire, "/static/app.css", *asked, ("If-None-Match", etag))
        assert answer.status == status
        assert answer.headers["vary"] == "accept-encoding"


# Headers


def test_link_header_names_the_files_that_the_page_needs(wire: Wire) -> None:
    """The Link header names the files of the first paint, then all modules, so that a browser
    fetches them at once."""
    links = ask(wire, "/").headers["link"].split(", ")
    assert links[0] == "</static/app.css>; rel=preload; as=style"
    modules = [link for link in links if link.endswith("; rel=modulepreload")]
    assert modules[0] == "</static/app.js>; rel=modulepreload"
    assert "</static/model/timeline.js>; rel=modulepreload" in modules
    paths = [link[1 : link.index(">")] for link in links]
    assert len(set(paths)) == len(paths)
    for path in paths:
        assert ask(wire, path).status == 200
    assert "link" not in ask(wire, "/static/app.js").headers


def test_head_fits_the_buffer_of_a_proxy(wire: Wire) -> None:
    """The head of the page fits the 4 KiB that nginx reads (`proxy_buffer_size`)."""
    wire.write(request("/"))
    assert len(wire.read_until(b"\r\n\r\n")) < 4096


def test_only_scripts_for_other_sites_can_be_loaded_by_them(wire: Wire) -> None:
    """/embed.js, the client and its types can be loaded by other sites, isolated ones, too, and no
    other file can."""
    script = ask(wire, "/embed.js")
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    for path in ("/embed.js", "/client.js", "/client.d.ts"):
        assert ask(wire, path).headers["cross-origin-resource-policy"] == "cross-origin"
    for path in ("/", "/sw.js", "/static/app.js", "/static/client.js", "/static/icon.svg", "/nope"):
        assert ask(wire, path).headers["cross-origin-resource-policy"] == "same-origin"


def test_client_can_be_read_by_other_sites(wire: Wire) -> None:
    """Other sites can read the client and its types, with any origin or none and also if a cache
    asks again, but never with credentials. Deno finds the types."""
    types = {
        "/client.js": "text/javascript; charset=utf-8",
        "/client.d.ts": "application/typescript; charset=utf-8",
    }
    for path, media_type in types.items():
        first = ask(wire, path)
        assert first.headers["content-type"] == media_type
        again = (("If-None-Match", first.headers["etag"]), ("Origin", "https://www.example"))
        for answer in (first, ask(wire, path, *again), ask(wire, path, method="HEAD")):
            assert answer.headers["access-control-allow-origin"] == "*"
            assert "access-control-allow-credentials" not in answer.headers
            assert answer.headers["cache-control"] == "no-cache"
    assert ask(wire, "/client.js").headers["x-typescript-types"] == "/client.d.ts"
    assert ask(wire, "/client.js").body == ask(wire, "/static/client.js").body
    for path in ("/", "/embed.js", "/sw.js", "/static/client.js", "/static/app.js", "/ws", "/nope"):
        origin = ("Origin", "https://www.example")
        assert "access-control-allow-origin" not in ask(wire, path, origin).headers


def ancestors(response: Response) -> str:
    """Return the sites that can show this response in a frame."""
    found = re.search(r"frame-ancestors ([^;]+)", response.headers["content-security-policy"])
    assert found is not None
    return found[1]


def test_frames_are_forbidden_by_default(wire: Wire) -> None:
    """By default no site can show the page in a frame."""
    assert ancestors(ask(wire, "/")) == "'none'"
    assert "cross-origin-embedder-policy" not in ask(wire, "/").headers


@pytest.mark.parametrize(
    ("frames", "sources"),
    [
        (("https://www.example",), "'self' https://www.example:443"),
        (("HTTP://A.example", "http://b:3000"), "'self' http://a.example:80 http://b:3000"),
        (("*",), "'self' *"),
    ],
)
def test_allowed_sites_can_frame_the_page(frames: tuple[str, ...], sources: str) -> None:
    """`--allow-frame` names sites that can show the page in a frame, and nothing else of the
    server."""
    with serving(allow_frame=frames) as server, wired(server.port) as wire:
        page = ask(wire, "/")
        assert ancestors(page) == sources
        assert page.headers["cross-origin-resource-policy"] == "cross-origin"
        assert page.headers["cross-origin-embedder-policy"] == "require-corp"
        rest = {"content-security-policy", "cross-origin-resource-policy"}
        for name, value in SECURITY_HEADERS:
            assert name in rest or page.headers[name] == value
        for path in ("/static/index.html", "/nope", "/ws", "/sw.js"):
            assert ancestors(ask(wire, path)) == "'none'"
