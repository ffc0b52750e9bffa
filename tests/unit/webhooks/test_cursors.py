"""The cursors of webhooks in a file."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import apsw
import pytest

from fastchat.errors import SettingError
from fastchat.protocol import Position
from fastchat.webhooks.cursors import FILE_NAME, Cursor, Cursors
from support.server import PATIENCE_S

ONE, TWO = (Cursor(Position("epoch", number, "2026")) for number in (1, 2))


def run(folder: Path | None, test: Callable[[Cursors], Awaitable[None]]) -> None:
    """Run a test with the cursors in a folder, which are closed afterwards."""

    async def run_test() -> None:
        cursors = Cursors(None if folder is None else folder / FILE_NAME)
        try:
            await test(cursors)
        finally:
            await cursors.close()

    asyncio.run(run_test())


def stored(folder: Path) -> list[tuple[str, str, int]]:
    db = apsw.Connection(str(folder / FILE_NAME), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        rows = db.execute("SELECT webhook, room, offset FROM cursors ORDER BY 1, 2").fetchall()
        return [(str(webhook), str(room), int(offset)) for webhook, room, offset in rows]
    finally:
        db.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110  # a thread makes it so
            await asyncio.sleep(0.005)


def test_cursors_survive(tmp_path: Path) -> None:
    """A later start reads what an earlier one has noted, and when failures began."""

    async def write(cursors: Cursors) -> None:
        cursors.note("shop", "lobby", ONE)
        cursors.note("shop", "lobby", TWO._replace(failing_since=1.5))
        cursors.note("other", "lobby", ONE)
        found = await cursors.load("shop", ["lobby", "kitchen"])
        assert found == {"lobby": TWO._replace(failing_since=1.5)}

    async def read(cursors: Cursors) -> None:
        rooms = ["lobby", *(f"room-{number}" for number in range(1200))]
        assert await cursors.load("shop", rooms) == {"lobby": TWO._replace(failing_since=1.5)}
        assert await cursors.load("other", rooms) == {"lobby": ONE}
        assert await cursors.load("third", rooms) == {}

    run(tmp_path, write)
    run(tmp_path, read)


def test_cursors_are_written_soon(tmp_path: Path) -> None:
    """A crash repeats the deliveries of a tenth of a second."""

    async def test(cursors: Cursors) -> None:
        cursors.note("shop", "lobby", ONE)
        await until(lambda: stored(tmp_path) == [("shop", "lobby", 1)])
        cursors.note("shop", "lobby", TWO)
        await until(lambda: stored(tmp_path) == [("shop", "lobby", 2)])

    run(tmp_path, test)


def test_webhook_begins_once(tmp_path: Path) -> None:
    """Rooms that have a cursor keep it, also if the webhook begins for other rooms."""

    async def test(cursors: Cursors) -> None:
        assert not await cursors.is_begun("shop", ".*")
        await cursors.begin("shop", ".*", {"lobby": ONE.position})
        assert await cursors.is_begun("shop", ".*")
        assert not await cursors.is_begun("shop", "order-.*")
        await cursors.begin("shop", "order-.*", {"lobby": TWO.position, "order-1": TWO.position})
        assert await cursors.load("shop", ["lobby", "order-1"]) == {"lobby": ONE, "order-1": TWO}

    run(None, test)


def test_file_that_cannot_be_written_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two lines of the log tell of it, however long it takes."""
    monkeypatch.setattr("fastchat.webhooks.cursors.RETRY_S", 0.01)

    async def test(cursors: Cursors) -> None:
        lock = apsw.Connection(str(tmp_path / FILE_NAME))
        cursors._db.set_busy_timeout(0)
        lock.execute("BEGIN IMMEDIATE")
        cursors.note("shop", "lobby", ONE)
        await until(lambda: bool(caplog.records))
        assert await cursors.load("shop", ["lobby"]) == {"lobby": ONE}
        lock.execute("ROLLBACK")
        lock.close()
        await until(lambda: stored(tmp_path) == [("shop", "lobby", 1)])
        await until(lambda: len(caplog.records) > 1)

    caplog.set_level("INFO", "fastchat.webhooks")
    run(tmp_path, test)
    assert [record.getMessage().partition(" be ")[0] for record in caplog.records] == [
        "the cursors of webhooks cannot",
        "the cursors of webhooks can",
    ]


def test_other_file_is_refused(tmp_path: Path) -> None:
    """The file of another program is not touched."""
    (tmp_path / FILE_NAME).write_bytes(b"not a database" * 100)
    with pytest.raises(SettingError, match=r"webhooks.db is damaged; move it away"):
        Cursors(tmp_path / FILE_NAME)
