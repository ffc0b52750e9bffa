"""The rules of the chat: which client can do what, and who hears of it.

No sockets, no event loop, no picows. Sessions report clients and their commands to the chat. The
chat publishes through a broker, and writes through the hub, which it sees as a `ChatHub`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from fastchat import protocol
from fastchat.auth import GUEST_RIGHTS, Authenticator, Right, forbidden, unauthorized
from fastchat.brokers import Broker, Pages, Presence
from fastchat.chat.client import ChatHub, Client, nameless, reply
from fastchat.chat.hooks import Asked, AskJoin, AskPublish, Gate
from fastchat.chat.moderation import Moderation
from fastchat.chat.uploads import UploadCommands
from fastchat.errors import CommandError, ErrorCode
from fastchat.files.incoming import IncomingFiles
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
    Ping,
    React,
    Remove,
    Search,
    Send,
    Typing,
    Upload,
)
from fastchat.protocol.users import guest_of
from fastchat.rooms import Entrance, Entry
from fastchat.rooms.presence import numbered
from fastchat.rooms.refusals import name_taken

__all__ = ["Chat"]


class Chat:
    """The rules. `handle` runs a command, `depart` takes a client out. A broker's `Receiver`.

    * ``clock``: seconds since 1970, for timestamps only.
    * ``new_secret``: makes a client's `session`.
    * ``authenticator``: accepts tokens, which identify users and grant them rights; None if the
      server accepts no tokens.
    * ``admits_guests``: whether a client can join without a token.
    * ``guest_rights``: what such a client can do in each room.
    * ``admits_spectators``: whether it can read without a name.
    * ``max_rooms``: how many rooms a client can be in at once; 0 for no limit.
    * ``reserves``: whether a name is reserved in a room, for an API key or a webhook.
    * ``incoming_files``: takes the files that clients share; None if the server takes none.
    * ``max_chunk_bytes``: the largest piece of a file that a binary message can hold.
    """

    def __init__(
        self,
        broker: Broker,
        hub: ChatHub,
        *,
        presence: Presence,
        pages: Pages,
        clock: Callable[[], float],
        new_secret: Callable[[], str],
        metrics: Metrics,
        authenticator: Authenticator | None = None,
        admits_guests: bool = True,
        guest_rights: frozenset[Right] = GUEST_RIGHTS,
        admits_spectators: bool = True,
        max_rooms: int = protocol.MAX_ROOMS,
        reserves: Callable[[str, str], bool] = lambda room, name: False,
        incoming_files: IncomingFiles | None = None,
        max_chunk_bytes: int = 0,
    ) -> None:
        self._max_rooms = max_rooms
        self._reserves = reserves
        self._authenticator = authenticator
        self._admits_guests = admits_guests
        self._admits_spectators = admits_spectators
        self.guest_rights = guest_rights
        self._broker = broker
        self._pages = pages
        self._hub = hub
        self._now = protocol.timestamps(clock)
        self._new_secret = new_secret
        self._metrics = metrics
        self._moderation = Moderation(presence, hub)
        self._gate = Gate(presence)
        self._uploads = UploadCommands(
            incoming_files, hub, metrics=metrics, max_chunk_bytes=max_chunk_bytes
        )
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
            Remove: self._moderation.remove_user,
            Upload: self._uploads.announce,
            Chunk: self._uploads.receive,
            Ping: self._ping,
        }
        self._plain_handlers = dict(self._handlers)

    def use_hooks(self, before_publish: AskPublish | None, before_join: AskJoin | None) -> None:
        """Ask these hooks about commands from now on; None for none."""
        self._gate.before_publish, self._gate.before_join = before_publish, before_join
        for kind in (Send, Edit, React, Upload):
            handler = self._plain_handlers[kind]
            if before_publish is not None:
                handler = partial(self._ask_first, handler)
            self._handlers[kind] = handler

    @property
    def needs_handshake(self) -> bool:
        """Whether a client's `Cookie` and `Authorization` are to be kept for a hook."""
        return self._gate.before_join is not None

    def handle(self, client: Client, command: Command) -> Coroutine[Any, Any, None] | None:
        """Run a command, or return a coroutine that must end before the next command is handled.

        This and the coroutine raise CommandError if the command is refused; nothing has changed
        then. Raises Violation for a chunk if no file was announced.
        """
        if (
            not self._admits_guests
            and client.identity is None
            and (type(command) is not Join or command.token is None)
        ):
            raise unauthorized("This server requires a token. Send it as `token` in `join`.")
        return self._handlers[type(command)](client, command)

    def authenticate(self, client: Client, token: str) -> None:
        """Authenticate a client by its token; without an authenticator a token means nothing.

        Raises CommandError: `unauthorized` if the token is not valid or belongs to another user
        than the client's previous token, and `forbidden` if it does not allow all rooms that the
        client is in, or if the client is in a room as a guest. Nothing has changed then.
        """
        if self._authenticator is None:
            return
        identity = self._authenticator.verify(token)
        if client.identity is not None and client.identity.credential != identity.credential:
            raise unauthorized("The token is another user's. Open a new connection to use it.")
        if client.identity is None and not all(map(client.is_spectator_in, client.rooms)):
            raise CommandError(
                ErrorCode.FORBIDDEN,
                "You are a guest on this connection. Open a new connection to use a token.",
            )
        if not all(identity.may(Right.READ, room) for room in client.rooms):
            raise forbidden()
        client.identify(identity)
        client.endpoint.on_authenticated(identity.expires_s)

    def depart(self, client: Client) -> None:
        """Take a client out of all its rooms, because its connection ends. Safe to call again.

        The others hear of it if its user is not back within 5 s.
        """
        client.gone = True
        self._uploads.give_up(client)
        while client.rooms:
            room = next(reversed(client.rooms))
            member = client.leave(room)
            self._moderation.untrack(client, room, member.user)
            self._broker.lose(room, member)
            self._hub.leave(client.connection, room)

    def sweep(self) -> None:
        """Give up files that have stalled; to be called once a second."""
        self._uploads.sweep()

    # Commands

    async def _ask_first(
        self,
        handler: Callable[[Client, Any], Coroutine[Any, Any, None] | None],
        client: Client,
        command: Asked,
    ) -> None:
        """Run a command if the hook allows it; nothing is asked about what is refused anyway."""
        room = self._writes_in(client, command)
        command = await self._gate.pass_command(client, command, room, client.rooms[room])
        if client.gone:
            return
        work = handler(client, command)
        if work is not None:
            await work

    def _writes_in(self, client: Client, command: Asked) -> str:
        """The room in which a command writes. Raises CommandError if the client may not do it."""
        if isinstance(command, (Edit, React)):
            room, *_ = self._changer(client, command)
            return room
        return client.writer_in(command.room)[0]

    def _publish_message(self, client: Client, command: Send) -> None:
        text, room, id, ref = command
        room, name, user, make = client.writer_in(room)
        self._broker.publish(
            make(room, name, text, self._now(), user, id),
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
        """Publish a change of a message. The history decides whether the author can make it."""
        room, name, user, moderates = self._changer(client, command)
        draft = ChangeDraft(
            room,
            name,
            text,
            self._now(),
            user,
            kind,
            command.offset,
            emoji,
            remove,
            moderates,
        )
        self._broker.publish(draft, partial(self._answer, client, None, command.ref))

    def _changer(
        self, client: Client, command: Edit | Delete | React
    ) -> tuple[str, str, str, bool]:
        """The room of a change, the client's name and id there, and whether it moderates there.

        Raises CommandError if the client may change nothing there.
        """
        room = client.room_of(command.room)
        moderates = type(command) is not React and client.moderates(room)
        if not moderates:
            client.check(Right.WRITE, room)
        name, user = client.rooms[room]
        if name is None:
            raise nameless()
        return room, name, user, moderates

    def _typing(self, client: Client, command: Typing) -> None:
        room, name, user, _ = client.writer_in(command.room)
        payload = protocol.typing(room, user, name)
        self._hub.publish(room, payload, client.connection)
        self._broker.tell(room, payload)

    def _ping(self, client: Client, command: Ping) -> None:
        self._hub.send(client.connection, protocol.pong(ref=command.ref))

    async def _leave(self, client: Client, command: Leave) -> None:
        room = client.room_of(command.room)
        member = client.leave(room)
        self._moderation.untrack(client, room, member.user)
        self._uploads.leave(client, room)

        def left() -> None:
            if not client.gone:
                self._hub.leave(client.connection, room)

        await self._broker.leave(room, member, left)
        reply(self._hub, client, protocol.left(room, ref=command.ref))

    async def _history(self, client: Client, command: GetHistory) -> None:
        room, limit = client.room_of(command.room, Right.READ), command.limit
        if command.after is not None:
            page = await self._pages.after(room, command.after, limit)
        else:
            page = await self._pages.before(room, command.before, limit)
        payload = protocol.history(room, page.payloads, more=page.more, ref=command.ref)
        reply(self._hub, client, payload)

    async def _search(self, client: Client, command: Search) -> None:
        room = client.room_of(command.room, Right.READ)
        found = await self._pages.search(room, command.query, command.limit)
        reply(self._hub, client, protocol.results(room, found.payloads, ref=command.ref))

    def _join(self, client: Client, command: Join) -> Coroutine[Any, Any, None] | None:
        if self._authenticator is not None and command.token is not None:
            self.authenticate(client, command.token)
            command = command._replace(token=None)
            if command.room in client.rooms and not client.is_spectator_in(command.room):
                self._renewed(client, command.room, command.ref)
                return None
        return self._enter(client, command)

    def _renewed(self, client: Client, room: str, ref: str | None) -> None:
        assert client.identity is not None
        name, user = client.rooms[room]
        expires = protocol.timestamp_of(client.identity.expires_s)
        rights = client.rights_in(room)
        payload = protocol.renewed(room, user, name, expires, rights=rights, ref=ref)
        self._hub.send(client.connection, payload)

    async def _enter(self, client: Client, command: Join) -> None:
        room = command.room
        if self._gate.before_join is None:
            username = command.username
        else:
            username = await self._gate.pass_join(client, command)
        client.check(Right.READ, room)
        if client.gone:
            return
        session = command.session or client.session or self._new_secret()
        name, credential = self._named(client, username, session)
        if name is not None and self._reserves(room, name):
            if client.identity is None:
                raise name_taken(None)
            name = numbered(name, 2)  # as if another user of that name were here
        self._check_new_room(client, room, has_name=name is not None)
        entrance = Entrance(
            room,
            name,
            credential,
            command.since,
            command.history,
            client.address,
            client.connection_number,
            client.moderates(room),
        )
        # A callback and not a result, because the reply has an exact place in the room's stream.
        await self._broker.join(entrance, partial(self._admit, client, room, session, command.ref))
        if room in client.rooms:  # it is not if the client has gone in the meantime
            client.endpoint.on_joined(client.rooms[room].user)

    def _named(self, client: Client, username: str | None, session: str) -> tuple[str | None, str]:
        """The name under which a client joins, and the credential of its user.

        A spectator's name is None. Raises CommandError if the server admits none.
        """
        if client.identity is not None:  # the token has the name, whatever the command says
            return client.identity.name, client.identity.credential
        name = username or client.username
        if name is None and not self._admits_spectators:
            raise CommandError(
                ErrorCode.BAD_USERNAME, "`join` needs a name. Send it as `username`."
            )
        return name, guest_of(session)

    def _check_new_room(self, client: Client, room: str, *, has_name: bool) -> None:
        if room in client.rooms:
            if has_name and client.is_spectator_in(room):
                return
            raise CommandError(ErrorCode.ALREADY_JOINED, f"You are already in the room “{room}”.")
        if len(client.rooms) >= self._max_rooms > 0:
            raise CommandError(
                ErrorCode.TOO_MANY_ROOMS,
                f"A connection can be in at most {self._max_rooms} rooms. Leave one first.",
                temporary=True,
            )

    def _admit(
        self, client: Client, room: str, session: str, ref: str | None, entry: Entry
    ) -> None:
        """Make a client a member of a room that the broker has counted it into.

        A spectator who gets a name stays in the room's stream. Its reply follows what was delivered
        before, like that of a new member.
        """
        if client.gone or not self._hub.join(client.connection, room):
            self._broker.lose(room, entry.member)  # the client went while the broker was asked
            return
        spectator = client.rooms.get(room)
        if spectator is not None:
            self._moderation.untrack(client, room, spectator.user)
            self._broker.lose(room, spectator)
        client.session = session
        if entry.member.name is not None:
            client.username = entry.member.name
        client.enter(room, entry.member)
        self._moderation.track(client, room)
        payload = protocol.joined(
            room,
            entry.member.user,
            entry.member.name,
            session,
            entry.position,
            recovered=entry.recovered,
            messages=entry.payloads,
            users=entry.users,
            online=entry.online,
            spectators=entry.spectators - (spectator is not None),  # it was one of them
            rights=client.rights_in(room),
            max_file_bytes=self._uploads.max_file_bytes,
            options=entry.options,
            ref=ref,
        )
        self._hub.send(client.connection, payload)

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
        reply(self._hub, client, payload)

    # The broker's receiver

    def expel(self, room: str, user: str, seconds: int) -> None:
        """Dismiss the clients of a user who was removed from a room, and end their tickets."""
        self._moderation.expel(room, user, seconds)
        self._uploads.withdraw(room, user)
