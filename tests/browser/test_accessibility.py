"""axe-core finds no violation, in each state of the page and each appearance.

A tour is a function that puts a page into one state after the other, and yields the state's name
and the page. Each state is examined on every screen in `SCREENS`, and there in every appearance in
`LOOKS`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from support.browser import (
    ScriptedServer,
    SocketUser,
    Visit,
    joined_user,
    people,
    publication,
    say,
    text_in,
)
from support.server import Server, wait_until

#: Rules that are off by default, beside those that axe runs (WCAG 2.1 A and AA, best practices).
MORE_RULES = ("css-orientation-lock", "label-content-name-mismatch", "target-size")
EVERY_RULE = {"rules": {rule: {"enabled": True} for rule in MORE_RULES}}
#: The rules that another appearance of the same document can break.
COLOUR_RULES = {"runOnly": ["color-contrast", "link-in-text-block"]}
LOOKS = {
    "light": ({"color_scheme": "light", "forced_colors": "none"}, EVERY_RULE),
    "dark": ({"color_scheme": "dark", "forced_colors": "none"}, COLOUR_RULES),
    "forced colours": ({"color_scheme": "dark", "forced_colors": "active"}, COLOUR_RULES),
}
SCREENS: dict[str, dict[str, Any]] = {
    "wide": {"viewport": {"width": 1280, "height": 840}},
    "narrow": {"viewport": {"width": 320, "height": 640}},
}
# Endless animations are not awaited.
SETTLED = """() => Promise.allSettled(document.getAnimations()
  .filter(({ effect }) => effect.getComputedTiming().endTime < Infinity)
  .map(({ finished }) => finished))"""
RUN = "async (options) => (await axe.run(options)).violations"
# axe takes the colour of a text from its fill. Forced colours apply to the fill, too, but Chromium
# reports the value without them. Unless a style sets the fill, it is the text's colour.
FILL_IS_COLOUR = """() => {
  const { prototype } = CSSStyleDeclaration, { getPropertyValue } = prototype;
  prototype.getPropertyValue = function (name) {
    return getPropertyValue.call(this, name === "-webkit-text-fill-color" ? "color" : name);
  };
}"""
TEXTS = [
    "Good morning!",
    "Read https://example.org/a?b=c and `make test`, it is *important*, @Ann",
    "> what you said\nand what I say",
    "```\nfor each in all:\n    print(each)\n```\n- one\n- two",
    "🎉",
    "שלום לכולם",
    "a-word-without-end" * 12,
]


class Scene:
    """The surroundings of a state: a room, its server and its users."""

    def __init__(
        self,
        visit: Visit,
        room: str,
        server: Server,
        stack: contextlib.ExitStack,
        query: str,
        **options: Any,
    ) -> None:
        self.room = room
        self._visit = visit
        self._server = server
        self._stack = stack
        self._options = {"reduced_motion": "reduce", **options}
        self._query = query

    @property
    def is_narrow(self) -> bool:
        return self._options["viewport"] == SCREENS["narrow"]["viewport"]

    def open(self, name: str | None = "Ann", **more: Any) -> Any:
        return self._visit(name, query=self._query, **self._options, **more)

    def join_user(self, name: str, room: str | None = None) -> SocketUser:
        return self._stack.enter_context(joined_user(room or self.room, name, self._server))

    def scripted(self, **fields: Any) -> Any:
        """Open the page in a room with a message and a reaction, whose `joined` has these
        fields."""
        reactions = {"🎉": people("Bob", "Zoe")}
        message = publication(
            "Hello", offset=1, room=self.room, username="Bob", reactions=reactions
        )
        script = ScriptedServer()
        script.rooms[self.room] = {"offset": 1, "missed": [message], **fields}
        return self.open(script=script)

    def busy(self) -> Any:
        """Open a room with all kinds of messages, the last one by the reader."""
        page = self.open()
        bob, zoe = self.join_user("Bob"), self.join_user("Zoë")
        bob.say(*TEXTS)
        expect(page.locator(".message")).to_have_count(len(TEXTS))
        bob.do(type="edit", offset=1, text="Good evening!")
        bob.do(type="react", offset=2, emoji="🎉")
        bob.do(type="delete", offset=5)
        zoe.do(type="typing")
        zoe.say("Me too")
        expect(text_in(page, "Me too")).to_have_count(1)
        say(page, "And I")
        expect(page.locator(".message--own[data-offset]")).to_have_count(1)
        bob.do(type="typing")
        expect(page.locator("#typing")).to_contain_text("Bob")
        return page


# The tours

States = Iterator[tuple[str, Any]]


def newcomer(scene: Scene) -> States:
    """The dialogs of a new user, an empty room, the preferences and the list of shortcuts."""
    page = scene.open(None)
    expect(page.locator("#name-dialog")).to_be_visible()
    yield "first visit", page
    page.press("#name-input", "Enter")
    expect(page.locator("#name-error")).not_to_be_empty()
    yield "refused name", page
    page.fill("#name-input", "Ann")
    page.press("#name-input", "Enter")
    expect(page.locator("#people .person")).to_have_count(1)
    expect(page.locator("#empty")).to_be_visible()
    yield "empty room", page
    if scene.is_narrow:
        page.click("#rooms-toggle")
    page.click("#preferences-open")
    expect(page.locator("#preferences")).to_be_visible()
    yield "preferences", page
    page.click("#shortcuts-open")
    expect(page.locator("#shortcuts")).to_be_visible()
    yield "shortcuts", page


def refused_token(scene: Scene) -> States:
    script = ScriptedServer()
    script.refusal = {"code": "unauthorized", "message": "Who are you?", "temporary": False}
    page = scene.open(None, script=script)
    page.fill("#name-input", "Ann")
    page.press("#name-input", "Enter")
    expect(page.locator("#token-dialog")).to_be_visible()
    yield "token asked for", page


def busy_room(scene: Scene) -> States:
    """All kinds of messages, and all that a user can do with them."""
    page = scene.busy()
    yield "busy room", page
    own = page.locator(".message--own")
    own.locator(".message__text").hover()
    own.locator("[data-do=ask]").click()
    expect(own.locator("[data-do=remove]")).to_be_visible()
    yield "message with actions and the confirmation before deleting", page
    page.keyboard.press("Escape")
    own.locator("[data-do=reply]").click()
    page.type("#composer", "@b")
    expect(page.locator("#suggestions")).to_be_visible()
    yield "suggestions of names while a reply is written", page
    page.fill("#composer", "")
    page.press("#composer", "Escape")
    expect(page.locator("#composer-answer")).to_be_hidden()
    page.mouse.move(0, 0)
    own.locator(".message__text").hover()
    own.locator(".actions [data-do=pick]").click()
    expect(page.locator(".picker")).to_be_visible()
    yield "emoji picker", page
    page.keyboard.press("Escape")
    page.click("#search-toggle")
    page.fill("#search-field", "evening")
    expect(page.locator("#results .result")).to_have_count(1)
    yield "search", page
    page.click("#search [data-close]")
    if scene.is_narrow:
        page.click("#people-toggle")
    expect(page.locator("#people .person").first).to_be_visible()
    yield "people", page
    page.reload()
    expect(page.locator(".message")).to_have_count(len(TEXTS) + 2)
    yield "busy room as it is read from the history", page
    page.press("#composer", "ArrowUp")
    expect(page.locator("#composer")).to_have_value("And I")
    scene.join_user("Cid").say(*(f"line {number}" for number in range(30)))
    expect(text_in(page, "line 29")).to_be_visible()
    page.hover("#log")
    page.mouse.wheel(0, -900)
    expect(text_in(page, "line 29")).not_to_be_in_viewport()
    scene.join_user("Dee").say("news")
    expect(page.locator("#new-messages")).to_have_text("1 new message")
    yield "log scrolled back, with new messages below, while a message is edited", page


def moderated_crowd(scene: Scene) -> States:
    """A crowd, which has no list of its users, and a message whose author can be removed."""
    page = scene.scripted(rights=["moderate", "read", "write"], users=None, online=1250)
    page.hover(".message")
    page.click(".action[data-do=expel]")
    expect(page.locator("#remove-dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".action[data-do=expel]")).to_be_focused()
    yield "moderated crowd", page


def read_only_room(scene: Scene) -> States:
    page = scene.scripted(rights=["read"])
    expect(page.locator("#read-only")).to_be_visible()
    page.hover(".message")
    yield "read-only room", page


def failed_message(scene: Scene) -> States:
    """One message can be sent again, and one is pending."""
    script = ScriptedServer()
    page = scene.open(script=script)
    say(page, "Not now")
    expect(page.locator(".message--pending")).to_have_count(1)
    (sent,) = script.sent("message")
    script.say(type="error", code="unavailable", message="Later.", temporary=True, id=sent["id"])
    expect(page.locator("[data-action=retry]")).to_be_visible()
    say(page, "On its way")
    page.fill("#composer", "m" * 4001)
    expect(page.locator("#send")).to_be_disabled()
    yield "failed message", page


def offline(scene: Scene) -> States:
    """The page long enough without its server that it says so."""
    script = ScriptedServer()
    page = scene.open(None, script=script)
    page.clock.install()
    page.fill("#name-input", "Ann")
    page.press("#name-input", "Enter")
    expect(page.locator("#composer")).to_be_focused()
    script.say(type="closing", code=1012, reason="restart", reconnect_after_ms=60_000)
    script.close(1012)
    wait_until(lambda: _a_second_later(page).locator("#try-now").is_visible())
    yield "offline", page


def _a_second_later(page: Any) -> Any:
    page.clock.run_for(1000)
    return page


def impossible_room(scene: Scene) -> States:
    page = scene.open(None, at="no such room!")
    expect(page.locator("#bad-room")).to_be_visible()
    yield "impossible room", page


def several_rooms(scene: Scene) -> States:
    """The list of rooms, with an unread message in another room."""
    page = scene.open(at=f"{scene.room}-more")
    page.evaluate("(room) => { location.hash = room }", scene.room)
    expect(page.locator("#room-name")).to_have_text(scene.room)
    scene.join_user("Bob", f"{scene.room}-more").say("Over here!", "@Ann, I mean you")
    if scene.is_narrow:
        page.click("#rooms-toggle")
    expect(page.locator("#rooms")).to_contain_text("2")
    yield "several rooms", page


TOURS: list[Callable[[Scene], States]] = [
    newcomer,
    refused_token,
    busy_room,
    moderated_crowd,
    read_only_room,
    failed_message,
    offline,
    impossible_room,
    several_rooms,
]
#: The states that mirroring changes most, by their tours.
MIRRORED: dict[Callable[[Scene], States], tuple[str, ...]] = {
    newcomer: ("first visit", "preferences"),
    busy_room: ("busy room", "search"),
    failed_message: ("failed message",),
    several_rooms: ("several rooms",),
}
ARABIC = Path(__file__).parent.parent.parent / "static" / "lang" / "ar.js"


@pytest.fixture
def scene(visit: Visit, room: str, server: Server, screen: str, query: str) -> Iterator[Scene]:
    with contextlib.ExitStack() as stack:
        yield Scene(visit, room, server, stack, query, **SCREENS[screen])


@pytest.fixture
def query() -> str:
    """Return the query of the address, which selects the language."""
    return ""


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("tour", TOURS, ids=lambda tour: tour.__name__)
def test_state_has_no_violation(scene: Scene, tour: Callable[[Scene], States]) -> None:
    """No state of the tour violates a rule of axe-core."""
    found = [line for state, page in tour(scene) for line in violations_in(state, page)]
    assert found == []


@pytest.mark.skipif(not ARABIC.exists(), reason="the page has no Arabic yet")
@pytest.mark.parametrize("query", ["?lang=ar"])
@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("tour", MIRRORED, ids=lambda tour: tour.__name__)
def test_state_has_no_violation_from_right_to_left(
    scene: Scene, tour: Callable[[Scene], States]
) -> None:
    """No state violates a rule in Arabic, where the page is mirrored and says so."""
    states = dict.fromkeys(MIRRORED[tour], False)
    found = []
    for state, page in tour(scene):
        if state in states:
            expect(page.locator("html")).to_have_attribute("dir", "rtl")
            expect(page.locator("html")).to_have_attribute("lang", "ar")
            found += violations_in(state, page)
            states[state] = True
        if all(states.values()):
            break
    assert found == []
    assert all(states.values()), states


def violations_in(state: str, page: Any) -> list[str]:
    """Return the violations in a state, in all appearances."""
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(Axe().axe_script)
    return [f"{state}: {line}" for look in LOOKS for line in violations(page, look)]


def violations(page: Any, look: str) -> list[str]:
    media, options = LOOKS[look]
    page.emulate_media(**media)
    if media["forced_colors"] == "active":
        page.evaluate(FILL_IS_COLOUR)
    page.evaluate(SETTLED)
    results = page.evaluate(RUN, {"resultTypes": ["violations"], **options})
    return [
        f"{look}: {violation['id']}: {' '.join(map(str, node['target']))}: {node['failureSummary']}"
        for violation in results
        for node in violation["nodes"]
    ]


@pytest.mark.parametrize("screen", ["wide"])
def test_axe_finds_a_low_contrast(scene: Scene) -> None:
    """axe-core finds a text with too little contrast in each appearance, so that a pass means
    something."""
    page = scene.open()
    expect(page.locator("#empty")).to_be_visible()
    page.evaluate(Axe().axe_script)
    page.evaluate(
        """() => {
      const { style } = document.querySelector("#empty h2");
      style.forcedColorAdjust = "none";
      style.color = "#777";
      style.backgroundColor = "#888";
    }"""
    )
    for look in LOOKS:
        assert [line for line in violations(page, look) if "color-contrast" in line], look
