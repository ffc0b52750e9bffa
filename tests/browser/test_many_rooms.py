"""Several rooms on one page: joins, leaves, refusals and unread counts, over reloads and broken
connections."""

from __future__ import annotations

import contextlib
import json
import random
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from support.browser import (
    ConnectionSwitch,
    ScriptedServer,
    change_name,
    joined_user,
    publication,
    say,
    text_in,
)
from support.server import TIMEOUT_UNIT_S, Server, running_server

FORBIDDEN = {
    "code": "forbidden",
    "message": "You are not allowed to do this in this room.",
    "temporary": False,
}
LIMITED = {"code": "rate_limited", "message": "Wait.", "temporary": True, "retry_after_ms": 60_000}
TAKEN = {"code": "username_taken", "message": "Somebody is called so.", "temporary": True}
TOO_MANY = {"code": "too_many_rooms", "message": "Leave one first.", "temporary": True}
KEYS = "() => Object.keys(localStorage).filter((key) => key.startsWith('fastchat.read.')).sort()"
# Lets a test hide the tab or bring it to the front.
AWAY = """Object.defineProperty(document, "hidden", { get: () => window.away === true });
window.goAway = (away) => { window.away = away;
  document.dispatchEvent(new Event("visibilitychange")); };"""
FRAMES = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


@pytest.fixture
def context(chromium: Any) -> Iterator[Any]:
    context = chromium.new_context(service_workers="block")
    yield context
    context.close()


def open_room(page: Any, room: str) -> None:
    page.evaluate("room => { location.hash = room }", room)
    expect(page.locator("#room-name")).to_have_text(room)


def item(page: Any, room: str) -> Any:
    return page.locator(".room-item").filter(has=page.get_by_text(room, exact=True))


def badge(page: Any, room: str) -> Any:
    return item(page, room).locator(".badge b")


def wait_until_sent(page: Any, condition: Callable[[], bool]) -> None:
    """Let the page run until a condition holds; Playwright delivers commands only while it runs."""
    deadline = time.monotonic() + 20 * TIMEOUT_UNIT_S
    while not condition():
        assert time.monotonic() < deadline
        page.evaluate(FRAMES)


def joins(script: ScriptedServer) -> list[str]:
    return [command["room"] for command in script.sent("join")]


def remembered_rooms(*rooms: str) -> str:
    """Return a script for a browser that was in these rooms before, as Ann."""
    return f"""if (!localStorage.getItem("fastchat.rooms")) {{
      localStorage.setItem("fastchat.rooms", {json.dumps(" ".join(rooms))});
      localStorage.setItem("fastchat.name", "Ann");
    }}"""


def lines(room: str, *offsets: int, text: str = "line") -> list[dict[str, Any]]:
    return [publication(f"{text} {each}", offset=each, room=room) for each in offsets]


def publish(script: ScriptedServer, room: str, *offsets: int) -> None:
    for each in lines(room, *offsets):
        script.say(**each)


# Joining, leaving and joining again


def test_each_room_recovers_from_its_position(visit: Any, script: ScriptedServer) -> None:
    """After a broken connection the shown room is joined first, and each room gets every message
    once."""
    page = visit("Ann", at="a", script=script)
    open_room(page, "b")
    publish(script, "a", 1, 2)
    publish(script, "b", 1)
    expect(text_in(page, "line 1")).to_be_visible()
    script.rooms = {
        "a": {"offset": 4, "missed": lines("a", 3, 4)},
        "b": {"offset": 2, "missed": lines("b", 2)},
    }
    script.close(4008)
    expect(badge(page, "a")).to_have_text("4")
    expect(page.locator(".message__text")).to_have_text(["line 1", "line 2"])
    assert joins(script) == ["a", "b", "b", "a"]
    since = [command.get("since", {}).get("offset") for command in script.sent("join")]
    assert since == [None, None, 1, 2]
    open_room(page, "a")
    expect(page.locator(".message__text")).to_have_text(
        [f"line {number}" for number in range(1, 5)]
    )
    expect(badge(page, "a")).to_be_hidden()
    assert script.connections == 2


def test_hole_in_a_hidden_room_is_recovered(visit: Any, script: ScriptedServer) -> None:
    """If an offset is missing in a hidden room, the page recovers the messages."""
    page = visit("Ann", at="a", script=script)
    open_room(page, "b")
    publish(script, "a", 1)
    expect(badge(page, "a")).to_have_text("1")
    script.rooms = {"a": {"offset": 3, "missed": lines("a", 2, 3)}}
    publish(script, "a", 3)
    expect(badge(page, "a")).to_have_text("3")
    assert script.connections == 2


def test_each_message_is_shown_once_over_many_breaks(
    visit: Any, context: Any, server: Server, room: str
) -> None:
    """However often the connection breaks, each room shows every message once and in order."""
    switch, dice = ConnectionSwitch(context), random.Random(1)
    rooms = [f"{room}-{name}" for name in ("a", "b", "c", "d")]
    page = visit("Ann", at=rooms[0], context=context)
    for name in rooms[1:]:
        open_room(page, name)
    expect(page.locator("#online-count")).to_have_text("1 here")
    own: dict[str, list[str]] = {name: [] for name in rooms}
    counts = dict.fromkeys(rooms, 0)
    with contextlib.ExitStack() as stack:
        guests = {name: stack.enter_context(joined_user(name, "Bob", server)) for name in rooms}
        for turn in range(40):
            name = dice.choice(rooms)
            guests[name].say(f"Bob {turn}", f"Bob {turn} again")
            counts[name] += 2
            open_room(page, name := dice.choice(rooms))
            say(page, f"Ann {turn}")
            own[name].append(f"Ann {turn}")
            counts[name] += 1
            if turn % 5 == 2:
                switch.disconnect()
            elif turn % 5 == 4:
                switch.reconnect()
                page.evaluate("() => dispatchEvent(new Event('online'))")
        for name in rooms:
            open_room(page, name)
            page.evaluate(FRAMES)  # Until then the rows belong to the room before.
            expect(page.locator(".message--pending")).to_have_count(0)
            expect(page.locator(f".message[data-offset='{counts[name]}']")).to_have_count(1)
            offsets = page.eval_on_selector_all(
                ".message", "(all) => all.map((e) => +e.dataset.offset)"
            )
            assert offsets == list(range(1, counts[name] + 1))
            said = page.locator(".message--own .message__text").all_text_contents()
            assert said == own[name]


def test_outboxes_of_all_rooms_are_sent_in_order(
    visit: Any, context: Any, server: Server, room: str
) -> None:
    """Messages written offline in several rooms arrive once in each, in the order of writing."""
    switch = ConnectionSwitch(context)
    rooms = [f"{room}-{name}" for name in ("a", "b", "c")]
    page = visit("Ann", at=rooms[0], context=context)
    for name in rooms[1:]:
        open_room(page, name)
    expect(page.locator("#online-count")).to_have_text("1 here")
    switch.disconnect()
    for text in ("one", "two", "three"):
        for name in rooms:
            open_room(page, name)
            say(page, f"{text} for {name}")
    page.reload()
    switch.reconnect()
    page.evaluate("() => dispatchEvent(new Event('online'))")
    for name in rooms:
        open_room(page, name)
        expect(page.locator(".message[data-offset] .message__text")).to_have_text(
            [f"{text} for {name}" for text in ("one", "two", "three")]
        )
        expect(page.locator(".message").last).to_have_attribute("data-offset", "3")
        expect(page.locator(".message")).to_have_count(3)


def test_twenty_rooms_are_joined_despite_limits(visit: Any) -> None:
    """Rate-limited joins are delayed and not given up, on one connection."""
    rooms = [f"r{number}" for number in range(20)]
    limits = ("--command-rate", "5", "--new-room-rate", "0")
    with running_server("--history", "memory", *limits) as server:
        page = visit(at="about", url=server.url, init=remembered_rooms(*rooms))
        page.wait_for_selector("#people .person", state="attached")
        expect(page.locator(".room-item")).to_have_count(21)
        # The first join sets a read mark.
        page.wait_for_function(f"() => ({KEYS})().length === 21")
        with joined_user(rooms[-1], "Bob", server) as bob:
            bob.say("hello")
            expect(badge(page, rooms[-1])).to_have_text("1")
        expect(page.locator(".room-item--refused")).to_have_count(0)
        expect(page.locator("#status")).to_be_empty()


def test_leaving_shows_the_previous_room(visit: Any, script: ScriptedServer) -> None:
    """After a room is left, the page shows the previous room, and not the first of the list."""
    page = visit("Ann", at="a", script=script)
    for name in ("b", "c", "d", "b", "d"):
        open_room(page, name)
    item(page, "d").locator(".room-item__leave").click()
    expect(page.locator("#room-name")).to_have_text("b")
    item(page, "b").locator(".room-item__leave").click()
    expect(page.locator("#room-name")).to_have_text("c")


def test_shown_room_is_visible_in_the_list(visit: Any, script: ScriptedServer) -> None:
    """The list scrolls to the shown room, however long the list is."""
    names = [f"room-{number}" for number in range(40)]
    page = visit(at="room-0", script=script, init=remembered_rooms(*names))
    expect(page.locator(".room-item")).to_have_count(40)
    expect(item(page, "room-0")).to_be_in_viewport()
    page.keyboard.press("Alt+ArrowUp")
    expect(page.locator("#room-name")).to_have_text("room-39")
    expect(item(page, "room-39")).to_be_in_viewport(ratio=1)


def test_back_closes_an_open_drawer(visit: Any, script: ScriptedServer) -> None:
    """Going back closes the drawer of the room that was shown."""
    page = visit("Ann", at="a", script=script, viewport={"width": 390, "height": 700})
    open_room(page, "b")
    page.click("#people-toggle")
    expect(page.locator("#panel")).to_be_visible()
    page.go_back()
    expect(page.locator("#room-name")).to_have_text("a")
    expect(page.locator("#panel")).to_be_hidden()


def test_late_reply_to_a_join_of_a_left_room_is_ignored(visit: Any, script: ScriptedServer) -> None:
    """If a room is left before its join is answered, the page shows the next room and stays
    there."""
    script.rooms = {"slow": {"silent": True}}
    page = visit("Ann", at="a", script=script)
    open_room(page, "slow")
    item(page, "slow").locator(".room-item__leave").click()
    expect(page.locator("#room-name")).to_have_text("a")
    expect(item(page, "slow")).to_have_count(0)
    open_room(page, "b")
    expect(page.locator("#online-count")).to_have_text("2 here")
    script.answer(script.sent("join")[1])
    script.say(type="left", room="slow")
    publish(script, "slow", 1)
    publish(script, "b", 1)
    expect(page.locator(".message__text")).to_have_text(["line 1"])
    expect(page.locator(".room-item__name")).to_have_text(["a", "b"])
    assert joins(script) == ["a", "slow", "b"]
    assert [command["room"] for command in script.sent("leave")] == ["slow"]


def test_shown_room_can_be_left(visit: Any, script: ScriptedServer) -> None:
    """After leaving the shown room the page shows another, and Back does not return to the room."""
    page = visit("Ann", at="a", script=script)
    open_room(page, "b")
    publish(script, "b", 1)
    expect(text_in(page, "line 1")).to_be_visible()
    item(page, "b").locator(".room-item__leave").click()
    expect(page.locator("#room-name")).to_have_text("a")
    expect(page.locator(".room-item__name")).to_have_text(["a"])
    expect(page.locator(".message")).to_have_count(0)
    expect(page.locator(".room-item__leave")).to_be_hidden()
    assert page.evaluate(KEYS) == ["fastchat.read.a"]
    page.go_back()
    page.evaluate(FRAMES)
    expect(page.locator("#room-name")).to_have_text("a")
    page.reload()
    expect(page.locator("#online-count")).to_have_text("2 here")
    expect(page.locator(".room-item__name")).to_have_text(["a"])
    assert joins(script) == ["a", "b", "a"]


def test_room_can_be_left_by_touch(visit: Any, script: ScriptedServer) -> None:
    """The button to leave is visible without a pointer, and afterwards the focus is still in the
    list."""
    phone = {"viewport": {"width": 320, "height": 640}, "has_touch": True, "is_mobile": True}
    page = visit("Ann", at="a", script=script, **phone)
    open_room(page, "b")
    page.locator("#rooms-toggle").tap()
    leave = item(page, "b").locator(".room-item__leave")
    expect(leave).to_have_css("opacity", "1")
    leave.tap()
    expect(item(page, "b")).to_have_count(0)
    expect(item(page, "a").locator("a")).to_be_focused()


def test_leaving_a_room_releases_messages_of_others(visit: Any, script: ScriptedServer) -> None:
    """A pending message whose room is left does not hold up messages to other rooms."""
    page = visit("Ann", at="a", script=script)
    open_room(page, "b")
    say(page, "never answered")
    expect(page.locator(".message--pending")).to_have_count(1)
    (message,) = script.sent("message")
    script.say(type="error", **{**LIMITED, "retry_after_ms": 1}, id=message["id"])
    open_room(page, "a")
    say(page, "behind it")
    expect(page.locator(".message--pending")).to_have_count(1)
    item(page, "b").locator(".room-item__leave").click()
    expect(item(page, "b")).to_have_count(0)
    wait_until_sent(page, lambda: script.sent("message")[-1]["text"] == "behind it")


def test_back_and_forward_switch_rooms(visit: Any, script: ScriptedServer) -> None:
    """The browser's history shows each room again, without a new join."""
    page = visit("Ann", at="a", script=script)
    open_room(page, "b")
    publish(script, "a", 1)
    publish(script, "b", 1, 2)
    expect(page.locator(".message")).to_have_count(2)
    page.go_back()
    expect(page.locator(".message")).to_have_count(1)
    page.go_forward()
    expect(page.locator(".message")).to_have_count(2)
    assert joins(script) == ["a", "b"]
    assert script.connections == 1


def test_tabs_remember_each_other_s_rooms(visit: Any, context: Any) -> None:
    """The rooms of two tabs are all remembered, after a reconnect, too."""
    one, two = ScriptedServer(), ScriptedServer()
    first = visit("Ann", at="a", script=one, context=context)
    second = visit(at="b", script=two, context=context)
    expect(second.locator("#online-count")).to_have_text("2 here")
    open_room(second, "c")
    expect(second.locator("#online-count")).to_have_text("2 here")
    one.close(4008)
    wait_until_sent(first, lambda: joins(one) == ["a", "a"])
    publish(one, "a", 1)
    expect(text_in(first, "line 1")).to_be_visible()
    first.reload()
    expect(first.locator(".room-item__name")).to_have_text(["a", "b", "c"])
    item(second, "b").locator(".room-item__leave").click()
    expect(item(second, "b")).to_have_count(0)
    second.reload()
    expect(second.locator(".room-item__name")).to_have_text(["a", "c"])


def test_room_left_in_one_tab_is_left_in_other_tabs(visit: Any, context: Any) -> None:
    """A room left in one tab is left in the others, even during its join; a tab that shows the room
    stays in it."""
    one, two = ScriptedServer(), ScriptedServer()
    first = visit(at="a", script=one, context=context, init=remembered_rooms("a", "b", "c"))
    wait_until_sent(first, lambda: joins(one) == ["a", "b", "c"])
    one.rooms = {"b": {"silent": True}}
    first.reload()
    wait_until_sent(first, lambda: joins(one)[3:] == ["a", "b"])
    second = visit(at="c", script=two, context=context)
    wait_until_sent(second, lambda: len(joins(two)) == 3)
    item(second, "b").locator(".room-item__leave").click()
    expect(first.locator(".room-item__name")).to_have_text(["a", "c"])
    wait_until_sent(first, lambda: joins(one)[5:] == ["c"])
    assert [command["room"] for command in one.sent("leave")] == ["b"]
    item(second, "a").locator(".room-item__leave").click()
    wait_until_sent(second, lambda: len(two.sent("leave")) == 2)
    publish(one, "a", 1)
    expect(text_in(first, "line 1")).to_be_visible()
    expect(first.locator(".room-item__name")).to_have_text(["a", "c"])


def test_room_left_in_another_tab_is_not_remembered_again(visit: Any, context: Any) -> None:
    """A room left in another tab is not remembered again, even if a tab that shows it joins only
    then."""
    one, two = ScriptedServer(), ScriptedServer()
    first = visit(at="b", script=one, context=context, init=remembered_rooms("a", "b"))
    wait_until_sent(first, lambda: joins(one) == ["b", "a"])
    one.rooms = {"b": {"silent": True}}
    first.reload()
    wait_until_sent(first, lambda: joins(one)[2:] == ["b"])
    second = visit(at="a", script=two, context=context)
    wait_until_sent(second, lambda: len(joins(two)) == 2)
    item(second, "b").locator(".room-item__leave").click()
    expect(item(second, "b")).to_have_count(0)
    one.answer(one.sent("join")[-1])
    wait_until_sent(first, lambda: joins(one)[3:] == ["a"])
    second.reload()
    expect(second.locator(".room-item__name")).to_have_text(["a"])


def test_new_name_applies_to_all_rooms(visit: Any, script: ScriptedServer) -> None:
    """With a new name the page joins every room again, and the messages stay."""
    page = visit("Ann", at="a", script=script)
    open_room(page, "b")
    publish(script, "a", 1)
    publish(script, "b", 1)
    expect(page.locator(".message")).to_have_count(1)
    script.offset = 1
    change_name(page, "Annette")
    expect(page.locator("#own-name")).to_have_text("Annette")
    expect(badge(page, "a")).to_have_text("1")
    expect(page.locator(".message")).to_have_count(1)
    names = [(command["room"], command["username"]) for command in script.sent("join")]
    assert names == [("a", "Ann"), ("b", "Ann"), ("b", "Annette"), ("a", "Annette")]
    assert [command["room"] for command in script.sent("leave")] == ["a", "b"]


# Refused joins


def test_refused_hidden_room_does_not_disturb_others(visit: Any, script: ScriptedServer) -> None:
    """A refused hidden room is marked with the server's sentence and joined again only when it is
    shown."""
    script.rooms = {"closed": {"refusal": FORBIDDEN}}
    page = visit(at="a", script=script, init=remembered_rooms("closed", "b"))
    expect(page.locator(".room-item--refused a")).to_have_attribute("title", FORBIDDEN["message"])
    wait_until_sent(page, lambda: joins(script) == ["a", "closed", "b"])
    publish(script, "b", 1)
    expect(badge(page, "b")).to_have_text("1")
    expect(page.locator("#status")).to_be_empty()
    script.rooms = {"b": {"offset": 1, "missed": []}}
    script.close(4008)
    wait_until_sent(page, lambda: joins(script) == ["a", "closed", "b", "a", "b"])
    open_room(page, "closed")
    expect(page.locator("#online-count")).to_have_text("2 here")
    expect(page.locator(".room-item--refused")).to_have_count(0)


def test_refused_shown_room_does_not_disturb_others(visit: Any, script: ScriptedServer) -> None:
    """The refused room shows the sentence; other rooms work, on the same connection."""
    script.rooms = {"closed": {"refusal": FORBIDDEN}}
    page = visit("Ann", at="a", script=script)
    open_room(page, "closed")
    expect(page.locator("#status")).to_have_text(FORBIDDEN["message"])
    expect(page.locator("#try-now")).to_have_text("Reconnect")
    publish(script, "a", 1)
    expect(badge(page, "a")).to_have_text("1")
    open_room(page, "a")
    expect(page.locator("#status")).to_be_empty()
    expect(page.locator(".message__text")).to_have_text(["line 1"])
    open_room(page, "closed")
    expect(page.locator("#status")).to_have_text(FORBIDDEN["message"])
    script.rooms = {}
    page.click("#try-now")
    expect(page.locator("#status")).to_be_empty()
    expect(page.locator("#online-count")).to_have_text("2 here")
    assert script.connections == 1
    assert joins(script) == ["a", "closed", "closed", "closed"]


def test_refused_room_is_remembered_if_it_was_joined_before(
    visit: Any, script: ScriptedServer
) -> None:
    """A room that was joined before is remembered over a reload although it is refused; a room that
    was never joined is not."""
    page = visit("Ann", at="a", script=script)
    open_room(page, "b")
    expect(page.locator("#online-count")).to_have_text("2 here")
    script.rooms = {"b": {"refusal": FORBIDDEN}, "never": {"refusal": FORBIDDEN}}
    open_room(page, "never")
    expect(page.locator("#status")).to_have_text(FORBIDDEN["message"])
    open_room(page, "a")
    page.reload()
    expect(page.locator(".room-item--refused .room-item__name")).to_have_text(["b"])
    page.reload()
    expect(page.locator(".room-item__name")).to_have_text(["a", "b"])


def test_rate_limited_join_waits_in_its_room(visit: Any, script: ScriptedServer) -> None:
    """A rate-limited room says so, is tried again on request, and does not hold up other rooms."""
    script.rooms = {"b": {"refusal": LIMITED}}
    page = visit("Ann", at="a", script=script)
    open_room(page, "b")
    expect(page.locator("#status")).to_have_text("Wait.")
    expect(page.locator("#countdown")).to_contain_text("Trying again in")
    publish(script, "a", 1)
    expect(badge(page, "a")).to_have_text("1")
    script.rooms = {}
    page.click("#try-now")
    expect(page.locator("#status")).to_be_empty()
    expect(page.locator("#online-count")).to_have_text("2 here")
    assert script.connections == 1
    assert joins(script) == ["a", "b", "b"]


def test_page_stops_joining_after_too_many_rooms(visit: Any, script: ScriptedServer) -> None:
    """After the first `too_many_rooms` the page joins no more; leaving a room lets it join the
    shown one."""
    rooms = {name: {"refusal": TOO_MANY} for name in ("c", "d", "e")}
    script.rooms = dict(rooms)
    page = visit(at="a", script=script, init=remembered_rooms("a", "b", "c", "d", "e"))
    expect(page.locator(".room-item--refused")).to_have_count(3)
    assert joins(script) == ["a", "b", "c"]
    open_room(page, "d")
    expect(page.locator("#status")).to_have_text(TOO_MANY["message"])
    script.rooms = {}
    item(page, "b").locator(".room-item__leave").click()
    expect(page.locator("#status")).to_be_empty()
    expect(page.locator("#online-count")).to_have_text("2 here")
    assert joins(script)[3:5] == ["d", "d"]


def test_name_taken_in_one_room_is_not_changed_in_others(
    visit: Any, script: ScriptedServer
) -> None:
    """If the name is taken in one room, the user keeps it in the rooms that are joined."""
    script.rooms = {"b": {"refusal": TAKEN}}
    page = visit(at="a", script=script, init=remembered_rooms("a", "b"))
    expect(page.locator(".room-item--refused .room-item__name")).to_have_text(["b"])
    open_room(page, "b")
    expect(page.locator("#status")).to_have_text(TAKEN["message"])
    expect(page.locator("dialog[open]")).to_have_count(0)
    script.rooms = {}
    change_name(page, "Annette")
    expect(page.locator("#own-name")).to_have_text("Annette")
    expect(page.locator("#status")).to_be_empty()
    expect(page.locator(".room-item--refused")).to_have_count(0)


def test_page_closes_a_connection_without_a_joined_room(visit: Any, script: ScriptedServer) -> None:
    """While no room is joined, the page closes the connection before the server does, and
    reconnects later."""
    script.refusal = LIMITED
    page = visit(at="a", script=script, init=remembered_rooms("a", "b"))
    expect(page.locator("#status")).to_have_text("Wait.")
    assert (joins(script), script.connections) == (["a"], 1)
    script.refusal = None
    page.click("#try-now")
    expect(page.locator("#online-count")).to_have_text("2 here")
    assert script.connections == 2


# Read and unread


def test_unread_count_survives_a_reload(visit: Any, script: ScriptedServer) -> None:
    """A first visit has no unread messages; messages in other rooms count until their room is
    shown."""
    script.rooms = {"b": {"offset": 3, "missed": lines("b", 1, 2, 3)}}
    page = visit("Ann", at="a", script=script)
    open_room(page, "b")
    expect(page.locator(".message")).to_have_count(3)
    expect(page.locator("[data-fresh]")).to_have_count(0)
    open_room(page, "a")
    publish(script, "b", 4, 5)
    expect(badge(page, "b")).to_have_text("2")
    expect(page).to_have_title("(2) #a · fastchat")
    script.rooms = {"b": {"offset": 5, "missed": lines("b", 1, 2, 3, 4, 5)}}
    page.reload()
    expect(badge(page, "b")).to_have_text("2")
    open_room(page, "b")
    expect(page.locator("[data-fresh]")).to_have_attribute("data-offset", "4")
    expect(badge(page, "b")).to_be_hidden()
    expect(page).to_have_title("#b · fastchat")
    page.reload()
    expect(page.locator(".message")).to_have_count(5)
    expect(page.locator("[data-fresh]")).to_have_count(0)


def test_unread_line_is_placed_once_a_visit(visit: Any, script: ScriptedServer) -> None:
    """The line stays where the reader left off during a visit, and is gone at the next visit."""
    page = visit("Ann", at="a", script=script)
    open_room(page, "b")
    expect(page.locator("#online-count")).to_have_text("2 here")
    open_room(page, "a")
    publish(script, "b", 1)
    open_room(page, "b")
    expect(page.locator("[data-fresh]")).to_have_attribute("data-offset", "1")
    publish(script, "b", 2, 3)
    expect(page.locator(".message")).to_have_count(3)
    expect(page.locator("[data-fresh]")).to_have_attribute("data-offset", "1")
    open_room(page, "a")
    open_room(page, "b")
    expect(page.locator(".message")).to_have_count(3)
    expect(page.locator("[data-fresh]")).to_have_count(0)


def test_room_opens_at_the_unread_line(visit: Any, script: ScriptedServer) -> None:
    """If the unread messages do not fit, the room opens at the line, and the rest stays unread
    until it is seen."""
    page = visit("Ann", at="a", script=script)
    open_room(page, "b")
    publish(script, "b", 1)
    expect(text_in(page, "line 1")).to_be_visible()
    open_room(page, "a")
    publish(script, "b", *range(2, 62))
    expect(badge(page, "b")).to_have_text("60")
    open_room(page, "b")
    expect(page.locator(".message[data-offset='2']")).to_be_in_viewport()
    expect(page.locator(".message[data-offset='61']")).not_to_be_in_viewport()
    expect(page.locator("#new-messages")).to_contain_text("new messages")
    top = page.evaluate("() => document.getElementById('log').scrollTop")
    publish(script, "b", 62)
    expect(page.locator(".message[data-offset='62']")).to_have_count(1)
    assert page.evaluate("() => document.getElementById('log').scrollTop") == top
    open_room(page, "a")
    expect(badge(page, "b")).not_to_be_empty()
    left = int(badge(page, "b").text_content())
    assert 0 < left < 60
    open_room(page, "b")
    expect(page.locator("[data-fresh]")).to_have_attribute("data-offset", str(63 - left))
    page.click("#new-messages")
    expect(page.locator(".message[data-offset='62']")).to_be_in_viewport()
    open_room(page, "a")
    expect(badge(page, "b")).to_be_hidden()


def test_room_opens_at_the_oldest_message_if_the_line_is_further_back(
    visit: Any, script: ScriptedServer
) -> None:
    """If a join brings only part of the unread messages, the rest stays unread, and scrolling up
    reaches the line."""
    page = visit("Ann", at="b", script=script)
    publish(script, "b", *range(1, 21))
    expect(text_in(page, "line 20")).to_be_in_viewport()
    open_room(page, "a")
    script.past = lines("b", *range(1, 101))
    script.rooms = {"b": {"offset": 100, "missed": script.past[50:]}}
    page.reload()
    expect(badge(page, "b")).to_have_text("50+")
    open_room(page, "b")
    expect(text_in(page, "line 51")).to_be_in_viewport()
    expect(text_in(page, "line 100")).not_to_be_in_viewport()
    expect(page.locator("#new-messages")).to_contain_text("new messages")
    expect(page.locator("[data-fresh]")).to_have_attribute("data-offset", "21")
    expect(text_in(page, "line 51")).to_be_in_viewport()


def test_reader_at_the_end_stays_at_the_end(visit: Any, script: ScriptedServer) -> None:
    """If the log is replaced while the reader is at its end, it is shown at its end."""
    page = visit("Ann", at="a", script=script)
    publish(script, "a", *range(1, 31))
    expect(text_in(page, "line 30")).to_be_in_viewport()
    script.epoch = "e2"
    script.rooms = {"a": {"offset": 100, "missed": lines("a", *range(51, 101))}}
    script.close(1012)
    expect(text_in(page, "line 100")).to_be_in_viewport()
    publish(script, "a", 101)
    expect(text_in(page, "line 101")).to_be_in_viewport()


def test_unread_count_stops_at_99(visit: Any, script: ScriptedServer) -> None:
    """The number beside the room and in the title does not exceed 99."""
    page = visit("Ann", at="b", script=script)
    open_room(page, "a")
    publish(script, "b", *range(1, 100))
    expect(badge(page, "b")).to_have_text("99")
    publish(script, "b", 100)
    expect(badge(page, "b")).to_have_text("99+")
    expect(page).to_have_title("(99+) #a · fastchat")


def test_only_one_drawer_is_open_on_a_phone(visit: Any, script: ScriptedServer) -> None:
    """On a phone, a drawer closes the one before, and Escape closes all."""
    page = visit("Ann", at="a", script=script, viewport={"width": 320, "height": 640})
    page.click("#rooms-toggle")
    expect(page.locator("#sidebar")).to_be_visible()
    page.keyboard.press("Control+k")
    expect(page.locator("#search-field")).to_be_focused()
    expect(page.locator("#sidebar")).to_be_hidden()
    expect(page.locator("#rooms-toggle")).to_have_attribute("aria-expanded", "false")
    page.keyboard.press("Escape")
    expect(page.locator("#search")).to_be_hidden()
    expect(page.locator("#rooms-toggle")).to_be_focused()
    say(page, "still here")
    expect(page.locator(".message--pending")).to_have_count(1)


def test_hidden_page_reads_no_message(visit: Any, script: ScriptedServer) -> None:
    """Messages that arrive on a hidden page count in the title, and the line stands before them."""
    page = visit("Ann", at="a", script=script, init=AWAY)
    publish(script, "a", 1)
    expect(text_in(page, "line 1")).to_be_visible()
    page.evaluate("() => goAway(true)")
    publish(script, "a", 2, 3)
    expect(page).to_have_title("(2) #a · fastchat")
    expect(page.locator(".message")).to_have_count(3)
    page.evaluate("() => goAway(false)")
    expect(page).to_have_title("#a · fastchat")
    expect(page.locator("[data-fresh]")).to_have_attribute("data-offset", "2")


def test_message_below_the_screen_is_unread(visit: Any, script: ScriptedServer) -> None:
    """While the reader looks back, new messages stay unread, over a reload, too."""
    script.rooms = {"a": {"offset": 40, "missed": lines("a", *range(1, 41))}}
    page = visit("Ann", at="a", script=script)
    expect(text_in(page, "line 40")).to_be_in_viewport()
    page.hover("#log")
    page.mouse.wheel(0, -600)
    expect(text_in(page, "line 40")).not_to_be_in_viewport()
    publish(script, "a", 41, 42)
    expect(page.locator("#new-messages")).to_have_text("2 new messages")
    script.rooms = {"a": {"offset": 42, "missed": lines("a", *range(1, 43))}}
    page.reload()
    expect(page.locator("[data-fresh]")).to_have_attribute("data-offset", "41")


def test_new_history_is_unread_from_its_start(visit: Any, script: ScriptedServer) -> None:
    """If the server has lost its history, all messages of the new one are unread, in every room."""
    page = visit("Ann", at="a", script=script)
    open_room(page, "b")
    publish(script, "a", 1)
    publish(script, "b", 1)
    expect(text_in(page, "line 1")).to_be_visible()
    open_room(page, "a")
    expect(badge(page, "a")).to_be_hidden()
    publish(script, "b", 2)
    open_room(page, "b")
    expect(page.locator("[data-fresh]")).to_have_attribute("data-offset", "2")
    script.epoch = "e2"
    script.rooms = {
        "a": {"offset": 1, "missed": lines("a", 1, text="anew")},
        "b": {"offset": 1, "missed": lines("b", 1, text="anew")},
    }
    script.close(1012)
    expect(page.locator(".message__text")).to_have_text(["anew 1"])
    expect(badge(page, "a")).to_have_text("1")
    publish(script, "b", 2, 3, 4)
    expect(page.locator(".message")).to_have_count(4)
    expect(page.locator(".message[data-offset='3'][data-fresh]")).to_have_count(0)
    open_room(page, "a")
    expect(page.locator("[data-fresh] .message__text")).to_have_text(["anew 1"])


def test_restarted_server_without_history_resets_the_counts(visit: Any, room: str) -> None:
    """After a restart with `--history memory` each room works, and no count refers to the old
    history."""
    with running_server("--history", "memory") as first, joined_user("b", "Bob", first) as bob:
        page = visit("Ann", at="b", url=first.url)
        bob.say("one", "two", "three")
        expect(page.locator(".message")).to_have_count(3)
        open_room(page, "a")
        expect(page.locator("#online-count")).to_have_text("1 here")
        port = first.port
        first.kill()
    with running_server("--history", "memory", port=port) as second:
        page.wait_for_function(
            """() => { dispatchEvent(new Event("online"));
              return document.getElementById("online-count").textContent === "1 here"; }"""
        )
        with joined_user("b", "Bob", second) as bob:
            bob.say("four")
            expect(badge(page, "b")).to_have_text("1")
        open_room(page, "b")
        expect(page.locator(".message__text")).to_have_text(["four"])


def test_message_read_in_one_tab_is_read_in_the_other(visit: Any, context: Any) -> None:
    """The unread count disappears in both tabs, and neither tab makes the message unread again."""
    one, two = ScriptedServer(), ScriptedServer()
    first = visit("Ann", at="b", script=one, context=context)
    open_room(first, "a")
    second = visit(at="a", script=two, context=context)
    expect(second.locator(".room-item")).to_have_count(2)
    page_of = {first: one, second: two}
    for page, script in page_of.items():
        expect(page.locator("#online-count")).to_have_text("2 here")
        publish(script, "b", 1, 2)
        expect(badge(page, "b")).to_have_text("2")
    open_room(second, "b")
    expect(badge(second, "b")).to_be_hidden()
    expect(badge(first, "b")).to_be_hidden()
    expect(first).to_have_title("#a · fastchat")
    publish(one, "b", 3)
    expect(badge(first, "b")).to_have_text("1")


def test_scroll_position_survives_another_room(visit: Any, script: ScriptedServer) -> None:
    """A reader who looked back returns to that place, unless there are new messages."""
    script.rooms = {"a": {"offset": 60, "missed": lines("a", *range(1, 61))}}
    page = visit("Ann", at="a", script=script, viewport={"width": 1000, "height": 700})
    expect(text_in(page, "line 60")).to_be_in_viewport()
    page.hover("#log")
    page.mouse.wheel(0, -900)
    expect(text_in(page, "line 60")).not_to_be_in_viewport()
    page.evaluate(FRAMES)
    top = "() => document.getElementById('log').scrollTop"
    before = page.evaluate(top)
    assert before > 100
    open_room(page, "b")
    expect(page.locator(".message")).to_have_count(0)
    page.go_back()
    expect(page.locator(".message")).to_have_count(60)
    page.evaluate(FRAMES)
    assert abs(page.evaluate(top) - before) <= 1
    page.go_forward()
    expect(page.locator(".message")).to_have_count(0)
    publish(script, "a", 61)
    page.go_back()
    expect(text_in(page, "line 61")).to_be_in_viewport()
    open_room(page, "c")
    page.go_back()
    expect(text_in(page, "line 61")).to_be_in_viewport()


def test_failed_message_in_another_room_is_marked(visit: Any, script: ScriptedServer) -> None:
    """A room with a failed message is marked until the user acts on the message."""
    page = visit("Ann", at="b", script=script)
    say(page, "hello")
    wait_until_sent(page, lambda: len(script.sent("message")) == 1)
    open_room(page, "a")
    publish(script, "b", 1)
    expect(badge(page, "b")).to_have_text("1")
    script.say(type="error", id=script.sent("message")[0]["id"], **FORBIDDEN)
    expect(badge(page, "b")).to_have_text("!")
    expect(item(page, "b").get_by_role("link")).to_have_accessible_name(re.compile("Not sent"))
    open_room(page, "b")
    expect(badge(page, "b")).to_be_hidden()
    open_room(page, "a")
    expect(badge(page, "b")).to_have_text("!")
    open_room(page, "b")
    page.get_by_role("button", name="Remove", exact=True).click()
    open_room(page, "a")
    expect(badge(page, "b")).to_be_hidden()


def test_changes_and_own_messages_are_not_unread(visit: Any, script: ScriptedServer) -> None:
    """Deleted messages, own messages, edits and reactions do not count as unread."""
    page = visit("Ann", at="b", script=script)
    open_room(page, "a")
    publish(script, "b", 1, 2)
    script.publish("my own, from elsewhere", offset=3, room="b", username="Ann")
    expect(badge(page, "b")).to_have_text("2")
    script.publish("edited", offset=4, room="b", type="edit", target=1)
    script.publish("", offset=5, room="b", type="react", target=1, emoji="👍")
    script.publish("", offset=6, room="b", type="delete", target=2)
    expect(badge(page, "b")).to_have_text("1")
    script.publish("", offset=7, room="b", type="delete", target=1)
    expect(badge(page, "b")).to_be_hidden()
    expect(page).to_have_title("#a · fastchat")


def test_emptied_room_has_no_unread_messages(visit: Any, script: ScriptedServer) -> None:
    """A room whose history was pruned has no count and no line, and says that it is quiet."""
    page = visit("Ann", at="b", script=script)
    open_room(page, "a")
    publish(script, "b", 1, 2)
    expect(badge(page, "b")).to_have_text("2")
    script.rooms = {"b": {"offset": 90, "missed": []}}
    page.reload()
    expect(page.locator(".room-item")).to_have_count(2)
    open_room(page, "b")
    expect(page.locator("#empty")).to_be_visible()
    expect(badge(page, "b")).to_be_hidden()
    publish(script, "b", 91)
    expect(page.locator(".message__text")).to_have_text(["line 91"])
    expect(page.locator("[data-fresh]")).to_have_count(0)


def test_presence_and_typing_stay_in_their_room(visit: Any, server: Server, room: str) -> None:
    """Joins, leaves and typing are shown in their own room only."""
    page = visit("Ann", at=f"{room}-a")
    open_room(page, f"{room}-b")
    expect(page.locator("#online-count")).to_have_text("1 here")
    with joined_user(f"{room}-a", "Bob", server) as bob:
        bob.do(type="typing")
        bob.say("hello")
        expect(badge(page, f"{room}-a")).to_have_text("1")
        expect(page.locator("#typing")).to_be_empty()
        expect(page.locator("#online-count")).to_have_text("1 here")
        expect(page.locator(".notice, .message")).to_have_count(0)
        open_room(page, f"{room}-a")
        expect(page.locator("#online-count")).to_have_text("2 here")
        expect(page.locator(".notice")).to_have_text("Bob joined")
