"""Limits of connections: the counts of a process and of the server, and their enforcement."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from contracts.broker import PATIENCE_S, Receiver, new_rooms, run_in_loop
from contracts.history import GENERATION
from fastchat.brokers.relay.client import RelayBroker
from fastchat.brokers.relay.counts import Counts
from fastchat.brokers.relay.pages import RelayPages
from fastchat.brokers.relay.server import Relay
from fastchat.errors import CommandError
from fastchat.history.memory import MemoryHistory
from fastchat.limits.connections import (
    Admission,
    ConnectionCount,
    Counted,
    Limit,
    ProcessCount,
)
from fastchat.metrics import Metrics

ANN, BOB = "192.0.2.1", "192.0.2.2"


def admitted(connection_count: ConnectionCount, address: str, attempts: int) -> int:
    """The number of these connections that are admitted."""
    return sum(connection_count.enter(address) is None for _ in range(attempts))


# The count


def test_connections_are_limited_in_all_and_by_address() -> None:
    """A refused connection is not counted, and a connection that ends makes room for another."""
    connection_count = ConnectionCount(total=5, per_address=3)
    assert admitted(connection_count, ANN, 10) == 3
    assert connection_count.enter(ANN) is Limit.ADDRESS
    assert admitted(connection_count, BOB, 10) == 2
    assert connection_count.enter(BOB) is Limit.CONNECTIONS
    connection_count.leave(ANN, "")
    assert admitted(connection_count, BOB, 10) == 1


def test_connections_are_limited_by_user_if_authenticated() -> None:
    """Only connections with a known user count for that user."""
    connection_count = ConnectionCount(per_user=2)
    assert admitted(connection_count, ANN, 3) == 3
    assert [connection_count.identify("ann") for _ in range(3)] == [None, None, Limit.USER]
    connection_count.leave(ANN, "ann")
    assert connection_count.identify("ann") is None


def test_connection_without_an_address_counts_in_all_only() -> None:
    """A connection without an address is not limited by address."""
    connection_count = ConnectionCount(total=10, per_address=1)
    assert admitted(connection_count, "", 20) == 10


def test_zero_is_no_limit() -> None:
    """With a limit of 0 every connection is admitted."""
    connection_count = ConnectionCount()
    assert admitted(connection_count, ANN, 1000) == 1000
    assert all(connection_count.identify("ann") is None for _ in range(1000))


def test_count_without_connections_takes_no_memory() -> None:
    """Addresses and users without connections are forgotten."""
    connection_count = ConnectionCount(total=10, per_address=1, per_user=1)
    for number in range(1000):
        address, user = f"address-{number}", f"user-{number}"
        assert connection_count.enter(address) is None
        assert connection_count.identify(user) is None
        assert admitted(connection_count, address, 3) == 0
        connection_count.leave(address, user)
    assert (
        connection_count.count,
        len(connection_count.addresses),
        len(connection_count.users),
    ) == (0, 0, 0)


# One process


def test_end_of_a_refused_connection_is_ignored() -> None:
    """A worker reports the end of every connection, even of one that did not count."""
    connection_count = ConnectionCount(per_address=2)
    branch = ProcessCount(connection_count)
    assert [branch.enter(number, ANN) for number in range(4)] == [None, None, *[Limit.ADDRESS] * 2]
    with pytest.raises(CommandError):
        branch.check(3)
    branch.check(1)
    branch.leave(3, ANN, "")
    branch.check(3)
    branch.leave(2, ANN, "")
    assert connection_count.count == 2
    branch.leave(1, ANN, "")
    branch.leave(0, ANN, "")
    assert (connection_count.count, dict(connection_count.addresses)) == (0, {})


def test_connection_refused_for_its_user_frees_its_address() -> None:
    """Other users can connect from the address at once."""
    connection_count = ConnectionCount(per_address=2, per_user=1)
    branch = ProcessCount(connection_count)
    assert branch.enter(1, ANN, "ann") is None
    assert branch.enter(2, ANN) is None
    assert branch.identify(2, ANN, "ann") is Limit.USER
    assert branch.enter(3, ANN) is None
    branch.leave(2, ANN, "ann")
    assert (connection_count.count, connection_count.users["ann"]) == (2, 1)


def test_connections_of_a_killed_process_end_with_it() -> None:
    """The connections of the other processes still count."""
    connection_count = ConnectionCount(total=6, per_address=4, per_user=4)
    first, second = ProcessCount(connection_count), ProcessCount(connection_count)
    for number in range(2):
        assert first.enter(number, ANN, "ann") is None
        assert second.enter(number, ANN, "ann") is None
    assert first.enter(2, ANN) is Limit.ADDRESS
    first.close()
    assert (
        connection_count.count,
        dict(connection_count.addresses),
        dict(connection_count.users),
    ) == (2, {ANN: 2}, {"ann": 2})
    second.close()
    assert (
        connection_count.count,
        dict(connection_count.addresses),
        dict(connection_count.users),
    ) == (0, {}, {})


# Several processes


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 there is no event to wait for
            await asyncio.sleep(0.01)


class Process:
    """A worker's part in the count of connections."""

    def __init__(self, directory: Path, name: str, connection_count: ConnectionCount) -> None:
        self.turned_away: list[tuple[object, Limit]] = []
        self.admission = Admission(connection_count, lambda *away: self.turned_away.append(away))
        counts = Counts(self.admission)
        self.admission.open(counts)
        self.broker = RelayBroker(directory, name=name, metrics=Metrics(), counts=counts)
        receiver = Receiver()
        self.broker.open(delivery=receiver, receiver=receiver)
        self.counted: list[Counted] = []

    def enter(self, count: int, address: str = ANN, user: str = "") -> None:
        for _ in range(count):
            counted = self.admission.enter(len(self.counted), address)
            if counted is not None:
                self.counted.append(counted)
                if user:
                    self.admission.identify(counted, user)

    @property
    def live(self) -> int:
        return len(list(self.admission.counted()))


class Machine:
    """A relay that a test can kill, and workers."""

    relay: Relay

    def __init__(self, directory: Path, **limits: int) -> None:
        self.directory = directory
        self._limits = limits
        self.processes: list[Process] = []

    async def start(self, workers: int) -> None:
        history = MemoryHistory(max_messages=10, new_generation=lambda: GENERATION)
        self.connection_count = ConnectionCount(**self._limits)
        self.relay = Relay(
            self.directory,
            new_rooms(history),
            Metrics(),
            workers=workers,
            connection_count=self.connection_count,
        )
        await self.relay.start()

    async def process(self) -> Process:
        name = f"worker-{len(self.processes) + 1}"
        process = Process(self.directory, name, ConnectionCount(**self._limits))
        self.processes.append(process)
        await process.broker.start()
        return process

    async def settled(self) -> None:
        """Wait until all processes have handled every report."""
        for _ in range(2):
            for process in self.processes:
                await RelayPages(process.broker).before("elsewhere", None, 1)

    async def abandon(self, process: Process) -> None:
        """Kill a worker."""
        self.processes.remove(process)
        await self._end(process)
        await until(
            lambda: not any(peer.name == process.broker._name for peer in self.relay._peers)
        )

    async def restart(self) -> None:
        await self.relay.close()
        await self.start(len(self.processes))
        await until(lambda: all(process.broker.connected for process in self.processes))
        await self.settled()

    async def close(self) -> None:
        for process in self.processes:
            await self._end(process)
        await self.relay.close()
        await asyncio.sleep(0.01)

    async def _end(self, process: Process) -> None:
        await process.broker.close()


def on_machine(
    directory: Path, test: Callable[[Machine], Coroutine[Any, Any, None]], **limits: int
) -> None:
    async def body() -> None:
        machine = Machine(directory, **limits)
        await machine.start(1)
        try:
            async with asyncio.timeout(3 * PATIENCE_S):
                await test(machine)
        finally:
            await machine.close()

    run_in_loop(body())


def test_address_is_limited_over_all_processes(tmp_path: Path) -> None:
    """Exactly the allowed number of connections stay, whichever processes they came to."""

    async def test(machine: Machine) -> None:
        first, second = await machine.process(), await machine.process()
        for _ in range(20):
            first.enter(5)
            second.enter(5)
            second.enter(1, BOB)
        await machine.settled()
        assert first.live + second.live == 100 + 20
        away = first.turned_away + second.turned_away
        assert [limit for _, limit in away] == [Limit.ADDRESS] * 100
        first.admission.leave(next(first.admission.counted()))
        await machine.settled()
        second.enter(3)
        await machine.settled()
        assert first.live + second.live == 100 + 20

    on_machine(tmp_path, test, per_address=100)


def test_user_is_limited_over_all_processes(tmp_path: Path) -> None:
    """Exactly the allowed number of a user's connections stay, whichever processes they came to."""

    async def test(machine: Machine) -> None:
        first, second = await machine.process(), await machine.process()
        first.enter(3, ANN, "ann")
        await machine.settled()
        second.enter(5, BOB, "ann")
        second.enter(2, BOB, "bob")
        await machine.settled()
        assert (first.live, second.live) == (3, 3)
        assert [limit for _, limit in second.turned_away] == [Limit.USER] * 4

    on_machine(tmp_path, test, per_user=4)


def test_killed_process_makes_room_for_its_clients(tmp_path: Path) -> None:
    """The clients of a killed process can return through another one."""

    async def test(machine: Machine) -> None:
        first, second = await machine.process(), await machine.process()
        first.enter(8, ANN, "ann")
        second.enter(2, ANN, "ann")
        await machine.settled()
        await machine.abandon(first)
        second.enter(20, ANN, "ann")
        await machine.settled()
        assert second.live == 10

    on_machine(tmp_path, test, per_address=10, per_user=10)


def test_new_relay_counts_existing_connections(tmp_path: Path) -> None:
    """Open connections stay, and later ones are counted with them, even those from before the
    relay."""

    async def test(machine: Machine) -> None:
        first, second = await machine.process(), await machine.process()
        first.enter(4, ANN, "ann")
        second.enter(4, ANN, "ann")
        await machine.settled()
        await machine.restart()
        assert (machine.connection_count.count, machine.connection_count.users["ann"]) == (8, 8)
        assert not first.turned_away + second.turned_away
        await machine.relay.close()
        await asyncio.sleep(0.02)
        first.enter(3, ANN)
        second.admission.leave(second.counted[0])
        assert first.live + second.live == 10
        await machine.restart()
        assert machine.connection_count.count == 10
        first.enter(3, ANN)
        await machine.settled()
        assert first.live + second.live == machine.connection_count.count == 10

    on_machine(tmp_path, test, per_address=10)


def test_connections_made_without_a_relay_are_counted_later(tmp_path: Path) -> None:
    """Without a relay each process applies the limit alone; the excess is closed once a relay is
    back."""

    async def test(machine: Machine) -> None:
        first, second = await machine.process(), await machine.process()
        await machine.relay.close()
        await asyncio.sleep(0.02)
        first.enter(20, ANN)
        second.enter(20, ANN)
        assert (first.live, second.live) == (10, 10)
        await machine.restart()
        assert first.live + second.live == machine.connection_count.count == 10

    on_machine(tmp_path, test, per_address=10)
