"""Learns that something has happened in rooms that streams of events follow.

A stream reads publications from the history, from its own position, so it misses nothing and needs
no buffer. This module only says when it is worth reading. There are two ways to learn that:

* `Tap` sees what the broker delivers to members in this process, and says so at once;
* `Watcher` asks for the end of each room, four times a second. It hears of publications in rooms
  that have members in other processes only. It works with any broker, and costs the rooms nothing
  while nobody follows them.

Joins and leaves are found by asking for the users of a room, at once if the tap has seen one, and
otherwise once a second. So a short visit can be missed. As for members, there are no joins and
leaves in a room with many users.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable

from fastchat.brokers import Delivery
from fastchat.chat.operations import Operations
from fastchat.errors import CommandError
from fastchat.protocol import Position, presence_change, timestamp_of
from fastchat.rooms.members import MAX_LISTED_USERS

__all__ = ["Follower", "Tap", "Watcher"]

#: Seconds between two questions for the end of a room.
POLL_S = 0.25
#: Of these questions, so many are asked before the users are asked for: once a second.
POLLS_PER_PRESENCE = 4
#: Joins and leaves that wait for a client; it reads too slowly if there are more.
MAX_WAITING = 100

#: How events that a user has come or gone begin.
_MOVES = (b'{"type":"join"', b'{"type":"leave"')


class Follower:
    """A stream: the rooms in which it may find something new, and joins and leaves for it.

    Rooms whose names have one of `beginnings` are among them even if it does not follow them yet.
    """

    def __init__(self, beginnings: tuple[str, ...] = ()) -> None:
        self.beginnings = beginnings
        self.changed: dict[str, None] = {}
        self.presence: deque[tuple[str, bytes]] = deque(maxlen=MAX_WAITING)
        self._woken = asyncio.Event()

    def wake(self, room: str) -> None:
        self.changed[room] = None
        self._woken.set()

    def tell(self, kind: str, payload: bytes) -> None:
        self.presence.append((kind, payload))
        self._woken.set()

    async def wait(self, timeout_s: float) -> bool:
        """Wait until there is something; returns whether there is."""
        if not (self.changed or self.presence):
            self._woken.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._woken.wait()
            except TimeoutError:
                return False
        return True


class _Room:
    """A room that is followed: where it ended at the last question, and who was in it."""

    __slots__ = ("end", "followers", "has_moved", "users")

    def __init__(self) -> None:
        self.followers: dict[Follower, None] = {}
        self.end: Position | None = None
        #: Whether users have come or gone since they were asked for, as this process knows.
        self.has_moved = False
        #: By id and name; None if it is not known, or if there are too many.
        self.users: dict[tuple[str, str], None] | None = None


class Watcher:
    """Watches the rooms of followers. `clock`: seconds since 1970, for timestamps only."""

    def __init__(self, operations: Operations, clock: Callable[[], float] = time.time) -> None:
        self._operations = operations
        self._clock = clock
        self._rooms: dict[str, _Room] = {}
        #: Followers that have beginnings.
        self._seeking: dict[Follower, None] = {}
        self._polling: asyncio.Task[None] | None = None

    def follow(self, room: str, follower: Follower) -> None:
        """Wake a follower when something happens in a room; it is woken once at the beginning."""
        self._rooms.setdefault(room, _Room()).followers[follower] = None
        follower.wake(room)
        if self._polling is None:
            self._polling = asyncio.get_running_loop().create_task(self._poll_forever())

    async def prepare(self, rooms: Iterable[str]) -> None:
        """Learn who is in rooms that are followed, so that nobody who comes later is missed."""
        for name in rooms:
            room = self._rooms[name]
            if room.users is None:
                with contextlib.suppress(CommandError):  # the rooms cannot be reached for a while
                    await self._poll_users(name, room)

    def seek(self, follower: Follower) -> None:
        """Wake a follower also when something happens in a room with one of its beginnings."""
        if follower.beginnings:
            self._seeking[follower] = None

    def unfollow(self, follower: Follower) -> None:
        """Forget a follower."""
        self._seeking.pop(follower, None)
        for name, room in tuple(self._rooms.items()):
            room.followers.pop(follower, None)
            if not room.followers:
                del self._rooms[name]
        if not self._rooms and self._polling is not None:
            self._polling.cancel()
            self._polling = None

    def move(self, room: str) -> None:
        """A user has come to a room, or gone."""
        if (watched := self._rooms.get(room)) is not None:
            watched.has_moved = True

    def wake(self, room: str) -> None:
        """Something was published in a room, as this process knows."""
        if (watched := self._rooms.get(room)) is not None:
            for follower in watched.followers:
                follower.wake(room)
        for follower in self._seeking:
            if room.startswith(follower.beginnings):
                follower.wake(room)

    async def _poll_forever(self) -> None:
        polls = 0
        while True:
            polls += 1
            for name, room in tuple(self._rooms.items()):
                try:
                    await self._poll(name, room)
                    if room.has_moved or polls % POLLS_PER_PRESENCE == 1:
                        await self._poll_users(name, room)
                except CommandError:
                    continue  # the rooms cannot be reached for a while
            await asyncio.sleep(POLL_S)

    async def _poll(self, name: str, room: _Room) -> None:
        end = await self._operations.position(name)
        if end != room.end:
            room.end = end
            self.wake(name)

    async def _poll_users(self, name: str, room: _Room) -> None:
        room.has_moved = False
        listed = await self._operations.users(name)
        if len(listed) > MAX_LISTED_USERS:
            room.users = None
            return
        before, room.users = room.users, {(each.user, each.username): None for each in listed}
        if before is None:
            return
        left = [each for each in before if each not in room.users]
        came = [each for each in room.users if each not in before]
        online = len(before)
        for kind, changes in (("leave", left), ("join", came)):
            for user, username in changes:
                online += 1 if kind == "join" else -1
                now = timestamp_of(self._clock())
                payload = presence_change(kind, name, user, username, now, online)
                for follower in room.followers:
                    follower.tell(kind, payload)


class Tap:
    """A `Delivery` that passes everything on, and tells the watcher."""

    def __init__(self, delivery: Delivery, watcher: Watcher) -> None:
        self._publish = delivery.publish
        self._watcher = watcher
        self.end_turn = delivery.end_turn
        self.evict = delivery.evict

    def publish(self, room: str, payload: bytes, /) -> None:
        self._publish(room, payload)
        if payload.startswith(_MOVES):
            self._watcher.move(room)
        else:
            self._watcher.wake(room)
