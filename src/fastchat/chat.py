"""The rules of the chat: who may do what, and who hears of it.

No sockets, no event loop, no picows. The chat is told of clients and their
commands by sessions, publishes through a broker, and writes through a `Delivery`,
which the hub is.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from fastchat import protocol
from fastchat.brokers import Broker
from fastchat.errors import CommandError, ErrorCode
from fastchat.history import Duplicate, Page
from fastchat.presence import Presence, User
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

#: Whoever is back before this many ticks are over has not been away, to the others: 5 s,
#: and up to one more because the tick he left in had begun.
GRACE_TICKS = 6
#: Rooms with more users than this hear of joins and leaves by number, once a second.
CROWD = 200


class Delivery(Protocol):
    """How payloads reach clients; `connection` is opaque. See `fastchat._fanout.Hub`.

    In order: what was published to a room before `join` never arrives after it,
    what was published before `leave` still arrives, and `send` overtakes nothing.
    """

    def join(self, connection: Any, room: str, /) -> None: ...
    def leave(self, connection: Any, room: str, /) -> None: ...
    def publish(self, room: str, payload: bytes, but: Any = None, /) -> None: ...
    def send(self, connection: Any, payload: bytes, /) -> bool | None: ...
    def end_turn(self) -> None: ...


class Client:
    """A connection as the chat sees it: where it is, and under which names."""

    __slots__ = ("connection", "gone", "rooms", "session", "username")

    def __init__(self, connection: object) -> None:
        self.connection = connection
        self.rooms: dict[str, User] = {}
        self.username: str | None = None
        self.session: str | None = None
        self.gone = False


class Chat:
    """The rules. `handle` runs a command, `depart` ends a client, `tick` runs once a second.

    * ``clock``: seconds since 1970, for timestamps only.
    * ``new_secret``: makes a client's `session`.
    """

    def __init__(
        self,
        broker: Broker,
        presence: Presence,
        delivery: Delivery,
        *,
        clock: Callable[[], float],
        new_secret: Callable[[], str],
    ) -> None:
        self._broker = broker
        self._presence = presence
        self._delivery = delivery
        self._clock = clock
        self._new_secret = new_secret
        self._crowded: set[str] = set()  # rooms whose number changed since the last tick
        #: Who has lost his last connection to a room, and in which tick; the first first.
        self._absent: dict[tuple[str, str], int] = {}
        self._ticks = 0
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
        broker.open(self._deliver, self._answer, delivery.end_turn)

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
        for room in tuple(client.rooms):
            self._count_out(room, self._quit(client, room))

    def tick(self) -> None:
        """Announce who did not come back, and tell crowded rooms their number."""
        self._ticks += 1
        for (room, name), left in tuple(self._absent.items()):
            if left + GRACE_TICKS > self._ticks:
                break
            user = self._presence.absent(room, name)
            assert user is not None
            self._remove(room, user)
        for room in self._crowded:
            payload = protocol.presence(room, self._presence.online(room))
            self._delivery.publish(room, payload)
        self._crowded.clear()

    # Commands

    def _message(self, client: Client, command: Message) -> None:
        text, room, id, ref = command
        room = self._room_of(client, room)
        user = client.rooms[room]
        timestamp = protocol.timestamp_of(self._clock())
        self._broker.publish(
            Publication(room, 0, user.name, text, timestamp, id, author=user.author),
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
        user = client.rooms[room]
        draft = Publication(
            room,
            0,
            user.name,
            text,
            protocol.timestamp_of(self._clock()),
            kind=kind,
            target=command.offset,
            author=user.author,
            **more,
        )
        self._broker.publish(draft, (client, command.ref))

    def _typing(self, client: Client, command: Typing) -> None:
        room = self._room_of(client, command.room)
        payload = protocol.typing(room, client.rooms[room].name)
        self._delivery.publish(room, payload, client.connection)

    def _ping(self, client: Client, command: Ping) -> None:
        self._delivery.send(client.connection, protocol.pong(ref=command.ref))

    def _leave(self, client: Client, command: Leave) -> None:
        room = self._room_of(client, command.room)
        user = self._quit(client, room)
        if self._presence.leave(user):
            self._remove(room, user)
        self._delivery.send(client.connection, protocol.left(room, ref=command.ref))

    async def _history(self, client: Client, command: GetHistory) -> None:
        room = self._room_of(client, command.room)
        page = await self._page(room, command)
        newest_first = command.after is None
        messages = _fitting([protocol.encode(each) for each in page.publications], newest_first)
        more = page.more or len(messages) < len(page.publications)
        payload = protocol.history(room, messages, more=more, ref=command.ref)
        self._delivery.send(client.connection, payload)

    async def _search(self, client: Client, command: Search) -> None:
        room = self._room_of(client, command.room)
        found = await self._broker.search(room, command.query, command.limit)
        messages = _fitting([protocol.encode(each) for each in found], newest_first=False)
        payload = protocol.results(room, messages, ref=command.ref)
        self._delivery.send(client.connection, payload)

    async def _page(self, room: str, command: GetHistory) -> Page:
        if command.after is not None:
            return await self._broker.after(room, command.after, command.limit)
        return await self._broker.before(room, command.before, command.limit)

    async def _join(self, client: Client, command: Join) -> None:
        room = command.room
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
        absent = self._presence.absent(room, name)
        if absent is not None and absent.session != session:
            self._remove(room, absent)
        user = self._presence.join(room, name, session)
        self._absent.pop((room, user.key), None)
        try:
            snapshot = await self._broker.subscribe(
                room, command.since, command.history, protocol.MAX_HISTORY
            )
        except BaseException:
            self._count_out(room, user)
            raise
        if client.gone:  # while we waited for the history
            self._count_out(room, user)
            self._broker.unsubscribe(room)
            return
        client.username, client.session = user.name, session
        if not user.announced:
            user.announced = True
            self._announce("join", room, user)
        client.rooms[room] = user
        self._delivery.join(client.connection, room)

        messages = [protocol.encode(each) for each in snapshot.publications]
        fitting = _fitting(messages, newest_first=True)
        # A recovery is whole or it is none, but the newest as for a newcomer.
        recovered = snapshot.recovered and len(fitting) == len(messages)
        if not recovered:
            fitting = fitting[max(len(fitting) - command.history, 0) :]
        payload = protocol.joined(
            room,
            user.name,
            session,
            snapshot.position,
            recovered=recovered,
            messages=fitting,
            users=self._presence.names(room, protocol.MAX_USERS_LISTED),
            online=self._presence.online(room),
            ref=command.ref,
        )
        self._delivery.send(client.connection, payload)

    # What comes of them

    def _deliver(self, publication: Publication) -> None:
        self._delivery.publish(publication.room, protocol.encode(publication))

    def _answer(
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
            payload = protocol.error(outcome)
        if not client.gone:
            self._delivery.send(client.connection, payload)

    def _quit(self, client: Client, room: str) -> User:
        self._broker.unsubscribe(room)
        self._delivery.leave(client.connection, room)
        return client.rooms.pop(room)

    def _count_out(self, room: str, user: User) -> None:
        """A connection is lost, or its join came to nothing."""
        if not self._presence.leave(user):
            return
        if user.announced:
            self._absent[room, user.key] = self._ticks
        else:
            self._remove(room, user)

    def _remove(self, room: str, user: User) -> None:
        self._absent.pop((room, user.key), None)
        self._presence.remove(room, user)
        if user.announced:
            self._announce("leave", room, user)

    def _announce(self, kind: str, room: str, user: User) -> None:
        online = self._presence.online(room)
        if online > CROWD:
            self._crowded.add(room)
            return
        timestamp = protocol.timestamp_of(self._clock())
        payload = protocol.presence_change(kind, room, user.name, timestamp, online)
        self._delivery.publish(room, payload)

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


def _fitting(messages: Sequence[bytes], newest_first: bool) -> Sequence[bytes]:
    """As many as fit into one reply, from the newest or from the oldest on, in order."""
    size = 0
    for count, message in enumerate(reversed(messages) if newest_first else messages):
        size += len(message)
        if size > protocol.MAX_REPLY_BYTES:
            return messages[len(messages) - count :] if newest_first else messages[:count]
    return messages
