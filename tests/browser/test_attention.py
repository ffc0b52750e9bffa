"""What calls the reader: the tab's title and icon, notifications, a sound. And what he likes."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from support.browser import Visit, joined_user, say, text_in
from support.server import Server

# Records what the page would show and play; whether the tab is looked at, a test says.
RECORDER = """
  window.shown = [];
  window.played = 0;
  window.Notification = class {
    static permission = "default";
    static async requestPermission() {
      return (this.permission = window.answer ?? "granted");
    }
    constructor(title, options) {
      window.shown.push([title, options.body, options.tag]);
    }
  };
  const start = OscillatorNode.prototype.start;
  OscillatorNode.prototype.start = function (...when) {
    window.played += 1;
    return start.apply(this, when);
  };
  window.away = false;
  Object.defineProperty(document, "hidden", { get: () => window.away });
  document.hasFocus = () => !window.away;
"""


@pytest.fixture
def alice(visit: Visit) -> Any:
    return visit("Alice", init=RECORDER)


def go(page: Any, *, away: bool) -> None:
    page.evaluate(
        "away => { window.away = away; document.dispatchEvent(new Event('visibilitychange')); }",
        away,
    )


def prefer(page: Any, name: str, value: str | bool) -> None:
    page.click("#preferences-open")
    field = page.locator(f"#preferences [name={name}]")
    if isinstance(value, bool):
        field.set_checked(value)
    else:
        field.select_option(value)
    page.click("#preferences-close")


def shown(page: Any) -> list[list[str]]:
    return page.evaluate("window.shown")


def test_the_title_and_the_icon_tell_of_what_is_new_while_nobody_looks(
    alice: Any, server: Server, room: str
) -> None:
    """Both count while the tab is hidden, and stop when the reader is back."""
    with joined_user(room, "Bob", server) as bob:
        go(alice, away=True)
        bob.say("One", "Two")
        expect(alice).to_have_title(f"(2) #{room} · fastchat")
        expect(alice.locator("#icon")).to_have_attribute("href", "/static/icon-unread.svg")
        go(alice, away=False)
        expect(alice).to_have_title(f"#{room} · fastchat")
        expect(alice.locator("#icon")).to_have_attribute("href", "/static/icon.svg")


def test_nothing_is_shown_and_nothing_played_unless_asked_for(
    alice: Any, server: Server, room: str
) -> None:
    """A page that nobody has told otherwise keeps still."""
    with joined_user(room, "Bob", server) as bob:
        go(alice, away=True)
        bob.say("@Alice are you there?")
        expect(alice).to_have_title(f"(1) #{room} · fastchat")
    assert shown(alice) == []
    assert alice.evaluate("window.played") == 0


def test_a_mention_is_notified_to_who_asked_for_it(alice: Any, server: Server, room: str) -> None:
    """Of what is said while she is away, only what calls her, in words without marks."""
    prefer(alice, "notify", "mentions")
    with joined_user(room, "Bob", server) as bob:
        bob.say("@Alice you see this")
        expect(text_in(alice, "you see this")).to_be_visible()
        go(alice, away=True)
        bob.say("not you", "**hey** @Alice")
        expect(alice).to_have_title(f"(2) #{room} · fastchat")
    assert shown(alice) == [[f"Bob in #{room}", "hey @Alice", room]]


def test_every_message_is_notified_while_away_to_who_asked_for_it(
    alice: Any, server: Server, room: str
) -> None:
    """With `all`, but never while she looks."""
    prefer(alice, "notify", "all")
    with joined_user(room, "Bob", server) as bob:
        bob.say("seen")
        expect(text_in(alice, "seen")).to_be_visible()
        go(alice, away=True)
        bob.say("not seen")
        expect(alice).to_have_title(f"(1) #{room} · fastchat")
    assert [body for _, body, _ in shown(alice)] == ["not seen"]


def test_a_browser_that_forbids_notifications_is_believed(alice: Any) -> None:
    """The choice goes back to never, and a sentence says why."""
    alice.evaluate("window.answer = 'denied'")
    alice.click("#preferences-open")
    alice.select_option("#preferences [name=notify]", "all")
    expect(alice.locator("#preferences-note")).to_contain_text("blocks notifications")
    expect(alice.locator("#preferences [name=notify]")).to_have_value("")


def test_a_sound_is_played_to_who_asked_for_it(alice: Any, server: Server, room: str) -> None:
    """For what is said while she is away; and not again within two seconds."""
    prefer(alice, "sound", True)
    with joined_user(room, "Bob", server) as bob:
        go(alice, away=True)
        bob.say("One", "Two")
        expect(alice).to_have_title(f"(2) #{room} · fastchat")
    assert alice.evaluate("window.played") == 1


def test_a_theme_is_kept_and_there_before_the_first_paint(alice: Any) -> None:
    """Dark on a light system, also after a reload; and the system's again when asked."""
    prefer(alice, "theme", "dark")
    colour = "getComputedStyle(document.body).colorScheme"
    assert alice.evaluate(colour) == "dark"
    alice.reload()
    alice.wait_for_selector("#people .person", state="attached")
    assert alice.evaluate(colour) == "dark"
    prefer(alice, "theme", "")
    assert alice.evaluate(colour) == "light dark"


def test_the_keys_are_listed(alice: Any) -> None:
    """A question mark where nothing is being written, or Ctrl + / anywhere."""
    alice.keyboard.press("Control+/")
    expect(alice.locator("#shortcuts dd").first).to_have_text("Send")
    alice.keyboard.press("Escape")
    expect(alice.locator("#shortcuts")).to_be_hidden()
    alice.focus("#log")
    alice.keyboard.press("?")
    expect(alice.locator("#shortcuts")).to_be_visible()


def test_the_arrows_go_from_room_to_room(alice: Any, server: Server, room: str) -> None:
    """Alt and an arrow; with Shift, only where something is new."""
    others = [f"{room}-b", f"{room}-c"]
    for other in others:
        alice.fill("#room-field", other)
        alice.press("#room-field", "Enter")
        expect(alice.locator("#room-name")).to_have_text(other)
        expect(alice.locator("#people .person")).to_have_count(1)
    alice.keyboard.press("Alt+ArrowDown")
    expect(alice.locator("#room-name")).to_have_text(room)
    with joined_user(others[1], "Bob", server) as bob:
        bob.say("news")
        expect(alice).to_have_title(f"(1) #{room} · fastchat")
        alice.keyboard.press("Alt+Shift+ArrowDown")
        expect(alice.locator("#room-name")).to_have_text(others[1])
    alice.keyboard.press("Alt+ArrowUp")
    expect(alice.locator("#room-name")).to_have_text(others[0])


def test_letters_go_where_something_can_be_written(alice: Any) -> None:
    """Whoever has clicked elsewhere and types, writes; keys that press or scroll still do."""
    say(alice, "one")
    text_in(alice, "one").click()
    alice.keyboard.type("Hm? a/b")
    expect(alice.locator("#composer")).to_have_value("Hm? a/b")
    alice.focus("#preferences-open")
    alice.keyboard.press(" ")
    expect(alice.locator("#preferences")).to_be_visible()
    alice.keyboard.press("x")
    expect(alice.locator("#composer")).to_have_value("Hm? a/b")


def test_a_question_mark_in_a_message_is_a_question_mark(alice: Any) -> None:
    """What is written is nobody's shortcut."""
    alice.focus("#composer")
    alice.keyboard.type("What? / Why?")
    expect(alice.locator("#composer")).to_have_value("What? / Why?")
    say(alice, "Well?")
    expect(text_in(alice, "Well?")).to_be_visible()
