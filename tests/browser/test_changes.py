"""Edits, deletions and reactions, as the author and other users see them."""

from __future__ import annotations

import re
from typing import Any

from playwright.sync_api import expect

from support.browser import (
    HOSTILE,
    ScriptedServer,
    joined_user,
    people,
    publication,
    say,
    text_in,
)
from support.server import Server

DELETED = "This message was deleted"
TOUCH = {"viewport": {"width": 320, "height": 640}, "has_touch": True, "is_mobile": True}


def test_arrow_up_edits_the_last_own_message(visit: Any) -> None:
    """Arrow Up takes the last own message back into the field, Enter saves it, and all users see it
    edited."""
    ann, bob = visit("Ann"), visit("Bob")
    say(ann, "Helo")
    expect(ann.locator(".message[data-offset='1']")).to_have_count(1)
    say(bob, "Hm?")
    expect(text_in(ann, "Hm?")).to_have_count(1)
    ann.press("#composer", "ArrowUp")
    expect(ann.locator("#composer")).to_have_value("Helo")
    expect(ann.locator(".composer__editing")).to_be_visible()
    expect(ann.get_by_label("Edit your message")).to_be_focused()
    ann.fill("#composer", "Hello")
    ann.press("#composer", "Enter")
    for page in (ann, bob):
        expect(page.locator(".message__text")).to_have_text(["Hello", "Hm?"])
        edited = page.locator(".message[data-offset='1'] .message__edited")
        expect(edited).to_have_text("edited")
        expect(edited).to_have_attribute("title", re.compile(r"\d{4}"))
        expect(page.locator(".message__edited:visible")).to_have_count(1)
    expect(ann.locator(".composer__editing")).to_be_hidden()
    expect(ann.locator("#composer")).to_have_value("")


def test_edit_survives_another_room_and_a_reload(visit: Any, room: str) -> None:
    """An edit survives a visit of another room and a reload, and its message is marked."""
    ann = visit("Ann")
    say(ann, "one")
    expect(ann.locator(".message[data-offset='1']")).to_have_count(1)
    ann.press("#composer", "ArrowUp")
    ann.keyboard.type(" and a half")
    expect(ann.locator(".message--editing[data-offset='1']")).to_have_count(1)
    ann.evaluate("room => { location.hash = room }", f"{room}-other")
    expect(ann.locator("#composer")).to_have_value("")
    ann.go_back()
    expect(ann.locator("#composer")).to_have_value("one and a half")
    ann.reload()
    expect(ann.locator("#composer")).to_have_value("one and a half")
    expect(ann.locator(".composer__editing")).to_be_visible()
    ann.press("#composer", "Enter")
    expect(ann.locator(".message__text")).to_have_text("one and a half")
    expect(ann.locator(".message--editing")).to_have_count(0)
    ann.reload()
    expect(ann.locator(".message__text")).to_have_text("one and a half")
    expect(ann.locator("#composer")).to_have_value("")


def test_edit_of_a_deleted_message_becomes_a_draft(visit: Any, script: ScriptedServer) -> None:
    """If the edited message is deleted, its text becomes a draft, on saving and on a reload."""
    script.missed = [publication("one", offset=1, room="a", username="Ann")]
    script.offset = 1
    page = visit("Ann", at="a", script=script)
    page.press("#composer", "ArrowUp")
    page.keyboard.type(" and a half")
    page.keyboard.press("Enter")
    page.wait_for_function("() => !document.querySelector('.composer--editing')")
    (edit,) = script.sent("edit")
    gone = {"code": "not_found", "message": "There is no such message.", "temporary": False}
    script.say(type="error", ref=edit["ref"], **gone)
    expect(page.locator("#composer")).to_have_value("one and a half")
    expect(page.locator(".composer__editing")).to_be_hidden()
    page.fill("#composer", "")
    page.press("#composer", "ArrowUp")
    page.keyboard.type(" and more")
    script.missed = []
    page.reload()
    expect(page.locator("#composer")).to_have_value("one and more")
    expect(page.locator(".composer__editing")).to_be_hidden()


def test_escape_cancels_an_edit(visit: Any) -> None:
    """Escape leaves the message unchanged and restores the draft."""
    ann = visit("Ann")
    say(ann, "As it was")
    message = ann.locator(".message[data-offset='1']")
    expect(message).to_have_count(1)
    ann.fill("#composer", "a draft")
    message.hover()
    message.get_by_label("Edit").click()
    ann.fill("#composer", "Not as it was")
    ann.press("#composer", "Escape")
    expect(ann.locator("#composer")).to_have_value("a draft")
    expect(ann.locator("#composer")).to_be_focused()
    expect(message.locator(".message__text")).to_have_text("As it was")


def test_deleted_message_leaves_no_text(visit: Any) -> None:
    """After a confirmation the message is deleted for all users, and its text is nowhere on the
    page."""
    ann, bob = visit("Ann"), visit("Bob")
    say(ann, "regrettable")
    expect(text_in(bob, "regrettable")).to_be_visible()
    message = ann.locator(".message[data-offset='1']")
    message.hover()
    message.get_by_label("Delete", exact=True).click()
    message.get_by_role("button", name="Keep").click()
    message.get_by_label("Delete", exact=True).click()
    message.get_by_role("button", name="Delete").last.click()
    for page in (ann, bob):
        expect(page.locator(".message__text")).to_have_text(DELETED)
        assert "regrettable" not in page.content()
    expect(ann.locator(".actions")).to_have_count(0)
    ann.press("#composer", "ArrowUp")
    expect(ann.locator("#composer")).to_have_value("")


def test_edit_and_delete_are_offered_on_own_messages_only(
    visit: Any, server: Server, room: str
) -> None:
    """Another user's message has no Edit and no Delete."""
    with joined_user(room, "Bob", server) as bob:
        bob.say("mine")
        ann = visit("Ann")
        ann.hover(".message")
        expect(ann.locator(".action[data-emoji]:visible")).to_have_count(6)
        expect(ann.locator(".action--own:visible")).to_have_count(0)


def test_refused_change_is_explained(visit: Any, script: ScriptedServer, room: str) -> None:
    """If the server refuses a change, the page shows its sentence, and the message stays
    unchanged."""
    script.offset = 1
    script.missed = [publication("not so mine", offset=1, room=room, username="Ann")]
    ann = visit("Ann", script=script)
    ann.press("#composer", "ArrowUp")
    ann.fill("#composer", "mine")
    ann.press("#composer", "Enter")
    expect(ann.locator(".composer__editing")).to_be_hidden()
    (edit,) = script.sent("edit")
    assert (edit["offset"], edit["text"], edit["room"]) == (1, "mine", room)
    script.say(
        type="error", code="forbidden", message="Not yours.", temporary=False, ref=edit["ref"]
    )
    expect(ann.locator("#toast")).to_have_text("Not yours.")
    expect(ann.locator(".message__text")).to_have_text("not so mine")


def test_reactions_are_toggled_and_counted(visit: Any) -> None:
    """All users see a reaction with its names; a click joins it, and another click removes it."""
    ann, bob = visit("Ann"), visit("Bob")
    say(ann, "Cake!")
    bob.hover(".message[data-offset='1']")
    bob.get_by_label("React: party").click()
    chip = ann.locator(".reaction")
    expect(chip).to_have_text("🎉1")
    expect(chip).to_have_attribute("aria-pressed", "false")
    chip.click()
    expect(chip).to_have_attribute("aria-pressed", "true")
    expect(chip).to_have_attribute("aria-label", "🎉 2: Bob and Ann")
    expect(chip).to_have_attribute("title", "Bob and Ann")
    expect(bob.locator(".reaction")).to_have_text("🎉2")
    expect(bob.get_by_label("React: party")).to_have_attribute("aria-pressed", "true")
    bob.get_by_label("React: party").click()
    expect(chip).to_have_text("🎉1")
    chip.click()
    for page in (ann, bob):
        expect(page.locator(".reaction")).to_have_count(0)
    ann.reload()
    expect(ann.locator(".message[data-offset='1'] .reaction")).to_have_count(0)


def test_actions_can_be_reached_by_keyboard(visit: Any) -> None:
    """Arrows move from message to message, Tab to the actions, and Escape back step by step."""
    ann = visit("Ann")
    for count, text in enumerate(("one", "two"), start=1):
        say(ann, text)
        expect(ann.locator(f".message[data-offset='{count}']")).to_have_count(1)
    ann.keyboard.press("Shift+Tab")
    ann.keyboard.press("ArrowUp")
    expect(ann.locator(".message[data-offset='2']")).to_be_focused()
    ann.keyboard.press("ArrowUp")
    expect(ann.locator(".message[data-offset='1']")).to_be_focused()
    ann.keyboard.press("Tab")
    ann.keyboard.press("Enter")
    expect(ann.locator(".message[data-offset='1'] .reaction")).to_have_text("👍1")
    ann.keyboard.press("Escape")
    expect(ann.locator(".message[data-offset='1']")).to_be_focused()
    ann.keyboard.press("Escape")
    expect(ann.locator("#composer")).to_be_focused()


def test_tap_shows_the_actions(visit: Any) -> None:
    """A tap on a message shows its actions, and at 320 pixels all of them fit."""
    ann = visit("Ann", **TOUCH)
    say(ann, "ok")
    ann.locator(".message[data-offset='1']").tap()
    bar = ann.locator(".actions").bounding_box()
    assert bar["x"] >= 0
    assert bar["x"] + bar["width"] <= 320
    ann.get_by_label("React: heart").tap()
    expect(ann.locator(".reaction")).to_have_text("❤️1")


def test_hostile_changes_stay_text(visit: Any, server: Server, room: str) -> None:
    """Markup in an edited text, or in the name of a user who reacted, is shown as text."""
    page = visit("Ann")
    name = HOSTILE[1]
    with joined_user(room, name, server) as other_user:
        other_user.say("plain")
        other_user.do(type="react", offset=1, emoji="👀")
        expect(page.locator(".reaction")).to_have_attribute("title", name)
        for payload in HOSTILE:
            other_user.do(type="edit", offset=1, text=payload)
            expect(page.locator(".message__text")).to_have_text(payload)
    assert page.locator("#log :is(script, img, svg, iframe, style, a, form, b b)").count() == 0


def test_hostile_emoji_stay_text(visit: Any, script: ScriptedServer, room: str) -> None:
    """If a server lets markup through as an emoji, the page adds no element."""
    script.offset = 1
    reactions = {payload: people(payload) for payload in HOSTILE}
    script.missed = [publication("plain", offset=1, room=room, reactions=reactions)]
    page = visit("Ann", script=script)
    assert page.locator(".reaction span").all_text_contents() == HOSTILE
    assert page.locator("#log :is(script, img, svg, iframe, style, a, form)").count() == 0


def test_messages_of_an_erased_user_disappear(
    visit: Any, script: ScriptedServer, room: str
) -> None:
    """If the server says that a user was erased, their messages are shown as deleted."""
    script.offset = 2
    script.missed = [
        publication("theirs", offset=1, room=room),
        publication("mine", offset=2, room=room, username="Ann"),
    ]
    page = visit("Ann", script=script)
    expect(text_in(page, "theirs")).to_be_visible()
    script.say(type="user_erased", room=room, user="g_Zoe")
    expect(page.locator(".message").first).to_contain_text(DELETED)
    expect(text_in(page, "theirs")).to_have_count(0)
    expect(text_in(page, "mine")).to_be_visible()


def test_deleted_room_is_explained(visit: Any, script: ScriptedServer, room: str) -> None:
    """If the room was deleted, the page says so, shows nothing of it and does not join it again by
    itself."""
    script.offset = 1
    script.missed = [publication("gone", offset=1, room=room)]
    page = visit("Ann", script=script)
    expect(text_in(page, "gone")).to_be_visible()
    script.say(type="room_deleted", room=room)
    expect(page.locator("#status")).to_have_text("This room was deleted.")
    expect(page.locator(".message")).to_have_count(0)
    script.offset, script.missed = 0, []
    page.click("#try-now")
    expect(page.locator(".status--shown")).to_have_count(0)
    first, second = script.sent("join")
    assert "since" not in first
    assert "since" not in second


def test_options_of_a_room_are_shown_as_they_change(
    visit: Any, script: ScriptedServer, room: str
) -> None:
    """The title stands in the place of the name, and a room that is closed has no field to write
    in."""
    page = visit("Ann", script=script)
    expect(page.locator("#room-name")).to_have_text(room)
    script.say(type="room", room=room, options={"title": "Town hall", "topic": "Be <kind>."})
    expect(page.locator("#room-name")).to_have_text("Town hall")
    expect(page.locator("#room-topic")).to_have_text("Be <kind>.")
    expect(page.locator("#composer")).to_be_visible()
    script.say(type="room", room=room, options={"closed": True})
    expect(page.locator("#room-name")).to_have_text(room)
    expect(page.locator("#read-only")).to_contain_text("This room is closed.")
    expect(page.locator("#composer")).to_be_hidden()
    script.say(type="room", room=room, options={"read_only": True})
    expect(page.locator("#read-only")).to_have_text("You can read this room, but not write in it.")
    script.say(type="room", room=room, options={})
    expect(page.locator("#composer")).to_be_visible()
