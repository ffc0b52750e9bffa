"""What a real browser says of where a page is from, and what the server makes of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from support.server import Server, running_server

#: Opens a WebSocket as a page's script does; how that ended.
OPEN = """(url) => new Promise((resolve) => {
  const socket = new WebSocket(url);
  socket.onopen = () => { socket.close(); resolve("open"); };
  socket.onerror = () => resolve("refused");
})"""


def opened(page: Any, server: Server) -> str:
    found: str = page.evaluate(OPEN, server.url.replace("http", "ws", 1) + "/ws")
    return found


@pytest.fixture(scope="module")
def other() -> Iterator[Server]:
    """A server on another port, and so another host."""
    with running_server("--history", "memory") as other:
        yield other


@pytest.fixture
def page(chromium: Any, other: Server) -> Iterator[Any]:
    """A page of the other one, without the policy that would keep it from asking."""
    with contextlib.closing(chromium.new_context(bypass_csp=True)) as context:
        page = context.new_page()
        page.goto(other.url)
        yield page


def test_page_of_the_server_may_connect(blank: Any, server: Server) -> None:
    """Its policy, `connect-src 'self'`, covers the WebSocket, and its origin is the host's."""
    assert opened(blank, server) == "open"


def test_page_of_another_host_may_not(page: Any, server: Server, other: Server) -> None:
    """Each server takes its own; a page without an origin belongs to none."""
    assert opened(page, server) == "refused"
    assert opened(page, other) == "open"
    page.goto("about:blank")
    assert opened(page, other) == "refused"


def test_settings_let_it_in(page: Any, other: Server) -> None:
    """Under `--allow-origin` with what the browser says, or with `*`."""
    for allowed in (other.url, "*"):
        with running_server("--history", "memory", "--allow-origin", allowed) as server:
            assert opened(page, server) == "open"
