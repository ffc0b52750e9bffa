"""The bar of a message, the picker of emoji, replies, and addresses of messages."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import expect

from support.browser import ScriptedServer, joined_user, publication, say, text_in
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
#: Styles that give the page's text the measures of other fonts, whichever font the machine has.
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
#: By how much there is too little room for the bar beside an own message, and its time, in pixels.
LACK_BESIDE = """(bar) => {
  const row = bar.closest(".message");
  const start = (element) => element.getBoundingClientRect().left;
  const taken = 16 + row.querySelector("time").offsetWidth + bar.offsetWidth;
  return taken - (start(bar.parentElement) - start(row));
}"""
SPARE_PX = 12
#: By how much the log is higher than a message and the bar.
SPARE = """(bar) => {
  const message = bar.closest(".message__content");
  const log = document.querySelector("#log");
  return Math.floor(log.clientHeight - message.offsetHeight - bar.offsetHeight);
}"""
#: The heights and widths that a finger or a pointer has for each of the bar's buttons and chips.
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


def said(page: Any, *texts: str) -> None:
    """Say one after the other, in a room where nothing was said before."""
    for offset, text in enumerate(texts, start=1):
        say(page, text)
        expect(row(page, offset)).to_have_count(1)


def pick(page: Any, button: str = "#emoji") -> None:
    """Open the picker, which has to be fetched first."""
    page.click(button)
    expect(page.get_by_label("Find an emoji")).to_be_focused()


def label(page: Any) -> str:
    """What has the focus."""
    found: str = page.evaluate(
        "() => document.activeElement.ariaLabel ?? document.activeElement.id"
    )
    return found


@pytest.fixture
def ann(visit: Any) -> Any:
    return visit("Ann", **WIDE)


@pytest.fixture
def walked(ann: Any) -> Any:
    """Ann, with the focus on a message of hers, by keyboard only."""
    said(ann, "one", "two")
    ann.keyboard.press("Shift+Tab")
    ann.keyboard.press("ArrowUp")
    expect(row(ann, 2)).to_be_focused()
    return ann


# The bar


def test_bar_is_one_stop_for_tab(walked: Any) -> None:
    """Tab goes in, arrows, Home and End go on, round and round; Tab leaves; Escape goes back."""
    keyboard = walked.keyboard
    keyboard.press("Tab")
    assert label(walked) == "React: thumbs up"
    keyboard.press("ArrowRight")
    assert label(walked) == "React: heart"
    keyboard.press("End")
    assert label(walked) == "Delete"
    keyboard.press("ArrowRight")
    assert label(walked) == "React: thumbs up"
    keyboard.press("ArrowLeft")
    keyboard.press("ArrowLeft")
    assert label(walked) == "Edit"
    keyboard.press("Escape")
    expect(row(walked, 2)).to_be_focused()
    keyboard.press("Tab")
    assert label(walked) == "Edit"
    keyboard.press("Home")
    assert label(walked) == "React: thumbs up"
    keyboard.press("Escape")
    expect(row(walked, 2)).to_be_focused()
    keyboard.press("Tab")
    keyboard.press("Tab")
    assert walked.evaluate("() => document.activeElement.closest('.message')") is None


def test_arrows_go_the_way_the_page_does(walked: Any) -> None:
    """From right to left the next button is on the left."""
    walked.evaluate("() => (document.dir = 'rtl')")
    walked.keyboard.press("Tab")
    walked.keyboard.press("ArrowLeft")
    assert label(walked) == "React: heart"
    walked.keyboard.press("ArrowRight")
    assert label(walked) == "React: thumbs up"


def test_keyboard_deletes_after_a_question(walked: Any) -> None:
    """The question begins with what does no harm; Escape takes it back, and Delete deletes."""
    keyboard = walked.keyboard
    keyboard.press("Tab")
    keyboard.press("End")
    keyboard.press("Enter")
    expect(walked.get_by_role("button", name="Keep")).to_be_focused()
    keyboard.press("Escape")
    assert label(walked) == "Delete"
    keyboard.press("Enter")
    keyboard.press("ArrowLeft")
    keyboard.press("Enter")
    expect(row(walked, 2).locator(".message__text")).to_have_text("This message was deleted")
    expect(row(walked, 2)).to_be_focused()


@pytest.mark.parametrize(
    ("options", "direction"),
    [
        (WIDE, "ltr"),
        (WIDE, "rtl"),
        (NARROW, "rtl"),
        (PHONE, "ltr"),
        (PHONE, "rtl"),
        (TABLET, "ltr"),
    ],
    ids=["wide", "wide-rtl", "narrow-rtl", "phone", "phone-rtl", "tablet"],
)
def test_bar_covers_nothing_that_is_read(
    visit: Any, server: Server, room: str, options: dict[str, Any], direction: str
) -> None:
    """It is beside, above or below its message's text, and whole, also at the log's edges."""
    ann = visit("Ann", **options)
    ann.evaluate("(direction) => (document.dir = direction)", direction)
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
    for offset in (*range(1, 8), 22):
        for block in ("center", "start", "end"):
            text = row(ann, offset).locator(".message__text")
            text.evaluate("(element, block) => element.scrollIntoView({ block })", block)
            show_bar(ann, text, touch="has_touch" in options)
            expect(row(ann, offset).locator(".actions")).to_be_visible()
            assert ann.evaluate(OVERLAPS) == 0, (offset, block)


@pytest.mark.parametrize("options", [NARROW, PHONE], ids=["narrow", "phone"])
def test_bar_finds_its_place_with_any_font(
    visit: Any, server: Server, room: str, options: dict[str, Any]
) -> None:
    """A log just high enough for a message and the bar shows all of both, wherever that was."""
    touch = "has_touch" in options
    ann = visit("Ann", **options)
    with joined_user(room, "Bob", server) as bob:
        bob.say(LONG, *(f"{line}" for line in range(14)))
        expect(row(ann, 15)).to_have_count(1)
    say(ann, LONG)
    expect(row(ann, 16)).to_have_count(1)
    with joined_user(room, "Bob", server) as bob:
        bob.say("😀😀", *(f"{line}" for line in range(14)))
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


def test_fingers_and_pointers_hit_what_they_mean(visit: Any, ann: Any) -> None:
    """Buttons and chips have 44 pixels for a finger, 24 for a pointer."""
    said(ann, "Cake")
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


def test_finger_sends_the_bar_away(visit: Any) -> None:
    """A second tap on the message does, and so does one beside it."""
    ann = visit("Ann", **PHONE)
    said(ann, "one", "two")
    text = row(ann, 2).locator(".message__text")
    text.tap()
    expect(row(ann, 2).locator(".actions")).to_be_visible()
    text.tap()
    expect(ann.locator(".actions")).to_have_count(0)
    text.tap()
    ann.locator("#composer").tap()
    expect(ann.locator(".actions")).to_have_count(0)


def test_finger_reads_what_a_pointer_hovers_over(visit: Any) -> None:
    """Resting on a chip tells who reacted, and presses nothing; the bar tells when it was said."""
    ann = visit("Ann", **PHONE)
    said(ann, "one", "two")
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


def test_pointer_and_keyboard_take_turns(walked: Any) -> None:
    """The bar goes with the mouse that is moved; the focus stays, and takes the bar back."""
    walked.keyboard.press("Tab")
    walked.mouse.move(500, 10)
    row(walked, 1).locator(".message__text").hover()
    expect(row(walked, 1).locator(".actions")).to_be_visible()
    expect(row(walked, 2)).to_be_focused()
    walked.keyboard.press("ArrowUp")
    walked.keyboard.press("ArrowDown")
    expect(row(walked, 2).locator(".actions")).to_be_visible()


def test_bar_stays_when_messages_move_under_the_pointer(ann: Any) -> None:
    """A mouse at rest calls no bar to what comes under it; one that leaves sends it away."""
    said(ann, *"abcdefghijklmnopqrstuvwxyz")
    row(ann, 20).hover()
    expect(row(ann, 20).locator(".actions")).to_be_visible()
    ann.mouse.wheel(0, -120)
    ann.wait_for_function("() => document.querySelector('.message:hover')?.dataset.offset !== '20'")
    expect(row(ann, 20).locator(".actions")).to_have_count(1)
    ann.locator("#room-name").hover()
    expect(ann.locator(".actions")).to_have_count(0)


def test_question_stays_under_the_pointer(ann: Any) -> None:
    """Where there is room beside the message for the question, though none for the whole bar."""
    ann.set_viewport_size({"width": 1180, "height": 800})
    said(ann, "above", "There is little room beside it.")
    row(ann, 2).hover()
    lack = ann.locator(".actions").evaluate(LACK_BESIDE)
    ann.set_viewport_size({"width": 1180 + round(lack) - 10, "height": 800})
    row(ann, 2).hover()
    ann.locator(".actions [data-do=ask]").click()
    expect(ann.locator(".actions--asking:hover")).to_have_count(1)
    ann.locator(".actions [data-do=remove]").click()
    expect(row(ann, 2)).to_contain_text("deleted")


# Replies


def answered(page: Any) -> Any:
    return page.locator("#composer-answer")


def reply_to(page: Any, offset: int) -> None:
    row(page, offset).hover()
    page.locator(".actions [data-do=reply]").click()


def test_reply_quotes_before_what_is_being_written(visit: Any, ann: Any) -> None:
    """What is answered stands above the draft, is quoted before it, and is where it leads back."""
    bob = visit("Bob")
    said(bob, "Who brings\nthe cake?", *(f"line {number}" for number in range(40)))
    expect(row(ann, 41)).to_have_count(1)
    ann.fill("#composer", "I do")
    reply_to(ann, 1)
    expect(answered(ann)).to_have_text("Replying to Bob Who brings the cake?")
    expect(ann.locator("#composer")).to_have_value("I do")
    expect(ann.locator("#composer")).to_be_focused()
    expect(ann.locator("#composer")).to_have_accessible_description(re.compile("to Bob Who"))
    ann.keyboard.type("!")
    ann.keyboard.press("Enter")
    for page in (ann, bob):
        expect(row(page, 42).locator("blockquote")).to_contain_text("Who brings")
        expect(row(page, 42).locator("p").last).to_have_text("I do!")
    expect(answered(ann)).to_be_hidden()
    expect(row(bob, 1)).not_to_be_in_viewport()
    row(bob, 42).get_by_role("button", name="Bob").click()
    expect(row(bob, 1)).to_be_in_viewport()
    expect(row(bob, 1)).to_be_focused()


def test_reply_ends_editing(ann: Any) -> None:
    """What was being edited stays as it was; the answer begins anew, and outlives a reload."""
    said(ann, "one", "two")
    ann.fill("#composer", "")
    ann.press("#composer", "ArrowUp")
    ann.fill("#composer", "two, changed")
    reply_to(ann, 1)
    expect(answered(ann)).to_contain_text("one")
    expect(ann.locator("#composer")).to_have_value("")
    expect(ann.locator(".composer__editing")).to_be_hidden()
    expect(ann.locator("#send")).to_be_disabled()
    ann.reload()
    expect(answered(ann)).to_contain_text("one")
    expect(ann.locator("#composer")).to_have_value("")
    expect(row(ann, 2).locator(".message__text")).to_have_text("two")


def test_reply_is_given_up_alone(ann: Any) -> None:
    """By its button, by Escape or for another message, and what was written stays."""
    said(ann, "one", "two")
    ann.fill("#composer", "yes")
    reply_to(ann, 1)
    reply_to(ann, 2)
    expect(answered(ann)).to_contain_text("two")
    ann.keyboard.press("Escape")
    expect(answered(ann)).to_be_hidden()
    expect(ann.locator("#composer")).to_have_value("yes")
    reply_to(ann, 1)
    ann.get_by_role("button", name="Cancel reply").click()
    expect(answered(ann)).to_be_hidden()
    expect(ann.locator("#composer")).to_be_focused()
    ann.keyboard.press("Enter")
    expect(row(ann, 3).locator(".message__text")).to_have_text("yes")


def test_long_answer_leaves_room_for_its_button(visit: Any) -> None:
    """However long a name and a text are, what is answered is one line in the composer."""
    ann = visit("A" + "w" * 31, viewport={"width": 320, "height": 600})
    said(ann, "wide " * 40)
    ann.locator(".message__text").click()
    ann.locator(".actions [data-do=reply]").click()
    field, button = (
        ann.locator(each).bounding_box() for each in ("#composer-form", "#composer-unquote")
    )
    assert field["x"] + field["width"] <= 320
    assert field["x"] < button["x"] < button["x"] + button["width"] < field["x"] + field["width"]
    assert answered(ann).bounding_box()["height"] < 48


def test_edited_reply_keeps_its_quote(ann: Any) -> None:
    """What it answers stands above the field, where it can be taken away; a reply begun waits."""
    said(ann, "one")
    reply_to(ann, 1)
    ann.keyboard.type("yes")
    ann.keyboard.press("Enter")
    expect(row(ann, 2).locator("blockquote")).to_contain_text("one")
    reply_to(ann, 2)
    ann.keyboard.press("ArrowUp")
    expect(ann.locator("#composer")).to_have_value("yes")
    expect(answered(ann)).to_contain_text("one")
    ann.keyboard.type(", indeed")
    ann.keyboard.press("Enter")
    expect(row(ann, 2).locator(".message__text > p")).to_have_text("yes, indeed")
    expect(row(ann, 2).locator("blockquote")).to_contain_text("one")
    expect(answered(ann)).to_contain_text("yes")
    ann.keyboard.press("Escape")
    ann.keyboard.press("ArrowUp")
    ann.get_by_role("button", name="Cancel reply").click()
    ann.keyboard.press("Enter")
    expect(row(ann, 2).locator("blockquote")).to_have_count(0)
    expect(row(ann, 2).locator(".message__text")).to_have_text("yes, indeed")


# Addresses of messages


def test_address_of_a_message_leads_to_it(visit: Any, server: Server, room: str) -> None:
    """Also to one that is far back, and for somebody new; then it is the room's address again."""
    ann = visit("Ann", permissions=["clipboard-read", "clipboard-write"])
    said(ann, "The cake recipe")
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


def test_address_of_no_message_leads_to_the_room(visit: Any, room: str, server: Server) -> None:
    """A number that no message has is said to be none that can be shown."""
    ann = visit("Ann", at=f"{room}/7")
    expect(ann.locator("#toast")).to_contain_text("cannot be shown")
    assert ann.url == f"{server.url}/#{room}"
    said(ann, "works")


# The picker


def test_picker_is_for_the_keyboard(walked: Any) -> None:
    """From the bar and back: search, arrows in two directions, names that can be read out."""
    keyboard = walked.keyboard
    keyboard.press("Tab")
    for _ in range(6):
        keyboard.press("ArrowRight")
    keyboard.press("Enter")
    expect(walked.get_by_label("Find an emoji")).to_be_focused()
    keyboard.press("ArrowDown")
    assert label(walked) == "grinning"
    keyboard.press("ArrowRight")
    assert label(walked) == "smiley"
    keyboard.press("ArrowDown")
    assert label(walked) == "slight smile"
    keyboard.press("ArrowLeft")
    assert label(walked) == "joy"
    keyboard.press("End")
    assert label(walked) == "innocent"
    keyboard.press("ArrowRight")
    assert label(walked) == "smiling hearts"
    keyboard.press("ArrowUp")
    keyboard.press("ArrowUp")
    keyboard.press("ArrowUp")
    expect(walked.get_by_label("Find an emoji")).to_be_focused()
    keyboard.press("ArrowDown")
    keyboard.type("rock")
    expect(walked.get_by_label("Find an emoji")).to_have_value("rock")
    keyboard.press("ArrowDown")
    keyboard.press("Enter")
    expect(walked.locator(".picker")).to_be_hidden()
    expect(row(walked, 2).locator(".reaction")).to_have_text("🚀1")
    assert label(walked) == "React with another emoji"


def test_picker_goes_the_way_the_page_does(ann: Any) -> None:
    """From right to left the next emoji is on the left."""
    ann.evaluate("() => (document.dir = 'rtl')")
    pick(ann)
    ann.keyboard.press("ArrowDown")
    ann.keyboard.press("ArrowLeft")
    assert label(ann) == "smiley"
    ann.keyboard.press("ArrowRight")
    assert label(ann) == "grinning"


def test_picker_begins_with_the_last_ones(ann: Any) -> None:
    """The newest first, each once, also after a reload; Escape picks nothing."""
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


def test_picked_emoji_comes_where_the_cursor_is(ann: Any) -> None:
    """In place of what is selected, and the field's own undo takes it back."""
    ann.fill("#composer", "Let us have cake today")
    ann.evaluate("() => document.querySelector('#composer').setSelectionRange(12, 16)")
    pick(ann)
    ann.get_by_label("Find an emoji").fill(":birthday:")
    ann.get_by_role("gridcell", name="birthday").click()
    expect(ann.locator("#composer")).to_have_value("Let us have 🎂 today")
    ann.keyboard.press("Control+z")
    expect(ann.locator("#composer")).to_have_value("Let us have cake today")


def test_button_of_the_picker_closes_it(ann: Any) -> None:
    """A second click does, and a third one opens it again."""
    ann.click("#emoji")
    expect(ann.locator(".picker")).to_be_visible()
    ann.click("#emoji")
    expect(ann.locator(".picker")).to_be_hidden()
    ann.wait_for_function(
        "(since) => performance.now() - since > 400", arg=ann.evaluate("performance.now()")
    )
    ann.click("#emoji")
    expect(ann.locator(".picker")).to_be_visible()


def test_picker_finds_nothing(ann: Any) -> None:
    """It says so; Enter then picks nothing."""
    pick(ann)
    ann.keyboard.type("zzzzzz")
    expect(ann.locator(".picker [role=status]")).to_have_text("Nothing found.")
    ann.keyboard.press("Enter")
    expect(ann.locator(".picker")).to_be_visible()
    ann.get_by_label("Find an emoji").fill("")
    expect(ann.locator(".picker [role=status]")).to_be_empty()


def test_picker_fits_a_phone(visit: Any) -> None:
    """At 320 pixels each emoji can be hit, and no keyboard comes up before somebody searches."""
    ann = visit("Ann", **PHONE)
    said(ann, "ok")
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
    said(ann, "one", "two", "three")
    row(ann, 1).hover()
    pick(ann, ".actions [data-do=pick]")
    row(ann, 3).locator(".message__text").hover(force=True)
    expect(row(ann, 1).locator(".actions")).to_be_visible()
    ann.keyboard.type("tada")
    ann.keyboard.press("Enter")
    expect(row(ann, 1).locator(".reaction")).to_have_text("🎉1")


def test_unreachable_picker_says_so(visit: Any) -> None:
    """What cannot be fetched is told, and the next click tries again."""
    ann = visit("Ann")
    ann.route("**/picker.js", lambda route: route.abort())
    ann.click("#emoji")
    expect(ann.locator("#toast")).to_contain_text("offline")
    expect(ann.locator(".picker")).to_have_count(0)
    said(ann, "works")


# Reactions


def test_reactions_end_with_one_more(ann: Any) -> None:
    """Where there are any, and nowhere else; it stays the last."""
    said(ann, "Cake")
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


def test_focus_stays_where_a_reaction_was(walked: Any) -> None:
    """Who takes the only reaction back by the keyboard is at the message then."""
    walked.keyboard.press("Tab")
    walked.keyboard.press("Enter")
    expect(row(walked, 2).locator(".reaction")).to_have_count(1)
    walked.keyboard.press("Shift+Tab")
    walked.keyboard.press("Shift+Tab")
    expect(row(walked, 2).locator(".reaction")).to_be_focused()
    walked.keyboard.press("Enter")
    expect(row(walked, 2).locator(".reaction")).to_have_count(0)
    expect(row(walked, 2)).to_be_focused()


def test_many_names_are_counted(visit: Any, script: ScriptedServer, room: str) -> None:
    """The first twenty are told, and how many there are besides."""
    script.offset = 1
    names = [f"N{number}" for number in range(25)]
    script.missed = [publication("plain", offset=1, room=room, reactions={"🎉": names})]
    chip = visit("Ann", script=script).locator(".reaction")
    told = ", ".join(names[:20])
    expect(chip).to_have_attribute("title", f"{told}, and 5 people")
    expect(chip).to_have_text("🎉25")
