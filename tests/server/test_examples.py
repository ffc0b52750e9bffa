"""The examples run as their descriptions say."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import websockets

from fastchat.api.keys import ApiRight
from fastchat_client import ChatError, Message, SyncChat
from support.api import made_key
from support.server import TIMEOUT_UNIT_S, wait_until
from support.server_in_thread import serving

EXAMPLES = Path(__file__).parents[2] / "examples"
HUB = Path(__file__).parents[2] / "docs" / "hub.md"


def test_broadcast_reaches_all_three() -> None:
    """The example of a dozen lines prints the same frame for each of its clients."""
    run = subprocess.run(
        [sys.executable, EXAMPLES / "broadcast.py"],
        capture_output=True,
        text=True,
        timeout=20 * TIMEOUT_UNIT_S,
    )
    assert run.returncode == 0
    assert run.stderr == ""
    frames = run.stdout.splitlines()
    assert len(frames) == 3
    assert set(frames) == {repr(b"\x81" + bytes([len(HELLO)]) + HELLO)}


HELLO = b'{"hello":"everyone"}'


def test_picows_server_broadcasts_every_message() -> None:
    """The hub works in another picows server, and closes when it is asked to."""
    port = _free_port()
    server = subprocess.Popen([sys.executable, EXAMPLES / "picows_server.py", str(port)])
    try:
        wait_until(lambda: _listens(port), timeout_s=20 * TIMEOUT_UNIT_S)
        asyncio.run(asyncio.wait_for(_chat_with(port), 10 * TIMEOUT_UNIT_S))
    finally:
        server.terminate()
        server.wait(10 * TIMEOUT_UNIT_S)


def test_application_with_fastapi_broadcasts_every_message(tmp_path: Path) -> None:
    """The example of docs/hub.md works on uvicorn, and has at most 20 lines."""
    code = HUB.read_text().split("```python\n")[1].split("```")[0]
    assert len(code.splitlines()) <= 20
    (tmp_path / "news.py").write_text(code)
    port = _free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "news:app", "--port", str(port), "--log-level", "error"],
        cwd=tmp_path,
    )
    try:
        wait_until(lambda: _listens(port), timeout_s=20 * TIMEOUT_UNIT_S)
        asyncio.run(asyncio.wait_for(_chat_with(port, "news"), 10 * TIMEOUT_UNIT_S))
    finally:
        server.terminate()
        server.wait(10 * TIMEOUT_UNIT_S)


def test_shop_posts_shows_and_bans(tmp_path: Path) -> None:
    """The shop posts each status once, lists the users of an order, and keeps a banned user out."""
    code = (EXAMPLES / "shop.py").read_text()
    assert len(code.splitlines()) <= 60
    keys = tmp_path / "keys.json"
    rights = (ApiRight.PUBLISH, ApiRight.READ, ApiRight.MODERATE)
    key = made_key(keys, rights=rights, rooms=("order-*",))
    port = _free_port()
    with serving(api_key_file=str(keys)) as chat:
        url = f"http://127.0.0.1:{chat.port}"
        shop = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "shop:app", f"--port={port}", "--log-level=error"],
            cwd=EXAMPLES,
            env={**os.environ, "CHAT_URL": url, "CHAT_KEY": key},
        )
        try:
            wait_until(lambda: _listens(port), timeout_s=20 * TIMEOUT_UNIT_S)
            with (
                httpx.Client(base_url=f"http://127.0.0.1:{port}/orders/17") as staff,
                SyncChat(url, username="Ann") as ann,
            ):
                room = ann.room("order-17")
                posted = [staff.post("/status", params={"status": "paid"}) for _ in range(2)]
                assert [each.json()["posted_before"] for each in posted] == [False, True]
                event = room.next_event(timeout=10 * TIMEOUT_UNIT_S)
                assert isinstance(event, Message)
                assert (event.username, event.text) == ("shop", "Your order is paid.")
                assert staff.get("/online").json() == [{"user": room.user, "name": "Ann"}]
                assert staff.put(f"/bans/{room.user}").status_code == 200
                with pytest.raises(ChatError):
                    for _ in room:
                        pass
                wait_until(lambda: staff.get("/online").json() == [])
                assert staff.put("/bans/nobody").json()["code"] == "bad_command"
        finally:
            shop.terminate()
            shop.wait(10 * TIMEOUT_UNIT_S)


async def _chat_with(port: int, path: str = "") -> None:
    url = f"ws://127.0.0.1:{port}/{path}"
    async with websockets.connect(url) as one, websockets.connect(url) as other:
        await one.send("hello")
        assert await other.recv() == "hello"
        assert await one.recv() == "hello"
        await one.close()
        assert one.close_code == 1000


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
