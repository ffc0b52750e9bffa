"""Helpers for tests of files on the page: a scripted server, and what a user does and sees."""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any

from playwright.sync_api import expect

from support.browser import ScriptedServer, wait_for_sent

ID = "a" * 32
IMAGE = f"/files/{ID}/sea.png?size=300&width=600&height=450"
TEXT = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"some notes"}
LIMIT = 1_000_000
WAITS_FOR_FILES = "Your message will be sent when all files are uploaded."
IS_LOADED = "image => image.complete && image.naturalWidth > 0"
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
