"""Fixtures: a real Chromium and a real server for the page."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect, sync_playwright

from support.browser import CHROMIUM, TIMEOUT_MS, ScriptedServer, Visit, launch
from support.server import Server, running_server

expect.set_options(timeout=TIMEOUT_MS)

_rooms = (f"room-{number}" for number in itertools.count(1))


# One browser and one server are enough for all tests of the page that run in one process: each test
# has users and a room of its own. The scope is not the session, because Playwright's event loop
# would disturb the loops of other tests.
@pytest.fixture(scope="package")
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(
        "--data", str(tmp_path_factory.mktemp("data")), "--limits", "off"
    ) as server:
        yield server


@pytest.fixture
def room() -> str:
    """Return a new room, because the tests share a server."""
    return next(_rooms)


@pytest.fixture
def visit(chromium: Any, server: Server, room: str) -> Iterator[Visit]:
    """Return a function that opens the page as a new user. At the end, check that no page has
    reported an error."""
    contexts: list[Any] = []
    complaints: list[str] = []

    def visit(
        name: str | None = None,
        *,
        at: str | None = None,
        url: str | None = None,
        script: ScriptedServer | None = None,
        context: Any = None,
        init: str = "",
        query: str = "",
        **options: Any,
    ) -> Any:
        if context is None:
            # Requests of a service worker bypass the routes of a page.
            context = chromium.new_context(**{"service_workers": "block", **options})
            contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.add_init_script(init)
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: _note_dialog(dialog, complaints))
        page.on("console", lambda message: _note_policy(message.text, complaints))
        if script is not None:
            page.route_web_socket("**/ws", script.connect)
        page.goto(f"{url or server.url}/{query}#{room if at is None else at}")
        if name is not None:
            page.fill("#name-input", name)
            page.press("#name-input", "Enter")
            page.wait_for_selector("#people .person", state="attached")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert complaints == []


def _note_dialog(dialog: Any, complaints: list[str]) -> None:
    complaints.append(f"dialog: {dialog.message}")
    dialog.dismiss()


def _note_policy(text: str, complaints: list[str]) -> None:
    if "Content Security Policy" in text or "Uncaught" in text:
        complaints.append(text)


@pytest.fixture(scope="module")
def blank(chromium: Any, server: Server) -> Iterator[Any]:
    """Open a page that joins no room, where a module's tests can import the page's modules."""
    with contextlib.closing(chromium.new_page(service_workers="block")) as page:
        page.goto(server.url)
        yield page


@pytest.fixture
def script() -> ScriptedServer:
    return ScriptedServer()
