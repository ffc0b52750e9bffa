"""The page on two machines that share a PostgreSQL, which crashes meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from playwright.sync_api import expect

from support.browser import BACK_WITH, say
from support.machines import chat_url, running_machine
from support.postgresql import postgresql
from support.server import wait_until


def test_pages_on_two_machines_are_one_chat(visit: Any, tmp_path: Path) -> None:
    """Users of two machines see each other, and lose nothing when the database crashes."""
    with postgresql() as server:
        url = chat_url(server)
        with (
            running_machine(url, "one", tmp_path) as one,
            running_machine(url, "two", tmp_path, "--workers", "2") as two,
        ):
            ann, bob = visit("Ann", url=one.server.url), visit("Bob", url=two.server.url)
            for page in (ann, bob):
                expect(page.locator("#people .person")).to_have_count(2)
            say(ann, "from one")
            say(bob, "from two")
            for page in (ann, bob):
                expect(page.locator("#log")).to_contain_text("from one")
                expect(page.locator("#log")).to_contain_text("from two")
            server.crash()
            say(ann, "while it was down")
            # After 2 s the server says that it cannot store the message.
            expect(ann.locator("#log .message--failed")).to_have_count(1)
            server.start()
            wait_until(lambda: one.readiness == two.readiness == "ready")
            ann.click("#log .message--failed [data-action=retry]")
            for page in (ann, bob):
                page.wait_for_function(BACK_WITH, arg="while it was down")
                expect(page.locator("#log .message")).to_have_count(3)
                expect(page.locator("#people .person")).to_have_count(2)
            two.server.kill()
            say(ann, "without two")
            expect(bob.locator("#log")).not_to_contain_text("without two")
            with running_machine(url, "two", tmp_path, port=two.port):
                bob.wait_for_function(BACK_WITH, arg="without two")
                expect(bob.locator("#log .message")).to_have_count(4)
