"""The action bar of a message, the emoji picker, replies, and links to messages."""

from __future__ import annotations

import re
from itertools import product
from typing import Any

import pytest
from playwright.sync_api import expect

from support.browser import ScriptedServer, joined_user, people, publication, say, text_in
from support.server import Server

PHONE = {"viewport": {"width": 320, "height": 640}, "has_touch": True, "is_mobile": True}
TABLET = {**PHONE, "viewport": {"width": 820, "height": 1000}}
WIDE = {"viewport": {"width": 1280, "height": 800}}
NARROW = {"viewport": {"width": 400, "height": 700}}
LONG = "A long message, which leaves no room beside it, and goes over more than one line. " * 3
#: How far the bar reaches over the lines of its own message's text, and out of the log, in pixels.
OVERLAPS = """() => {
  const bar = document.querySelector(".actions");
  const message = bar.closest(".message");
  const range = document.createRange();
  range.selectNodeContents(message.querySelector(".message__text"));
  const box = bar.getBoundingClientRect();
  const log = document.querySelector("#log").getBoundingClientRect();
  const over = [...range.getClientRects()].map((line) => {
    const wide = Math.min(line.right, box.right) - Math.max(line.left, box.left);
    const high = Math.min(line.bottom, box.bottom) - Math.max(line.top, box.top);
    return Math.min(wide, high);
  });
  const out = [log.left - box.left, box.right - log.right, log.top - box.top,
    box.bottom - log.bottom];
  return Math.max(0, ...over, ...out);
}"""
#: Styles that give the page's text the metrics of other fonts, whichever fonts the machine has.
FONTS = {
    "its own": "",
    "wide": "letter-spacing: .09em",
    "large": "font-size: 1.375rem",
    "low lines": "line-height: 1.2",
    "high lines": "line-height: 1.8",
    "higher than its lines": "line-height: .7",
}
SET_FONT = """(style) => {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(`.message * { ${style} }`);
  document.adoptedStyleSheets = [sheet];
}"""
#: By how many pixels the room beside an own message is too small for the bar and the time.
LACK_BESIDE = """(bar) => {
  const row = bar.closest(".message");
  const start = (element) => element.getBoundingClientRect().left;
  const taken = 16 + row.querySelector("time").offsetWidth + bar.offsetWidth;
  return taken - (start(bar.parentElement) - start(row));
}"""
SPARE_PX = 12
#: By how many pixels the log is higher than a message and the bar.
SPARE = """(bar) => {
  const message = bar.closest(".message__content");
  const log = document.querySelector("#log");
  return Math.floor(log.clientHeight - message.offsetHeight - bar.offsetHeight);
}"""
#: The heights and widths of each button and chip of the bar that react to a finger or a pointer.
TARGETS = """() => [...document.querySelectorAll(".actions button, .reactions button")]
  .filter((button) => button.offsetParent)
  .map((button) => {
    const { left, right, top, bottom } = button.getBoundingClientRect();
    const [x, y] = [(left + right) / 2, (top + bottom) / 2];
    const hits = (dx, dy) => button.contains(document.elementFromPoint(x + dx, y + dy));
    const reach = (dx, dy) => {
      let steps = 0;
      while (steps < 40 && hits(dx * steps, dy * steps)) steps += 1;
      return steps;
    };
    return [reach(1, 0) + reach(-1, 0), reach(0, 1) + reach(0, -1)];
  })"""


def row(page: Any, offset: int) -> Any:
    return page.locator(f".message[data-offset='{offset}']")


def published(page: Any, *texts: str) -> None:
    """Publish texts one after the other, in a room without messages."""
    for offset, text in enumerate(texts, start=1):
        say(page, text)
        expect(row(page, offset)).to_have_count(1)


def pick(page: Any, button: str = "#emoji") -> None:
    """Open the picker, which the page has to fetch first."""
    page.click(button)
    expect(page.get_by_label("Find an emoji")).to_be_focused()


def focused_label(page: Any) -> str:
    """Return the label of the focused element."""
    found: str = page.evaluate(
        "() => document.activeElement.ariaLabel ?? document.activeElement.id"
    )
    return found


@pytest.fixture
def ann(visit: Any) -> Any:
    return visit("Ann", **WIDE)


@pytest.fixture
def ann_on_a_message(ann: Any) -> Any:
    """Ann's page, with the focus on a message of hers, reached by keyboard."""
    published(ann, "one", "two")
    ann.keyboard.press("Shift+Tab")
    ann.keyboard.press("ArrowUp")
    expect(row(ann, 2)).to_be_focused()
    return ann


# The bar


def test_bar_is_one_tab_stop(ann_on_a_message: Any) -> None:
    """Tab enters the bar, arrows, Home and End move within it and wrap around, Tab leaves it, and
    Escape goes back."""
    keyboard = ann_on_a_message.keyboard
    keyboard.press("Tab")
    assert focused_label(ann_on_a_message) == "React: thumbs up"
    keyboard.press("ArrowRight")
    assert focused_label(ann_on_a_message) == "React: heart"
    keyboard.press("End")
    assert focused_label(ann_on_a_message) == "Delete"
    keyboard.press("ArrowRight")
    assert focused_label(ann_on_a_message) == "React: thumbs up"
    keyboard.press("ArrowLeft")
    keyboard.press("ArrowLeft")
    assert focused_label(ann_on_a_message) == "Edit"
    keyboard.press("Escape")
    expect(row(ann_on_a_message, 2)).to_be_focused()
    keyboard.press("Tab")
    assert focused_label(ann_on_a_message) == "Edit"
    keyboard.press("Home")
    assert focused_label(ann_on_a_message) == "React: thumbs up"
    keyboard.press("Escape")
    expect(row(ann_on_a_message, 2)).to_be_focused()
    keyboard.press("Tab")
    keyboard.press("Tab")
    assert ann_on_a_message.evaluate("() => document.activeElement.closest('.message')") is None


def test_arrows_in_the_bar_follow_the_direction_of_the_page(ann_on_a_message: Any) -> None:
    """From right to left, Arrow Right moves to the button on the right, which is the one before."""
    ann_on_a_message.evaluate("() => (document.dir = 'rtl')")
    ann_on_a_message.keyboard.press("Tab")
    ann_on_a_message.keyboard.press("ArrowLeft")
    assert focused_label(ann_on_a_message) == "React: heart"
    ann_on_a_message.keyboard.press("ArrowRight")
    assert focused_label(ann_on_a_message) == "React: thumbs up"


def test_keyboard_deletes_after_a_confirmation(ann_on_a_message: Any) -> None:
    """The focus starts on the harmless button of the confirmation; Escape cancels it, and Delete
    deletes."""
    keyboard = ann_on_a_message.keyboard
    keyboard.press("Tab")
    keyboard.press("End")
    keyboard.press("Enter")
    expect(ann_on_a_message.get_by_role("button", name="Keep")).to_be_focused()
    keyboard.press("Escape")
    assert focused_label(ann_on_a_message) == "Delete"
    keyboard.press("Enter")
    keyboard.press("ArrowLeft")
    keyboard.press("Enter")
    expect(row(ann_on_a_message, 2).locator(".message__text")).to_have_text(
        "This message was deleted"
    )
    expect(row(ann_on_a_message, 2)).to_be_focused()


@pytest.mark.parametrize(
    "views",
    [
        [(WIDE, "ltr"), (WIDE, "rtl"), (NARROW, "rtl")],
        [(PHONE, "ltr"), (PHONE, "rtl"), (TABLET, "ltr")],
    ],
    ids=["mouse", "touch"],
)
def test_bar_covers_no_text_of_its_message(
    visit: Any, server: Server, room: str, views: list[tuple[dict[str, Any], str]]
) -> None:
    """The bar is beside, above or below its message's text, and whole, at the log's edges, too."""
    ann = visit("Ann", **views[0][0])
    with joined_user(room, "Bob", server) as bob:
        bob.say("first", "tiny", LONG, "and")
        expect(row(ann, 4)).to_have_count(1)
        for offset, text in enumerate(("mine", LONG, "so"), 5):
            say(ann, text)
            expect(row(ann, offset)).to_have_count(1)
        bob.say(*(f"{line}" for line in range(14)))
        expect(row(ann, 21)).to_have_count(1)
        say(ann, "the last")
        expect(row(ann, 22)).to_have_count(1)
    for options, direction in views:
        ann.set_viewport_size(options["viewport"])
        ann.evaluate("(direction) => (document.dir = direction)", direction)
        for offset, block in product((*range(1, 8), 22), ("center", "start", "end")):
            text = row(ann, offset).locator(".message__text")
            text.evaluate("(element, block) => element.scrollIntoView({ block })", block)
            show_bar(ann, text, touch="has_touch" in options)
            expect(row(ann, offset).locator(".actions")).to_be_visible()
            seen = (options["viewport"], direction, offset, block)
            assert ann.evaluate(OVERLAPS) == 0, seen


@pytest.mark.parametrize("options", [NARROW, PHONE], ids=["narrow", "phone"])
def test_bar_fits_with_any_font(
    visit: Any, server: Server, room: str, options: dict[str, Any]
) -> None:
    """A log just high enough for a message and the bar shows both whole, wherever the message
    was."""
    touch = "has_touch" in options
    ann = visit("Ann", **options)
    with joined_user(room, "Bob", server) as bob:
        bob.say(LONG, *(f"{line}" for line in range(14)))
        expect(row(ann, 15)).to_have_count(1)
    say(ann, LONG)
    expect(row(ann, 16)).to_have_count(1)
    with joined_user(room, "Cid", server) as cid:
        cid.say("😀😀", *(f"{line}" for line in range(14)))
        expect(row(ann, 31)).to_have_count(1)
    size = dict(options["viewport"])
    for font, style in FONTS.items():
        ann.evaluate(SET_FONT, style)
        for offset in (1, 16, 17):
            text = row(ann, offset).locator(".message__text")
            show_bar(ann, text, touch=touch)
            size["height"] += SPARE_PX - ann.locator(".actions").evaluate(SPARE)
            size["height"] = max(size["height"], 400)
            ann.set_viewport_size(size)
            for block in ("center", "start", "end"):
                text.evaluate("(element, block) => element.scrollIntoView({ block })", block)
                show_bar(ann, text, touch=touch)
                expect(row(ann, offset).locator(".actions")).to_be_visible()
                assert ann.evaluate(OVERLAPS) == 0, (font, offset, block)


def show_bar(page: Any, text: Any, *, touch: bool) -> None:
    if touch and page.locator(".actions").count():
        page.locator("#composer").tap()
    if touch:
        text.tap(position={"x": 10, "y": 10})
    else:
        page.mouse.move(0, 0)
        text.hover(position={"x": 10, "y": 10})


def test_buttons_are_large_enough(visit: Any, ann: Any) -> None:
    """Buttons and chips measure at least 44 pixels for a finger and 24 for a pointer."""
    published(ann, "Cake")
    row(ann, 1).hover()
    ann.get_by_label("React: party").click()
    expect(ann.locator(".reaction")).to_have_count(1)
    assert min(min(target) for target in ann.evaluate(TARGETS)) >= 24
    phone = visit("Bob", **PHONE)
    row(phone, 1).tap(position={"x": 60, "y": 40})
    expect(phone.locator(".actions")).to_be_visible()
    phone.evaluate("() => Promise.all(document.getAnimations().map(({ finished }) => finished))")
    targets = phone.evaluate(TARGETS)
    assert len(targets) == 9 + 2
    assert min(min(target) for target in targets) >= 44


def test_tap_closes_the_bar(visit: Any) -> None:
    """A second tap on the message closes the bar, and so does a tap beside it."""
    ann = visit("Ann", **PHONE)
    published(ann, "one", "two")
    text = row(ann, 2).locator(".message__text")
    text.tap()
    expect(row(ann, 2).locator(".actions")).to_be_visible()
    text.tap()
    expect(ann.locator(".actions")).to_have_count(0)
    text.tap()
    ann.locator("#composer").tap()
    expect(ann.locator(".actions")).to_have_count(0)


def test_long_press_shows_the_tooltips(visit: Any) -> None:
    """A long press on a chip shows who reacted and does not react; the bar shows the time of the
    message."""
    ann = visit("Ann", **PHONE)
    published(ann, "one", "two")
    text = row(ann, 2).locator(".message__text")
    text.tap()
    time = row(ann, 2).locator("time").text_content()
    bar = ann.locator(".actions")
    assert bar.evaluate("(bar) => getComputedStyle(bar, '::after').content") == f'"{time}"'
    bar.locator("[data-emoji='👍']").tap()
    chip = row(ann, 2).locator(".reaction")
    expect(chip).to_have_attribute("aria-pressed", "true")
    chip.dispatch_event("pointerdown", {"pointerType": "touch", "isPrimary": True})
    expect(ann.locator("#toast")).to_have_text("Ann")
    chip.dispatch_event("pointerup", {"pointerType": "touch", "isPrimary": True})
    chip.dispatch_event("click", {"pointerType": "touch"})
    expect(chip).to_have_attribute("aria-pressed", "true")
    chip.tap()
    expect(chip).to_have_count(0)


def test_bar_follows_pointer_or_focus(ann_on_a_message: Any) -> None:
    """The bar follows a mouse that moves, the focus stays, and the next key takes the bar back."""
    ann_on_a_message.keyboard.press("Tab")
    ann_on_a_message.mouse.move(500, 10)
    row(ann_on_a_message, 1).locator(".message__text").hover()
    expect(row(ann_on_a_message, 1).locator(".actions")).to_be_visible()
    expect(row(ann_on_a_message, 2)).to_be_focused()
    ann_on_a_message.keyboard.press("ArrowUp")
    ann_on_a_message.keyboard.press("ArrowDown")
    expect(row(ann_on_a_message, 2).locator(".actions")).to_be_visible()


def test_bar_ignores_messages_that_move_under_a_resting_pointer(ann: Any) -> None:
    """A message that moves under a resting mouse gets no bar; a mouse that leaves closes the
    bar."""
    published(ann, *"abcdefghijklmnopqrstuvwxyz")
    row(ann, 20).hover()
    expect(row(ann, 20).locator(".actions")).to_be_visible()
    ann.mouse.wheel(0, -120)
    ann.wait_for_function("() => document.querySelector('.message:hover')?.dataset.offset !== '20'")
    expect(row(ann, 20).locator(".actions")).to_have_count(1)
    ann.locator("#room-name").hover()
    expect(ann.locator(".actions")).to_have_count(0)


def test_confirmation_stays_under_the_pointer(ann: Any) -> None:
    """The confirmation stays beside the message if it fits there, although the whole bar does
    not."""
    ann.set_viewport_size({"width": 1180, "height": 800})
    published(ann, "above", "There is little room beside it.")
    row(ann, 2).hover()
    lack = ann.locator(".actions").evaluate(LACK_BESIDE)
    ann.set_viewport_size({"width": 1180 + round(lack) - 10, "height": 800})
    row(ann, 2).hover()
    ann.locator(".actions [data-do=ask]").click()
    expect(ann.locator(".actions--asking:hover")).to_have_count(1)
    ann.locator(".actions [data-do=remove]").click()
    expect(row(ann, 2)).to_contain_text("deleted")


# Replies


def quoted_message(page: Any) -> Any:
    return page.locator("#composer-answer")


def reply_to(page: Any, offset: int) -> None:
    row(page, offset).hover()
    page.locator(".actions [data-do=reply]").click()


def test_reply_quotes_above_the_draft(visit: Any, ann: Any) -> None:
    """The quoted message stands above the draft, precedes the text that is sent, and links back to
    its message."""
    bob = visit("Bob")
    published(bob, "Who brings\nthe cake?", *(f"line {number}" for number in range(40)))
    expect(row(ann, 41)).to_have_count(1)
    ann.fill("#composer", "I do")
    reply_to(ann, 1)
    expect(quoted_message(ann)).to_have_text("Replying to Bob Who brings the cake?")
    expect(ann.locator("#composer")).to_have_value("I do")
    expect(ann.locator("#composer")).to_be_focused()
    expect(ann.locator("#composer")).to_have_accessible_description(re.compile("to Bob Who"))
    ann.keyboard.type("!")
    ann.keyboard.press("Enter")
    for page in (ann, bob):
        expect(row(page, 42).locator("blockquote")).to_contain_text("Who brings")
        expect(row(page, 42).locator("p").last).to_have_text("I do!")
    expect(quoted_message(ann)).to_be_hidden()
    expect(row(bob, 1)).not_to_be_in_viewport()
    row(bob, 42).get_by_role("button", name="Bob").click()
    expect(row(bob, 1)).to_be_in_viewport()
    expect(row(bob, 1)).to_be_focused()


def test_reply_cancels_an_edit(ann: Any) -> None:
    """A reply leaves the edited message unchanged, starts with an empty field, and survives a
    reload."""
    published(ann, "one", "two")
    ann.fill("#composer", "")
    ann.press("#composer", "ArrowUp")
    ann.fill("#composer", "two, changed")
    reply_to(ann, 1)
    expect(quoted_message(ann)).to_contain_text("one")
    expect(ann.locator("#composer")).to_have_value("")
    expect(ann.locator(".composer__editing")).to_be_hidden()
    expect(ann.locator("#send")).to_be_disabled()
    ann.reload()
    expect(quoted_message(ann)).to_contain_text("one")
    expect(ann.locator("#composer")).to_have_value("")
    expect(row(ann, 2).locator(".message__text")).to_have_text("two")


def test_cancelled_reply_leaves_the_draft(ann: Any) -> None:
    """A reply can be cancelled by its button, by Escape or by another message, and the draft
    stays."""
    published(ann, "one", "two")
    ann.fill("#composer", "yes")
    reply_to(ann, 1)
    reply_to(ann, 2)
    expect(quoted_message(ann)).to_contain_text("two")
    ann.keyboard.press("Escape")
    expect(quoted_message(ann)).to_be_hidden()
    expect(ann.locator("#composer")).to_have_value("yes")
    reply_to(ann, 1)
    ann.get_by_role("button", name="Cancel reply").click()
    expect(quoted_message(ann)).to_be_hidden()
    expect(ann.locator("#composer")).to_be_focused()
    ann.keyboard.press("Enter")
    expect(row(ann, 3).locator(".message__text")).to_have_text("yes")


def test_long_quote_takes_one_line(visit: Any) -> None:
    """However long name and text are, the quoted message takes one line in the composer, and its
    button is visible."""
    ann = visit("A" + "w" * 31, viewport={"width": 320, "height": 600})
    published(ann, "wide " * 40)
    ann.locator(".message__text").click()
    ann.locator(".actions [data-do=reply]").click()
    field, button = (
        ann.locator(each).bounding_box() for each in ("#composer-form", "#composer-unquote")
    )
    assert field["x"] + field["width"] <= 320
    assert field["x"] < button["x"] < button["x"] + button["width"] < field["x"] + field["width"]
    assert quoted_message(ann).bounding_box()["height"] < 48


def test_edited_reply_keeps_its_quote(ann: Any) -> None:
    """The quote of an edited reply stands above the field and can be removed; a draft reply waits
    meanwhile."""
    published(ann, "one")
    reply_to(ann, 1)
    ann.keyboard.type("yes")
    ann.keyboard.press("Enter")
    expect(row(ann, 2).locator("blockquote")).to_contain_text("one")
    reply_to(ann, 2)
    ann.keyboard.press("ArrowUp")
    expect(ann.locator("#composer")).to_have_value("yes")
    expect(quoted_message(ann)).to_contain_text("one")
    ann.keyboard.type(", indeed")
    ann.keyboard.press("Enter")
    expect(row(ann, 2).locator(".message__text > p")).to_have_text("yes, indeed")
    expect(row(ann, 2).locator("blockquote")).to_contain_text("one")
    expect(quoted_message(ann)).to_contain_text("yes")
    ann.keyboard.press("Escape")
    ann.keyboard.press("ArrowUp")
    ann.get_by_role("button", name="Cancel reply").click()
    ann.keyboard.press("Enter")
    expect(row(ann, 2).locator("blockquote")).to_have_count(0)
    expect(row(ann, 2).locator(".message__text")).to_have_text("yes, indeed")


# Links to messages


def test_link_to_a_message_shows_it(visit: Any, server: Server, room: str) -> None:
    """A link shows its message, even far back and for a new user; then the address is the room's
    again."""
    ann = visit("Ann", permissions=["clipboard-read", "clipboard-write"])
    published(ann, "The cake recipe")
    with joined_user(room, "Bob", server) as bob:
        bob.say(*(f"line {number}" for number in range(120)))
        expect(text_in(ann, "line 119")).to_have_count(1)
        ann.evaluate("() => (document.querySelector('#log').scrollTop = 0)")
        row(ann, 1).hover()
        ann.get_by_label("Copy link to message").click()
        expect(ann.locator("#toast")).to_contain_text("Link to message copied")
        address = ann.evaluate("() => navigator.clipboard.readText()")
        assert address == f"{server.url}/#{room}/1"
        cid = visit(at=f"{room}/1")
        cid.fill("#name-input", "Cid")
        cid.press("#name-input", "Enter")
        expect(row(cid, 1)).to_be_in_viewport()
        expect(row(cid, 1)).to_be_focused()
        assert cid.url == f"{server.url}/#{room}"
        cid.click("#new-messages")
        expect(text_in(cid, "line 119")).to_be_in_viewport()
        cid.evaluate("(hash) => { location.hash = hash }", f"{room}/3")
        expect(row(cid, 3)).to_be_in_viewport()


def test_link_to_a_missing_message_shows_the_room(visit: Any, room: str, server: Server) -> None:
    """A link with a number that no message has shows the room and says so."""
    ann = visit("Ann", at=f"{room}/7")
    expect(ann.locator("#toast")).to_contain_text("cannot be shown")
    assert ann.url == f"{server.url}/#{room}"
    published(ann, "works")


# The picker


def test_picker_works_by_keyboard(ann_on_a_message: Any) -> None:
    """The keyboard opens the picker from the bar, searches, moves in two directions over named
    emoji, and returns."""
    keyboard = ann_on_a_message.keyboard
    keyboard.press("Tab")
    for _ in range(6):
        keyboard.press("ArrowRight")
    keyboard.press("Enter")
    expect(ann_on_a_message.get_by_label("Find an emoji")).to_be_focused()
    keyboard.press("ArrowDown")
    assert focused_label(ann_on_a_message) == "grinning"
    keyboard.press("ArrowRight")
    assert focused_label(ann_on_a_message) == "smiley"
    keyboard.press("ArrowDown")
    assert focused_label(ann_on_a_message) == "slight smile"
    keyboard.press("ArrowLeft")
    assert focused_label(ann_on_a_message) == "joy"
    keyboard.press("End")
    assert focused_label(ann_on_a_message) == "innocent"
    keyboard.press("ArrowRight")
    assert focused_label(ann_on_a_message) == "smiling hearts"
    keyboard.press("ArrowUp")
    keyboard.press("ArrowUp")
    keyboard.press("ArrowUp")
    expect(ann_on_a_message.get_by_label("Find an emoji")).to_be_focused()
    keyboard.press("ArrowDown")
    keyboard.type("rock")
    expect(ann_on_a_message.get_by_label("Find an emoji")).to_have_value("rock")
    keyboard.press("ArrowDown")
    keyboard.press("Enter")
    expect(ann_on_a_message.locator(".picker")).to_be_hidden()
    expect(row(ann_on_a_message, 2).locator(".reaction")).to_have_text("🚀1")
    assert focused_label(ann_on_a_message) == "React with another emoji"


def test_arrows_in_the_picker_follow_the_direction_of_the_page(ann: Any) -> None:
    """From right to left, Arrow Left moves to the next emoji."""
    ann.evaluate("() => (document.dir = 'rtl')")
    pick(ann)
    ann.keyboard.press("ArrowDown")
    ann.keyboard.press("ArrowLeft")
    assert focused_label(ann) == "smiley"
    ann.keyboard.press("ArrowRight")
    assert focused_label(ann) == "grinning"


def test_picker_starts_with_recent_emoji(ann: Any) -> None:
    """Recent emoji are listed newest first and once each, after a reload, too; Escape picks
    none."""
    for typed in ("rocket", "tada", "rocket"):
        pick(ann)
        ann.keyboard.type(typed)
        ann.keyboard.press("Enter")
        expect(ann.locator("#composer")).to_be_focused()
    expect(ann.locator("#composer")).to_have_value("🚀🎉🚀")
    ann.reload()
    expect(ann.locator("#people .person")).to_have_count(1)
    pick(ann)
    recent = ann.get_by_role("rowgroup", name="Recent")
    expect(recent.get_by_role("gridcell")).to_have_text(["🚀", "🎉"])
    ann.keyboard.press("Escape")
    expect(ann.locator(".picker")).to_be_hidden()
    expect(ann.locator("#emoji")).to_be_focused()
    expect(ann.locator("#composer")).to_have_value("🚀🎉🚀")


def test_picked_emoji_replaces_the_selection(ann: Any) -> None:
    """A picked emoji replaces the selection at the cursor, and the field's own undo reverts it."""
    ann.fill("#composer", "Let us have cake today")
    ann.evaluate("() => document.querySelector('#composer').setSelectionRange(12, 16)")
    pick(ann)
    ann.get_by_label("Find an emoji").fill(":birthday:")
    ann.get_by_role("gridcell", name="birthday").click()
    expect(ann.locator("#composer")).to_have_value("Let us have 🎂 today")
    ann.keyboard.press("Control+z")
    expect(ann.locator("#composer")).to_have_value("Let us have cake today")


def test_picker_button_toggles_the_picker(ann: Any) -> None:
    """A second click on the button closes the picker, and a third opens it."""
    ann.click("#emoji")
    expect(ann.locator(".picker")).to_be_visible()
    ann.click("#emoji")
    expect(ann.locator(".picker")).to_be_hidden()
    ann.wait_for_function(
        "(since) => performance.now() - since > 400", arg=ann.evaluate("performance.now()")
    )
    ann.click("#emoji")
    expect(ann.locator(".picker")).to_be_visible()


def test_picker_without_a_hit_says_so(ann: Any) -> None:
    """If no emoji matches, the picker says so, and Enter picks none."""
    pick(ann)
    ann.keyboard.type("zzzzzz")
    expect(ann.locator(".picker [role=status]")).to_have_text("Nothing found.")
    ann.keyboard.press("Enter")
    expect(ann.locator(".picker")).to_be_visible()
    ann.get_by_label("Find an emoji").fill("")
    expect(ann.locator(".picker [role=status]")).to_be_empty()


def test_picker_fits_a_narrow_screen(visit: Any) -> None:
    """At 320 pixels each emoji can be hit, and the phone's keyboard stays closed until the user
    searches."""
    ann = visit("Ann", **PHONE)
    published(ann, "ok")
    row(ann, 1).locator(".message__text").tap()
    ann.locator(".actions [data-do=pick]").tap()
    expect(ann.get_by_role("gridcell", name="grinning")).to_be_focused()
    for cell in ann.get_by_role("gridcell").all()[:14]:
        box = cell.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 320
        assert min(box["width"], box["height"]) >= 44
    ann.get_by_role("gridcell", name="smiley").tap()
    expect(ann.locator(".reaction")).to_have_text("😃1")


def test_bar_waits_for_the_picker(ann: Any) -> None:
    """While an emoji is picked the bar stays at its message, wherever the pointer is."""
    published(ann, "one", "two", "three")
    row(ann, 1).hover()
    pick(ann, ".actions [data-do=pick]")
    row(ann, 3).locator(".message__text").hover(force=True)
    expect(row(ann, 1).locator(".actions")).to_be_visible()
    ann.keyboard.type("tada")
    ann.keyboard.press("Enter")
    expect(row(ann, 1).locator(".reaction")).to_have_text("🎉1")


def test_unreachable_picker_is_explained_and_retried(visit: Any) -> None:
    """If the picker cannot be fetched, the page says so, and the next click tries again."""
    ann = visit("Ann")
    ann.route("**/picker.js", lambda route: route.abort())
    ann.click("#emoji")
    expect(ann.locator("#toast")).to_contain_text("offline")
    expect(ann.locator(".picker")).to_have_count(0)
    published(ann, "works")


# Reactions


def test_button_to_react_follows_the_last_reaction(ann: Any) -> None:
    """A message with reactions ends with a button for another one, and other messages have none."""
    published(ann, "Cake")
    row(ann, 1).hover()
    expect(ann.locator(".react-more")).to_be_hidden()
    ann.get_by_label("React: party").click()
    pick(ann, ".react-more")
    ann.keyboard.type("birthday")
    ann.keyboard.press("Enter")
    expect(ann.locator(".reaction")).to_have_text(["🎉1", "🎂1"])
    expect(ann.locator(".reactions button").last).to_have_class("react-more")
    for emoji in ("🎉", "🎂"):
        ann.locator(f".reaction[data-emoji='{emoji}']").click()
    expect(ann.locator(".reaction")).to_have_count(0)
    expect(ann.locator(".react-more")).to_be_hidden()


def test_focus_moves_to_the_message_of_a_removed_reaction(ann_on_a_message: Any) -> None:
    """If the only reaction is removed by keyboard, the focus moves to its message."""
    ann_on_a_message.keyboard.press("Tab")
    ann_on_a_message.keyboard.press("Enter")
    expect(row(ann_on_a_message, 2).locator(".reaction")).to_have_count(1)
    ann_on_a_message.keyboard.press("Shift+Tab")
    ann_on_a_message.keyboard.press("Shift+Tab")
    expect(row(ann_on_a_message, 2).locator(".reaction")).to_be_focused()
    ann_on_a_message.keyboard.press("Enter")
    expect(row(ann_on_a_message, 2).locator(".reaction")).to_have_count(0)
    expect(row(ann_on_a_message, 2)).to_be_focused()


def test_names_of_a_reaction_are_limited(visit: Any, script: ScriptedServer, room: str) -> None:
    """A reaction names the first twenty users, and counts the others."""
    script.offset = 1
    names = [f"N{number}" for number in range(25)]
    script.missed = [publication("plain", offset=1, room=room, reactions={"🎉": people(*names)})]
    chip = visit("Ann", script=script).locator(".reaction")
    first_names = ", ".join(names[:20])
    expect(chip).to_have_attribute("title", f"{first_names}, and 5 people")
    expect(chip).to_have_text("🎉25")
