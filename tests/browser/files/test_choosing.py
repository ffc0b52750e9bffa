"""Choosing files on the page: by the dialog, by dropping and by pasting."""

from __future__ import annotations

import re
from typing import Any

from playwright.sync_api import expect

from support.browser import say
from support.file_page import (
    ASKS_BEFORE_LEAVING,
    IS_LOADED,
    TEXT,
    FileServer,
    choose,
    link_of,
    names,
    notes,
    remove_button,
    rows,
    send,
)

# Drags files over the page or drops them there; returns whether the page handled the event.
DRAG = """([kind, ...names]) => {
  const dataTransfer = new DataTransfer();
  for (const name of names) dataTransfer.items.add(new File([name], name));
  if (!names.length) dataTransfer.setData("text/plain", "some text");
  const event = new DragEvent(kind, { dataTransfer, bubbles: true, cancelable: true });
  return !document.getElementById("log").dispatchEvent(event);
}"""
# Pastes parts, each a type, a content and, for a file, a name; returns whether the page handled the
# event.
PASTE = """([selector, ...parts]) => {
  const clipboardData = new DataTransfer();
  for (const [type, content, name] of parts) {
    if (name) clipboardData.items.add(new File([content], name, { type }));
    else clipboardData.setData(type, content);
  }
  const event = new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true });
  return !document.querySelector(selector).dispatchEvent(event);
}"""


def test_uploaded_image_has_a_thumbnail(ann: Any, script: FileServer) -> None:
    """An uploaded image is shown as the server has it; one that cannot be shown is a row like any
    other."""
    choose(ann, *({**TEXT, "name": name} for name in ("sea.png", "gone.png", "notes.txt")))
    for name in ("sea.png", "gone.png"):
        script.accept(script.next_upload(ann), name, "&width=600&height=450")
    script.accept(script.next_upload(ann), "notes.txt")
    expect(notes(ann)).to_have_text(["Ready to send"] * 3)
    shown = ann.locator(".upload img:visible")
    expect(shown).to_have_count(1)
    expect(shown).to_have_attribute("src", link_of("sea.png") + "&width=600&height=450")
    ann.wait_for_function(IS_LOADED, arg=shown.element_handle())
    box = shown.bounding_box()
    assert (box["width"], box["height"]) == (40, 40)


def test_uploaded_file_can_be_removed(ann: Any, script: FileServer) -> None:
    """A file can be removed by its button and by keyboard; it is not sent, and the focus is in the
    composer."""
    choose(ann, TEXT, {**TEXT, "name": "more.txt"})
    script.accept(script.next_upload(ann), "notes.txt")
    script.accept(script.next_upload(ann), "more.txt")
    expect(notes(ann)).to_have_text(["Ready to send"] * 2)
    # Not every browser focuses a button that is clicked.
    ann.focus("#attach")
    remove_button(ann, "notes.txt").dispatch_event("click")
    expect(ann.locator("#composer")).to_be_focused()
    ann.keyboard.press("Shift+Tab")
    expect(remove_button(ann, "more.txt")).to_be_focused()
    ann.keyboard.press("Enter")
    expect(ann.locator("#composer")).to_be_focused()
    expect(rows(ann)).to_have_count(0)
    expect(ann.locator("#send")).to_be_disabled()
    assert not ann.evaluate(ASKS_BEFORE_LEAVING)
    say(ann, "never mind")
    expect(ann.locator(".message--own[data-offset]")).to_have_count(1)
    assert script.texts() == ["never mind"]


def test_long_names_keep_their_ending(ann: Any, script: FileServer) -> None:
    """The server takes 255 bytes of a name, and systems that count characters allow more."""
    choose(ann, {**TEXT, "name": f"a{'字' * 200}.tar.gz"})
    script.next_upload(ann)
    (command,) = script.sent("upload")
    assert 250 < len(command["name"].encode()) <= 255
    assert command["name"].startswith("a字")
    assert command["name"].endswith("字.tar.gz")


def test_server_without_files_disables_sharing(visit: Any, script: FileServer) -> None:
    """If the server takes no files there is no button, and a dropped file is not opened in place of
    the page."""
    script.files = None
    page = visit("Ann", script=script)
    expect(page.locator("#attach")).to_be_hidden()
    assert page.evaluate(DRAG, ["dragover", "a.txt"])
    expect(page.locator("#drop-target")).to_be_hidden()
    assert page.evaluate(DRAG, ["drop", "a.txt"])
    assert not page.evaluate(PASTE, ["#composer", ["text/plain", "x", "a.txt"]])
    expect(rows(page)).to_have_count(0)


def test_files_can_be_dropped_anywhere_on_the_page(ann: Any, script: FileServer, room: str) -> None:
    """The whole page accepts dropped files, and says to which room they will be sent."""
    assert ann.evaluate(DRAG, ["dragover", "a.txt"])
    expect(ann.locator("#drop-target")).to_have_text(f"Drop files to share them in #{room}")
    expect(ann.locator("#drop-target")).to_be_visible()
    ann.locator("#drop-target").dispatch_event("dragleave")
    expect(ann.locator("#drop-target")).to_be_hidden()
    ann.evaluate(DRAG, ["dragover", "a.txt"])
    assert ann.evaluate(DRAG, ["drop", "a.txt", "b.txt"])
    expect(ann.locator("#drop-target")).to_be_hidden()
    assert names(ann) == ["a.txt", "b.txt"]
    expect(ann.locator("#composer")).to_be_focused()
    send(ann)
    script.accept(script.next_upload(ann), "a.txt")
    script.accept(script.next_upload(ann), "b.txt")
    expect(ann.locator(".message .file__name")).to_have_text(["a.txt", "b.txt"])
    assert len(script.texts()) == 1


def test_drop_target_disappears_without_further_drag_events(ann: Any) -> None:
    """The drop target disappears even if the browser does not report that the drag has ended."""
    ann.evaluate(DRAG, ["dragover", "a.txt"])
    expect(ann.locator("#drop-target")).to_be_visible()
    expect(ann.locator("#drop-target")).to_be_hidden()


def test_only_files_from_outside_the_page_are_accepted(ann: Any) -> None:
    """A dragged text, and an image of the page itself, which browsers drag as a file, are not
    accepted."""
    for kind in ("dragover", "drop"):
        assert not ann.evaluate(DRAG, [kind])
    expect(ann.locator("#drop-target")).to_be_hidden()
    ann.evaluate(DRAG, ["dragstart", "sea.png"])
    for kind in ("dragover", "drop"):
        assert not ann.evaluate(DRAG, [kind, "sea.png"])
    ann.evaluate(DRAG, ["dragend"])
    assert ann.evaluate(DRAG, ["drop", "a.txt"])
    assert names(ann) == ["a.txt"]


def test_no_file_is_accepted_while_a_dialog_is_open(ann: Any) -> None:
    """A file dropped while a dialog is open is neither shared nor opened."""
    ann.click("#preferences-open")
    expect(ann.locator("#preferences")).to_be_visible()
    assert ann.evaluate(DRAG, ["dragover", "a.txt"])
    expect(ann.locator("#drop-target")).to_be_hidden()
    assert ann.evaluate(DRAG, ["drop", "a.txt"])
    assert names(ann) == []


PASTED: dict[str, tuple[list[list[str]], str]] = {
    "screenshot": (
        [["image/png", "x", "image.png"]],
        r"Image \d{4}-\d\d-\d\d \d\d\.\d\d\.\d\d\.png",
    ),
    "image of a page": (
        [["text/html", "<img>"], ["image/jpeg", "x", "image.jpeg"]],
        r"Image .*\.jpeg",
    ),
    "file": ([["text/plain", "my.pdf"], ["application/pdf", "x", "my.pdf"]], r"my\.pdf"),
}
CELLS = [["text/plain", "a"], ["text/html", "a"], ["image/png", "x", "image.png"]]


def test_files_can_be_pasted(ann: Any) -> None:
    """A picture without a name is named by the date."""
    for number, (kind, (parts, taken)) in enumerate(PASTED.items()):
        ann.focus("#attach")
        assert ann.evaluate(PASTE, ["#composer", *parts]), kind
        name = ann.locator(".upload__name").nth(number)
        expect(name, kind).to_have_text(re.compile(f"^{taken}$"))
        expect(ann.locator("#composer"), kind).to_be_focused()
        expect(rows(ann)).to_have_count(number + 1)


def test_pasted_text_is_no_file(ann: Any) -> None:
    """A text stays text, even if it has a picture; nor is a file shared that is pasted outside of
    the composer."""
    for kind, selector, parts in (
        ("cells", "#composer", CELLS),
        ("text", "#composer", CELLS[:1]),
        ("a picture", "#search-field", CELLS[2:]),
    ):
        assert not ann.evaluate(PASTE, [selector, *parts]), kind
        expect(rows(ann), kind).to_have_count(0)
