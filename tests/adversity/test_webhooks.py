"""Every publication reaches a webhook, in order, however often the server is killed.

The short run is part of every test run; environment variables make it longer (`make soak`):
SOAK_WEBHOOK_KILLS, SOAK_WEBHOOK_CLIENTS and SOAK_SEED.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import random
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import apsw
import pytest

from checker import check
from checker.records import Seen, seen
from checker.run import Plan, run, summary
from support.receiver import Receiver, Request, receiving, respond, written_config
from support.server import TIMEOUT_UNIT_S, running_server, wait_until

#: What never changes of a publication.
Facts = tuple[object, ...]
STORED = ("message", "edit", "delete", "react")


def setting(name: str, default: int) -> int:
    return int(os.environ.get(f"SOAK_{name}", default))


class Flaky:
    """Answers some requests with an error, some late, and some not at all."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        self.is_reliable = False

    def __call__(self, request: Request, connection: socket.socket) -> bytes | None:
        with self._lock:
            fate = 1.0 if self.is_reliable else self._chance.random()
        if fate < 0.03:
            return None  # the connection ends without an answer
        if fate < 0.13:
            time.sleep(0.1)
        return respond(500 if fate < 0.06 else 200)


@pytest.mark.parametrize("workers", [1, 2])
def test_every_publication_reaches_a_webhook(tmp_path: Path, workers: int) -> None:
    """Killed servers, workers and relays, and a receiver that fails, cost none and reorder none."""
    plan = Plan(
        seed=setting("SEED", random.randrange(1 << 32)),
        workers=workers,
        clients=setting("WEBHOOK_CLIENTS", 20),
        rooms=4,
        kills=setting("WEBHOOK_KILLS", 3),
        disconnects_per_s=2,
        uptime_s=(0.5, 1.5) if workers == 1 else (1.0, 3.0),
        interval_s=0.1,
    )
    print(f"SOAK_SEED={plan.seed}")
    flaky = Flaky(plan.seed)
    data = tmp_path / "data"
    with receiving(flaky) as receiver:
        file = written_config(
            tmp_path,
            f'[[webhook]]\nname = "mirror"\nurl = "{receiver.url}"\nsecret-file = "{{secret}}"\n',
        )
        arguments = ("--config", file)
        with running_server(*arguments, "--data", str(data)) as server:
            wait_until(lambda: _has_begun(data))  # so that it begins before the first publication
            server.stop()
        plan = dataclasses.replace(plan, arguments=arguments)
        records = asyncio.run(run(plan, data))
        print(summary(records))
        flaky.is_reliable = True
        truth = {room: _by_offset(final.rows) for room, final in records.final.items()}
        with running_server(*arguments, "--data", str(data)) as server:
            wait_until(lambda: _has_all(receiver, truth), timeout_s=60 * TIMEOUT_UNIT_S)
            server.stop()
    anomalies = check(records)
    assert not anomalies, "\n".join(map(str, anomalies[:20]))
    assert sum(map(len, truth.values())) > plan.kills
    received = _received(receiver)
    for room, publications in truth.items():
        assert list(publications) == list(range(1, len(publications) + 1))
        assert list(received.get(room, ())) == list(publications), "first arrivals are in order"
        assert received.get(room, {}) == publications
    assert not receiver.bodies("gap")


def _by_offset(publications: Iterable[Seen]) -> dict[int, Facts]:
    """What never changes of publications; of repeated ones only the first counts."""
    found: dict[int, Facts] = {}
    for each in publications:
        facts = each[:5]
        assert found.setdefault(each.offset, facts) == facts, "an offset has two contents"
    return found


def _received(receiver: Receiver) -> dict[str, dict[int, Facts]]:
    rooms = defaultdict(list)
    for body in receiver.bodies(*STORED):
        rooms[body["room"]].append(seen(body))
    return {room: _by_offset(publications) for room, publications in rooms.items()}


def _has_all(receiver: Receiver, truth: Mapping[str, Mapping[int, Facts]]) -> bool:
    if len(receiver.requests) < sum(map(len, truth.values())):
        return False  # looking at all bodies takes a while
    received = _received(receiver)
    return all(len(received.get(room, ())) >= len(truth[room]) for room in truth)


def _has_begun(data: Path) -> bool:
    with contextlib.suppress(apsw.Error):
        db = apsw.Connection(str(data / "webhooks.db"), flags=apsw.SQLITE_OPEN_READONLY)
        with contextlib.closing(db):
            return bool(db.execute("SELECT 1 FROM webhooks").fetchall())
    return False
