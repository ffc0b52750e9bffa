"""Files from one client to another by docs/protocol.md alone, on real servers."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import websockets
from websockets.asyncio.client import ClientConnection

from support.server import TIMEOUT_UNIT_S, Server, running_server, wait_until

ROOT = Path(__file__).parents[3]
TIMEOUT_S = 30 * TIMEOUT_UNIT_S
#: The smallest GIF there is: one pixel (GIF89a, a specification of 1990).
GIF = bytes.fromhex("47494638396101000100800000ffffff0000002c00000000010001000002024401003b")


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two workers"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """One process with everything, and two with a relay: which serves whom is up to the kernel."""
    data = tmp_path_factory.mktemp("data")
    with running_server("--data", str(data), "--workers", str(request.param)) as server:
        yield server


def talk(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), TIMEOUT_S))


def connect(server: Server, username: str, room: str) -> Any:
    return websockets.connect(
        f"ws://127.0.0.1:{server.port}/ws?username={username}&room={room}", max_size=None
    )


async def receive(connection: ClientConnection, kind: str) -> dict[str, Any]:
    """The next message of a type; others are passed over, but for errors."""
    while True:
        event: dict[str, Any] = json.loads(await connection.recv())
        assert event["type"] in (kind, *PASSED_OVER), event
        if event["type"] == kind:
            return event


PASSED_OVER = ("joined", "join", "leave", "message")


async def share(connection: ClientConnection, name: str, content: bytes) -> dict[str, Any]:
    """Announce a file and send it; returns what the server says of it."""
    await connection.send(json.dumps({"type": "upload", "name": name, "size": len(content)}))
    chunk_bytes = (await receive(connection, "upload"))["chunk_bytes"]
    for start in range(0, len(content), chunk_bytes):
        await connection.send(content[start : start + chunk_bytes])
    return await receive(connection, "file")


async def download(server: Server, link: str) -> tuple[bytes, Any]:
    """By a new HTTP connection: what a browser gets for a link."""

    def get() -> tuple[bytes, Any]:
        with urllib.request.urlopen(server.url + link, timeout=TIMEOUT_S) as response:
            return response.read(), response.headers

    return await asyncio.to_thread(get)


@pytest.mark.parametrize("size", [1, 65_536, 65_537, 5_000_000])
def test_what_one_sends_the_other_downloads(server: Server, size: int) -> None:
    """Byte for byte, by the link in an ordinary message, whichever process has either."""
    content = os.urandom(size - 1) + b"\x00"

    async def test() -> None:
        async with (
            connect(server, "Alice", "files") as alice,
            connect(server, "Bob", "files") as bob,
        ):
            assert (await receive(bob, "joined"))["files"]["max_bytes"] >= size
            file = await share(alice, "a b?#%é.bin", content)
            assert (file["room"], file["size"]) == ("files", size)
            await alice.send(json.dumps({"text": f"Look: {file['link']}"}))
            link = (await receive(bob, "message"))["text"].removeprefix("Look: ")
            for _ in range(4):  # from any worker
                got, headers = await download(server, link)
                assert got == content
                assert headers["content-disposition"].startswith("attachment")

    talk(test)


def test_file_goes_with_its_message_at_once(server: Server) -> None:
    """Also when that is deleted right after it was sent, wherever the rooms are."""

    async def test() -> None:
        async with connect(server, "Alice", "regrets") as alice:
            file = await share(alice, "a.txt", b"not for you")
            await alice.send(json.dumps({"text": file["link"]}))
            said = (await receive(alice, "message"))["offset"]
            await alice.send(json.dumps({"type": "delete", "offset": said}))
            await receive(alice, "delete")
        began = time.monotonic()
        while await status_of(server, file["link"]) != 404:
            assert time.monotonic() - began < 10 * TIMEOUT_UNIT_S, "it is there still"

    talk(test)


async def status_of(server: Server, link: str) -> int:
    try:
        await download(server, link)
    except urllib.error.HTTPError as refusal:
        return refusal.code
    return 200


def test_image_is_told_with_its_size(server: Server) -> None:
    """So that a page may leave room for it."""

    async def test() -> None:
        async with connect(server, "Alice", "images") as alice:
            file = await share(alice, "dot.gif", GIF)
            assert (file["media_type"], file["width"], file["height"]) == ("image/gif", 1, 1)
            got, headers = await download(server, file["link"])
            assert (got, headers["content-type"]) == (GIF, "image/gif")

    talk(test)


def test_several_share_at_once(server: Server) -> None:
    """Each gets what is his."""

    async def one(number: int) -> None:
        content = bytes([number]) * 300_000
        async with connect(server, f"User{number}", "many") as user:
            file = await share(user, f"{number}.bin", content)
            assert (await download(server, file["link"]))[0] == content

    async def test() -> None:
        await asyncio.gather(*(one(number) for number in range(8)))

    talk(test)


def test_ticket_that_was_begun_with_is_no_good_for_a_post(server: Server) -> None:
    """It is for one attempt, by either way."""

    async def test() -> None:
        async with connect(server, "Alice", "tickets") as alice:
            await alice.send(json.dumps({"type": "upload", "name": "a", "size": 4}))
            upload = await receive(alice, "upload")
            await alice.send(b"ab")
            await alice.send(json.dumps({"type": "ping"}))
            assert json.loads(await alice.recv())["type"] == "pong"
            assert await asyncio.to_thread(post, server, upload, b"abcd") == 401
            await alice.send(b"cd")
            assert (await receive(alice, "file"))["size"] == 4

    talk(test)


def test_ticket_that_was_posted_with_is_no_good_for_binary_messages(server: Server) -> None:
    """Which get an error, once."""

    async def test() -> None:
        async with connect(server, "Alice", "tickets") as alice:
            await alice.send(json.dumps({"type": "upload", "name": "a", "size": 4, "ref": "r"}))
            upload = await receive(alice, "upload")
            assert await asyncio.to_thread(post, server, upload, b"abcd") == 201
            await alice.send(b"ab")
            error = json.loads(await alice.recv())
            assert (error["type"], error["ref"]) == ("error", "r")
            await alice.send(b"cd")
            await alice.send(json.dumps({"type": "ping"}))
            assert json.loads(await alice.recv())["type"] == "pong"

    talk(test)


def post(server: Server, upload: dict[str, Any], content: bytes) -> int:
    """Send a file by HTTP; returns the status."""
    request = urllib.request.Request(
        server.url + upload["url"],
        data=content,
        headers={
            "Authorization": f"Bearer {upload['ticket']}",
            "Content-Type": "application/octet-stream",
        },
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            status: int = response.status
            return status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("how", ["client goes", "server stops"])
def test_half_a_file_leaves_nothing(tmp_path: Path, workers: str, how: str) -> None:
    """Neither on the disk nor in the log, whoever ends the connection."""

    async def test(server: Server) -> None:
        async with connect(server, "Alice", "halves") as alice:
            await alice.send(json.dumps({"type": "upload", "name": "a", "size": 100_000}))
            await receive(alice, "upload")
            await alice.send(bytes(50_000))
            await alice.send(json.dumps({"type": "ping"}))
            await receive(alice, "pong")
            assert sizes_of(tmp_path / "files") == [50_000]
            if how == "server stops":
                assert await asyncio.to_thread(server.stop) == 0
        if how == "client goes":
            await asyncio.to_thread(wait_until, lambda: sizes_of(tmp_path / "files") == [])
            assert await asyncio.to_thread(server.stop) == 0
        assert sizes_of(tmp_path / "files") == []
        assert "Traceback" not in server.errors
        assert "rror" not in server.errors

    with running_server("--data", str(tmp_path), "--workers", workers) as server:
        asyncio.run(asyncio.wait_for(test(server), TIMEOUT_S))


def sizes_of(folder: Path) -> list[int]:
    """Of what is kept there, but for the index."""
    files = [each for each in folder.rglob("*") if each.is_file()]
    return [each.stat().st_size for each in files if not each.name.startswith("index")]


# The example


def test_example_shares_a_file(server: Server, tmp_path: Path) -> None:
    """It prints the link, and everybody in the room has it."""
    (tmp_path / "dot.gif").write_bytes(GIF)

    async def test() -> None:
        async with connect(server, "Bob", "lobby") as bob:
            address = f"ws://127.0.0.1:{server.port}/ws?username=Alice"
            run = await asyncio.to_thread(
                subprocess.run,
                [
                    sys.executable,
                    ROOT / "examples" / "share_file.py",
                    address,
                    tmp_path / "dot.gif",
                ],
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
            )
            assert (run.returncode, run.stderr) == (0, "")
            assert (await receive(bob, "message"))["text"] == run.stdout.strip()
            assert (await download(server, run.stdout.strip()))[0] == GIF

    talk(test)


def test_example_is_what_the_reference_says() -> None:
    """The program in docs/protocol.md is the heart of the one that is tested here."""
    reference = (ROOT / "docs" / "protocol.md").read_text("utf-8")
    (code,) = (part.partition("```")[0] for part in reference.split("```python\n")[1:])
    assert code in (ROOT / "examples" / "share_file.py").read_text("utf-8")
