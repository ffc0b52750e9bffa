"""Files on a disk: their contents, tickets, sizes, quotas and failures."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest

from contracts.files import BLOCK, FilesContract, refused
from fastchat.errors import CommandError, ErrorCode, SettingError
from fastchat.files import File, index
from fastchat.files.contents import Contents
from fastchat.files.index import LAST_WAIT_S
from fastchat.files.store import FileStore
from fastchat.history.directory import open_database
from fastchat.history.users import UserIds, user_key_of
from fastchat.protocol.users import guest_of, holder_of
from support.file_store import ManualClock, files_on_disk, get, new_store, opened_store, put
from support.hub import on_loop
from support.server import TIMEOUT_UNIT_S


class DiskPlace:
    """A data directory, as the contract needs it."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._clock = ManualClock()

    @contextlib.asynccontextmanager
    async def opened(self, **limits: int) -> AsyncIterator[FileStore]:
        async with opened_store(self._data, clock=self._clock, **limits) as store:
            yield store

    async def wait(self, seconds: float) -> None:
        self._clock.now += seconds

    async def totals(self) -> tuple[int, int]:
        with self._index() as index:
            return index.totals()

    async def contents(self) -> int:
        return len(files_on_disk(self._data))

    async def link(self, file: File) -> None:
        with self._index() as index:
            (known,) = index.files_of(file.room)
            index.mark_linked(known, "epoch", 1)

    async def delete(self, file: File) -> None:
        with self._index() as index:
            (known,) = index.files_of(file.room)
            assert index.delete(known, Contents(self._data / "files").remove)

    async def damage(self, file: File, *, all: bool) -> None:
        path = Contents(self._data / "files").path_of(file.id)
        if all:
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-1])

    def _index(self) -> contextlib.closing[index.Index]:
        return contextlib.closing(index.Index(self._data / "files", clock=self._clock))


class TestContract(FilesContract):
    @pytest.fixture
    def place(self, tmp_path: Path) -> DiskPlace:
        return DiskPlace(tmp_path)


@on_loop
async def test_stored_file_is_at_the_path_of_its_id(tmp_path: Path) -> None:
    """A content is the only file in the folder, and the metrics count it."""
    content = os.urandom(100_000)
    async with opened_store(tmp_path) as store:
        file = await put(store, content)
    assert files_on_disk(tmp_path) == [f"{file.id[:2]}/{file.id}"]
    assert (tmp_path / "files" / file.id[:2] / file.id).read_bytes() == content
    assert (store.metrics.files_total, store.metrics.file_bytes_total) == (1, len(content))


@on_loop
async def test_only_the_servers_user_can_read_the_folder(tmp_path: Path) -> None:
    """Other users cannot read the index, whose ids give access to files."""
    async with opened_store(tmp_path) as store:
        await put(store, b"content")
    assert (tmp_path / "files").stat().st_mode & 0o777 == 0o700


@on_loop
async def test_ids_of_two_servers_differ(tmp_path: Path) -> None:
    """Each server has a key, so an id cannot be computed from a content."""
    directories = [tmp_path / "a", tmp_path / "b"]
    for directory in directories:
        directory.mkdir()
    async with opened_store(directories[0]) as one, opened_store(directories[1]) as other:
        assert (await put(one, b"content")).id != (await put(other, b"content")).id


# Tickets


@on_loop
async def test_index_contains_no_usable_ticket(tmp_path: Path) -> None:
    """Only the exact ticket can be claimed, and the index contains only its digest."""
    async with opened_store(tmp_path) as store:
        ticket = (await store.reserve("lobby", "alice", "a.txt", 7)).ticket
        for wrong in ("", ticket[:-1], ticket.swapcase(), "\udcff"):
            assert await store.claim(wrong) is None
    (content,) = {file.read_bytes() for file in (tmp_path / "files").glob("index.sqlite3")}
    assert ticket.encode() not in content
    db = apsw.Connection(str(tmp_path / "files" / "index.sqlite3"))
    assert ticket.encode() not in db.execute("SELECT ticket FROM uploads").fetchone()[0]


@on_loop
async def test_older_index_is_migrated(tmp_path: Path) -> None:
    """The stored and announced files of an older index stay, and count against their users."""
    guest, holder = guest_of("a-session-of-many-bytes"), holder_of("u-1")
    async with opened_store(tmp_path) as store:
        file = await put(store, b"content", user=guest)
        ticket = (await store.reserve("lobby", holder, "b", 7)).ticket
    db = apsw.Connection(str(tmp_path / "files" / "index.sqlite3"))
    for table in ("files", "uploads"):
        db.execute(f"DROP INDEX {table}_by_user")
        db.execute(f"ALTER TABLE {table} RENAME COLUMN user TO author")
        db.execute(f"CREATE INDEX {table}_by_author ON {table} (author, charge)")
    for table, column in (("uploads", "again"), ("files", "epoch"), ("files", "offset")):
        db.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    db.pragma("user_version", 1)
    db.close()
    history = open_database(tmp_path / "history.db", sync_commits=False)
    user_of = UserIds(user_key_of(history)).user_of
    history.close()
    async with opened_store(tmp_path, max_user_bytes=BLOCK) as store:
        for credential in (guest, holder):
            await refused(store.reserve("lobby", user_of(credential), "c", 8))
        assert await get(store, file.id) == b"content"
        claimed = await store.claim(ticket)
        assert claimed is not None
        await claimed.write(b"another")
        assert await get(store, (await claimed.finish()).id) == b"another"


# Failures


@on_loop
async def test_abandoned_file_leaves_nothing(tmp_path: Path) -> None:
    """An abandoned file has no content, no row, and no valid ticket."""
    async with opened_store(tmp_path) as store:
        upload = await store.reserve("lobby", "alice", "a", 7)
        await upload.write(b"con")
        assert files_on_disk(tmp_path) == ["incoming/1"]
        await upload.abandon()
        assert files_on_disk(tmp_path) == []
        assert await store.claim(upload.ticket) is None
        assert (await refused(upload.write(b"t"))).code == ErrorCode.FORBIDDEN
        assert store.index.started() == []


@on_loop
async def test_failure_to_store_is_logged_without_details_for_the_client(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If a content cannot be moved, the client receives `unavailable`, and nothing is left."""
    async with opened_store(tmp_path) as store:
        file = await put(store, b"content")
        (tmp_path / "files" / file.id[:2] / file.id).unlink()
        (tmp_path / "files" / file.id[:2]).rmdir()
        (tmp_path / "files" / file.id[:2]).write_text("in the way")
        upload = await store.reserve("lobby", "alice", "a", 7)
        await upload.write(b"content")
        error = await refused(upload.finish())
        assert (error.code, error.temporary) == (ErrorCode.UNAVAILABLE, True)
        assert str(tmp_path) not in error.message
        assert "cannot store or read a file" in caplog.text
        await upload.abandon()
        assert files_on_disk(tmp_path) == [file.id[:2]]


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda file: file.write_bytes(b"no database" * 1000), "is damaged"),
        (lambda file: _alter(file, "application_id", 1), "is not an index"),
        (lambda file: _alter(file, "user_version", 99), "newer fastchat"),
    ],
)
@on_loop
async def test_wrong_index_is_refused_at_the_start(
    tmp_path: Path, damage: object, sentence: str
) -> None:
    """The error says what is wrong and what to do, and the file is not changed."""
    async with opened_store(tmp_path):
        pass
    file = tmp_path / "files" / "index.sqlite3"
    damage(file)  # type: ignore[operator]
    before = file.read_bytes()
    with pytest.raises(SettingError, match=rf"--data: .*{sentence}.*; restore it.*--files off\.$"):
        new_store(tmp_path)
    assert file.read_bytes() == before


def _alter(file: Path, pragma: str, value: int) -> None:
    db = apsw.Connection(str(file))
    db.pragma(pragma, value)
    db.close()


@on_loop
async def test_stores_can_be_opened_concurrently(tmp_path: Path) -> None:
    """Of workers that start at the same time, one creates the index, and all use it."""
    stores: list[FileStore] = await asyncio.gather(
        *(asyncio.to_thread(new_store, tmp_path) for _ in range(8))
    )
    ids = {(await put(store, b"content")).id for store in stores}
    assert len(ids) == 1
    for store in stores:
        store.close()


# Files that are away


async def assert_unavailable(store: FileStore, file: File) -> None:
    """Nothing can be announced, stored or read."""
    for attempt in (
        store.reserve("lobby", "alice", "a.txt", 7),
        get(store, file.id),
        store.stat(file.id),
    ):
        assert (await refused(attempt)).code == ErrorCode.UNAVAILABLE


@pytest.mark.parametrize("name", ["", "files", "files/index.sqlite3", "files/index.sqlite3-wal"])
@on_loop
async def test_nothing_is_stored_while_the_index_is_away(tmp_path: Path, name: str) -> None:
    """While the directory, the folder or the index is away, files are `unavailable`, and nothing is
    created in its place; when it is back, files work."""
    data = tmp_path / "data"
    data.mkdir()
    async with opened_store(data) as store:
        file = await put(store, b"content")
        begun = await store.reserve("lobby", "alice", "b.txt", 7)
        await begun.write(b"con")
        path = data / name
        path.rename(tmp_path / "away")
        await assert_unavailable(store, file)
        with contextlib.suppress(CommandError):
            await begun.write(b"tent")
        assert (await refused(begun.finish())).code == ErrorCode.UNAVAILABLE
        assert not path.exists()
        (tmp_path / "away").rename(path)
        assert await get(store, file.id) == b"content"
        again = await put(store, b"another")
        assert await get(store, again.id) == b"another"


@on_loop
async def test_nothing_is_stored_beside_another_index(tmp_path: Path) -> None:
    """An older copy in the place of the folder is neither read nor changed."""
    data, copy = tmp_path / "files", tmp_path / "copy"
    async with opened_store(tmp_path) as store:
        file = await put(store, b"content")
        shutil.copytree(data, copy)
        data.rename(tmp_path / "away")
        copy.rename(data)
        before = {path: path.stat() for path in data.rglob("*")}
        await assert_unavailable(store, file)
        assert {path: path.stat() for path in data.rglob("*")} == before
        shutil.rmtree(data)
        (tmp_path / "away").rename(data)
        assert await get(store, file.id) == b"content"


@on_loop
async def test_store_that_may_not_create_waits_for_the_index(tmp_path: Path) -> None:
    """A worker does not create an index: it has one as soon as the relay has created it."""
    async with opened_store(tmp_path, create=False) as worker:
        reserved = worker.reserve("lobby", "alice", "a.txt", 7)
        assert (await refused(reserved)).code == ErrorCode.UNAVAILABLE
        assert not os.listdir(tmp_path)
        async with opened_store(tmp_path) as relay:
            file = await put(worker, b"content")
            assert await get(relay, file.id) == b"content"


# An index that another program has locked


@on_loop
async def test_downloads_do_not_wait_for_a_locked_index(tmp_path: Path) -> None:
    """While another program has locked the index, uploads wait and are refused, and downloads are
    as fast as ever; when the server stops, it does not wait for the lock."""
    store = new_store(tmp_path)
    file = await put(store, b"content")
    other = apsw.Connection(str(tmp_path / "files" / "index.sqlite3"))
    other.execute("BEGIN IMMEDIATE")
    try:
        uploads = [
            asyncio.ensure_future(refused(store.reserve("lobby", f"{n}", "a.txt", 7)))
            for n in range(8)
        ]
        await asyncio.sleep(0.05)
        begun = time.monotonic()
        for _ in range(20):
            assert await get(store, file.id) == b"content"
        assert time.monotonic() - begun < 1 * TIMEOUT_UNIT_S
        assert not any(upload.done() for upload in uploads)
        begun = time.monotonic()
        await asyncio.to_thread(store.close)
        assert time.monotonic() - begun < 8 * LAST_WAIT_S + 1 * TIMEOUT_UNIT_S
        assert {(await upload).code for upload in uploads} == {ErrorCode.UNAVAILABLE}
    finally:
        other.close()


@on_loop
async def test_folder_that_another_program_has_locked_is_not_waited_for_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A backup script can hold such a lock: the server starts, and has files when it ends."""
    monkeypatch.setattr(index, "LONGEST_WAIT_S", 0.05)
    (tmp_path / "files").mkdir()
    other = os.open(tmp_path / "files", os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    async with opened_store(tmp_path) as store:
        assert f"another program has locked {tmp_path / 'files'}" in caplog.text
        reserved = store.reserve("lobby", "alice", "a.txt", 7)
        assert (await refused(reserved)).code == ErrorCode.UNAVAILABLE
        os.close(other)
        file = await put(store, b"content")
        assert await get(store, file.id) == b"content"


@on_loop
async def test_upload_waits_for_another_process(tmp_path: Path) -> None:
    """An upload waits for the end of another process's transaction, and succeeds then."""
    async with opened_store(tmp_path) as store:
        await put(store, b"content")
        other = apsw.Connection(str(tmp_path / "files" / "index.sqlite3"))
        other.execute("BEGIN IMMEDIATE")
        upload = asyncio.ensure_future(put(store, b"another"))
        await asyncio.sleep(0.1)
        assert not upload.done()
        other.close()
        assert await get(store, (await upload).id) == b"another"
