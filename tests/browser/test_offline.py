"""The page without its server: the service worker stores the page, and nothing else."""

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

#: Whether every file that the page has loaded is stored.
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
def killable_server(tmp_path: Path) -> Iterator[Server]:
    """A server that a test can kill."""
    with running_server("--data", str(tmp_path)) as server:
        yield server


def open_stored(visit: Visit, server: Server, name: str | None = "Ann") -> Any:
    """Open the page, and return when the service worker has stored it."""
    page = visit(name, url=server.url, service_workers="allow")
    page.wait_for_function("() => navigator.serviceWorker.controller")
    wait_until(lambda: page.evaluate(KEPT))
    return page


def test_reload_without_a_server_shows_the_page(
    visit: Visit, room: str, tmp_path: Path, killable_server: Server
) -> None:
    """A reload without the server shows the page with its pending messages; they and later ones are
    sent once when the server is back."""
    ann = open_stored(visit, killable_server)
    killable_server.kill()
    say(ann, "before the reload")
    ann.reload()
    expect(ann.locator(".message--pending .message__text")).to_have_text(["before the reload"])
    say(ann, "after it")
    expect(ann.locator(".message--pending")).to_have_count(2)
    ann.goto(
        f"{killable_server.url}/?lang=en#{room}"
    )  # The service worker answers for every query.
    expect(ann.locator(".message--pending")).to_have_count(2)
    with (
        running_server("--data", str(tmp_path), port=killable_server.port) as second,
        joined_user(room, "Bob", second) as bob,
    ):
        ann.wait_for_function(BACK_WITH, arg="after it")
        expect(ann.locator(".message[data-offset] .message__text")).to_have_text(
            ["before the reload", "after it"]
        )
        expect(ann.locator(".message--pending")).to_have_count(0)
        bob.say("I see")
        expect(text_in(ann, "I see")).to_be_visible()


def test_modules_loaded_on_demand_are_stored_too(visit: Visit, killable_server: Server) -> None:
    """Modules that the page loads on demand load without the server, too."""
    page = open_stored(visit, killable_server)
    wait_until(lambda: page.evaluate(COPY, "/static/around/search.js"))
    wait_until(lambda: page.evaluate(COPY, "/static/text/highlight.js"))
    wait_until(lambda: page.evaluate(COPY, "/static/around/preferences.js"))
    killable_server.kill()
    page.click("#search-toggle")
    expect(page.locator("#search-field")).to_be_focused()
    page.click("#preferences-open")
    expect(page.locator("#preferences")).to_be_visible()


def test_server_s_files_replace_stored_ones(visit: Visit, killable_server: Server) -> None:
    """While the server answers, its files are used and replace stored ones."""
    page = open_stored(visit, killable_server)
    page.evaluate(KEEP, ["/static/app.css", "old"])
    page.evaluate(KEEP, ["/", "old"])
    assert page.evaluate(FETCHED, "/static/app.css") != "old"
    page.reload()
    expect(page.locator("#composer")).to_be_visible()
    wait_until(lambda: page.evaluate(COPY, "/") != "old")
    assert page.evaluate(COPY, "/static/app.css") != "old"


def test_files_that_the_server_dropped_are_removed(visit: Visit, killable_server: Server) -> None:
    """When the page starts, stored files that the server no longer has are removed; unused files
    stay and are updated."""
    page = open_stored(visit, killable_server)
    page.evaluate(KEEP, ["/static/gone.js", "old"])
    page.evaluate(KEEP, ["/static/icon-unread.svg", "old"])
    page.reload()
    wait_until(lambda: page.evaluate(COPY, "/static/gone.js") is None)
    wait_until(lambda: page.evaluate(COPY, "/static/icon-unread.svg") != "old")
    assert "<svg" in page.evaluate(COPY, "/static/icon-unread.svg")


def test_only_the_page_is_stored(visit: Visit, killable_server: Server) -> None:
    """The service worker stores no shared files, and no other answers."""
    page = open_stored(visit, killable_server)
    assert "404" in page.evaluate("() => fetch('/files/a/b').then((answer) => `${answer.status}`)")
    page.evaluate(FETCHED, "/nope")
    page.evaluate(FETCHED, "/ws")
    kept = page.evaluate(KEPT_PATHS)
    assert len(kept) > 30
    assert [path for path in kept if path != "/" and not path.startswith("/static/")] == []
    for path in ("/files/a/b", "/ws", "/nope", "/static/kept"):
        page.evaluate(KEEP, [path, "kept"])
    killable_server.kill()
    assert page.evaluate(FETCHED, "/static/kept") == "kept"
    for path in ("/files/a/b", "/ws", "/nope", "/static/not-kept"):
        assert page.evaluate(FETCHED, path) == "unreachable"


class Unavailable(http.server.BaseHTTPRequestHandler):
    """A proxy whose server is down."""

    def do_GET(self) -> None:
        self.send_error(502)

    def log_message(self, *arguments: object) -> None:
        """Log nothing."""


class ReusingServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def test_proxy_s_error_page_is_not_shown(visit: Visit, killable_server: Server) -> None:
    """If a proxy answers with an error, the stored page is shown in its place."""
    page = open_stored(visit, killable_server)
    killable_server.kill()
    with ReusingServer(("127.0.0.1", killable_server.port), Unavailable) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        page.reload()
        expect(page.locator("#composer")).to_be_visible()
        assert page.evaluate("() => fetch('/static/none').then(({ status }) => status)") == 502
        proxy.shutdown()


def test_page_can_be_installed(chromium: Any, server: Server, tmp_path: Path) -> None:
    """Chromium finds no defect in the manifest, its icons and the page."""
    with chromium.browser_type.launch_persistent_context(tmp_path, **launch_options()) as context:
        page = context.pages[0]
        page.goto(server.url)
        expect(page.locator("#name-dialog")).to_be_visible()
        devtools = context.new_cdp_session(page)
        manifest = devtools.send("Page.getAppManifest")
        assert devtools.send("Page.getInstallabilityErrors")["installabilityErrors"] == []
    assert manifest["errors"] == []
    assert manifest["url"] == f"{server.url}/static/manifest.webmanifest"
