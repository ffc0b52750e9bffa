"""The page in a real browser: names, rooms, writing, reading and broken connections."""

from __future__ import annotations

import contextlib
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from support.browser import (
    BACK_WITH,
    HOSTILE,
    ScriptedServer,
    change_name,
    joined_user,
    publication,
    say,
    stop_clock,
    text_in,
    user_of,
    wait_for_sent,
)
from support.server import Server, running_server

PHONE = {"viewport": {"width": 320, "height": 640}}

# Names


def test_two_people_talk(visit: Any) -> None:
    """Two users see each other join, write and leave, and how many users are online."""
    ann = visit("Ann")
    expect(ann.locator("#empty")).to_be_visible()
    expect(ann.locator("#online-count")).to_have_text("1 here")
    bob = visit("Bob")
    expect(ann.locator(".notice")).to_have_text("Bob joined")
    expect(ann.locator("#online-count")).to_have_text("2 here")
    expect(bob.locator("#online-count")).to_have_text("2 here")
    assert bob.locator("#people .person__name").all_text_contents() == ["Bob", "Ann"]

    say(ann, "Hello, Bob!")
    expect(text_in(bob, "Hello, Bob!")).to_be_visible()
    expect(ann.locator(".message[data-offset='1']")).to_have_class("message person message--own")
    expect(bob.locator(".message__author")).to_have_text("Ann")
    expect(bob.locator("time")).to_have_attribute("datetime", _iso())
    assert bob.locator("time").get_attribute("title")

    ann.reload()
    expect(ann.locator("#online-count")).to_have_text("2 here")
    expect(bob.locator(".notice")).to_have_count(0)
    bob.context.close()
    expect(ann.locator(".notice")).to_have_text("Bob left")
    expect(ann.locator("#online-count")).to_have_text("1 here")


def _iso() -> Any:
    return re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")


def test_own_message_is_pending_until_it_is_confirmed(visit: Any, server: Server) -> None:
    """A message is shown at once as pending, and confirmed when the server delivers it."""
    ann = visit("Ann")
    server.signal(signal.SIGSTOP)
    try:
        say(ann, "Slow day")
        expect(ann.locator(".message--pending .message__text")).to_have_text("Slow day")
        expect(ann.locator(".message__note")).to_have_text("Sending…")
    finally:
        server.signal(signal.SIGCONT)
    expect(ann.locator(".message[data-offset='1'] .message__text")).to_have_text("Slow day")
    expect(ann.locator(".message--pending")).to_have_count(0)
    expect(ann.locator(".message")).to_have_count(1)


def test_name_survives_a_reload(visit: Any) -> None:
    """A user with a name is not asked again."""
    ann = visit("Ann")
    ann.reload()
    expect(ann.locator("#own-name")).to_have_text("Ann")
    expect(ann.locator("#name-dialog")).to_be_hidden()


def test_tabs_of_one_browser_are_one_user(visit: Any) -> None:
    """A second tab joins under the same name, and both tabs see each message."""
    first = visit("Ann")
    second = visit(context=first.context)
    expect(second.locator("#online-count")).to_have_text("1 here")
    say(second, "From the other tab")
    expect(text_in(first, "From the other tab")).to_be_visible()
    expect(first.locator(".message--own")).to_have_count(1)
    expect(first.locator(".notice")).to_have_count(0)


def test_taken_name_is_asked_for_again(visit: Any, server: Server, room: str) -> None:
    """For a taken name the name dialog opens again, with the reason and the typed name."""
    with joined_user(room, "Ann", server):
        page = visit()
        page.fill("#name-input", "Ann")
        page.press("#name-input", "Enter")
        expect(page.locator("#name-error")).not_to_be_empty()
        expect(page.locator("#name-input")).to_have_value("Ann")
        expect(page.locator("#name-input")).to_be_focused()
        page.fill("#name-input", "Anna")
        page.press("#name-input", "Enter")
        expect(page.locator("#own-name")).to_have_text("Anna")


def test_bad_name_is_asked_for_again(visit: Any) -> None:
    """For a refused name, or an empty one, the name dialog shows the reason."""
    page = visit()
    page.press("#name-input", "Enter")
    expect(page.locator("#name-error")).to_have_text("Enter a name.")
    page.fill("#name-input", "x" * 33)
    page.press("#name-input", "Enter")
    expect(page.locator("#name-error")).to_contain_text("32")
    expect(page.locator("#name-input")).to_have_value("x" * 33)


def test_name_screen_stays_while_a_name_is_needed(visit: Any) -> None:
    """Escape does not close the name dialog of the first visit."""
    page = visit()
    for _ in range(3):
        page.keyboard.press("Escape")
    expect(page.locator("#name-dialog")).to_be_visible()
    expect(page.locator("#name-input")).to_be_focused()


def test_name_can_be_changed(visit: Any) -> None:
    """A new name is used at once, and after a cancel or a refusal the old name stays."""
    ann, bob = visit("Ann"), visit("Bob")
    change_name(ann)
    ann.keyboard.press("Escape")
    expect(ann.locator("#own-name")).to_have_text("Ann")
    change_name(ann, "Bob")
    expect(ann.locator("#name-error")).not_to_be_empty()
    ann.click("#name-cancel")
    expect(ann.locator("#people .person__name").first).to_have_text("Ann")
    change_name(ann, "Annette")
    expect(ann.locator("#own-name")).to_have_text("Annette")
    # It must not be undone some seconds later, either.
    expect(bob.locator("#people .person__name")).to_have_text(["Bob", "Annette"], timeout=2_000)


# Rooms


def test_users_are_sorted_by_numbers_in_names(
    visit: Any, script: ScriptedServer, room: str
) -> None:
    """Guest 2 stands before Guest 10, and a truncated name has its full name as a tooltip."""
    page = visit("Ann", script=script)
    for name in ("Guest 10", "Guest 2"):
        script.say(type="join", room=room, user=user_of(name), username=name, online=3)
    names = page.locator("#people .person__name")
    expect(names).to_have_text(["Ann", "Guest 2", "Guest 10", "Zoe"])
    expect(names.nth(1)).to_have_attribute("title", "Guest 2")


def test_invitation_is_copied_without_the_clipboard_api(visit: Any, room: str) -> None:
    """Without the clipboard API, as over HTTP, the page copies by a command, and the focus
    stays."""
    page = visit("Ann", init="Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.evaluate("() => addEventListener('copy', () => (window.copied = `${getSelection()}`))")
    page.click("#copy-link")
    expect(page.locator("#toast")).to_contain_text("Invite link copied")
    expect(page.locator("#copy-link")).to_be_focused()
    assert page.evaluate("() => window.copied").endswith(f"/#{room}")
    page.evaluate("room => { location.hash = room }", f"{room}-other")
    expect(page.locator("#toast")).to_be_empty()


def test_hash_switches_the_room(visit: Any, server: Server, room: str) -> None:
    """Another hash shows another room, and the first room is unchanged on return."""
    with joined_user(f"{room}-b", "Bob", server) as bob:
        bob.say("Hello from b")
        ann = visit("Ann", at=f"{room}-a")
        say(ann, "Hello from a")
        expect(ann.locator(".message[data-offset='1']")).to_be_visible()
        ann.evaluate("room => { location.hash = room }", f"{room}-B")
        expect(ann.locator("#room-name")).to_have_text(f"{room}-b")
        expect(ann.locator(".message__text")).to_have_text(["Hello from b"])
        expect(ann.locator("#online-count")).to_have_text("2 here")
        expect(ann.locator("#rooms .room-item__name")).to_have_text([f"{room}-a", f"{room}-b"])
        bob.say("Welcome")
        expect(text_in(ann, "Welcome")).to_be_visible()
        ann.go_back()
        expect(ann.locator(".message__text")).to_have_text(["Hello from a"])
        expect(ann.locator("#online-count")).to_have_text("1 here")


def test_impossible_room_is_explained(visit: Any) -> None:
    """A hash that is not a valid room shows an explanation and a link to a room, and nothing
    else."""
    page = visit(at="no such room!")
    expect(page.locator("#bad-room")).to_contain_text("no such room!")
    for part in ("#composer", "#copy-link", "#search-toggle"):
        expect(page.locator(part)).to_be_hidden()
    page.click("#bad-room a")
    expect(page.locator("#room-name")).to_have_text("lobby")
    page.fill("#name-input", "Ann")
    page.press("#name-input", "Enter")
    expect(page.locator("#people .person__name").first).to_have_text("Ann")
    expect(page.locator("#copy-link")).to_be_visible()


def test_impossible_room_does_not_end_the_current_one(
    visit: Any, server: Server, room: str
) -> None:
    """A user in a room stays there after an invalid hash, sees the reason, and misses no
    message."""
    page = visit("Ann")
    page.evaluate("() => { location.hash = 'no such room!' }")
    expect(page.locator("#toast")).to_contain_text("“no such room!” is not a valid room name")
    expect(page.locator("#room-name")).to_have_text(room)
    assert page.evaluate("() => location.hash") == f"#{room}"
    with joined_user(room, "Bob", server) as bob:
        bob.say("hello")
        expect(text_in(page, "hello")).to_be_visible()


def test_typed_text_becomes_a_room_name(visit: Any) -> None:
    """Spaces, capitals of any script and a pasted invitation become a valid room name."""
    page = visit("Ann")
    # None of them is the room before it, so that each is opened.
    for typed, found in (
        ("Café Süd", "café-süd"),
        ("Кухня", "кухня"),
        ("厨房", "厨房"),
        ("مطبخ", "مطبخ"),
        ("Straße", "strasse"),
        ("＃厨房", "厨房"),
        ("https://chat.example/#%D0%9A%D1%83%D1%85%D0%BD%D1%8F", "кухня"),
        ("#kitchen", "kitchen"),
        ("https://chat.example/?lang=ar#the-kitchen/42", "the-kitchen"),
        ("https://chat.example/#%6bitchen", "kitchen"),
    ):
        page.fill("#room-field", typed)
        page.press("#room-field", "Enter")
        expect(page.locator("#room-name"), typed).to_have_text(found)


def test_invalid_room_name_stays_in_its_field(visit: Any, room: str) -> None:
    """The reason is shown below the field, and the name can be corrected."""
    page = visit("Ann")
    page.fill("#room-field", "Straße!")
    page.press("#room-field", "Enter")
    expect(page.locator("#room-error")).to_contain_text("“Straße!” is not a valid room name")
    expect(page.locator("#room-field")).to_have_value("Straße!")
    expect(page.locator("#room-field")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#room-name")).to_have_text(room)
    page.fill("#room-field", "strasse")
    expect(page.locator("#room-error")).to_be_empty()
    page.press("#room-field", "Enter")
    expect(page.locator("#room-name")).to_have_text("strasse")


# Writing


def test_shift_enter_breaks_the_line(visit: Any) -> None:
    """Shift+Enter starts a line, Enter sends, and the message has the same lines."""
    ann = visit("Ann")
    ann.focus("#composer")
    height = ann.locator("#composer").bounding_box()["height"]
    for line in ("one", "two"):
        ann.keyboard.type(line)
        ann.keyboard.press("Shift+Enter")
    assert ann.locator("#composer").bounding_box()["height"] > height
    ann.keyboard.type("three")
    ann.keyboard.press("Enter")
    expect(ann.locator(".message[data-offset='1'] .message__text")).to_have_text(
        "one\ntwo\nthree", use_inner_text=True
    )
    expect(ann.locator("#composer")).to_have_value("")


def test_enter_of_an_input_method_does_not_send(visit: Any) -> None:
    """The Enter that ends a composition belongs to the input method."""
    ann = visit("Ann")
    ann.fill("#composer", "かな")
    ann.eval_on_selector(
        "#composer",
        """field => field.dispatchEvent(
        new KeyboardEvent("keydown",
            { key: "Enter", isComposing: true, bubbles: true, cancelable: true }))""",
    )
    expect(ann.locator("#composer")).to_have_value("かな")
    expect(ann.locator(".message")).to_have_count(0)


def test_too_long_text_is_refused_and_stays(visit: Any) -> None:
    """4,000 code points can be sent; one more is refused with a reason, and the text stays in the
    field."""
    ann = visit("Ann")
    ann.fill("#composer", "😀" * 4001 + "  \n")
    expect(ann.locator("#composer-hint")).to_contain_text("1 character too long:")
    expect(ann.locator("#send")).to_be_disabled()
    ann.press("#composer", "Enter")
    assert ann.input_value("#composer").startswith("😀" * 4001)
    expect(ann.locator(".message")).to_have_count(0)
    ann.fill("#composer", "😀" * 4000 + "  \n")
    expect(ann.locator("#composer-hint")).not_to_contain_text("Too long")
    ann.click("#send")
    expect(ann.locator(".message[data-offset='1']")).to_have_count(1)


def test_blank_text_is_not_sent(visit: Any) -> None:
    """A text of white space alone is not sent."""
    ann = visit("Ann")
    say(ann, " \n ")
    say(ann, "word")
    expect(ann.locator(".message[data-offset='1'] .message__text")).to_have_text("word")
    expect(ann.locator(".message")).to_have_count(1)


def test_refused_message_shows_the_reason_until_it_is_removed(visit: Any) -> None:
    """A message that the server refuses stays, with the server's reason, until the user removes
    it."""
    ann = visit("Ann")
    say(ann, "\u0001")
    expect(ann.locator(".message--failed .message__note")).to_contain_text("at least one character")
    expect(ann.locator("[data-action=retry]")).to_be_hidden()
    ann.click("[data-action=discard]")
    expect(ann.locator(".message")).to_have_count(0)


def test_temporary_refusal_can_be_retried(visit: Any, script: ScriptedServer, room: str) -> None:
    """After a temporary error a button sends the same message again, under the same id."""
    ann = visit("Ann", script=script)
    say(ann, "Once more")
    expect(ann.locator(".message--pending")).to_have_count(1)
    (first,) = script.sent("message")
    script.say(type="error", code="unavailable", message="Not now.", temporary=True, id=first["id"])
    expect(ann.locator(".message--failed .message__note")).to_contain_text("Not now.")
    ann.click("[data-action=retry]")
    expect(ann.locator(".message--failed")).to_have_count(0)
    script.publish("Once more", offset=1, room=room, username="Ann", id=first["id"])
    expect(ann.locator(".message[data-offset='1']")).to_have_count(1)
    assert script.sent("message") == [first, first]


def test_typing_is_shown_and_ends(visit: Any, server: Server, room: str) -> None:
    """Up to three names are shown as typing, until the user sends a message or leaves."""
    ann = visit("Ann")
    # While the clock is stopped, no user's typing ends by itself.
    ann.clock.install()
    stop_clock(ann)
    with contextlib.ExitStack() as stack:
        typists = [
            stack.enter_context(joined_user(room, name, server))
            for name in ("Bob", "Cid", "Dee", "Eva")
        ]
        for typist in typists:
            typist.do(type="typing")
        expect(ann.locator("#typing")).to_have_text(
            re.compile(r"^\w{3}, \w{3}, \w{3}, and others are typing…$")
        )
        for typist in typists[1:]:
            typist.say("done")
        expect(ann.locator("#typing")).to_have_text("Bob is typing…")
        typists[0].do(type="leave")
        expect(ann.locator("#typing")).to_be_empty()


def test_typing_is_sent_at_most_every_three_seconds(visit: Any, script: ScriptedServer) -> None:
    """A burst of keys sends one typing command, and the next key after a sent message sends
    another."""
    ann = visit("Ann", script=script)
    ann.clock.install()
    stop_clock(ann)
    ann.type("#composer", "hello")
    ann.press("#composer", "Enter")
    ann.type("#composer", "again")
    ann.clock.run_for(2_900)
    ann.type("#composer", " and again")
    ann.clock.run_for(200)
    ann.type("#composer", "!")
    wait_for_sent(ann, lambda: len(script.commands) == 5)
    assert [command["type"] for command in script.commands] == [
        "join",
        "typing",
        "message",
        "typing",
        "typing",
    ]


# Hostile text


def test_hostile_text_stays_text(visit: Any, server: Server, room: str) -> None:
    """Markup in texts is shown as written, and becomes no element and no script."""
    page = visit("Ann")
    elements = """() => [...new Set([...document.querySelectorAll("#log *")]
        .map((element) => element.localName))].sort()"""
    with joined_user(room, "Bob", server) as bob:
        bob.say("plain")
        expect(page.locator(".message")).to_have_count(1)
        expected = page.evaluate(elements)
        bob.say(*HOSTILE)
        expect(page.locator(".message")).to_have_count(1 + len(HOSTILE))
    assert page.locator(".message__text").all_text_contents()[1:] == HOSTILE
    assert page.evaluate(elements) == expected


def test_hostile_names_stay_text(visit: Any, server: Server, room: str) -> None:
    """Markup in names is shown as written, wherever a name appears."""
    page = visit("Ann")
    names = [payload[:32].strip() for payload in HOSTILE if payload.isprintable()]
    with contextlib.ExitStack() as stack:
        for name in names:
            typist = stack.enter_context(joined_user(room, name, server))
            typist.do(type="typing")
            typist.say("hello")
        expect(page.locator(".message__author")).to_have_text(names)
        expect(page.locator(".notice bdi")).to_have_text(names)
        expect(page.locator("#people .person")).to_have_count(len(names) + 1)
    foreign = "script, img, svg:not(button > svg), iframe, style, a, form"
    found = page.locator("#log, #people, #typing").locator(foreign)
    assert found.evaluate_all("(all) => all.map((each) => each.outerHTML)") == []


def test_hostile_rooms_stay_text(visit: Any) -> None:
    """Markup in the address is shown as written."""
    page = visit()
    for payload in HOSTILE:
        page.evaluate("hash => { location.hash = encodeURIComponent(hash) }", payload)
        expect(page.locator("#room-name")).to_have_text(payload.lower())
        expect(page.locator("#bad-room bdi")).to_have_text(payload.lower())
        assert page.locator("main :is(script, iframe, style, form:not(.composer))").count() == 0


# Reading


def test_scroll_stays_where_the_reader_is(visit: Any, server: Server, room: str) -> None:
    """New messages do not move the text of a reader who looks back; a pill counts them and leads to
    the end."""
    with joined_user(room, "Bob", server) as bob:
        bob.say(*(f"line {number}" for number in range(40)))
        ann = visit("Ann")
        expect(text_in(ann, "line 39")).to_be_in_viewport()
        ann.hover("#log")
        ann.mouse.wheel(0, -600)
        expect(text_in(ann, "line 39")).not_to_be_in_viewport()
        top = ann.evaluate(_TOP)
        bob.say("news", "more news")
        expect(ann.locator("#new-messages")).to_have_text("2 new messages")
        assert ann.evaluate(_TOP) == top
        ann.click("#new-messages")
        expect(text_in(ann, "more news")).to_be_in_viewport()
        expect(ann.locator("#new-messages")).to_be_hidden()
        bob.say("the latest")
        expect(text_in(ann, "the latest")).to_be_in_viewport()


def test_button_leads_to_the_newest_messages(visit: Any, script: ScriptedServer, room: str) -> None:
    """More than a screen above the end there is a button to the end, even without new messages."""
    script.offset = 60
    script.missed = [publication(f"line {each}", offset=each, room=room) for each in range(1, 61)]
    page = visit("Ann", script=script)
    expect(text_in(page, "line 60")).to_be_in_viewport()
    page.hover("#log")
    page.mouse.wheel(0, -200)
    expect(text_in(page, "line 60")).not_to_be_in_viewport()
    expect(page.locator("#new-messages")).to_be_hidden()
    page.mouse.wheel(0, -1_500)
    expect(page.locator("#new-messages")).to_have_text("Newest messages")
    page.click("#new-messages")
    expect(text_in(page, "line 60")).to_be_in_viewport()
    expect(page.locator("#new-messages")).to_be_hidden()


_TOP = "() => document.getElementById('log').scrollTop"


def test_rows_are_bounded_and_do_not_move_the_reader(visit: Any) -> None:
    """The log has at most 300 rows, and the text of a reader who looks back does not move."""
    page = visit()
    state = page.evaluate("""async () => {
      const { Room } = await import("/static/model/room.js");
      const { Storage } = await import("/static/client/storage.js");
      const { Log } = await import("/static/log/log.js");
      const room = new Room("bounded", new Storage(), () => {}), { timeline } = room;
      const older = async () => false, newer = async () => timeline.grow();
      const log = new Log({ older, newer, seen: (offset) => room.read(offset) });
      const element = document.getElementById("log");
      let live;
      new MutationObserver(() => (live ??= element.ariaLive)).observe(element, { childList: true });
      const frame = () => new Promise(requestAnimationFrame);
      const frames = () => frame().then(frame).then(frame);
      let offset = 0;
      const more = async (count) => {
        for (let n = 0; n < count; n += 1) timeline.apply({ type: "message", offset: ++offset,
          user: "zoe", username: "Zoe", text: `line ${offset}`,
          timestamp: "2025-01-18T10:30:00.123Z" });
        log.show(room);
        await frames();
      };
      const rows = () => element.querySelectorAll(".message").length;
      const seen = () => {
        const row = [...element.children].find((each) => each.getBoundingClientRect().top > 200);
        return [row.textContent, Math.round(row.getBoundingClientRect().top)];
      };
      room.accept({ user: "ann", username: "Ann", epoch: "e", offset: 0, recovered: false,
        messages: [], users: [{ user: "ann", username: "Ann" }], online: 1, rights: ["read"] });
      await more(500);
      const result = { live, following: rows() };
      element.scrollTop = 3000;
      await frames();
      const before = seen();
      await more(250);
      result.grown = rows();
      result.stayed = String(seen()) === String(before);
      await more(5000);
      result.held = rows();
      result.stillThere = String(seen()) === String(before);
      result.pill = document.getElementById("new-messages").textContent.trim();
      document.getElementById("new-messages").click();
      await frames();
      result.back = [rows(), element.lastElementChild.querySelector(".message__text").textContent];
      return result;
    }""")
    assert 250 <= state.pop("following") <= 300
    assert state == {
        "live": "off",
        "grown": 300,
        "stayed": True,
        "held": 300,
        "stillThere": True,
        "pill": "300+ new messages",
        "back": [300, "line 5750"],
    }
    expect(page.locator("#log")).to_have_attribute("aria-live", "polite")


def test_messages_of_one_user_are_grouped(visit: Any, script: ScriptedServer, room: str) -> None:
    """Messages of one user within five minutes form a group."""
    script.offset = 4
    script.missed = [
        publication("a", offset=1, room=room),
        publication("b", offset=2, room=room, timestamp="2025-01-18T10:34:00Z"),
        publication("c", offset=3, room=room, timestamp="2025-01-18T10:40:00Z"),
        publication("d", offset=4, room=room, username="Ann"),
    ]
    page = visit("Ann", script=script)
    expect(page.locator(".message")).to_have_count(4)
    assert page.locator(".message--continued .message__text").all_text_contents() == ["b"]
    assert page.locator(".message[data-day]").count() == 1


def test_history_is_not_announced_to_screen_readers(
    visit: Any, script: ScriptedServer, room: str
) -> None:
    """The log is a live region, and silent while history is filled in."""
    script.offset = 1
    script.missed = [publication("the past", offset=1, room=room)]
    page = visit(script=script)
    page.evaluate("""() => {
      const log = document.getElementById("log");
      window.heard = new Promise((tell) => {
        new MutationObserver(() => tell(log.ariaLive)).observe(log, { childList: true });
      });
    }""")
    page.fill("#name-input", "Ann")
    page.press("#name-input", "Enter")
    assert page.evaluate("() => window.heard") == "off"
    expect(page.locator("#log")).to_have_attribute("aria-live", "polite")
    expect(page.locator("#log")).to_have_role("log")


LOW_CONTRASTS = """() => {
  const context = document.createElement("canvas").getContext("2d");
  const luminance = (colour) => {
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...context.getImageData(0, 0, 1, 1).data].map((byte) =>
      byte / 255 <= 0.04045 ? byte / 255 / 12.92 : ((byte / 255 + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (one, other) => {
    const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };
  const person = document.getElementById("own"), avatar = person.querySelector(".avatar");
  const canvas = getComputedStyle(document.documentElement).backgroundColor;
  const low = [];
  for (let hue = 0; hue < 360; hue += 15) {
    person.style.setProperty("--hue", hue);
    const { color, backgroundColor } = getComputedStyle(avatar);
    if (contrast(color, canvas) < 4.5 || contrast(color, backgroundColor) < 4.5) low.push(hue);
  }
  return low;
}"""


def test_every_colour_of_a_name_is_readable(visit: Any) -> None:
    """Names and initials have a contrast of at least 4.5 (WCAG 2.2, 1.4.3)."""
    page = visit("Ann")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate(LOW_CONTRASTS) == [], scheme


# Keyboard, narrow screens


def test_page_works_by_keyboard_alone(visit: Any) -> None:
    """Joining, writing, reading the list of users and changing the name need no pointer."""
    page = visit(**PHONE)
    expect(page.locator("#name-input")).to_be_focused()
    page.keyboard.type("Ann")
    page.keyboard.press("Enter")
    expect(page.locator("#composer")).to_be_focused()
    page.keyboard.type("Look, no hands")
    page.keyboard.press("Enter")
    expect(page.locator(".message[data-offset='1']")).to_be_visible()
    _tab_to(page, "#log", "Shift+Tab")
    _tab_to(page, "#people-toggle", "Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#people")).to_be_visible()
    expect(page.locator("#panel [data-close]")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#people")).to_be_hidden()
    expect(page.locator("#people-toggle")).to_be_focused()
    page.focus("#rooms-toggle")
    page.keyboard.press("Enter")
    for button in ("#room-field", "#room-form button", "#preferences-open"):
        _tab_to(page, button)
    page.keyboard.press("Enter")
    expect(page.locator("#change-name")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.type("Annette")
    page.keyboard.press("Enter")
    expect(page.locator("#own-name")).to_have_text("Annette")
    expect(page.locator("#composer")).to_be_focused()


def _tab_to(page: Any, selector: str, key: str = "Tab") -> None:
    """Press Tab until the focus is there; fails after some presses."""
    for _ in range(4):
        page.keyboard.press(key)
        if page.locator(f"{selector}:focus").count():
            return
    expect(page.locator(selector)).to_be_focused()


def test_narrow_screen_never_scrolls_sideways(visit: Any, server: Server, room: str) -> None:
    """At 320 pixels everything fits, even long words and names."""
    with joined_user(room, "W" * 32, server) as typist:
        page = visit("Ann", **PHONE)
        assert _overflow(page) == 0
        typist.say("unbreakable" * 40, "https://example.org/" + "a" * 300, "short", "also short")
        say(page, "m" * 200)
        page.fill("#composer", "m" * 4100)
        expect(page.locator(".message[data-offset='5']")).to_be_visible()
        assert _overflow(page) == 0
        page.fill("#composer", "")
        page.evaluate("() => { location.hash = 'x'.repeat(60) }")
        expect(page.locator("#room-name")).to_have_text("x" * 60)
        assert page.locator("#composer").bounding_box()["height"] < 48
        assert _overflow(page) == 0
        page.click("#people-toggle")
        expect(page.locator("#people")).to_be_visible()
        assert _overflow(page) == 0
        page.click("#panel [data-close]")
        page.click("#rooms-toggle")
        page.fill("#room-field", "x" * 200)
        page.press("#room-field", "Enter")
        expect(page.locator("#room-error")).to_contain_text("xxx")
        assert _overflow(page) == 0
        page = visit(at="x" * 200, **PHONE)
        expect(page.locator("#bad-room")).to_be_visible()
        assert _overflow(page) == 0


def _overflow(page: Any) -> int:
    width: int = page.evaluate("""() => Math.max(
        ...[...document.querySelectorAll("html, main, #log, .panel")]
        .map((element) => element.scrollWidth - element.clientWidth))""")
    return width


# Broken connections


#: The button is hidden while the page reconnects by itself, which can happen at this moment.
PRESS_UNTIL_BACK = """() => {
  const button = document.getElementById("try-now");
  if (!button.hidden) button.click();
  return document.getElementById("status").textContent === "";
}"""


def test_page_survives_a_killed_server(visit: Any, tmp_path: Path) -> None:
    """Once a killed server is back, both pages reconnect, and a message written meanwhile is sent
    once."""
    data = ("--data", str(tmp_path))
    with running_server(*data) as first:
        ann, bob = visit("Ann", url=first.url), visit("Bob", url=first.url)
        say(ann, "before")
        expect(text_in(bob, "before")).to_be_visible()
        first.kill()
        say(ann, "meanwhile")
        expect(ann.locator(".message--pending")).to_have_count(1)
        expect(ann.locator("#status")).to_have_text("You’re offline.")
        expect(ann.locator("#countdown")).to_contain_text("Trying")
        with running_server(*data, port=first.port):
            ann.wait_for_function(PRESS_UNTIL_BACK)
            for page in (ann, bob):
                page.wait_for_function(BACK_WITH, arg="meanwhile")
                expect(page.locator("#online-count")).to_have_text("2 here")
                expect(text_in(page, "meanwhile")).to_have_count(1)
            expect(ann.locator(".message--pending")).to_have_count(0)
            expect(ann.locator("#try-now")).to_be_hidden()
            say(bob, "after")
            for page in (ann, bob):
                expect(page.locator(".message__text")).to_have_text(
                    ["before", "meanwhile", "after"]
                )


def test_page_rejoins_after_a_hole(visit: Any, script: ScriptedServer, room: str) -> None:
    """If an offset is missing, the page joins again with its position and shows each message
    once."""
    page = visit("Ann", script=script)
    script.publish("one", offset=1, room=room)
    script.offset = 3
    script.missed = [
        publication(text, offset=offset, room=room) for offset, text in ((2, "two"), (3, "three"))
    ]
    script.publish("three", offset=3, room=room)
    expect(page.locator(".message__text")).to_have_text(["one", "two", "three"])
    since = script.sent("join")[1]["since"]
    assert (since["epoch"], since["offset"]) == ("e1", 1)
    assert script.sent("join")[1]["session"] == "s" * 16
    assert script.connections == 2


def test_delivered_message_is_not_sent_again(visit: Any, script: ScriptedServer, room: str) -> None:
    """After a rejoin the page sends only the pending messages that had not been published."""
    page = visit("Ann", script=script)
    say(page, "got through")
    say(page, "maybe")
    expect(page.locator(".message--pending")).to_have_count(2)
    first, second = script.sent("message")
    script.offset = 1
    script.missed = [
        publication("got through", offset=1, room=room, username="Ann", id=first["id"])
    ]
    script.close(4008)
    expect(page.locator(".message[data-offset='1']")).to_have_count(1)
    assert script.sent("message") == [first, second, second]
    script.say(type="ack", id=second["id"], room=room, offset=2)
    expect(page.locator(".message[data-offset='2']")).to_have_count(1)
    expect(page.locator(".message--pending")).to_have_count(0)


def test_page_reconnects_after_the_time_in_closing(visit: Any, script: ScriptedServer) -> None:
    """After `closing` the page waits for the given time, and shows the reason after a while."""
    page = visit("Ann", script=script)
    script.say(type="closing", code=1012, reason="restart", reconnect_after_ms=60_000)
    script.close(1012)
    expect(page.locator("#status")).to_have_text("The server is restarting.")
    expect(page.locator("#countdown")).to_contain_text("Trying again in")
    page.evaluate("() => dispatchEvent(new Event('online'))")
    assert script.connections == 1
    page.click("#try-now")
    expect(page.locator("#status")).to_be_empty()
    assert script.connections == 2


def test_page_does_not_reconnect_after_a_final_close_code(
    visit: Any, script: ScriptedServer
) -> None:
    """After a close code that forbids a reconnect, the page shows the reason and reconnects only on
    request."""
    page = visit("Ann", script=script)
    script.close(4503)
    expect(page.locator("#status")).to_have_text("A moderator removed you.")
    expect(page.locator("#try-now")).to_have_text("Reconnect")
    assert script.connections == 1
    page.click("#try-now")
    expect(page.locator("#status")).to_be_empty()


def test_dead_connection_is_noticed(visit: Any, script: ScriptedServer) -> None:
    """After silence the page sends a ping, and without a reply it reconnects."""
    page = visit(script=script)
    page.clock.install()
    page.fill("#name-input", "Ann")
    page.press("#name-input", "Enter")
    expect(page.locator("#online-count")).to_have_text("2 here")
    stop_clock(page)
    page.clock.run_for(26_000)
    wait_for_sent(page, lambda: script.sent("ping"))
    assert len(script.sent("ping")) == 1
    page.clock.run_for(11_000)
    page.clock.run_for(1_000)
    wait_for_sent(page, lambda: len(script.sent("join")) == 2)
    assert script.connections == 2


@pytest.mark.parametrize(
    ("doubt", "asks_after_ms", "gives_up_after_ms"),
    [
        ("() => dispatchEvent(new Event('offline'))", 0, 3_100),
        ("() => {}", 5_100, 10_100),
    ],
    ids=["offline", "no answer"],
)
def test_dead_connection_is_noticed_sooner_with_a_pending_command(
    visit: Any, script: ScriptedServer, doubt: str, asks_after_ms: int, gives_up_after_ms: int
) -> None:
    """A dead connection is noticed sooner if a command is pending, or if the system reports no
    network."""
    page = visit(script=script)
    page.clock.install()
    page.fill("#name-input", "Ann")
    page.press("#name-input", "Enter")
    expect(page.locator("#online-count")).to_have_text("2 here")
    stop_clock(page)
    say(page, "hello?")
    page.clock.run_for(100)
    expect(page.locator(".message--pending")).to_have_count(1)
    page.evaluate(doubt)
    if asks_after_ms:
        page.clock.run_for(asks_after_ms - 1_000)
        assert script.sent("ping") == []
        page.clock.run_for(1_000)
    wait_for_sent(page, lambda: script.sent("ping"))
    assert len(script.sent("ping")) == 1
    page.clock.run_for(gives_up_after_ms)
    page.clock.run_for(1_000)
    wait_for_sent(page, lambda: len(script.sent("join")) == 2)
    assert (script.connections, len(script.sent("ping"))) == (2, 1)


@pytest.mark.parametrize("code", ["bad_username", "bad_room", "username_taken"])
def test_refused_join_opens_the_name_dialog(visit: Any, script: ScriptedServer, code: str) -> None:
    """A refused join opens the name dialog, and no connection is left without a room."""
    script.refusal = {"code": code, "message": "Not like this.", "temporary": False}
    page = visit(script=script)
    page.fill("#name-input", "Ann")
    page.press("#name-input", "Enter")
    expect(page.locator("#name-error")).to_have_text("Not like this.")
    script.refusal = None
    page.press("#name-input", "Enter")
    expect(page.locator("#own-name")).to_have_text("Ann")
    assert script.connections == 2
