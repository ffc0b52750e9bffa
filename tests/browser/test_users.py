"""Who is who on the page: users are told apart by their ids, never by their names."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from fastchat.auth.issuing import create_secret, make_token
from support.browser import (
    ScriptedServer,
    Visit,
    change_name,
    joined_user,
    people,
    publication,
    say,
    text_in,
    user_of,
    wait_for_sent,
)
from support.server import Server, running_server

#: The id of another user with the name that the reader has.
NAMESAKE = "g_another-ann"


@pytest.fixture
def context(chromium: Any) -> Iterator[Any]:
    with contextlib.closing(chromium.new_context(service_workers="block")) as context:
        yield context


def enter(script: ScriptedServer, room: str, *missed: dict[str, Any], **fields: Any) -> None:
    """Make the server answer a join of this room with these messages and fields."""
    script.rooms[room] = {"offset": len(missed), "missed": list(missed), **fields}


def rows(page: Any, kind: str) -> Any:
    return page.locator(f".message--{kind} .message__text")


# Messages


def test_messages_of_a_user_with_the_same_name_are_not_own(
    visit: Visit, script: ScriptedServer, room: str
) -> None:
    """The messages of another user with the reader's name are that user's: they cannot be edited or
    deleted, are not grouped with the reader's, and are new."""
    enter(
        script,
        room,
        publication("theirs", offset=1, room=room, username="Ann", user=NAMESAKE),
        publication("mine", offset=2, room=room, username="Ann"),
    )
    page = visit("Ann", script=script)
    expect(rows(page, "own")).to_have_text(["mine"])
    expect(rows(page, "continued")).to_have_count(0)
    page.hover(".message[data-offset='1']")
    expect(page.locator(".action--own:visible")).to_have_count(0)
    page.hover(".message[data-offset='2']")
    expect(page.locator(".action--own:visible")).to_have_count(2)
    script.publish("theirs again", offset=3, room=room, username="Ann", user=NAMESAKE)
    expect(text_in(page, "theirs again")).to_be_visible()
    page.press("#composer", "ArrowUp")
    expect(page.locator("#composer")).to_have_value("mine")


def test_messages_of_a_user_with_the_same_name_are_unread(
    visit: Visit, script: ScriptedServer
) -> None:
    """A message of another user with the reader's name counts as unread; the reader's own under
    another name does not."""
    page = visit("Ann", at="b", script=script)
    page.evaluate("() => { location.hash = 'a' }")
    expect(page.locator("#room-name")).to_have_text("a")
    wait_for_sent(page, lambda: len(script.sent("join")) == 2)
    script.publish("mine", offset=1, room="b", username="Anna", user=user_of("Ann"))
    script.publish("theirs", offset=2, room="b", username="Ann", user=NAMESAKE)
    expect(page.locator(".room-item--unread .badge b")).to_have_text("1")


def test_own_messages_under_another_name_stay_own(
    visit: Visit, script: ScriptedServer, room: str
) -> None:
    """The reader's messages under an earlier name are theirs, and can be edited and deleted. A
    group has one name."""
    enter(
        script,
        room,
        publication("as Anna", offset=1, room=room, username="Anna", user=user_of("Ann")),
        publication("as Ann", offset=2, room=room, username="Ann"),
        publication("also as Ann", offset=3, room=room, username="Ann"),
    )
    page = visit("Ann", script=script)
    expect(rows(page, "own")).to_have_text(["as Anna", "as Ann", "also as Ann"])
    expect(rows(page, "continued")).to_have_text(["also as Ann"])
    page.hover(".message[data-offset='1']")
    expect(page.locator(".action--own:visible")).to_have_count(2)


def test_group_ends_where_the_user_or_the_name_changes(
    visit: Visit, script: ScriptedServer, room: str
) -> None:
    """Messages of two users with one name form two groups, and so do those of one user under two
    names, so that each name is shown."""
    one, two = {"username": "Bob", "user": "g_1"}, {"username": "Bob", "user": "g_2"}
    enter(
        script,
        room,
        publication("1a", offset=1, room=room, **one),
        publication("1b", offset=2, room=room, **one),
        publication("2a", offset=3, room=room, **two),
        publication("2b", offset=4, room=room, **{**two, "username": "Rob"}),
        publication("2c", offset=5, room=room, **{**two, "username": "Rob"}),
    )
    page = visit("Ann", script=script)
    expect(rows(page, "continued")).to_have_text(["1b", "2c"])


def test_row_follows_the_name_of_the_publication(
    visit: Visit, script: ScriptedServer, room: str
) -> None:
    """A pending message that is published under another name of the user shows that name."""
    page = visit("Ann", script=script)
    say(page, "hello")
    wait_for_sent(page, lambda: script.sent("message"))
    (message,) = script.sent("message")
    fields = {"user": user_of("Ann"), "username": "Anna", "id": message["id"]}
    script.publish("hello", offset=1, room=room, **fields)
    script.publish("again", offset=2, room=room, user=user_of("Ann"), username="Anna")
    expect(page.locator(".message--own .message__author")).to_have_text(["Anna", "Anna"])
    expect(rows(page, "continued")).to_have_text(["again"])


def test_reply_is_to_the_author_and_not_to_the_name(
    visit: Visit, script: ScriptedServer, room: str
) -> None:
    """A reply to the reader's message under an earlier name mentions the reader, and a reply to a
    namesake's message does not. If the message is not loaded, the name decides."""
    enter(
        script,
        room,
        publication("mine", offset=11, room=room, username="Anna", user=user_of("Ann")),
        publication("theirs", offset=12, room=room, username="Ann", user=NAMESAKE),
        publication("> @Anna #11\n> mine\n\nto you", offset=13, room=room),
        publication("> @Ann #12\n> theirs\n\nto them", offset=14, room=room),
        publication("> @Ann #1\n> old\n\nto a name", offset=15, room=room),
        offset=15,
    )
    page = visit("Ann", script=script)
    expect(page.locator(".message")).to_have_count(5)
    assert page.locator(".message--mentioned").evaluate_all(
        "rows => rows.map((row) => row.dataset.offset)"
    ) == ["13", "15"]


# Reactions


def test_own_reactions_are_recognised_by_the_id(
    visit: Visit, script: ScriptedServer, room: str
) -> None:
    """A reaction by another user with the reader's name is not the reader's; their own under an
    earlier name is, and a click takes it back."""
    namesake = {"user": NAMESAKE, "username": "Ann"}
    earlier = {"user": user_of("Ann"), "username": "Anna"}
    reactions = {"🎉": [namesake], "👀": [earlier]}
    enter(script, room, publication("plain", offset=1, room=room, reactions=reactions))
    page = visit("Ann", script=script)
    theirs, mine = (page.locator(f".reaction[data-emoji='{emoji}']") for emoji in "🎉👀")
    expect(theirs).to_have_attribute("aria-pressed", "false")
    expect(mine).to_have_attribute("aria-pressed", "true")
    expect(mine).to_have_attribute("title", "Anna")
    page.hover(".message")
    expect(page.locator(".action[data-emoji='🎉']")).to_have_attribute("aria-pressed", "false")
    expect(page.locator(".action[data-emoji='👀']")).to_have_attribute("aria-pressed", "true")
    theirs.click()
    mine.click()
    wait_for_sent(page, lambda: len(script.sent("react")) == 2)
    assert [command["remove"] for command in script.sent("react")] == [False, True]
    react = {"type": "react", "target": 1, "room": room, "username": "Ann"}
    script.publish("", offset=2, **react, emoji="👀", remove=True)
    script.publish("", offset=3, **react, emoji="🎉")
    expect(mine).to_have_count(0)
    expect(theirs).to_have_text("🎉2")
    expect(theirs).to_have_attribute("aria-pressed", "true")


# People and typing


def test_own_typing_in_another_tab_is_not_shown(
    visit: Visit, script: ScriptedServer, room: str
) -> None:
    """The page ignores its user's own typing, under any name, and shows a namesake's until that
    user sends a message."""
    page = visit("Ann", script=script)
    script.say(type="typing", room=room, user=user_of("Ann"), username="Anna")
    script.say(type="typing", room=room, user=NAMESAKE, username="Ann")
    expect(page.locator("#typing")).to_have_text("Ann is typing…")
    script.publish("mine", offset=1, room=room, username="Ann")
    expect(text_in(page, "mine")).to_be_visible()
    expect(page.locator("#typing")).to_have_text("Ann is typing…")
    script.publish("theirs", offset=2, room=room, username="Ann", user=NAMESAKE)
    expect(page.locator("#typing")).to_be_empty()


def test_own_joins_and_leaves_are_not_noted(
    visit: Visit, script: ScriptedServer, room: str
) -> None:
    """The reader's other tab, which joins under another name, is in the list as the reader and
    gets no notice."""
    page = visit("Ann", script=script)
    script.say(type="join", room=room, user=user_of("Ann"), username="Anna", online=3)
    script.say(type="join", room=room, user=user_of("Bob"), username="Bob", online=4)
    expect(page.locator(".notice")).to_have_text("Bob joined")
    expect(page.locator(".person__name")).to_have_text(["Ann", "Anna", "Bob", "Zoe"])
    expect(page.locator(".person:has(.person__you:visible)")).to_have_count(2)


def test_numbered_name_is_the_name_in_one_room(visit: Visit, script: ScriptedServer) -> None:
    """If the server has numbered the reader's name in one room, the page uses that name there, and
    neither loses the reader's own nor joins anew."""
    ann = {"user": "u_17", "username": "Ann"}
    numbered = {**ann, "username": "Ann (2)"}
    script.rooms["a"] = {**ann, "users": [*people("Zoe"), ann]}
    script.rooms["b"] = {**numbered, "users": [*people("Zoe"), numbered]}
    page: Any = visit(at="a", script=script, init="sessionStorage['fastchat.token'] = 't'")
    expect(page.locator("#own-name")).to_have_text("Ann")
    page.evaluate("() => { location.hash = 'b' }")
    expect(page.locator(".person__name")).to_have_text(["Ann (2)", "Zoe"])
    expect(page.locator(".person:has-text('Ann (2)') .person__you")).to_be_visible()
    say(page, "hello")
    expect(page.locator(".message--own .message__author")).to_have_text("Ann (2)")
    expect(page.locator("#own-name")).to_have_text("Ann (2)")
    page.go_back()
    expect(page.locator(".person__name")).to_have_text(["Ann", "Zoe"])
    expect(page.locator("#own-name")).to_have_text("Ann")
    assert script.connections == 1
    page.reload()
    wait_for_sent(page, lambda: len(script.sent("join")) == 4)
    expect(page.locator("#own-name")).to_have_text("Ann")
    expect(page.locator(".person__name")).to_have_text(["Ann", "Zoe"])


def test_crowd_has_a_number_instead_of_a_list(
    visit: Visit, script: ScriptedServer, room: str
) -> None:
    """In a crowd the page lists only the reader and the number of the others. When the crowd ends,
    the page has the whole list."""
    names = [f"Guest {number}" for number in range(1, 150)]
    enter(script, room, users=people("Ann", *names), online=150)
    page = visit("Ann", script=script)
    expect(page.locator("#people .person")).to_have_count(150)
    page.evaluate("() => document.getElementById('people-search').focus()")
    page.keyboard.type("Guest 14")
    expect(page.locator(".person__name")).to_have_count(11)
    script.say(type="presence", room=room, online=201, spectators=0, users=None)
    expect(page.locator("#online-count")).to_have_text("201 here")
    expect(page.locator(".person__name")).to_have_text(["Ann"])
    expect(page.locator("#people-more")).to_have_text("and 200 more")
    expect(page.locator("#people-search")).to_be_hidden()
    script.say(type="presence", room=room, online=250, spectators=0)
    expect(page.locator("#people-more")).to_have_text("and 249 more")
    script.publish("Hello @Zoe and @Bob", offset=1, room=room, username="Bob")
    expect(page.locator(".message .mention")).to_have_text(["@Bob"])
    page.type("#composer", "@B")
    expect(page.locator("#suggestions li")).to_have_text(["BBob"])
    script.say(type="presence", room=room, online=3, spectators=0, users=people("Cid", "Ann"))
    expect(page.locator("#online-count")).to_have_text("3 here")
    expect(page.locator(".person__name")).to_have_text(["Ann", "Cid"])
    script.say(type="join", room=room, **people("Dee")[0], online=4)
    expect(page.locator(".person__name")).to_have_text(["Ann", "Cid", "Dee"])


def test_crowd_at_the_join_has_a_number(visit: Visit, script: ScriptedServer, room: str) -> None:
    """A reader who joins a crowd sees its number."""
    enter(script, room, users=None, online=1234)
    page = visit("Ann", script=script)
    expect(page.locator("#online-count")).to_have_text("1,234 here")
    expect(page.locator(".person__name")).to_have_text(["Ann"])
    expect(page.locator("#people-more")).to_have_text("and 1,233 more")


def test_moderator_removes_by_id(visit: Visit, script: ScriptedServer, room: str) -> None:
    """A removal names the user's id. The reader's own names cannot be removed."""
    users = [*people("Ann", "Zoe"), {"user": user_of("Ann"), "username": "Anna"}]
    enter(script, room, users=users, online=3, rights=["moderate", "read", "write"])
    page = visit("Ann", script=script)
    expect(page.locator(".person__remove:visible")).to_have_count(1)
    page.get_by_label("Remove Zoe", exact=True).click()
    page.get_by_role("button", name="Remove", exact=True).click()
    wait_for_sent(page, lambda: script.sent("remove"))
    (command,) = script.sent("remove")
    assert (command["user"], command["seconds"]) == (user_of("Zoe"), 600)
    assert "username" not in command


def test_moderator_removes_the_author_of_a_message(
    visit: Visit, script: ScriptedServer, room: str
) -> None:
    """A moderator removes an author by a button at the message, also in a crowd. The button is not
    at the moderator's own messages."""
    enter(
        script,
        room,
        publication("spam", offset=1, room=room, username="Bob"),
        publication("mine", offset=2, room=room, username="Ann"),
        users=None,
        online=250,
        rights=["moderate", "read", "write"],
    )
    page = visit("Ann", script=script)
    button = page.locator(".action[data-do=expel]")
    page.hover(".message[data-offset='2']")
    expect(page.locator(".action[data-do=edit]")).to_be_visible()
    expect(button).to_be_hidden()
    page.hover(".message[data-offset='1']")
    expect(button).to_have_accessible_name("Remove Bob")
    button.click()
    expect(page.get_by_role("dialog")).to_contain_text("Remove Bob from the room?")
    page.keyboard.press("Escape")
    expect(button).to_be_focused()
    assert script.sent("remove") == []
    button.click()
    page.get_by_role("button", name="Remove", exact=True).click()
    wait_for_sent(page, lambda: script.sent("remove"))
    (command,) = script.sent("remove")
    assert (command["user"], command["room"]) == (user_of("Bob"), room)
    script.rooms[room]["rights"] = ["read", "write"]
    script.close(4008)
    wait_for_sent(page, lambda: len(script.sent("join")) == 2)
    page.hover(".message[data-offset='2']")
    page.hover(".message[data-offset='1']")
    expect(button).to_be_hidden()


# Rights


def test_reader_without_the_right_to_write_is_offered_nothing_that_fails(
    visit: Visit, script: ScriptedServer, room: str
) -> None:
    """Without the right to write, a sentence takes the place of the composer, and a message has
    neither reply nor reactions to choose. The draft is there again when the right is."""
    reactions = {"🎉": people("Zoe")}
    enter(script, room, publication("plain", offset=1, room=room, reactions=reactions))
    script.files = {"max_bytes": 1_000}
    page = visit("Ann", script=script)
    page.fill("#composer", "half a thou")
    expect(page.locator("#read-only")).to_be_hidden()
    script.rooms[room]["rights"] = ["read"]
    script.close(4008)
    expect(page.locator("#read-only")).to_have_text("You can read this room, but not write in it.")
    expect(page.locator("#composer-form")).to_be_hidden()
    expect(page.locator("#composer-hint")).to_be_hidden()
    expect(page.locator(".reaction")).to_be_disabled()
    expect(page.locator(".react-more")).to_be_hidden()
    page.hover(".message")
    expect(page.locator(".action:visible")).to_have_count(1)
    expect(page.locator(".action:visible")).to_have_attribute("data-do", "link")
    page.locator("#log").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Tab")
    expect(page.locator(".action[data-do=link]")).to_be_focused()
    script.rooms[room]["rights"] = ["read", "write"]
    script.close(4008)
    expect(page.locator("#composer")).to_have_value("half a thou")
    expect(page.locator("#read-only")).to_be_hidden()
    expect(page.locator(".reaction")).to_be_enabled()


def test_right_to_write_is_each_room_s_own(visit: Visit, script: ScriptedServer) -> None:
    """The composer is there in a room that the reader can write to, and not in another one."""
    script.rooms["a"] = {"rights": ["read"]}
    page = visit("Ann", at="a", script=script)
    expect(page.locator("#read-only")).to_be_visible()
    page.evaluate("() => { location.hash = 'b' }")
    expect(page.locator("#composer")).to_be_visible()
    expect(page.locator("#read-only")).to_be_hidden()
    page.go_back()
    expect(page.locator("#read-only")).to_be_visible()
    expect(page.locator("#composer")).to_be_hidden()


def test_moderator_without_the_right_to_write_can_delete(
    visit: Visit, script: ScriptedServer, room: str
) -> None:
    """The right to moderate is enough to delete a message."""
    enter(
        script,
        room,
        publication("plain", offset=1, room=room),
        rights=["moderate", "read"],
    )
    page = visit("Ann", script=script)
    page.hover(".message")
    page.get_by_label("Delete", exact=True).click()
    page.get_by_role("button", name="Delete").last.click()
    wait_for_sent(page, lambda: script.sent("delete"))


# What the browser has stored


def test_rejoin_sends_the_timestamp_of_the_position(
    visit: Visit, script: ScriptedServer, room: str
) -> None:
    """The position in a join has the timestamp of the publication at its offset; it has none if
    the server did not say which."""
    page = visit("Ann", script=script)
    script.close(4008)
    wait_for_sent(page, lambda: len(script.sent("join")) == 2)
    script.publish("one", offset=1, room=room)
    expect(text_in(page, "one")).to_be_visible()
    script.offset = 1
    script.close(4008)
    wait_for_sent(page, lambda: len(script.sent("join")) == 3)
    first, *positions = [command.get("since") for command in script.sent("join")]
    assert first is None
    assert positions == [
        {"epoch": "e1", "offset": 0},
        {"epoch": "e1", "offset": 1, "timestamp": "2025-01-18T10:30:00.123Z"},
    ]


def test_outbox_of_an_earlier_page_is_sent(
    visit: Visit, script: ScriptedServer, context: Any, room: str
) -> None:
    """A message that an earlier version of the page has stored has no user; it is sent, and shown
    once."""
    draft = {"id": "a1", "room": room, "username": "Anna", "text": "from before", "at": 1,
             "timestamp": "2025-01-18T10:30:00.123Z"}  # fmt: skip
    stored = {"fastchat.name": "Ann", "fastchat.outbox.a1": json.dumps(draft)}
    init = f"if (!localStorage.length) Object.assign(localStorage, {json.dumps(stored)});"
    page = visit(script=script, context=context, init=init)
    wait_for_sent(page, lambda: script.sent("message"))
    (message,) = script.sent("message")
    assert (message["id"], message["text"]) == ("a1", "from before")
    script.publish("from before", offset=1, room=room, username="Ann", id="a1")
    expect(rows(page, "own")).to_have_text(["from before"])
    expect(page.locator(".message--pending")).to_have_count(0)


def test_guest_does_not_send_the_outbox_of_a_user_with_a_token(
    visit: Visit, script: ScriptedServer, context: Any, room: str
) -> None:
    """A message that was written with a token is not sent by a guest of the same browser."""
    draft = {"id": "a1", "room": room, "user": "u_17", "username": "Ann", "text": "with a token",
             "at": 1, "timestamp": "2025-01-18T10:30:00.123Z"}  # fmt: skip
    stored = {"fastchat.name": "Ann", "fastchat.outbox.a1": json.dumps(draft)}
    page = visit(
        script=script, context=context, init=f"Object.assign(localStorage, {json.dumps(stored)})"
    )
    expect(page.locator("#people .person")).to_have_count(2)
    say(page, "without")
    wait_for_sent(page, lambda: script.sent("message"))
    assert [message["text"] for message in script.sent("message")] == ["without"]
    expect(page.locator(".message")).to_have_count(1)


def test_new_id_for_the_same_token_loses_nothing(visit: Visit, script: ScriptedServer) -> None:
    """If a user has another id after a restart of the server, with the same token, pending messages
    are sent, and the rooms stay."""
    script.rooms = {name: {"user": "u_old", "username": "Ann"} for name in "ab"}
    page: Any = visit(at="a", script=script, init="sessionStorage['fastchat.token'] = 't'")
    wait_for_sent(page, lambda: script.sent("join"))
    page.evaluate("() => { location.hash = 'b' }")
    expect(page.locator("#people .person")).to_have_count(2)
    say(page, "wait for me")
    wait_for_sent(page, lambda: len(script.sent("message")) == 1)
    script.rooms = {name: {"user": "u_new", "username": "Ann", "epoch": "e2"} for name in "ab"}
    script.close(4008)
    wait_for_sent(page, lambda: len(script.sent("message")) == 2)
    first, second = script.sent("message")
    assert first == second
    script.publish("wait for me", offset=1, room="b", username="Ann", user="u_new", id=first["id"])
    expect(page.locator(".message--own[data-offset='1']")).to_have_count(1)
    expect(page.locator(".message--pending")).to_have_count(0)
    expect(page.locator(".room-item__name")).to_have_text(["a", "b"])


# With a real server


def test_guest_reads_where_only_tokens_may_write(visit: Visit, tmp_path: Path) -> None:
    """If the server lets guests only read, the page shows them the messages and no composer. A user
    with a token has the composer."""
    key = tmp_path / "secret"
    create_secret(key)
    flags = ("--auth", "optional", "--jwt-key-file", str(key), "--guest-rights", "read")
    with running_server("--history", "memory", *flags) as server:
        token = make_token(key, subject="u-1", name="Zoe", duration_s=600)
        user: Any = visit(url=server.url, init=f"sessionStorage['fastchat.token'] = '{token}'")
        expect(user.locator("#own-name")).to_have_text("Zoe")
        say(user, "for all to read")
        guest: Any = visit("Ann", url=server.url)
        expect(text_in(guest, "for all to read")).to_be_visible()
        expect(guest.locator("#read-only")).to_be_visible()
        expect(guest.locator("#composer")).to_be_hidden()
        expect(user.locator(".person__name")).to_have_text(["Zoe", "Ann"])


def test_name_that_another_user_took_leaves_the_messages_where_they_were(
    visit: Visit, server: Server, room: str
) -> None:
    """When a user has left and another one takes the name, the first one's messages are not the
    second one's."""
    with joined_user(room, "Ann", server) as first:
        first.say("by the first")
        first.receive_until(1)
        first.do(type="react", offset=1, emoji="🎉")
        first.receive_until(2)
        first.do(type="leave")
    page = visit("Ann")
    expect(text_in(page, "by the first")).to_be_visible()
    expect(rows(page, "own")).to_have_count(0)
    expect(page.locator(".reaction")).to_have_attribute("aria-pressed", "false")
    page.hover(".message")
    expect(page.locator(".action--own:visible")).to_have_count(0)
    page.press("#composer", "ArrowUp")
    expect(page.locator("#composer")).to_have_value("")
    page.locator(".reaction").click()
    expect(page.locator(".reaction")).to_have_text("🎉2")


def test_messages_stay_own_after_a_new_name(visit: Visit, context: Any) -> None:
    """After a new name in one tab, both tabs show the messages of both names as the user's own,
    also after a reload, and each can be edited."""
    first: Any = visit("Ann", context=context)
    second: Any = visit(context=context)
    bob: Any = visit("Bob")
    expect(second.locator("#people .person")).to_have_count(2)
    say(first, "as Ann")
    expect(text_in(bob, "as Ann")).to_be_visible()
    change_name(first, "Annette")
    expect(first.locator("#own-name")).to_have_text("Annette")
    say(bob, "in between")
    expect(text_in(second, "in between")).to_be_visible()
    say(second, "still as Ann")
    expect(text_in(bob, "still as Ann")).to_be_visible()
    say(first, "as Annette")
    mine = ["as Ann", "still as Ann", "as Annette"]
    for page in (first, second):
        expect(page.locator(".message--own[data-offset] .message__text")).to_have_text(mine)
    expect(bob.locator(".message:not(.message--continued) .message__author")).to_have_text(
        ["Ann", "Bob", "Ann", "Annette"]
    )
    first.reload()
    expect(rows(first, "own")).to_have_text(mine)
    first.hover(".message[data-offset='1']")
    first.get_by_label("Edit").click()
    first.keyboard.type("!")
    first.keyboard.press("Enter")
    expect(text_in(bob, "as Ann!")).to_be_visible()


def test_tabs_of_one_user_do_not_see_each_other_typing(visit: Visit, context: Any) -> None:
    """When a user types in one tab, the others see it, and the user's other tab does not."""
    first: Any = visit("Ann", context=context)
    second: Any = visit(context=context)
    bob: Any = visit("Bob")
    expect(second.locator("#people .person")).to_have_count(2)
    second.evaluate("""() => {
      window.typists = [];
      const line = document.getElementById("typing");
      const note = () => window.typists.push(line.textContent);
      new MutationObserver(note).observe(line, { childList: true });
    }""")
    first.type("#composer", "hello")
    expect(bob.locator("#typing")).to_have_text("Ann is typing…")
    bob.type("#composer", "hello")
    expect(second.locator("#typing")).to_have_text("Bob is typing…")
    assert set(second.evaluate("() => window.typists")) == {"Bob is typing…"}
