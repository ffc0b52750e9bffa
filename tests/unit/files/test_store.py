"""Files on a disk: tickets, quotas, what is kept once, and what is kept of nothing."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import apsw
import pytest

from fastchat.errors import CommandError, ErrorCode, SettingError
from fastchat.files.index import TICKET_S
from fastchat.files.store import FileStore
from support.file_store import ManualClock, files_on_disk, get, new_store, opened_store, png, put
from support.hub import on_loop

BLOCK = 4096


async def refused(awaitable: object) -> CommandError:
    """What it is refused with."""
    with pytest.raises(CommandError) as caught:
        await awaitable  # type: ignore[misc]
    return caught.value


@on_loop
async def test_file_is_what_was_written(tmp_path: Path) -> None:
    """Piece by piece, with its type, its size in pixels and a link."""
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
async def test_files_are_for_the_servers_user_only(tmp_path: Path) -> None:
    """The index, too: with an id that is in it a file can be read."""
    async with opened_store(tmp_path) as store:
        await put(store, b"content")
    assert (tmp_path / "files").stat().st_mode & 0o777 == 0o700


@on_loop
async def test_same_content_is_kept_once_a_room(tmp_path: Path) -> None:
    """Whoever sends it, under whatever name; in another room its id says nothing of it."""
    async with opened_store(tmp_path) as store:
        first = await put(store, b"content")
        again = await put(store, b"content", author="bob", name="b.txt")
        elsewhere = await put(store, b"content", room="den")
        assert (first.id, again.name) == (again.id, "b.txt")
        assert elsewhere.id != first.id
        assert store.index.totals() == (2, 2 * BLOCK)
        assert len(files_on_disk(tmp_path)) == 2


@on_loop
async def test_ids_of_two_servers_differ(tmp_path: Path) -> None:
    """Who has a file does not know where it would be: the key is each server's own."""
    async with opened_store(tmp_path / "a") as one, opened_store(tmp_path / "b") as other:
        assert (await put(one, b"content")).id != (await put(other, b"content")).id


@on_loop
async def test_files_outlive_a_process(tmp_path: Path) -> None:
    async with opened_store(tmp_path) as store:
        file = await put(store, b"content")
    async with opened_store(tmp_path) as store:
        assert await get(store, file.id) == b"content"
        assert (await put(store, b"content")).id == file.id


# Tickets


@on_loop
async def test_ticket_is_claimed_once(tmp_path: Path) -> None:
    """In whichever process of the server, and by one only of those who try at once."""
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
async def test_only_a_ticket_is_one(tmp_path: Path) -> None:
    """The index keeps digests: who reads it has nothing to show."""
    async with opened_store(tmp_path) as store:
        ticket = (await store.reserve("lobby", "alice", "a.txt", 7)).ticket
        for wrong in ("", ticket[:-1], ticket.swapcase(), "\udcff"):
            assert await store.claim(wrong) is None
    (content,) = {file.read_bytes() for file in (tmp_path / "files").glob("index.sqlite3")}
    assert ticket.encode() not in content
    db = apsw.Connection(str(tmp_path / "files" / "index.sqlite3"))
    assert ticket.encode() not in db.execute("SELECT ticket FROM uploads").fetchone()[0]


@on_loop
async def test_ticket_that_writes_cannot_be_claimed(tmp_path: Path) -> None:
    """Nor the other way: a file comes one way."""
    async with opened_store(tmp_path) as store:
        upload = await store.reserve("lobby", "alice", "a.txt", 7)
        await upload.write(b"con")
        assert await store.claim(upload.ticket) is None
        second = await store.reserve("lobby", "alice", "b.txt", 7)
        claimed = await store.claim(second.ticket)
        assert claimed is not None
        await claimed.write(b"con")
        assert (await refused(second.write(b"x"))).code == ErrorCode.FORBIDDEN
        await second.abandon()  # of his own attempt, not of who came first
        await upload.write(b"tent")
        await upload.finish()
        await claimed.write(b"tent")
        await claimed.finish()


@on_loop
async def test_ticket_ends(tmp_path: Path) -> None:
    """After ten minutes, if nothing has come; what has begun goes on."""
    clock = ManualClock()
    async with opened_store(tmp_path, clock=clock) as store:
        late = await store.reserve("lobby", "alice", "a.txt", 7)
        begun = await store.reserve("lobby", "alice", "b.txt", 7)
        await begun.write(b"con")
        clock.now += TICKET_S - 1
        claimed = await store.claim(late.ticket)
        assert claimed is not None
        await claimed.abandon()
        later = await store.reserve("lobby", "alice", "c.txt", 7)
        clock.now += TICKET_S + 1
        assert await store.claim(later.ticket) is None
        assert (await refused(later.write(b"x"))).code == ErrorCode.FORBIDDEN
        await begun.write(b"tent")
        assert await get(store, (await begun.finish()).id) == b"content"


# Sizes


@on_loop
async def test_size_is_held_to_what_was_announced(tmp_path: Path) -> None:
    """More is refused when it comes, less at the end; nothing is kept of either."""
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
        unbegun = await store.reserve("lobby", "alice", "b", 3)
        assert (await refused(unbegun.finish())).code == ErrorCode.BAD_COMMAND
        assert files_on_disk(tmp_path) == []


@on_loop
async def test_no_file_is_larger_than_the_largest(tmp_path: Path) -> None:
    """Which is never more than a user may have at all."""
    async with opened_store(tmp_path, max_bytes=100, max_author_bytes=2 * BLOCK) as store:
        assert store.max_bytes == 100
        await put(store, bytes(100))
        assert (await refused(store.reserve("lobby", "alice", "a", 101))).code == "too_long"
    async with opened_store(tmp_path, max_author_bytes=50) as store:
        assert store.max_bytes == 50


# Quotas


@on_loop
async def test_author_may_have_so_much(tmp_path: Path) -> None:
    """What is announced counts, in all rooms, in whole blocks; what is abandoned does not."""
    async with opened_store(tmp_path, max_author_bytes=3 * BLOCK) as store:
        await put(store, b"one")
        announced = await store.reserve("den", "alice", "a", 1)
        begun = await store.reserve("den", "alice", "b", 1)
        await begun.write(b"x")
        error = await refused(store.reserve("lobby", "alice", "c", BLOCK + 1))
        assert (error.code, error.temporary) == (ErrorCode.FORBIDDEN, False)
        assert "Your files use up your quota" in error.message
        await put(store, b"two", author="bob")
        await announced.abandon()
        await store.reserve("lobby", "alice", "c", BLOCK)
        await refused(store.reserve("lobby", "alice", "d", 1))
        await begun.abandon()
        await refused(store.reserve("lobby", "alice", "d", BLOCK + 1))
        await store.reserve("lobby", "alice", "d", BLOCK)


@on_loop
async def test_what_was_only_announced_is_in_the_way_for_a_while(tmp_path: Path) -> None:
    """Its author is told until when, and not that he has shared too much: he has shared nothing."""
    clock = ManualClock()
    async with opened_store(tmp_path, clock=clock, max_author_bytes=3 * BLOCK) as store:
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
async def test_same_file_may_be_announced_again(tmp_path: Path) -> None:
    """In the place of the first, whose ticket is good no more; of another name it is another."""
    async with opened_store(tmp_path, max_author_bytes=BLOCK) as store:
        first = await store.reserve("lobby", "alice", "a", 9)
        assert (await refused(store.reserve("lobby", "alice", "b", 9))).temporary
        assert (await refused(store.reserve("den", "alice", "a", 9))).temporary
        second = await store.reserve("lobby", "alice", "a", 9)
        assert await store.claim(first.ticket) is None
        await second.write(b"begun")
        error = await refused(store.reserve("lobby", "alice", "a", 9))
        assert not error.temporary, "what comes already is nobody's to take"


@on_loop
async def test_file_whose_answer_was_lost_may_be_sent_again(tmp_path: Path) -> None:
    """It counts once. Who sends another of its size instead is refused at the end."""
    async with opened_store(tmp_path, max_author_bytes=BLOCK) as store:
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
        store.index.mark_linked(known)
        await refused(store.reserve("lobby", "alice", "a.bin", 7))


@on_loop
async def test_index_of_an_older_version_is_taken_over(tmp_path: Path) -> None:
    """What is in it stays, also what is on its way."""
    async with opened_store(tmp_path) as store:
        file = await put(store, b"content")
        ticket = (await store.reserve("lobby", "alice", "b", 7)).ticket
    db = apsw.Connection(str(tmp_path / "files" / "index.sqlite3"))
    db.execute("ALTER TABLE uploads DROP COLUMN again")
    db.pragma("user_version", 1)
    db.close()
    async with opened_store(tmp_path) as store:
        assert await get(store, file.id) == b"content"
        claimed = await store.claim(ticket)
        assert claimed is not None
        await claimed.write(b"another")
        assert await get(store, (await claimed.finish()).id) == b"another"


@on_loop
async def test_announcements_that_are_too_old_do_not_count(tmp_path: Path) -> None:
    clock = ManualClock()
    async with opened_store(tmp_path, clock=clock, max_author_bytes=BLOCK) as store:
        await store.reserve("lobby", "alice", "a", 1)
        await refused(store.reserve("lobby", "alice", "b", 1))
        clock.now += TICKET_S
        await store.reserve("lobby", "alice", "b", 1)


@on_loop
async def test_all_may_have_so_much(tmp_path: Path) -> None:
    """Checked again when a file begins: announcements alone keep nobody else out."""
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


# What fails


@on_loop
async def test_abandoned_file_leaves_nothing(tmp_path: Path) -> None:
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
async def test_content_that_cannot_be_placed_is_not_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`unavailable`, a line in the log without detail for the client, and nothing left."""
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
async def test_lost_content_is_no_file_and_comes_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk that has lost or cut it is told in the log; whoever sends it again mends it."""
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
async def test_open_file_is_read_to_its_end(tmp_path: Path) -> None:
    """Also when it is deleted meanwhile."""
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
async def test_closed_store_takes_nothing(tmp_path: Path) -> None:
    """Who comes after the end is told so, and what had begun is for the next start."""
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
    """With what to do about it; it stays as it was."""
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
async def test_stores_may_be_opened_at_once(tmp_path: Path) -> None:
    """The workers of a server begin together; one of them makes the index."""
    stores: list[FileStore] = await asyncio.gather(
        *(asyncio.to_thread(new_store, tmp_path) for _ in range(8))
    )
    ids = {(await put(store, b"content")).id for store in stores}
    assert len(ids) == 1
    for store in stores:
        store.close()
