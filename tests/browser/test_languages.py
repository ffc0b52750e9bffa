"""The page in Arabic, which runs from right to left."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from fastchat.errors import ErrorCode
from support.browser import ScriptedServer, Visit, joined_user, say, text_in
from support.server import Server

STATIC = Path(__file__).parent.parent.parent / "static"
ARABIC = "?lang=ar"
NARROW: dict[str, Any] = {"viewport": {"width": 320, "height": 640}}
#: An Arabic letter, or a digit as Egypt writes it.
ARABIC_LETTER = re.compile(r"[\u0621-\u064a]")
ARABIC_DIGIT = re.compile(r"[\u0660-\u0669]")

#: A declaration with a left or right, or with four sides of which these two differ.
SIDED = re.compile(r"(?:[{;]|^)\s*((?:[\w-]+-)?(?:left|right)(?:-[\w-]+)?|float):", re.MULTILINE)
ALIGNED = re.compile(r"(?:text-align|justify-\w+|float|clear): (?:left|right)\b")
FOUR_SIDES = re.compile(
    r"\b(?:margin|padding|inset|border-width): ([^\s;]+) ([^\s;]+) ([^\s;]+) ([^\s;]+);"
)
CORNERS = re.compile(r"border-radius: ([^;/]+);")
CALL = re.compile(r"[\w-]+\([^()]*\)")
COMMENT = re.compile(r"(?s)/\*.*?\*/")


def evaluate_words(page: Any, expression: str) -> Any:
    """Return the result of an expression in which `text` is the module of the page's words."""
    load = "const text = await import('/static/text/translation.js');"
    return page.evaluate(f"async () => {{ {load} return {expression}; }}")


def expect_language(page: Any, language: str, direction: str) -> None:
    expect(page.locator(f"html[lang|={language}][dir={direction}]")).to_have_count(1)


def choose(page: Any, language: str) -> None:
    page.click("#preferences-open")
    page.locator("#preferences [name=language]").select_option(language)


def box(locator: Any) -> Any:
    """Return the edges of an element in the window: left, right, top, bottom."""
    return locator.evaluate("(element) => element.getBoundingClientRect().toJSON()")


# The choice of the language


def test_first_paint_does_not_wait_for_the_words(visit: Visit) -> None:
    """The page is shown at once in the language's direction, and the words follow when they have
    arrived."""
    held: list[Any] = []
    page = visit()
    page.route("**/static/lang/ar.js", lambda route: held.append(route))
    page.goto(f"{page.url.partition('/#')[0]}/{ARABIC}", wait_until="commit")
    page.wait_for_selector("#composer")
    expect_language(page, "ar", "rtl")
    while not held:
        page.wait_for_timeout(20)
    expect(page.locator("#name-dialog")).to_be_hidden()
    held[0].continue_()
    expect(page.locator("#name-dialog")).to_be_visible()


def test_page_without_scripts_says_so(visit: Visit) -> None:
    """Without scripts the page shows that it needs them."""
    expect(visit(java_script_enabled=False).locator("noscript")).to_be_visible()


def test_browser_chooses_the_language(visit: Visit) -> None:
    """By default the page has the browser's language, with the dates and digits of its region."""
    page = visit("Ann", locale="ar-EG")
    expect_language(page, "ar", "rtl")
    expect(page.locator("#online-count")).to_have_text(re.compile("^١ "))
    say(page, "one")
    page.hover(".message[data-offset='1']")
    page.click(".actions [data-emoji]")
    expect(page.locator(".reaction b")).to_have_text("١")
    expect(page.locator(".message__time")).to_have_text(ARABIC_DIGIT)
    expect(page.locator(".message__time")).to_have_attribute("title", ARABIC_LETTER)


def test_number_of_unread_messages_is_in_the_reader_s_digits(
    visit: Visit, server: Server, room: str
) -> None:
    """The number of unread messages, beside a room and in the title, has the language's digits."""
    page = visit("Ann", locale="ar-EG")
    page.evaluate("name => { location.hash = name; }", f"{room}-other")
    expect(page.locator(".room-item")).to_have_count(2)
    with joined_user(room, "Bob", server) as bob:
        bob.say("one", "two", "three")
        expect(page.locator(".room-item .badge b >> visible=true")).to_have_text("٣")
    expect(page).to_have_title(re.compile(r"^\(٣\) "))


def test_chosen_language_is_remembered(visit: Visit) -> None:
    """A language chosen in the preferences is used at every visit, until another is chosen."""
    page = visit("Ann")
    expect_language(page, "en", "ltr")
    choose(page, "ar")
    expect_language(page, "ar", "rtl")
    expect(page.locator("#own-name")).to_have_text("Ann")
    page.reload()
    expect_language(page, "ar", "rtl")
    page.click("#preferences-open")
    expect(page.locator("#preferences [name=language]")).to_have_value("ar")
    expect(page.locator("#preferences-title")).to_have_text(ARABIC_LETTER)
    page.keyboard.press("Escape")
    choose(page, "en")
    expect_language(page, "en", "ltr")
    expect(page.locator("#preferences-title")).to_have_text("Preferences")


def test_address_chooses_the_language(visit: Visit) -> None:
    """The language in the address replaces an earlier choice, and a later choice replaces it."""
    page = visit("Ann", locale="en-GB")
    choose(page, "en")
    page.keyboard.press("Escape")
    where = page.url.partition("#")
    page.goto(f"{where[0]}{ARABIC}#{where[2]}")
    expect_language(page, "ar", "rtl")
    page.wait_for_selector("#people .person", state="attached")
    choose(page, "en")
    expect_language(page, "en", "ltr")
    assert page.url == "".join(where)


# The words


def test_every_plural_form_is_used(visit: Visit, server: Server, room: str) -> None:
    """One, two, a few, many and hundreds of messages each have their own form."""
    page = visit("Ann", query=ARABIC)
    found = evaluate_words(page, "[1, 2, 3, 11, 100].map((count) => text.t('hits', { count }))")
    assert found == ["رسالة واحدة", "رسالتان", "3 رسائل", "11 رسالة", "100 رسالة"]
    seconds = evaluate_words(page, "[1, 2, 5, 30].map((count) => text.t('tryingIn', { count }))")
    assert len({re.sub(r"\d+", "", each) for each in seconds}) == 4
    with joined_user(room, "Bob", server) as bob:
        bob.say("a word", "another word")
        expect(text_in(page, "another word")).to_have_count(1)
    page.click("#search-toggle")
    page.fill("#search-field", "word")
    expect(page.locator("#search-status")).to_have_text("رسالتان")


def test_document_is_translated_completely(visit: Visit, server: Server, room: str) -> None:
    """Each text and label of the document has words, and none of them is English."""
    page = visit("آن", query=ARABIC)
    with joined_user(room, "بدر", server) as bob:
        bob.say("مرحبا")
        say(page, "أهلا")
        expect(page.locator(".message--own[data-offset]")).to_have_count(1)
        page.hover(".message--own")
        page.click(".actions [data-do=pick]")
        expect(page.locator(".picker")).to_be_visible()
        page.keyboard.press("Escape")
        page.click("#preferences-open")
        page.click("#shortcuts-open")
        shown = page.evaluate(ALL_TEXTS)
    english = evaluate_words(page, "(await import('/static/lang/en.js')).words")
    forms = [each.values() if isinstance(each, dict) else [each] for each in english.values()]
    said = {text for each in forms for text in each}
    assert len(shown["texts"]) > 100
    assert shown["empty"] == []
    assert said & set(shown["texts"]) == set()
    own = re.compile(r"Enter|Shift|Tab|Esc|Ctrl|Alt|English|fastchat|lobby|\d|" + re.escape(room))
    foreign = {own.sub("", text) for text in shown["texts"]}
    # The names by which emoji are found.
    assert {text for text in foreign if re.search("[A-Za-z]{2}", text)} <= set(shown["emoji"])


ALL_TEXTS = """async () => {
  const texts = new Set(), empty = [];
  const emoji = [...document.querySelectorAll("[role=gridcell]")].map((cell) => cell.title);
  const walk = (root) => {
    for (const element of root.querySelectorAll("*")) {
      for (const name of ["aria-label", "title", "placeholder", "alt", "data-day", "data-fresh"]) {
        if (element.getAttribute(name)) texts.add(element.getAttribute(name));
      }
      const { t, tLabel, tTitle, tPlaceholder, tRoom } = element.dataset;
      const filled = [[t ?? tRoom, element.textContent], [tLabel, element.ariaLabel],
        [tTitle, element.title], [tPlaceholder, element.placeholder]];
      for (const [key, text] of filled) if (key && !text) empty.push(key);
      for (const node of element.childNodes) {
        if (node.nodeType === Node.TEXT_NODE && node.data.trim()) texts.add(node.data.trim());
      }
      if (element.matches("template")) walk(element.content);
    }
  };
  for (const each of document.querySelectorAll("style, script, noscript")) each.remove();
  walk(document);
  return { texts: [...texts], empty, emoji };
}"""


# Refusals by the server


def test_refused_name_is_explained_in_arabic(visit: Visit, script: ScriptedServer) -> None:
    """For a known code the page shows the language's own sentence in place of the server's."""
    script.refusal = {"code": "username_taken", "message": "It is taken.", "temporary": False}
    page = visit(script=script, query=ARABIC)
    page.fill("#name-input", "Ann")
    page.press("#name-input", "Enter")
    expect(page.locator("#name-error")).to_have_text(
        evaluate_words(page, "text.t('error_username_taken')")
    )
    expect(page.locator("#name-error")).to_have_text(ARABIC_LETTER)


def test_refusals_are_explained_in_arabic(visit: Visit, script: ScriptedServer) -> None:
    """A code with one meaning is explained in Arabic; a code with several also shows the server's
    reason."""
    page = visit("Ann", script=script, query=ARABIC)
    explained: dict[str, str] = {}
    for code in (each for each in ErrorCode if each != ErrorCode.RATE_LIMITED):
        say(page, f"Hello, {code}")
        expect(text_in(page, f"Hello, {code}")).to_have_count(1)
        sent = script.sent("message")[-1]
        assert sent["text"] == f"Hello, {code}"
        script.say(type="error", code=code, message="Because.", temporary=True, id=sent["id"])
        failed = page.locator(".message", has=text_in(page, f"Hello, {code}"))
        expect(failed.locator(".failure span"), code).to_have_text(ARABIC_LETTER)
        explained[code] = failed.locator(".failure span").text_content()
    # A refused message is sent again if its code is this one; another command is not.
    page.click("#search-toggle")
    page.fill("#search-field", "word")
    expect_sent(page, script, "search")
    ref = script.sent("search")[0]["ref"]
    code = ErrorCode.RATE_LIMITED
    script.say(type="error", code=code, message="Because.", temporary=True, ref=ref)
    expect(page.locator("#search-status"), code).to_have_text(ARABIC_LETTER)
    explained[code] = page.locator("#search-status").text_content()
    reasons = {ErrorCode.BAD_COMMAND, ErrorCode.FORBIDDEN, ErrorCode.UNAUTHORIZED}
    assert {code for code, text in explained.items() if "Because." in text} == reasons
    assert set(explained) == set(ErrorCode)


def expect_sent(page: Any, script: ScriptedServer, kind: str) -> None:
    while not script.sent(kind):
        page.wait_for_timeout(20)


@pytest.mark.parametrize(("query", "code"), [(ARABIC, "unheard_of"), ("", "not_found")])
def test_server_s_sentence_is_shown_for_unknown_codes(
    visit: Visit, script: ScriptedServer, query: str, code: str
) -> None:
    """The page shows the server's sentence always in English, and otherwise for unknown codes."""
    page = visit("Ann", script=script, query=query)
    say(page, "Hello")
    expect(page.locator(".message--pending")).to_have_count(1)
    (sent,) = script.sent("message")
    script.say(type="error", code=code, message="Because.", temporary=False, id=sent["id"])
    expect(page.locator(".failure span")).to_have_text("Because.")


# From right to left


def test_page_is_mirrored(visit: Visit, server: Server, room: str) -> None:
    """Rooms and others' messages are on the right, and users on the left."""
    page = visit("Ann", query=ARABIC, viewport={"width": 1280, "height": 800})
    with joined_user(room, "Bob", server) as bob:
        bob.say("مرحبا", "Hello")
        say(page, "أهلا")
        expect(page.locator(".message--own[data-offset]")).to_have_count(1)
    log, sidebar, people = (box(page.locator(each)) for each in ("#log", "#sidebar", "#panel"))
    assert people["right"] <= log["left"] < log["right"] <= sidebar["left"]
    theirs, own = box(text_in(page, "Hello")), box(text_in(page, "أهلا"))
    assert own["right"] < theirs["left"]
    avatar = box(page.locator(".message .avatar").first)
    assert theirs["right"] < avatar["left"] < theirs["right"] + 40
    # The corner of a bubble that points at its author.
    small = """(each) => Object.entries(getComputedStyle(each))
      .filter(([name, value]) => /^border\\w+(Left|Right)Radius$/.test(name) && value === "6px")
      .map(([name]) => name)"""
    assert text_in(page, "Hello").evaluate(small) == ["borderTopRightRadius"]
    assert text_in(page, "أهلا").evaluate(small) == ["borderTopLeftRadius"]


def test_names_stay_beside_their_icons(visit: Visit) -> None:
    """A Latin name stands beside its avatar, and the number sign before a room's name."""
    page = visit("Ann", query=ARABIC, viewport={"width": 1280, "height": 800})
    avatar = box(page.locator("#own .avatar"))
    assert 0 < avatar["left"] - text_box(page.locator("#own-name"))["right"] < 20
    link = page.locator(".room-item__link")
    assert 0 < box(link)["right"] - text_box(page.locator(".room-item__name"))["right"] < 20
    # The name runs from left to right, so that the number sign is on its left.
    for name in (page.locator("#room-name"), page.locator(".room-item__name")):
        assert name.evaluate("(element) => getComputedStyle(element).direction") == "ltr"


def text_box(locator: Any) -> Any:
    """Return the edges of an element's text, regardless of the element's own size."""
    return locator.evaluate(
        """(element) => {
      const range = document.createRange();
      range.selectNodeContents(element);
      return range.getBoundingClientRect().toJSON();
    }"""
    )


def test_time_does_not_cover_its_message(visit: Visit, server: Server, room: str) -> None:
    """The time of a message that continues a group is on the free side of its text."""
    page = visit("Ann", query=ARABIC, viewport={"width": 1280, "height": 800})
    with joined_user(room, "Bob", server) as bob:
        bob.say("مرحبا", "Hello")
        expect(text_in(page, "Hello")).to_be_visible()
    say(page, "أهلا")
    say(page, "mine")
    expect(page.locator(".message--own[data-offset]")).to_have_count(2)
    for text in ("Hello", "mine"):
        row = page.locator(".message--continued", has_text=text)
        row.hover()
        time, bubble = box(row.locator("time")), box(row.locator(".message__text"))
        beside = (
            time["left"] - bubble["right"] if text == "mine" else bubble["left"] - time["right"]
        )
        assert 0 <= beside < 20, text


def test_texts_keep_their_own_direction(visit: Visit, server: Server, room: str) -> None:
    """Each paragraph, quote and list follows the direction of its words, and code runs from left to
    right."""
    page = visit("Ann", query=ARABIC)
    text = "> اقتباس\n\n> quoted\n\nعربي\n\nEnglish\n\n- أول\n- second\n\n```\nx = [1]\n```"
    with joined_user(room, "Bob", server) as bob:
        bob.say(text)
        expect(page.locator(".message pre")).to_be_visible()
    direction = "(elements) => elements.map((each) => getComputedStyle(each).direction)"
    found = {
        tag: page.locator(f".message__text > {tag}").evaluate_all(direction)
        for tag in ("blockquote", "p", "ul", "pre")
    }
    assert (found["blockquote"], found["p"]) == (["rtl", "ltr"], ["rtl", "ltr"])
    assert (found["ul"], found["pre"]) == (["rtl"], ["ltr"])
    bars = """(elements) => elements.map((each) => getComputedStyle(each))
      .map((style) => parseFloat(style.borderRightWidth) > parseFloat(style.borderLeftWidth))"""
    assert page.locator(".message blockquote").evaluate_all(bars) == [True, False]
    # Both numbers stand at their markers.
    first, second = (text_box(item) for item in page.locator(".message__text li").all())
    assert abs(first["right"] - second["right"]) < 2


def test_file_card_reads_in_the_page_s_direction(visit: Visit, server: Server, room: str) -> None:
    """A file's card follows the page's direction, whatever the language of its name or message."""
    link = f"/files/{'a' * 32}/report.pdf?size=34567"
    arabic, english = visit("Ann", query=ARABIC), visit("Eve")
    with joined_user(room, "Bob", server) as bob:
        bob.say(link, f"التقرير {link}")
        for page, direction in ((arabic, "rtl"), (english, "ltr")):
            expect(page.locator(".file")).to_have_count(2)
            for card in page.locator(".file").all():
                expect(card).to_have_css("direction", direction)


def test_drawers_open_from_their_sides(visit: Visit) -> None:
    """On a narrow screen the rooms open from the right and the users from the left, inside the
    screen."""
    page = visit("Ann", query=ARABIC, **NARROW)
    for button, drawer, edge in (
        ("#rooms-toggle", "#sidebar", "right"),
        ("#people-toggle", "#panel", "left"),
    ):
        page.click(button)
        expect(page.locator(drawer)).to_be_in_viewport(ratio=1)
        at = box(page.locator(drawer))
        assert at["right"] == 320 if edge == "right" else at["left"] == 0
        page.locator(f"{drawer} [data-close]").click()
        expect(page.locator(drawer)).not_to_be_in_viewport()
    assert page.evaluate("document.documentElement.scrollWidth") == 320


def test_arrow_keys_move_in_their_visual_direction(visit: Visit) -> None:
    """In the action bar and in the picker, Arrow Left moves to the left."""
    page = visit("Ann", query=ARABIC)
    say(page, "one")
    expect(page.locator(".message[data-offset]")).to_have_count(1)
    page.press("#composer", "Shift+Tab")
    page.locator(".message").focus()
    page.keyboard.press("ArrowUp")
    page.locator(".actions button").first.focus()
    before = box(page.locator(":focus"))
    page.keyboard.press("ArrowLeft")
    assert box(page.locator(":focus"))["right"] <= before["left"]
    page.locator(".actions [data-do=pick]").click()
    expect(page.locator(".picker input")).to_be_focused()
    page.keyboard.press("ArrowDown")
    first = box(page.locator(":focus"))
    page.keyboard.press("ArrowLeft")
    assert box(page.locator(":focus"))["right"] <= first["left"] + 1


def test_empty_field_starts_on_the_right(visit: Visit) -> None:
    """The placeholder runs from the right, and text follows the direction of its own letters."""
    page = visit("Ann", query=ARABIC)
    field = page.locator("#composer")
    expect(field).to_have_css("direction", "rtl")
    field.fill("Hello")
    expect(field).to_have_css("direction", "ltr")
    field.fill("مرحبا")
    expect(field).to_have_css("direction", "rtl")


def test_shortcuts_are_not_mirrored(visit: Visit) -> None:
    """Shortcuts are shown as on a keyboard."""
    page = visit("Ann", query=ARABIC)
    page.click("#preferences-open")
    page.click("#shortcuts-open")
    for keys in page.locator("#shortcuts dt").all():
        expect(keys).to_have_css("direction", "ltr")


@pytest.mark.parametrize("sheet", sorted(STATIC.rglob("*.css")), ids=lambda sheet: sheet.name)
def test_styles_use_logical_sides_only(sheet: Path) -> None:
    """The style sheets have start and end, and not left and right, so that they suit both
    directions."""
    style = COMMENT.sub("", sheet.read_text("utf-8"))
    while CALL.search(style):
        style = CALL.sub("f", style)
    # The picker's place is computed in coordinates of the window.
    if sheet.name == "picker.css":
        style = style.replace("inset: 0 auto auto 0;", "")
    assert SIDED.findall(style) + ALIGNED.findall(style) == []
    assert [sides for sides in FOUR_SIDES.findall(style) if sides[1] != sides[3]] == []
    assert [
        corners for corners in CORNERS.findall(style) if not is_symmetric(corners.split())
    ] == []


def is_symmetric(corners: list[str]) -> bool:
    """Return whether one to four corners, listed clockwise from the top left, are the same on both
    sides."""
    first, second, third, fourth = (
        (corners * 4)[:4] if len(corners) != 3 else [*corners, corners[1]]
    )
    return first == second and third == fourth
