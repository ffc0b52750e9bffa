"""A machine whose PostgreSQL fails in parts: what still works goes on."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from contracts.history import draft
from fastchat.ledger import LedgerError, NotCommittedError
from fastchat.ledger.appending import Limits
from fastchat.ledger.url import parse_url
from support.ledger import Machine, in_loop, make_ledger
from support.postgresql import PostgreSQL
from support.server import PATIENCE_S


@in_loop
async def test_machine_goes_on_if_notifications_cannot_be_stored(own_server: PostgreSQL) -> None:
    """While PostgreSQL cannot write its queue of notifications, as on a full disk, the machine
    stays connected and beats; afterwards its notifications arrive again."""
    url = await make_ledger(parse_url(own_server.url))
    machine = Machine(url, Limits(100, 10))
    await machine.session.open()
    queue = own_server.data / "pg_notify"
    mode = queue.stat().st_mode
    try:
        queue.chmod(0)
        async with asyncio.timeout(PATIENCE_S):
            while not machine.session.health.is_crowded:
                # Its first pages are in memory.
                machine.session.tell(["x" * 7000] * 10)
                await asyncio.sleep(0.01)
            beaten = machine.beats
            while machine.beats < beaten + 3:  # noqa: ASYNC110 there is no event
                await asyncio.sleep(0.01)
            await machine.append(draft("text"))
            queue.chmod(mode)
            while "told" not in machine.payloads:
                machine.session.tell(["told"])
                await asyncio.sleep(0.1)
        assert machine.losses == []
    finally:
        queue.chmod(mode)
        await machine.session.close()


@pytest.mark.parametrize("name", ["reader", "teller"])
@in_loop
async def test_hanging_server_process_is_replaced(own_server: PostgreSQL, name: str) -> None:
    """If a process of PostgreSQL hangs, the machine makes new connections, and goes on."""
    url = await make_ledger(parse_url(own_server.url))
    machine = Machine(url, Limits(100, 10))
    await machine.session.open()
    backend = getattr(machine.session._link, name).get_server_pid()
    os.kill(backend, signal.SIGSTOP)
    try:
        ask = machine.session.fetch if name == "reader" else machine.session.call
        query = "SELECT 1" if name == "reader" else "SELECT $1::int, $2::bigint, $3::text"
        with pytest.raises(LedgerError):
            await ask(query)
        async with asyncio.timeout(PATIENCE_S):
            await ask(query)
        assert machine.losses == ["PostgreSQL does not answer"]
    finally:
        os.kill(backend, signal.SIGCONT)
        await machine.session.close()


@in_loop
async def test_callers_wait_for_a_lost_connection_side_by_side(own_server: PostgreSQL) -> None:
    """While PostgreSQL is away, each caller waits for a moment, however many there are."""
    url = await make_ledger(parse_url(own_server.url))
    machine = Machine(url, Limits(100, 10))
    await machine.session.open()
    try:
        own_server.kill()
        fetch, call = machine.session.fetch, machine.session.call
        calls = [fetch("SELECT 1") for _ in range(50)]
        calls += [call("SELECT $1::int, $2::bigint, $3::text") for _ in range(50)]
        async with asyncio.timeout(PATIENCE_S):
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(each) for each in outcomes} <= {LedgerError, NotCommittedError}
    finally:
        await machine.session.close()
