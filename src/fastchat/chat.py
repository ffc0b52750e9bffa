"""The rules of the chat: who may do what, and who hears of it.

No sockets, no event loop, no picows. The chat is told of clients and their
commands by sessions, publishes through a broker, and writes through a `Delivery`,
which the hub is.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from fastchat import protocol
from fastchat.brokers import Broker, Entrance, Entry, Member
from fastchat.errors import CloseCode, CommandError, ErrorCode
from fastchat.history import Duplicate
from fastchat.metrics import Metrics
from fastchat.presence import author_of
from fastchat.protocol import (
    Command,
    Delete,
    Edit,
    GetHistory,
    Join,
    Kind,
    Leave,
    Message,
    Ping,
    Publication,
    React,
    Search,
    Typing,
)

__all__ = ["Chat", "Client", "Delivery"]


class Delivery(Protocol):
    """How payloads reach clients; `connection` is opaque. See `fastchat._fanout.Hub`.

    In order: what was published to a room before `join` never arrives after it,
    what was published before `leave` still arrives, and `send` overtakes nothing.
    `join` is False for a connection that is closed, whether we have heard of it or not.
    """

    def join(self, connection: Any, room: str, /) -> bool: ...
    def leave(self, connection: Any, room: str, /) -> None: ...
    def publish(self, room: str, payload: bytes, but: Any = None, /) -> None: ...
    def send(self, connection: Any, payload: bytes, /) -> bool | None: ...
    def end_turn(self) -> None: ...
    def evict(self, room: str, code: int, reason: str, /) -> None: ...


class Client:
    """A connection as the chat sees it: where it is, and under which names."""

    __slots__ = ("connection", "gone", "rooms", "session", "username")

    def __init__(self, connection: object) -> None:
        self.connection = connection
        self.rooms: dict[str, Member] = {}
        self.username: str | None = None
        self.session: str | None = None
        self.gone = False


class Chat:
    """The rules. `handle` runs a command, `depart` ends a client. The broker's `Receiver`.

    * ``clock``: seconds since 1970, for timestamps only.
    * ``new_secret``: makes a client's `session`.
    """

    def __init__(
        self,
        broker: Broker,
        delivery: Delivery,
        *,
        clock: Callable[[], float],
        new_secret: Callable[[], str],
        metrics: Metrics,
    ) -> None:
        self._broker = broker
        self._delivery = delivery
        self._clock = clock
        self._new_secret = new_secret
        self._metrics = metrics
        self._handlers: dict[type, Callable[[Client, Any], Coroutine[Any, Any, None] | None]] = {
            Message: self._message,
            Edit: self._edit,
            Delete: self._delete,
            React: self._react,
            Typing: self._typing,
            Join: self._join,
            Leave: self._leave,
            GetHistory: self._history,
            Search: self._search,
            Ping: self._ping,
        }
        broker.open(self)

    def handle(self, client: Client, command: Command) -> Coroutine[Any, Any, None] | None:
        """Run a command, or return the coroutine that does, to be run before the next one.

        Raises CommandError (the coroutine too) when the command is refused;
        nothing has changed then.
        """
        return self._handlers[type(command)](client, command)

    def depart(self, client: Client) -> None:
        """Take a client out of all its rooms. Safe to call again.

        The others hear of it if its user is not back within 5 s.
        """
        client.gone = True
        while client.rooms:
            room, member = client.rooms.popitem()
            self._broker.lose(room, member)
            self._delivery.leave(client.connection, room)

    # Commands

    def _message(self, client: Client, command: Message) -> None:
        text, room, id, ref = command
        room = self._room_of(client, room)
        name, author = client.rooms[room]
        timestamp = protocol.timestamp_of(self._clock())
        self._broker.publish(
            Publication(room, 0, name, text, timestamp, id, author=author),
            (client, ref),
        )

    def _edit(self, client: Client, command: Edit) -> None:
        self._change(client, command, Kind.EDIT, text=command.text)

    def _delete(self, client: Client, command: Delete) -> None:
        self._change(client, command, Kind.DELETE)

    def _react(self, client: Client, command: React) -> None:
        self._change(client, command, Kind.REACT, emoji=command.emoji, remove=command.remove)

    def _change(
        self,
        client: Client,
        command: Edit | Delete | React,
        kind: Kind,
        text: str = "",
        **more: Any,
    ) -> None:
        """Publish what changes a message; whether it may is decided where it is kept."""
        room = self._room_of(client, command.room)
        name, author = client.rooms[room]
        draft = Publication(
            room,
            0,
            name,
            text,
            protocol.timestamp_of(self._clock()),
            kind=kind,
            target=command.offset,
            author=author,
            **more,
        )
        self._broker.publish(draft, (client, command.ref))

    def _typing(self, client: Client, command: Typing) -> None:
        room = self._room_of(client, command.room)
        payload = protocol.typing(room, client.rooms[room].name)
        self._delivery.publish(room, payload, client.connection)
        self._broker.tell(room, payload)

    def _ping(self, client: Client, command: Ping) -> None:
        self._delivery.send(client.connection, protocol.pong(ref=command.ref))

    async def _leave(self, client: Client, command: Leave) -> None:
        room = self._room_of(client, command.room)
        member = client.rooms.pop(room)

        def left() -> None:
            if not client.gone:
                self._delivery.leave(client.connection, room)

        await self._broker.leave(room, member, left)
        self._send(client, protocol.left(room, ref=command.ref))

    async def _history(self, client: Client, command: GetHistory) -> None:
        room, limit = self._room_of(client, command.room), command.limit
        if command.after is not None:
            page = await self._broker.after(room, command.after, limit)
        else:
            page = await self._broker.before(room, command.before, limit)
        payload = protocol.history(room, page.payloads, more=page.more, ref=command.ref)
        self._send(client, payload)

    async def _search(self, client: Client, command: Search) -> None:
        room = self._room_of(client, command.room)
        found = await self._broker.search(room, command.query, command.limit)
        self._send(client, protocol.results(room, found.payloads, ref=command.ref))

    async def _join(self, client: Client, command: Join) -> None:
        room = command.room
        if client.gone:
            return
        if room in client.rooms:
            raise CommandError(ErrorCode.ALREADY_JOINED, f"You are in the room “{room}” already.")
        if len(client.rooms) >= protocol.MAX_ROOMS:
            raise CommandError(
                ErrorCode.TOO_MANY_ROOMS,
                f"A connection may be in {protocol.MAX_ROOMS} rooms; leave one first.",
                temporary=True,
            )
        name = command.username or client.username
        if name is None:
            raise CommandError(ErrorCode.BAD_USERNAME, "A name is needed: `username`.")
        session = command.session or client.session or self._new_secret()

        def enter(entry: Entry) -> None:
            if client.gone or not self._delivery.join(client.connection, room):
                self._broker.lose(room, entry.member)  # he went while we waited for the broker
                return
            client.username, client.session = entry.member.name, session
            client.rooms[room] = entry.member
            payload = protocol.joined(
                room,
                entry.member.name,
                session,
                entry.position,
                recovered=entry.recovered,
                messages=entry.payloads,
                users=entry.users,
                online=entry.online,
                ref=command.ref,
            )
            self._delivery.send(client.connection, payload)

        member = Member(name, author_of(session))
        await self._broker.join(Entrance(room, member, command.since, command.history), enter)

    def _send(self, client: Client, payload: bytes) -> None:
        if not client.gone:
            self._delivery.send(client.connection, payload)

    # What comes of them: the broker's receiver

    def deliver(self, room: str, payload: bytes) -> None:
        self._delivery.publish(room, payload)

    def answer(
        self,
        sender: tuple[Client, str | None],
        draft: Publication,
        outcome: Duplicate | CommandError,
    ) -> None:
        client, ref = sender
        if isinstance(outcome, Duplicate):
            payload = protocol.ack(outcome.id, outcome.room, outcome.offset)
        else:
            outcome.id, outcome.ref = draft.id, ref
            self._metrics.refusals[outcome.code] += 1
            payload = protocol.error(outcome)
        self._send(client, payload)

    def end_turn(self) -> None:
        self._delivery.end_turn()

    def lost(self, room: str) -> None:
        reason = "the room's stream lost its continuity"
        self._delivery.evict(room, CloseCode.LOST_CONTINUITY, reason)

    # Where a client is

    def _room_of(self, client: Client, room: str | None) -> str:
        if room is None:
            return self._only_room(client)
        if room not in client.rooms:
            raise CommandError(ErrorCode.NOT_JOINED, f"You are not in the room “{room}”.")
        return room

    def _only_room(self, client: Client) -> str:
        if len(client.rooms) == 1:
            return next(iter(client.rooms))
        if not client.rooms:
            raise CommandError(ErrorCode.NOT_JOINED, "You have joined no room yet.")
        raise CommandError(
            ErrorCode.BAD_COMMAND, "You are in several rooms: say which one, by `room`."
        )
