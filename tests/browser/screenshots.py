"""Takes the pictures of the page: wide and narrow, light and dark.

    python tests/browser/screenshots.py OUTPUT_DIRECTORY

Starts a server of its own and fills a room with a conversation. The page uses the system's
typeface, so a machine with a good one makes the better pictures.
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

from browsing import launch
from playwright.sync_api import sync_playwright
from websockets.sync.client import connect

from support import running_server

READER = "Alice"
CONVERSATION = [
    ("Nadia", "Morning! Has everyone seen the harbour photos?"),
    ("Nadia", "The light at six was unreal."),
    ("Leo", "Just now. The third one belongs on the studio wall."),
    (READER, "Agreed. Could we have it printed by Thursday?"),
    (
        "Ines",
        "The shop around the corner prints A1 overnight. About €40, and they deliver before ten "
        "if we send the file by noon.",
    ),
    ("Lena", "Send me the original, Nadia, I’ll prepare it."),
    (READER, "You are all wonderful."),
    (READER, "Friday it is, then. I’ll bring cake 🍰"),
]
# Who does what to which message, by its number.
EDIT = (4, "Agreed. Could we have it printed by Friday?")
REACTIONS = [("Leo", 2, "❤️"), ("Ines", 2, "❤️"), ("Nadia", 8, "🎉"), ("Lena", 8, "🎉")]
OWN_REACTION = (2, "heart")
TYPING = "Leo"
ROOM = "studio"
SIZES = {"wide": {"width": 1280, "height": 840}, "narrow": {"width": 390, "height": 780}}
PIXEL_RATIO = 2
TWO_FRAMES = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


@contextlib.contextmanager
def guest(port: int, name: str) -> Iterator[Any]:
    with connect(f"ws://127.0.0.1:{port}/ws", max_queue=None) as socket:
        socket.send(json.dumps({"type": "join", "room": ROOM, "username": name}))
        socket.recv(timeout=5)
        yield socket


def converse(page: Any, guests: dict[str, Any]) -> None:
    """Say each line only when the one before is there, so that they come in order."""
    for count, (name, text) in enumerate(CONVERSATION, start=1):
        if name == READER:
            page.fill("#composer", text)
            page.press("#composer", "Enter")
        else:
            guests[name].send(json.dumps({"text": text}))
        page.wait_for_selector(f".message[data-offset='{count}']", state="attached")


def change(page: Any, guests: dict[str, Any]) -> None:
    """Edit a message, and react to some."""
    number, text = EDIT
    page.hover(f".message[data-offset='{number}']")
    page.get_by_label("Edit").click()
    page.fill("#composer", text)
    page.press("#composer", "Enter")
    for name, number, emoji in REACTIONS:
        guests[name].send(json.dumps({"type": "react", "offset": number, "emoji": emoji}))
    number, label = OWN_REACTION
    page.hover(f".message[data-offset='{number}']")
    page.get_by_label(f"React: {label}").click()
    page.wait_for_selector(".reaction[aria-pressed='true']")
    page.wait_for_selector(".message[data-offset='8'] .reaction")
    page.mouse.move(0, 0)
    page.focus("#composer")
    page.evaluate("() => { document.getElementById('log').scrollTop = 1e6 }")


def take(page: Any, guests: dict[str, Any], directory: Path) -> None:
    for scheme in ("light", "dark"):
        for size, viewport in SIZES.items():
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            page.set_viewport_size(viewport)
            guests[TYPING].send(json.dumps({"type": "typing"}))
            page.wait_for_selector("#typing:not(:empty)")
            page.evaluate(TWO_FRAMES)
            path = directory / f"screenshot-{size}-{scheme}.png"
            page.screenshot(path=path)
            print(path)


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
        guests = {name: stack.enter_context(guest(server.port, name)) for name in names}
        page = browser.new_page(device_scale_factor=PIXEL_RATIO, locale="en-GB")
        page.goto(f"{server.url}/#{ROOM}")
        page.fill("#name-input", READER)
        page.press("#name-input", "Enter")
        page.wait_for_selector("#people .person")
        converse(page, guests)
        change(page, guests)
        take(page, guests, directory)


if __name__ == "__main__":
    main()
