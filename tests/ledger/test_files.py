"""Tests of shared files in the ledger: the contract, links, failures, and the cache."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import pytest

from checker.nemesis import can_mount
from contracts.files import BLOCK, FilesContract, refused
from contracts.history import NOW_S, delete, draft, edit, react
from fastchat.cli import main
from fastchat.errors import CommandError, ErrorCode
from fastchat.files import UNLINKED_LIFETIME_S, File, Files, FileWriter
from fastchat.files.space import Space
from fastchat.ledger import LedgerError
from fastchat.ledger.appending import Limits
from fastchat.ledger.files import LedgerFiles, SpreadFiles, connection, spread, store
from fastchat.ledger.files.cache import Cache
from fastchat.ledger.files.contents import PIECE_BYTES
from fastchat.ledger.identity import Share, Witness
from fastchat.ledger.sharing import owner_of, settle
from fastchat.ledger.upkeep import Upkeep
from fastchat.ledger.url import EngineUrl, parse_url
from fastchat.metrics import Metrics
from fastchat.protocol import MessageDraft
from support.file_store import get, put
from support.ledger import Machine, in_loop, make_ledger, observer, until_in
from support.machines import chat_url
from support.postgresql import PostgreSQL
from support.server import PATIENCE_S
from support.wire import Wire

Result = TypeVar("Result")

KEPT, SLACK = 10, 2


def settings(cache: Path, **changes: Any) -> dict[str, Any]:
    return {
        "cache": cache,
        "witness": Witness,
        "max_bytes": 10_000_000,
        "max_user_bytes": 100_000_000,
        "max_total_bytes": 1_000_000_000,
        "metrics": Metrics(),
        "store_rate": 0,
        "read_rate": 0,
        **changes,
    }


@asynccontextmanager
async def opened_files(url: EngineUrl, cache: Path, **changes: Any) -> AsyncIterator[LedgerFiles]:
    """The files of a process, with generous limits except for those in `changes`."""
    files = LedgerFiles(url, **settings(cache, **changes))
    try:
        yield files
    finally:
        files.close()


class LedgerPlace:
    """A ledger, as the contract needs it. Each process has a machine of its own."""

    def __init__(self, url: EngineUrl, folder: Path) -> None:
        self._url = url
        self._folder = folder
        self._count = 0

    @asynccontextmanager
    async def opened(self, **limits: int) -> AsyncIterator[Files]:
        self._count += 1
        async with opened_files(
            self._url, self._folder / f"cache-{self._count}", **limits
        ) as files:
            yield files

    async def _execute(self, statement: str, *arguments: Any) -> None:
        async with observer(self._url) as db:
            await db.execute(statement, *arguments)

    async def wait(self, seconds: float) -> None:
        await self._execute(
            "UPDATE uploads SET expires = expires - make_interval(secs => $1)", seconds
        )

    async def totals(self) -> tuple[int, int]:
        async with observer(self._url) as db:
            return tuple(
                await db.fetchrow("SELECT sum(files)::int, sum(bytes)::int FROM file_changes")
            )

    async def contents(self) -> int:
        async with observer(self._url) as db:
            await db.fetch("SELECT * FROM tidy_1(0, 3600, 0, 1000000000)")
            return int(await db.fetchval("SELECT count(DISTINCT content) FROM pieces"))

    async def link(self, file: File) -> None:
        await self._execute("UPDATE files SET linked = true WHERE id = $1", file.id)

    async def delete(self, file: File) -> None:
        await self._execute("DELETE FROM files WHERE id = $1", file.id)

    async def damage(self, file: File, *, all: bool) -> None:
        if all:
            await self._execute("DELETE FROM pieces")
        else:
            await self._execute("UPDATE pieces SET data = substr(data, 2)")
        for copy in self._folder.rglob(file.id):
            copy.unlink()


class TestContract(FilesContract):
    @pytest.fixture
    def place(self, url: EngineUrl, tmp_path: Path) -> LedgerPlace:
        return LedgerPlace(url, tmp_path)


@asynccontextmanager
async def opened_spread_files(
    urls: Sequence[EngineUrl], folder: Path, **changes: int
) -> AsyncIterator[SpreadFiles]:
    """The files of a process on several ledgers."""

    def make(url: EngineUrl, share: Share) -> LedgerFiles:
        return LedgerFiles(url, **settings(folder / share.ledger, share=share, **changes))

    files = SpreadFiles(urls, make, max_bytes=changes.get("max_bytes", 10_000_000))
    try:
        yield files
    finally:
        files.close()


@in_loop
async def test_files_are_in_the_ledgers_of_their_rooms(
    urls: list[EngineUrl], tmp_path: Path
) -> None:
    """Every process finds them by the link, whatever the order of the URLs is; they go with the
    last message of their room."""
    async with (
        opened_spread_files(urls, tmp_path / "a") as one,
        opened_spread_files(urls[::-1], tmp_path / "b") as two,
    ):
        made = [await put(one, b"content", room=room) for room in "ab"]
        assert len({file.id for file in made}) == 2
        for file in made:
            assert await two.stat(file.id) == (7, "application/octet-stream")
            assert [await get(two, file.id), await get(one, file.id)] == [b"content"] * 2
        assert await two.stat("a" * 32) is await two.open("a" * 32) is None
        assert await two.find("ticket") is None
        writer = await two.reserve("b", "user", "name", 3)
        claimed = await one.claim(writer.ticket)
        assert claimed is not None
        assert await two.claim(writer.ticket) is None
        await claimed.write(b"abc")
        assert (await claimed.finish()).room == "b"
        waiting = await one.reserve("a", "user", "name", 3)
        await two.withdraw("a", "user")
        assert await two.claim(waiting.ticket) is None
        counts = []
        for url in urls:
            async with observer(url) as db:
                counts.append(await db.fetchval("SELECT count(*) FROM files"))
                await db.execute("DELETE FROM files")
        assert counts == [2, 1]
        assert await get(two, made[0].id) is None


@in_loop
async def test_files_of_a_lost_ledger_are_unavailable(
    server: PostgreSQL, own_server: PostgreSQL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the other ledgers are served. A file that nobody has found is not missing for
    certain. A process that starts meanwhile finds the ledger when it is back."""
    monkeypatch.setattr(connection, "PATIENCE_S", 0.2)
    monkeypatch.setattr(spread, "RETRY_S", 0.0)
    urls = [parse_url(chat_url(each)) for each in (server, own_server)]
    ledgers = [share.ledger for _, share in await settle(urls) if share is not None]
    here, there = (
        next(room for room in map(str, range(100)) if owner_of(room, ledgers) == ledger)
        for ledger in ledgers
    )
    async with opened_spread_files(urls, tmp_path / "a") as one:
        made = [await put(one, b"content", room=room) for room in (here, there)]
        await asyncio.to_thread(own_server.kill)
        async with opened_spread_files(urls, tmp_path / "b") as two:
            for files in (one, two):
                assert await files.stat(made[0].id) is not None
                assert (await refused(files.stat(made[1].id))).code == ErrorCode.UNAVAILABLE
                assert (await refused(files.find("ticket"))).code == ErrorCode.UNAVAILABLE
                reserving = files.reserve(there, "user", "name", 3)
                assert (await refused(reserving)).code == ErrorCode.UNAVAILABLE
                await files.withdraw(there, "user")
                await files.withdraw(here, "user")
            await asyncio.to_thread(own_server.start)
            for files in (one, two):
                async with asyncio.timeout(PATIENCE_S):
                    while not await is_available(files.stat(made[1].id)):  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
                assert await get(files, made[1].id) == b"content"
    assert (await refused(one.stat("a" * 32))).code == ErrorCode.UNAVAILABLE


async def is_available(asked: Coroutine[Any, Any, object]) -> bool:
    """Whether a question has an answer."""
    with contextlib.suppress(CommandError):
        return await asked is not None
    return False


# Links


@asynccontextmanager
async def opened(url: EngineUrl, name: str = "one") -> AsyncIterator[Machine]:
    machine = Machine(url, Limits(stored=KEPT, slack=SLACK), name)
    await machine.session.open()
    try:
        yield machine
    finally:
        await machine.session.close()


def linking(file: File, *, room: str = "lobby") -> MessageDraft:
    return draft(f"Look: {file.link} and {file.link}", room=room)


@in_loop
async def test_file_goes_with_its_last_message(url: EngineUrl, tmp_path: Path) -> None:
    """When the last message with a link is deleted, the file is gone on every machine, at once."""
    async with (
        opened(url) as machine,
        opened_files(url, tmp_path / "a") as one,
        opened_files(url, tmp_path / "b") as two,
    ):
        file = await put(one, b"content")
        await machine.append(linking(file), linking(file))
        for files in (one, two):
            assert await get(files, file.id) == b"content"
        await machine.append(delete(1, room="lobby"))
        assert await get(two, file.id) == b"content"
        await machine.append(delete(2, room="lobby"))
        for files in (one, two):
            assert await get(files, file.id) is None
            assert await files.stat(file.id) is None
        assert not copies(tmp_path), "a copy of a deleted file was kept"


@in_loop
async def test_edit_can_remove_or_add_a_link(url: EngineUrl, tmp_path: Path) -> None:
    """A file goes with its link, and is kept by a link that an edit has added. A reaction changes
    nothing."""
    async with opened(url) as machine, opened_files(url, tmp_path) as files:
        first, second = await put(files, b"first"), await put(files, b"second")
        await machine.append(linking(first), draft("and", room="lobby"))
        await machine.append(react(1, room="lobby"))
        await machine.append(edit(2, f"and {second.link}", room="lobby"))
        await machine.append(edit(1, "nothing", room="lobby"))
        assert await files.stat(first.id) is None
        assert await files.stat(second.id) is not None
        await machine.append(edit(2, f"still {second.link}", room="lobby"))
        assert await files.stat(second.id) is not None
        await machine.append(delete(2, room="lobby"))
        assert await files.stat(second.id) is None


@in_loop
async def test_file_goes_with_messages_that_are_dropped(url: EngineUrl, tmp_path: Path) -> None:
    """A file goes when its message is dropped, for their number or their age."""
    async with opened(url) as machine, opened_files(url, tmp_path) as files:
        file = await put(files, b"content")
        old = await put(files, b"content", room="old")
        await machine.append(linking(file), linking(old, room="old"))
        await machine.append(*(draft("more", room="lobby") for _ in range(KEPT + SLACK)))
        assert await files.stat(file.id) is None
        assert await files.stat(old.id) is not None
        await upkeep(machine, now=NOW_S + 100, max_age_s=60).tick()
        assert await files.stat(old.id) is None


@in_loop
async def test_link_that_moves_keeps_its_file(url: EngineUrl, tmp_path: Path) -> None:
    """If one commit removes the last link and adds another, in either order, the file stays."""
    async with opened(url) as machine, opened_files(url, tmp_path) as files:
        file = await put(files, b"content")
        await machine.append(linking(file))
        await machine.append(delete(1, room="lobby"), linking(file))
        await machine.append(linking(file), delete(3, room="lobby"))
        assert await files.stat(file.id) is not None
        await machine.append(delete(4, room="lobby"))
        assert await files.stat(file.id) is None


@in_loop
async def test_link_in_another_room_does_not_count(url: EngineUrl, tmp_path: Path) -> None:
    """A file belongs to the room that it was sent to."""
    async with opened(url) as machine, opened_files(url, tmp_path) as files:
        file = await put(files, b"content")
        await machine.append(linking(file), linking(file, room="den"))
        await machine.append(delete(1, room="lobby"))
        assert await files.stat(file.id) is None


@in_loop
async def test_file_that_was_sent_again_waits_for_its_message(
    url: EngineUrl, tmp_path: Path
) -> None:
    """If the last message is deleted while somebody shares the same file again, it stays."""
    async with opened(url) as machine, opened_files(url, tmp_path) as files:
        file = await put(files, b"content")
        await machine.append(linking(file))
        await put(files, b"content", user="bob")
        await machine.append(delete(1, room="lobby"))
        assert await files.stat(file.id) is not None
        await machine.append(linking(file))
        await machine.append(delete(3, room="lobby"))
        assert await files.stat(file.id) is None


@in_loop
async def test_file_without_a_message_is_deleted_after_an_hour(
    url: EngineUrl, tmp_path: Path
) -> None:
    """A file that no message links to is deleted when it is an hour old, and its content soon
    after; another one that an older message links to is kept."""
    async with opened(url) as machine, opened_files(url, tmp_path) as files, observer(url) as db:
        unlinked, linked = await put(files, b"unlinked"), await put(files, b"linked")
        await machine.append(linking(linked))
        await put(files, b"linked")
        step = upkeep(machine)
        for seconds, is_there in ((UNLINKED_LIFETIME_S - 60, True), (60, False)):
            await db.execute(
                "UPDATE files SET uploaded = uploaded - make_interval(secs => $1)", seconds
            )
            await step.tick()
            assert (await files.stat(unlinked.id) is not None) is is_there
        assert await files.stat(linked.id) is not None
        assert await contents(db) == 3  # one was sent twice
        await db.execute("UPDATE discarded SET at = at - interval '6 s'")
        await step.tick()
        assert await contents(db) == 1
        assert await db.fetchval("SELECT count(*) FROM discarded") == 0
        metrics = step.metrics
        assert (metrics.kept_files, metrics.kept_file_bytes) == (1, BLOCK)
        assert metrics.deleted_files_total == 1


def upkeep(
    machine: Machine, *, now: float = NOW_S, max_age_s: float = 0.0, lost_s: float = 30.0
) -> Upkeep:
    return Upkeep(
        machine.session, clock=lambda: now, max_age_s=max_age_s, metrics=Metrics(), lost_s=lost_s
    )


@in_loop
async def test_totals_stay_few_rows(url: EngineUrl, tmp_path: Path) -> None:
    """The changes of the totals are summed up, and nothing is lost."""
    async with opened(url) as machine, opened_files(url, tmp_path) as files, observer(url) as db:
        await put(files, b"content")
        await db.execute("INSERT INTO file_changes SELECT 1, 4096 FROM generate_series(1, 200)")
        await upkeep(machine).tick()
        assert await db.fetch("SELECT files, bytes FROM file_changes") == [(201, 201 * BLOCK)]


# Processes that end, and a ledger that is lost


def copies(folder: Path) -> list[Path]:
    """The copies of contents below a folder."""
    return list(folder.rglob("?" * 32))


async def contents(db: asyncpg.Connection) -> int:
    return int(await db.fetchval("SELECT count(DISTINCT content) FROM pieces"))


@in_loop
async def test_upload_of_a_killed_process_is_removed(url: EngineUrl, tmp_path: Path) -> None:
    """When the process of an upload has ended, its pieces are deleted and nothing is stored; an
    upload of a process that lives is not touched, however slow it is."""
    async with opened(url) as machine, observer(url) as db:
        async with opened_files(url, tmp_path) as live:
            slow = await live.reserve("lobby", "alice", "a", 2 * PIECE_BYTES)
            await slow.write(bytes(PIECE_BYTES))
            killed = LedgerFiles(url, **settings(tmp_path))
            upload = await killed.reserve("lobby", "alice", "b", 2 * PIECE_BYTES)
            await upload.write(bytes(PIECE_BYTES))
            assert await contents(db) == 2
            killed.close()
            async with asyncio.timeout(PATIENCE_S):
                while await db.fetchval("SELECT count(*) FROM uploads") == 2:
                    await upkeep(machine, lost_s=0).tick()
            await db.execute("UPDATE discarded SET at = at - interval '6 s'")
            await upkeep(machine, lost_s=0).tick()
            assert await contents(db) == 1
            await slow.write(bytes(PIECE_BYTES))
            await slow.finish()
        assert await db.fetchval("SELECT count(*) FROM files") == 1


@in_loop
async def test_transfers_go_on_after_a_restart(own_server: PostgreSQL, tmp_path: Path) -> None:
    """If PostgreSQL is restarted, uploads and downloads under way go on. If it was killed, an
    upload goes on, or fails as a whole with a clear error."""
    url = await make_ledger(parse_url(own_server.url))
    async with opened_files(url, tmp_path) as files:
        for room, end in (("one", own_server.stop), ("two", own_server.crash)):
            content = os.urandom(3 * PIECE_BYTES)
            file = await put(files, content, room=room)
            upload = await files.reserve(room, "alice", "a", len(content))
            await upload.write(content[:-1])
            await asyncio.to_thread(end)
            ending = asyncio.create_task(finished(upload, content[:1]))
            reading = asyncio.create_task(get(files, file.id))
            await asyncio.to_thread(own_server.start)
            assert await reading == content
            (stored,) = await asyncio.gather(ending, return_exceptions=True)
            if isinstance(stored, CommandError) and end == own_server.crash:
                assert (stored.code, stored.temporary) == (ErrorCode.UNAVAILABLE, True)
                await upload.abandon()
            else:
                assert isinstance(stored, File), stored
                assert await get(files, stored.id) == content[:-1] + content[:1]
        async with observer(url) as db:
            assert await db.fetchval("SELECT count(*) FROM uploads") == 0
            assert await db.fetchval("SELECT bool_and(is_complete_1(content, size)) FROM files"), (
                "a file was stored by half"
            )


async def finished(upload: FileWriter, rest: bytes) -> File:
    await upload.write(rest)
    return await upload.finish()


@in_loop
async def test_upload_fails_while_the_ledger_is_away(
    own_server: PostgreSQL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If PostgreSQL stays away, the client gets `unavailable`; nothing is stored by half."""
    monkeypatch.setattr(connection, "PATIENCE_S", 0.3)
    url = await make_ledger(parse_url(own_server.url))
    async with opened_files(url, tmp_path) as files, opened(url) as machine:
        upload = await files.reserve("lobby", "alice", "a", 2 * PIECE_BYTES)
        await upload.write(bytes(PIECE_BYTES))
        await asyncio.to_thread(own_server.kill)
        error = await refused(upload.write(bytes(PIECE_BYTES)))
        assert (error.code, error.temporary) == (ErrorCode.UNAVAILABLE, True)
        await upload.abandon()
        assert (await refused(files.stat("a" * 32))).code == ErrorCode.UNAVAILABLE
        await asyncio.to_thread(own_server.start)
        async with observer(url) as db, asyncio.timeout(PATIENCE_S):
            assert await files.stat("a" * 32) is None  # connects, and gives up what was abandoned
            assert await db.fetchval("SELECT count(*) FROM files") == 0
            while await db.fetchval("SELECT count(*) FROM uploads"):
                with contextlib.suppress(LedgerError):
                    await upkeep(machine, lost_s=0).tick()


@in_loop
async def test_lost_answer_is_asked_for(url: EngineUrl, server: PostgreSQL, tmp_path: Path) -> None:
    """If an answer is lost, it is asked for again; a file is announced and stored once."""
    async with Wire(server.port) as wire:
        through = url._replace(dsn=url.dsn.replace(f":{server.port}/", f":{wire.port}/"))
        async with opened_files(through, tmp_path) as files, observer(url) as db:
            await put(files, b"another")  # so that the statements are prepared

            async def losing(step: Coroutine[Any, Any, Result], condition: str) -> Result:
                wire.loses_answers = True
                task = asyncio.create_task(step)
                await until_in(db, condition)
                wire.cut()
                wire.loses_answers = False
                return await task

            reserving = files.reserve("lobby", "alice", "a", PIECE_BYTES)
            upload = await losing(reserving, "count(*) = 1 FROM uploads")
            await upload.write(bytes(PIECE_BYTES))
            await put(files, b"a third")  # as above, on the new connection
            file = await losing(upload.finish(), "count(*) = 3 FROM files")
            assert await get(files, file.id) == bytes(PIECE_BYTES)
            assert await db.fetchval("SELECT count(*) FROM uploads") == 0


@pytest.fixture
def small_disk(own_server: PostgreSQL) -> Iterator[Path]:
    """An empty disk of 4 MB, for files of the server."""
    disk = own_server.home / "disk"
    disk.mkdir()
    if not can_mount(disk):
        pytest.skip("needs root, to mount a small disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=True)
    try:
        shutil.chown(disk, own_server.home.owner())
        yield disk
        own_server.stop()
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


@in_loop
async def test_full_disk_of_the_ledger(
    own_server: PostgreSQL, small_disk: Path, tmp_path: Path
) -> None:
    """If PostgreSQL has no space for a piece, the client learns it, and nothing is left; messages
    and other files go on."""
    url = await make_ledger(parse_url(own_server.url))
    filler = small_disk / "filler"
    filler.write_bytes(bytes(1_000_000))
    async with (
        observer(url) as db,
        opened(url) as machine,
        opened_files(url, tmp_path) as files,
    ):
        await db.execute(f"CREATE TABLESPACE small LOCATION '{small_disk}'")
        await db.execute("ALTER TABLE pieces SET TABLESPACE small")
        small = await put(files, bytes(1000))
        upload = await files.reserve("lobby", "alice", "a", 6_000_000)
        error = await refused(finished(upload, bytes(6_000_000)))
        assert (error.code, "disk has no space" in error.message) == (ErrorCode.UNAVAILABLE, True)
        assert files.metrics.full_disk_refusals_total == 1
        await upload.abandon()
        await machine.append(linking(small))
        assert await get(files, small.id) == bytes(1000)
        assert await db.fetchval("SELECT count(*) FROM uploads") == 0
        filler.unlink()
        again = await files.reserve("lobby", "alice", "a", 400_000)
        await finished(again, bytes(400_000))


@in_loop
async def test_cancelled_upload_leaves_nothing(url: EngineUrl, tmp_path: Path) -> None:
    """A request that is cancelled in the middle of a piece can be abandoned, and others go on."""
    async with opened_files(url, tmp_path) as files, observer(url) as db:
        upload = await files.reserve("lobby", "alice", "a", PIECE_BYTES)
        await upload.write(b"x")
        async with db.transaction():
            await db.execute("SELECT 1 FROM uploads FOR UPDATE")
            writing = asyncio.create_task(upload.write(bytes(PIECE_BYTES - 1)))
            await until_in(db, "count(*) > 0 FROM pg_locks WHERE NOT granted")
            writing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await writing
        await upload.abandon()
        assert await db.fetchval("SELECT count(*) FROM uploads") == 0
        file = await put(files, b"content")
        assert await get(files, file.id) == b"content"


@in_loop
async def test_upload_that_could_not_be_abandoned_ends_with_a_sweep(
    url: EngineUrl, tmp_path: Path
) -> None:
    """What a process owns and does not write any more is removed when it sweeps."""
    async with opened_files(url, tmp_path) as files, observer(url) as db:
        upload = await files.reserve("lobby", "alice", "a", 2 * PIECE_BYTES)
        other = await files.reserve("lobby", "alice", "a", 2 * PIECE_BYTES)
        for each in (upload, other):
            await each.write(bytes(PIECE_BYTES))
        files.claims.discard(upload._claim)
        await files.sweep()
        assert await db.fetchval("SELECT count(*) FROM uploads") == 1
        assert (await refused(upload.write(bytes(PIECE_BYTES)))).temporary
        await other.write(bytes(PIECE_BYTES))
        await other.finish()


# The cache


@in_loop
async def test_second_download_reads_no_piece(url: EngineUrl, tmp_path: Path) -> None:
    """A content that was read once is read from the machine's disk, for all of its processes."""
    content = os.urandom(2 * PIECE_BYTES + 1)
    async with opened_files(url, tmp_path) as one, opened_files(url, tmp_path) as other:
        file = await put(one, content)
        assert await get(one, file.id) == content
        async with observer(url) as db:
            await db.execute("DELETE FROM pieces")
        assert await get(other, file.id) == content
        (copy,) = copies(tmp_path)
        copy.write_bytes(content[:-1])
        assert await get(other, file.id) is None
        assert not copy.exists()


@in_loop
async def test_readers_share_a_copy(url: EngineUrl, tmp_path: Path) -> None:
    """Many who open the same new file at once read each piece from the ledger once."""
    content = os.urandom(4 * PIECE_BYTES)
    async with opened_files(url, tmp_path) as files:
        file = await put(files, content)
        read: list[int] = []
        piece = files.piece

        async def counted(content: int, n: int, size: int) -> bytes:
            read.append(n)
            return await piece(content, n, size)

        files.piece = counted  # type: ignore[method-assign]
        found = await asyncio.gather(*(get(files, file.id) for _ in range(20)))
        assert set(found) == {content}
        assert read == [0, 1, 2, 3]


@in_loop
async def test_part_far_from_the_start_is_read_at_once(url: EngineUrl, tmp_path: Path) -> None:
    """A range of a large file does not wait until all before it was copied."""
    content = os.urandom(12 * PIECE_BYTES)
    async with opened_files(url, tmp_path, read_rate=PIECE_BYTES) as files:
        file = await put(files, content)
        opened_file = await files.open(file.id)
        assert opened_file is not None
        async with asyncio.timeout(PATIENCE_S / 2):
            assert (
                await opened_file.read(11 * PIECE_BYTES, 100) == content[11 * PIECE_BYTES :][:100]
            )
        opened_file.close()


@in_loop
async def test_without_a_disk_contents_come_from_the_ledger(
    url: EngineUrl, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If there is no place for copies, downloads work; the log says so once."""
    (tmp_path / "file").touch()
    content = os.urandom(PIECE_BYTES + 1)
    async with opened_files(url, tmp_path / "file") as files:
        file = await put(files, content)
        for _ in range(2):
            assert await get(files, file.id) == content
    assert caplog.text.count("each download reads them from PostgreSQL") == 1


@in_loop
async def test_too_large_content_is_not_copied(url: EngineUrl, tmp_path: Path) -> None:
    """A content that would take a large part of the cache is not copied, nor on a full disk."""
    async with opened_files(url, tmp_path, cache_bytes=4000) as files:
        file = await put(files, bytes(1001))
        assert await get(files, file.id) == bytes(1001)
    assert not copies(tmp_path)
    full = Cache(tmp_path, measure=lambda folder: Space(1 << 30, 1 << 20))
    assert full.begin(1000) is None


def test_oldest_copies_go_first(tmp_path: Path) -> None:
    """A cache that is too large loses the copies that nobody has used for longest, and what a
    killed process has left."""
    cache = Cache(tmp_path, 16 * BLOCK)
    ids = [letter * 32 for letter in "abcdef"]
    for age, id in enumerate(reversed(ids)):
        copy = cache.begin(4 * BLOCK)
        assert copy is not None
        cache.write(copy, bytes(4 * BLOCK), 0)
        cache.keep(copy, id)
        cache.end(copy)
        os.utime(tmp_path / id[:2] / id, (NOW_S + age, NOW_S + age))
    descriptor = cache.open(ids[-1], 4 * BLOCK)  # it was the oldest
    assert descriptor is not None
    os.close(descriptor)
    (tmp_path / "incoming" / "7").touch()
    cache.shrink()
    assert sorted(cache.ids()) == ["a" * 32, "b" * 32, "f" * 32]
    assert os.listdir(tmp_path / "incoming") == []


@in_loop
async def test_sweep_removes_copies_of_deleted_files(url: EngineUrl, tmp_path: Path) -> None:
    """A copy does not stay for long after its file was deleted, even if nobody asks for it."""
    async with opened_files(url, tmp_path) as files, observer(url) as db:
        kept, deleted = await put(files, b"kept"), await put(files, b"deleted")
        for file in (kept, deleted):
            await get(files, file.id)
        await db.execute("DELETE FROM files WHERE id = $1", deleted.id)
        await files.sweep()
        assert [each.name for each in copies(tmp_path)] == [kept.id]


# The connection


@in_loop
async def test_nothing_is_connected_before_a_file_is_used(
    own_server: PostgreSQL, tmp_path: Path
) -> None:
    """A process that handles no files has no connection; one that does has one."""
    url = await make_ledger(parse_url(own_server.url))
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'fastchat'"
    async with observer(url) as db, opened_files(url, tmp_path) as files:
        assert await db.fetchval(count) == 0
        await asyncio.gather(*(put(files, b"%d" % number) for number in range(8)))
        assert await db.fetchval(count) == 1


@in_loop
async def test_rates_are_bounded(url: EngineUrl, tmp_path: Path) -> None:
    """All processes together store no faster than the rate allows, and each reads no faster."""
    rates = {"store_rate": 16 * PIECE_BYTES, "read_rate": 16 * PIECE_BYTES}
    content = os.urandom(4 * PIECE_BYTES)
    async with (
        opened_files(url, tmp_path, **rates) as one,
        opened_files(url, tmp_path, **rates) as two,
    ):
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        file, _ = await asyncio.gather(put(one, content), put(two, content, room="den"))
        stored_s = loop.time()
        # Each process can be a piece ahead.
        assert stored_s - begun_s >= 6 / 16
        await get(one, file.id)
        assert loop.time() - stored_s >= 3 / 16 - 0.01


@in_loop
async def test_upload_that_waits_too_long_is_refused(
    url: EngineUrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If more is sent than the rate allows, some uploads are asked to come back later."""
    monkeypatch.setattr(store, "LONGEST_WAIT_S", 0.1)
    async with opened_files(url, tmp_path, store_rate=PIECE_BYTES) as files:
        contents = (os.urandom(PIECE_BYTES) for _ in range(3))
        sent = await asyncio.gather(
            *(put(files, each) for each in contents), return_exceptions=True
        )
        (error,) = (each for each in sent if not isinstance(each, File))
        assert isinstance(error, CommandError), error
        assert (error.code, error.temporary) == (ErrorCode.UNAVAILABLE, True)
        assert error.retry_after_ms


# The command line


def test_files_are_counted(
    url: EngineUrl, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`fastchat files --engine` counts them, says that there are no orphans, and finds no files
    where there is no chat."""

    async def store_some() -> None:
        async with opened_files(url, tmp_path) as files:
            for number in range(3):
                await put(files, b"%d" % number)

    asyncio.run(store_some())
    assert main(["files", "--engine", url.shown]) == 0
    assert capsys.readouterr().out == f"3 shared files ({3 * BLOCK:,} bytes)\n"
    assert main(["files", "--engine", url.shown, "--delete-orphans"]) == 2
    assert "there are no orphans" in capsys.readouterr().err
    assert main(["files", "--engine", f"{url.shown}0"]) == 2
    assert f"has no schema '{url.schema}0'" in capsys.readouterr().err
    assert main(["files", "--engine", "postgresql://127.0.0.1:9/chat"]) == 1
    assert "PostgreSQL cannot be reached" in capsys.readouterr().err
