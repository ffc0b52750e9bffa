"""The rules of the chat: who may do what, and who hears of it.

No sockets, no event loop, no picows. The chat is told of clients and their
commands by sessions, publishes through a broker, and writes through a `Delivery`,
which the hub is.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol

from fastchat import protocol
from fastchat.auth import Authenticator, Right, forbidden, unauthorized
from fastchat.brokers import Broker, Pages, Presence
from fastchat.chat.client import Client
from fastchat.errors import CloseReason, CommandError, ErrorCode, Violation
from fastchat.files.incoming import Incoming, Uploads
from fastchat.history import Duplicate
from fastchat.metrics import Metrics
from fastchat.protocol import (
    ChangeDraft,
    Chunk,
    Command,
    Delete,
    Edit,
    GetHistory,
    Join,
    Kind,
    Leave,
    MessageDraft,
    Ping,
    React,
    Remove,
    Search,
    Send,
    Typing,
    Upload,
)
from fastchat.rooms import Entrance, Entry, Member, Removal
from fastchat.rooms.presence import author_of

__all__ = ["Chat", "Delivery"]


class Delivery(Protocol):
    """How the chat's own payloads reach clients: the hub, as the chat uses it.

    A `connection` is opaque. What is published by others goes from the broker to the hub
    (`fastchat.brokers.Delivery`). See `fastchat._fanout.Hub`.

    In order: what was published to a room before `join` never arrives after it,
    what was published before `leave` still arrives, and `send` overtakes nothing.
    `join` is False for a connection that is closed, whether we have heard of it or not.
    """

    def join(self, connection: Any, room: str, /) -> bool: ...
    def leave(self, connection: Any, room: str, /) -> None: ...
    def publish(self, room: str, payload: bytes, but: Any = None, /) -> None: ...
    def send(self, connection: Any, payload: bytes, /) -> bool | None: ...


class Chat:
    """The rules. `handle` runs a command, `depart` ends a client. A broker's `Receiver`.

    * ``clock``: seconds since 1970, for timestamps only.
    * ``new_secret``: makes a client's `session`.
    * ``authenticator``: where it is given, only those come in whom it knows, and do what they may.
    * ``max_rooms``: of one client at once; 0 for no limit.
    * ``uploads``: takes what is shared; None where nothing may be.
    * ``max_chunk_bytes``: how much of a file one binary message may hold.
    """

    def __init__(
        self,
        broker: Broker,
        delivery: Delivery,
        *,
        presence: Presence,
        pages: Pages,
        clock: Callable[[], float],
        new_secret: Callable[[], str],
        metrics: Metrics,
        authenticator: Authenticator | None = None,
        max_rooms: int = protocol.MAX_ROOMS,
        uploads: Uploads | None = None,
        max_chunk_bytes: int = 0,
    ) -> None:
        self._max_rooms = max_rooms
        self._uploads = uploads
        self._max_chunk_bytes = max_chunk_bytes
        self._authenticator = authenticator
        #: Who is here by a token, by room and author: whom a moderator may remove.
        self._removable: dict[tuple[str, str], set[Client]] = {}
        self._broker = broker
        self._presence = presence
        self._pages = pages
        self._delivery = delivery
        self._clock = clock
        self._new_secret = new_secret
        self._metrics = metrics
        self._handlers: dict[type, Callable[[Client, Any], Coroutine[Any, Any, None] | None]] = {
            Send: self._publish_message,
            Edit: self._edit,
            Delete: self._delete,
            React: self._react,
            Typing: self._typing,
            Join: self._join,
            Leave: self._leave,
            GetHistory: self._history,
            Search: self._search,
            Remove: self._remove_user,
            Upload: self._upload,
            Chunk: self._chunk,
            Ping: self._ping,
        }

    def handle(self, client: Client, command: Command) -> Coroutine[Any, Any, None] | None:
        """Run a command, or return the coroutine that does, to be run before the next one.

        Raises CommandError (the coroutine too) when the command is refused;
        nothing has changed then. Raises Violation for a chunk of no file.
        """
        if (
            self._authenticator is not None
            and client.identity is None
            and (type(command) is not Join or command.token is None)
        ):
            raise unauthorized("A token is needed: `token`, in `join`.")
        return self._handlers[type(command)](client, command)

    def authenticate(self, client: Client, token: str) -> None:
        """Take a client for whom his token says; without an authenticator it says nothing.

        Raises CommandError: `unauthorized`, also for another user's token than the last,
        and `forbidden` for one that is not for a room that he is in. Nothing changes then.
        """
        if self._authenticator is None:
            return
        identity = self._authenticator.verify(token)
        if client.identity is not None and client.identity.author != identity.author:
            raise unauthorized("This is another user's token.")
        if not all(identity.may(Right.READ, room) for room in client.rooms):
            raise forbidden()
        client.identity = identity
        client.endpoint.on_authenticated(identity.expires_s)

    def depart(self, client: Client) -> None:
        """Take a client out of all its rooms. Safe to call again.

        The others hear of it if its user is not back within 5 s.
        """
        client.gone = True
        self._give_up(client)
        while client.rooms:
            room, member = client.rooms.popitem()
            self._forget(client, room, member)
            self._broker.lose(room, member)
            self._delivery.leave(client.connection, room)

    def sweep(self) -> None:
        """Tell those whose file does not go on that it is given up; once a second."""
        for incoming in () if self._uploads is None else self._uploads.sweep():
            message = "Too little came of the file; send it again."
            refusal = CommandError(ErrorCode.UNAVAILABLE, message, temporary=True, ref=incoming.ref)
            self._metrics.refusals[refusal.code] += 1
            self._send(incoming.owner, protocol.error(refusal))

    # Commands

    def _publish_message(self, client: Client, command: Send) -> None:
        text, room, id, ref = command
        room = self._room_of(client, room, Right.WRITE)
        name, author = client.rooms[room]
        timestamp = protocol.timestamp_of(self._clock())
        self._broker.publish(
            MessageDraft(room, name, text, timestamp, author, id),
            partial(self._answer, client, id, ref),
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
        *,
        text: str = "",
        emoji: str = "",
        remove: bool = False,
    ) -> None:
        """Publish what changes a message; whether it may is decided where it is kept."""
        room = self._room_of(client, command.room)
        name, author = client.rooms[room]
        moderates = kind is not Kind.REACT and self._moderates(client, room)
        if not moderates:
            self._check(client, Right.WRITE, room)
        draft = ChangeDraft(
            room,
            name,
            text,
            protocol.timestamp_of(self._clock()),
            author,
            kind,
            command.offset,
            emoji,
            remove,
            moderates,
        )
        self._broker.publish(draft, partial(self._answer, client, None, command.ref))

    def _typing(self, client: Client, command: Typing) -> None:
        room = self._room_of(client, command.room, Right.READ)
        payload = protocol.typing(room, client.rooms[room].name)
        self._delivery.publish(room, payload, client.connection)
        self._broker.tell(room, payload)

    def _ping(self, client: Client, command: Ping) -> None:
        self._delivery.send(client.connection, protocol.pong(ref=command.ref))

    async def _leave(self, client: Client, command: Leave) -> None:
        room = self._room_of(client, command.room)
        member = client.rooms.pop(room)
        self._forget(client, room, member)
        if client.upload is not None and client.upload.upload.room == room:
            self._give_up(client)

        def left() -> None:
            if not client.gone:
                self._delivery.leave(client.connection, room)

        await self._broker.leave(room, member, left)
        self._send(client, protocol.left(room, ref=command.ref))

    async def _history(self, client: Client, command: GetHistory) -> None:
        room, limit = self._room_of(client, command.room, Right.READ), command.limit
        if command.after is not None:
            page = await self._pages.after(room, command.after, limit)
        else:
            page = await self._pages.before(room, command.before, limit)
        payload = protocol.history(room, page.payloads, more=page.more, ref=command.ref)
        self._send(client, payload)

    async def _search(self, client: Client, command: Search) -> None:
        room = self._room_of(client, command.room, Right.READ)
        found = await self._pages.search(room, command.query, command.limit)
        self._send(client, protocol.results(room, found.payloads, ref=command.ref))

    async def _remove_user(self, client: Client, command: Remove) -> None:
        room = self._room_of(client, command.room)
        if not self._moderates(client, room):
            raise forbidden()
        removal = Removal(room, command.username, command.seconds, client.rooms[room].name)
        name = await self._presence.remove(removal)
        self._send(client, protocol.removed(room, name, command.seconds, ref=command.ref))

    async def _upload(self, client: Client, command: Upload) -> None:
        room = self._room_of(client, command.room, Right.WRITE)
        if self._uploads is None:
            raise CommandError(ErrorCode.FORBIDDEN, "This server takes no files.")
        author = client.rooms[room].author
        before, client.upload = client.upload, None
        if before is not None:  # its place may be needed for this one
            await before.give_up()
        incoming = await self._uploads.announce(
            client, client.address, room, author, command.name, command.size, command.ref
        )
        if client.gone:  # nobody will know the ticket
            await incoming.upload.abandon()
            return
        client.upload = incoming
        ticket, chunk_bytes = incoming.upload.ticket, self._max_chunk_bytes
        self._send(client, protocol.upload(room, ticket, chunk_bytes, ref=command.ref))

    def _chunk(self, client: Client, command: Chunk) -> Coroutine[Any, Any, None]:
        if client.upload is None or self._uploads is None:
            raise Violation(CloseReason.UNEXPECTED_BINARY)
        return self._receive(client, client.upload, command.data, self._uploads)

    async def _receive(
        self, client: Client, incoming: Incoming, data: bytes, uploads: Uploads
    ) -> None:
        try:
            file = await uploads.take(incoming, data)
        finally:
            if client.upload is incoming and not incoming.is_expected:
                client.upload = None
        if file is not None:
            self._send(client, protocol.file(file.described(), ref=incoming.ref))

    def _join(self, client: Client, command: Join) -> Coroutine[Any, Any, None] | None:
        if self._authenticator is not None and command.token is not None:
            self.authenticate(client, command.token)
            command = command._replace(token=None)
            if command.room in client.rooms:
                self._renewed(client, command.ref)
                return None
        return self._enter(client, command)

    def _renewed(self, client: Client, ref: str | None) -> None:
        assert client.identity is not None
        _, name, expires_s, _ = client.identity
        payload = protocol.renewed(name, protocol.timestamp_of(expires_s), ref=ref)
        self._delivery.send(client.connection, payload)

    async def _enter(self, client: Client, command: Join) -> None:
        room, identity = command.room, client.identity
        self._check(client, Right.READ, room)
        if client.gone:
            return
        if room in client.rooms:
            raise CommandError(ErrorCode.ALREADY_JOINED, f"You are in the room “{room}” already.")
        if len(client.rooms) >= self._max_rooms > 0:
            raise CommandError(
                ErrorCode.TOO_MANY_ROOMS,
                f"A connection may be in {self._max_rooms} rooms; leave one first.",
                temporary=True,
            )
        session = command.session or client.session or self._new_secret()
        if identity is not None:  # what he calls himself is not asked
            member = Member(identity.name, identity.author)
        elif name := command.username or client.username:
            member = Member(name, author_of(session))
        else:
            raise CommandError(ErrorCode.BAD_USERNAME, "A name is needed: `username`.")

        def enter(entry: Entry) -> None:
            if client.gone or not self._delivery.join(client.connection, room):
                self._broker.lose(room, entry.member)  # he went while we waited for the broker
                return
            client.username, client.session = entry.member.name, session
            client.rooms[room] = entry.member
            if identity is not None:
                self._removable.setdefault((room, identity.author), set()).add(client)
            payload = protocol.joined(
                room,
                entry.member.name,
                session,
                entry.position,
                recovered=entry.recovered,
                messages=entry.payloads,
                users=entry.users,
                online=entry.online,
                rights=None if identity is None else identity.rights_in(room),
                max_file_bytes=None if self._uploads is None else self._uploads.max_file_bytes,
                ref=command.ref,
            )
            self._delivery.send(client.connection, payload)

        entrance = Entrance(
            room, member, command.since, command.history, client.address, client.connection_number
        )
        await self._broker.join(entrance, enter)
        if room in client.rooms:  # it is not if the client went meanwhile
            client.endpoint.on_joined(client.rooms[room].author)

    def _send(self, client: Client, payload: bytes) -> None:
        if not client.gone:
            self._delivery.send(client.connection, payload)

    def _give_up(self, client: Client) -> None:
        """Of a file that has not come wholly, nothing is kept."""
        incoming, client.upload = client.upload, None
        if incoming is not None and self._uploads is not None:
            self._uploads.give_up(incoming)

    def _forget(self, client: Client, room: str, member: Member) -> None:
        """He cannot be removed any more."""
        here = self._removable.get((room, member.author))
        if here is not None:
            here.discard(client)
            if not here:
                del self._removable[room, member.author]

    def _answer(
        self,
        client: Client,
        id: str | None,
        ref: str | None,
        outcome: int | Duplicate | CommandError,
    ) -> None:
        """Tell a client why its draft became no publication; the broker calls this later."""
        if isinstance(outcome, int):
            return  # the client reads its own publication in the room
        if isinstance(outcome, Duplicate):
            payload = protocol.ack(outcome.id, outcome.room, outcome.offset)
        else:
            outcome.id, outcome.ref = id, ref
            self._metrics.refusals[outcome.code] += 1
            payload = protocol.error(outcome)
        self._send(client, payload)

    # The broker's receiver

    def expel(self, room: str, author: str, seconds: int) -> None:
        for client in tuple(self._removable.get((room, author), ())):
            client.endpoint.dismiss(CloseReason.REMOVED, seconds * 1000)
        if self._uploads is not None:  # a ticket needs no connection
            self._uploads.withdraw(room, author)

    # Where a client is, and what he may do there

    def _room_of(self, client: Client, room: str | None, needed: Right | None = None) -> str:
        if room is None:
            room = self._only_room(client)
        elif room not in client.rooms:
            raise CommandError(ErrorCode.NOT_JOINED, f"You are not in the room “{room}”.")
        if needed is not None and client.identity is not None:
            self._check(client, needed, room)
        return room

    def _check(self, client: Client, needed: Right, room: str) -> None:
        if client.identity is not None and not client.identity.may(needed, room):
            raise forbidden()

    def _moderates(self, client: Client, room: str) -> bool:
        return client.identity is not None and client.identity.may(Right.MODERATE, room)

    def _only_room(self, client: Client) -> str:
        if len(client.rooms) == 1:
            return next(iter(client.rooms))
        if not client.rooms:
            raise CommandError(ErrorCode.NOT_JOINED, "You have joined no room yet.")
        raise CommandError(
            ErrorCode.BAD_COMMAND, "You are in several rooms: say which one, by `room`."
        )
