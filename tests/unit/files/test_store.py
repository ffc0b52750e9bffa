"""Files on a disk: their contents, tickets, sizes, quotas and failures."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import time
from pathlib import Path

import apsw
import pytest

from fastchat.errors import CommandError, ErrorCode, SettingError
from fastchat.files import File, index
from fastchat.files.index import LAST_WAIT_S, TICKET_S
from fastchat.files.store import FileStore
from fastchat.history.directory import open_database
from fastchat.history.users import UserIds, user_key_of
from fastchat.protocol.users import guest_of, holder_of
from support.file_store import ManualClock, files_on_disk, get, new_store, opened_store, png, put
from support.hub import on_loop
from support.server import TIMEOUT_UNIT_S

#: Files count in blocks of this size.
BLOCK = 4096


async def refused(awaitable: object) -> CommandError:
    """Return the error that an awaitable raises."""
    with pytest.raises(CommandError) as caught:
        await awaitable  # type: ignore[misc]
    return caught.value


@on_loop
async def test_written_file_is_stored(tmp_path: Path) -> None:
    """A file that is written in chunks is stored with its type, its size in pixels and a link."""
    content = png(640, 480, os.urandom(100_000))
    async with opened_store(tmp_path) as store:
        upload = await store.reserve("lobby", "alice", "../cat.png", len(content))
        for start in range(0, len(content), 30_000):
            await upload.write(content[start : start + 30_000])
        file = await upload.finish()
        assert await get(store, file.id) == content
    assert file.link == f"/files/{file.id}/_cat.png?size={len(content)}&width=640&height=480"
    assert file.media_type == "image/png"
    assert files_on_disk(tmp_path) == [f"{file.id[:2]}/{file.id}"]
    assert (store.metrics.files_total, store.metrics.file_bytes_total) == (1, len(content))


@on_loop
async def test_only_the_servers_user_can_read_the_folder(tmp_path: Path) -> None:
    """Other users cannot read the index, whose ids give access to files."""
    async with opened_store(tmp_path) as store:
        await put(store, b"content")
    assert (tmp_path / "files").stat().st_mode & 0o777 == 0o700


@on_loop
async def test_same_content_is_stored_once_in_a_room(tmp_path: Path) -> None:
    """The same content is one file in a room, for any sender and name, and another elsewhere."""
    async with opened_store(tmp_path) as store:
        first = await put(store, b"content")
        again = await put(store, b"content", user="bob", name="b.txt")
        elsewhere = await put(store, b"content", room="den")
        assert (first.id, again.name) == (again.id, "b.txt")
        assert elsewhere.id != first.id
        assert store.index.totals() == (2, 2 * BLOCK)
        assert len(files_on_disk(tmp_path)) == 2


@on_loop
async def test_ids_of_two_servers_differ(tmp_path: Path) -> None:
    """Each server has a key, so an id cannot be computed from a content."""
    directories = [tmp_path / "a", tmp_path / "b"]
    for directory in directories:
        directory.mkdir()
    async with opened_store(directories[0]) as one, opened_store(directories[1]) as other:
        assert (await put(one, b"content")).id != (await put(other, b"content")).id


@on_loop
async def test_files_outlive_a_process(tmp_path: Path) -> None:
    """After a restart, files can be read, and the same content has the same id."""
    async with opened_store(tmp_path) as store:
        file = await put(store, b"content")
    async with opened_store(tmp_path) as store:
        assert await get(store, file.id) == b"content"
        assert (await put(store, b"content")).id == file.id


# Tickets


@on_loop
async def test_ticket_is_claimed_once(tmp_path: Path) -> None:
    """Of concurrent claims in several processes, one gets the writer."""
    async with opened_store(tmp_path) as one, opened_store(tmp_path) as other:
        ticket = (await one.reserve("lobby", "alice", "a.txt", 7)).ticket
        claims = await asyncio.gather(*(store.claim(ticket) for store in (other, one) * 10))
        (upload,) = [claim for claim in claims if claim is not None]
        assert (upload.room, upload.name, upload.size) == ("lobby", "a.txt", 7)
        await upload.write(b"content")
        file = await upload.finish()
        assert await get(one, file.id) == b"content"
        assert await one.claim(ticket) is None


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
async def test_started_file_cannot_be_started_again(tmp_path: Path) -> None:
    """A file can be started by its first write or by a claim, but not by both."""
    async with opened_store(tmp_path) as store:
        upload = await store.reserve("lobby", "alice", "a.txt", 7)
        await upload.write(b"con")
        assert await store.claim(upload.ticket) is None
        second = await store.reserve("lobby", "alice", "b.txt", 7)
        claimed = await store.claim(second.ticket)
        assert claimed is not None
        await claimed.write(b"con")
        assert (await refused(second.write(b"x"))).code == ErrorCode.FORBIDDEN
        await second.abandon()  # it does not affect the writer that has started
        await upload.write(b"tent")
        await upload.finish()
        await claimed.write(b"tent")
        await claimed.finish()


@on_loop
async def test_ticket_expires(tmp_path: Path) -> None:
    """A ticket expires after TICKET_S, but a started file can be finished."""
    clock = ManualClock()
    async with opened_store(tmp_path, clock=clock) as store:
        late = await store.reserve("lobby", "alice", "a.txt", 7)
        started = await store.reserve("lobby", "alice", "b.txt", 7)
        await started.write(b"con")
        clock.now += TICKET_S - 1
        claimed = await store.claim(late.ticket)
        assert claimed is not None
        await claimed.abandon()
        later = await store.reserve("lobby", "alice", "c.txt", 7)
        clock.now += TICKET_S + 1
        assert await store.claim(later.ticket) is None
        assert (await refused(later.write(b"x"))).code == ErrorCode.FORBIDDEN
        await started.write(b"tent")
        assert await get(store, (await started.finish()).id) == b"content"


# Sizes


@on_loop
async def test_file_must_have_the_announced_size(tmp_path: Path) -> None:
    """Further bytes are refused at once, missing ones at the end; nothing is stored."""
    async with opened_store(tmp_path) as store:
        more = await store.reserve("lobby", "alice", "a", 3)
        await more.write(b"abc")
        assert (await refused(more.write(b"d"))).code == ErrorCode.TOO_LONG
        await more.abandon()
        less = await store.reserve("lobby", "alice", "b", 3)
        await less.write(b"ab")
        assert "1 bytes are missing" in (await refused(less.finish())).message
        await less.abandon()
        await less.abandon()
        unstarted = await store.reserve("lobby", "alice", "b", 3)
        assert (await refused(unstarted.finish())).code == ErrorCode.BAD_COMMAND
        assert files_on_disk(tmp_path) == []


@on_loop
async def test_too_large_file_is_refused(tmp_path: Path) -> None:
    """The largest file has `max_bytes`, or the quota of a user if that is less."""
    async with opened_store(tmp_path, max_bytes=100, max_user_bytes=2 * BLOCK) as store:
        assert store.max_bytes == 100
        await put(store, bytes(100))
        assert (await refused(store.reserve("lobby", "alice", "a", 101))).code == "too_long"
    async with opened_store(tmp_path, max_user_bytes=50) as store:
        assert store.max_bytes == 50


# Quotas


@on_loop
async def test_user_has_a_quota(tmp_path: Path) -> None:
    """Announced files count, in all rooms and in whole blocks; abandoned files do not."""
    async with opened_store(tmp_path, max_user_bytes=3 * BLOCK) as store:
        await put(store, b"one")
        announced = await store.reserve("den", "alice", "a", 1)
        started = await store.reserve("den", "alice", "b", 1)
        await started.write(b"x")
        error = await refused(store.reserve("lobby", "alice", "c", BLOCK + 1))
        assert (error.code, error.temporary) == (ErrorCode.FORBIDDEN, False)
        assert "Your files use up your quota" in error.message
        await put(store, b"two", user="bob")
        await announced.abandon()
        await store.reserve("lobby", "alice", "c", BLOCK)
        await refused(store.reserve("lobby", "alice", "d", 1))
        await started.abandon()
        await refused(store.reserve("lobby", "alice", "d", BLOCK + 1))
        await store.reserve("lobby", "alice", "d", BLOCK)


@on_loop
async def test_announced_files_use_the_quota_until_they_expire(tmp_path: Path) -> None:
    """If announced files use up the quota, the error is temporary and says when to retry."""
    clock = ManualClock()
    async with opened_store(tmp_path, clock=clock, max_user_bytes=3 * BLOCK) as store:
        await put(store, b"one")
        for name in "ab":
            await store.reserve("lobby", "alice", name, 1)
            clock.now += 100
        for size, until_s in ((1, TICKET_S - 200), (2 * BLOCK, TICKET_S - 100)):
            error = await refused(store.reserve("lobby", "alice", "c", size))
            assert (error.code, error.temporary) == (ErrorCode.FORBIDDEN, True)
            assert error.retry_after_ms == pytest.approx(until_s * 1000, abs=2)
            assert "announced and did not send" in error.message
        assert not (await refused(store.reserve("lobby", "alice", "c", 3 * BLOCK))).temporary
        clock.now += TICKET_S - 200
        await store.reserve("lobby", "alice", "c", 1)


@on_loop
async def test_repeated_announcement_replaces_the_first(tmp_path: Path) -> None:
    """If the quota is used up, the same room, name and size replace an announcement."""
    async with opened_store(tmp_path, max_user_bytes=BLOCK) as store:
        first = await store.reserve("lobby", "alice", "a", 9)
        assert (await refused(store.reserve("lobby", "alice", "b", 9))).temporary
        assert (await refused(store.reserve("den", "alice", "a", 9))).temporary
        second = await store.reserve("lobby", "alice", "a", 9)
        assert await store.claim(first.ticket) is None
        await second.write(b"begun")
        error = await refused(store.reserve("lobby", "alice", "a", 9))
        assert not error.temporary, "an incoming file was replaced"


@on_loop
async def test_file_whose_answer_was_lost_can_be_sent_again(tmp_path: Path) -> None:
    """A repeated file counts once; another file of the same size is refused at its end."""
    async with opened_store(tmp_path, max_user_bytes=BLOCK) as store:
        file = await put(store, b"content")
        again = await store.reserve("lobby", "alice", "a.bin", 7)
        await refused(store.reserve("lobby", "alice", "a.bin", 8))
        await again.write(b"content")
        await refused(store.reserve("lobby", "alice", "a.bin", 7))  # one at a time
        assert await again.finish() == file
        another = await store.claim((await store.reserve("lobby", "alice", "a.bin", 7)).ticket)
        assert another is not None
        await another.write(b"another")
        assert (await refused(another.finish())).code == ErrorCode.FORBIDDEN
        await another.abandon()
        assert (len(files_on_disk(tmp_path)), store.index.totals()) == (1, (1, BLOCK))
        (known,) = store.index.files_of("lobby")
        store.index.mark_linked(known, "epoch", 1)
        await refused(store.reserve("lobby", "alice", "a.bin", 7))


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


@on_loop
async def test_expired_announcement_does_not_count(tmp_path: Path) -> None:
    """An announcement counts against its user's quota until its ticket expires."""
    clock = ManualClock()
    async with opened_store(tmp_path, clock=clock, max_user_bytes=BLOCK) as store:
        await store.reserve("lobby", "alice", "a", 1)
        await refused(store.reserve("lobby", "alice", "b", 1))
        clock.now += TICKET_S
        await store.reserve("lobby", "alice", "b", 1)


@on_loop
async def test_server_has_a_quota(tmp_path: Path) -> None:
    """Stored and incoming files count, announced ones do not; it is checked again at the start."""
    async with opened_store(tmp_path, max_total_bytes=3 * BLOCK) as store:
        uploads = [await store.reserve("lobby", str(n), "a", 2 * BLOCK) for n in range(20)]
        await uploads[0].write(b"x")
        error = await refused(uploads[1].write(b"x"))
        assert (error.code, "server's quota" in error.message) == (ErrorCode.FORBIDDEN, True)
        assert (await refused(store.claim(uploads[2].ticket))).code == ErrorCode.FORBIDDEN
        await refused(store.reserve("lobby", "new", "a", 2 * BLOCK))
        await put(store, b"small")
        await uploads[0].abandon()
        await uploads[1].write(bytes(2 * BLOCK))
        await uploads[1].finish()
        await refused(uploads[3].write(b"x"))
        assert store.index.totals() == (2, 3 * BLOCK)
        assert len(files_on_disk(tmp_path)) == 2


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


@on_loop
async def test_damaged_content_is_replaced_by_a_new_upload(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A missing or truncated content is logged and not served; a new upload stores it again."""
    async with opened_store(tmp_path) as store:
        file = await put(store, b"content")
        path = tmp_path / "files" / file.id[:2] / file.id
        for damage in (path.unlink, lambda: path.write_bytes(b"cont")):
            damage()
            assert await get(store, file.id) is None
            assert "missing or damaged" in caplog.text
            assert await put(store, b"content") == file
            assert await get(store, file.id) == b"content"


@on_loop
async def test_open_file_is_readable_after_its_deletion(tmp_path: Path) -> None:
    """A file that is open can be read to its end, even if it is deleted."""
    async with opened_store(tmp_path) as store:
        file = await put(store, b"content")
        content = await store.open(file.id)
        assert content is not None
        (known,) = store.index.files_of("lobby")
        assert store.index.delete(known, store.contents.remove)
        assert await content.read(3, 100) == b"tent"
        content.close()
        assert await get(store, file.id) is None


@on_loop
async def test_closed_store_refuses_all_calls(tmp_path: Path) -> None:
    """After `close`, writes and announcements raise `unavailable`, and `abandon` does not raise."""
    async with opened_store(tmp_path) as store:
        upload = await store.reserve("lobby", "alice", "a", 7)
        await upload.write(b"con")
    assert (await refused(upload.write(b"tent"))).code == ErrorCode.UNAVAILABLE
    assert (await refused(store.reserve("lobby", "alice", "a", 7))).temporary
    await upload.abandon()


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
