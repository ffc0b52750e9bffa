"""Files by binary messages: how many at once, and how slowly. `test_chat.py` has the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from fastchat.errors import CommandError, ErrorCode
from fastchat.files.incoming import STALL_S, Incoming, IncomingFiles
from fastchat.files.transfers import PROGRESS_BYTES
from fastchat.limits.connections import ConnectionCount
from support.files_in_memory import Shelf


class Comings:
    """Incoming files that are stored in memory, and a clock that the test advances."""

    def __init__(self, **limits: int) -> None:
        self.now = 0.0
        self.shelf = Shelf()
        self.places = ConnectionCount(**limits)
        self.uploads = IncomingFiles(self.shelf, self.places, clock=lambda: self.now)

    async def announce(self, size: int, address: str = "A") -> Incoming:
        return await self.uploads.announce(self, address, "lobby", "alice", "a", size, "r")

    async def refused(self, incoming: Incoming, data: bytes) -> CommandError:
        with pytest.raises(CommandError) as caught:
            await self.uploads.take(incoming, data)
        return caught.value


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def test_one_address_has_a_share_of_the_places() -> None:
    """Who announces takes none, and one that is refused may be announced again."""

    async def test() -> None:
        comings = Comings(total=3, per_address=2)
        mine = [await comings.announce(2) for _ in range(3)]
        for incoming in mine[:2]:
            await comings.uploads.take(incoming, b"a")
        error = await comings.refused(mine[2], b"a")
        assert (error.code, error.temporary, error.ref) == (ErrorCode.UNAVAILABLE, True, "r")
        assert error.retry_after_ms is not None
        assert await comings.uploads.take(mine[2], b"b") is None  # what follows is dropped
        other = await comings.announce(2, "B")
        await comings.uploads.take(other, b"a")
        late = await comings.announce(2, "C")
        assert (await comings.refused(late, b"a")).code == ErrorCode.UNAVAILABLE
        assert comings.places.count == 3
        assert comings.shelf.states() == [*["reserved"] * 2, "abandoned", "reserved", "abandoned"]

    run(test)


@pytest.mark.parametrize("how", ["complete", "failed", "too long", "given up"])
def test_place_is_free_when_a_file_ends(how: str) -> None:
    """However it ends, and once."""

    async def test() -> None:
        comings = Comings(per_address=1)
        incoming = await comings.announce(2)
        await comings.uploads.take(incoming, b"a")
        assert comings.places.count == 1
        if how == "complete":
            assert await comings.uploads.take(incoming, b"b")
        elif how == "failed":
            comings.shelf.failure = CommandError(ErrorCode.UNAVAILABLE, "Disk.", temporary=True)
            await comings.refused(incoming, b"b")
            comings.shelf.failure = None
        elif how == "too long":
            await comings.refused(incoming, b"bc")
        else:
            comings.uploads.give_up(incoming)
            await comings.shelf.until(lambda: comings.shelf.states() == ["abandoned"])
        comings.uploads.give_up(incoming)
        await asyncio.sleep(0)
        assert comings.places.count == 0
        again = await comings.announce(1)
        assert await comings.uploads.take(again, b"a")

    run(test)


def test_byte_now_and_then_keeps_no_place() -> None:
    """So much has to come in so long, in pieces of any size; all of it may take as long as it
    likes."""

    async def test() -> None:
        comings = Comings()
        lazy, steady = await comings.announce(10**6), await comings.announce(10**6)
        for step in range(1, 31):
            await comings.uploads.take(lazy, b"x")
            await comings.uploads.take(steady, bytes(PROGRESS_BYTES // 8))
            comings.now += STALL_S / 10
            given_up = comings.uploads.sweep()
            assert given_up == ([lazy] if step == 10 else [])
        await comings.shelf.until(lambda: comings.shelf.states() == ["abandoned", "reserved"])
        assert comings.places.count == 1

    run(test)


def test_slow_disk_is_not_the_senders_fault() -> None:
    """What is being written is given its time."""

    async def test() -> None:
        comings = Comings()
        incoming = await comings.announce(10**6)
        await comings.uploads.take(incoming, b"x")
        comings.shelf.gate = asyncio.Event()
        writing = asyncio.create_task(comings.uploads.take(incoming, bytes(PROGRESS_BYTES)))
        await comings.shelf.until(lambda: comings.shelf.uploads[0].writes == 2)
        comings.now += 2 * STALL_S
        assert comings.uploads.sweep() == []
        comings.shelf.gate.set()
        await writing
        assert comings.uploads.sweep() == []

    run(test)
