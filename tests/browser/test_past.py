"""Older history, and search."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from playwright.sync_api import expect

from support.browser import (
    HOSTILE,
    TIMEOUT_MS,
    ScriptedServer,
    joined_user,
    publication,
    say,
    text_in,
)
from support.server import Server

FIRST_DAY = datetime.fromisoformat("2025-01-18T10:30:00+00:00")


@pytest.fixture
def ann(visit: Any) -> Any:
    return visit("Ann")


# Scrolls to the top, and returns how far the visible text has moved once older messages are above
# it.
READ_BACK = """async () => {
  const log = document.getElementById("log"), edge = document.getElementById("edge");
  const frame = () => new Promise(requestAnimationFrame);
  log.scrollTop = 0;
  const row = edge.nextElementSibling, text = row.querySelector(".message__text");
  const before = text.getBoundingClientRect().top;
  const head = getComputedStyle(row).paddingBlockStart, { day } = row.dataset;
  while (edge.nextElementSibling === row) await frame();
  await frame().then(frame);
  return { moved: Math.abs(text.getBoundingClientRect().top - before), text: text.textContent,
    rearranged: head !== getComputedStyle(row).paddingBlockStart || day !== row.dataset.day,
    rows: log.querySelectorAll(".message").length };
}"""


def test_older_messages_do_not_move_the_visible_text(
    visit: Any, script: ScriptedServer, room: str
) -> None:
    """Older messages are added above, days and groups are arranged anew, and the visible text does
    not move."""
    script.offset = 200
    script.past = [
        publication(
            f"line {offset}",
            offset=offset,
            room=room,
            timestamp=(FIRST_DAY + timedelta(minutes=offset * 20)).isoformat(),
        )
        for offset in range(1, 201)
    ]
    # The two pages meet within a group: five lines of the same minute.
    for offset in range(148, 153):
        script.past[offset - 1]["timestamp"] = FIRST_DAY.isoformat()
    script.missed = script.past[-50:]
    page = visit("Ann", script=script)
    expect(text_in(page, "line 200")).to_be_in_viewport()
    for first in (151, 101, 51):
        result = page.evaluate(READ_BACK)
        assert result["text"] == f"line {first}"
        assert result["moved"] <= 1
        if first == 151:
            assert result["rearranged"]
    assert result["rows"] == 200
    assert page.locator(".message[data-day]").count() > 2
    expect(page.locator(".edge__start")).to_have_text(f"This is where #{room} begins.")
    expect(page.locator(".edge__start")).to_be_visible()
    expect(page.locator(".edge__fetching")).to_be_hidden()
    assert [command["before"] for command in script.sent("history")] == [151, 101, 51]


def test_reading_to_the_first_message_and_back_is_bounded(
    visit: Any, server: Server, room: str
) -> None:
    """From the newest to the first message and back, there are at most 300 rows, and no gap."""
    with joined_user(room, "Bob", server) as bob:
        bob.say(*(f"line {number}" for number in range(1, 421)))
        page = visit("Ann")
        expect(text_in(page, "line 420")).to_be_in_viewport()
        for _ in range(8):
            result = page.evaluate(READ_BACK)
            assert result["moved"] <= 1
            assert result["rows"] <= 300
            if page.locator(".edge--start").count():
                break
        expect(page.locator(".message__text").first).to_have_text("line 1")
        bob.say("line 421")
        expect(page.locator("#new-messages")).to_have_text("1 new message")
        numbers = page.evaluate(
            """async (limitMs) => {
          const log = document.getElementById("log"), seen = new Set();
          const end = performance.now() + limitMs;
          while (!seen.has("line 421") && performance.now() < end) {
            const rows = [...log.querySelectorAll(".message__text")];
            const texts = rows.map((each) => each.textContent);
            if (texts.length > 300) throw new Error("too many rows");
            texts.forEach((each) => seen.add(each));
            log.scrollTop += 1500;
            await new Promise(requestAnimationFrame);
          }
          return [...seen].map((each) => Number(each.slice(5)));
        }""",
            TIMEOUT_MS,
        )
        assert numbers == list(range(1, 422))
        expect(text_in(page, "line 421")).to_be_in_viewport()
        expect(page.locator("#new-messages")).to_be_hidden()


def test_search_shows_an_old_message(visit: Any, server: Server, room: str) -> None:
    """A result is marked; Enter shows its message although it was not on the page, and the pill
    returns to the end."""
    with joined_user(room, "Bob", server) as bob:
        bob.say("The Ünïque one", *(f"line {number}" for number in range(2, 400)))
        ann = visit("Ann")
        expect(text_in(ann, "line 399")).to_be_in_viewport()
        ann.keyboard.press("Control+k")
        expect(ann.locator("#search-field")).to_be_focused()
        ann.keyboard.type("unique")
        expect(ann.locator(".result")).to_have_count(1)
        expect(ann.locator(".result mark")).to_have_text("Ünïque")
        expect(ann.locator(".result .message__author")).to_have_text("Bob")
        expect(ann.locator("#search-status")).to_have_text("1 message")
        expect(text_in(ann, "Ünïque")).to_have_count(0)
        ann.keyboard.press("Enter")
        expect(text_in(ann, "Ünïque")).to_be_in_viewport()
        expect(ann.locator(".message[data-offset='1']")).to_be_focused()
        ann.click("#new-messages")
        expect(text_in(ann, "line 399")).to_be_in_viewport()
        expect(ann.locator("#new-messages")).to_be_hidden()


def test_search_is_a_drawer_on_a_phone(visit: Any, server: Server, room: str) -> None:
    """Slash opens search, arrows move through the results, and a chosen result closes search and
    shows its message."""
    with joined_user(room, "Bob", server) as bob:
        bob.say("red apple", "green apple")
        ann = visit("Ann", viewport={"width": 320, "height": 640})
        ann.focus("#log")
        ann.keyboard.press("/")
        ann.keyboard.type("apple gre")
        expect(ann.locator(".result__text")).to_have_text(["green apple"])
        ann.fill("#search-field", "zebra")
        expect(ann.locator("#search-status")).to_have_text("Nothing found.")
        expect(ann.locator(".result")).to_have_count(0)
        ann.keyboard.press("Escape")
        expect(ann.locator("#search")).to_be_hidden()
        expect(ann.locator("#log")).to_be_focused()
        ann.click("#search-toggle")
        ann.fill("#search-field", "apple")
        expect(ann.locator(".result")).to_have_count(2)
        ann.keyboard.press("ArrowDown")
        expect(ann.locator(".result").first).to_be_focused()
        ann.keyboard.press("Enter")
        expect(ann.locator("#search")).to_be_hidden()
        expect(ann.locator(".message:focus")).to_be_visible()


def test_results_show_the_text_only(visit: Any, server: Server, room: str) -> None:
    """Results have no marks, quotes or addresses of files, are newest first, and are limited in
    number."""
    with joined_user(room, "Bob", server) as bob:
        bob.say(*(f"an apple {number}" for number in range(120)))
        file = f"/files/{'a2' * 16}/apple%20pie.png?size=7&width=3&height=4"
        bob.say(f"> @Ann #1\n> what?\n\n**that** apple {file}")
        bob.receive_until(121)
    ann = visit("Ann")
    ann.click("#search-toggle")
    ann.fill("#search-field", "apple")
    expect(ann.locator("#search-status")).to_have_text("The newest 100 messages")
    texts = ann.locator(".result__text")
    expect(texts.first).to_have_text("that apple apple pie.png")
    expect(texts.last).to_have_text("an apple 21")


def test_search_returns_the_focus_to_the_composer(ann: Any) -> None:
    """If search was opened from an action bar, its button is gone afterwards, and the focus is in
    the composer."""
    say(ann, "apple")
    text_in(ann, "apple").hover()
    ann.locator(".actions [data-emoji='👍']").click()
    ann.keyboard.press("Control+k")
    expect(ann.locator("#search-field")).to_be_focused()
    ann.mouse.move(0, 0)
    ann.keyboard.press("Escape")
    expect(ann.locator("#composer")).to_be_focused()


def test_hostile_results_stay_text(visit: Any, server: Server, room: str) -> None:
    """Markup in results is shown as written, and only hits are marked."""
    with joined_user(room, "Bob", server) as bob:
        bob.say(*HOSTILE)
        page = visit("Ann")
        page.click("#search-toggle")
        page.fill("#search-field", "alert")
        found = [text for text in HOSTILE if "alert" in text]
        expect(page.locator(".result")).to_have_count(len(found))
        assert sorted(page.locator(".result__text").all_text_contents()) == sorted(found)
        assert set(page.locator(".result mark").all_text_contents()) == {"alert"}
        inside = page.locator("#results :is(script, img, svg, iframe, style, a, form, b)")
        assert inside.count() == 0
