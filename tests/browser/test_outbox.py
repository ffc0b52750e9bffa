"""Messages on their way survive a killed server and a reload, and arrive once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from support.browser import BACK_WITH, ConnectionSwitch, joined_user, say, text_in
from support.server import Server, running_server

KEPT = "() => Object.keys(localStorage).filter((key) => key.startsWith('fastchat.outbox.')).length"
SESSION = "s" * 16


@pytest.fixture
def context(chromium: Any) -> Iterator[Any]:
    context = chromium.new_context(service_workers="block")
    yield context
    context.close()


def test_page_catches_up_after_a_killed_server(visit: Any, room: str, tmp_path: Path) -> None:
    """After kill -9 the page shows every message of the others once and in order."""
    data = ("--data", str(tmp_path))
    with running_server(*data) as first:
        ann = visit("Ann", url=first.url)
        with joined_user(room, "Bob", first, session=SESSION) as bob:
            bob.say("one", "two", "three")
            expect(text_in(ann, "three")).to_be_visible()
            first.kill()
    with running_server(*data) as second, joined_user(room, "Bob", second, session=SESSION) as bob:
        bob.say("four")
        bob.do(type="edit", offset=1, text="one, edited")
        bob.do(type="delete", offset=2)
        bob.do(type="react", offset=3, emoji="👍")
        bob.say("five")
        bob.receive_until(offset=8)
        second.kill()
    with running_server(*data, port=first.port):
        ann.wait_for_function(BACK_WITH, arg="five")
        expect(ann.locator(".message__text")).to_have_text(
            ["one, edited", "This message was deleted", "three", "four", "five"]
        )
        expect(ann.locator(".message[data-offset='3'] .reaction")).to_have_text("👍1")
        say(ann, "six")
        expect(ann.locator(".message[data-offset='9']")).to_have_count(1)
        assert ann.locator(".message").count() == 6


def test_outbox_survives_a_reload(visit: Any, context: Any, server: Server, room: str) -> None:
    """Messages written offline are pending after a reload, in each tab, and are sent exactly
    once."""
    switch = ConnectionSwitch(context)
    ann, bob = visit("Ann", context=context), visit("Bob")
    switch.disconnect()
    say(ann, "first")
    say(ann, "second")
    ann.reload()
    tab = visit(context=context)
    for page in (ann, tab):
        expect(page.locator(".message--pending .message__text")).to_have_text(["first", "second"])
    switch.reconnect()
    for page in (ann, tab):
        page.evaluate("() => dispatchEvent(new Event('online'))")
    for page in (ann, tab, bob):
        expect(page.locator(".message[data-offset] .message__text")).to_have_text(
            ["first", "second"]
        )
        expect(page.locator(".message--pending")).to_have_count(0)
    with joined_user(room, "Cid", server) as cid:
        cid.say("third")
        expect(text_in(bob, "third")).to_be_visible()
    assert bob.locator(".message").count() == 3
    assert bob.locator(".message").last.get_attribute("data-offset") == "3"
    assert ann.evaluate(KEPT) == 0


def test_outbox_and_draft_are_stored_by_room(visit: Any, context: Any, room: str) -> None:
    """Another room shows neither the draft nor the pending messages, and the first room has both
    again."""
    switch = ConnectionSwitch(context)
    ann = visit("Ann", context=context)
    switch.disconnect()
    say(ann, "not yet")
    ann.fill("#composer", "half a thou")
    ann.reload()
    expect(ann.locator("#composer")).to_have_value("half a thou")
    ann.evaluate("room => { location.hash = room }", f"{room}-other")
    expect(ann.locator("#composer")).to_have_value("")
    expect(ann.locator(".message")).to_have_count(0)
    ann.go_back()
    expect(ann.locator("#composer")).to_have_value("half a thou")
    expect(ann.locator(".message--pending .message__text")).to_have_text("not yet")


def test_outbox_is_bounded(blank: Any) -> None:
    """A hundred messages are stored, in the order of writing, and no more."""
    assert blank.evaluate("""async () => {
      const { Outbox } = await import("/static/client/outbox.js");
      const { Storage } = await import("/static/client/storage.js");
      const outbox = new Outbox(new Storage());
      const ids = Array.from({ length: 103 }, (_, at) => `id-${at}`);
      const kept = ids.filter((id, at) => outbox.put({ id, at, room: "r", text: "t" }));
      const found = outbox.of("r").map(({ id }) => id);
      ids.forEach((id) => outbox.remove(id));
      return [kept.length, String(found) === String(ids.slice(0, 100)), outbox.of("r").length];
    }""") == [100, True, 0]


def test_discarded_message_is_not_sent(visit: Any, server: Server, room: str) -> None:
    """A refused message that the user has removed does not return with a reload."""
    ann = visit("Ann")
    say(ann, "\u0001")
    expect(ann.locator(".message--failed")).to_have_count(1)
    assert ann.evaluate(KEPT) == 0
    ann.reload()
    expect(ann.locator("#online-count")).to_have_text("1 here")
    expect(ann.locator(".message")).to_have_count(0)
