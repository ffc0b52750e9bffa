"""Several rooms on a page: joined, left, refused, read and unread, over reloads and breaks."""

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
# A tab that is in front or not, as a test says.
AWAY = """Object.defineProperty(document, "hidden", { get: () => window.away === true });
window.goAway = (away) => { window.away = away;
  document.dispatchEvent(new Event("visibilitychange")); };"""
FRAMES = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


@pytest.fixture
def context(chromium: Any) -> Iterator[Any]:
    context = chromium.new_context(service_workers="block")
    yield context
    context.close()


def go(page: Any, room: str) -> None:
    page.evaluate("room => { location.hash = room }", room)
    expect(page.locator("#room-name")).to_have_text(room)


def item(page: Any, room: str) -> Any:
    return page.locator(".room-item").filter(has=page.get_by_text(room, exact=True))


def badge(page: Any, room: str) -> Any:
    return item(page, room).locator(".badge b")


def until(page: Any, holds: Callable[[], bool]) -> None:
    """Let the page run until this is so; what it sends is seen only while it does."""
    deadline = time.monotonic() + 20 * TIMEOUT_UNIT_S
    while not holds():
        assert time.monotonic() < deadline
        page.evaluate(FRAMES)


def joins(script: ScriptedServer) -> list[str]:
    return [command["room"] for command in script.sent("join")]


def remembering(*rooms: str) -> str:
    """A script for a browser that was in these rooms before, as Ann."""
    return f"""if (!localStorage.getItem("fastchat.rooms")) {{
      localStorage.setItem("fastchat.rooms", {json.dumps(" ".join(rooms))});
      localStorage.setItem("fastchat.name", "Ann");
    }}"""


def lines(room: str, *offsets: int, text: str = "line") -> list[dict[str, Any]]:
    return [publication(f"{text} {each}", offset=each, room=room) for each in offsets]


def publish(script: ScriptedServer, room: str, *offsets: int) -> None:
    for each in lines(room, *offsets):
        script.say(**each)


# Coming, going, and coming back


def test_each_room_goes_on_from_its_position(visit: Any, script: ScriptedServer) -> None:
    """After a break the shown room is joined first, and none has lost or doubled anything."""
    page = visit("Ann", at="a", script=script)
    go(page, "b")
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
    go(page, "a")
    expect(page.locator(".message__text")).to_have_text(
        [f"line {number}" for number in range(1, 5)]
    )
    expect(badge(page, "a")).to_be_hidden()
    assert script.connections == 2


def test_hole_in_a_hidden_room_is_filled(visit: Any, script: ScriptedServer) -> None:
    """A number that is missing in a room that is not shown makes the page recover it."""
    page = visit("Ann", at="a", script=script)
    go(page, "b")
    publish(script, "a", 1)
    expect(badge(page, "a")).to_have_text("1")
    script.rooms = {"a": {"offset": 3, "missed": lines("a", 2, 3)}}
    publish(script, "a", 3)
    expect(badge(page, "a")).to_have_text("3")
    assert script.connections == 2


def test_nothing_is_lost_or_doubled_over_many_breaks(
    visit: Any, context: Any, server: Server, room: str
) -> None:
    """However often the connection breaks, each room has every message once, in order."""
    switch, dice = ConnectionSwitch(context), random.Random(1)
    rooms = [f"{room}-{name}" for name in ("a", "b", "c", "d")]
    page = visit("Ann", at=rooms[0], context=context)
    for name in rooms[1:]:
        go(page, name)
    expect(page.locator("#online-count")).to_have_text("1 here")
    own: dict[str, list[str]] = {name: [] for name in rooms}
    counts = dict.fromkeys(rooms, 0)
    with contextlib.ExitStack() as stack:
        guests = {name: stack.enter_context(joined_user(name, "Bob", server)) for name in rooms}
        for turn in range(40):
            name = dice.choice(rooms)
            guests[name].say(f"Bob {turn}", f"Bob {turn} again")
            counts[name] += 2
            go(page, name := dice.choice(rooms))
            say(page, f"Ann {turn}")
            own[name].append(f"Ann {turn}")
            counts[name] += 1
            if turn % 5 == 2:
                switch.disconnect()
            elif turn % 5 == 4:
                switch.reconnect()
                page.evaluate("() => dispatchEvent(new Event('online'))")
        for name in rooms:
            go(page, name)
            page.evaluate(FRAMES)  # until then the rows are of the room before
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
    """What was written offline in several rooms arrives once in each, in the order of writing."""
    switch = ConnectionSwitch(context)
    rooms = [f"{room}-{name}" for name in ("a", "b", "c")]
    page = visit("Ann", at=rooms[0], context=context)
    for name in rooms[1:]:
        go(page, name)
    expect(page.locator("#online-count")).to_have_text("1 here")
    switch.disconnect()
    for text in ("one", "two", "three"):
        for name in rooms:
            go(page, name)
            say(page, f"{text} for {name}")
    page.reload()
    switch.reconnect()
    page.evaluate("() => dispatchEvent(new Event('online'))")
    for name in rooms:
        go(page, name)
        expect(page.locator(".message[data-offset] .message__text")).to_have_text(
            [f"{text} for {name}" for text in ("one", "two", "three")]
        )
        expect(page.locator(".message").last).to_have_attribute("data-offset", "3")
        expect(page.locator(".message")).to_have_count(3)


def test_twenty_rooms_are_joined_in_spite_of_limits(visit: Any) -> None:
    """Joins that come too fast are put off and not given up, on one connection."""
    rooms = [f"r{number}" for number in range(20)]
    limits = ("--command-rate", "5", "--new-room-rate", "0")
    with running_server("--history", "memory", *limits) as server:
        page = visit(at="about", url=server.url, init=remembering(*rooms))
        page.wait_for_selector("#people .person", state="attached")
        expect(page.locator(".room-item")).to_have_count(21)
        # A read mark is set by the first join.
        page.wait_for_function(f"() => ({KEYS})().length === 21")
        with joined_user(rooms[-1], "Bob", server) as bob:
            bob.say("hello")
            expect(badge(page, rooms[-1])).to_have_text("1")
        expect(page.locator(".room-item--refused")).to_have_count(0)
        expect(page.locator("#status")).to_be_empty()


def test_leaving_leads_back_to_where_one_was(visit: Any, script: ScriptedServer) -> None:
    """Not to the first room of the list."""
    page = visit("Ann", at="a", script=script)
    for name in ("b", "c", "d", "b", "d"):
        go(page, name)
    item(page, "d").locator(".room-item__leave").click()
    expect(page.locator("#room-name")).to_have_text("b")
    item(page, "b").locator(".room-item__leave").click()
    expect(page.locator("#room-name")).to_have_text("c")


def test_room_that_is_shown_is_in_sight(visit: Any, script: ScriptedServer) -> None:
    """However long the list is, and however one came there."""
    names = [f"room-{number}" for number in range(40)]
    page = visit(at="room-0", script=script, init=remembering(*names))
    expect(page.locator(".room-item")).to_have_count(40)
    expect(item(page, "room-0")).to_be_in_viewport()
    page.keyboard.press("Alt+ArrowUp")
    expect(page.locator("#room-name")).to_have_text("room-39")
    expect(item(page, "room-39")).to_be_in_viewport(ratio=1)


def test_the_way_back_closes_what_is_open(visit: Any, script: ScriptedServer) -> None:
    """A drawer of the room before does not stay over the next."""
    page = visit("Ann", at="a", script=script, viewport={"width": 390, "height": 700})
    go(page, "b")
    page.click("#people-toggle")
    expect(page.locator("#panel")).to_be_visible()
    page.go_back()
    expect(page.locator("#room-name")).to_have_text("a")
    expect(page.locator("#panel")).to_be_hidden()


def test_late_answer_to_a_room_that_was_left_is_ignored(visit: Any, script: ScriptedServer) -> None:
    """Who leaves while his join is under way is in the next room, and not in that one again."""
    script.rooms = {"slow": {"silent": True}}
    page = visit("Ann", at="a", script=script)
    go(page, "slow")
    item(page, "slow").locator(".room-item__leave").click()
    expect(page.locator("#room-name")).to_have_text("a")
    expect(item(page, "slow")).to_have_count(0)
    go(page, "b")
    expect(page.locator("#online-count")).to_have_text("2 here")
    script.answer(script.sent("join")[1])
    script.say(type="left", room="slow")
    publish(script, "slow", 1)
    publish(script, "b", 1)
    expect(page.locator(".message__text")).to_have_text(["line 1"])
    expect(page.locator(".room-item__name")).to_have_text(["a", "b"])
    assert joins(script) == ["a", "slow", "b"]
    assert [command["room"] for command in script.sent("leave")] == ["slow"]


def test_room_that_is_shown_can_be_left(visit: Any, script: ScriptedServer) -> None:
    """Another one is shown then; the one he left is left for good, and Back does not lead there."""
    page = visit("Ann", at="a", script=script)
    go(page, "b")
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


def test_leaving_by_finger(visit: Any, script: ScriptedServer) -> None:
    """Its button shows without a pointer over it; then the focus is in the list still."""
    phone = {"viewport": {"width": 320, "height": 640}, "has_touch": True, "is_mobile": True}
    page = visit("Ann", at="a", script=script, **phone)
    go(page, "b")
    page.locator("#rooms-toggle").tap()
    leave = item(page, "b").locator(".room-item__leave")
    expect(leave).to_have_css("opacity", "1")
    leave.tap()
    expect(item(page, "b")).to_have_count(0)
    expect(item(page, "a").locator("a")).to_be_focused()


def test_leaving_lets_other_rooms_messages_through(visit: Any, script: ScriptedServer) -> None:
    """A message whose room is left meanwhile does not hold up what is written elsewhere."""
    page = visit("Ann", at="a", script=script)
    go(page, "b")
    say(page, "never answered")
    expect(page.locator(".message--pending")).to_have_count(1)
    (message,) = script.sent("message")
    script.say(type="error", **{**LIMITED, "retry_after_ms": 1}, id=message["id"])
    go(page, "a")
    say(page, "behind it")
    expect(page.locator(".message--pending")).to_have_count(1)
    item(page, "b").locator(".room-item__leave").click()
    expect(item(page, "b")).to_have_count(0)
    until(page, lambda: script.sent("message")[-1]["text"] == "behind it")


def test_back_and_forward_go_between_rooms(visit: Any, script: ScriptedServer) -> None:
    """The browser's history shows each room again, with nothing joined anew."""
    page = visit("Ann", at="a", script=script)
    go(page, "b")
    publish(script, "a", 1)
    publish(script, "b", 1, 2)
    expect(page.locator(".message")).to_have_count(2)
    page.go_back()
    expect(page.locator(".message")).to_have_count(1)
    page.go_forward()
    expect(page.locator(".message")).to_have_count(2)
    assert joins(script) == ["a", "b"]
    assert script.connections == 1


def test_tabs_do_not_overwrite_each_others_rooms(visit: Any, context: Any) -> None:
    """Of two tabs in different rooms both are remembered, also after a reconnect."""
    one, two = ScriptedServer(), ScriptedServer()
    first = visit("Ann", at="a", script=one, context=context)
    second = visit(at="b", script=two, context=context)
    expect(second.locator("#online-count")).to_have_text("2 here")
    go(second, "c")
    expect(second.locator("#online-count")).to_have_text("2 here")
    one.close(4008)
    until(first, lambda: joins(one) == ["a", "a"])
    publish(one, "a", 1)
    expect(text_in(first, "line 1")).to_be_visible()
    first.reload()
    expect(first.locator(".room-item__name")).to_have_text(["a", "b", "c"])
    item(second, "b").locator(".room-item__leave").click()
    expect(item(second, "b")).to_have_count(0)
    second.reload()
    expect(second.locator(".room-item__name")).to_have_text(["a", "c"])


def test_room_left_in_one_tab_is_left_in_the_others(visit: Any, context: Any) -> None:
    """Also where it was just being joined; only a tab that shows it stays, for itself."""
    one, two = ScriptedServer(), ScriptedServer()
    first = visit(at="a", script=one, context=context, init=remembering("a", "b", "c"))
    until(first, lambda: joins(one) == ["a", "b", "c"])
    one.rooms = {"b": {"silent": True}}
    first.reload()
    until(first, lambda: joins(one)[3:] == ["a", "b"])
    second = visit(at="c", script=two, context=context)
    until(second, lambda: len(joins(two)) == 3)
    item(second, "b").locator(".room-item__leave").click()
    expect(first.locator(".room-item__name")).to_have_text(["a", "c"])
    until(first, lambda: joins(one)[5:] == ["c"])
    assert [command["room"] for command in one.sent("leave")] == ["b"]
    item(second, "a").locator(".room-item__leave").click()
    until(second, lambda: len(two.sent("leave")) == 2)
    publish(one, "a", 1)
    expect(text_in(first, "line 1")).to_be_visible()
    expect(first.locator(".room-item__name")).to_have_text(["a", "c"])


def test_room_left_in_another_tab_does_not_come_back(visit: Any, context: Any) -> None:
    """Not even when a tab that shows it is let in only then."""
    one, two = ScriptedServer(), ScriptedServer()
    first = visit(at="b", script=one, context=context, init=remembering("a", "b"))
    until(first, lambda: joins(one) == ["b", "a"])
    one.rooms = {"b": {"silent": True}}
    first.reload()
    until(first, lambda: joins(one)[2:] == ["b"])
    second = visit(at="a", script=two, context=context)
    until(second, lambda: len(joins(two)) == 2)
    item(second, "b").locator(".room-item__leave").click()
    expect(item(second, "b")).to_have_count(0)
    one.answer(one.sent("join")[-1])
    until(first, lambda: joins(one)[3:] == ["a"])
    second.reload()
    expect(second.locator(".room-item__name")).to_have_text(["a"])


def test_new_name_is_for_all_rooms(visit: Any, script: ScriptedServer) -> None:
    """Another name joins every room again under it, and what was there stays."""
    page = visit("Ann", at="a", script=script)
    go(page, "b")
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


# Not let in


def test_refused_hidden_room_leaves_the_others_alone(visit: Any, script: ScriptedServer) -> None:
    """It is marked, with the server's sentence, and asked for again only when it is shown."""
    script.rooms = {"closed": {"refusal": FORBIDDEN}}
    page = visit(at="a", script=script, init=remembering("closed", "b"))
    expect(page.locator(".room-item--refused a")).to_have_attribute("title", FORBIDDEN["message"])
    until(page, lambda: joins(script) == ["a", "closed", "b"])
    publish(script, "b", 1)
    expect(badge(page, "b")).to_have_text("1")
    expect(page.locator("#status")).to_be_empty()
    script.rooms = {"b": {"offset": 1, "missed": []}}
    script.close(4008)
    until(page, lambda: joins(script) == ["a", "closed", "b", "a", "b"])
    go(page, "closed")
    expect(page.locator("#online-count")).to_have_text("2 here")
    expect(page.locator(".room-item--refused")).to_have_count(0)


def test_refused_shown_room_leaves_the_others_alone(visit: Any, script: ScriptedServer) -> None:
    """The sentence stays while he looks at it; elsewhere he goes on, on the same connection."""
    script.rooms = {"closed": {"refusal": FORBIDDEN}}
    page = visit("Ann", at="a", script=script)
    go(page, "closed")
    expect(page.locator("#status")).to_have_text(FORBIDDEN["message"])
    expect(page.locator("#try-now")).to_have_text("Reconnect")
    publish(script, "a", 1)
    expect(badge(page, "a")).to_have_text("1")
    go(page, "a")
    expect(page.locator("#status")).to_be_empty()
    expect(page.locator(".message__text")).to_have_text(["line 1"])
    go(page, "closed")
    expect(page.locator("#status")).to_have_text(FORBIDDEN["message"])
    script.rooms = {}
    page.click("#try-now")
    expect(page.locator("#status")).to_be_empty()
    expect(page.locator("#online-count")).to_have_text("2 here")
    assert script.connections == 1
    assert joins(script) == ["a", "closed", "closed", "closed"]


def test_refused_room_is_remembered_if_he_was_in_it(visit: Any, script: ScriptedServer) -> None:
    """A room that shut for a while is there after a reload; one that never opened is not."""
    page = visit("Ann", at="a", script=script)
    go(page, "b")
    expect(page.locator("#online-count")).to_have_text("2 here")
    script.rooms = {"b": {"refusal": FORBIDDEN}, "never": {"refusal": FORBIDDEN}}
    go(page, "never")
    expect(page.locator("#status")).to_have_text(FORBIDDEN["message"])
    go(page, "a")
    page.reload()
    expect(page.locator(".room-item--refused .room-item__name")).to_have_text(["b"])
    page.reload()
    expect(page.locator(".room-item__name")).to_have_text(["a", "b"])


def test_limited_join_waits_in_place(visit: Any, script: ScriptedServer) -> None:
    """The room that has to wait says so in time, tries when asked to, and costs no other room."""
    script.rooms = {"b": {"refusal": LIMITED}}
    page = visit("Ann", at="a", script=script)
    go(page, "b")
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


def test_too_many_rooms_are_not_asked_for_one_by_one(visit: Any, script: ScriptedServer) -> None:
    """After the first of them the page knows; leaving a room makes place for the one shown."""
    rooms = {name: {"refusal": TOO_MANY} for name in ("c", "d", "e")}
    script.rooms = dict(rooms)
    page = visit(at="a", script=script, init=remembering("a", "b", "c", "d", "e"))
    expect(page.locator(".room-item--refused")).to_have_count(3)
    assert joins(script) == ["a", "b", "c"]
    go(page, "d")
    expect(page.locator("#status")).to_have_text(TOO_MANY["message"])
    script.rooms = {}
    item(page, "b").locator(".room-item__leave").click()
    expect(page.locator("#status")).to_be_empty()
    expect(page.locator("#online-count")).to_have_text("2 here")
    assert joins(script)[3:5] == ["d", "d"]


def test_name_taken_in_another_room_only(visit: Any, script: ScriptedServer) -> None:
    """Who is in a room already is not made to change his name for the sake of another."""
    script.rooms = {"b": {"refusal": TAKEN}}
    page = visit(at="a", script=script, init=remembering("a", "b"))
    expect(page.locator(".room-item--refused .room-item__name")).to_have_text(["b"])
    go(page, "b")
    expect(page.locator("#status")).to_have_text(TAKEN["message"])
    expect(page.locator("dialog[open]")).to_have_count(0)
    script.rooms = {}
    change_name(page, "Annette")
    expect(page.locator("#own-name")).to_have_text("Annette")
    expect(page.locator("#status")).to_be_empty()
    expect(page.locator(".room-item--refused")).to_have_count(0)


def test_waiting_room_is_not_left_to_the_server(visit: Any, script: ScriptedServer) -> None:
    """A connection that is in no room is given up while it waits, and not closed for good."""
    script.refusal = LIMITED
    page = visit(at="a", script=script, init=remembering("a", "b"))
    expect(page.locator("#status")).to_have_text("Wait.")
    assert (joins(script), script.connections) == (["a"], 1)
    script.refusal = None
    page.click("#try-now")
    expect(page.locator("#online-count")).to_have_text("2 here")
    assert script.connections == 2


# Read and unread


def test_unread_outlives_a_reload(visit: Any, script: ScriptedServer) -> None:
    """A first visit has nothing new; what comes while he is elsewhere counts until he is there."""
    script.rooms = {"b": {"offset": 3, "missed": lines("b", 1, 2, 3)}}
    page = visit("Ann", at="a", script=script)
    go(page, "b")
    expect(page.locator(".message")).to_have_count(3)
    expect(page.locator("[data-fresh]")).to_have_count(0)
    go(page, "a")
    publish(script, "b", 4, 5)
    expect(badge(page, "b")).to_have_text("2")
    expect(page).to_have_title("(2) #a · fastchat")
    script.rooms = {"b": {"offset": 5, "missed": lines("b", 1, 2, 3, 4, 5)}}
    page.reload()
    expect(badge(page, "b")).to_have_text("2")
    go(page, "b")
    expect(page.locator("[data-fresh]")).to_have_attribute("data-offset", "4")
    expect(badge(page, "b")).to_be_hidden()
    expect(page).to_have_title("#b · fastchat")
    page.reload()
    expect(page.locator(".message")).to_have_count(5)
    expect(page.locator("[data-fresh]")).to_have_count(0)


def test_line_is_placed_once_a_visit(visit: Any, script: ScriptedServer) -> None:
    """It stays where he left off while he is there, and is gone when he comes again."""
    page = visit("Ann", at="a", script=script)
    go(page, "b")
    expect(page.locator("#online-count")).to_have_text("2 here")
    go(page, "a")
    publish(script, "b", 1)
    go(page, "b")
    expect(page.locator("[data-fresh]")).to_have_attribute("data-offset", "1")
    publish(script, "b", 2, 3)
    expect(page.locator(".message")).to_have_count(3)
    expect(page.locator("[data-fresh]")).to_have_attribute("data-offset", "1")
    go(page, "a")
    go(page, "b")
    expect(page.locator(".message")).to_have_count(3)
    expect(page.locator("[data-fresh]")).to_have_count(0)


def test_arrives_at_the_line_when_not_all_fits(visit: Any, script: ScriptedServer) -> None:
    """He begins where he left off; the rest stays unread until he has seen it."""
    page = visit("Ann", at="a", script=script)
    go(page, "b")
    publish(script, "b", 1)
    expect(text_in(page, "line 1")).to_be_visible()
    go(page, "a")
    publish(script, "b", *range(2, 62))
    expect(badge(page, "b")).to_have_text("60")
    go(page, "b")
    expect(page.locator(".message[data-offset='2']")).to_be_in_viewport()
    expect(page.locator(".message[data-offset='61']")).not_to_be_in_viewport()
    expect(page.locator("#new-messages")).to_contain_text("new messages")
    top = page.evaluate("() => document.getElementById('log').scrollTop")
    publish(script, "b", 62)
    expect(page.locator(".message[data-offset='62']")).to_have_count(1)
    assert page.evaluate("() => document.getElementById('log').scrollTop") == top
    go(page, "a")
    expect(badge(page, "b")).not_to_be_empty()
    left = int(badge(page, "b").text_content())
    assert 0 < left < 60
    go(page, "b")
    expect(page.locator("[data-fresh]")).to_have_attribute("data-offset", str(63 - left))
    page.click("#new-messages")
    expect(page.locator(".message[data-offset='62']")).to_be_in_viewport()
    go(page, "a")
    expect(badge(page, "b")).to_be_hidden()


def test_arrives_at_the_oldest_where_the_line_is_further_back(
    visit: Any, script: ScriptedServer
) -> None:
    """More is new than a join brings: what nobody has seen stays unread, and the line comes up."""
    page = visit("Ann", at="b", script=script)
    publish(script, "b", *range(1, 21))
    expect(text_in(page, "line 20")).to_be_in_viewport()
    go(page, "a")
    script.past = lines("b", *range(1, 101))
    script.rooms = {"b": {"offset": 100, "missed": script.past[50:]}}
    page.reload()
    expect(badge(page, "b")).to_have_text("50+")
    go(page, "b")
    expect(text_in(page, "line 51")).to_be_in_viewport()
    expect(text_in(page, "line 100")).not_to_be_in_viewport()
    expect(page.locator("#new-messages")).to_contain_text("new messages")
    expect(page.locator("[data-fresh]")).to_have_attribute("data-offset", "21")
    expect(text_in(page, "line 51")).to_be_in_viewport()


def test_who_follows_goes_on_following(visit: Any, script: ScriptedServer) -> None:
    """A log that was replaced while he watched its end is shown at its end."""
    page = visit("Ann", at="a", script=script)
    publish(script, "a", *range(1, 31))
    expect(text_in(page, "line 30")).to_be_in_viewport()
    script.epoch = "e2"
    script.rooms = {"a": {"offset": 100, "missed": lines("a", *range(51, 101))}}
    script.close(1012)
    expect(text_in(page, "line 100")).to_be_in_viewport()
    publish(script, "a", 101)
    expect(text_in(page, "line 101")).to_be_in_viewport()


def test_many_are_only_many(visit: Any, script: ScriptedServer) -> None:
    """More than 99 are not counted, neither beside the room nor in the title."""
    page = visit("Ann", at="b", script=script)
    go(page, "a")
    publish(script, "b", *range(1, 100))
    expect(badge(page, "b")).to_have_text("99")
    publish(script, "b", 100)
    expect(badge(page, "b")).to_have_text("99+")
    expect(page).to_have_title("(99+) #a · fastchat")


def test_one_drawer_is_open_at_a_time(visit: Any, script: ScriptedServer) -> None:
    """On a phone, what opens takes the place of what was open, and all closes with it."""
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


def test_nothing_is_read_while_the_page_is_hidden(visit: Any, script: ScriptedServer) -> None:
    """It counts in the title, and the line is before it when he is back."""
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


def test_what_is_below_the_screen_is_not_read(visit: Any, script: ScriptedServer) -> None:
    """Who looks back has not seen what comes meanwhile, also not after a reload."""
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


def test_lost_history_is_unread_from_its_beginning(visit: Any, script: ScriptedServer) -> None:
    """A server that has forgotten everything: what is said since is new, wherever it is."""
    page = visit("Ann", at="a", script=script)
    go(page, "b")
    publish(script, "a", 1)
    publish(script, "b", 1)
    expect(text_in(page, "line 1")).to_be_visible()
    go(page, "a")
    expect(badge(page, "a")).to_be_hidden()
    publish(script, "b", 2)
    go(page, "b")
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
    go(page, "a")
    expect(page.locator("[data-fresh] .message__text")).to_have_text(["anew 1"])


def test_real_server_that_forgot(visit: Any, room: str) -> None:
    """`--history memory`, restarted: each room goes on, and no count is of the old history."""
    with running_server("--history", "memory") as first, joined_user("b", "Bob", first) as bob:
        page = visit("Ann", at="b", url=first.url)
        bob.say("one", "two", "three")
        expect(page.locator(".message")).to_have_count(3)
        go(page, "a")
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
        go(page, "b")
        expect(page.locator(".message__text")).to_have_text(["four"])


def test_reading_in_one_tab_counts_in_the_other(visit: Any, context: Any) -> None:
    """The badge goes in both tabs, and what one has read the other does not make unread again."""
    one, two = ScriptedServer(), ScriptedServer()
    first = visit("Ann", at="b", script=one, context=context)
    go(first, "a")
    second = visit(at="a", script=two, context=context)
    expect(second.locator(".room-item")).to_have_count(2)
    page_of = {first: one, second: two}
    for page, script in page_of.items():
        expect(page.locator("#online-count")).to_have_text("2 here")
        publish(script, "b", 1, 2)
        expect(badge(page, "b")).to_have_text("2")
    go(second, "b")
    expect(badge(second, "b")).to_be_hidden()
    expect(badge(first, "b")).to_be_hidden()
    expect(first).to_have_title("#a · fastchat")
    publish(one, "b", 3)
    expect(badge(first, "b")).to_have_text("1")


def test_place_is_kept_while_another_room_is_shown(visit: Any, script: ScriptedServer) -> None:
    """Who reads further back goes on there; but what is new meanwhile goes before that."""
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
    go(page, "b")
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
    go(page, "c")
    page.go_back()
    expect(text_in(page, "line 61")).to_be_in_viewport()


def test_what_failed_elsewhere_is_marked(visit: Any, script: ScriptedServer) -> None:
    """Whoever has gone on to another room learns that a message did not arrive, until he acts."""
    page = visit("Ann", at="b", script=script)
    say(page, "hello")
    until(page, lambda: len(script.sent("message")) == 1)
    go(page, "a")
    publish(script, "b", 1)
    expect(badge(page, "b")).to_have_text("1")
    script.say(type="error", id=script.sent("message")[0]["id"], **FORBIDDEN)
    expect(badge(page, "b")).to_have_text("!")
    expect(item(page, "b").get_by_role("link")).to_have_accessible_name(re.compile("Not sent"))
    go(page, "b")
    expect(badge(page, "b")).to_be_hidden()
    go(page, "a")
    expect(badge(page, "b")).to_have_text("!")
    go(page, "b")
    page.get_by_role("button", name="Remove", exact=True).click()
    go(page, "a")
    expect(badge(page, "b")).to_be_hidden()


def test_changes_are_no_news(visit: Any, script: ScriptedServer) -> None:
    """Deleted messages and one's own do not count, nor do edits and reactions."""
    page = visit("Ann", at="b", script=script)
    go(page, "a")
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


def test_emptied_room_has_nothing_new(visit: Any, script: ScriptedServer) -> None:
    """Where nothing is kept any more there is no count and no line, only the quiet."""
    page = visit("Ann", at="b", script=script)
    go(page, "a")
    publish(script, "b", 1, 2)
    expect(badge(page, "b")).to_have_text("2")
    script.rooms = {"b": {"offset": 90, "missed": []}}
    page.reload()
    expect(page.locator(".room-item")).to_have_count(2)
    go(page, "b")
    expect(page.locator("#empty")).to_be_visible()
    expect(badge(page, "b")).to_be_hidden()
    publish(script, "b", 91)
    expect(page.locator(".message__text")).to_have_text(["line 91"])
    expect(page.locator("[data-fresh]")).to_have_count(0)


def test_rooms_keep_to_themselves(visit: Any, server: Server, room: str) -> None:
    """Who comes, goes and types in one room is told there only."""
    page = visit("Ann", at=f"{room}-a")
    go(page, f"{room}-b")
    expect(page.locator("#online-count")).to_have_text("1 here")
    with joined_user(f"{room}-a", "Bob", server) as bob:
        bob.do(type="typing")
        bob.say("hello")
        expect(badge(page, f"{room}-a")).to_have_text("1")
        expect(page.locator("#typing")).to_be_empty()
        expect(page.locator("#online-count")).to_have_text("1 here")
        expect(page.locator(".notice, .message")).to_have_count(0)
        go(page, f"{room}-a")
        expect(page.locator("#online-count")).to_have_text("2 here")
        expect(page.locator(".notice")).to_have_text("Bob joined")
