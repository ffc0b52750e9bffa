"""A client of the checker that uses the library for Python, `fastchat_client`.

The other clients record what the server sends; this one records what a program gets from the
library: one stream of events over all its connections. So the check finds a publication that the
library loses or repeats when it reconnects. Only a `Gap` begins a new view.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping
from sys import intern
from typing import Any

from checker.check import MAX_LISTED_USERS
from checker.records import (
    Acked,
    Break,
    Event,
    Joined,
    Live,
    Lost,
    Moved,
    Position,
    Seen,
    Sent,
    seen,
)
from fastchat_client import Chat, Gap, Join, Leave, Refused, Rejoined, Room, Status, User
from fastchat_client.events import Publication

EMOJI = ("👍", "🎉", "🙂")
#: Events that can wait for the client, so that a stall causes gaps.
BUFFER = 20


class LibraryClient:
    """A member of one room, with the methods of `checker.client.Client` that a run needs.

    A stall stops the program, and not the connection. `absences` are the times for which the client
    was not connected. It has no `breaks`, because the library hides the ends of connections.
    """

    def __init__(
        self,
        name: str,
        room: str,
        address: str,
        *,
        seed: int,
        interval_s: float,
        shared: dict[Seen, Live],
    ) -> None:
        self.name = name
        self.events: list[Event] = []
        self.breaks: list[Break] = []
        self.refusals: Counter[str] = Counter()
        self.absences: dict[str, list[tuple[float, float]]] = {room: []}
        self.gaps: Counter[str] = Counter()
        self._room_name = room
        self._random = random.Random(seed)
        self._interval_s = interval_s
        self._shared = shared
        self._chat = Chat(address, username=name, on_status=self._on_status)
        self._room: Room | None = None
        self._lost_at: float | None = None
        self._may_run = asyncio.Event()
        self._may_run.set()
        self._settling = False
        self._count = 0
        self._waits = False
        self._own: list[int] = []
        self._rejoined: tuple[tuple[User, ...] | None, int] = None, 0
        self._task = asyncio.create_task(self._run())

    # Faults, called from outside

    def disconnect(self) -> None:
        """End the connection without a close frame."""
        if self._chat._link is not None:
            self._chat._link.abort()

    def stall(self, seconds: float) -> None:
        """Take no events for some seconds."""
        if self._may_run.is_set():
            self._may_run.clear()
            asyncio.get_running_loop().call_later(seconds, self._may_run.set)

    def settle(self) -> None:
        """Stop sending new messages and changes."""
        self._settling = True

    @property
    def waits(self) -> bool:
        """Whether a message or a change has no answer yet."""
        return self._waits

    def behind(self, heads: dict[str, int], users: dict[str, set[str]]) -> str | None:
        """A sentence that says what this client still lacks, or None."""
        name, room = self._room_name, self._room
        if self._task.done():
            return f"{self.name} has ended: {self._task.exception()}"
        if room is None or room.position.offset != heads[name]:
            place = None if room is None else room.position
            return f"{self.name} is at {place} in {name}, which ends at {heads[name]}"
        if room.users is not None and {each.username for each in room.users} != users[name]:
            return f"{self.name} is wrong about the users of {name}"
        return f"{self.name} has an unconfirmed command" if self._waits else None

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._chat.close()

    # Life cycle

    def _on_status(self, status: Status) -> None:
        now = asyncio.get_running_loop().time()
        if status.state == "waiting":
            self._lost_at = self._lost_at or now
        elif status.state == "connected" and self._lost_at is not None:
            self.absences[self._room_name].append((self._lost_at, now))
            self._lost_at = None

    async def _run(self) -> None:
        room = self._room = await self._chat.join(self._room_name, buffer=BUFFER)
        self._lost_at = None  # it was not there before
        users, online = room.users, room.online
        if room._buffer:  # others have come or gone since the reply
            users, online = None, MAX_LISTED_USERS + 1
        self._note_joined(None, Position(*room.position), room.messages, users, online)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._record(room))
            tasks.create_task(self._act_forever(room))

    async def _act_forever(self, room: Room) -> None:
        while not self._settling:
            await asyncio.sleep(self._random.expovariate(1 / self._interval_s))
            self._waits = True
            try:
                await self._act(room)
            except Refused as refusal:
                self.refusals[refusal.code] += 1
            self._waits = False

    async def _act(self, room: Room) -> None:
        dice = self._random.random()
        if dice < 0.8 or not self._own:
            self._count += 1
            id = f"{self.name}-{self._count}"
            text = f"{id} says {self._random.random()}"
            self.events.append(Sent(room.name, self.name, id, text))
            sent = await room.send(text, id=id)
            self.events.append(Acked(room.name, self.name, id, sent.offset))
            self._own.append(sent.offset)
        elif dice < 0.9:
            offset = self._random.randint(1, self._own[-1])
            await room.react(offset, self._random.choice(EMOJI), remove=self._random.random() < 0.3)
        elif dice < 0.97:
            await room.edit(self._random.choice(self._own), f"edited {self._random.random()}")
        else:
            await room.delete(self._random.choice(self._own))

    # Events

    async def _record(self, room: Room) -> None:
        async for event in room:
            match event:
                case Publication():
                    self.events.append(self._note(event.raw))
                case Join() | Leave():
                    now, came = asyncio.get_running_loop().time(), isinstance(event, Join)
                    name = intern(event.username)
                    self.events.append(Moved(room.name, name, came, event.online, now))
                case Rejoined():
                    # The users can be others now; the stream goes on where it was.
                    self._rejoined = event.users, event.online
                    place = Position(*room.position)
                    self._note_joined(place, place, (), event.users, event.online)
                case Gap():
                    self._note_gap(event)
            await self._may_run.wait()

    def _note_gap(self, gap: Gap) -> None:
        """Note that the view begins anew, with the users as the last `Rejoined` had them."""
        self.gaps[gap.reason] += 1
        self.events.append(Lost(asyncio.get_running_loop().time()))
        users, online = self._rejoined
        if gap.reason == "slow":  # joins and leaves can be missing, too
            users, online = None, MAX_LISTED_USERS + 1
        self._note_joined(None, Position(*gap.position), gap.messages, users, online)

    def _note_joined(
        self,
        since: Position | None,
        position: Position,
        messages: tuple[Any, ...],
        users: tuple[User, ...] | None,
        online: int,
    ) -> None:
        publications = tuple(self._note(each.raw).publication for each in messages)
        names = tuple(intern(each.username) for each in users or ())
        now = asyncio.get_running_loop().time()
        recovered = since is not None
        self.events.append(
            Joined(self._room_name, since, position, recovered, publications, now, names, online)
        )

    def _note(self, raw: Mapping[str, Any]) -> Live:
        publication = seen(raw)
        live = self._shared.get(publication)
        if live is None:
            live = self._shared[publication] = Live(publication)
        return live
