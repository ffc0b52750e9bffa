"""A chat without sockets: a broker, recording fakes, and clients that tests address by name."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from contracts.broker import Faulty
from contracts.history import GENERATION
from fastchat.brokers.memory import MemoryBroker
from fastchat.chat import Chat, Client
from fastchat.errors import CloseReason, CommandError
from fastchat.files.incoming import IncomingFiles
from fastchat.history.memory import MemoryHistory
from fastchat.history.users import UserIds
from fastchat.limits.connections import ConnectionCount
from fastchat.metrics import Metrics
from fastchat.protocol import Position, parsing
from fastchat.protocol.users import guest_of
from fastchat.rooms import Entrance, Entry, Member
from fastchat.rooms.contract import Rooms
from fastchat.rooms.local import LocalRooms
from fastchat.rooms.members import GRACE_TICKS
from support.files_in_memory import FilesInMemory
from support.slow_rooms import SlowRooms

NOW_S = 1737196200.123
TIMESTAMP = "2025-01-18T10:30:00.123Z"
USER_KEY = bytes(32)


def user_of(session: str) -> str:
    """The public id of a guest, by their session."""
    return UserIds(USER_KEY).user_of(guest_of(session))


class Inboxes:
    """A `Delivery` and a `ChatHub` that records the events of each connection in order."""

    def __init__(self) -> None:
        self.members: dict[str, list[str]] = {}
        self.got: dict[str, list[dict[str, Any]]] = {}
        self.turns = 0
        self.closed: set[str] = set()

    def join(self, connection: str, room: str, /) -> bool:
        if connection in self.closed:
            return False
        members = self.members.setdefault(room, [])
        if connection not in members:  # the hub ignores it, too
            members.append(connection)
        return True

    def leave(self, connection: str, room: str, /) -> None:
        self.members[room].remove(connection)

    def publish(self, room: str, payload: bytes, but: str | None = None, /) -> None:
        for connection in self.members.get(room, ()):
            if connection != but:
                self.send(connection, payload)

    def send(self, connection: str, payload: bytes, /) -> bool:
        self.got.setdefault(connection, []).append(json.loads(payload))
        return True

    def end_turn(self) -> None:
        self.turns += 1

    def evict(self, room: str, code: int, reason: str, /) -> None:
        raise AssertionError("no stream has a hole where the rooms are")


class SlowBroker(MemoryBroker):
    """A broker whose joins and leaves a test can delay or make fail, as in another process.

    It records its calls of `tell`.
    """

    def __init__(self, rooms: Rooms) -> None:
        super().__init__(rooms)
        self.gate: asyncio.Event | None = None
        self.failure: Exception | None = None
        self.told: list[tuple[str, dict[str, Any]]] = []

    async def join(self, entrance: Entrance, enter: Callable[[Entry], None]) -> None:
        await self._pass()
        await super().join(entrance, enter)

    async def leave(self, room: str, member: Member, left: Callable[[], None]) -> None:
        await self._pass()
        await super().leave(room, member, left)

    def tell(self, room: str, payload: bytes) -> None:
        self.told.append((room, json.loads(payload)))

    async def _pass(self) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure


class RecordingEndpoint:
    """An `Endpoint` that records the chat's calls about its client."""

    def __init__(self) -> None:
        self.expiries: list[float] = []
        self.users: list[str] = []
        self.dismissals: list[tuple[CloseReason, int]] = []

    def on_authenticated(self, expires_s: float, /) -> None:
        self.expiries.append(expires_s)

    def on_joined(self, user: str, /) -> None:
        self.users.append(user)

    def dismiss(self, reason: CloseReason, reconnect_after_ms: int, /) -> None:
        self.dismissals.append((reason, reconnect_after_ms))


class Talk:
    """A chat with its broker, and clients that a test addresses by name."""

    #: Whether all coroutines of the rooms suspend.
    are_rooms_slow = False

    def __init__(
        self, *, max_messages: int = 1000, files: FilesInMemory | None = None, **options: Any
    ) -> None:
        secrets = (f"secret-of-16-bytes-{number}" for number in itertools.count())
        self.history = MemoryHistory(
            max_messages=max_messages, new_generation=lambda: GENERATION, user_key=USER_KEY
        )
        self.faulty = Faulty(self.history)
        self.metrics = Metrics()
        self.now_s = 0.0  # the time on the uploads' clock
        rooms = LocalRooms(
            self.faulty,
            at_end_of_turn=asyncio.get_running_loop().call_soon,
            soon=asyncio.get_running_loop().call_soon,
            clock=lambda: NOW_S,
            metrics=self.metrics,
        )
        self.rooms: Any = SlowRooms(rooms) if self.are_rooms_slow else rooms
        self.broker = SlowBroker(self.rooms)
        self.inboxes = Inboxes()
        self.chat = Chat(
            self.broker,
            self.inboxes,
            presence=self.rooms,
            pages=self.rooms.pages,
            clock=lambda: NOW_S,
            new_secret=lambda: next(secrets),
            metrics=self.metrics,
            incoming_files=None
            if files is None
            else IncomingFiles(files, ConnectionCount(), lambda: self.now_s),
            max_chunk_bytes=100,
            **options,
        )
        self.broker.open(delivery=self.inboxes, receiver=self.chat)
        self.clients: dict[str, Client] = {}
        self.endpoints: dict[str, RecordingEndpoint] = {}

    def client(self, name: str) -> Client:
        if name not in self.clients:
            endpoint = self.endpoints[name] = RecordingEndpoint()
            self.clients[name] = Client(name, endpoint, "", self.chat.guest_rights)
        return self.clients[name]

    async def do(self, name: str, /, **fields: Any) -> None:
        """Run a command as a session does, and end the loop's turn."""
        work = self.begin(name, **fields)
        if work is not None:
            await work
        await asyncio.sleep(0)

    def begin(self, name: str, /, **fields: Any) -> Coroutine[Any, Any, None] | None:
        """Run a command until it ends or waits; returns the rest of it if it waits."""
        command = parsing.parse(json.dumps(fields).encode())
        return self.chat.handle(self.client(name), command)

    async def join(self, name: str, room: str = "lobby", **fields: Any) -> dict[str, Any]:
        """Join as the user `name` unless a `username` is given; returns the reply."""
        await self.do(name, type="join", room=room, **{"username": name, **fields})
        return self.inboxes.got[name][-1]

    async def refused(self, name: str, /, **fields: Any) -> CommandError:
        with pytest.raises(CommandError) as caught:
            await self.do(name, **fields)
        return caught.value

    def depart(self, name: str) -> None:
        self.chat.depart(self.client(name))
        for members in self.inboxes.members.values():
            if name in members:  # the hub removes a closed connection by itself
                members.remove(name)

    def tick(self, times: int = GRACE_TICKS) -> None:
        """Let `times` seconds pass; by default as many as a lost user has to come back."""
        for _ in range(times):
            self.rooms.tick()

    def shown(self, name: str) -> dict[str, Any]:
        """The user of a client as events show them: the public id and the name."""
        client = self.client(name)
        assert client.session is not None
        return {"user": user_of(client.session), "username": client.username}

    def names(self, room: str = "lobby") -> list[str]:
        """The names of a room's users."""
        return [user.name for user in self.rooms.users(room)]

    def news(self, name: str) -> list[dict[str, Any]]:
        """The events of a client since the last call."""
        news = self.inboxes.got.get(name, [])
        self.inboxes.got[name] = []
        return news

    def kinds(self, name: str) -> list[str]:
        return [event["type"] for event in self.news(name)]


def run(test: Callable[[Talk], Any], **keywords: Any) -> None:
    async def body() -> None:
        await test(Talk(**keywords))

    asyncio.run(body())


def since(position: Position, offset: int) -> dict[str, Any]:
    return {"since": {"epoch": position.epoch, "offset": offset}}


def offsets(event: dict[str, Any]) -> list[int]:
    return [message["offset"] for message in event["messages"]]


async def alice_said(talk: Talk, text: str = "hello") -> dict[str, Any]:
    """Let Alice send a message to Bob and Eve; returns the reply to her `join`."""
    reply = await talk.join("Alice")
    await talk.join("Bob")
    await talk.join("Eve")
    await talk.do("Alice", text=text, id="i")
    for name in ("Alice", "Bob", "Eve"):
        talk.news(name)
    return reply
