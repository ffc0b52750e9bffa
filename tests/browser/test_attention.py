"""The title and icon of the tab, notifications, sounds, and the reader's preferences."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from support.browser import Visit, joined_user, say, text_in
from support.server import Server

# Records the notifications and sounds of the page; a test says whether the tab is hidden.
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


def set_away(page: Any, *, away: bool) -> None:
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


def notifications(page: Any) -> list[list[str]]:
    return page.evaluate("window.shown")


def test_title_and_icon_show_unread_messages_of_a_hidden_tab(
    alice: Any, server: Server, room: str
) -> None:
    """Title and icon count new messages while the tab is hidden, and stop when the reader is
    back."""
    with joined_user(room, "Bob", server) as bob:
        set_away(alice, away=True)
        bob.say("One", "Two")
        expect(alice).to_have_title(f"(2) #{room} · fastchat")
        expect(alice.locator("#icon")).to_have_attribute("href", "/static/icon-unread.svg")
        set_away(alice, away=False)
        expect(alice).to_have_title(f"#{room} · fastchat")
        expect(alice.locator("#icon")).to_have_attribute("href", "/static/icon.svg")


def test_page_shows_no_notification_by_default(alice: Any, server: Server, room: str) -> None:
    """By default, the page shows no notification and plays no sound."""
    with joined_user(room, "Bob", server) as bob:
        set_away(alice, away=True)
        bob.say("@Alice are you there?")
        expect(alice).to_have_title(f"(1) #{room} · fastchat")
    assert notifications(alice) == []
    assert alice.evaluate("window.played") == 0


def test_mention_is_notified_if_preferred(alice: Any, server: Server, room: str) -> None:
    """While she is away, Alice is notified of a message that mentions her, in plain text."""
    prefer(alice, "notify", "mentions")
    with joined_user(room, "Bob", server) as bob:
        bob.say("@Alice you see this")
        expect(text_in(alice, "you see this")).to_be_visible()
        set_away(alice, away=True)
        bob.say("not you", "**hey** @Alice")
        expect(alice).to_have_title(f"(2) #{room} · fastchat")
    assert notifications(alice) == [[f"Bob in #{room}", "hey @Alice", room]]


def test_every_message_is_notified_if_preferred(alice: Any, server: Server, room: str) -> None:
    """With `all`, every message is notified while the reader is away, and none while the tab is
    visible."""
    prefer(alice, "notify", "all")
    with joined_user(room, "Bob", server) as bob:
        bob.say("seen")
        expect(text_in(alice, "seen")).to_be_visible()
        set_away(alice, away=True)
        bob.say("not seen")
        expect(alice).to_have_title(f"(1) #{room} · fastchat")
    assert [body for _, body, _ in notifications(alice)] == ["not seen"]


def test_forbidden_notifications_reset_the_preference(alice: Any) -> None:
    """If the browser forbids notifications, the preference is reset to never, and a sentence says
    why."""
    alice.evaluate("window.answer = 'denied'")
    alice.click("#preferences-open")
    alice.select_option("#preferences [name=notify]", "all")
    expect(alice.locator("#preferences-note")).to_contain_text("blocks notifications")
    expect(alice.locator("#preferences [name=notify]")).to_have_value("")


def test_sound_is_played_if_preferred(alice: Any, server: Server, room: str) -> None:
    """A sound is played for a message while the reader is away, at most once in two seconds."""
    prefer(alice, "sound", True)
    with joined_user(room, "Bob", server) as bob:
        set_away(alice, away=True)
        bob.say("One", "Two")
        expect(alice).to_have_title(f"(2) #{room} · fastchat")
    assert alice.evaluate("window.played") == 1


def test_theme_is_stored_and_applied_before_the_first_paint(alice: Any) -> None:
    """A dark theme on a light system survives a reload, and the system's theme can be restored."""
    prefer(alice, "theme", "dark")
    colour = "getComputedStyle(document.body).colorScheme"
    assert alice.evaluate(colour) == "dark"
    alice.reload()
    alice.wait_for_selector("#people .person", state="attached")
    assert alice.evaluate(colour) == "dark"
    prefer(alice, "theme", "")
    assert alice.evaluate(colour) == "light dark"


def test_shortcuts_are_listed(alice: Any) -> None:
    """A question mark outside of fields, or Ctrl + / anywhere, lists the shortcuts."""
    alice.keyboard.press("Control+/")
    expect(alice.locator("#shortcuts dd").first).to_have_text("Send")
    alice.keyboard.press("Escape")
    expect(alice.locator("#shortcuts")).to_be_hidden()
    alice.focus("#log")
    alice.keyboard.press("?")
    expect(alice.locator("#shortcuts")).to_be_visible()


def test_alt_arrows_switch_rooms(alice: Any, server: Server, room: str) -> None:
    """Alt and an arrow switch rooms, and with Shift, only unread ones."""
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


def test_letters_go_to_the_composer(alice: Any) -> None:
    """A letter outside of fields goes to the composer; keys that press or scroll still do that."""
    say(alice, "one")
    text_in(alice, "one").click()
    alice.keyboard.type("Hm? a/b")
    expect(alice.locator("#composer")).to_have_value("Hm? a/b")
    alice.focus("#preferences-open")
    alice.keyboard.press(" ")
    expect(alice.locator("#preferences")).to_be_visible()
    alice.keyboard.press("x")
    expect(alice.locator("#composer")).to_have_value("Hm? a/b")


def test_question_mark_in_a_message_is_text(alice: Any) -> None:
    """Text in a field triggers no shortcut."""
    alice.focus("#composer")
    alice.keyboard.type("What? / Why?")
    expect(alice.locator("#composer")).to_have_value("What? / Why?")
    say(alice, "Well?")
    expect(text_in(alice, "Well?")).to_be_visible()
