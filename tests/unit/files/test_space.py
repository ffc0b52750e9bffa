"""How much of the disk files may take, on disks that are as large and as full as a test says."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from fastchat.errors import CommandError, ErrorCode
from fastchat.files.retention import Retention
from fastchat.files.space import Space, reserved_for_messages, space_of
from fastchat.metrics import Metrics
from support.file_store import files_on_disk, opened_store, put
from support.hub import on_loop

MIB, GIB = 1 << 20, 1 << 30


class FakeDisk:
    """A disk of 1 GiB, which keeps 64 MiB for messages."""

    def __init__(self, free: int) -> None:
        self.free = free + reserved_for_messages(GIB)

    def __call__(self, folder: Path) -> Space:
        return Space(GIB, self.free)


async def refused(awaitable: object) -> CommandError:
    with pytest.raises(CommandError) as caught:
        await awaitable  # type: ignore[misc]
    return caught.value


@pytest.mark.parametrize(
    ("total", "kept"),
    [
        (8 * MIB, 2 * MIB),
        (256 * MIB, 64 * MIB),
        (GIB, 64 * MIB),
        (10 * GIB, 10 * GIB // 50),
        (50 * GIB, GIB),
        (10_000 * GIB, GIB),
    ],
)
def test_part_of_a_disk_is_for_messages(total: int, kept: int) -> None:
    """Some of a large one, and a quarter of a small one."""
    assert reserved_for_messages(total) == kept


def test_real_disk_is_measured(tmp_path: Path) -> None:
    space = space_of(tmp_path)
    assert 0 < space.free < space.total


@on_loop
async def test_file_that_does_not_fit_is_refused_and_later_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Before a byte has come; it is logged once that it is so, and once that it is over."""
    disk = FakeDisk(free=99_999)
    async with opened_store(tmp_path, measure=disk) as store:
        for _ in range(3):
            error = await refused(store.reserve("lobby", "alice", "a", 100_000))
            assert (error.code, error.temporary) == (ErrorCode.UNAVAILABLE, True)
        assert store.metrics.full_disk_refusals_total == 3
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        disk.free += 100_000
        with caplog.at_level("INFO"):
            await put(store, bytes(100_000))
        assert "space for files again" in caplog.text


@on_loop
async def test_what_is_to_come_of_others_is_counted(tmp_path: Path) -> None:
    """By how much of it is missing still, and in all processes; what has not begun is not."""
    disk = FakeDisk(free=300_000)
    async with (
        opened_store(tmp_path, measure=disk) as one,
        opened_store(tmp_path, measure=disk) as other,
    ):
        first, second, third = [
            await store.reserve("lobby", "alice", "a", 140_000) for store in (one, other, other)
        ]
        await first.write(bytes(10))
        await second.write(bytes(10))
        error = await refused(third.write(bytes(10)))
        assert error.code == ErrorCode.UNAVAILABLE
        assert files_on_disk(tmp_path) == ["incoming/1", "incoming/2"]
        await refused(one.reserve("lobby", "bob", "b", 30_000))
        await first.write(bytes(100_000))  # as far as it is here the disk knows of it
        await one.reserve("lobby", "bob", "b", 30_000)
        await second.abandon()
        await first.write(bytes(39_990))
        await first.finish()
        await one.reserve("lobby", "bob", "b", 280_000)


@on_loop
async def test_disk_that_cannot_be_measured_takes_nothing(tmp_path: Path) -> None:
    """It is as one that fails."""

    def broken(folder: Path) -> Space:
        raise OSError("input/output error")

    async with opened_store(tmp_path, measure=broken) as store:
        error = await refused(store.reserve("lobby", "alice", "a", 1))
        assert (error.code, error.temporary) == (ErrorCode.UNAVAILABLE, True)


@pytest.mark.parametrize("room", [99_999, 100_000])
def test_limit_beyond_the_disk_is_told_at_the_start(
    tmp_path: Path, room: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, and not when the disk has what is allowed."""
    (tmp_path / "files").mkdir()
    retention = Retention(
        tmp_path,
        clock=time.time,
        metrics=Metrics(),
        max_total_bytes=100_000,
        measure=FakeDisk(free=room),
    )
    for _ in range(2):
        retention.sweep()
    assert caplog.text.count("--max-files-bytes") == (room < 100_000)
