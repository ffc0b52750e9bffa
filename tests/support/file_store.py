"""A real `FileStore` in a directory, and images for it."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastchat.files import File
from fastchat.files.store import FileStore
from fastchat.metrics import Metrics

PNG_HEAD = b"\x89PNG\r\n\x1a\n"


def png(width: int, height: int, rest: bytes = b"") -> bytes:
    """The beginning of a PNG of this size, and whatever else."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return PNG_HEAD + struct.pack(">I", 13) + b"IHDR" + header + bytes(4) + rest


class ManualClock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def new_store(data: Path, **changes: Any) -> FileStore:
    settings: dict[str, Any] = {
        "max_bytes": 1_000_000,
        "max_author_bytes": 10_000_000,
        "max_total_bytes": 100_000_000,
        "sync": False,
        "clock": time.time,
        "metrics": Metrics(),
    }
    return FileStore(data, **{**settings, **changes})


@contextlib.asynccontextmanager
async def opened_store(data: Path, **changes: Any) -> AsyncIterator[FileStore]:
    """A store for the length of a block; as a process that ends, it leaves what it was at."""
    store = new_store(data, **changes)
    try:
        yield store
    finally:
        await asyncio.to_thread(store.close)


async def put(
    store: FileStore,
    content: bytes,
    *,
    room: str = "lobby",
    author: str = "alice",
    name: str = "a.bin",
) -> File:
    """Share a file."""
    upload = await store.reserve(room, author, name, len(content))
    await upload.write(content)
    return await upload.finish()


async def get(store: FileStore, id: str) -> bytes | None:
    """The whole content of a file; None if there is none."""
    content = await store.open(id)
    if content is None:
        return None
    try:
        return await content.read(0, content.size + 1)
    finally:
        content.close()


def files_on_disk(data: Path) -> list[str]:
    """All that is there besides the index."""
    folder = data / "files"
    found = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return sorted(str(name) for name in found if not name.name.startswith("index.sqlite3"))
