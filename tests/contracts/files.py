"""Tests of the contract `fastchat.files.Files`, which every implementation must pass."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import pytest

from fastchat.errors import CommandError, ErrorCode
from fastchat.files import TICKET_S, File, Files
from support.file_store import get, png, put
from support.hub import on_loop

#: Files count in blocks of this size.
BLOCK = 4096


class Place(Protocol):
    """Where an implementation stores files."""

    def opened(self, **limits: int) -> AbstractAsyncContextManager[Files]:
        """Open the files of one more process, for the length of a block.

        The limits are `max_bytes`, `max_user_bytes` and `max_total_bytes`; by default, they are
        generous.
        """
        ...

    async def wait(self, seconds: float) -> None:
        """Let everything be so much older."""
        ...

    async def totals(self) -> tuple[int, int]:
        """The number of stored files, and how many bytes they count."""
        ...

    async def contents(self) -> int:
        """The number of contents, also of incoming files."""
        ...

    async def link(self, file: File) -> None:
        """Publish a message with a link to a file."""
        ...

    async def delete(self, file: File) -> None:
        """Delete a file."""
        ...

    async def damage(self, file: File, *, all: bool) -> None:
        """Remove the content of a file, or a part of it."""
        ...


async def refused(awaitable: Awaitable[object]) -> CommandError:
    """Return the error that an awaitable raises."""
    with pytest.raises(CommandError) as caught:
        await awaitable
    return caught.value


async def accepted(awaitable: Awaitable[object]) -> bool:
    """Whether an awaitable succeeds; it must not fail for another reason than a quota."""
    (outcome,) = await asyncio.gather(awaitable, return_exceptions=True)
    if isinstance(outcome, CommandError):
        assert outcome.code == ErrorCode.FORBIDDEN, outcome.message
    else:
        assert not isinstance(outcome, BaseException), outcome
    return not isinstance(outcome, CommandError)


class FilesContract:
    """A subclass provides the fixture `place`: a new place without files."""

    @on_loop
    async def test_written_file_is_stored(self, place: Place) -> None:
        """A file that is written in chunks is stored with its type, its size in pixels, a link."""
        content = png(640, 480, os.urandom(700_000))
        async with place.opened() as files:
            upload = await files.reserve("lobby", "alice", "../cat.png", len(content))
            for start in range(0, len(content), 30_000):
                await upload.write(content[start : start + 30_000])
            file = await upload.finish()
            assert await get(files, file.id) == content
            assert await files.stat(file.id) == (len(content), "image/png")
        assert file.link == f"/files/{file.id}/_cat.png?size={len(content)}&width=640&height=480"
        assert file.media_type == "image/png"
        assert await place.contents() == 1

    @on_loop
    async def test_any_part_can_be_read(self, place: Place) -> None:
        """A read returns bytes from its offset on, and nothing behind the end."""
        content = os.urandom(600_001)
        async with place.opened() as files:
            file = await put(files, content)
            opened = await files.open(file.id)
            assert opened is not None
            assert (opened.id, opened.size) == (file.id, len(content))
            for offset in (600_000, 300_000, 262_143, 0, 262_144, 555_555, 1):
                part = await opened.read(offset, 1000)
                assert part
                assert content[offset:].startswith(part)
                assert len(part) <= 1000
            assert await opened.read(600_001, 1000) == b""
            opened.close()

    @on_loop
    async def test_all_processes_have_the_same_files(self, place: Place) -> None:
        """A file that one process has stored can be read in every other, at the same time."""
        content = os.urandom(1_000_000)
        async with place.opened() as one, place.opened() as other:
            file = await put(one, content)
            found = await asyncio.gather(*(get(files, file.id) for files in (one, other) * 8))
            assert set(found) == {content}

    @on_loop
    async def test_unknown_file_does_not_exist(self, place: Place) -> None:
        """An id that no file has is None."""
        async with place.opened() as files:
            assert await files.open("a" * 32) is None
            assert await files.stat("a" * 32) is None

    @on_loop
    async def test_same_content_is_stored_once_in_a_room(self, place: Place) -> None:
        """The same content is one file in a room, for any sender and name; another elsewhere."""
        async with place.opened() as files:
            first = await put(files, b"content")
            again = await put(files, b"content", user="bob", name="b.txt")
            elsewhere = await put(files, b"content", room="den")
            assert (first.id, again.name) == (again.id, "b.txt")
            assert elsewhere.id != first.id
            assert await place.totals() == (2, 2 * BLOCK)
            assert await place.contents() == 2

    @on_loop
    async def test_same_content_can_be_sent_at_the_same_time(self, place: Place) -> None:
        """Several processes that receive the same file at once store it once."""
        content = os.urandom(300_000)
        async with place.opened() as one, place.opened() as other:
            sent = await asyncio.gather(*(put(files, content) for files in (one, other) * 4))
            assert len({file.id for file in sent}) == 1
            assert await get(one, sent[0].id) == content
        assert (await place.totals())[0] == 1
        assert await place.contents() == 1

    @on_loop
    async def test_files_outlive_a_process(self, place: Place) -> None:
        """After a restart, files can be read, and the same content has the same id."""
        async with place.opened() as files:
            file = await put(files, b"content")
        async with place.opened() as files:
            assert await get(files, file.id) == b"content"
            assert (await put(files, b"content")).id == file.id

    # Tickets

    @on_loop
    async def test_ticket_is_claimed_once(self, place: Place) -> None:
        """Of concurrent claims in several processes, one gets the writer."""
        async with place.opened() as one, place.opened() as other:
            ticket = (await one.reserve("lobby", "alice", "a.txt", 7)).ticket
            claims = await asyncio.gather(*(files.claim(ticket) for files in (other, one) * 10))
            (upload,) = [claim for claim in claims if claim is not None]
            assert (upload.room, upload.name, upload.size) == ("lobby", "a.txt", 7)
            await upload.write(b"content")
            file = await upload.finish()
            assert await get(one, file.id) == b"content"
            assert await one.claim(ticket) is None
            assert await one.find(ticket) is None

    @on_loop
    async def test_only_the_exact_ticket_is_valid(self, place: Place) -> None:
        """A part of a ticket, or a similar one, is unknown; finding a ticket does not use it."""
        async with place.opened() as files:
            ticket = (await files.reserve("lobby", "alice", "a.txt", 7)).ticket
            for wrong in ("", ticket[:-1], ticket.swapcase(), "\udcff"):
                assert await files.claim(wrong) is None
                assert await files.find(wrong) is None
            for _ in range(2):
                found = await files.find(ticket)
                assert found is not None
                assert (found.ticket, found.size) == (ticket, 7)

    @on_loop
    async def test_started_file_cannot_be_started_again(self, place: Place) -> None:
        """A file can be started by its first write or by a claim, but not by both."""
        async with place.opened() as files:
            upload = await files.reserve("lobby", "alice", "a.txt", 7)
            await upload.write(b"con")
            assert await files.claim(upload.ticket) is None
            second = await files.reserve("lobby", "alice", "b.txt", 7)
            claimed = await files.claim(second.ticket)
            assert claimed is not None
            await claimed.write(b"con")
            assert (await refused(second.write(b"x"))).code == ErrorCode.FORBIDDEN
            await second.abandon()  # it does not affect the writer that has started
            await upload.write(b"tent")
            await upload.finish()
            await claimed.write(b"tent")
            await claimed.finish()

    @on_loop
    async def test_ticket_expires(self, place: Place) -> None:
        """A ticket expires after TICKET_S, but a started file can be finished."""
        async with place.opened() as files:
            late = await files.reserve("lobby", "alice", "a.txt", 7)
            started = await files.reserve("lobby", "alice", "b.txt", 7)
            await started.write(b"con")
            await place.wait(TICKET_S - 60)
            claimed = await files.claim(late.ticket)
            assert claimed is not None
            await claimed.abandon()
            later = await files.reserve("lobby", "alice", "c.txt", 7)
            await place.wait(TICKET_S + 1)
            assert await files.claim(later.ticket) is None
            assert (await refused(later.write(b"x"))).code == ErrorCode.FORBIDDEN
            await started.write(b"tent")
            assert await get(files, (await started.finish()).id) == b"content"

    @on_loop
    async def test_tickets_are_withdrawn(self, place: Place) -> None:
        """The tickets of one user in one room end, except those of files that have started."""
        async with place.opened() as files:
            announced = await files.reserve("lobby", "alice", "a", 7)
            started = await files.reserve("lobby", "alice", "b", 7)
            elsewhere = await files.reserve("den", "alice", "c", 7)
            others = await files.reserve("lobby", "bob", "d", 7)
            await started.write(b"con")
            await files.withdraw("lobby", "alice")
            assert await files.find(announced.ticket) is None
            assert await files.find(elsewhere.ticket) is not None
            assert await files.find(others.ticket) is not None
            await started.write(b"tent")
            await started.finish()

    # Sizes

    @on_loop
    async def test_file_must_have_the_announced_size(self, place: Place) -> None:
        """Further bytes are refused at once, missing ones at the end; nothing is stored."""
        async with place.opened() as files:
            more = await files.reserve("lobby", "alice", "a", 3)
            await more.write(b"abc")
            assert (await refused(more.write(b"d"))).code == ErrorCode.TOO_LONG
            await more.abandon()
            less = await files.reserve("lobby", "alice", "b", 3)
            await less.write(b"ab")
            assert "1 bytes are missing" in (await refused(less.finish())).message
            await less.abandon()
            await less.abandon()
            unstarted = await files.reserve("lobby", "alice", "b", 3)
            assert (await refused(unstarted.finish())).code == ErrorCode.BAD_COMMAND
            assert await place.contents() == 0

    @on_loop
    async def test_too_large_file_is_refused(self, place: Place) -> None:
        """The largest file has `max_bytes`, or the quota of a user if that is less."""
        async with place.opened(max_bytes=100, max_user_bytes=2 * BLOCK) as files:
            assert files.max_bytes == 100
            await put(files, bytes(100))
            assert (await refused(files.reserve("lobby", "alice", "a", 101))).code == "too_long"
        async with place.opened(max_user_bytes=50) as files:
            assert files.max_bytes == 50

    # Quotas

    @on_loop
    async def test_user_has_a_quota(self, place: Place) -> None:
        """Announced files count, in all rooms and in whole blocks; abandoned files do not."""
        async with place.opened(max_user_bytes=3 * BLOCK) as files:
            await put(files, b"one")
            announced = await files.reserve("den", "alice", "a", 1)
            started = await files.reserve("den", "alice", "b", 1)
            await started.write(b"x")
            error = await refused(files.reserve("lobby", "alice", "c", BLOCK + 1))
            assert (error.code, error.temporary) == (ErrorCode.FORBIDDEN, False)
            assert "Your files use up your quota" in error.message
            await put(files, b"two", user="bob")
            await announced.abandon()
            await files.reserve("lobby", "alice", "c", BLOCK)
            await refused(files.reserve("lobby", "alice", "d", 1))
            await started.abandon()
            await refused(files.reserve("lobby", "alice", "d", BLOCK + 1))
            await files.reserve("lobby", "alice", "d", BLOCK)

    @on_loop
    async def test_announced_files_use_the_quota_until_they_expire(self, place: Place) -> None:
        """If announced files use up the quota, the error is temporary and says when to retry."""
        async with place.opened(max_user_bytes=3 * BLOCK) as files:
            await put(files, b"one")
            for name in "ab":
                await files.reserve("lobby", "alice", name, 1)
                await place.wait(100)
            for size, until_s in ((1, TICKET_S - 200), (2 * BLOCK, TICKET_S - 100)):
                error = await refused(files.reserve("lobby", "alice", "c", size))
                assert (error.code, error.temporary) == (ErrorCode.FORBIDDEN, True)
                assert error.retry_after_ms is not None
                assert 0 <= until_s * 1000 + 2 - error.retry_after_ms < 50_000
                assert "announced and did not send" in error.message
            assert not (await refused(files.reserve("lobby", "alice", "c", 3 * BLOCK))).temporary
            await place.wait(TICKET_S - 200)
            await files.reserve("lobby", "alice", "c", 1)

    @on_loop
    async def test_repeated_announcement_replaces_the_first(self, place: Place) -> None:
        """If the quota is used up, the same room, name and size replace an announcement."""
        async with place.opened(max_user_bytes=BLOCK) as files:
            first = await files.reserve("lobby", "alice", "a", 9)
            assert (await refused(files.reserve("lobby", "alice", "b", 9))).temporary
            assert (await refused(files.reserve("den", "alice", "a", 9))).temporary
            second = await files.reserve("lobby", "alice", "a", 9)
            assert await files.claim(first.ticket) is None
            await second.write(b"begun")
            error = await refused(files.reserve("lobby", "alice", "a", 9))
            assert not error.temporary, "an incoming file was replaced"

    @on_loop
    async def test_refused_announcement_replaces_nothing(self, place: Place) -> None:
        """If the quota has no place even then, an earlier announcement stays valid."""
        async with place.opened(max_user_bytes=2 * BLOCK) as files:
            first = await files.reserve("lobby", "alice", "a", BLOCK + 1)
        async with place.opened(max_user_bytes=BLOCK + 1) as files:
            await refused(files.reserve("lobby", "alice", "a", BLOCK + 1))
            assert await files.find(first.ticket) is not None

    @on_loop
    async def test_file_whose_answer_was_lost_can_be_sent_again(self, place: Place) -> None:
        """A repeated file counts once; another file of the same size is refused at its end."""
        async with place.opened(max_user_bytes=BLOCK) as files:
            file = await put(files, b"content")
            again = await files.reserve("lobby", "alice", "a.bin", 7)
            await refused(files.reserve("lobby", "alice", "a.bin", 8))
            await again.write(b"content")
            await refused(files.reserve("lobby", "alice", "a.bin", 7))  # one at a time
            assert await again.finish() == file
            ticket = (await files.reserve("lobby", "alice", "a.bin", 7)).ticket
            another = await files.claim(ticket)
            assert another is not None
            await another.write(b"another")
            assert (await refused(another.finish())).code == ErrorCode.FORBIDDEN
            await another.abandon()
            assert (await place.contents(), await place.totals()) == (1, (1, BLOCK))
            await place.link(file)
            await refused(files.reserve("lobby", "alice", "a.bin", 7))

    @on_loop
    async def test_expired_announcement_does_not_count(self, place: Place) -> None:
        """An announcement counts against its user's quota until its ticket expires."""
        async with place.opened(max_user_bytes=BLOCK) as files:
            await files.reserve("lobby", "alice", "a", 1)
            await refused(files.reserve("lobby", "alice", "b", 1))
            await place.wait(TICKET_S)
            await files.reserve("lobby", "alice", "b", 1)

    @on_loop
    async def test_all_users_have_a_quota(self, place: Place) -> None:
        """Stored and incoming files count, announced ones do not; it is checked at the start."""
        async with place.opened(max_total_bytes=3 * BLOCK) as files:
            uploads = [await files.reserve("lobby", str(n), "a", 2 * BLOCK) for n in range(20)]
            await uploads[0].write(b"x")
            error = await refused(uploads[1].write(b"x"))
            assert (error.code, "server's quota" in error.message) == (ErrorCode.FORBIDDEN, True)
            assert (await refused(files.claim(uploads[2].ticket))).code == ErrorCode.FORBIDDEN
            await refused(files.reserve("lobby", "new", "a", 2 * BLOCK))
            await put(files, b"small")
            await uploads[0].abandon()
            await uploads[1].write(bytes(2 * BLOCK))
            await uploads[1].finish()
            await refused(uploads[3].write(b"x"))
            assert await place.totals() == (2, 3 * BLOCK)
            assert await place.contents() == 2

    @on_loop
    async def test_processes_cannot_exceed_a_quota_together(self, place: Place) -> None:
        """Of files that begin in several processes at once, no more are accepted than fit."""
        limits = {"max_total_bytes": 5 * BLOCK}
        async with place.opened(**limits) as one, place.opened(**limits) as other:

            def send(files: Files, number: int) -> Awaitable[bool]:
                return accepted(put(files, b"%d" % number, user=f"user {number}"))

            sent = await asyncio.gather(
                *(send(files, number) for number, files in enumerate((one, other) * 10))
            )
            assert sent.count(True) <= 5
            while await send(one, 100 + sent.count(True)):
                sent.append(True)
            assert sent.count(True) == 5
        assert await place.totals() == (5, 5 * BLOCK)

    @on_loop
    async def test_processes_cannot_exceed_the_quota_of_a_user_together(self, place: Place) -> None:
        """Of announcements in several processes at once, no more are accepted than fit."""
        limits = {"max_user_bytes": 5 * BLOCK}

        def announce(files: Files, number: int) -> Awaitable[bool]:
            return accepted(files.reserve("lobby", "alice", f"{number}", 1))

        async with place.opened(**limits) as one, place.opened(**limits) as other:
            announced = await asyncio.gather(
                *(announce(files, number) for number, files in enumerate((one, other) * 10))
            )
            assert announced.count(True) == 5

    # Failures

    @on_loop
    async def test_abandoned_file_leaves_nothing(self, place: Place) -> None:
        """An abandoned file has no content and no valid ticket."""
        async with place.opened() as files:
            upload = await files.reserve("lobby", "alice", "a", 300_000)
            await upload.write(bytes(299_999))
            assert await place.contents() == 1
            await upload.abandon()
            assert await place.contents() == 0
            assert await files.claim(upload.ticket) is None
            assert (await refused(upload.write(b"t"))).code == ErrorCode.FORBIDDEN
            announced = await files.reserve("lobby", "alice", "a", 7)
            await announced.abandon()
            assert await files.find(announced.ticket) is None

    @on_loop
    async def test_damaged_content_is_replaced_by_a_new_upload(
        self, place: Place, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A missing or truncated content is logged and not served; a new upload stores it again."""
        async with place.opened() as files:
            file = await put(files, b"content")
            for all in (True, False):
                await place.damage(file, all=all)
                assert await get(files, file.id) is None
                assert "missing or damaged" in caplog.text
                assert await put(files, b"content") == file
                assert await get(files, file.id) == b"content"
                caplog.clear()

    @on_loop
    async def test_open_file_is_readable_after_its_deletion(self, place: Place) -> None:
        """A file that is open can be read to its end, even if it is deleted."""
        async with place.opened() as files:
            file = await put(files, b"content")
            content = await files.open(file.id)
            assert content is not None
            await place.delete(file)
            assert await content.read(3, 100) == b"tent"
            content.close()
            assert await get(files, file.id) is None

    @on_loop
    async def test_closed_files_refuse_all_calls(self, place: Place) -> None:
        """After `close`, every method raises `unavailable`, and `abandon` does not raise."""
        async with place.opened() as files:
            file = await put(files, b"content")
            upload = await files.reserve("lobby", "alice", "a", 300_000)
            await upload.write(b"con")
        for attempt in (
            upload.write(bytes(299_997)),
            files.reserve("lobby", "alice", "a", 7),
            files.claim(upload.ticket),
            files.open(file.id),
            files.stat(file.id),
        ):
            error = await refused(attempt)
            assert (error.code, error.temporary) == (ErrorCode.UNAVAILABLE, True)
        await files.withdraw("lobby", "alice")
        await upload.abandon()
