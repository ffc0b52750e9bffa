"""Files in the log: images, cards, and their accessibility."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from support.browser import say, wait_for_sent
from support.file_page import (
    ID,
    IMAGE,
    IS_LOADED,
    TEXT,
    FileServer,
    answer_with_image,
    choose,
    publish_texts,
)

LINES = [f"line {number}" for number in range(30)]
EVERY_RULE = {"rules": {"target-size": {"enabled": True}}}
# Records how much the layout shifts by itself from now on.
WATCH_SHIFTS = """() => {
  window.shift = 0;
  const add = (entries) => entries.forEach(({ value }) => (window.shift += value));
  window.shifts = new PerformanceObserver((list) => add(list.getEntries()));
  window.shifts.observe({ type: "layout-shift" });
}"""
SHIFT = """() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => {
  for (const { value } of window.shifts.takeRecords()) window.shift += value;
  done(window.shift);
})))"""
SCROLL_TO = """row => new Promise((done) => {
  document.getElementById("log").addEventListener("scroll", () => done(), { once: true });
  row.scrollIntoView();
})"""
GAP_BELOW = "log => log.scrollHeight - log.scrollTop - log.clientHeight"


def test_loading_images_do_not_move_the_log(ann: Any, script: FileServer, room: str) -> None:
    """The space of an image is reserved before it loads, whatever its real size, and the log stays
    at its end."""
    forged = f"/files/{ID}/forged.png?size=9&width=300&height=900"
    held: list[Any] = []
    ann.route("**/files/**", lambda route: held.append(route))
    publish_texts(script, room, *LINES, IMAGE, forged, "the end")
    expect(ann.get_by_text("the end")).to_be_in_viewport()
    images = ann.locator(".file--image img").all()
    before = [image.bounding_box() for image in images]
    assert [(box["width"], box["height"]) for box in before] == [(352, 264), (96, 288)]
    ann.evaluate(WATCH_SHIFTS)
    wait_for_sent(ann, lambda: len(held) == 2)
    for route in held:
        answer_with_image(route)
    for image in images:
        ann.wait_for_function(IS_LOADED, arg=image.element_handle())
    assert ann.evaluate(SHIFT) == 0
    assert [image.bounding_box() for image in images] == before
    assert ann.locator("#log").evaluate(GAP_BELOW) <= 1


def test_images_fit_a_narrow_screen(ann: Any, script: FileServer, room: str) -> None:
    """An image is scaled down to a narrow screen, in its proportions."""
    ann.set_viewport_size({"width": 320, "height": 640})
    publish_texts(script, room, IMAGE)
    box = ann.get_by_role("img", name="sea.png").bounding_box()
    assert box["x"] + box["width"] <= 320
    assert box["width"] / box["height"] == pytest.approx(600 / 450, rel=0.01)


def test_missing_image_becomes_a_card_without_a_shift(
    ann: Any, script: FileServer, room: str
) -> None:
    """Neither the end of the log nor the text of a reader who looks back moves when an image turns
    out to be missing."""
    held: list[Any] = []
    ann.route("**/files/**gone**", lambda route: held.append(route))
    gone = IMAGE.replace("sea", "gone")
    publish_texts(script, room, gone, *LINES)
    expect(ann.get_by_text(LINES[-1])).to_be_in_viewport()
    read = ann.get_by_text("line 4", exact=True)
    read.evaluate(SCROLL_TO)
    ann.evaluate(WATCH_SHIFTS)
    before = read.bounding_box()["y"]
    wait_for_sent(ann, lambda: held)
    ann.unroute("**/files/**gone**")
    held.pop().fulfill(status=404)
    card = ann.locator(".file--gone")
    expect(card).to_have_attribute("data-size", "no longer available")
    expect(card).not_to_have_attribute("href", re.compile(""))
    assert ann.evaluate(SHIFT) == 0
    assert read.bounding_box()["y"] == pytest.approx(before, abs=1)


def test_image_is_retried_after_temporary_failures(ann: Any, script: FileServer, room: str) -> None:
    """An image that a busy or absent server does not send is fetched again, and does not become a
    link."""
    troubles: list[Callable[[Any], None]] = [
        lambda route: route.fulfill(status=503),
        lambda route: route.fulfill(status=503),
        lambda route: route.abort(),
        lambda route: route.abort(),
    ]
    ann.route(
        "**/files/**sea**",
        lambda route: (troubles.pop(0) if troubles else answer_with_image)(route),
    )
    publish_texts(script, room, IMAGE)
    # The page shows the message at its next frame.
    image = "document.querySelector('.file--image img')"
    ann.wait_for_function(f"() => {image} && ({IS_LOADED})({image})")
    assert troubles == []
    expect(ann.locator(".file--gone")).to_have_count(0)


def test_image_opens_at_its_own_size(ann: Any, script: FileServer, room: str) -> None:
    """A click or Enter opens the image; any click outside of its download link closes it, and so
    does Escape."""
    publish_texts(script, room, IMAGE)
    viewer = ann.locator("#viewer")
    image = ann.get_by_role("link", name="sea.png")
    image.click()
    expect(viewer).to_be_visible()
    shown = viewer.get_by_role("img", name="sea.png")
    ann.wait_for_function(IS_LOADED, arg=shown.element_handle())
    assert (shown.bounding_box()["width"], shown.bounding_box()["height"]) == (600, 450)
    with ann.expect_download() as download:
        viewer.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "sea.png"
    expect(viewer).to_be_visible()
    ann.mouse.click(5, 5)
    expect(viewer).to_be_hidden()
    image.focus()
    ann.keyboard.press("Enter")
    expect(viewer).to_be_visible()
    ann.keyboard.press("Escape")
    expect(viewer).to_be_hidden()
    expect(image).to_be_focused()
    with ann.context.expect_page() as tab:
        image.click(modifiers=["Control"])
    tab.value.wait_for_url("**/sea.png*", wait_until="commit")
    expect(viewer).to_be_hidden()


def test_file_is_downloaded_with_its_name(ann: Any, script: FileServer, room: str) -> None:
    """The card shows name and size; once the file is gone, the card says so."""
    ann.route("**/files/**", lambda route: route.fulfill(body=b"some notes"))
    publish_texts(script, room, f"/files/{ID}/my%20notes.txt?size=12345")
    card = ann.get_by_role("link", name="my notes.txt")
    expect(card).to_have_attribute("data-size", "12 kB")
    with ann.expect_download() as download:
        card.click()
    assert download.value.suggested_filename == "my notes.txt"
    expect(card).not_to_have_class(re.compile("file--gone"))
    ann.route("**/files/**", lambda route: route.fulfill(status=404))
    card.click()
    expect(ann.locator(".file--gone")).to_have_attribute("data-size", "no longer available")


LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light", "forced_colors": "none"},
    "dark": {"color_scheme": "dark", "forced_colors": "none"},
    "forced": {"color_scheme": "dark", "forced_colors": "active"},
}


def test_files_have_no_accessibility_violation(ann: Any, script: FileServer, room: str) -> None:
    """axe-core finds no violation in cards, images, rows in all their states, and the viewer."""
    gone = IMAGE.replace("sea", "gone")
    publish_texts(
        script, room, IMAGE, gone, f"/files/{ID}/a.pdf?size=12345", f"See /files/{ID}/b.pdf"
    )
    expect(ann.locator(".file--gone")).to_have_count(1)
    show_all_states(ann, script)
    assert violations(ann) == []
    ann.set_viewport_size({"width": 320, "height": 640})
    assert violations(ann) == []
    ann.get_by_role("link", name="sea.png").click()
    assert violations(ann) == []


def show_all_states(page: Any, script: FileServer) -> None:
    """Show a waiting message and unsent files, with rows in every state."""
    choose(page, TEXT, {**TEXT, "name": "more.txt"})
    upload = script.next_upload(page)
    say(page, "Two files")
    script.refuse(upload, 403, "You have no room left.")
    upload = script.next_upload(page)
    choose(page, {**TEXT, "name": "sea.png"}, {**TEXT, "buffer": b""}, {**TEXT, "name": "x.txt"})
    script.accept(upload, "more.txt")
    script.accept(script.next_upload(page), "sea.png", "&width=600&height=450")
    script.next_upload(page)
    expect(page.locator(".upload img:visible")).to_have_count(1)


@pytest.mark.parametrize("query", ["", "?lang=ar"])
def test_rows_fit_a_narrow_screen(visit: Any, script: FileServer, query: str) -> None:
    """Rows fit whatever the names and the direction, and every button can be hit."""
    page = visit("Ann", script=script, query=query, viewport={"width": 320, "height": 900})
    page.route("**/files", lambda route: script.uploads.append(route))
    page.route("**/files/**", answer_with_image)
    choose(page, {**TEXT, "name": f"{'long-name-' * 20}.txt"}, {**TEXT, "name": "sea.png"})
    script.refuse(script.next_upload(page), 403, "There is no room left for what you share here.")
    script.accept(script.next_upload(page), "sea.png", "&width=600&height=450")
    expect(page.locator(".upload img:visible")).to_have_count(1)
    for button in page.locator(".upload button:visible").all():
        button.click(trial=True)
        box = button.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 320
    assert page.evaluate("() => document.getElementById('uploads').scrollWidth") <= 320


def violations(page: Any) -> list[str]:
    """Return the violations in all looks."""
    lines = []
    for name, look in LOOKS.items():
        page.emulate_media(**look, reduced_motion="reduce")
        found = Axe().run(page, options=EVERY_RULE).response["violations"]
        lines += [f"{name}: {e['id']}: {node['html']}" for e in found for node in e["nodes"]]
    return lines
