"""The `Origin` that a real browser sends, the server's answer, and the client in a page of another
origin."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from support.browser import joined_user
from support.server import Server, running_server
from support.site import Site, serving_site

EXAMPLE = Path(__file__).parents[2] / "examples" / "chat.html"
#: Makes the client reconnect at once. True when the log has this text. Poll it, because an attempt
#: can fail.
BACK = """(text) => {
  dispatchEvent(new Event("online"));
  return document.getElementById("log").textContent.includes(text);
}"""
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
    with closing(chromium.new_context(bypass_csp=True)) as context:
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


# The client


@pytest.fixture
def site() -> Iterator[Site]:
    with serving_site() as site:
        yield site


def open_example(chromium: Any, site: Site, server: Server) -> Any:
    """Open examples/chat.html as a page of another site, with a chat on a server."""
    site.pages["/"] = EXAMPLE.read_text("utf-8").replace("https://chat.example", server.url)
    page = chromium.new_page()
    page.goto(site.url)
    return page


def write(page: Any, text: str) -> None:
    page.fill("[name=text]", text)
    page.press("[name=text]", "Enter")


def test_page_of_an_allowed_origin_has_its_own_chat(
    chromium: Any, site: Site, tmp_path: Path
) -> None:
    """A page of another origin imports the client, reads and writes, shares a file, and continues
    after the server was killed, with every message once."""
    file = tmp_path / "notes.txt"
    file.write_text("notes")
    settings = ("--data", str(tmp_path / "data"), "--allow-origin", site.url)
    with running_server(*settings) as server, closing(open_example(chromium, site, server)) as page:
        log = "#log li"
        with joined_user("lobby", "Bob", server) as bob:
            expect(page.locator("#status")).to_have_text("open")
            bob.say("hello")
            expect(page.locator(log)).to_have_text(["Bob: hello"])
            bob.do(type="edit", offset=1, text="Hello!")
            page.set_input_files("[name=file]", file)
            write(page, "here")
            expect(page.locator(log)).to_contain_text(["Bob: Hello!", "/notes.txt?size=5"])
            bob.do(type="delete", offset=1)
            expect(page.locator(log).first).to_have_text("Bob: (deleted)")
        server.kill()
        expect(page.locator("#status")).to_contain_text("closed")
        write(page, "while it is away")
        with running_server(*settings, port=server.port):
            page.wait_for_function(BACK, arg="while it is away")
            expect(page.locator(log)).to_have_count(3)


def test_page_of_a_forbidden_origin_reads_the_client_only(
    chromium: Any, site: Site, server: Server
) -> None:
    """Without `--allow-origin` a page of another origin can load the client, but not connect."""
    with closing(open_example(chromium, site, server)) as page:
        expect(page.locator("#status")).to_contain_text("1006")


def test_only_the_client_is_shared_with_other_origins(page: Any, server: Server) -> None:
    """A script of another origin can read the client and its types, without credentials, and no
    other file."""
    read = """([url, options]) => fetch(url, options).then(({ status }) => status, () => 0)"""
    for path, readable in {
        "/client.js": True,
        "/client.d.ts": True,
        "/": False,
        "/sw.js": False,
        "/static/client.js": False,
        "/static/app.js": False,
        "/livez": False,
    }.items():
        expected = 200 if readable else 0
        assert page.evaluate(read, [server.url + path, {}]) == expected, path
        assert page.evaluate(read, [server.url + path, {"credentials": "include"}]) == 0, path
