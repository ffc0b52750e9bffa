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
    """A binary message."""
    work = talk.chat.handle(talk.client(name), Chunk(data))
    assert work is not None
    await work


def test_announced_file_comes_in_pieces() -> None:
    """A ticket for what is announced, and with the last piece the file, both with the `ref`."""
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
        assert (writer.author, writer.data) == (
            talk.client("Alice").rooms["lobby"].author,
            b"abcdef",
        )

    run(test, files=files)


def test_binary_message_without_a_file_is_a_violation() -> None:
    """Before one is announced, after its last byte, and after its room was left."""
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


def test_server_without_files_says_so() -> None:
    """`joined` does not offer them, an `upload` is forbidden, a binary message a violation."""

    async def test(talk: Talk) -> None:
        assert "files" not in await talk.join("Alice")
        refusal = await talk.refused("Alice", type="upload", name="a", size=1)
        assert (refusal.code, refusal.temporary) == ("forbidden", False)
        with pytest.raises(Violation):
            await send(talk, "Alice", b"x")

    run(test)


def test_file_is_for_a_room_that_one_is_in() -> None:
    """An `upload` is held to what a message is; nothing is reserved."""
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


def test_next_upload_ends_the_one_that_has_begun() -> None:
    """Also where it is refused; one that has not begun may still be posted."""
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


def test_failed_file_is_told_once_and_what_still_comes_is_dropped() -> None:
    """Whoever sends does not wait to hear of each piece; it is not 1003 that he gets for them."""
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


def test_more_than_was_announced_is_refused() -> None:
    """Nothing of the file is kept, and no more of it is expected."""
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
def test_departure_gives_up_a_file_that_has_begun(begun: bool) -> None:
    """A ticket that was not used for binary messages is still good for a POST."""
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


def test_departure_within_a_piece_waits_for_it() -> None:
    """What is being written is not taken away from under it."""
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


def test_departure_while_a_file_is_announced_frees_its_place() -> None:
    """Nobody knows the ticket."""
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


def test_file_that_does_not_go_on_is_given_up() -> None:
    """Its sender is told, with the `ref`; others go on."""
    files = FilesInMemory()

    async def test(talk: Talk) -> None:
        await talk.join("Alice")
        await talk.join("Bob")
        await talk.do("Alice", type="upload", name="a", size=3, ref="r")
        await talk.do("Bob", type="upload", name="b", size=2)
        talk.chat.sweep()
        assert "error" not in talk.kinds("Alice")  # it may still be posted
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
