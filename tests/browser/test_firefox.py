"""The page in Firefox: the most frequent actions, and those that differ most between browsers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.browser import joined_user
from support.firefox import FIREFOX, Firefox, Tab, running_firefox
from support.server import Server, running_server

TEXTS = ".message[data-offset] .message__text"
FOCUSED = "(id) => document.activeElement?.id === id"
SHOWN = "(selector, text) => document.querySelector(selector)?.textContent.includes(text)"
ALL_SHOWN = """(selector, texts) => JSON.stringify(texts) === JSON.stringify(
  [...document.querySelectorAll(selector)].map((each) => each.innerText.trim()))"""
PLACE = """() => {
  const log = document.getElementById("log");
  const [above, below] = [log.scrollTop, log.scrollHeight - log.scrollTop - log.clientHeight];
  const top = log.getBoundingClientRect().top;
  const row = [...log.querySelectorAll(".message__text")]
    .find((each) => each.getBoundingClientRect().top > top);
  return { above, below, text: row?.textContent, top: row?.getBoundingClientRect().top };
}"""
#: An `online` event ends the pause before the next attempt to reconnect.
WAKE_UNTIL_SENT = """() => {
  dispatchEvent(new Event("online"));
  return !document.querySelector(".message--pending");
}"""
#: The messages on Firefox's console about a server that is down.
UNREACHABLE = "can’t establish a connection to the server at ws://"

Visit = Callable[..., Tab]


@pytest.fixture(scope="module")
def firefox() -> Iterator[Firefox]:
    if FIREFOX is None:
        pytest.skip("Firefox is not installed")
    with running_firefox() as firefox:
        yield firefox


@pytest.fixture
def visit(firefox: Firefox, server: Server, room: str) -> Iterator[Visit]:
    """Return a function that opens the page as a new user. At the end, check that no console holds
    an error."""
    tabs = []

    def visit(name: str | None = None, *, url: str | None = None, query: str = "") -> Tab:
        tab = firefox.open(f"{url or server.url}/{query}#{room}")
        tabs.append(tab)
        if name is not None:
            tab.wait_for(FOCUSED, "name-input")
            tab.type(name)
            tab.press("Enter")
            tab.wait_for(SHOWN, "#people .person__name", name)
        return tab

    yield visit
    # An answer arrives after all events that were reported before it.
    for tab in tabs:
        tab.evaluate("() => new Promise(requestAnimationFrame)")
        tab.close()
    errors = firefox.errors.copy()
    firefox.errors.clear()
    assert errors == []


def write(tab: Tab, text: str) -> None:
    tab.click("#composer")
    tab.type(text)
    tab.press("Enter")


def test_two_people_talk(visit: Visit) -> None:
    """Two windows see each other's messages, with line breaks and emoji, each once."""
    ann, bob = visit("Ann"), visit("Bob")
    ann.wait_for(SHOWN, "#log", "Bob joined")
    ann.wait_for(FOCUSED, "composer")
    ann.type("Hello,")
    ann.press("Shift+Enter")
    ann.type("Bob 👋")
    ann.press("Enter")
    bob.wait_for(ALL_SHOWN, TEXTS, ["Hello,\nBob 👋"])
    write(bob, "Good morning")
    for tab in (ann, bob):
        tab.wait_for(ALL_SHOWN, TEXTS, ["Hello,\nBob 👋", "Good morning"])
    assert ann.texts(".message--pending") == []
    assert ann.evaluate("() => document.getElementById('composer').value") == ""


def test_arrow_up_edits_the_last_message(visit: Visit, server: Server, room: str) -> None:
    """Arrow Up brings the last own message back, and Enter changes it for all users."""
    ann, bob = visit("Ann"), visit("Bob")
    write(ann, "Helo")
    ann.wait_for(ALL_SHOWN, TEXTS, ["Helo"])
    ann.press("ArrowUp")
    ann.wait_for("() => document.getElementById('composer').value === 'Helo'")
    ann.press("End", "Backspace")
    ann.type("lo")
    ann.press("Enter")
    for tab in (ann, bob):
        tab.wait_for(ALL_SHOWN, TEXTS, ["Hello"])
        tab.wait_for(SHOWN, ".message__edited:not([hidden])", "edited")


def test_reload_keeps_history_and_name(visit: Visit, server: Server, room: str) -> None:
    """After a reload the user has the same name and sees the end of the same messages."""
    with joined_user(room, "Bob", server) as bob:
        lines = [f"line {number}" for number in range(40)]
        bob.say(*lines)
        ann = visit("Ann")
        ann.wait_for(ALL_SHOWN, TEXTS, lines)
        ann.reload()
        ann.wait_for(ALL_SHOWN, TEXTS, lines)
        ann.wait_for(SHOWN, "#own-name", "Ann")
        assert ann.evaluate(PLACE)["below"] <= 1
        assert not ann.evaluate("() => document.getElementById('name-dialog').open")


def test_scroll_stays_where_the_reader_is(visit: Visit, server: Server, room: str) -> None:
    """While a reader looks back, messages and changes above do not move the text, and the pill
    leads to the end."""
    with joined_user(room, "Bob", server) as bob:
        bob.say(*(f"line {number}" for number in range(200)))
        ann = visit("Ann")
        ann.wait_for(SHOWN, "#log", "line 199")
        ann.wheel("#log", -900)
        ann.wait_for(f"() => ({PLACE})().below > 500")
        ann.evaluate("() => new Promise(requestAnimationFrame)")
        before = ann.evaluate(PLACE)
        bob.do(type="edit", offset=160, text="much longer now\n" * 5)
        bob.do(type="react", offset=161, emoji="👍")
        bob.say("news", "more news")
        ann.wait_for(SHOWN, "#new-messages:not([hidden])", "2 new messages")
        after = ann.evaluate(PLACE)
        assert after["text"] == before["text"]
        assert after["top"] == pytest.approx(before["top"], abs=0.5)
        ann.click("#new-messages")
        ann.wait_for(f"() => ({PLACE})().below <= 1")
        bob.say("the latest")
        ann.wait_for(SHOWN, ".message:last-child", "the latest")
        ann.wait_for(f"() => ({PLACE})().below <= 1")


def test_page_survives_a_killed_server(visit: Visit, firefox: Firefox, tmp_path: Path) -> None:
    """Once a killed server is back, the page reconnects, and a message written meanwhile is sent
    once."""
    data = ("--data", str(tmp_path))
    with running_server(*data) as first:
        ann = visit("Ann", url=first.url)
        write(ann, "before")
        ann.wait_for(ALL_SHOWN, TEXTS, ["before"])
        first.kill()
        write(ann, "meanwhile")
        ann.wait_for(SHOWN, ".message--pending", "meanwhile")
    with running_server(*data, port=first.port):
        ann.wait_for(WAKE_UNTIL_SENT)
        ann.wait_for(ALL_SHOWN, TEXTS, ["before", "meanwhile"])
        write(ann, "after")
        ann.wait_for(ALL_SHOWN, TEXTS, ["before", "meanwhile", "after"])
        ann.evaluate("() => new Promise(requestAnimationFrame)")
    firefox.errors[:] = [each for each in firefox.errors if UNREACHABLE not in each]


def test_uncaught_errors_are_recorded(firefox: Firefox, server: Server) -> None:
    """Uncaught errors and errors on the console are recorded in `errors`."""
    tab = firefox.open(server.url)
    tab.evaluate("() => { console.error('told'); setTimeout(() => { throw Error('thrown') }); }")
    tab.evaluate("() => new Promise((done) => setTimeout(() => requestAnimationFrame(done)))")
    tab.close()
    errors = firefox.errors.copy()
    firefox.errors.clear()
    assert [each for each in errors if "told" in each]
    assert [each for each in errors if "thrown" in each]


def test_arabic_placeholder_is_in_its_field(visit: Visit) -> None:
    """From right to left, an empty field shows its placeholder and cannot be scrolled."""
    ann = visit("Ann", query="?lang=ar")
    fits = """() => [...document.querySelectorAll(":placeholder-shown")]
      .filter((each) => each.offsetParent)
      .map(({ id, scrollWidth, clientWidth }) => [id, scrollWidth <= clientWidth])"""
    assert ["composer", True] in (found := ann.evaluate(fits))
    assert all(is_in_it for _, is_in_it in found)
