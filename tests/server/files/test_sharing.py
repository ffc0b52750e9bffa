"""Files that clients share on real servers. The clients know docs/protocol.md only."""

from __future__ import annotations

import asyncio
import itertools
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
#: A GIF of one pixel (GIF89a).
GIF = bytes.fromhex("47494638396101000100800000ffffff0000002c00000000010001000002024401003b")


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two workers"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server of one process, or of two workers with a relay; the kernel chooses the worker."""
    data = tmp_path_factory.mktemp("data")
    with running_server("--data", str(data), "--workers", str(request.param)) as server:
        yield server


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run a test, which must end within TIMEOUT_S."""
    asyncio.run(asyncio.wait_for(test(), TIMEOUT_S))


#: Makes names different, because the name of a test that has just ended is kept for its user.
NUMBERS = itertools.count()


def connect(server: Server, username: str, room: str) -> Any:
    name = f"{username}-{next(NUMBERS)}"
    return websockets.connect(
        f"ws://127.0.0.1:{server.port}/ws?username={name}&room={room}", max_size=None
    )


async def receive(connection: ClientConnection, kind: str) -> dict[str, Any]:
    """Return the next event of a type. Skip the events in SKIPPED, and fail for all others."""
    while True:
        event: dict[str, Any] = json.loads(await connection.recv())
        assert event["type"] in (kind, *SKIPPED), event
        if event["type"] == kind:
            return event


SKIPPED = ("joined", "join", "leave", "message")


async def share(connection: ClientConnection, name: str, content: bytes) -> dict[str, Any]:
    """Announce and send a file, and return the event `file`."""
    await connection.send(json.dumps({"type": "upload", "name": name, "size": len(content)}))
    chunk_bytes = (await receive(connection, "upload"))["chunk_bytes"]
    for start in range(0, len(content), chunk_bytes):
        await connection.send(content[start : start + chunk_bytes])
    return await receive(connection, "file")


async def download(server: Server, link: str) -> tuple[bytes, Any]:
    """Return the content and the headers of a link, over a new connection."""

    def get() -> tuple[bytes, Any]:
        with urllib.request.urlopen(server.url + link, timeout=TIMEOUT_S) as response:
            return response.read(), response.headers

    return await asyncio.to_thread(get)


@pytest.mark.parametrize("size", [1, 65_536, 65_537, 5_000_000])
def test_client_downloads_the_file_of_another(server: Server, size: int) -> None:
    """A client that receives a link in a message downloads the exact content from any worker."""
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

    run(test)


def test_file_is_deleted_with_its_message(server: Server) -> None:
    """If a message is deleted right after it was sent, its file is deleted soon after."""

    async def test() -> None:
        async with connect(server, "Alice", "regrets") as alice:
            file = await share(alice, "a.txt", b"not for you")
            await alice.send(json.dumps({"text": file["link"]}))
            said = (await receive(alice, "message"))["offset"]
            await alice.send(json.dumps({"type": "delete", "offset": said}))
            await receive(alice, "delete")
        start_s = time.monotonic()
        while await status_of(server, file["link"]) != 404:
            assert time.monotonic() - start_s < 10 * TIMEOUT_UNIT_S, "the file still exists"

    run(test)


async def status_of(server: Server, link: str) -> int:
    """Return the status of a download."""
    try:
        await download(server, link)
    except urllib.error.HTTPError as refusal:
        return refusal.code
    return 200


def test_image_is_described_with_its_size(server: Server) -> None:
    """The event of an image has its type, width and height, and its type is served."""

    async def test() -> None:
        async with connect(server, "Alice", "images") as alice:
            file = await share(alice, "dot.gif", GIF)
            assert (file["media_type"], file["width"], file["height"]) == ("image/gif", 1, 1)
            got, headers = await download(server, file["link"])
            assert (got, headers["content-type"]) == (GIF, "image/gif")

    run(test)


def test_clients_share_files_concurrently(server: Server) -> None:
    """Each of several concurrent clients receives the link of its own file."""

    async def one(number: int) -> None:
        content = bytes([number]) * 300_000
        async with connect(server, f"User{number}", "many") as user:
            file = await share(user, f"{number}.bin", content)
            assert (await download(server, file["link"]))[0] == content

    async def test() -> None:
        await asyncio.gather(*(one(number) for number in range(8)))

    run(test)


def test_ticket_is_used_by_the_first_binary_message(server: Server) -> None:
    """A started file cannot be sent by `POST` with the same ticket."""

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

    run(test)


def test_ticket_is_used_by_a_post(server: Server) -> None:
    """Binary messages for a file that was sent by `POST` receive one error."""

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

    run(test)


def post(server: Server, upload: dict[str, Any], content: bytes) -> int:
    """Send a file over HTTP, and return the status."""
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
@pytest.mark.parametrize("how", ["client leaves", "server stops"])
def test_incomplete_file_leaves_nothing(tmp_path: Path, workers: str, how: str) -> None:
    """After a client leaves or the server stops, nothing is on the disk and no error in the log."""

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
        if how == "client leaves":
            await asyncio.to_thread(wait_until, lambda: sizes_of(tmp_path / "files") == [])
            assert await asyncio.to_thread(server.stop) == 0
        assert sizes_of(tmp_path / "files") == []
        assert "Traceback" not in server.errors
        assert "rror" not in server.errors

    with running_server("--data", str(tmp_path), "--workers", workers) as server:
        asyncio.run(asyncio.wait_for(test(server), TIMEOUT_S))


def sizes_of(folder: Path) -> list[int]:
    """Return the sizes of all files in a folder, except the index."""
    files = [each for each in folder.rglob("*") if each.is_file()]
    return [each.stat().st_size for each in files if not each.name.startswith("index")]


# The example


def test_example_shares_a_file(server: Server, tmp_path: Path) -> None:
    """The example prints the link, and the clients in the room receive it."""
    (tmp_path / "dot.gif").write_bytes(GIF)

    async def test() -> None:
        async with connect(server, "Bob", "lobby") as bob:
            address = f"ws://127.0.0.1:{server.port}/ws?username=Alice"
            process = await asyncio.to_thread(
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
            assert (process.returncode, process.stderr) == (0, "")
            assert (await receive(bob, "message"))["text"] == process.stdout.strip()
            assert (await download(server, process.stdout.strip()))[0] == GIF

    run(test)


def test_example_contains_the_code_of_the_documentation() -> None:
    """The Python code in docs/protocol.md is a part of the tested example."""
    reference = (ROOT / "docs" / "protocol.md").read_text("utf-8")
    (code,) = (part.partition("```")[0] for part in reference.split("```python\n")[1:])
    assert code in (ROOT / "examples" / "share_file.py").read_text("utf-8")
