"""The page in a frame of another site: which sites can embed it, how it gets tokens, and what it
stores."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from fastchat.auth.issuing import create_secret, make_token
from support.browser import TIMEOUT_MS, joined_user, launch_options, say, text_in
from support.server import TIMEOUT_UNIT_S, Server, running_server, wait_until
from support.site import Site, serving_site

Issue = Callable[..., str]

#: The lifetime, in seconds, of a token that expires while the page is open; it is issued when the
#: page asks.
SHORT_S = 4 * int(TIMEOUT_UNIT_S)


@pytest.fixture(scope="module")
def hosting() -> Iterator[Site]:
    with serving_site() as site:
        yield site


@pytest.fixture
def site(hosting: Site) -> Site:
    """The site that the servers allow, without the pages of earlier tests."""
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
    """Return a function that issues a token for a user, by name."""

    def issue(name: str, *, lasts_s: int = 600) -> str:
        return make_token(key, subject=f"u-{name}", name=name, duration_s=lasts_s)

    return issue


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[[str], Any]]:
    """Return a function that opens an address in a context where frames of other sites cannot store
    data, as in a private window."""
    with contextlib.ExitStack() as contexts:

        def open_page(url: str) -> Any:
            context = chromium.new_context(service_workers="block")
            contexts.enter_context(contextlib.closing(context))
            return open_in(context, url)

        yield open_page


@pytest.fixture
def profile(chromium: Any, tmp_path: Path) -> Iterator[Any]:
    """A browser with Chromium's own defaults, where a frame has a storage of its own for each
    site."""
    # Distributions have other defaults, for example Debian in /etc/chromium/master_preferences.
    preferences = {"profile": {"cookie_controls_mode": 0, "block_third_party_cookies": False}}
    (tmp_path / "Default").mkdir()
    (tmp_path / "Default" / "Preferences").write_text(json.dumps(preferences), "utf-8")
    options = launch_options()
    # Playwright disables ThirdPartyStoragePartitioning; Chromium obeys the last list of features.
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
    """Return a page with a room in it, as docs/embedding.md describes."""
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


def test_room_works_in_the_page_of_another_site(
    open_page: Any, server: Server, site: Site, room: str
) -> None:
    """Users in the frame and on the page talk, and the frame stands in the place of its script."""
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


def test_attributes_of_the_script_set_up_the_frame(
    open_page: Any, server: Server, site: Site, room: str
) -> None:
    """The script's attributes set the frame's height, title, colours and language."""
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


def test_height_can_have_any_css_unit(
    open_page: Any, server: Server, site: Site, room: str
) -> None:
    """The height can have any CSS unit."""
    site.pages["/"] = embedding(server, room, height="50vh")
    page = open_page(site.url)
    assert page.locator("iframe").bounding_box()["height"] == page.viewport_size["height"] / 2


def test_one_page_can_embed_several_rooms(
    profile: Any, server: Server, site: Site, room: str
) -> None:
    """Each script makes a frame of its own, and one browser is one user in all of them."""
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


def test_script_can_be_inserted_later(
    open_page: Any, server: Server, site: Site, room: str
) -> None:
    """A script of the page can insert the chat's script later."""
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


def test_isolated_page_can_embed(open_page: Any, server: Server, site: Site, room: str) -> None:
    """A page with COEP: require-corp, which loads only resources that allow it, can embed a
    room."""
    site.headers["cross-origin-embedder-policy"] = "require-corp"
    site.headers["cross-origin-opener-policy"] = "same-origin"
    site.pages["/"] = embedding(server, room)
    page = open_page(site.url)
    assert page.evaluate("crossOriginIsolated")
    join(page.frame_locator("iframe"), "Ann")


def test_page_with_a_strict_policy_can_embed(
    open_page: Any, server: Server, site: Site, room: str
) -> None:
    """A page's own policy has to allow the server in two directives, and nothing else."""
    policy = f"default-src 'none'; script-src {server.url}; frame-src {server.url}"
    site.headers["content-security-policy"] = policy
    site.pages["/"] = embedding(server, room, height="300")
    page = open_page(site.url)
    join(page.frame_locator("iframe"), "Ann")
    assert page.locator("iframe").bounding_box()["height"] == 300


def test_page_outside_of_a_frame_ignores_the_frame_settings(
    open_page: Any, server: Server, room: str
) -> None:
    """Outside of a frame, settings of the frame in the address have no effect."""
    page = open_page(f"{server.url}/?embed#{room}")
    join(page, "Ann")
    expect(page.locator("html.embedded")).to_have_count(0)


# Which sites can embed


def refusal(page: Any, url: str) -> str:
    """Return what the browser says about a frame that it does not show."""
    with page.expect_console_message(lambda said: "frame-ancestors" in said.text) as said:
        page.goto(url)
    text: str = said.value.text
    return text


def test_embedding_is_forbidden_by_default(
    open_page: Any, site: Site, server: Server, room: str
) -> None:
    """By default the browser does not show the frame, which prevents clickjacking."""
    with running_server("--history", "memory") as closed:
        site.pages["/"] = embedding(closed, room)
        page = open_page("about:blank")
        assert "frame-ancestors 'none'" in refusal(page, site.url)
        assert page.frame_locator("iframe").locator("#composer").count() == 0


def test_only_allowed_sites_can_embed(open_page: Any, server: Server, room: str) -> None:
    """A site on another port, and an allowed site inside another site, cannot embed a room."""
    with serving_site() as stranger:
        stranger.pages["/"] = embedding(server, room)
        page = open_page("about:blank")
        assert "frame-ancestors 'self' http://localhost" in refusal(page, stranger.url)
        assert page.frame_locator("iframe").locator("#composer").count() == 0


def test_all_sites_can_embed_if_allowed(open_page: Any, site: Site, room: str) -> None:
    """Under `--allow-frame '*'` every site can embed a room."""
    with running_server("--history", "memory", "--allow-frame", "*") as server:
        site.pages["/"] = embedding(server, room)
        join(open_page(site.url).frame_locator("iframe"), "Ann")


# Tokens


def test_site_provides_the_token(
    profile: Any, strict: Server, site: Site, issue: Issue, room: str
) -> None:
    """If the site provides the token, the page does not ask for one, and the token is in no address
    and no storage."""
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


def test_expired_token_is_fetched_again(
    open_page: Any, strict: Server, site: Site, issue: Issue, room: str
) -> None:
    """If the last token was bad or has expired, the page fetches another one unnoticed."""
    tokens = iter(["not a token", issue("Ann")])
    site.pages["/chat-token"] = lambda: next(tokens) + "\n"
    site.pages["/"] = embedding(strict, room, token_url="/chat-token")
    page = open_page(site.url)
    frame = page.frame_locator("iframe")
    expect(frame.locator("#own-name")).to_have_text("Ann")
    expect(frame.locator("dialog[open]")).to_have_count(0)
    assert site.requests.count("/chat-token") == 2


def test_token_is_renewed_during_a_conversation(
    open_page: Any, strict: Server, site: Site, issue: Issue, room: str
) -> None:
    """If the token expires during a conversation, the page renews it and the conversation goes
    on."""
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


def test_visitor_is_asked_if_the_site_has_no_token(
    open_page: Any, strict: Server, site: Site, issue: Issue, room: str
) -> None:
    """If the site provides no token, the page asks the visitor, and forgets a refused one."""
    site.pages["/"] = embedding(strict, room, token="bad")
    frame = open_page(site.url).frame_locator("iframe")
    frame.locator("#token-input").fill(issue("Ann"))
    frame.locator("#token-input").press("Enter")
    expect(frame.locator("#own-name")).to_have_text("Ann")


def test_site_can_change_the_token(
    open_page: Any, strict: Server, site: Site, issue: Issue, room: str
) -> None:
    """The site can set the frame's `data-token` at any time, and the frame asks for it when it
    needs one."""
    site.pages["/"] = lambda: embedding(strict, room, token=issue("Ann", lasts_s=SHORT_S))
    page = open_page(site.url)
    frame = page.frame_locator("iframe")
    expect(frame.locator("#own-name")).to_have_text("Ann")
    page.evaluate(
        "(token) => (document.querySelector('iframe').dataset.token = token)", issue("Ann B")
    )
    expect(frame.locator("#own-name")).to_have_text("Ann B")


def test_visitor_is_asked_after_a_second_bad_token(
    open_page: Any, strict: Server, site: Site, room: str
) -> None:
    """After a bad token the site is asked once more, and then the visitor."""
    numbers = iter(range(100))
    site.pages["/chat-token"] = lambda: f"bad-{next(numbers)}"
    site.pages["/"] = embedding(strict, room, token_url="/chat-token")
    frame = open_page(site.url).frame_locator("iframe")
    expect(frame.locator("#token-dialog")).to_be_visible()
    assert site.requests.count("/chat-token") == 2


def test_failing_site_provides_no_token(
    open_page: Any, strict: Server, site: Site, issue: Issue, room: str
) -> None:
    """The body of an error response is not used as a token."""
    site.pages["/"] = embedding(strict, room, token_url="/nowhere")
    frame = open_page(site.url).frame_locator("iframe")
    frame.locator("#name-input").fill("Whoever")
    frame.locator("#name-input").press("Enter")
    frame.locator("#token-input").fill(issue("Ann"))
    frame.locator("#token-input").press("Enter")
    expect(frame.locator("#own-name")).to_have_text("Ann")


#: A page in another frame of the site, which is not the chat's parent.
EVIL = """<script>
  const told = [];
  addEventListener("message", ({ data }) => told.push(data));
</script>"""


def test_token_is_accepted_from_the_parent_only(
    open_page: Any, strict: Server, site: Site, issue: Issue, room: str
) -> None:
    """A token from another frame is ignored, even if it arrives first."""
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


def test_token_is_sent_to_the_chat_only(
    open_page: Any, strict: Server, site: Site, issue: Issue, room: str
) -> None:
    """Another frame of the site that asks for the token gets no answer."""
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


# Storage


def test_each_site_has_a_storage_of_its_own(
    profile: Any, server: Server, site: Site, room: str
) -> None:
    """The name is stored for this site's page, apart from the name on the chat's own page."""
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


def test_page_works_without_storage(open_page: Any, server: Server, site: Site, room: str) -> None:
    """Without storage, as in private windows or by a setting of the user, the name lasts as long as
    the page."""
    site.pages["/"] = embedding(server, room)
    page = open_page("about:blank")
    # Not every build of Chromium forbids storage by default.
    page.add_init_script(FORBID)
    page.goto(site.url)
    frame = page.frame_locator("iframe")
    join(frame, "Ann")
    for area in ("localStorage", "sessionStorage"):
        assert page.frames[1].evaluate(FORBIDDEN, area)
    write(frame, "I am here")
    expect(frame.locator(".message[data-offset] .message__text")).to_have_text(["I am here"])


# The widget


def with_script(server: Server) -> str:
    """Return a page that loads the script and shows no chat yet."""
    script = f'<script src="{server.url}/embed.js" data-manual></script>'
    return f'<!doctype html><title>Site</title>{script}<div id="chat"></div>'


def test_page_can_mount_a_room(open_page: Any, server: Server, site: Site, room: str) -> None:
    """With `data-manual` the script shows nothing by itself. `FastChat.mount` shows a room in an
    element, in the colours and with the title that the page wants."""
    site.pages["/"] = with_script(server)
    page = open_page(site.url)
    assert page.locator("iframe").count() == 0
    options = {"room": room, "theme": "dark", "accent": "rgb(1, 2, 3)", "title": "Ask us"}
    page.evaluate("(options) => { FastChat.mount('#chat', { height: 300, ...options }) }", options)
    frame = page.frame_locator("#chat > iframe[title='Ask us']")
    join(frame, "Ann")
    frame.locator("#composer").fill("hello")
    expect(frame.locator("html[data-theme=dark]")).to_have_count(1)
    expect(frame.locator("#send")).to_have_css("background-color", "rgb(1, 2, 3)")
    assert page.locator("iframe").bounding_box()["height"] == 300


def test_widget_counts_what_nobody_sees(
    open_page: Any, server: Server, site: Site, room: str
) -> None:
    """A closed widget stays connected and tells the page how many messages are unread. Messages are
    read when it is open."""
    site.pages["/"] = with_script(server)
    page = open_page(site.url)
    page.evaluate(
        """(room) => {
          window.told = [];
          window.widget = FastChat.mount(document.querySelector("#chat"), { room });
          widget.on("unread", (count) => told.push(count));
          for (const type of ["open", "close"]) widget.on(type, () => told.push(type));
        }""",
        room,
    )
    frame = page.frame_locator("iframe")
    join(frame, "Ann")
    page.evaluate("widget.close()")
    expect(page.locator("iframe")).to_be_hidden()
    with joined_user(room, "Bob", server) as bob:
        bob.say("one", "two")
        page.wait_for_function("widget.unread === 2")
        page.evaluate("widget.open()")
        expect(text_in(frame, "two")).to_be_visible()
        page.wait_for_function("widget.unread === 0")
        bob.say("three")
        expect(text_in(frame, "three")).to_be_visible()
    told = page.evaluate("told")
    assert [told[0], told[-2:], told.count("open")] == ["close", ["open", 0], 1]
    assert 2 in told


def test_removed_widget_is_gone(open_page: Any, server: Server, site: Site, room: str) -> None:
    """`remove` takes the frame out of the page, and another widget can take its place."""
    site.pages["/"] = with_script(server)
    page = open_page(site.url)
    page.evaluate("(room) => FastChat.mount('#chat', { room }).remove()", room)
    assert page.locator("iframe").count() == 0
    page.evaluate("(room) => { FastChat.mount('#chat', { room }) }", room)
    expect(page.frame_locator("iframe").locator("#name-input")).to_be_visible()
    failure = page.evaluate(
        "() => { try { FastChat.mount('#no') } catch (e) { return e.message } }"
    )
    assert failure == "FastChat.mount: no element matches #no"


def test_widget_gets_the_token_from_a_function(
    open_page: Any, strict: Server, site: Site, issue: Issue, room: str
) -> None:
    """The function is asked when the chat opens, and a function that fails gives no token."""
    site.pages["/"] = with_script(strict)
    page = open_page(site.url)
    page.evaluate(
        """([room, token]) => {
          const fail = async () => { throw new Error("away"); };
          window.first = FastChat.mount("#chat", { room, token: async () => token });
          window.second = FastChat.mount("#chat", { room, token: fail });
        }""",
        [room, issue("Ann")],
    )
    expect(page.frame_locator("iframe >> nth=0").locator("#own-name")).to_have_text("Ann")
    expect(page.frame_locator("iframe >> nth=1").locator("#name-input")).to_be_visible()


def test_widget_listens_to_its_frame_only(
    open_page: Any, server: Server, site: Site, room: str
) -> None:
    """A message from another window changes neither the widget nor the chat in it."""
    site.pages["/"] = with_script(server)
    page = open_page(site.url)
    page.evaluate(
        "(room) => { window.widget = FastChat.mount('#chat', { room, accent: 'no colour' }) }", room
    )
    frame = page.frame_locator("iframe")
    join(frame, "Ann")
    page.evaluate("postMessage({ fastchat: 'unread', count: 7 }, '*')")
    page.frames[1].evaluate("postMessage({ fastchat: 'visible', visible: false }, '*')")
    # Both messages have arrived when a later one has.
    later = (
        "() => new Promise((done) => { addEventListener('message', done); postMessage(1, '*'); })"
    )
    for each in page.frames:
        each.evaluate(f"async () => {{ await ({later})() }}")
    assert page.evaluate("widget.unread") == 0
    expect(frame.locator("html.closed")).to_have_count(0)
    assert page.frames[1].evaluate("document.documentElement.style.length") == 0


def test_accent_in_an_address_has_no_effect(open_page: Any, server: Server, room: str) -> None:
    """Outside of a frame the address does not change the colours."""
    page = open_page(f"{server.url}/?accent=red#{room}")
    assert page.evaluate("document.documentElement.style.length") == 0
