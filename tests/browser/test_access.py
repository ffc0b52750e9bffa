"""The page on a server that asks for tokens, or that makes a client wait or leave."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect
from websockets.sync.client import connect

from fastchat.auth.issuing import create_secret, make_token
from support.browser import (
    ConnectionSwitch,
    ScriptedServer,
    Visit,
    say,
    stop_clock,
    text_in,
    wait_for_sent,
)
from support.server import TIMEOUT_UNIT_S, Server, running_server

Issue = Callable[..., str]

SHOWN = "() => sessionStorage.getItem('fastchat.token')"
KEPT = "() => Object.keys(localStorage).filter((key) => /outbox|draft/.test(key)).length"
#: The lifetime of a token in seconds, so that it expires while the page is open and not before.
SHORT_S = 5 * int(TIMEOUT_UNIT_S)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "secret"
    create_secret(file)
    return file


@pytest.fixture(scope="module")
def server(key: Path) -> Iterator[Server]:
    with running_server("--history", "memory", *flags(key)) as server:
        yield server


def flags(key: Path) -> tuple[str, ...]:
    return ("--auth", "jwt", "--jwt-key-file", str(key))


@pytest.fixture
def issue(key: Path) -> Issue:
    """Return a function that issues a token for a user, by name."""

    def issue(name: str, *, lasts_s: int = 600, **more: Any) -> str:
        return make_token(key, subject=f"u-{name}", name=name, duration_s=lasts_s, **more)

    return issue


@pytest.fixture
def context(chromium: Any) -> Iterator[Any]:
    with contextlib.closing(chromium.new_context(service_workers="block")) as context:
        yield context


def submit_token(page: Any, token: str) -> None:
    """Submit a token to the page that asks for one."""
    expect(page.locator("#token-dialog")).to_be_visible()
    page.fill("#token-input", token)
    page.press("#token-input", "Enter")


@pytest.fixture
def admitted(visit: Visit) -> Callable[..., Any]:
    """Return a function that opens the page and submits a token.

    If the token is a function, it is called when the page asks, which makes tokens with a short
    lifetime possible.
    """

    def admitted(token: str | Callable[[], str], **options: Any) -> Any:
        page = visit(**options)
        page.fill("#name-input", "Whoever")
        page.press("#name-input", "Enter")
        expect(page.locator("#token-dialog")).to_be_visible()
        submit_token(page, token() if callable(token) else token)
        page.wait_for_selector("#people .person", state="attached")
        return page

    return admitted


# With a server that asks for tokens


def test_page_asks_for_a_token_and_stores_it_in_its_tab_only(visit: Visit, issue: Issue) -> None:
    """The field hides the token, the name is the token's, and the token is stored in this tab only
    and in no address."""
    page: Any = visit()
    sockets: list[str] = []
    page.on("websocket", lambda socket: sockets.append(socket.url))
    page.fill("#name-input", "Mallory")
    page.press("#name-input", "Enter")
    expect(page.locator("#token-input")).to_be_focused()
    expect(page.locator("#token-input")).to_have_attribute("type", "password")
    expect(page.locator("#token-error")).to_be_empty()
    for _ in range(3):
        page.keyboard.press("Escape")
    expect(page.locator("#token-dialog")).to_be_visible()
    page.press("#token-input", "Enter")
    expect(page.locator("#token-error")).to_have_text("Enter a token.")
    token = issue("Alice")
    submit_token(page, f" {token}\n")
    expect(page.locator("#own-name")).to_have_text("Alice")
    expect(page.locator("#composer")).to_be_focused()
    say(page, "It is me")
    expect(page.locator(".message--own[data-offset='1']")).to_have_count(1)
    assert page.evaluate(SHOWN) == token
    assert token not in page.evaluate("() => JSON.stringify({...localStorage})")
    assert token not in page.content()
    assert not [url for url in [*sockets, page.url] if token in url]
    page.reload()
    expect(page.locator("#own-name")).to_have_text("Alice")
    expect(page.locator("#token-dialog")).to_be_hidden()


def test_page_asks_again_after_a_refused_token(visit: Visit, issue: Issue) -> None:
    """A refused token shows the server's sentence and an empty field, and is not remembered."""
    page: Any = visit()
    page.fill("#name-input", "Alice")
    page.press("#name-input", "Enter")
    error = page.locator("#token-error")
    for token in ("no token", "a.b.c", "ä", "x" * 9000):
        submit_token(page, token)
        expect(page.locator("#token-input"), token[:9]).to_have_value("")
        expect(error, token[:9]).to_have_text("The token is not valid. Get a new one.")
        assert page.evaluate(SHOWN) is None
        # So that the sentence about the next token is not taken for this one.
        error.evaluate("(element) => { element.textContent = '' }")
    submit_token(page, issue("Alice"))
    expect(page.locator("#own-name")).to_have_text("Alice")


def test_new_token_after_expiry_loses_no_text(
    admitted: Callable[..., Any], issue: Issue, server: Server, context: Any
) -> None:
    """After 4011, messages and the draft stay, and the page goes on with a new token."""
    bob = admitted(issue("Bob"))
    page = admitted(lambda: issue("Alice", lasts_s=SHORT_S), context=context)
    token = page.evaluate(SHOWN)
    say(page, "first")
    expect(text_in(bob, "first")).to_be_visible()
    page.fill("#composer", "half a thou")
    page.evaluate("() => { window.same = true; }")
    expect(page.locator("#token-dialog")).to_be_visible(timeout=2000 * SHORT_S)
    expect(page.locator("#token-error")).to_have_text("Your access token has expired.")
    say(bob, "meanwhile")
    expect(bob.locator(".message[data-offset='2']")).to_have_count(1)
    submit_token(page, token)
    expect(page.locator("#token-error")).to_contain_text("expired. Get a new one")
    submit_token(page, issue("Alice"))
    expect(page.locator(".message__text")).to_have_text(["first", "meanwhile"])
    expect(page.locator("#composer")).to_have_value("half a thou")
    assert page.evaluate("() => window.same")
    page.press("#composer", "Enter")
    expect(text_in(bob, "half a thou")).to_be_visible()


def test_outbox_waits_for_the_token(
    admitted: Callable[..., Any], issue: Issue, context: Any
) -> None:
    """Messages that were pending when the token expired are sent with the next token, in order and
    once."""
    switch = ConnectionSwitch(context)
    page = admitted(lambda: issue("Alice", lasts_s=SHORT_S), context=context)
    expires = time.monotonic() + SHORT_S
    switch.disconnect()
    texts = ["one", "two", "three"]
    for text in texts:
        say(page, text)
    page.wait_for_timeout(1000 * (expires - time.monotonic()) + 100)
    switch.reconnect()
    page.evaluate("() => dispatchEvent(new Event('online'))")
    submit_token(page, issue("Alice"))
    expect(page.locator(".message[data-offset] .message__text")).to_have_text(texts)
    assert page.evaluate(KEPT) == 0


def test_other_users_token_does_not_send_pending_messages(
    admitted: Callable[..., Any], visit: Visit, issue: Issue, context: Any
) -> None:
    """Another user's token, in this tab or a new one, does not send the messages that are pending
    here."""
    switch = ConnectionSwitch(context)
    page = admitted(lambda: issue("Alice", lasts_s=SHORT_S), context=context)
    expires = time.monotonic() + SHORT_S
    switch.disconnect()
    say(page, "by Alice")
    page.wait_for_timeout(1000 * (expires - time.monotonic()) + 100)
    switch.reconnect()
    page.evaluate("() => dispatchEvent(new Event('online'))")
    submit_token(page, issue("Bob"))
    expect(page.locator("#own-name")).to_have_text("Bob")
    expect(page.locator(".message")).to_have_count(0)
    say(page, "by Bob")
    expect(page.locator(".message[data-offset='1'] .message__text")).to_have_text("by Bob")
    tab: Any = visit(context=context)
    submit_token(tab, issue("Alice"))
    expect(tab.locator(".message--own[data-offset='2'] .message__text")).to_have_text("by Alice")
    expect(page.locator(".message__author")).to_have_text(["Bob", "Alice"])


def test_user_with_the_same_name_does_not_send_pending_messages(
    admitted: Callable[..., Any], key: Path, context: Any
) -> None:
    """Pending messages belong to the token's user: a token of another user with the same name does
    not send them, and one of the same user under a new name does."""
    switch = ConnectionSwitch(context)
    name, other = {"name": "Alice"}, {"name": "Alicia"}
    page = admitted(make_token(key, subject="u-1", **name, duration_s=600), context=context)
    switch.disconnect()
    say(page, "by the first")

    def reload_with(subject: str, names: dict[str, str]) -> None:
        token = make_token(key, subject=subject, **names, duration_s=600)
        page.evaluate("token => sessionStorage.setItem('fastchat.token', token)", token)
        page.reload()

    switch.reconnect()
    reload_with("u-2", name)
    expect(page.locator("#people .person")).not_to_have_count(0)
    say(page, "by the second")
    expect(page.locator(".message[data-offset='1'] .message__text")).to_have_text("by the second")
    expect(page.locator(".message")).to_have_count(1)
    reload_with("u-1", other)
    expect(page.locator(".message[data-offset='2'] .message__text")).to_have_text("by the first")
    expect(page.locator(".message--own")).to_have_count(1)
    # The server keeps the first one's name for some seconds, and numbers the second one's.
    names = [re.compile(r"^Alice( \(2\))?$"), "Alicia"]
    expect(page.locator(".message__author")).to_have_text(names)


def test_page_uses_a_token_that_the_site_has_stored(
    visit: Visit, issue: Issue, server: Server, context: Any, room: str
) -> None:
    """If a page of the same site has stored a token in the tab, the chat does not ask for one."""
    token = issue("Alice")
    script = f"sessionStorage.setItem('fastchat.token', {json.dumps(token)});"
    login = f"<script>{script} location.href = '/#{room}';</script>"
    context.route("**/login", lambda route: route.fulfill(body=login, content_type="text/html"))
    page = context.new_page()
    page.goto(f"{server.url}/login")
    expect(page.locator("#own-name")).to_have_text("Alice")
    expect(page.locator("dialog[open]")).to_have_count(0)


def test_sign_out_forgets_the_token_and_pending_messages(
    admitted: Callable[..., Any], issue: Issue, context: Any
) -> None:
    """Signing out also forgets pending messages and the draft; the next user is asked for a
    token."""
    switch = ConnectionSwitch(context)
    page = admitted(issue("Alice"), context=context)
    switch.disconnect()
    say(page, "on its way")
    page.fill("#composer", "half a thou")
    page.evaluate("() => { location.hash = 'private-matters' }")
    expect(page.locator(".room-item")).to_have_count(2)
    page.go_back()
    page.click("#preferences-open")
    expect(page.locator("#change-name")).to_have_text("Sign out")
    page.click("#change-name")
    switch.reconnect()
    page.evaluate("() => dispatchEvent(new Event('online'))")
    submit_token(page, issue("Bob"))
    expect(page.locator("#own-name")).to_have_text("Bob")
    expect(page.locator("#composer")).to_have_value("")
    expect(page.locator(".message")).to_have_count(0)
    expect(page.locator(".room-item")).to_have_count(1)
    assert page.evaluate(KEPT) == 0


def test_forbidden_room_is_explained(visit: Visit, issue: Issue, context: Any, room: str) -> None:
    """If the token does not allow a room, the page shows the server's sentence and does not
    retry."""
    token = issue("Alice", rooms={"open": ["read", "write"]})
    page: Any = visit(context=context)
    page.fill("#name-input", "Alice")
    page.press("#name-input", "Enter")
    submit_token(page, token)
    expect(page.locator("#status")).to_have_text("You are not allowed to do this in this room.")
    page.evaluate("() => { location.hash = 'open' }")
    expect(page.locator("#own-name")).to_have_text("Alice")
    expect(page.locator("#status")).to_be_empty()


def test_forbidden_room_does_not_disturb_allowed_rooms(
    admitted: Callable[..., Any], issue: Issue, server: Server, room: str
) -> None:
    """A forbidden room is marked as such, and an allowed room works meanwhile."""
    page = admitted(issue("Alice", rooms={room: ["read", "write"]}))
    page.evaluate("() => { location.hash = 'closed' }")
    expect(page.locator("#status")).to_have_text("You are not allowed to do this in this room.")
    with connect(f"ws://127.0.0.1:{server.port}/ws") as bob:
        bob.send(json.dumps({"type": "join", "room": room, "token": issue("Bob")}))
        bob.send(json.dumps({"text": "still here?"}))
        expect(page.locator(".room-item--unread .badge b")).to_have_text("1")
        page.go_back()
        expect(page.locator("#status")).to_be_empty()
        expect(page.locator(".message__text")).to_have_text("still here?")
        say(page, "yes")
        expect(page.locator(".message--own[data-offset='2']")).to_have_count(1)


def test_rooms_of_an_earlier_user_are_not_joined(
    admitted: Callable[..., Any], issue: Issue, context: Any, room: str
) -> None:
    """With another user's token the page joins the room in its address, and none of the earlier
    user's rooms."""
    page = admitted(issue("Alice"), context=context)
    page.evaluate("room => { location.hash = room }", f"{room}-alices")
    expect(page.locator(".room-item")).to_have_count(2)
    page.go_back()
    page.evaluate("token => sessionStorage.setItem('fastchat.token', token)", issue("Bob"))
    page.reload()
    expect(page.locator("#own-name")).to_have_text("Bob")
    expect(page.locator(".room-item__name")).to_have_text([room])
    assert page.evaluate("() => localStorage.getItem('fastchat.rooms')") == room


def test_moderator_removes_a_user(admitted: Callable[..., Any], issue: Issue, room: str) -> None:
    """A moderator removes a user from the list of people after a confirmation; other users are not
    offered it."""
    alice = admitted(issue("Alice"))
    bob = admitted(issue("Bob", rooms={room: ["read", "write", "moderate"]}))
    expect(alice.locator(".person__name")).to_have_count(2)
    expect(alice.locator(".person__remove:visible")).to_have_count(0)
    expect(bob.locator(".person__remove:visible")).to_have_count(1)
    bob.get_by_label("Remove Alice", exact=True).click()
    expect(bob.get_by_role("dialog")).to_contain_text("Remove Alice from the room?")
    expect(bob.get_by_role("button", name="Cancel")).to_be_focused()
    bob.keyboard.press("Escape")
    expect(bob.get_by_label("Remove Alice", exact=True)).to_be_focused()
    bob.keyboard.press("Enter")
    bob.keyboard.press("Enter")
    expect(bob.get_by_role("dialog")).to_be_hidden()
    say(alice, "Still here")
    expect(text_in(bob, "Still here")).to_have_count(1)
    bob.get_by_label("Remove Alice", exact=True).click()
    bob.get_by_role("button", name="Remove", exact=True).click()
    expect(alice.locator("#status")).to_contain_text("A moderator removed you.")
    expect(bob.locator(".person__name")).to_have_text(["Bob"])
    expect(bob.locator("#toast")).to_be_empty()


def test_new_token_opens_refused_rooms(
    admitted: Callable[..., Any], issue: Issue, context: Any, room: str
) -> None:
    """After a new token the page joins refused rooms again, hidden ones, too."""
    page = admitted(issue("Alice", rooms={"*": ["read"]}), context=context)
    page.evaluate("room => { location.hash = room }", f"{room}-b")
    expect(page.locator("#online-count")).to_have_text("1 here")
    page.go_back()
    short = issue("Alice", lasts_s=SHORT_S, rooms={room: ["read"]})
    page.evaluate("token => sessionStorage.setItem('fastchat.token', token)", short)
    page.reload()
    expect(page.locator(".room-item--refused")).to_have_count(1)
    page.wait_for_selector("#token-dialog[open]", timeout=2000 * SHORT_S)
    submit_token(page, issue("Alice"))
    expect(page.locator("#online-count")).to_have_text("1 here")
    expect(page.locator(".room-item--refused")).to_have_count(0)


def test_drafts_of_an_earlier_user_are_not_sent(
    visit: Visit, issue: Issue, context: Any, room: str
) -> None:
    """The draft of an earlier user is not sent, even though the page shows it until it knows the
    new user."""
    draft = {"id": "a1", "room": room, "username": "Alice", "text": "by Alice", "at": 1,
             "timestamp": "2025-01-18T10:30:00.123Z"}  # fmt: skip
    context.add_init_script(f"""localStorage.setItem("fastchat.name", "Bob");
      localStorage.setItem("fastchat.outbox.a1", {json.dumps(json.dumps(draft))});""")
    page: Any = visit(context=context)
    submit_token(page, issue("Bob"))
    expect(page.locator("#own-name")).to_have_text("Bob")
    expect(page.locator(".message")).to_have_count(0)
    say(page, "by Bob")
    expect(page.locator(".message[data-offset='1'] .message__text")).to_have_text("by Bob")
    assert page.evaluate(KEPT) == 1


def test_removed_user_learns_the_duration(
    admitted: Callable[..., Any], issue: Issue, server: Server, room: str
) -> None:
    """After 4503 the page shows a sentence and does not reconnect; a user who tries again learns
    how long the removal lasts."""
    page = admitted(issue("Alice"))
    sockets: list[str] = []
    page.on("websocket", lambda socket: sockets.append(socket.url))
    rights = {"*": ["read", "write", "moderate"]}
    with connect(f"ws://127.0.0.1:{server.port}/ws") as moderator:
        token = issue("Mod", rooms=rights)
        moderator.send(json.dumps({"type": "join", "room": room, "token": token}))
        moderator.send(json.dumps({"type": "remove", "username": "Alice", "seconds": 3600}))
        expect(page.locator("#status")).to_have_text(
            "A moderator removed you. You can come back in 60 minutes."
        )
    page.evaluate("() => dispatchEvent(new Event('online'))")
    expect(page.locator("#try-now")).to_have_text("Reconnect")
    assert sockets == []
    page.click("#try-now")
    expect(page.locator("#status")).to_contain_text("has removed you from this room")
    expect(page.locator("#status")).to_contain_text("You can come back in 60 minutes.")
    assert len(sockets) == 1


def test_moderator_deletes_messages_of_others(admitted: Callable[..., Any], issue: Issue) -> None:
    """A moderator is offered Delete and not Edit on others' messages; other users are offered
    neither."""
    alice = admitted(issue("Alice"))
    say(alice, "Rubbish")
    bob = admitted(issue("Bob"))
    mod = admitted(issue("Mod", rooms={"*": ["read", "write", "moderate"]}))
    for page, offered in ((bob, []), (mod, ["ask"])):
        message = page.locator(".message[data-offset='1']")
        message.hover()
        expect(page.locator(".action[data-emoji]:visible")).to_have_count(6)
        shown = page.locator(".action--own:visible")
        assert [each.get_attribute("data-do") for each in shown.all()] == offered
    message.get_by_label("Delete", exact=True).click()
    message.get_by_role("button", name="Delete").last.click()
    for page in (alice, bob, mod):
        expect(page.get_by_text("Rubbish")).to_have_count(0)


# When the server makes a client wait


def test_rate_limited_messages_are_resent_in_order(visit: Visit, room: str) -> None:
    """If messages exceed the rate, each arrives once and in order, without an action of the
    user."""
    limits = ("--message-rate", "2", "--message-burst", "2")
    with running_server("--history", "memory", *limits) as server:
        page: Any = visit("Ann", url=server.url)
        page.evaluate("""() => {
          window.failed = 0;
          new MutationObserver(() => {
            window.failed += document.querySelectorAll(".message--failed").length;
          }).observe(document.getElementById("log"), { childList: true, subtree: true });
        }""")
        texts = [f"line {number}" for number in range(12)]
        for text in texts:
            say(page, text)
        expect(page.locator(".message--pending").first).to_be_visible()
        expect(page.locator(".message[data-offset]")).to_have_count(12, timeout=20_000)
        expect(page.locator(".message[data-offset] .message__text")).to_have_text(texts)
        assert page.locator(".message").last.get_attribute("data-offset") == "12"
        assert page.evaluate("() => window.failed") == 0


def test_rate_limited_message_waits_for_the_given_time(
    visit: Visit, script: ScriptedServer, room: str
) -> None:
    """A rate-limited message is pending for the given time and is sent again under the same id;
    later messages follow it."""
    page: Any = visit(script=script)
    page.clock.install()
    page.fill("#name-input", "Ann")
    page.press("#name-input", "Enter")
    expect(page.locator("#online-count")).to_have_text("2 here")
    stop_clock(page)
    say(page, "one")
    page.clock.run_for(100)
    expect(page.locator(".message--pending")).to_have_count(1)
    (one,) = script.sent("message")
    limited = {"type": "error", "code": "rate_limited", "message": "Wait.", "temporary": True}
    script.say(**limited, retry_after_ms=20_000, id=one["id"])
    say(page, "two")
    page.clock.run_for(15_000)
    expect(page.locator(".message--pending")).to_have_count(2)
    expect(page.locator(".message--failed")).to_have_count(0)
    assert script.sent("message") == [one]
    page.clock.run_for(6_000)
    wait_for_sent(page, lambda: len(script.sent("message")) == 2)
    assert script.sent("message") == [one, one]
    script.publish("one", offset=1, room=room, username="Ann", id=one["id"])
    page.clock.run_for(100)
    expect(page.locator(".message[data-offset='1']")).to_have_count(1)
    assert [command["text"] for command in script.sent("message")] == ["one", "one", "two"]


def test_page_reconnects_to_a_full_server_after_the_given_time(visit: Visit, room: str) -> None:
    """After 1013 the page shows the reason, and reconnects after the time that the server has
    sent."""
    limit = ("--max-user-connections", "1")
    with running_server("--history", "memory", *limit) as server:
        first: Any = visit("Ann", url=server.url)
        second: Any = visit(context=first.context, url=server.url)
        expect(second.locator("#status")).to_have_text(
            "Please wait: too many connections of this user."
        )
        expect(second.locator("#countdown")).to_contain_text("Trying again in")
        first.close()
        second.click("#try-now")
        expect(second.locator("#own-name")).to_have_text("Ann")
        expect(second.locator("#status")).to_be_empty()


def test_temporarily_refused_join_is_explained_and_retried(
    visit: Visit, script: ScriptedServer
) -> None:
    """A join with a temporary refusal shows the server's sentence and is tried again after the
    given time."""
    script.refusal = {
        "code": "rate_limited", "message": "Too many rooms.", "temporary": True,
        "retry_after_ms": 60_000,
    }  # fmt: skip
    page: Any = visit(script=script)
    page.fill("#name-input", "Ann")
    page.press("#name-input", "Enter")
    expect(page.locator("#status")).to_have_text("Too many rooms.")
    page.evaluate("() => dispatchEvent(new Event('online'))")
    assert script.connections == 1
    script.refusal = None
    page.click("#try-now")
    expect(page.locator("#own-name")).to_have_text("Ann")


@pytest.mark.parametrize(
    ("after_ms", "sentence"),
    [
        ("undefined", ""),
        ("0", ""),
        ("1", " You can come back in 1 minute."),
        ("600_001", " You can come back in 11 minutes."),
        ("7_200_000", " You can come back in 2 hours."),
        ("2_592_000_000", " You can come back in 30 days."),
    ],
)
def test_wait_is_shown_in_a_suitable_unit(blank: Any, after_ms: str, sentence: str) -> None:
    """A wait is shown in the unit that a person would choose, and is never rounded down."""
    module = "await import('/static/text/times.js')"
    assert blank.evaluate(f"async () => ({module}).comeBack({after_ms})") == sentence


def test_page_works_without_tokens(visit: Visit, script: ScriptedServer) -> None:
    """Without tokens a join holds none, the name can be changed, and a taken name is asked for
    again."""
    page: Any = visit("Ann", script=script)
    (join,) = script.sent("join")
    assert set(join) == {"type", "ref", "room", "username", "history"}
    expect(page.locator("#change-name")).to_have_text("Change name")
    expect(page.locator("#token-dialog")).to_be_hidden()
