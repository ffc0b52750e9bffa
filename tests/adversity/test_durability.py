"""No message that a client has seen is lost, although the server is killed again and again.

The short run is part of every test run; environment variables make it longer (`make soak`):
SOAK_KILLS, _CLIENTS, _LIBRARY_CLIENTS, _ROOMS, _DISCONNECTS (a second), _FULL_DISKS, _MOVES,
_RESTORES and _SEED.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest

from checker import Joined, Kind, check
from checker.nemesis import Disk, can_mount
from checker.run import Plan, run, summary


def setting(name: str, default: int) -> int:
    return int(os.environ.get(f"SOAK_{name}", default))


def test_no_anomaly_when_the_server_is_killed(tmp_path: Path) -> None:
    """Killed servers, broken and stopped clients and full disks cause no anomaly."""
    kills = setting("KILLS", 4)
    plan = Plan(
        seed=setting("SEED", random.randrange(1 << 32)),
        clients=setting("CLIENTS", 40),
        library_clients=setting("LIBRARY_CLIENTS", 6),
        rooms=setting("ROOMS", 6),
        kills=kills,
        disconnects_per_s=setting("DISCONNECTS", 10),
        full_disks=setting("FULL_DISKS", 0),
    )
    print(f"SOAK_SEED={plan.seed}")

    async def on_a_disk() -> None:
        directory = tmp_path / "data"
        disk = None
        if plan.full_disks:
            if not can_mount(tmp_path):
                pytest.skip("SOAK_FULL_DISKS needs root, to mount a small disk")
            disk = Disk(directory, size_mb=512)
        try:
            records = await run(plan, directory, disk)
        finally:
            if disk is not None:
                disk.unmount()
        print(summary(records))
        anomalies = check(records)
        assert not anomalies, "\n".join(map(str, anomalies[:20]))
        assert sum(len(final.rows) for final in records.final.values()) > 10 * kills

    asyncio.run(on_a_disk())


def test_no_anomaly_when_the_data_directory_is_moved_or_restored(tmp_path: Path) -> None:
    """A directory that is moved away and back loses nothing, not even the clients' positions. After
    an older copy was put back, no client takes new messages for those that it has seen."""
    plan = Plan(
        seed=setting("SEED", random.randrange(1 << 32)),
        clients=setting("CLIENTS", 20),
        library_clients=setting("LIBRARY_CLIENTS", 3),
        rooms=setting("ROOMS", 4),
        kills=setting("DISPLACED_KILLS", 2),
        moves=setting("MOVES", 2),
        restores=setting("RESTORES", 1),
        disconnects_per_s=setting("DISCONNECTS", 5),
        uptime_s=(0.5, 1.5),
    )
    print(f"SOAK_SEED={plan.seed}")
    records = asyncio.run(run(plan, tmp_path / "data"))
    print(summary(records))
    anomalies = check(records)
    assert not anomalies, "\n".join(map(str, anomalies[:20]))
    epochs = {
        event.position.epoch
        for events in records.clients.values()
        for event in events
        if isinstance(event, Joined) and event.room == "room-0"
    }
    assert len(epochs) == 1 + plan.restores


def test_checker_finds_what_a_killed_server_loses(tmp_path: Path) -> None:
    """The checker finds the messages that a history in memory loses when its server is killed."""
    plan = Plan(
        seed=1,
        clients=6,
        rooms=2,
        kills=1,
        disconnects_per_s=5,
        interval_s=0.05,
        uptime_s=(0.5, 0.5),
        arguments=("--history", "memory"),
    )
    anomalies = check(asyncio.run(run(plan, tmp_path / "data")))
    assert Kind.LOST in {anomaly.kind for anomaly in anomalies}
