"""The page in scripts other than Latin: rooms, mentions, suggestions and keys."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import expect

from fastchat.errors import CommandError
from fastchat.protocol.names import check_room
from support.browser import Visit, joined_user
from support.server import Server

PRELUDE = """
const { mentions, nodesOf } = await import("/static/text/markup.js");
const context = { self: "Ann", names: ["Bob", "张三", "김철수", "田中", "Оля", "สมชาย", "Ann Lee"],
  rooms: ["厨房", "kitchen", "кухня", "일반"] };
const html = (text) => {
  const element = document.createElement("div");
  element.append(...nodesOf(text, context));
  return element.innerHTML.replaceAll(' dir="auto"', "");
};
"""


@pytest.fixture
def html(blank: Any) -> Any:
    """Return the HTML of a text, without the `dir` of its blocks."""
    return lambda text: blank.evaluate(f"async (text) => {{ {PRELUDE} return html(text) }}", text)


def mention(name: str) -> str:
    of_self = " mention--self" if name == "Ann" else ""
    return f'<bdi class="mention{of_self}">@{name}</bdi>'


def to(name: str, key: str | None = None) -> str:
    """The link to a room, as a text names it."""
    address = quote(key or name.casefold(), safe="")
    return f'<a class="room-link" href="#{address}">#{name}</a>'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("你好@张三", f"你好{mention('张三')}"),
        ("你好@张三你好", f"你好{mention('张三')}你好"),
        ("你好＠张三，", f"你好{mention('张三')}，"),
        ("@김철수님 안녕", f"{mention('김철수')}님 안녕"),
        ("안녕@김철수가", f"안녕{mention('김철수')}가"),
        ("@田中さんへ", f"{mention('田中')}さんへ"),
        ("คุณ@สมชายครับ", f"คุณ{mention('สมชาย')}ครับ"),
        ("你好@Bob在吗", f"你好{mention('Bob')}在吗"),
        ("@Ann님", f"{mention('Ann')}님"),
        ("@张三ok", f"{mention('张三')}ok"),
        ("@Bobby", "@Bobby"),
        ("@Оляна", "@Оляна"),
        ("привет@Оля", "привет@Оля"),
        ("me@Bob", "me@Bob"),
        ("@张四", "@张四"),
        # Rooms
        ("去#厨房", f"去{to('厨房')}"),
        ("去#厨房吧", f"去{to('厨房')}吧"),
        ("去＃厨房。", f"去{to('厨房')}。"),
        ("去#kitchen吧", f"去{to('kitchen')}吧"),
        ("去#garden吧", f"去{to('garden')}吧"),
        ("去#花园", f"去{to('花园')}"),
        ("#일반에서", f"{to('일반')}에서"),
        ("#Кухня, #мы", f"{to('Кухня')}, {to('мы')}"),
        ("#кухняя", to("кухняя")),
        ("#مطبخ.", f"{to('مطبخ')}."),
        ("#Straße", to("Straße", "strasse")),
        ("#café-süd", to("café-süd")),
        ("#kitchen-2", to("kitchen-2")),
        ("#3月", to("3月")),
        ("#Kitchen", "#Kitchen"),
        ("#٣", "#٣"),
        ("#42", "#42"),
        ("a#кухня", "a#кухня"),
        ("#кухня#", "#кухня#"),
        ("#" + "й" * 65, "#" + "й" * 65),
        # Emphasis before a Korean particle
        ("**중요**합니다", "<strong>중요</strong>합니다"),
    ],
)
def test_names_end_where_people_read_their_end(html: Any, text: str, expected: str) -> None:
    """In scripts without spaces, a name can stand within a text, and particles can follow it."""
    assert html(text) == f"<p>{expected}</p>"


def test_mention_within_a_text_counts(blank: Any) -> None:
    """A mention of the reader next to other letters is one."""
    body = """async ([text, self]) => (await import("/static/text/markup.js"))
      .mentions(text, { self, names: [], rooms: [] })"""
    assert blank.evaluate(body, ["你好＠张三你好", "张三"])
    assert blank.evaluate(body, ["@김철수님", "김철수"])
    assert not blank.evaluate(body, ["@Оляна", "Оля"])


def test_page_and_server_make_the_same_keys_of_rooms(blank: Any) -> None:
    """Each letter that a name can have gives the same key on the page and on the server."""
    keys: dict[str, str] = {}
    for code in range(0x80, 0x20000):
        name = f"a{chr(code)}"
        try:
            keys[name] = check_room(name)
        except CommandError:
            continue
    for name in ("Straße", "ΟΔΌΣ", "İzmir", "cafe\u0301", "ᏣᎳᎩ", "ᾼ"):
        keys[name] = check_room(name)
    assert len(keys) > 30_000
    body = """async (names) => {
      const { isRoom, keyOf } = await import("/static/text/room-address.js");
      return names.map((name) => [keyOf(name), isRoom(keyOf(name))]);
    }"""
    made = blank.evaluate(body, list(keys))
    different = {
        name: key
        for (name, expected), (key, valid) in zip(keys.items(), made, strict=True)
        if key != expected or not valid
    }
    assert different == {}


@pytest.mark.parametrize(
    "name", ["a b", "a/b", "é!", "😀", "\u0301a", "й" * 65, "\U00020000" * 49, "\u3164", "é\u200b"]
)
def test_page_refuses_what_the_server_refuses(blank: Any, name: str) -> None:
    """The page says at once that a room cannot have a name."""
    with pytest.raises(CommandError):
        check_room(name)
    body = """async (name) => {
      const { isRoom, keyOf } = await import("/static/text/room-address.js");
      return isRoom(keyOf(name));
    }"""
    assert blank.evaluate(body, name) is False


@pytest.mark.parametrize("name", ["Кухня", "厨房", "مطبخ"])
def test_room_of_another_script_works_like_any_other(visit: Visit, room: str, name: str) -> None:
    """It is created, written to, linked, kept by a reload with its draft, and in addresses."""
    name = f"{name}-{room}"
    key = check_room(name)
    page = visit("Ann")
    page.fill("#room-field", name)
    page.press("#room-field", "Enter")
    expect(page.locator("#room-name")).to_have_text(key)
    page.fill("#composer", f"hello #{key}")
    page.press("#composer", "Enter")
    expect(page.locator(".message a.room-link")).to_have_text(f"#{key}")
    page.fill("#composer", "a draft")
    page.reload()
    expect(page.locator("#room-name")).to_have_text(key)
    expect(page.locator("#composer")).to_have_value("a draft")
    expect(page.locator(".message a.room-link")).to_have_attribute("href", f"#{quote(key)}")
    other = visit("Bob", at=quote(name))
    expect(other.locator("#room-name")).to_have_text(key)
    expect(other.locator(".message")).to_have_count(1)
    other.evaluate("(name) => { location.hash = name }", f"#{key}/1")
    expect(other.locator("#toast")).not_to_contain_text("not a valid")


def test_room_that_looks_like_another_is_explained(visit: Visit, room: str) -> None:
    """The page shows why the server refuses to create a room."""
    page = visit("Ann")
    page.fill("#room-field", room.replace("o", "о"))
    page.press("#room-field", "Enter")
    expect(page.locator("body")).to_contain_text("looks like the name of another room")


def test_names_are_suggested_within_a_text(visit: Visit, room: str, server: Server) -> None:
    """Suggestions appear next to letters of scripts without spaces, and for names in any script."""
    kitchens = [f"厨房-{room}", f"кухня-{room}"]
    with joined_user(room, "张三", server):
        page = visit("Ann")
        for kitchen in (*kitchens, room):
            page.fill("#room-field", kitchen)
            page.press("#room-field", "Enter")
            expect(page.locator("#room-name")).to_have_text(kitchen)
        expect(page.locator("#people .person")).to_have_count(2)
        option = page.locator("[role=option][aria-selected=true]")
        for typed, shown, result in (
            ("你好@张", "张三", "你好@张三 "),
            ("你好＠张", "张三", "你好@张三 "),
            ("안녕@张", "张三", "안녕@张三 "),
            ("去#厨", kitchens[0], f"去#{kitchens[0]} "),
            ("＃Ку", kitchens[1], f"#{kitchens[1]} "),
            ("太好了:tad", ":tada:", "太好了🎉"),
        ):
            page.fill("#composer", "")
            page.focus("#composer")
            page.keyboard.type(typed)
            expect(option).to_contain_text(shown)
            page.keyboard.press("Enter")
            expect(page.locator("#composer")).to_have_value(result)
        page.fill("#composer", "")
        page.keyboard.type("привет@张")
        expect(page.get_by_role("option")).to_have_count(0)


PRESS = """([target, init]) => document.querySelector(target).dispatchEvent(
  new KeyboardEvent("keydown", { bubbles: true, cancelable: true, ...init }))"""


SEARCH, SHORTCUTS = "#search-field", "#shortcuts"


def test_shortcuts_work_on_keyboards_of_other_scripts(visit: Visit) -> None:
    """If a key has no Latin letter, its place on the keyboard decides."""
    page = visit("Ann")
    for keys, opens in (
        ({"key": "л", "code": "KeyK", "ctrlKey": True}, SEARCH),  # Russian
        ({"key": "ن", "code": "KeyK", "ctrlKey": True}, SEARCH),  # Arabic
        ({"key": "ל", "code": "KeyK", "ctrlKey": True}, SEARCH),  # Hebrew
        ({"key": "κ", "code": "KeyK", "metaKey": True}, SEARCH),  # Greek
        ({"key": ".", "code": "Slash"}, SEARCH),  # Russian
        ({"key": "ظ", "code": "Slash"}, SEARCH),  # Arabic
        ({"key": "/", "code": "KeyQ"}, SEARCH),  # Hebrew
        ({"key": "/", "code": "Backslash", "shiftKey": True}, SEARCH),  # Russian
        ({"key": ",", "code": "Slash", "shiftKey": True}, SHORTCUTS),  # Russian
        ({"key": "؟", "code": "Slash", "shiftKey": True}, SHORTCUTS),  # Arabic
        ({"key": ".", "code": "Slash", "ctrlKey": True}, SHORTCUTS),  # Russian
        ({"key": "ظ", "code": "Slash", "ctrlKey": True}, SHORTCUTS),  # Arabic
    ):
        page.evaluate(PRESS, ["#log", keys])
        expect(page.locator(opens), f"{keys}").to_be_visible()
        expect(page.locator(SHORTCUTS if opens == SEARCH else SEARCH), f"{keys}").to_be_hidden()
        page.keyboard.press("Escape")
        expect(page.locator(opens), "after Escape").to_be_hidden()


def test_other_keys_open_nothing(visit: Visit) -> None:
    """A Latin letter decides by itself, and signs of other keyboards stay what they are."""
    page = visit("Ann")
    for keys in (
        {"key": "t", "code": "KeyK", "ctrlKey": True},  # Dvorak
        {"key": "-", "code": "Slash"},  # German
        {"key": "л", "code": "KeyK"},
        {"key": "z", "code": "Slash"},  # Dvorak
    ):
        page.evaluate(PRESS, ["#log", keys])
        expect(page.locator(SEARCH), f"{keys}").to_be_hidden()
        page.evaluate(PRESS, ["#log", {"key": "k", "code": "KeyV", "ctrlKey": True}])
        expect(page.locator(SEARCH), f"{keys}").to_be_visible()
        expect(page.locator(SHORTCUTS), f"{keys}").to_be_hidden()
        page.keyboard.press("Escape")
        expect(page.locator(SEARCH), "after Escape").to_be_hidden()


def test_full_stop_stays_one_on_a_latin_keyboard(visit: Visit) -> None:
    """The key with the slash has a full stop on Turkish keyboards, which write Latin letters."""
    page = visit("Ann")
    page.evaluate(PRESS, ["#composer", {"key": "ş", "code": "Semicolon"}])
    page.evaluate(PRESS, ["#log", {"key": ".", "code": "Slash"}])
    expect(page.locator("#search-field")).to_be_hidden()
    page.evaluate(PRESS, ["#composer", {"key": "я", "code": "KeyZ"}])
    page.evaluate(PRESS, ["#log", {"key": ".", "code": "Slash"}])
    expect(page.locator("#search-field")).to_be_visible()
