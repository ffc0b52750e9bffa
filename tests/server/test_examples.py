"""The examples run as their descriptions say."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import websockets

from support.server import TIMEOUT_UNIT_S, wait_until

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
