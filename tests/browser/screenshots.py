"""Takes the screenshots of the page: wide and narrow, light and dark, and in states of failure.

    python tests/browser/screenshots.py OUTPUT_DIRECTORY

The script starts a server of its own and fills rooms with conversations. The page uses the system's
typeface, so the result depends on the machine's fonts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from playwright.sync_api import sync_playwright
from websockets.sync.client import connect

from support.browser import ConnectionSwitch, launch
from support.server import running_server

READER = "Alice"
ROOM = "studio"
IMAGE = "harbour-at-six.png"
#: The messages in the room, in this order; the image's link replaces its placeholder.
CONVERSATION = [
    ("Leo", "Morning! Shall the harbour go on the *studio wall*?"),
    (READER, "It shall. Could we have it printed by Thursday?"),
    (
        "Ines",
        "The shop around the corner prints A1 overnight:\n- about €40\n- delivered before ten, if "
        "we send `harbour-at-six.tif` by noon",
    ),
    ("Lena", "> @Ines #3\n> delivered before ten\n\n@Alice shall I prepare the file?"),
    (READER, "Yes please, Lena. Friday it is. I’ll bring cake 🍰"),
    ("Nadia", "This is the one:\n{image}"),
]
#: The reactions, as user, message number and emoji.
EDIT = (2, "It shall. Could we have it printed by Friday?")
REACTIONS = [("Leo", 6, "❤️"), ("Ines", 6, "❤️"), ("Lena", 5, "🎉"), ("Leo", 5, "🎉")]
OWN_REACTION = (6, "❤️")
TYPING = "Leo"
#: The messages in other rooms.
OTHERS = {
    "lobby": ["Hello!", "Anybody here?", "Lunch at one?"],
    "print-shop": ["@Alice it is ready"],
}
SIZES = {"wide": {"width": 1280, "height": 840}, "narrow": {"width": 390, "height": 780}}
PIXEL_RATIO = 2
TWO_FRAMES = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
#: A PNG of a sunrise over the sea.
SUNRISE = """() => {
  const canvas = new OffscreenCanvas(960, 600);
  const paint = canvas.getContext("2d");
  const fill = (top, bottom, stops, shape) => {
    const colours = paint.createLinearGradient(0, top, 0, bottom);
    stops.forEach((colour, index) => colours.addColorStop(index / (stops.length - 1), colour));
    paint.fillStyle = colours;
    shape();
  };
  fill(0, 360, ["#27355f", "#8a5a83", "#f08a5d", "#ffd58a"], () => paint.fillRect(0, 0, 960, 360));
  fill(250, 400, ["#fff6d5", "#ffd08a"], () => {
    paint.beginPath();
    paint.arc(620, 348, 62, 0, 7);
    paint.fill();
  });
  fill(352, 600, ["#e79a6c", "#5a5f86", "#1c2748"], () => paint.fillRect(0, 352, 960, 248));
  paint.fillStyle = "#ffe9b8";
  for (let row = 0; row < 14; row += 1) {
    paint.fillRect(566 + row * 3, 366 + row * 15, 108 - row * 6, 3);
  }
  paint.fillStyle = "#1a2240";
  for (const [x, scale] of [[180, 1], [300, 0.7], [430, 0.45]]) {
    paint.beginPath();
    paint.moveTo(x, 352 - 120 * scale);
    paint.lineTo(x + 70 * scale, 360);
    paint.lineTo(x - 8 * scale, 360);
    paint.moveTo(x - 60 * scale, 362);
    paint.quadraticCurveTo(x, 362 + 60 * scale, x + 80 * scale, 362);
    paint.fill();
  }
  const content = canvas.convertToBlob().then((blob) => blob.arrayBuffer());
  return content.then((bytes) => [...new Uint8Array(bytes)]);
}"""


class SharingUser:
    """A user in a room, without a browser, who can share files."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket

    def do(self, **command: Any) -> None:
        self._socket.send(json.dumps(command))

    def share(self, name: str, content: bytes) -> str:
        """Send a file and return its link."""
        self.do(type="upload", name=name, size=len(content))
        chunk_bytes = self._wait("upload")["chunk_bytes"]
        for start in range(0, len(content), chunk_bytes):
            self._socket.send(content[start : start + chunk_bytes])
        link: str = self._wait("file")["link"]
        return link

    def _wait(self, kind: str) -> dict[str, Any]:
        while True:
            event: dict[str, Any] = json.loads(self._socket.recv(timeout=10))
            assert event["type"] != "error", event
            if event["type"] == kind:
                return event


@contextlib.contextmanager
def sharing_user(port: int, name: str, room: str = ROOM) -> Iterator[SharingUser]:
    with connect(f"ws://127.0.0.1:{port}/ws", max_queue=None) as socket:
        socket.send(json.dumps({"type": "join", "room": room, "username": name}))
        socket.recv(timeout=5)
        yield SharingUser(socket)


def converse(page: Any, users: dict[str, SharingUser]) -> None:
    """Send the lines in order: each waits until the line before is shown."""
    for count, (name, text) in enumerate(CONVERSATION, start=1):
        if name == READER:
            page.fill("#composer", text)
            page.press("#composer", "Enter")
        else:
            if "{image}" in text:
                link = users[name].share(IMAGE, bytes(page.evaluate(SUNRISE)))
                text = text.format(image=link)
            users[name].do(text=text)
        page.wait_for_selector(f".message[data-offset='{count}']", state="attached")


def change(page: Any, users: dict[str, SharingUser]) -> None:
    """Edit a message, and react to some."""
    number, text = EDIT
    page.hover(f".message[data-offset='{number}'] .message__text")
    page.click("[data-do='edit']")
    page.fill("#composer", text)
    page.press("#composer", "Enter")
    for name, number, emoji in REACTIONS:
        users[name].do(type="react", offset=number, emoji=emoji)
    number, emoji = OWN_REACTION
    page.hover(f".message[data-offset='{number}'] .message__text")
    page.click(f".actions [data-emoji='{emoji}']")
    page.wait_for_selector(".reaction[aria-pressed='true']")
    page.wait_for_selector(".message[data-offset='5'] .reaction")


def join_others(page: Any, port: int) -> None:
    """Join other rooms, where messages arrive afterwards."""
    for room in OTHERS:
        page.fill("#room-field", room)
        page.press("#room-field", "Enter")
        page.wait_for_function("room => document.title.includes(room)", arg=room)
        page.wait_for_selector("#people .person")
    page.click(f"#rooms a[href='#{ROOM}']")
    for room, texts in OTHERS.items():
        with sharing_user(port, "Otto", room) as otto:
            for text in texts:
                otto.do(text=text)
    badges = "() => document.querySelectorAll('#rooms .badge:not([hidden])').length"
    page.wait_for_function(f"{badges} === {len(OTHERS)}")
    page.mouse.move(0, 0)
    page.focus("#composer")


def shoot(page: Any, directory: Path, name: str) -> None:
    page.evaluate(TWO_FRAMES)
    path = directory / f"{name}.png"
    page.screenshot(path=path)
    print(path)


def take(page: Any, users: dict[str, SharingUser], directory: Path) -> None:
    for scheme in ("light", "dark"):
        for size, viewport in SIZES.items():
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            page.set_viewport_size(viewport)
            page.evaluate("() => { document.getElementById('log').scrollTop = 1e6 }")
            users[TYPING].do(type="typing")
            page.wait_for_selector("#typing:not(:empty)")
            shoot(page, directory, f"{size}-{scheme}")


def take_states(page: Any, switch: ConnectionSwitch, directory: Path) -> None:
    """Take the first visit; the offline state with a pending message; and a refused message."""
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
    page.set_viewport_size(SIZES["wide"])
    page.evaluate("() => { location.hash = '#empty' }")
    page.wait_for_selector("#empty:not([hidden])")
    shoot(page, directory, "empty")
    page.evaluate(f"() => {{ location.hash = '#{ROOM}' }}")
    page.wait_for_selector(".message[data-offset='6']")
    switch.disconnect()
    page.fill("#composer", "I’ll write it anyway.")
    page.press("#composer", "Enter")
    page.wait_for_selector(".status--shown")
    page.wait_for_selector(".message--pending .message__note")
    page.wait_for_timeout(1500)  # The indicator fades in.
    shoot(page, directory, "offline")
    switch.reconnect()
    page.click("#try-now")
    page.wait_for_selector(".message--pending", state="detached")


def take_arabic(browser: Any, url: str, directory: Path) -> None:
    page = browser.new_page(
        device_scale_factor=PIXEL_RATIO,
        locale="ar-EG",
        viewport=SIZES["narrow"],
        color_scheme="dark",
    )
    page.goto(f"{url}/#{ROOM}")
    page.fill("#name-input", "ليلى")
    page.press("#name-input", "Enter")
    page.wait_for_selector(".message[data-offset='6']")
    page.fill("#composer", "صباح الخير! الصورة رائعة 🌅")
    page.press("#composer", "Enter")
    page.wait_for_selector(".message--own[data-offset]")
    shoot(page, directory, "arabic")
    page.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Take the pictures of the page.")
    parser.add_argument("directory", type=Path)
    directory = parser.parse_args().directory
    directory.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as data,
        running_server("--data", data) as server,
        sync_playwright() as playwright,
        contextlib.ExitStack() as stack,
    ):
        browser = stack.enter_context(contextlib.closing(launch(playwright)))
        names = dict.fromkeys(name for name, _ in CONVERSATION if name != READER)
        users = {name: stack.enter_context(sharing_user(server.port, name)) for name in names}
        context = browser.new_context(
            device_scale_factor=PIXEL_RATIO,
            locale="en-GB",
            viewport=SIZES["wide"],
            service_workers="block",
        )
        switch = ConnectionSwitch(context)
        page = context.new_page()
        page.goto(f"{server.url}/#{ROOM}")
        page.fill("#name-input", READER)
        page.press("#name-input", "Enter")
        page.wait_for_selector("#people .person")
        converse(page, users)
        change(page, users)
        join_others(page, server.port)
        take(page, users, directory)
        take_states(page, switch, directory)
        take_arabic(browser, server.url, directory)


if __name__ == "__main__":
    main()
