"""Files that cannot be uploaded: refusals, retries and cancelled uploads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from playwright.sync_api import expect

from support.browser import wait_for_sent
from support.file_page import (
    ASKS_BEFORE_LEAVING,
    LIMIT,
    TEXT,
    FileServer,
    choose,
    names,
    rows,
    send,
)

# Stores the callback of a timer of this many milliseconds, for the test to call.
HOLD_TIMER = """(held) => {
  const { setTimeout } = window;
  window.setTimeout = (act, delay, ...given) =>
    delay === held ? void (window.timer = act) : setTimeout(act, delay, ...given);
}"""


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
    assert again.request.headers["x-upload-ticket"] == "ticket-2"
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
    assert late.request.headers["x-upload-ticket"] == "ticket-4"
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
    assert upload.request.headers["x-upload-ticket"] == "ticket-2"
    script.accept(upload, "more.txt")
    expect(ann.locator(".message .file__name")).to_have_text("more.txt")
    assert len(script.sent("message")) == 1
