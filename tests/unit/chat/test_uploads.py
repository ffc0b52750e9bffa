"""Clients share files by binary messages."""

from __future__ import annotations

import asyncio

import pytest

from fastchat.errors import CloseReason, CommandError, ErrorCode, Violation
from fastchat.files.incoming import STALL_S
from fastchat.protocol import Chunk
from support.chat import Talk, run
from support.files_in_memory import FilesInMemory


async def send(talk: Talk, name: str, data: bytes) -> None:
    """Send a binary message."""
    work = talk.chat.handle(talk.client(name), Chunk(data))
    assert work is not None
    await work


def test_announced_file_is_sent_in_pieces() -> None:
    """The announcement is answered with a ticket and the last piece with the file, both with the
    `ref`."""
    files = FilesInMemory()

    async def test(talk: Talk) -> None:
        assert (await talk.join("Alice"))["files"] == {"max_bytes": 1_000_000}
        talk.news("Alice")
        await talk.do("Alice", type="upload", name="a.txt", size=6, ref="r")
        (announced,) = talk.news("Alice")
        assert announced == {
            "type": "upload",
            "room": "lobby",
            "ticket": "ticket-0",
            "url": "/files",
            "chunk_bytes": 100,
            "ref": "r",
        }
        for data in (b"abc", b"", b"de"):
            await send(talk, "Alice", data)
            assert talk.news("Alice") == []
        await send(talk, "Alice", b"f")
        (file,) = talk.news("Alice")
        assert file == {
            "type": "file",
            "room": "lobby",
            "link": f"/files/{'i' * 32}/a.txt?size=6",
            "name": "a.txt",
            "size": 6,
            "media_type": "text/plain",
            "ref": "r",
        }
        (writer,) = files.writers
        assert (writer.user, writer.data) == (
            talk.client("Alice").rooms["lobby"].user,
            b"abcdef",
        )

    run(test, files=files)


def test_binary_message_without_a_file_is_a_violation() -> None:
    """It is one before an announcement, after the last byte, and after the room was left."""
    files = FilesInMemory()

    async def test(talk: Talk) -> None:
        async def is_violation() -> bool:
            with pytest.raises(Violation) as caught:
                await send(talk, "Alice", b"x")
            return caught.value.reason is CloseReason.UNEXPECTED_BINARY

        await talk.join("Alice")
        assert await is_violation()
        await talk.do("Alice", type="upload", name="a", size=1)
        await send(talk, "Alice", b"a")
        assert await is_violation()
        await talk.do("Alice", type="upload", name="b", size=2)
        await send(talk, "Alice", b"b")
        await talk.do("Alice", type="leave")
        assert await is_violation()
        await files.until(lambda: files.states() == ["finished", "abandoned"])

    run(test, files=files)


def test_server_without_files_refuses_uploads() -> None:
    """`joined` does not offer files, an `upload` is forbidden, and a binary message is a
    violation."""

    async def test(talk: Talk) -> None:
        assert "files" not in await talk.join("Alice")
        refusal = await talk.refused("Alice", type="upload", name="a", size=1)
        assert (refusal.code, refusal.temporary) == ("forbidden", False)
        with pytest.raises(Violation):
            await send(talk, "Alice", b"x")

    run(test)


def test_upload_needs_a_joined_room() -> None:
    """An `upload` needs the same rights as a message, and a refused one reserves nothing."""
    files = FilesInMemory()

    async def test(talk: Talk) -> None:
        refusal = await talk.refused("Alice", type="upload", name="a", size=1)
        assert refusal.code == "not_joined"
        await talk.join("Alice")
        refusal = await talk.refused("Alice", type="upload", name="a", size=1, room="other")
        assert refusal.code == "not_joined"
        await talk.join("Alice", "other")
        refusal = await talk.refused("Alice", type="upload", name="a", size=1)
        assert refusal.code == "bad_command"
        assert files.writers == []

    run(test, files=files)


def test_next_upload_ends_a_started_one() -> None:
    """It does so even if it is refused; an upload that has not started can still be posted."""
    files = FilesInMemory()

    async def test(talk: Talk) -> None:
        await talk.join("Alice")
        await talk.do("Alice", type="upload", name="a", size=2)
        await talk.do("Alice", type="upload", name="b", size=2)
        assert files.states() == ["reserved", "reserved"]
        await send(talk, "Alice", b"b")
        assert [writer.data for writer in files.writers] == [b"", b"b"]
        refusal = await talk.refused("Alice", type="upload", name="c", size=2_000_000)
        assert refusal.code == "too_long"
        assert files.states() == ["reserved", "abandoned"]
        with pytest.raises(Violation):
            await send(talk, "Alice", b"b")

    run(test, files=files)


def test_failed_upload_is_reported_once_and_later_pieces_are_dropped() -> None:
    """The client sends pieces without waiting, and is not disconnected with 1003 for those."""
    files = FilesInMemory()

    async def test(talk: Talk) -> None:
        await talk.join("Alice")
        await talk.do("Alice", type="upload", name="a", size=4, ref="r")
        await send(talk, "Alice", b"a")
        files.failure = CommandError(ErrorCode.UNAVAILABLE, "Disk.", temporary=True)
        with pytest.raises(CommandError) as caught:
            await send(talk, "Alice", b"b")
        assert (caught.value.code, caught.value.ref) == ("unavailable", "r")
        talk.news("Alice")
        files.failure = None
        await send(talk, "Alice", b"c")
        await send(talk, "Alice", b"d")
        assert talk.news("Alice") == []
        assert (files.states(), files.writers[0].data) == (["abandoned"], b"a")
        with pytest.raises(Violation):
            await send(talk, "Alice", b"e")

    run(test, files=files)


def test_upload_longer_than_announced_is_refused() -> None:
    """The file is not stored, and no more pieces of it are expected."""
    files = FilesInMemory()

    async def test(talk: Talk) -> None:
        await talk.join("Alice")
        await talk.do("Alice", type="upload", name="a", size=2)
        with pytest.raises(CommandError) as caught:
            await send(talk, "Alice", b"abc")
        assert caught.value.code == "too_long"
        assert files.states() == ["abandoned"]
        with pytest.raises(Violation):
            await send(talk, "Alice", b"d")

    run(test, files=files)


@pytest.mark.parametrize("begun", [True, False])
def test_disconnection_aborts_a_started_upload(begun: bool) -> None:
    """A ticket that was not used for binary messages stays valid for a POST."""
    files = FilesInMemory()

    async def test(talk: Talk) -> None:
        await talk.join("Alice")
        await talk.do("Alice", type="upload", name="a", size=2)
        if begun:
            await send(talk, "Alice", b"a")
        talk.depart("Alice")
        await asyncio.sleep(0)
        if begun:
            await files.until(lambda: files.states() == ["abandoned"])
        else:
            for _ in range(9):
                await asyncio.sleep(0)
        assert files.states() == ["abandoned" if begun else "reserved"]

    run(test, files=files)


def test_disconnection_waits_for_the_piece_being_written() -> None:
    """The file is not removed while a piece is being written to it."""
    files = FilesInMemory()

    async def test(talk: Talk) -> None:
        await talk.join("Alice")
        await talk.do("Alice", type="upload", name="a", size=2)
        files.unblocked = asyncio.Event()
        writing = asyncio.create_task(send(talk, "Alice", b"a"))
        await files.until(lambda: files.writers[0].writes == 1)
        talk.depart("Alice")
        for _ in range(3):
            await asyncio.sleep(0)
        assert files.states() == ["reserved"]
        files.unblocked.set()
        await writing
        await files.until(lambda: files.states() == ["abandoned"])
        assert files.writers[0].data == b"a"

    run(test, files=files)


def test_disconnection_during_an_announcement_frees_its_quota() -> None:
    """No client has the ticket, so the reserved space is freed."""
    files = FilesInMemory()

    async def test(talk: Talk) -> None:
        await talk.join("Alice")
        files.unblocked = asyncio.Event()
        announcing = asyncio.create_task(talk.do("Alice", type="upload", name="a", size=2))
        await asyncio.sleep(0)
        talk.depart("Alice")
        files.unblocked.set()
        await announcing
        assert files.states() == ["abandoned"]
        assert "upload" not in talk.kinds("Alice")

    run(test, files=files)


def test_stalled_upload_is_aborted() -> None:
    """Its sender gets an error with the `ref`, and other uploads go on."""
    files = FilesInMemory()

    async def test(talk: Talk) -> None:
        await talk.join("Alice")
        await talk.join("Bob")
        await talk.do("Alice", type="upload", name="a", size=3, ref="r")
        await talk.do("Bob", type="upload", name="b", size=2)
        talk.chat.sweep()
        assert "error" not in talk.kinds("Alice")  # it can still be posted
        await send(talk, "Alice", b"a")
        talk.now_s = STALL_S / 2
        await send(talk, "Bob", b"b")
        talk.chat.sweep()
        assert talk.kinds("Alice") == []
        talk.now_s = STALL_S
        talk.chat.sweep()
        (error,) = talk.news("Alice")
        assert (error["code"], error["temporary"], error["ref"]) == ("unavailable", True, "r")
        await files.until(lambda: files.states() == ["abandoned", "reserved"])
        await send(talk, "Alice", b"bc")
        talk.chat.sweep()
        await send(talk, "Bob", b"b")
        assert talk.kinds("Alice") == []
        assert files.states() == ["abandoned", "finished"]
        assert talk.metrics.refusals == {"unavailable": 1}

    run(test, files=files)
