"""What machines say of themselves, and what a session finds out about its ledger."""

from __future__ import annotations

import asyncio
import time

import pytest

from fastchat.ledger.appending import Limits
from fastchat.ledger.health import Health
from fastchat.ledger.naming import log_of
from fastchat.ledger.reports import Reports
from fastchat.ledger.url import EngineUrl
from support.ledger import Machine, execute, in_loop


@in_loop
async def test_machines_know_the_reports_of_each_other(
    url: EngineUrl, caplog: pytest.LogCaptureFixture
) -> None:
    """A report is there for an hour; the log warns once of a machine with other settings."""
    machines = [Machine(url, Limits(100, 10), name) for name in ("one", "two")]
    for each in machines:
        await each.session.open()
    try:
        one = Reports(machines[0].session, "one", "digest")
        two = Reports(machines[1].session, "two", "another")
        await one.tick()
        assert (one.all, one.count) == ((), 0), "nothing was to be told yet"
        one.own, two.own = {"rooms": 1}, {"rooms": 2}
        await two.tick()
        for _ in range(2):
            await one.tick()
        assert [(each["machine"], each["rooms"]) for each in one.all] == [("one", 1), ("two", 2)]
        assert one.count == 2
        assert [record.getMessage().split(" for ")[0] for record in caplog.records] == [
            "the machine 'two' has other settings than 'one'"
        ]
        await execute(url, "UPDATE reports SET at = at - interval '10 s' WHERE machine = 2")
        await one.tick()
        assert ([each["is_silent"] for each in one.all], one.count) == ([False, True], 1)
        await execute(url, "UPDATE reports SET at = at - interval '1 hour' WHERE machine = 2")
        await one.tick()
        assert [each["machine"] for each in one.all] == ["one"]
    finally:
        for each in machines:
            await each.session.close()


@in_loop
async def test_nothing_is_told_while_the_queue_is_crowded(url: EngineUrl) -> None:
    """Notifications that can be missed do not fill a queue that somebody does not read."""
    machine = Machine(url, Limits(100, 10))
    await machine.session.open()
    try:
        machine.session.health.queue_usage = 0.3
        machine.session.tell(["dropped"])
        machine.session.health.queue_usage = 0.2
        machine.session.tell(["told"])
        async with asyncio.timeout(10):
            while "told" not in machine.payloads:  # noqa: ASYNC110 there is no event
                await asyncio.sleep(0.01)
        assert "dropped" not in machine.payloads
    finally:
        await machine.session.close()


def test_operators_learn_of_clocks_and_of_a_crowded_queue(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each of them is logged once when it begins, and the queue also when it is free again."""
    caplog.set_level("INFO")
    health = Health(log_of(None))
    now_s = time.time()
    for server_s, queue_usage in ((now_s, 0.0), (now_s + 5, 0.0), (now_s + 5, 0.5), (now_s, 0.1)):
        health.beat(time.monotonic(), server_s, queue_usage)
    assert [record.getMessage().partition(",")[0] for record in caplog.records] == [
        "the clock of this machine is 5.0 s behind that of PostgreSQL; timestamps of messages are "
        "as wrong as the clocks",
        "the queue of notifications of PostgreSQL is 50 % full",
        "the queue of notifications of PostgreSQL is free again",
    ]
    assert abs(health.skew_s) < 1
    assert health.silent_s < 5
