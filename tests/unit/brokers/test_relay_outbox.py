"""The outbox: the records of a turn are written once, at its end."""

from __future__ import annotations

import asyncio

from fastchat.brokers.relay.outbox import Outbox


class Owner:
    """An owner that records each flush, and can add records during it."""

    def __init__(self) -> None:
        self.outbox = Outbox(self.flush)
        self.collected = b""
        self.written: list[bytes] = []

    def flush(self) -> None:
        if self.collected:
            self.outbox.add(self.collected)
        self.written.append(self.outbox.take())


def test_records_of_a_turn_are_one_write() -> None:
    """A turn's records are written once, however often a write is scheduled."""

    async def test() -> None:
        owner = Owner()
        for record in (b"1", b"2", b"3"):
            owner.outbox.add(record)
            owner.outbox.schedule()
        assert owner.written == []
        await asyncio.sleep(0)
        assert owner.written == [b"123"]
        await asyncio.sleep(0)
        owner.collected = b"4"
        owner.outbox.schedule()
        await asyncio.sleep(0)
        assert owner.written == [b"123", b"4"]

    asyncio.run(test())


def test_early_flush_writes_all_records() -> None:
    """Records that are added after an early flush are written at the end of the turn."""

    async def test() -> None:
        owner = Owner()
        owner.outbox.add(b"1")
        owner.outbox.schedule()
        owner.flush()
        owner.outbox.add(b"2")
        owner.outbox.schedule()
        assert owner.written == [b"1"]
        await asyncio.sleep(0)
        assert owner.written == [b"1", b"2"]
        await asyncio.sleep(0)
        assert owner.written == [b"1", b"2"]

    asyncio.run(test())


def test_cleared_outbox_is_empty() -> None:
    """Cleared records are not written to the next relay."""

    async def test() -> None:
        owner = Owner()
        owner.outbox.add(b"1")
        owner.outbox.clear()
        assert owner.outbox.take() == b""

    asyncio.run(test())
