"""A run: clients, a nemesis, and at the end the history as pages and as rows of the file."""

from __future__ import annotations

import asyncio
import gc
import random
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from checker.check import READER
from checker.client import Client, Wire
from checker.library import LibraryClient
from checker.nemesis import (
    Disk,
    Victim,
    disconnect_often,
    displace_often,
    fill_often,
    free_port,
    kill_often,
)
from checker.parts import PartsVictim, break_parts_often
from checker.records import Final, Joined, Live, Position, Records, Seen, seen
from support.server import TIMEOUT_UNIT_S

AnyClient = Client | LibraryClient
LOCALHOST = "127.0.0.1"
KINDS = ("message", "edit", "delete", "react")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The settings of a run; each client is in up to three of the rooms."""

    seed: int
    clients: int
    library_clients: int = 0  # of the library for Python; each is in one room
    rooms: int
    kills: int
    disconnects_per_s: float
    full_disks: int = 0
    moves: int = 0
    restores: int = 0
    workers: int = 1  # if above 1, single parts are killed instead of the whole server
    rolls: int = 0
    freezes: int = 0
    interval_s: float = 0.3
    uptime_s: tuple[float, float] = (0.2, 2.0)
    settle_s: float = 30 * TIMEOUT_UNIT_S
    arguments: tuple[str, ...] = ()  # further arguments of the server

    @property
    def room_names(self) -> list[str]:
        return [f"room-{number}" for number in range(self.rooms)]


async def run(plan: Plan, data: Path, disk: Disk | None = None) -> Records:
    """Run `plan` on the directory `data`, and return all records."""
    chance = random.Random(plan.seed)
    shared: dict[Seen, Live] = {}
    # The history drops nothing, and a client that does not read is evicted soon.
    arguments = ("--history-max-messages", "1000000", "--max-lag-seconds", "1", *plan.arguments)
    port = free_port(chance)
    parts = PartsVictim(port, data, arguments, plan.workers) if plan.workers > 1 else None
    victim = parts or Victim(port, data, arguments)
    await victim.start()
    clients: list[AnyClient] = [
        Client(
            f"client-{number}",
            chance.sample(plan.room_names, min(1 + number % 3, plan.rooms)),
            [(LOCALHOST, victim.port)],
            seed=chance.getrandbits(32),
            interval_s=plan.interval_s,
            shared=shared,
        )
        for number in range(plan.clients)
    ]
    clients += [
        LibraryClient(
            f"library-{number}",
            chance.choice(plan.room_names),
            f"ws://{LOCALHOST}:{victim.port}",
            seed=chance.getrandbits(32),
            interval_s=plan.interval_s,
            shared=shared,
        )
        for number in range(plan.library_clients)
    ]
    records = Records(restores=plan.restores)
    gc.disable()  # with all those records a collection would stop the clients for seconds
    try:
        if parts is not None:
            await _break_parts(plan, parts, clients, chance)
        else:
            await _break(plan, victim, clients, chance, disk)
        for client in clients:
            client.settle()
        records.final, records.unsettled = await _settle(plan, victim.port, clients)
        for client in clients:
            records.clients[client.name] = [*client.events]
            records.breaks += client.breaks
            records.refusals += client.refusals
            if isinstance(client, LibraryClient):
                records.absences |= {
                    (client.name, room): times for room, times in client.absences.items()
                }
        for client in clients:
            await client.stop()
        records.log = await victim.stop()
        records.faults = parts.faults if parts is not None else []
    finally:
        gc.enable()
        victim.abandon()
    for room, rows in _read_file(data / "history.db").items():
        final = records.final[room]
        records.final[room] = final._replace(rows=rows)
    return records


async def _break(
    plan: Plan,
    victim: Victim,
    clients: Sequence[AnyClient],
    chance: random.Random,
    disk: Disk | None,
) -> None:
    disconnecting = asyncio.create_task(
        disconnect_often(clients, plan.disconnects_per_s, random.Random(chance.random()))
    )
    expected_s = plan.kills * (sum(plan.uptime_s) / 2 + 1)
    try:
        async with asyncio.TaskGroup() as faults:
            faults.create_task(_end_and_displace(plan, victim, chance, disk))
            if disk is not None:
                pause_s = expected_s / (plan.full_disks + 1)
                random_of_disk = random.Random(chance.random())
                faults.create_task(
                    fill_often(disk, plan.full_disks, random_of_disk, (pause_s / 2, pause_s))
                )
    finally:
        disconnecting.cancel()


async def _end_and_displace(
    plan: Plan, victim: Victim, chance: random.Random, disk: Disk | None
) -> None:
    """Kill the server, and displace its files, one after the other and in turns."""
    turns = max(1, min(plan.kills, plan.moves + plan.restores))
    for turn in range(turns):

        def share(number: int, turn: int = turn) -> int:
            return number * (turn + 1) // turns - number * turn // turns

        kills = victim.kills + share(plan.kills)
        await kill_often(victim, kills, chance, plan.uptime_s, disk)
        await displace_often(victim, share(plan.moves), share(plan.restores), chance, plan.uptime_s)


async def _break_parts(
    plan: Plan,
    victim: PartsVictim,
    clients: Sequence[AnyClient],
    chance: random.Random,
) -> None:
    disconnecting = asyncio.create_task(
        disconnect_often(clients, plan.disconnects_per_s, random.Random(chance.random()))
    )
    try:
        await break_parts_often(victim, plan.kills, plan.rolls, plan.freezes, chance, plan.uptime_s)
    finally:
        disconnecting.cancel()


async def _settle(
    plan: Plan, port: int, clients: Sequence[AnyClient]
) -> tuple[dict[str, Final], list[str]]:
    """Wait until every client has everything; returns the final rooms, and what clients still
    lack."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + plan.settle_s
    reader = await Reader.connect(port)
    while True:
        # Confirmations first: once all are there, the heads of the rooms stand still.
        behind = [client.name for client in clients if client.waits]
        if not behind:
            finals = {room: await reader.enter(room) for room in plan.room_names}
            heads = {room: final.position.offset for room, final in finals.items()}
            users = {room: {*final.users, READER} for room, final in finals.items()}
            behind = [text for client in clients if (text := client.behind(heads, users))]
        if not behind or loop.time() > deadline:
            break
        await asyncio.sleep(0.05)
    final = {}
    for room in plan.room_names:
        entered = await reader.enter(room)
        found = await doubles(port, room, entered.users[:1])
        final[room] = entered._replace(pages=await reader.pages(room), doubles=found)
    reader.close()
    return final, behind


async def doubles(
    port: int, room: str, names: Sequence[str], host: str = LOCALHOST
) -> tuple[str, ...]:
    """The names of present users that a second user could take as well."""
    found = []
    for name in names:
        stranger = await Reader.connect(port, host)
        answer = await stranger.ask(
            {"type": "join", "room": room, "username": name}, "joined", "error"
        )
        if answer["type"] == "joined":
            found.append(name)
            await stranger.ask({"type": "leave", "room": room}, "left")
        stranger.close()
    return tuple(found)


class Reader:
    """A client that joins at the end and sends one command at a time."""

    def __init__(self) -> None:
        self._answers: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._rooms: set[str] = set()

    @classmethod
    async def connect(cls, port: int, host: str = LOCALHOST) -> Reader:
        reader = cls()
        opened = asyncio.Event()
        _, reader._wire = await asyncio.get_running_loop().create_connection(
            lambda: Wire(
                opened.set,
                lambda payload: reader._answers.put_nowait(orjson.loads(payload)),
                lambda: reader._answers.put_nowait(None),
            ),
            host,
            port,
        )
        async with asyncio.timeout(10 * TIMEOUT_UNIT_S):
            await opened.wait()
        return reader

    async def enter(self, room: str, **fields: str) -> Final:
        """Join a room, with more fields of the command; returns its position and its users."""
        if room in self._rooms:
            await self.ask({"type": "leave", "room": room}, "left")
        self._rooms.add(room)
        reply = await self.ask(
            {"type": "join", "room": room, "username": READER, "history": 0, **fields}, "joined"
        )
        names = (user["username"] for user in reply["users"] or ())
        users = tuple(name for name in names if name != READER)
        return Final(Position(reply["epoch"], reply["offset"]), (), (), users, reply["online"] - 1)

    async def pages(self, room: str) -> tuple[Seen, ...]:
        """All messages of a room, read in pages from the oldest on."""
        messages: list[Seen] = []
        more = True
        while more:
            after = messages[-1].offset if messages else 0
            command = {"type": "history", "room": room, "after": after, "limit": 300}
            reply = await self.ask(command, "history")
            messages += map(seen, reply["messages"])
            more = reply["more"] and bool(reply["messages"])
        return tuple(messages)

    async def ask(self, command: dict[str, Any], *replies: str) -> dict[str, Any]:
        """Send a command and return its reply, which has one of these types."""
        self._wire.send(command)
        async with asyncio.timeout(10 * TIMEOUT_UNIT_S):
            while True:
                answer = await self._answers.get()
                assert answer is not None, f"the connection ended before {replies}"
                if answer["type"] in replies:
                    return answer
                assert answer["type"] != "error", answer

    def close(self) -> None:
        self._wire.transport.abort()


def _read_file(file: Path) -> dict[str, tuple[Seen, ...]]:
    """All rows of all rooms in the file of a server that has stopped."""
    rooms: dict[str, list[Seen]] = {}
    if not file.exists():
        return {}
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        for (
            room, key, kind, username, text, timestamp, id, target, emoji, remove,
            edited, deleted, reactions,
        ) in connection.execute(
            "SELECT name, key, kind, username, text, timestamp, id, target, emoji, remove, "
            "edited, deleted, reactions FROM publications JOIN rooms ON number = key >> 40 "
            "ORDER BY key"
        ):  # fmt: skip
            fields = {
                "room": room,
                "offset": key & (1 << 40) - 1,
                "type": KINDS[kind],
                "id": id,
                "username": username,
                "text": text or "",
                "timestamp": timestamp,
                "target": target,
                "emoji": emoji,
                "remove": remove,
                "edited": edited,
                "deleted": deleted,
                "reactions": {
                    emoji: [{"username": name} for _, name in reactors]
                    for emoji, reactors in orjson.loads(reactions or "{}").items()
                },
            }
            rooms.setdefault(room, []).append(seen(fields))
    return {room: tuple(rows) for room, rows in rooms.items()}


def summary(records: Records) -> str:
    """One line about a run, which shows whether the run did anything."""
    joins = [
        event
        for events in records.clients.values()
        for event in events
        if isinstance(event, Joined)
    ]
    recovered = sum(join.recovered for join in joins)
    rows = sum(len(final.rows) for final in records.final.values())
    events = sum(map(len, records.clients.values()))
    refusals = ", ".join(f"{count} {code}" for code, count in records.refusals.items()) or "none"
    return (
        f"{rows} publications, {len(joins)} joins, {recovered} recovered, {events} events, "
        f"refusals: {refusals}"
    )
