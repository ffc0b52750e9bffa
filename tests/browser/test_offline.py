"""The page without its server: it is kept by a service worker, and only for that."""

from __future__ import annotations

import http.server
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from support.browser import BACK_WITH, Visit, joined_user, launch_options, say, text_in
from support.server import Server, running_server, wait_until

#: Whether all that the page has loaded is kept.
KEPT = """async () => {
  const loaded = performance.getEntriesByType("resource").map(({ name }) => new URL(name).pathname);
  const shell = ["/", ...loaded.filter((path) => path.startsWith("/static/"))];
  return (await Promise.all(shell.map((path) => caches.match(path)))).every(Boolean);
}"""
KEEP = """async ([path, text]) => (await caches.open("fastchat")).put(path, new Response(text))"""
COPY = """async (path) => (await (await caches.match(path))?.text()) ?? null"""
FETCHED = """(path) => fetch(path).then((answer) => answer.text(), () => "unreachable")"""
KEPT_PATHS = """async () => {
  const requests = await (await caches.open("fastchat")).keys();
  return requests.map(({ url }) => new URL(url).pathname);
}"""


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Server]:
    """A server that the test may kill."""
    with running_server("--data", str(tmp_path)) as server:
        yield server


def keep(visit: Visit, server: Server, name: str | None = "Ann") -> Any:
    """Opens the page, and returns when it is kept."""
    page = visit(name, url=server.url, service_workers="allow")
    page.wait_for_function("() => navigator.serviceWorker.controller")
    wait_until(lambda: page.evaluate(KEPT))
    return page


def test_reload_without_a_server_shows_the_page(
    visit: Visit, room: str, tmp_path: Path, mortal: Server
) -> None:
    """With what is on its way, and what is written then; all goes out, once, when it is back."""
    ann = keep(visit, mortal)
    mortal.kill()
    say(ann, "before the reload")
    ann.reload()
    expect(ann.locator(".message--pending .message__text")).to_have_text(["before the reload"])
    say(ann, "after it")
    expect(ann.locator(".message--pending")).to_have_count(2)
    ann.goto(f"{mortal.url}/?lang=en#{room}")  # whatever is asked of the page
    expect(ann.locator(".message--pending")).to_have_count(2)
    with (
        running_server("--data", str(tmp_path), port=mortal.port) as second,
        joined_user(room, "Bob", second) as bob,
    ):
        ann.wait_for_function(BACK_WITH, arg="after it")
        expect(ann.locator(".message[data-offset] .message__text")).to_have_text(
            ["before the reload", "after it"]
        )
        expect(ann.locator(".message--pending")).to_have_count(0)
        bob.say("I see")
        expect(text_in(ann, "I see")).to_be_visible()


def test_what_nobody_has_used_yet_is_kept_too(visit: Visit, mortal: Server) -> None:
    """What comes when it is asked for comes without a server as well."""
    page = keep(visit, mortal)
    wait_until(lambda: page.evaluate(COPY, "/static/around/search.js"))
    wait_until(lambda: page.evaluate(COPY, "/static/text/highlight.js"))
    wait_until(lambda: page.evaluate(COPY, "/static/around/preferences.js"))
    mortal.kill()
    page.click("#search-toggle")
    expect(page.locator("#search-field")).to_be_focused()
    page.click("#preferences-open")
    expect(page.locator("#preferences")).to_be_visible()


def test_nothing_is_stale_while_there_is_a_server(visit: Visit, mortal: Server) -> None:
    """An old copy is no answer while the server has one, and is replaced by that."""
    page = keep(visit, mortal)
    page.evaluate(KEEP, ["/static/app.css", "old"])
    page.evaluate(KEEP, ["/", "old"])
    assert page.evaluate(FETCHED, "/static/app.css") != "old"
    page.reload()
    expect(page.locator("#composer")).to_be_visible()
    wait_until(lambda: page.evaluate(COPY, "/") != "old")
    assert page.evaluate(COPY, "/static/app.css") != "old"


def test_what_the_server_has_no_more_is_forgotten(visit: Visit, mortal: Server) -> None:
    """A page that starts sees to that; what it only did not need this time stays, up to date."""
    page = keep(visit, mortal)
    page.evaluate(KEEP, ["/static/gone.js", "old"])
    page.evaluate(KEEP, ["/static/icon-unread.svg", "old"])
    page.reload()
    wait_until(lambda: page.evaluate(COPY, "/static/gone.js") is None)
    wait_until(lambda: page.evaluate(COPY, "/static/icon-unread.svg") != "old")
    assert "<svg" in page.evaluate(COPY, "/static/icon-unread.svg")


def test_only_the_page_is_kept(visit: Visit, mortal: Server) -> None:
    """Files that people share, and all else, are none of the service worker's business."""
    page = keep(visit, mortal)
    assert "404" in page.evaluate("() => fetch('/files/a/b').then((answer) => `${answer.status}`)")
    page.evaluate(FETCHED, "/nope")
    page.evaluate(FETCHED, "/ws")
    kept = page.evaluate(KEPT_PATHS)
    assert len(kept) > 30
    assert [path for path in kept if path != "/" and not path.startswith("/static/")] == []
    for path in ("/files/a/b", "/ws", "/nope", "/static/kept"):
        page.evaluate(KEEP, [path, "kept"])
    mortal.kill()
    assert page.evaluate(FETCHED, "/static/kept") == "kept"
    for path in ("/files/a/b", "/ws", "/nope", "/static/not-kept"):
        assert page.evaluate(FETCHED, path) == "unreachable"


class Unavailable(http.server.BaseHTTPRequestHandler):
    """A proxy whose server is away."""

    def do_GET(self) -> None:
        self.send_error(502)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


class ReusingServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def test_proxy_without_a_server_is_none(visit: Visit, mortal: Server) -> None:
    """What a proxy says in the place of the server is not shown in the place of the page."""
    page = keep(visit, mortal)
    mortal.kill()
    with ReusingServer(("127.0.0.1", mortal.port), Unavailable) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        page.reload()
        expect(page.locator("#composer")).to_be_visible()
        assert page.evaluate("() => fetch('/static/none').then(({ status }) => status)") == 502
        proxy.shutdown()


def test_page_can_be_installed(chromium: Any, server: Server, tmp_path: Path) -> None:
    """Chromium finds nothing that is missing in the manifest, its icons and the page."""
    with chromium.browser_type.launch_persistent_context(tmp_path, **launch_options()) as context:
        page = context.pages[0]
        page.goto(server.url)
        expect(page.locator("#name-dialog")).to_be_visible()
        told = context.new_cdp_session(page)
        manifest = told.send("Page.getAppManifest")
        assert told.send("Page.getInstallabilityErrors")["installabilityErrors"] == []
    assert manifest["errors"] == []
    assert manifest["url"] == f"{server.url}/static/manifest.webmanifest"
