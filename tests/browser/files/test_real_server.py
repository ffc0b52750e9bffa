"""Files between the page and a real server."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from playwright.sync_api import expect

from fastchat.files.retention import Retention
from fastchat.metrics import Metrics
from support.browser import BACK_WITH, ConnectionSwitch, say
from support.file_page import IS_LOADED, TEXT, choose, png, rows, send
from support.server import Server, running_server

UPLOAD_BYTES_PER_S = 1 << 20
WATCH_PROGRESS = """() => {
  window.progress = [];
  new MutationObserver(([{ target }]) => window.progress.push(target.value)).observe(
    document.getElementById("uploads"), { subtree: true, attributeFilter: ["value"] });
}"""


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
