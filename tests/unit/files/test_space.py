"""The space that files leave free for messages, on fake disks of any size."""

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
    """A disk of 1 GiB with `free` bytes for files, beside 64 MiB that are reserved for messages."""

    def __init__(self, free: int) -> None:
        self.free = free + reserved_for_messages(GIB)

    def __call__(self, folder: Path) -> Space:
        return Space(GIB, self.free)


async def refused(awaitable: object) -> CommandError:
    """Return the error that an awaitable raises."""
    with pytest.raises(CommandError) as caught:
        await awaitable  # type: ignore[misc]
    return caught.value


@pytest.mark.parametrize(
    ("total", "reserved"),
    [
        (8 * MIB, 2 * MIB),
        (256 * MIB, 64 * MIB),
        (GIB, 64 * MIB),
        (10 * GIB, 10 * GIB // 50),
        (50 * GIB, GIB),
        (10_000 * GIB, GIB),
    ],
)
def test_part_of_a_disk_is_reserved_for_messages(total: int, reserved: int) -> None:
    """A fiftieth of a disk within bounds is reserved, but at most a quarter of a small disk."""
    assert reserved_for_messages(total) == reserved


def test_real_disk_is_measured(tmp_path: Path) -> None:
    """A real disk has some free space, and less than its size."""
    space = space_of(tmp_path)
    assert 0 < space.free < space.total


@on_loop
async def test_file_that_does_not_fit_is_refused_and_later_accepted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that does not fit cannot be announced; the start and the end are logged once."""
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
async def test_missing_bytes_of_incoming_files_are_counted(tmp_path: Path) -> None:
    """The missing bytes of started files count, in all processes; announced files do not."""
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
        await first.write(bytes(100_000))  # these bytes are on the disk, so they are not missing
        await one.reserve("lobby", "bob", "b", 30_000)
        await second.abandon()
        await first.write(bytes(39_990))
        await first.finish()
        await one.reserve("lobby", "bob", "b", 280_000)


@on_loop
async def test_file_is_refused_if_the_disk_cannot_be_measured(tmp_path: Path) -> None:
    """A failed measurement is `unavailable`, like any failure of the disk."""

    def broken(folder: Path) -> Space:
        raise OSError("input/output error")

    async with opened_store(tmp_path, measure=broken) as store:
        error = await refused(store.reserve("lobby", "alice", "a", 1))
        assert (error.code, error.temporary) == (ErrorCode.UNAVAILABLE, True)


@pytest.mark.parametrize("room", [99_999, 100_000])
def test_limit_beyond_the_disk_is_logged_at_the_start(
    tmp_path: Path, room: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning is logged once if the disk cannot hold --max-files-bytes, and only then."""
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
