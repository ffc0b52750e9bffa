"""The page as it is served: types, packing, policies, and what finds nothing."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from typing import NoReturn

import pytest

import fastchat.web.page
from fastchat.web.headers import SECURITY_HEADERS
from support.raw_websocket import Response, Wire, ask, is_secure, request, wired
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
    """The page and everything it consists of, with the types that browsers insist on."""
    response = ask(wire, path)
    assert response.status == 200
    assert response.headers["content-type"] == media_type
    assert beginning in response.body.lower()[:600]
    assert is_secure(response)


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/nope", "/ws"])
def test_head_is_get_without_a_body(wire: Wire, path: str) -> None:
    """HEAD has the status and the headers of GET, and the connection goes on."""
    got = ask(wire, path)
    told = ask(wire, path, method="HEAD")
    assert told.status == got.status
    for name in ("content-length", "content-type", "etag"):
        assert told.headers.get(name) == got.headers.get(name)
    assert ask(wire, path).body == got.body


def test_known_file_is_not_sent_again(wire: Wire) -> None:
    """304, without a body, for whoever shows the file's ETag; 200 for any other."""
    first = ask(wire, "/static/app.js")
    etag = first.headers["etag"]
    assert first.headers["cache-control"] == "no-cache"
    for known in (etag, f"W/{etag}", f'"other", {etag}'):
        again = ask(wire, "/static/app.js", ("If-None-Match", known))
        assert (again.status, again.body) == (304, b"")
        assert again.headers["etag"] == etag
        assert is_secure(again)
    assert ask(wire, "/static/app.js", ("If-None-Match", '"other"')).status == 200
    assert ask(wire, "/static/app.css", ("If-None-Match", etag)).status == 200


def test_each_file_has_an_etag_of_its_own(wire: Wire) -> None:
    """An ETag stands for a content: a file under its two names has one."""
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
        "/static/../http.py",
        "/static/lang/../app.js",
        "/static/..%2fhttp.py",
        "/static/%2e%2e/http.py",
        "/static/%2e%2e%2fhttp.py",
        "/static/%252e%252e/http.py",
        "/static/..\\http.py",
        "/static/..%5chttp.py",
        "/static/....//http.py",
        "/static/./app.js",
        "/./static/app.js",
        "/etc/passwd",
        "/static/%2fetc/passwd",
        "/static/\xef\xbc\x8e\xef\xbc\x8e/http.py",
        "/http.py",
        "/static/client/close-codes.js%23",
        "/static/%ff",
    ],
)
def test_path_is_matched_exactly(server: Server, path: str) -> None:
    """No path but those of the files finds anything; none is resolved, cleaned up or guessed."""
    with wired(server.port) as wire:
        response = ask(wire, path)
    assert response.status in (400, 404)
    assert is_secure(response)
    assert b"root:" not in response.body
    assert b"import" not in response.body


def test_query_does_not_matter_to_a_file(wire: Wire) -> None:
    """`?v=2` behind a file's name is the file."""
    assert ask(wire, "/static/app.js?v=2&x=../").status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/static/app.js", "/nope", "/ws"])
def test_other_method_gets_405(wire: Wire, method: str, path: str) -> None:
    """Nothing here takes anything: 405, with what is allowed."""
    response = ask(wire, path, ("Content-Length", "0"), method=method)
    assert response.status == 405
    assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD"}
    assert is_secure(response)


def test_plain_request_for_the_endpoint_is_explained(wire: Wire) -> None:
    """Whoever opens /ws in a browser's address bar gets 426."""
    response = ask(wire, "/ws")
    assert response.status == 426
    assert response.headers["upgrade"] == "websocket"
    assert is_secure(response)


def test_answer_to_a_fault_of_ours_says_nothing(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """500 with a fixed body and all security headers; what it was is in the log."""

    def fail(*arguments: object) -> NoReturn:
        raise RuntimeError("the secret is 42")

    monkeypatch.setattr(fastchat.web.page, "PlainTextResponse", fail)
    for path in ("/nope", "/ws"):
        with wired(server.port) as wire:
            response = ask(wire, path)
        assert (response.status, response.body) == (500, b"Internal Server Error")
        assert is_secure(response)
    wait_until(lambda: [record.levelname for record in caplog.records] == ["ERROR"] * 2)


# Packing


def packed(wire: Wire, path: str, *accepted: str) -> Response:
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
def test_text_is_packed_for_who_takes_that(wire: Wire, accepted: list[str]) -> None:
    """The same content in gzip, said so, in a quarter of the bytes or so."""
    plain, small = ask(wire, "/static/app.css"), packed(wire, "/static/app.css", *accepted)
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
def test_text_is_plain_for_others(wire: Wire, accepted: list[str]) -> None:
    """Who does not name gzip, or does not want it, gets the content itself."""
    answer = packed(wire, "/static/app.css", *accepted)
    assert "content-encoding" not in answer.headers
    assert answer.body == ask(wire, "/static/app.css").body


def test_caches_tell_the_packed_from_the_plain(wire: Wire) -> None:
    """`vary`, and an ETag for each of the two, which stands for none but that one."""
    plain, small = ask(wire, "/static/app.css"), packed(wire, "/static/app.css", "gzip")
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


# What a browser is told besides


def test_page_names_what_it_needs(wire: Wire) -> None:
    """What paints it first, then all modules, so that none waits for another to be read."""
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


def test_head_fits_a_proxy(wire: Wire) -> None:
    """All that is said before the page: nginx takes 4 KiB of that (`proxy_buffer_size`)."""
    wire.write(request("/"))
    assert len(wire.read_until(b"\r\n\r\n")) < 4096


def test_script_for_other_pages_may_be_loaded_by_them(wire: Wire) -> None:
    """/embed.js says so, also to isolated pages; of all else other hosts see nothing."""
    script = ask(wire, "/embed.js")
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    assert script.headers["cross-origin-resource-policy"] == "cross-origin"
    for path in ("/", "/sw.js", "/static/app.js", "/static/icon.svg", "/nope"):
        assert ask(wire, path).headers["cross-origin-resource-policy"] == "same-origin"


def ancestors(response: Response) -> str:
    """Who may show this in a frame."""
    found = re.search(r"frame-ancestors ([^;]+)", response.headers["content-security-policy"])
    assert found is not None
    return found[1]


def test_page_is_in_no_frame(wire: Wire) -> None:
    """Unless a setting says otherwise."""
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
def test_settings_let_the_page_into_frames(frames: tuple[str, ...], sources: str) -> None:
    """`--allow-frame` says in whose: the page, and nothing else of the server."""
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
