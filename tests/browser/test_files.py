"""Shared files on the page: choosing, sending, failing, and in the log."""

from __future__ import annotations

import contextlib
import json
import re
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from fastchat.files.retention import Retention
from fastchat.metrics import Metrics
from support.browser import BACK_WITH, ConnectionSwitch, ScriptedServer, say, wait_for_sent
from support.server import Server, running_server

ID = "a" * 32
IMAGE = f"/files/{ID}/sea.png?size=300&width=600&height=450"
TEXT = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"some notes"}
LINES = [f"line {number}" for number in range(30)]
LIMIT = 1_000_000
WAITS_FOR_FILES = "Your message will be sent when all files are uploaded."
EVERY_RULE = {"rules": {"target-size": {"enabled": True}}}
UPLOAD_BYTES_PER_S = 1 << 20
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
IS_LOADED = "image => image.complete && image.naturalWidth > 0"
GAP_BELOW = "log => log.scrollHeight - log.scrollTop - log.clientHeight"
WATCH_PROGRESS = """() => {
  window.progress = [];
  new MutationObserver(([{ target }]) => window.progress.push(target.value)).observe(
    document.getElementById("uploads"), { subtree: true, attributeFilter: ["value"] });
}"""
# Stores the callback of a timer of this many milliseconds, for the test to call.
HOLD_TIMER = """(held) => {
  const { setTimeout } = window;
  window.setTimeout = (act, delay, ...given) =>
    delay === held ? void (window.timer = act) : setTimeout(act, delay, ...given);
}"""
# Whether the page would ask for a confirmation before the user leaves it.
ASKS_BEFORE_LEAVING = "() => !dispatchEvent(new Event('beforeunload', { cancelable: true }))"


def link_of(name: str) -> str:
    return f"/files/{ID}/{name}?size=9"


def png(width: int, height: int) -> bytes:
    """Return an image of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    rows = (b"\0" + b"\x20\x90\x60" * width) * height
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        )
    )


class FileServer(ScriptedServer):
    """A scripted server that issues tickets, holds uploads until a test answers them, and publishes
    messages."""

    def __init__(self) -> None:
        super().__init__()
        self.files = {"max_bytes": LIMIT}
        self.uploads: list[Any] = []
        self.sends_tickets = True

    def next_upload(self, page: Any) -> Any:
        """Return the next upload, which the test then answers."""
        wait_for_sent(page, lambda: self.uploads)
        return self.uploads.pop(0)

    def send_ticket(self, command: dict[str, Any]) -> None:
        ticket = f"ticket-{len(self.sent('upload'))}"
        reply = {"room": command["room"], "ref": command["ref"], "chunk_bytes": 1 << 16}
        self.say(type="upload", ticket=ticket, url="/files", **reply)

    def accept(self, route: Any, name: str, more: str = "") -> None:
        route.fulfill(status=201, json={"link": link_of(name) + more})

    def texts(self) -> list[str]:
        """Return the texts of the messages that the page has sent."""
        return [command["text"] for command in self.sent("message")]

    def refuse(self, route: Any, status: int, message: str, *, after_s: str = "") -> None:
        headers = {"retry-after": after_s} if after_s else {}
        answer = {"code": "forbidden", "message": message}
        route.fulfill(status=status, json=answer, headers=headers)

    def _received(self, frame: str) -> None:
        super()._received(frame)
        command = json.loads(frame)
        room = command.get("room")
        if command["type"] == "upload" and self.sends_tickets:
            self.send_ticket(command)
        elif command["type"] == "message":
            self.offset += 1
            text, id = command["text"], command["id"]
            self.publish(text, offset=self.offset, room=room, username="Ann", id=id)


@pytest.fixture
def script() -> FileServer:
    return FileServer()


@pytest.fixture
def ann(visit: Any, script: FileServer) -> Any:
    """Ann's page, whose uploads wait for the test. Images exist, except those named `gone`."""
    page = visit(script=script, service_workers="block")
    page.route("**/files", lambda route: script.uploads.append(route))
    page.route("**/files/**", answer_with_image)
    page.fill("#name-input", "Ann")
    page.press("#name-input", "Enter")
    expect(page.locator("#online-count")).not_to_be_empty()
    return page


def answer_with_image(route: Any) -> None:
    if "gone" in route.request.url:
        route.fulfill(status=404)
    else:
        route.fulfill(body=png(600, 450), content_type="image/png")


def choose(page: Any, *files: dict[str, Any]) -> None:
    page.set_input_files("#attach-field", list(files))


def send(page: Any) -> None:
    page.press("#composer", "Enter")


def notes(page: Any) -> Any:
    return page.locator(".upload:visible .upload__note")


def open_room(page: Any, room: str) -> None:
    page.evaluate("room => { location.hash = room }", room)
    expect(page.locator("#room-name")).to_have_text(room)


def remove_button(page: Any, name: str) -> Any:
    return page.get_by_role("button", name=f"Remove {name}")


def publish_texts(script: FileServer, room: str, *texts: str) -> None:
    for text in texts:
        script.offset += 1
        script.publish(text, offset=script.offset, room=room)


def rows(page: Any) -> Any:
    return page.locator("#uploads > .upload")


def names(page: Any) -> list[str]:
    return page.locator(".upload__name").all_text_contents()


# Choosing


def test_files_are_uploaded_in_turn_and_sent_as_one_message(ann: Any, script: FileServer) -> None:
    """Each file has a row while it waits for the message, and text and files are sent as one
    message."""
    ann.fill("#composer", "half a thou")
    with ann.expect_file_chooser() as chooser:
        ann.get_by_role("button", name="Attach files").click()
    assert chooser.value.is_multiple()
    chooser.value.set_files([TEXT, {**TEXT, "name": "more.txt", "buffer": b"x" * 2_500}])
    assert names(ann) == ["notes.txt", "more.txt"]
    expect(ann.locator(".upload__size")).to_have_text(["10 bytes", "3 kB"])
    first = script.next_upload(ann)
    assert first.request.headers["authorization"] == "Bearer ticket-1"
    assert first.request.post_data == "some notes"
    assert script.sent("upload") == [
        {"type": "upload", "name": "notes.txt", "size": 10, "room": ann.url.split("#")[1],
         "ref": script.sent("upload")[0]["ref"]},
    ]  # fmt: skip
    script.accept(first, "notes.txt")
    expect(notes(ann)).to_have_text(["Ready to send", ""])
    script.accept(script.next_upload(ann), "more.txt")
    expect(notes(ann)).to_have_text(["Ready to send"] * 2)
    expect(ann.locator("progress:visible")).to_have_count(0)
    assert names(ann) == ["notes.txt", "more.txt"]
    assert script.texts() == []
    assert ann.evaluate(ASKS_BEFORE_LEAVING)
    expect(ann.locator("#composer")).to_be_focused()
    ann.keyboard.type("ght")
    send(ann)
    expect(ann.locator(".message .file__name")).to_have_text(["notes.txt", "more.txt"])
    assert script.texts() == [f"half a thought\n{link_of('notes.txt')}\n{link_of('more.txt')}"]
    expect(rows(ann)).to_have_count(0)
    expect(ann.locator("#composer")).to_have_value("")
    assert not ann.evaluate(ASKS_BEFORE_LEAVING)


def test_files_can_be_sent_without_a_text(ann: Any, script: FileServer) -> None:
    """Files can be sent without a text as soon as one of them has not failed."""
    button = ann.locator("#send")
    expect(button).to_be_disabled()
    choose(ann, TEXT)
    expect(button).to_be_enabled()
    upload = script.next_upload(ann)
    script.refuse(upload, 403, "You have no room left.")
    expect(button).to_be_disabled()
    send(ann)
    expect(notes(ann)).to_have_text("You have no room left.")
    ann.get_by_role("button", name="Retry").click()
    expect(button).to_be_enabled()
    choose(ann, {**TEXT, "name": "more.txt"})
    script.accept(script.next_upload(ann), "notes.txt")
    script.accept(script.next_upload(ann), "more.txt")
    expect(notes(ann)).to_have_text(["Ready to send"] * 2)
    button.click()
    expect(ann.locator(".message .file__name")).to_have_text(["notes.txt", "more.txt"])
    assert script.texts() == [f"{link_of('notes.txt')}\n{link_of('more.txt')}"]
    expect(button).to_be_disabled()


def test_failed_file_is_not_sent_with_the_message(ann: Any, script: FileServer) -> None:
    """A file that has failed stays in its row, and the text and the other files are sent."""
    choose(ann, {**TEXT, "name": "empty.txt", "buffer": b""}, TEXT)
    script.accept(script.next_upload(ann), "notes.txt")
    expect(notes(ann)).to_have_text(["This file is empty.", "Ready to send"])
    say(ann, "Here")
    expect(ann.locator(".message .file__name")).to_have_text("notes.txt")
    assert names(ann) == ["empty.txt"]
    assert script.texts() == [f"Here\n{link_of('notes.txt')}"]


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


def test_text_and_links_that_are_too_long_become_two_messages(ann: Any, script: FileServer) -> None:
    """A message has at most 4,000 characters; the rest of the links is sent in another message."""
    # A surrogate pair counts as one character.
    for text, first, second in [
        ("🎉" * 4_000, ["{text}"], ["{a}", "{b}"]),
        ("🎉" * (4_000 - len(link_of("a.txt")) - 1), ["{text}", "{a}"], ["{b}"]),
        ("🎉" * (4_000 - len(link_of("a.txt"))), ["{text}"], ["{a}", "{b}"]),
    ]:
        script.commands.clear()
        choose(ann, {**TEXT, "name": "a.txt"}, {**TEXT, "name": "b.txt"})
        script.accept(script.next_upload(ann), "a.txt")
        script.accept(script.next_upload(ann), "b.txt")
        expect(notes(ann)).to_have_text(["Ready to send"] * 2)
        say(ann, text)
        wait_for_sent(ann, lambda: len(script.texts()) == 2)
        filled = {"text": text, "a": link_of("a.txt"), "b": link_of("b.txt")}
        assert script.texts() == ["\n".join(each).format(**filled) for each in (first, second)]


# Sending before the uploads end


def test_message_waits_for_its_files(ann: Any, script: FileServer) -> None:
    """The message leaves the field, other messages can be sent, and it is sent once all its files
    have arrived."""
    choose(ann, TEXT, {**TEXT, "name": "more.txt"})
    first = script.next_upload(ann)
    say(ann, "Two files")
    expect(ann.locator("#composer")).to_have_value("")
    expect(ann.locator("#send")).to_be_disabled()
    expect(notes(ann)).to_have_text([WAITS_FOR_FILES] * 2)
    say(ann, "meanwhile")
    expect(ann.locator(".message--own[data-offset]")).to_have_count(1)
    script.accept(first, "notes.txt")
    second = script.next_upload(ann)
    expect(notes(ann)).to_have_text([WAITS_FOR_FILES] * 2)
    assert script.texts() == ["meanwhile"]
    assert ann.evaluate(ASKS_BEFORE_LEAVING)
    choose(ann, {**TEXT, "name": "another.txt"})
    script.accept(second, "more.txt")
    expect(ann.locator(".message .file__name")).to_have_text(["notes.txt", "more.txt"])
    whole = f"Two files\n{link_of('notes.txt')}\n{link_of('more.txt')}"
    assert script.texts() == ["meanwhile", whole]
    assert names(ann) == ["another.txt"]


def test_failed_file_delays_its_message(ann: Any, script: FileServer) -> None:
    """A message waits until its failed file is retried, and meanwhile the page asks before the user
    leaves it."""
    choose(ann, TEXT)
    upload = script.next_upload(ann)
    say(ann, "Mind the notes")
    script.refuse(upload, 403, "You have no room left.")
    expect(notes(ann)).to_have_text(f"You have no room left. {WAITS_FOR_FILES}")
    assert ann.evaluate(ASKS_BEFORE_LEAVING)
    assert script.texts() == []
    ann.get_by_role("button", name="Retry").click()
    expect(notes(ann)).to_have_text(WAITS_FOR_FILES)
    script.accept(script.next_upload(ann), "notes.txt")
    expect(ann.locator(".message .file__name")).to_have_text("notes.txt")
    assert script.texts() == [f"Mind the notes\n{link_of('notes.txt')}"]
    assert not ann.evaluate(ASKS_BEFORE_LEAVING)


def test_message_is_sent_without_removed_files(ann: Any, script: FileServer) -> None:
    """If files are removed, the text is sent with the others or alone; without a text nothing is
    sent."""
    choose(ann, TEXT, {**TEXT, "name": "more.txt"})
    script.accept(script.next_upload(ann), "notes.txt")
    script.next_upload(ann)
    say(ann, "one of two")
    remove_button(ann, "more.txt").click()
    expect(ann.locator(".message .file__name")).to_have_text("notes.txt")
    choose(ann, TEXT)
    script.next_upload(ann)
    say(ann, "none")
    remove_button(ann, "notes.txt").click()
    expect(ann.locator(".message--own[data-offset]")).to_have_count(2)
    choose(ann, TEXT)
    script.next_upload(ann)
    send(ann)
    remove_button(ann, "notes.txt").click()
    expect(rows(ann)).to_have_count(0)
    say(ann, "the end")
    expect(ann.locator(".message--own[data-offset]")).to_have_count(3)
    assert script.texts() == [f"one of two\n{link_of('notes.txt')}", "none", "the end"]


def test_edit_does_not_send_files(ann: Any, script: FileServer) -> None:
    """Files wait while a message is edited, and are sent with the next message."""
    say(ann, "a mistke")
    expect(ann.locator(".message--own[data-offset]")).to_have_count(1)
    choose(ann, TEXT)
    script.accept(script.next_upload(ann), "notes.txt")
    expect(notes(ann)).to_have_text("Ready to send")
    ann.press("#composer", "ArrowUp")
    expect(ann.locator("#composer")).to_have_value("a mistke")
    ann.fill("#composer", "")
    expect(ann.locator("#send")).to_be_disabled()
    say(ann, "a mistake")
    wait_for_sent(ann, lambda: script.sent("edit"))
    assert script.sent("edit")[0]["text"] == "a mistake"
    assert names(ann) == ["notes.txt"]
    expect(ann.locator("#send")).to_be_enabled()
    send(ann)
    wait_for_sent(ann, lambda: len(script.texts()) == 2)
    assert script.texts() == ["a mistke", link_of("notes.txt")]


def test_edited_message_keeps_its_files(ann: Any, script: FileServer, room: str) -> None:
    """The links of an edited message are not in the field, where they could be damaged, and are
    saved with it."""
    link = link_of("notes.txt")
    script.publish(f"my *notes*\n{link}\n{link}", offset=1, room=room, username="Ann")
    expect(ann.locator(".file")).to_have_count(2)
    ann.press("#composer", "ArrowUp")
    expect(ann.locator("#composer")).to_have_value("my *notes*")
    expect(ann.locator("#composer-edited")).to_contain_text("with notes.txt and notes.txt")
    ann.keyboard.press("Enter")
    ann.press("#composer", "ArrowUp")
    ann.fill("#composer", "")
    ann.keyboard.type("these")
    ann.keyboard.press("Enter")
    wait_for_sent(ann, lambda: script.sent("edit"))
    assert [edit["text"] for edit in script.sent("edit")] == [f"these\n{link}\n{link}"]
    script.publish(link, offset=2, room=room, username="Ann")
    expect(ann.locator(".file")).to_have_count(3)
    ann.press("#composer", "ArrowUp")
    expect(ann.locator("#composer")).to_have_value("")
    ann.keyboard.press("Escape")
    expect(ann.locator(".composer__editing")).to_be_hidden()
    assert len(script.sent("edit")) == 1


def test_file_can_be_a_reply(ann: Any, script: FileServer, room: str) -> None:
    """The quote precedes the link, with a text or without, and a quote without text and file is not
    sent."""
    publish_texts(script, room, "Where are they?")
    for own in ("", "Here"):
        ann.locator(".message[data-offset='1']").hover()
        ann.locator(".actions [data-do=reply]").click()
        expect(ann.locator("#send")).to_be_disabled()
        choose(ann, TEXT)
        expect(ann.locator("#send")).to_be_enabled()
        script.accept(script.next_upload(ann), "notes.txt")
        say(ann, own)
        expect(ann.locator("#composer-answer")).to_be_hidden()
    expect(ann.locator(".message--own blockquote ~ p .file__name")).to_have_text(["notes.txt"] * 2)
    quote, link = "> @Zoe #1\n> Where are they?\n\n", link_of("notes.txt")
    wait_for_sent(ann, lambda: len(script.texts()) == 2)
    assert script.texts() == [quote + link, f"{quote}Here\n{link}"]
    ann.locator(".message[data-offset='1']").hover()
    ann.locator(".actions [data-do=reply]").click()
    choose(ann, TEXT)
    script.next_upload(ann)
    send(ann)
    remove_button(ann, "notes.txt").click()
    say(ann, "the end")
    wait_for_sent(ann, lambda: len(script.texts()) == 3)
    assert script.texts()[-1] == "the end"


def test_file_that_waited_long_is_uploaded_again(ann: Any, script: FileServer) -> None:
    """The server keeps a file without a message for an hour, so an older one is uploaded again."""
    ann.clock.install()
    choose(ann, TEXT)
    script.accept(script.next_upload(ann), "notes.txt")
    expect(notes(ann)).to_have_text("Ready to send")
    ann.clock.fast_forward(51 * 60_000)
    say(ann, "At last")
    expect(notes(ann)).to_have_text(WAITS_FOR_FILES)
    assert script.texts() == []
    script.accept(script.next_upload(ann), "notes.txt")
    ann.clock.run_for(100)
    expect(ann.locator(".message .file__name")).to_have_text("notes.txt")
    assert script.texts() == [f"At last\n{link_of('notes.txt')}"]


def test_sign_out_drops_files(visit: Any, script: FileServer) -> None:
    """Signing out drops files, also those of a waiting message, without a question."""
    init = "localStorage['fastchat.name'] = 'Ann'; sessionStorage['fastchat.token'] = 'x'"
    page = visit(script=script, init=init)
    expect(page.locator("#online-count")).not_to_be_empty()
    page.route("**/files", lambda route: script.uploads.append(route))
    choose(page, TEXT)
    script.next_upload(page)
    say(page, "Mine")
    choose(page, {**TEXT, "name": "more.txt"})
    page.click("#preferences-open")
    with page.expect_navigation():
        page.get_by_role("button", name="Sign out").click()
    expect(page.locator("#online-count")).not_to_be_empty()
    expect(rows(page)).to_have_count(0)
    assert script.texts() == []


# Other ways to choose files


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


@pytest.mark.parametrize(
    ("parts", "taken"),
    [
        ([["image/png", "x", "image.png"]], r"Image \d{4}-\d\d-\d\d \d\d\.\d\d\.\d\d\.png"),
        ([["text/html", "<img>"], ["image/jpeg", "x", "image.jpeg"]], r"Image .*\.jpeg"),
        ([["text/plain", "my.pdf"], ["application/pdf", "x", "my.pdf"]], r"my\.pdf"),
        ([["text/plain", "a"], ["text/html", "a"], ["image/png", "x", "image.png"]], None),
        ([["text/plain", "a"]], None),
    ],
    ids=["screenshot", "image-of-a-page", "file", "cells", "text"],
)
def test_files_can_be_pasted(ann: Any, parts: list[list[str]], taken: str | None) -> None:
    """A picture without a name is named by the date; a text stays text, even if it has a
    picture."""
    assert ann.evaluate(PASTE, ["#composer", *parts]) is (taken is not None)
    if taken is None:
        expect(rows(ann)).to_have_count(0)
    else:
        expect(ann.locator(".upload__name")).to_have_text(whole_match(taken))
        expect(ann.locator("#composer")).to_be_focused()


def whole_match(pattern: str) -> Any:
    return re.compile(f"^{pattern}$")


def test_file_pasted_into_the_search_field_is_not_shared(ann: Any) -> None:
    """A file pasted outside of the composer is not shared."""
    assert not ann.evaluate(PASTE, ["#search-field", ["image/png", "x", "image.png"]])
    expect(rows(ann)).to_have_count(0)


# Failures


def test_invalid_files_are_not_uploaded(ann: Any, script: FileServer) -> None:
    """A file that is too large or empty is refused at once and without a retry, and the others are
    sent."""
    big = {**TEXT, "name": "big.bin", "buffer": b"x" * (LIMIT + 1)}
    choose(ann, big, {**TEXT, "name": "empty.txt", "buffer": b""}, TEXT)
    send(ann)
    script.accept(script.next_upload(ann), "notes.txt")
    expect(ann.locator(".message .file__name")).to_have_text("notes.txt")
    expect(ann.locator(".upload__note")).to_have_text(
        ["This file is too large. The limit is 1 MB.", "This file is empty."]
    )
    expect(ann.get_by_role("button", name="Retry")).to_have_count(0)
    assert [each["name"] for each in script.sent("upload")] == ["notes.txt"]
    assert not ann.evaluate(ASKS_BEFORE_LEAVING)
    for name in ("big.bin", "empty.txt"):
        ann.get_by_role("button", name=f"Remove {name}").click()
    expect(rows(ann)).to_have_count(0)
    expect(ann.locator("#composer")).to_be_focused()


def test_changed_file_is_reported_as_unreadable(
    ann: Any, script: FileServer, tmp_path: Path
) -> None:
    """A file that has changed since it was chosen is not uploaded, and its row says so."""
    later = tmp_path / "later.txt"
    later.write_text("as it was chosen")
    ann.set_input_files("#attach-field", later)
    waiting = script.next_upload(ann)
    send(ann)
    ann.set_input_files("#attach-field", later)
    later.write_text("as it is now, which is another thing")
    script.accept(waiting, "later.txt")
    expect(ann.locator(".message .file__name")).to_have_text("later.txt")
    expect(ann.locator(".upload__note")).to_have_text("This file cannot be read.")
    assert len(script.sent("upload")) == 1


def test_refused_file_shows_the_reason_and_can_be_retried(ann: Any, script: FileServer) -> None:
    """The row shows the server's reason, the file is not uploaded again by itself, and can be
    retried."""
    choose(ann, TEXT)
    send(ann)
    script.refuse(script.next_upload(ann), 403, "You have no room left.")
    expect(ann.locator(".upload__note")).to_contain_text("You have no room left.")
    assert len(script.sent("upload")) == 1
    ann.get_by_role("button", name="Retry").press("Enter")
    expect(ann.get_by_role("button", name="Remove notes.txt")).to_be_focused()
    again = script.next_upload(ann)
    assert again.request.headers["authorization"] == "Bearer ticket-2"
    script.accept(again, "notes.txt")
    expect(ann.locator(".message .file__name")).to_have_text("notes.txt")
    expect(rows(ann)).to_have_count(0)


def test_temporary_failure_is_retried(ann: Any, script: FileServer) -> None:
    """After a temporary failure the file is uploaded again by itself, with a new ticket each
    time."""
    choose(ann, TEXT)
    send(ann)
    first = script.next_upload(ann)
    script.sends_tickets = False
    first.abort()
    wait_for_sent(ann, lambda: len(script.sent("upload")) == 2)
    expect(ann.locator(".upload__note")).to_have_text("Trying…")
    script.sends_tickets = True
    script.send_ticket(script.sent("upload")[-1])
    script.refuse(script.next_upload(ann), 401, "Unknown ticket.")
    script.refuse(script.next_upload(ann), 503, "Busy.")
    late = script.next_upload(ann)
    assert late.request.headers["authorization"] == "Bearer ticket-4"
    script.accept(late, "notes.txt")
    expect(ann.locator(".message .file__name")).to_have_text("notes.txt")


def test_retries_stop_after_six_attempts(ann: Any, script: FileServer) -> None:
    """After six attempts the page stops and shows the reason, and the user can retry."""
    choose(ann, TEXT)
    send(ann)
    for _ in range(6):
        script.refuse(script.next_upload(ann), 503, "The disk is full.", after_s="0.01")
    expect(ann.locator(".upload__note")).to_contain_text("The disk is full.")
    ann.get_by_role("button", name="Retry").click()
    script.accept(script.next_upload(ann), "notes.txt")
    assert len(script.sent("upload")) == 7
    expect(ann.locator(".message .file__name")).to_have_text("notes.txt")


def test_stalled_file_is_uploaded_again(ann: Any, script: FileServer) -> None:
    """An upload over a dead connection is given up after two minutes, and repeated."""
    ann.evaluate(HOLD_TIMER, 120_000)
    choose(ann, TEXT)
    send(ann)
    script.next_upload(ann)
    assert len(script.sent("upload")) == 1
    ann.evaluate("() => window.timer()")
    script.accept(script.next_upload(ann), "notes.txt")
    expect(ann.locator(".message .file__name")).to_have_text("notes.txt")


def test_cancelled_upload_is_not_sent(ann: Any, script: FileServer) -> None:
    """The request of a cancelled upload ends, no message has its link, and the next file is
    uploaded."""
    choose(ann, TEXT, {**TEXT, "name": "more.txt"})
    send(ann)
    script.next_upload(ann)
    with ann.expect_event("requestfailed"):
        ann.get_by_role("button", name="Remove notes.txt").click()
    assert names(ann) == ["more.txt"]
    script.accept(script.next_upload(ann), "more.txt")
    expect(ann.locator(".message .file__name")).to_have_text("more.txt")
    assert len(script.sent("message")) == 1


def test_upload_can_be_cancelled_before_its_ticket(ann: Any, script: FileServer) -> None:
    """A file that is cancelled before its ticket arrives is not uploaded, and the next file is."""
    script.sends_tickets = False
    choose(ann, TEXT, {**TEXT, "name": "more.txt"})
    send(ann)
    wait_for_sent(ann, lambda: script.sent("upload"))
    ann.get_by_role("button", name="Remove notes.txt").click()
    script.sends_tickets = True
    script.send_ticket(script.sent("upload")[0])
    upload = script.next_upload(ann)
    assert upload.request.headers["authorization"] == "Bearer ticket-2"
    script.accept(upload, "more.txt")
    expect(ann.locator(".message .file__name")).to_have_text("more.txt")
    assert len(script.sent("message")) == 1


def test_file_is_sent_to_the_room_where_it_was_chosen(
    ann: Any, script: FileServer, room: str
) -> None:
    """The rows of a sent message are visible in every room, and the message is published in its
    own."""
    choose(ann, TEXT)
    waiting = script.next_upload(ann)
    say(ann, "Here")
    open_room(ann, "elsewhere")
    expect(ann.locator(".upload__room")).to_have_text(f"#{room}")
    expect(ann.locator(".upload__room")).to_be_visible()
    script.accept(waiting, "notes.txt")
    expect(rows(ann)).to_have_count(0)
    expect(ann.locator(".message")).to_have_count(0)
    (message,) = script.sent("message")
    assert message["room"] == room
    assert message["text"] == f"Here\n{link_of('notes.txt')}"
    ann.go_back()
    expect(ann.locator(".message .file__name")).to_have_text("notes.txt")


def test_unsent_file_waits_in_its_room(ann: Any, script: FileServer, room: str) -> None:
    """An unsent file is hidden in other rooms, whose messages are sent without it, and its upload
    goes on."""
    choose(ann, TEXT)
    waiting = script.next_upload(ann)
    open_room(ann, "elsewhere")
    expect(ann.locator(".upload")).to_be_hidden()
    expect(ann.locator("#send")).to_be_disabled()
    script.accept(waiting, "notes.txt")
    say(ann, "elsewhere")
    expect(ann.locator(".message--own[data-offset]")).to_have_count(1)
    assert ann.evaluate(ASKS_BEFORE_LEAVING)
    choose(ann, {**TEXT, "name": "more.txt"})
    open_room(ann, room)
    expect(notes(ann)).to_have_text("Ready to send")
    expect(ann.locator(".upload__room:visible")).to_have_count(0)
    expect(ann.locator("#send")).to_be_enabled()
    send(ann)
    expect(ann.locator(".message .file__name")).to_have_text("notes.txt")
    said = [(each["room"], each["text"]) for each in script.sent("message")]
    assert said == [("elsewhere", "elsewhere"), (room, link_of("notes.txt"))]


def test_leaving_a_room_cancels_its_files(ann: Any, script: FileServer, room: str) -> None:
    """Leaving a room cancels its files, also those of a waiting message, and not those of other
    rooms."""
    choose(ann, TEXT)
    script.next_upload(ann)
    say(ann, "Here")
    choose(ann, {**TEXT, "name": "unsent.txt"})
    open_room(ann, "elsewhere")
    choose(ann, {**TEXT, "name": "more.txt"})
    ann.locator(".room-item", has_text=room).hover()
    ann.get_by_role("button", name=f"Leave #{room}").click()
    assert names(ann) == ["more.txt"]
    script.accept(script.next_upload(ann), "more.txt")
    ann.click("#send")
    expect(ann.locator(".message .file__name")).to_have_text("more.txt")
    assert [each["room"] for each in script.sent("message")] == ["elsewhere"]
    assert not ann.evaluate(ASKS_BEFORE_LEAVING)


# In the log


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
    ann.wait_for_function(f"() => ({IS_LOADED})(document.querySelector('.file--image img'))")
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
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "forced": {"color_scheme": "dark", "forced_colors": "active"},
}


@pytest.mark.parametrize("look", LOOKS)
def test_files_have_no_accessibility_violation(
    ann: Any, script: FileServer, room: str, look: str
) -> None:
    """axe-core finds no violation in cards, images, rows in all their states, and the viewer."""
    gone = IMAGE.replace("sea", "gone")
    publish_texts(
        script, room, IMAGE, gone, f"/files/{ID}/a.pdf?size=12345", f"See /files/{ID}/b.pdf"
    )
    expect(ann.locator(".file--gone")).to_have_count(1)
    show_all_states(ann, script)
    ann.emulate_media(**LOOKS[look], reduced_motion="reduce")
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
    found = Axe().run(page, options=EVERY_RULE).response["violations"]
    return [f"{each['id']}: {node['html']}" for each in found for node in each["nodes"]]


# With the real server


@pytest.fixture
def visit_slowly(visit: Any) -> Any:
    """Return a function that opens a page whose uploads take seconds."""

    def visit_slowly(name: str, **options: Any) -> Any:
        page = visit(name, **options)
        network = page.context.new_cdp_session(page)
        network.send("Network.enable")
        conditions = {"offline": False, "latency": 0, "downloadThroughput": -1}
        conditions["uploadThroughput"] = UPLOAD_BYTES_PER_S
        network.send("Network.emulateNetworkConditions", conditions)
        return page

    return visit_slowly


def test_shared_image_has_the_measured_size(visit: Any, server: Server, room: str) -> None:
    """Bob sees Ann's image at the size that the server measured, and can download her file by its
    name."""
    ann, bob = visit("Ann"), visit("Bob")
    image = {"name": "by the sea.png", "mimeType": "image/png", "buffer": png(704, 528)}
    choose(ann, image, TEXT)
    say(ann, "Look!")
    expect(bob.locator(".message__text")).to_contain_text("Look!")
    shown = bob.get_by_role("img", name="by the sea.png")
    bob.wait_for_function(IS_LOADED, arg=shown.element_handle())
    assert shown.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [704, 528]
    assert (shown.bounding_box()["width"], shown.bounding_box()["height"]) == (352, 264)
    card = bob.get_by_role("link", name="notes.txt")
    with bob.expect_download() as download:
        card.click()
    assert download.value.suggested_filename == "notes.txt"
    assert Path(download.value.path()).read_bytes() == TEXT["buffer"]
    expect(rows(ann)).to_have_count(0)
    expect(ann.locator(".message--pending")).to_have_count(0)


def test_file_is_deleted_with_its_message(visit: Any, tmp_path: Path) -> None:
    """If the message is deleted, so is the file, and a later message with its link shows it as
    missing."""
    retention = Retention(tmp_path, clock=time.time, metrics=Metrics())
    with running_server("--data", str(tmp_path)) as server:
        ann, bob = visit("Ann", url=server.url), visit("Bob", url=server.url)
        choose(ann, {"name": "sea.png", "mimeType": "image/png", "buffer": png(60, 40)})
        expect(ann.locator(".upload img:visible")).to_have_count(1)
        send(ann)
        image = bob.get_by_role("link", name="sea.png")
        link = image.get_attribute("href")
        assert bob.request.get(server.url + link).status == 200
        retention.sweep()
        ann.locator(".message").hover()
        ann.get_by_label("Delete", exact=True).click()
        ann.get_by_role("button", name="Delete").last.click()
        expect(image).to_have_count(0)
        retention.sweep()
        assert bob.request.get(server.url + link).status == 404
        say(ann, link.replace("sea", "the-same"))
        expect(bob.locator(".file--gone")).to_have_attribute("data-size", "no longer available")


def test_progress_follows_the_upload(visit_slowly: Any) -> None:
    """The progress bar follows the sent bytes up to all of them."""
    ann = visit_slowly("Ann")
    ann.evaluate(WATCH_PROGRESS)
    choose(ann, {**TEXT, "name": "big.bin", "buffer": bytes(2 * UPLOAD_BYTES_PER_S)})
    send(ann)
    expect(ann.locator(".message .file__name")).to_have_text("big.bin")
    seen = ann.evaluate("() => window.progress")
    assert seen == sorted(seen)
    assert len(set(seen)) > 3
    assert seen[-1] == 1


def test_upload_survives_a_killed_server(visit_slowly: Any, room: str, tmp_path: Path) -> None:
    """Once the server is back the upload starts again by itself, and the file is sent once."""
    data = ("--data", str(tmp_path))
    with running_server(*data) as first:
        ann = visit_slowly("Ann", url=first.url)
        choose(ann, {**TEXT, "name": "big.bin", "buffer": bytes(range(256)) * 8_000})
        send(ann)
        ann.wait_for_function("() => document.querySelector('.upload__progress').value > 0.2")
        first.kill()
    with running_server(*data, port=first.port) as second:
        ann.wait_for_function(BACK_WITH, arg="big.bin")
        card = ann.locator(".message[data-offset] .file")
        expect(card).to_have_attribute("data-size", "2 MB")
        expect(rows(ann)).to_have_count(0)
        expect(ann.locator(".message")).to_have_count(1)
        with urlopen(second.url + str(card.get_attribute("href"))) as response:
            assert response.read() == bytes(range(256)) * 8_000


def test_file_chosen_offline_is_sent_later(visit: Any, chromium: Any, room: str) -> None:
    """A file chosen while offline is sent once the page has joined again."""
    context = chromium.new_context()
    with contextlib.closing(context):
        switch = ConnectionSwitch(context)
        ann, bob = visit("Ann", context=context), visit("Bob")
        switch.disconnect()
        choose(ann, TEXT)
        say(ann, "Here")
        switch.reconnect()
        ann.evaluate("() => dispatchEvent(new Event('online'))")
        expect(bob.locator(".message .file__name")).to_have_text("notes.txt")
        expect(rows(ann)).to_have_count(0)
