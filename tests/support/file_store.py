"""A real `FileStore` in a directory, and images to store in it."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastchat.files import File, Files
from fastchat.files.store import FileStore
from fastchat.metrics import Metrics

PNG_HEAD = b"\x89PNG\r\n\x1a\n"


def png(width: int, height: int, rest: bytes = b"") -> bytes:
    """Return the beginning of a PNG of this size in pixels, followed by `rest`."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return PNG_HEAD + struct.pack(">I", 13) + b"IHDR" + header + bytes(4) + rest


class ManualClock:
    """A clock that advances when a test changes `now`."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def new_store(data: Path, **changes: Any) -> FileStore:
    """Return a store with generous limits, except for those in `changes`."""
    settings: dict[str, Any] = {
        "max_bytes": 1_000_000,
        "max_user_bytes": 10_000_000,
        "max_total_bytes": 100_000_000,
        "sync": False,
        "clock": time.time,
        "metrics": Metrics(),
    }
    return FileStore(data, **{**settings, **changes})


@contextlib.asynccontextmanager
async def opened_store(data: Path, **changes: Any) -> AsyncIterator[FileStore]:
    """Open a store, and close it at the end of the block. It does not finish incoming files."""
    store = new_store(data, **changes)
    try:
        yield store
    finally:
        await asyncio.to_thread(store.close)


async def put(
    store: Files,
    content: bytes,
    *,
    room: str = "lobby",
    user: str = "alice",
    name: str = "a.bin",
) -> File:
    """Store a file."""
    upload = await store.reserve(room, user, name, len(content))
    await upload.write(content)
    return await upload.finish()


async def get(store: Files, id: str) -> bytes | None:
    """Return the whole content of a file; None if it does not exist."""
    content = await store.open(id)
    if content is None:
        return None
    found = bytearray()
    try:
        while part := await content.read(len(found), content.size + 1):
            found += part
    finally:
        content.close()
    return bytes(found)


def files_on_disk(data: Path) -> list[str]:
    """Return the paths of all files in the folder of files, except the index."""
    folder = data / "files"
    found = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return sorted(str(name) for name in found if not name.name.startswith("index.sqlite3"))
