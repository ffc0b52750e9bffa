"""Sending files on the page: which message they are sent with, and where."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import expect

from support.browser import say, wait_for_sent
from support.file_page import (
    ASKS_BEFORE_LEAVING,
    TEXT,
    WAITS_FOR_FILES,
    FileServer,
    choose,
    link_of,
    names,
    notes,
    open_room,
    publish_texts,
    remove_button,
    rows,
    send,
)


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
    assert first.request.headers["x-upload-ticket"] == "ticket-1"
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
