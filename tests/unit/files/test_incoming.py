"""Files by binary messages: the limits on concurrent transfers and on progress.

`tests/unit/chat/test_uploads.py` tests the commands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from fastchat.errors import CommandError, ErrorCode
from fastchat.files.incoming import STALL_S, Incoming, IncomingFiles
from fastchat.files.transfers import PROGRESS_BYTES
from fastchat.limits.connections import ConnectionCount
from support.files_in_memory import FilesInMemory


class IncomingSetup:
    """Incoming files that are stored in memory, and a clock that the test advances."""

    def __init__(self, **limits: int) -> None:
        self.now = 0.0
        self.files = FilesInMemory()
        self.transfers = ConnectionCount(**limits)
        self.incoming_files = IncomingFiles(self.files, self.transfers, clock=lambda: self.now)

    async def announce(self, size: int, address: str = "A") -> Incoming:
        return await self.incoming_files.announce(self, address, "lobby", "alice", "a", size, "r")

    async def refused(self, incoming: Incoming, data: bytes) -> CommandError:
        with pytest.raises(CommandError) as caught:
            await self.incoming_files.take(incoming, data)
        return caught.value


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def test_transfers_are_limited_in_total_and_for_each_address() -> None:
    """An announced file is no transfer; a file that exceeds a limit fails at its first bytes."""

    async def test() -> None:
        setup = IncomingSetup(total=3, per_address=2)
        mine = [await setup.announce(2) for _ in range(3)]
        for incoming in mine[:2]:
            await setup.incoming_files.take(incoming, b"a")
        error = await setup.refused(mine[2], b"a")
        assert (error.code, error.temporary, error.ref) == (ErrorCode.UNAVAILABLE, True, "r")
        assert error.retry_after_ms is not None
        assert (
            await setup.incoming_files.take(mine[2], b"b") is None
        )  # bytes after a failure are dropped
        other = await setup.announce(2, "B")
        await setup.incoming_files.take(other, b"a")
        late = await setup.announce(2, "C")
        assert (await setup.refused(late, b"a")).code == ErrorCode.UNAVAILABLE
        assert setup.transfers.count == 3
        assert setup.files.states() == [*["reserved"] * 2, "abandoned", "reserved", "abandoned"]

    run(test)


@pytest.mark.parametrize("how", ["complete", "failed", "too long", "given up"])
def test_file_that_ends_is_no_transfer_any_more(how: str) -> None:
    """A file stops counting as a transfer exactly once, however it ends."""

    async def test() -> None:
        setup = IncomingSetup(per_address=1)
        incoming = await setup.announce(2)
        await setup.incoming_files.take(incoming, b"a")
        assert setup.transfers.count == 1
        if how == "complete":
            assert await setup.incoming_files.take(incoming, b"b")
        elif how == "failed":
            setup.files.failure = CommandError(ErrorCode.UNAVAILABLE, "Disk.", temporary=True)
            await setup.refused(incoming, b"b")
            setup.files.failure = None
        elif how == "too long":
            await setup.refused(incoming, b"bc")
        else:
            setup.incoming_files.give_up(incoming)
            await setup.files.until(lambda: setup.files.states() == ["abandoned"])
        setup.incoming_files.give_up(incoming)
        await asyncio.sleep(0)
        assert setup.transfers.count == 0
        again = await setup.announce(1)
        assert await setup.incoming_files.take(again, b"a")

    run(test)


def test_file_without_progress_is_given_up() -> None:
    """A file must receive PROGRESS_BYTES in STALL_S, in chunks of any size, for any total time."""

    async def test() -> None:
        setup = IncomingSetup()
        slow, steady = await setup.announce(10**6), await setup.announce(10**6)
        for step in range(1, 31):
            await setup.incoming_files.take(slow, b"x")
            await setup.incoming_files.take(steady, bytes(PROGRESS_BYTES // 8))
            setup.now += STALL_S / 10
            given_up = setup.incoming_files.sweep()
            assert given_up == ([slow] if step == 10 else [])
        await setup.files.until(lambda: setup.files.states() == ["abandoned", "reserved"])
        assert setup.transfers.count == 1

    run(test)


def test_slow_disk_does_not_count_as_a_stall() -> None:
    """The deadline of a file does not run while its bytes are being written."""

    async def test() -> None:
        setup = IncomingSetup()
        incoming = await setup.announce(10**6)
        await setup.incoming_files.take(incoming, b"x")
        setup.files.unblocked = asyncio.Event()
        writing = asyncio.create_task(setup.incoming_files.take(incoming, bytes(PROGRESS_BYTES)))
        await setup.files.until(lambda: setup.files.writers[0].writes == 2)
        setup.now += 2 * STALL_S
        assert setup.incoming_files.sweep() == []
        setup.files.unblocked.set()
        await writing
        assert setup.incoming_files.sweep() == []

    run(test)
