"""The `Origin` that a real browser sends, and the server's answer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.server import Server, running_server

#: Opens a WebSocket as a script of the page does, and returns how that ended.
OPEN = """(url) => new Promise((resolve) => {
  const socket = new WebSocket(url);
  socket.onopen = () => { socket.close(); resolve("open"); };
  socket.onerror = () => resolve("refused");
})"""


#: Shares an image as a script of another page does: announces it, posts it, reads a part of it, and
#: shows it with and without CORS. Returns what worked.
SHARE = """async (url) => {
  const socket = new WebSocket(url.replace("http", "ws") + "/ws?username=Alice");
  const answer = (type) => new Promise((resolve) => {
    socket.addEventListener("message", ({ data }) => {
      const event = JSON.parse(data);
      if (event.type === type) resolve(event);
    });
  });
  await answer("joined");
  const canvas = Object.assign(document.createElement("canvas"), { width: 3, height: 2 });
  const image = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  const announced = answer("upload");
  socket.send(JSON.stringify({ type: "upload", name: "a.png", size: image.size }));
  const { ticket } = await announced;
  const headers = { "X-Upload-Ticket": ticket };
  const uploaded = await fetch(url + "/files", { method: "POST", headers, body: image });
  const { link } = await uploaded.json();
  const part = await fetch(url + link, { headers: { Range: "bytes=1-3" } });
  const shown = (crossOrigin) => new Promise((resolve) => {
    const element = Object.assign(new Image(), { crossOrigin, src: url + link });
    element.onload = () => resolve(element.naturalWidth);
    element.onerror = () => resolve(0);
  });
  const found = [uploaded.status, part.status, await part.text(), await shown(null)];
  found.push(await shown("anonymous"), uploaded.headers.get("location") === link);
  socket.close();
  return found;
}"""


def open_websocket(page: Any, server: Server) -> str:
    found: str = page.evaluate(OPEN, server.url.replace("http", "ws", 1) + "/ws")
    return found


@pytest.fixture(scope="module")
def other() -> Iterator[Server]:
    """A server on another port, which makes it another origin."""
    with running_server("--history", "memory") as other:
        yield other


@pytest.fixture
def page(chromium: Any, other: Server) -> Iterator[Any]:
    """A page of the other server, without the policy that would forbid the connection."""
    with contextlib.closing(chromium.new_context(bypass_csp=True)) as context:
        page = context.new_page()
        page.goto(other.url)
        yield page


def test_page_of_the_server_can_connect(blank: Any, server: Server) -> None:
    """The page's policy, `connect-src 'self'`, covers the WebSocket, and its origin is the
    host's."""
    assert open_websocket(blank, server) == "open"


def test_page_of_another_host_cannot_connect(page: Any, server: Server, other: Server) -> None:
    """Each server admits its own pages only, and no page without an origin."""
    assert open_websocket(page, server) == "refused"
    assert open_websocket(page, other) == "open"
    page.goto("about:blank")
    assert open_websocket(page, other) == "refused"


def test_allowed_origin_can_connect(page: Any, other: Server) -> None:
    """`--allow-origin` admits the origin that the browser sends, and `*` admits every origin."""
    for allowed in (other.url, "*"):
        with running_server("--history", "memory", "--allow-origin", allowed) as server:
            assert open_websocket(page, server) == "open"


def test_allowed_origin_can_share_files(page: Any, other: Server, tmp_path: Path) -> None:
    """A page of an allowed origin can upload a file, read its parts, and show it."""
    for number, allowed in enumerate((other.url, "*")):
        data = ("--data", str(tmp_path / str(number)))
        with running_server(*data, "--allow-origin", allowed) as server:
            assert page.evaluate(SHARE, server.url) == [201, 206, "PNG", 3, 3, True]
