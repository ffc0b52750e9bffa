"""The page over https, and its WebSocket over wss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trustme
from playwright.sync_api import expect

from support.browser import Visit, say, text_in
from support.server import running_server


def test_page_chats_over_wss(tmp_path: Path, visit: Visit, room: str) -> None:
    """Two users on an https page talk over wss, which the content security policy allows."""
    certificate = tmp_path / "cert.pem"
    issued = trustme.CA().issue_cert("localhost", "127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(str(certificate))
    flags = ("--history", "memory", "--ssl-certfile", str(certificate))
    with running_server(*flags) as server:
        alice: Any = visit("Alice", url=server.url, ignore_https_errors=True)
        addresses: list[str] = []
        alice.on("websocket", lambda socket: addresses.append(socket.url))
        alice.reload()
        alice.wait_for_selector("#people .person", state="attached")
        bob: Any = visit("Bob", url=server.url, ignore_https_errors=True)
        say(alice, "can anybody listen in?")
        expect(text_in(bob, "can anybody listen in?")).to_be_visible()
        assert addresses == [f"{server.url.replace('https', 'wss')}/ws"]
        assert alice.evaluate("isSecureContext")
