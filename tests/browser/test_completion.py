"""The suggestions of emoji, users and rooms while a message is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from support.browser import HOSTILE, joined_user, say, text_in
from support.server import Server

Visit = Any

PRELUDE = 'const { emojiOf, find, groups } = await import("/static/compose/emoji.js");'


@pytest.fixture
def ask(blank: Any) -> Any:
    """Run the body of a function beside the module of emoji, and return its result."""
    return lambda body: blank.evaluate(f"async () => {{ {PRELUDE} {body} }}")


@pytest.fixture
def page(visit: Visit, room: str, server: Server) -> Iterator[Any]:
    """Ann's page, in a room with Bob, Bobby Lee and Zoë."""
    with (
        joined_user(room, "Bob", server),
        joined_user(room, "Bobby Lee", server),
        joined_user(room, "Zoë", server),
    ):
        yield visit("Ann")


def write(page: Any, text: str) -> None:
    page.focus("#composer")
    page.keyboard.type(text)


def options(page: Any) -> Any:
    return page.get_by_role("option")


def chosen(page: Any) -> Any:
    return page.locator("[role=option][aria-selected=true]")


def field(page: Any) -> Any:
    return page.locator("#composer")


def test_every_entry_is_one_emoji(ask: Any) -> None:
    """Each entry of the table is one emoji of Unicode, with names that no other entry has."""
    names, wrong, count = ask("""
      const all = groups.flatMap(({ emoji }) => emoji);
      return [all.map(({ name }) => name),
        all.filter(({ emoji }) => !new RegExp("^\\\\p{RGI_Emoji}$", "v").test(emoji)),
        new Set(all.map(({ emoji }) => emoji)).size];
    """)
    assert wrong == []
    assert len(names) == len(set(names)) == count > 200


@pytest.mark.parametrize(
    ("letters", "first"),
    [
        ("hea", "heart"),
        ("THUMBSUP", "thumbsup"),
        ("+1", "+1"),
        ("eyes", "eyes"),
        ("party", "party"),
    ],
)
def test_shortest_matching_name_is_first(ask: Any, letters: str, first: str) -> None:
    """The shortest name that starts with the letters is first, then the names that contain them."""
    names = ask(f'return find("{letters}").map(({{ name }}) => name)')
    assert names[0] == first
    assert all(letters.lower() in name for name in names)


def test_emoji_with_several_matching_names_is_suggested_once(ask: Any) -> None:
    """An emoji with several names that match is one suggestion."""
    assert ask('return find("thumbs").map(({ emoji }) => emoji)') == ["👍", "👎"]


def test_only_complete_names_are_emoji(ask: Any) -> None:
    """A part of a name, or an attribute of JavaScript objects, is not an emoji."""
    assert ask(
        'return [emojiOf("heart"), emojiOf("hear") ?? null, emojiOf("constructor") ?? null]'
    ) == [
        "❤️",
        None,
        None,
    ]


def test_emoji_are_fetched_on_demand(page: Any) -> None:
    """The first load of the page does not include the table of emoji."""
    fetched: list[str] = []
    page.on("request", lambda request: fetched.append(request.url.rsplit("/")[-1]))
    loaded = 'performance.getEntriesByType("resource").map(({ name }) => name.split("/").at(-1))'
    write(page, "at 10:30 :e")
    expect(options(page)).to_have_count(0)
    assert "completion.js" in page.evaluate(loaded)
    assert "emoji.js" not in page.evaluate(loaded)
    write(page, "y")
    expect(chosen(page)).to_have_text("👀:eyes:")
    assert fetched == ["emoji.js"]


def test_enter_takes_the_suggestion_and_then_sends(page: Any) -> None:
    """Enter inserts the chosen suggestion; once the list is closed, Enter sends."""
    write(page, "look :rock")
    expect(chosen(page)).to_have_text("🚀:rocket:")
    page.keyboard.press("Enter")
    expect(field(page)).to_have_value("look 🚀")
    expect(options(page)).to_have_count(0)
    page.keyboard.press("Enter")
    expect(text_in(page, "look 🚀")).to_be_visible()
    expect(field(page)).to_have_value("")


def test_arrows_choose_and_tab_takes(page: Any) -> None:
    """The arrows move around the list, the field points to the active option, and Tab takes it."""
    write(page, "hi @b")
    expect(options(page)).to_have_text(["BBob", "BBobby Lee"])
    for key, name in [
        ("ArrowDown", "BBobby Lee"),
        ("ArrowDown", "BBob"),
        ("ArrowUp", "BBobby Lee"),
    ]:
        page.keyboard.press(key)
        expect(chosen(page)).to_have_text(name)
        active = field(page).get_attribute("aria-activedescendant")
        expect(page.locator(f"#{active}")).to_have_text(name)
    page.keyboard.press("Tab")
    expect(field(page)).to_have_value("hi @Bobby Lee ")
    expect(field(page)).to_be_focused()
    assert field(page).get_attribute("aria-activedescendant") is None


def test_users_are_found_by_each_word_of_their_names(page: Any) -> None:
    """A user is found by each word of the name, in any case, and by text with a space."""
    for typed, found in [("@", 3), ("l", 1), ("e", 1)]:
        write(page, typed)
        expect(options(page)).to_have_count(found)
    expect(options(page)).to_have_text(["BBobby Lee"])
    field(page).fill("")
    write(page, "@BOBBY L")
    expect(options(page)).to_have_text(["BBobby Lee"])
    expect(chosen(page)).to_have_count(0)


def test_recent_authors_are_suggested_first(page: Any, room: str, server: Server) -> None:
    """Recent authors are suggested before other users, and also after they have left."""
    with joined_user(room, "Yan", server) as yan:
        yan.say("hello")
        expect(text_in(page, "hello")).to_be_visible()
    write(page, "@")
    expect(options(page)).to_have_text(["YYan", "BBob", "BBobby Lee", "ZZoë"])


def test_enter_sends_a_complete_name(page: Any) -> None:
    """After a complete name Enter sends, even though a longer name is suggested."""
    write(page, "@bob")
    expect(options(page)).to_have_count(2)
    expect(chosen(page)).to_have_count(0)
    page.keyboard.press("Enter")
    expect(page.locator(".message .mention")).to_have_text("@bob")
    expect(options(page)).to_have_count(0)


def test_rooms_are_suggested(page: Any, room: str) -> None:
    """After a number sign the reader's rooms are suggested."""
    write(page, f"see #{room[:3]}")
    expect(chosen(page)).to_have_text(f"#{room}")
    page.keyboard.press("Enter")
    expect(field(page)).to_have_value(f"see #{room} ")


def test_escape_closes_only_the_list(page: Any) -> None:
    """Escape closes the list for this word and does not cancel the edit; a new word has a new
    list."""
    say(page, "first")
    expect(text_in(page, "first")).to_be_visible()
    page.keyboard.press("ArrowUp")
    expect(field(page)).to_have_value("first")
    write(page, " @")
    expect(options(page)).to_have_count(3)
    page.keyboard.press("Escape")
    expect(options(page)).to_have_count(0)
    expect(page.locator("#composer-form")).to_have_class("composer composer--editing")
    write(page, "z")
    expect(field(page)).to_have_value("first @z")
    expect(options(page)).to_have_count(0)
    write(page, " @z")
    expect(options(page)).to_have_count(1)
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    expect(page.locator("#composer-form")).to_have_class("composer")


def test_click_takes_a_suggestion_and_keeps_the_focus(page: Any) -> None:
    """A click inserts the suggestion at the cursor, and the field keeps the focus."""
    write(page, "to , now")
    for _ in ", now":
        page.keyboard.press("ArrowLeft")
    write(page, "@z")
    options(page).click()
    expect(field(page)).to_have_value("to @Zoë , now")
    expect(field(page)).to_be_focused()
    write(page, "x")
    expect(field(page)).to_have_value("to @Zoë x, now")


def test_name_adds_no_second_space(page: Any) -> None:
    """A name adds a space only if none follows."""
    write(page, "to  now")
    for _ in " now":
        page.keyboard.press("ArrowLeft")
    write(page, "@z")
    page.keyboard.press("Enter")
    expect(field(page)).to_have_value("to @Zoë now")


def test_undo_reverts_a_suggestion(page: Any) -> None:
    """An inserted suggestion is one step of undo."""
    write(page, "hi @zo")
    expect(options(page)).to_have_count(1)
    page.keyboard.press("Enter")
    expect(field(page)).to_have_value("hi @Zoë ")
    page.keyboard.press("Control+z")
    expect(field(page)).to_have_value("hi @zo")


def test_list_closes_when_the_cursor_leaves(page: Any) -> None:
    """The list closes when the field loses the focus, or the cursor leaves the word."""
    write(page, "hi @")
    expect(options(page)).to_have_count(3)
    page.keyboard.press("Home")
    expect(options(page)).to_have_count(0)
    page.keyboard.press("End")
    write(page, "z")
    expect(options(page)).to_have_count(1)
    page.focus("#log")
    expect(options(page)).to_have_count(0)


def test_keys_work_as_usual_without_suggestions(page: Any) -> None:
    """Inside words and after unknown names there are no suggestions, and Shift+Enter breaks the
    line."""
    write(page, "a@b c:de #B @nobody")
    expect(options(page)).to_have_count(0)
    write(page, " @z")
    expect(options(page)).to_have_count(1)
    page.keyboard.press("Shift+Enter")
    expect(field(page)).to_have_value("a@b c:de #B @nobody @z\n")
    expect(options(page)).to_have_count(0)


def test_emoji_name_between_colons_is_replaced(page: Any) -> None:
    """A name between colons becomes its emoji, an unknown name stays, and undo restores the
    text."""
    write(page, ":tada:")
    expect(field(page)).to_have_value("🎉")
    write(page, " :nothing: 10:100: :+1:")
    expect(field(page)).to_have_value("🎉 :nothing: 10:100: 👍")
    page.keyboard.press("Control+z")
    expect(field(page)).to_have_value("🎉 :nothing: 10:100: :+1:")


def test_input_method_suppresses_suggestions(page: Any) -> None:
    """While an input method composes there are no suggestions, and they appear once it has
    finished."""
    write(page, "@")
    expect(options(page)).to_have_count(3)
    devtools = page.context.new_cdp_session(page)
    devtools.send("Input.imeSetComposition", {"text": "z", "selectionStart": 1, "selectionEnd": 1})
    expect(field(page)).to_have_value("@z")
    expect(options(page)).to_have_count(0)
    devtools.send("Input.insertText", {"text": "z"})
    expect(options(page)).to_have_text(["ZZoë"])


def test_phone_keyboard_gets_suggestions_while_composing(
    visit: Visit, room: str, server: Server
) -> None:
    """A phone's keyboard composes every word, so suggestions appear all the same."""
    with joined_user(room, "Zoë", server):
        page = visit("Ann", has_touch=True, is_mobile=True, viewport={"width": 390, "height": 800})
        page.focus("#composer")
        devtools = page.context.new_cdp_session(page)
        devtools.send(
            "Input.imeSetComposition", {"text": "@z", "selectionStart": 2, "selectionEnd": 2}
        )
        options(page).tap()
        expect(field(page)).to_have_value("@Zoë ")
        expect(field(page)).to_be_focused()


def test_suggestions_stay_on_the_page(visit: Visit, room: str, server: Server) -> None:
    """The list is above the field and within the smallest screen."""
    with joined_user(room, "W" * 32, server):
        page = visit("Ann", viewport={"width": 320, "height": 480})
        write(page, "@")
        expect(options(page)).to_have_count(1)
        listbox, composer = page.locator("#suggestions").bounding_box(), field(page).bounding_box()
        assert listbox["x"] >= 0
        assert listbox["x"] + listbox["width"] <= 320
        assert 0 <= listbox["y"] < listbox["y"] + listbox["height"] <= composer["y"]


def test_missing_emoji_table_does_not_block_sending(visit: Visit) -> None:
    """If the table cannot be fetched, nothing is suggested, and the text is sent as written."""
    page = visit("Ann")
    page.route("**/emoji.js", lambda route: route.abort())
    with page.expect_event("requestfailed"):
        write(page, ":ta")
    write(page, "da:")
    page.keyboard.press("Enter")
    expect(text_in(page, ":tada:")).to_be_visible()


def test_hostile_names_stay_text(visit: Visit, room: str, server: Server) -> None:
    """Markup in a name is text in a suggestion and in the field."""
    hostile = [text for text in HOSTILE if len(text) <= 32 and text.isprintable()]
    assert len(hostile) >= 8
    page = visit("Ann")
    for number, name in enumerate(hostile):
        here = f"{room}-{number}"
        with joined_user(here, name, server):
            page.evaluate("(room) => { location.hash = room }", here)
            expect(page.locator("#people")).to_contain_text(name)
            write(page, "@")
            expect(options(page).locator("bdi"), name).to_have_text(name)
            assert options(page).locator("*").count() == 2, name
            page.keyboard.press("Enter")
            expect(field(page), name).to_have_value(f"@{name} ")
            # Until something is deleted, the place of a taken name has no suggestions.
            page.keyboard.press("Backspace")
