"""A run on several machines: clients that hop between them, faults, and what is left at the end."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import orjson

from checker.client import Client, Place
from checker.machines import SILENT_S, Database, Faults, Machine
from checker.nemesis import disconnect_often
from checker.records import Event, Final, Joined, Live, Position, Records, Seen, seen
from checker.run import KINDS, Reader, doubles
from support.networks import Network, why_no_networks
from support.server import TIMEOUT_UNIT_S

__all__ = ["ClusterPlan", "Outcome", "run_machines", "without_tokens"]

#: The session of those who read at the end, so that they are one user on all machines.
READING = "cmVhZGluZy1yZWFkaW5nLXJl"
#: The workers of each machine.
WORKERS = (1, 2, 1)


@dataclass(frozen=True, kw_only=True)
class ClusterPlan:
    """The settings of a run; each client is in up to three of the rooms.

    `faults` are the names of faults (`Faults.known`), which happen in a random order. With
    `spread`, a second database has a part of the rooms, and none of the faults of databases.
    """

    seed: int
    clients: int
    rooms: int
    faults: Sequence[str]
    disconnects_per_s: float
    interval_s: float = 0.3
    uptime_s: tuple[float, float] = (0.2, 2.0)
    settle_s: float = 30 * TIMEOUT_UNIT_S
    small_disk: bool = True
    longest_s: float = 20.0  # for which a machine is away
    spread: bool = False  # over the database with the faults, and another one

    @property
    def room_names(self) -> list[str]:
        return [f"room-{number}" for number in range(self.rooms)]


@dataclass(frozen=True)
class Outcome:
    """The records of a run, the faults, and what was measured. Times are in seconds.

    `equal_s` is the time from the last fault until all machines and clients had the same.
    """

    records: Records
    counts: Counter[str]
    lost: int
    equal_s: float
    delays: Sequence[tuple[float, float, int]]
    logs: Sequence[str]

    @property
    def summary(self) -> str:
        """What has happened, as lines of text."""
        records = self.records
        events = [event for events in records.clients.values() for event in events]
        kinds = Counter(type(event).__name__ for event in events)
        recovered = sum(event.recovered for event in events if isinstance(event, Joined))
        rows = sum(len(final.rows) for final in records.final.values())
        refused = ", ".join(f"{count} {code}" for code, count in records.refusals.items())
        codes = Counter(str(each.code) for each in records.breaks if not each.ours)
        ended = ", ".join(f"{count} {code}" for code, count in codes.most_common())
        return "\n".join(
            (
                f"faults: {', '.join(f'{n} {kind}' for kind, n in sorted(self.counts.items()))}",
                f"{rows} publications, {kinds['Live']} deliveries, {kinds['Moved']} joins and "
                f"leaves of users, {kinds['Joined']} joins, {recovered} of them recovered",
                f"refusals: {refused or 'none'}; ended by the server: {ended or 'none'}",
                f"{self.lost} publications lost by standbys and backups",
                f"all equal {self.equal_s:.1f} s after the last fault",
                self._delays(),
            )
        )

    def _delays(self) -> str:
        """How long messages took while another machine was cut off or stopped, and otherwise."""
        outages = self.records.outages
        beside, quiet = [], []
        for at, delay, machine in self.delays:
            here = [each for each in outages if each.began + SILENT_S - delay <= at <= each.ended]
            if not here:
                quiet.append(delay)
            elif all(each.machine != machine for each in here):
                beside.append(delay)
        shares = (0.5, 0.9, 0.99)
        return "a message's way, 50, 90 and 99 %: " + "; ".join(
            f"{what} {', '.join(f'{1000 * _at(sorted(delays), share):.0f} ms' for share in shares)}"
            for what, delays in (("usually", quiet), ("while another machine is away", beside))
        )


def _at(times: Sequence[float], share: float) -> float:
    return times[min(len(times) - 1, int(len(times) * share))] if times else 0.0


async def run_machines(plan: ClusterPlan, folder: Path) -> Outcome:
    """Run `plan`; the machines have their data in `folder`."""
    chance = random.Random(plan.seed)
    loop = asyncio.get_running_loop()
    shared: dict[Seen, Live] = {}
    with ExitStack() as stack:
        database = Database(disk=plan.small_disk)
        stack.callback(database.close)
        databases = [database]
        if plan.spread:
            databases.append(Database(disk=False))
            stack.callback(databases[1].close)
        machines = _machines(databases, folder, stack)
        await asyncio.gather(*(machine.start() for machine in machines))
        places = [machine.place for machine in machines]
        clients = [
            Client(
                f"client-{number}",
                chance.sample(plan.room_names, min(1 + number % 3, plan.rooms)),
                places,
                seed=chance.getrandbits(32),
                interval_s=plan.interval_s,
                shared=shared,
            )
            for number in range(plan.clients)
        ]
        faults = Faults(database, machines, random.Random(chance.random()), plan.longest_s)
        records = Records()
        gc.disable()  # with all those records a collection would stop the clients for seconds
        stack.callback(gc.enable)
        await _break(plan, faults, clients, chance)
        for client in clients:
            client.settle()
        began = loop.time()
        records.machines, records.unsettled = await _settle(plan, places, clients)
        equal_s = loop.time() - began
        for client in clients:
            records.clients[client.name] = [*client.events]
            records.breaks += client.breaks
            records.refusals += client.refusals
        for client in clients:
            await client.stop()
        rows: dict[str, list[Seen]] = {}
        for each in databases:
            rows |= await _rows(each)
        records.final = {
            room: final._replace(rows=tuple(rows.get(room, ())))
            for room, final in records.machines[0].items()
        }
        for each in databases:
            records.stored += await asyncio.to_thread(each.primary.run, "pg_dump", each.primary.url)
        for machine in machines:
            await machine.stop()
        records.outages = faults.outages
        records.restores = faults.renewals
        return Outcome(
            records,
            faults.counts,
            faults.lost,
            equal_s,
            [delay for client in clients for delay in client.delays],
            [machine.log for machine in machines],
        )


def _machines(databases: Sequence[Database], folder: Path, stack: ExitStack) -> list[Machine]:
    machines = []
    has_networks = not why_no_networks()
    for number, workers in enumerate(WORKERS):
        network = None
        if has_networks:
            network = Network()
            stack.callback(network.close)
        arguments = (
            *("--history-max-messages", "1000000", "--max-lag-seconds", "1"),
            *("--workers", str(workers)),
        )
        machine = Machine(number, databases, folder / f"m{number}", network, arguments)
        stack.callback(machine.abandon)
        machines.append(machine)
    return machines


async def _break(
    plan: ClusterPlan, faults: Faults, clients: Sequence[Client], chance: random.Random
) -> None:
    disconnecting = asyncio.create_task(
        disconnect_often(clients, plan.disconnects_per_s, random.Random(chance.random()))
    )
    kinds = [*plan.faults]
    chance.shuffle(kinds)
    try:
        for kind in kinds:
            await asyncio.sleep(chance.uniform(*plan.uptime_s))
            await faults.cause(kind)
    finally:
        disconnecting.cancel()


async def _settle(
    plan: ClusterPlan, places: Sequence[Place], clients: Sequence[Client]
) -> tuple[list[dict[str, Final]], list[str]]:
    """Wait until every machine and every client has everything; returns the rooms as each machine
    has them, and what clients still lack."""
    deadline = asyncio.get_running_loop().time() + plan.settle_s
    readers: list[Reader] = []
    behind = ["nothing was read"]
    while behind and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.1)
        behind = [client.name for client in clients if client.waits]
        if behind:
            continue
        try:
            while len(readers) < len(places):
                readers.append(await Reader.connect(*reversed(places[len(readers)])))
            finals = [await _enter(plan, reader) for reader in readers]
        except (AssertionError, OSError, TimeoutError) as error:  # it was refused: not yet
            behind = [f"a reader cannot enter: {error}"]
            for reader in readers:
                reader.close()
            readers.clear()
            continue
        heads = {room: final.position.offset for room, final in finals[0].items()}
        users = {room: {*final.users, "reader"} for room, final in finals[0].items()}
        behind = [text for client in clients if (text := client.behind(heads, users))]
        for rooms in finals[1:]:
            for room, final in rooms.items():
                if {*final.users} != {*finals[0][room].users}:
                    behind.append(f"machines differ about the users of {room}")
    machines = []
    for reader, (host, port) in zip(readers, places, strict=True):
        rooms = await _enter(plan, reader)
        for room, final in rooms.items():
            found = await doubles(port, room, final.users[:1], host)
            rooms[room] = final._replace(pages=await reader.pages(room), doubles=found)
        machines.append(rooms)
    for reader in readers:
        reader.close()
    return machines, behind


async def _enter(plan: ClusterPlan, reader: Reader) -> dict[str, Final]:
    return {room: await reader.enter(room, session=READING) for room in plan.room_names}


async def _rows(database: Database) -> dict[str, list[Seen]]:
    """All rows of all rooms in the database."""
    rows: dict[str, list[Seen]] = {}
    for record in await database.ask(
        'SELECT r.name AS room, p."offset", kind, username, text, timestamp, id, target, emoji, '
        "remove, edited, deleted, reactions FROM publications p JOIN rooms r ON r.number = p.room "
        'ORDER BY p.room, p."offset"'
    ):
        fields = dict(record)
        fields["type"] = KINDS[fields.pop("kind")]
        fields["text"] = fields["text"] or ""
        fields["reactions"] = {
            emoji: [{"username": name} for _, name in reactors]
            for emoji, reactors in orjson.loads(fields["reactions"] or "{}").items()
        }
        rows.setdefault(fields["room"], []).append(seen(fields))
    return rows


def without_tokens(records: Records) -> Records:
    """The records as if the ledger had never got another token.

    If each server that took another's place had all commits, this is how they look to somebody who
    does not know of it: so they have to pass the check without any allowance.
    """

    def position(found: Position) -> Position:
        return found._replace(epoch=found.epoch.partition(".")[0])

    def event(found: Event) -> Event:
        if not isinstance(found, Joined):
            return found
        since = None if found.since is None else position(found.since)
        return found._replace(since=since, position=position(found.position))

    def rooms(finals: dict[str, Final]) -> dict[str, Final]:
        return {
            room: final._replace(position=position(final.position))
            for room, final in finals.items()
        }

    return dataclasses.replace(
        records,
        clients={
            name: [event(each) for each in events] for name, events in records.clients.items()
        },
        final=rooms(records.final),
        machines=[rooms(each) for each in records.machines],
        restores=0,
    )
