"""The page in the page of somebody else: whom it lets, what it is told, what it keeps there."""

from __future__ import annotations

import contextlib
import http.server
import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from fastchat.auth.issuing import create_secret, make_token
from support.browser import TIMEOUT_MS, joined_user, launch_options, say, text_in
from support.server import TIMEOUT_UNIT_S, Server, running_server, wait_until

Issue = Callable[..., str]

#: Of a token that expires while the page is open; it is made when the page asks for it.
SHORT_S = 4 * int(TIMEOUT_UNIT_S)


class Site(socketserver.ThreadingTCPServer):
    """A site of somebody else's, on another host: not 127.0.0.1, but localhost.

    `pages` are its answers, by path: each a body, or a function that returns one.
    """

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self) -> None:
        self.pages: dict[str, str | Callable[[], str]] = {}
        self.headers: dict[str, str] = {}
        self.requests: list[str] = []
        super().__init__(("127.0.0.1", 0), _Answer)
        self.url = f"http://localhost:{self.server_address[1]}"


class _Answer(http.server.BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        page = self.server.pages.get(self.path)
        body = page() if callable(page) else page
        self.send_response(404 if body is None else 200)
        self.send_header("content-type", "text/html; charset=utf-8")
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write((body or "").encode())

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serving_site() -> Iterator[Site]:
    with Site() as site:
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        try:
            yield site
        finally:
            site.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def hosting() -> Iterator[Site]:
    with serving_site() as site:
        yield site


@pytest.fixture
def site(hosting: Site) -> Site:
    """The one that the servers know, as new."""
    hosting.pages, hosting.headers, hosting.requests = {}, {}, []
    return hosting


@pytest.fixture(scope="module")
def server(hosting: Site) -> Iterator[Server]:
    with running_server("--history", "memory", "--allow-frame", hosting.url) as server:
        yield server


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "secret"
    create_secret(file)
    return file


@pytest.fixture(scope="module")
def strict(hosting: Site, key: Path) -> Iterator[Server]:
    """A server that asks for tokens."""
    auth = ("--auth", "jwt", "--jwt-key-file", str(key))
    with running_server("--history", "memory", "--allow-frame", hosting.url, *auth) as server:
        yield server


@pytest.fixture
def issue(key: Path) -> Issue:
    """Makes a token for somebody, by his name."""

    def issue(name: str, *, lasts_s: int = 600) -> str:
        return make_token(key, subject=f"u-{name}", name=name, duration_s=lasts_s)

    return issue


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[[str], Any]]:
    """Opens an address where, as in a private window, frames of others may remember nothing."""
    with contextlib.ExitStack() as contexts:

        def open_page(url: str) -> Any:
            context = chromium.new_context(service_workers="block")
            contexts.enter_context(contextlib.closing(context))
            return open_in(context, url)

        yield open_page


@pytest.fixture
def profile(chromium: Any, tmp_path: Path) -> Iterator[Any]:
    """A browser with Chromium's own defaults: there a frame has a memory for each site."""
    # Distributions have others, as Debian in /etc/chromium/master_preferences.
    preferences = {"profile": {"cookie_controls_mode": 0, "block_third_party_cookies": False}}
    (tmp_path / "Default").mkdir()
    (tmp_path / "Default" / "Preferences").write_text(json.dumps(preferences), "utf-8")
    options = launch_options()
    # Playwright disables ThirdPartyStoragePartitioning; of several such lists the last one counts.
    options["args"].append("--disable-features=Translate")
    launch = chromium.browser_type.launch_persistent_context
    with launch(tmp_path, service_workers="block", **options) as context:
        yield context


def open_in(context: Any, url: str) -> Any:
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    page.goto(url)
    return page


def embedding(server: Server, room: str, **data: str) -> str:
    """A page with a room in it, as docs/embedding.md says."""
    attributes = "".join(
        f' data-{name.replace("_", "-")}="{value}"' for name, value in data.items()
    )
    script = f'<script src="{server.url}/embed.js" data-room="{room}"{attributes}></script>'
    return f"<!doctype html><title>Site</title><h1>Welcome</h1>{script}<p>Goodbye</p>"


def join(frame: Any, name: str) -> None:
    frame.locator("#name-input").fill(name)
    frame.locator("#name-input").press("Enter")
    expect(frame.locator("#own-name")).to_have_text(name)


def write(frame: Any, text: str) -> None:
    frame.locator("#composer").fill(text)
    frame.locator("#composer").press("Enter")


# The frame


def test_room_in_somebody_elses_page(open_page: Any, server: Server, site: Site, room: str) -> None:
    """People there and people here talk; the frame stands where the script stood."""
    site.pages["/"] = embedding(server, room)
    page = open_page(site.url)
    frame = page.frame_locator("h1 + iframe")
    join(frame, "Ann")
    write(frame, "hello from a site")
    with joined_user(room, "Bob", server) as bob:
        bob.say("hello, site")
        expect(text_in(frame, "hello, site")).to_be_visible()
    expect(text_in(frame, "hello from a site")).to_be_visible()
    expect(page.locator("script")).to_have_count(0)
    expect(frame.locator("html.embedded")).to_have_count(1)


def test_frame_is_as_the_script_asks(open_page: Any, server: Server, site: Site, room: str) -> None:
    """Its height, its title for those who cannot see it, its colours and its language."""
    wanted = {"height": "300", "title": "Ask us", "theme": "dark", "lang": "en-GB"}
    site.pages["/"] = embedding(server, room, **wanted)
    page = open_page(site.url)
    box = page.locator("iframe").bounding_box()
    assert box["height"] == 300
    assert box["width"] == page.locator("h1").bounding_box()["width"]
    assert page.locator("iframe").get_attribute("title") == "Ask us"
    frame = page.frame_locator("iframe")
    expect(frame.locator("html[data-theme=dark][lang|=en]")).to_have_count(1)
    expect(frame.locator(f"[data-room]:text-is('{room}')").first).to_be_attached()


def test_height_may_be_a_length(open_page: Any, server: Server, site: Site, room: str) -> None:
    """Of any unit that styles know."""
    site.pages["/"] = embedding(server, room, height="50vh")
    page = open_page(site.url)
    assert page.locator("iframe").bounding_box()["height"] == page.viewport_size["height"] / 2


def test_several_rooms_in_one_page(profile: Any, server: Server, site: Site, room: str) -> None:
    """Each script makes a frame of its own; one browser is one person in all of them."""
    site.pages["/"] = embedding(server, room) + embedding(server, f"{room}-b")
    page = open_in(profile, site.url)
    first, second = (page.frame_locator("iframe").nth(number) for number in (0, 1))
    join(first, "Ann")
    page.reload()
    for frame in (first, second):
        expect(frame.locator("#own-name")).to_have_text("Ann")
    write(first, "here")
    write(second, "and there")
    expect(text_in(first, "here")).to_be_visible()
    expect(text_in(second, "and there")).to_be_visible()
    expect(text_in(second, "here").filter(has_not_text="and")).to_have_count(0)


def test_script_may_come_later(open_page: Any, server: Server, site: Site, room: str) -> None:
    """A page's own script puts it where it wants the room."""
    site.pages["/"] = "<main></main><p>Goodbye</p>"
    page = open_page(site.url)
    page.evaluate(
        """([src, room]) => {
          const script = Object.assign(document.createElement("script"), { src });
          script.dataset.room = room;
          document.querySelector("main").append(script);
        }""",
        [f"{server.url}/embed.js", room],
    )
    expect(page.frame_locator("main iframe").locator("#name-input")).to_be_visible()


def test_isolated_page_embeds_too(open_page: Any, server: Server, site: Site, room: str) -> None:
    """One that takes only what says that it may be taken (COEP: require-corp)."""
    site.headers["cross-origin-embedder-policy"] = "require-corp"
    site.headers["cross-origin-opener-policy"] = "same-origin"
    site.pages["/"] = embedding(server, room)
    page = open_page(site.url)
    assert page.evaluate("crossOriginIsolated")
    join(page.frame_locator("iframe"), "Ann")


def test_strict_page_embeds_too(open_page: Any, server: Server, site: Site, room: str) -> None:
    """The script needs no more of a page's own policy than its two sources."""
    policy = f"default-src 'none'; script-src {server.url}; frame-src {server.url}"
    site.headers["content-security-policy"] = policy
    site.pages["/"] = embedding(server, room, height="300")
    page = open_page(site.url)
    join(page.frame_locator("iframe"), "Ann")
    assert page.locator("iframe").bounding_box()["height"] == 300


def test_page_by_itself_is_in_no_frame(open_page: Any, server: Server, room: str) -> None:
    """Whatever its address says."""
    page = open_page(f"{server.url}/?embed#{room}")
    join(page, "Ann")
    expect(page.locator("html.embedded")).to_have_count(0)


# Who may


def refusal(page: Any, url: str) -> str:
    """What the browser says about a frame that it does not show."""
    with page.expect_console_message(lambda said: "frame-ancestors" in said.text) as said:
        page.goto(url)
    text: str = said.value.text
    return text


def test_nobody_embeds_unless_a_setting_says_so(
    open_page: Any, site: Site, server: Server, room: str
) -> None:
    """The browser refuses to show it, and so a page cannot lay itself over it."""
    with running_server("--history", "memory") as closed:
        site.pages["/"] = embedding(closed, room)
        page = open_page("about:blank")
        assert "frame-ancestors 'none'" in refusal(page, site.url)
        assert page.frame_locator("iframe").locator("#composer").count() == 0


def test_others_than_those_do_not(open_page: Any, server: Server, room: str) -> None:
    """Another port is another site, and so is one of these with another around it."""
    with serving_site() as stranger:
        stranger.pages["/"] = embedding(server, room)
        page = open_page("about:blank")
        assert "frame-ancestors 'self' http://localhost" in refusal(page, stranger.url)
        assert page.frame_locator("iframe").locator("#composer").count() == 0


def test_all_may_if_a_setting_says_so(open_page: Any, site: Site, room: str) -> None:
    """Under `--allow-frame '*'`."""
    with running_server("--history", "memory", "--allow-frame", "*") as server:
        site.pages["/"] = embedding(server, room)
        join(open_page(site.url).frame_locator("iframe"), "Ann")


# Who is looking


def test_token_is_handed_in(
    profile: Any, strict: Server, site: Site, issue: Issue, room: str
) -> None:
    """Nobody is asked for anything, and the token is in no address and in no storage."""
    token = issue("Ann")
    site.pages["/"] = embedding(strict, room, token=token)
    page = open_in(profile, "about:blank")
    addresses: list[str] = []
    page.on("request", lambda request: addresses.append(request.url))
    page.on("websocket", lambda socket: addresses.append(socket.url))
    page.goto(site.url)
    frame = page.frame_locator("iframe")
    expect(frame.locator("#own-name")).to_have_text("Ann")
    expect(frame.locator("dialog[open]")).to_have_count(0)
    assert any(address.startswith("ws:") for address in addresses)
    assert not [address for address in addresses if token in address]
    stored = "() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }])"
    assert token not in page.frames[1].evaluate(stored)


def test_token_is_fetched_anew(
    open_page: Any, strict: Server, site: Site, issue: Issue, room: str
) -> None:
    """When the last one has expired, or was none: the visitor notices nothing."""
    tokens = iter(["not a token", issue("Ann")])
    site.pages["/chat-token"] = lambda: next(tokens) + "\n"
    site.pages["/"] = embedding(strict, room, token_url="/chat-token")
    page = open_page(site.url)
    frame = page.frame_locator("iframe")
    expect(frame.locator("#own-name")).to_have_text("Ann")
    expect(frame.locator("dialog[open]")).to_have_count(0)
    assert site.requests.count("/chat-token") == 2


def test_token_that_runs_out_is_renewed(
    open_page: Any, strict: Server, site: Site, issue: Issue, room: str
) -> None:
    """In the middle of a conversation, which goes on."""
    lasting = iter([SHORT_S, 600])
    site.pages["/chat-token"] = lambda: issue("Ann", lasts_s=next(lasting))
    site.pages["/"] = embedding(strict, room, token_url="/chat-token")
    frame = open_page(site.url).frame_locator("iframe")
    expect(frame.locator("#own-name")).to_have_text("Ann")
    write(frame, "before")
    wait_until(lambda: site.requests.count("/chat-token") == 2, timeout_s=5 * SHORT_S)
    write(frame, "after")
    expect(frame.locator(".message[data-offset] .message__text")).to_have_text(["before", "after"])
    expect(frame.locator("dialog[open]")).to_have_count(0)


def test_visitor_is_asked_where_the_site_knows_no_token(
    open_page: Any, strict: Server, site: Site, issue: Issue, room: str
) -> None:
    """The page asks the visitor then, as everywhere, and forgets the bad one."""
    site.pages["/"] = embedding(strict, room, token="bad")
    frame = open_page(site.url).frame_locator("iframe")
    frame.locator("#token-input").fill(issue("Ann"))
    frame.locator("#token-input").press("Enter")
    expect(frame.locator("#own-name")).to_have_text("Ann")


def test_site_may_hand_in_another_token(
    open_page: Any, strict: Server, site: Site, issue: Issue, room: str
) -> None:
    """By the frame's `data-token`, at any time; the frame asks for it when it needs one."""
    site.pages["/"] = lambda: embedding(strict, room, token=issue("Ann", lasts_s=SHORT_S))
    page = open_page(site.url)
    frame = page.frame_locator("iframe")
    expect(frame.locator("#own-name")).to_have_text("Ann")
    page.evaluate(
        "(token) => (document.querySelector('iframe').dataset.token = token)", issue("Ann B")
    )
    expect(frame.locator("#own-name")).to_have_text("Ann B")


def test_one_bad_token_after_the_other_ends_in_a_question(
    open_page: Any, strict: Server, site: Site, room: str
) -> None:
    """The site is asked once more, and not on and on."""
    numbers = iter(range(100))
    site.pages["/chat-token"] = lambda: f"bad-{next(numbers)}"
    site.pages["/"] = embedding(strict, room, token_url="/chat-token")
    frame = open_page(site.url).frame_locator("iframe")
    expect(frame.locator("#token-dialog")).to_be_visible()
    assert site.requests.count("/chat-token") == 2


def test_site_that_is_away_hands_in_nothing(
    open_page: Any, strict: Server, site: Site, issue: Issue, room: str
) -> None:
    """What is no token but an error is not taken for one."""
    site.pages["/"] = embedding(strict, room, token_url="/nowhere")
    frame = open_page(site.url).frame_locator("iframe")
    frame.locator("#name-input").fill("Whoever")
    frame.locator("#name-input").press("Enter")
    frame.locator("#token-input").fill(issue("Ann"))
    frame.locator("#token-input").press("Enter")
    expect(frame.locator("#own-name")).to_have_text("Ann")


#: In a further frame of the site, which is not the chat's parent.
EVIL = """<script>
  const told = [];
  addEventListener("message", ({ data }) => told.push(data));
</script>"""


def test_token_comes_from_nobody_but_the_parent(
    open_page: Any, strict: Server, site: Site, issue: Issue, room: str
) -> None:
    """Another frame that is quicker is not listened to."""
    posted = threading.Event()

    def token() -> str:
        assert posted.wait(TIMEOUT_MS / 1000)
        return issue("Ann")

    site.pages["/chat-token"] = token
    site.pages["/evil"] = EVIL
    site.pages["/"] = "<iframe src='/evil'></iframe>" + embedding(
        strict, room, token_url="/chat-token"
    )
    page = open_page("about:blank")
    with page.expect_request("**/chat-token"):
        page.goto(site.url, wait_until="commit")
    message = json.dumps({"fastchat": "token", "token": issue("Mallory")})
    evil = next(frame for frame in page.frames if frame.url.endswith("/evil"))
    evil.evaluate(f"() => parent.frames[1].postMessage({message}, '*')")
    posted.set()
    expect(page.frame_locator("iframe >> nth=1").locator("#own-name")).to_have_text("Ann")


def test_token_goes_to_nobody_but_the_chat(
    open_page: Any, strict: Server, site: Site, issue: Issue, room: str
) -> None:
    """Another frame of the site that asks for it hears nothing."""
    site.pages["/evil"] = EVIL
    site.pages["/"] = "<iframe src='/evil'></iframe>" + embedding(strict, room, token=issue("Ann"))
    page = open_page(site.url)
    expect(page.frame_locator("iframe >> nth=1").locator("#own-name")).to_have_text("Ann")
    evil = next(frame for frame in page.frames if frame.url.endswith("/evil"))
    page.evaluate("() => addEventListener('message', ({ source }) => source.postMessage('pong'))")
    evil.evaluate("() => parent.postMessage({ fastchat: 'token' }, '*')")
    evil.evaluate("() => parent.postMessage({ fastchat: 'token' }, '*')")
    evil.wait_for_function("() => told.length === 2")
    assert evil.evaluate("() => told") == ["pong", "pong"]


# What it keeps


def test_each_site_has_a_memory_of_its_own(
    profile: Any, server: Server, site: Site, room: str
) -> None:
    """The name is remembered in this page, and is not the one of the chat itself."""
    site.pages["/"] = embedding(server, room)
    page = open_in(profile, site.url)
    frame = page.frame_locator("iframe")
    join(frame, "Ann")
    page.reload()
    expect(frame.locator("#own-name")).to_have_text("Ann")
    own = open_in(profile, f"{server.url}/#{room}")
    expect(own.locator("#name-dialog")).to_be_visible()
    join(own, "Bob")
    say(own, "two people")
    expect(frame.locator(".message__author")).to_have_text(["Bob"])


FORBIDDEN = """(area) => {
  try {
    return !window[area];
  } catch {
    return true;
  }
}"""


FORBID = """
  for (const area of ["localStorage", "sessionStorage"]) {
    const get = () => { throw new DOMException("Forbidden", "SecurityError"); };
    if (top !== self) Object.defineProperty(window, area, { get });
  }
"""


def test_memory_may_be_forbidden(open_page: Any, server: Server, site: Site, room: str) -> None:
    """As in private windows, or at a user's wish: then it lasts as long as the page."""
    site.pages["/"] = embedding(server, room)
    page = open_page("about:blank")
    # Not every build of Chromium forbids it by itself.
    page.add_init_script(FORBID)
    page.goto(site.url)
    frame = page.frame_locator("iframe")
    join(frame, "Ann")
    for area in ("localStorage", "sessionStorage"):
        assert page.frames[1].evaluate(FORBIDDEN, area)
    write(frame, "I am here")
    expect(frame.locator(".message[data-offset] .message__text")).to_have_text(["I am here"])
