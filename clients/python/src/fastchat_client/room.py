"""A room that the client is in: its events, and the commands for it.

Theory
------
A room outlives its connections. It keeps the position of the last publication that it has received,
and joins with it on each new connection. The server then sends what was missed, or says that it
cannot; in that case the program gets a `Gap`. A publication that is no longer new is dropped, and a
hole in the offsets ends the connection, so that the next one recovers what is missing.

A command is sent on the connection of the moment, and again on the next one if that was lost before
the answer came. Messages of a room are sent one after the other, each when the one before it was
confirmed. So they keep the order of the calls, and a message that the server asks to send later
does not let others overtake it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from fastchat_client.buffer import Buffer
from fastchat_client.commands import Commands, reply_to
from fastchat_client.errors import ChatError, Closed, Disconnected, Refused
from fastchat_client.events import (
    Delete,
    Edit,
    Event,
    File,
    Gap,
    Join,
    Leave,
    Message,
    Options,
    Page,
    Position,
    Publication,
    React,
    Rejoined,
    Sent,
    User,
    erase_of,
    message_of,
    movement_of,
    options_change_of,
    options_of,
    position_of,
    presence_of,
    publication_of,
    typing_of,
    users_of,
)
from fastchat_client.link import Link, LinkLost
from fastchat_client.pending import Answer, Pending, PendingChange, PendingJoin, PendingMessage
from fastchat_client.replies import quote_of
from fastchat_client.uploads import Source, Upload

__all__ = ["Room"]

#: The wait before a refused command is sent again, if the refusal names no time.
RETRY_S = 1.0
#: The largest page of a history. If the server cannot send everything that was missed, it sends the
#: newest messages instead: the more they are, the fewer are missing.
MAX_HISTORY = 300


class Room:
    """A room of a `Chat`; `Chat.join` returns it.

    Iterate over it to get its events, in the order of the room and each publication once. The
    iteration ends when the chat is closed or the room was left, and raises the error if the server
    has ended it. If several tasks iterate over one room, each event goes to one of them.

    At most `buffer` events wait for the program. If it takes them more slowly than they come, the
    oldest are dropped, and a `Gap` takes their place.

    * ``name``: the room's name as the server writes it.
    * ``user``, ``username``: this client's id and name; a spectator has no name.
    * ``rights``: what this client can do here: "read", "write", "moderate".
    * ``messages``: the newest messages when the room was joined, oldest first; the events follow
      them. They do not change afterwards.
    * ``online``, ``spectators``: the number of users, and that of spectators' connections.
    * ``options``: what the operator has set for the room.
    * ``max_file_bytes``: the size of the largest file; 0 if the server takes none.
    """

    def __init__(
        self,
        name: str,
        ref: str,
        commands: Commands,
        *,
        history: int,
        since: Position | None,
        buffer: int,
        new_id: Callable[[], str],
        clock: Callable[[], float],
        on_left: Callable[[Room], None],
    ) -> None:
        self.name = name
        self.user: str | None = None
        self.username: str | None = None
        self.rights: frozenset[str] = frozenset()
        self.messages: tuple[Message, ...] = ()
        self.online = 0
        self.spectators = 0
        self.options = Options()
        self.max_file_bytes = 0
        self._ref = ref
        self._commands = commands
        self._history = history
        self._limit = buffer
        self._new_id = new_id
        self._clock = clock
        self._on_left = on_left
        self._received = since
        self._buffer: Buffer | None = None  # from the first `joined` on
        self._users: list[User] | None = []
        self._link: Link | None = None  # on which the room is joined
        self._error: Exception | None = None  # with which the room has ended
        self._changed = asyncio.Event()  # of `_link` or `_error`
        self._arrived = asyncio.Event()  # of an event for the program, or of the end
        self._sending = asyncio.Lock()
        self._messages: dict[str, PendingMessage] = {}
        self._changes: list[PendingChange] = []
        self._join: PendingJoin | None = None

    def __repr__(self) -> str:
        return f"<Room {self.name!r}>"

    @property
    def users(self) -> tuple[User, ...] | None:
        """Everybody in the room, in the order in which they came; None above 200 users.

        A user with several names has an entry for each.
        """
        return None if self._users is None else tuple(self._users)

    @property
    def position(self) -> Position:
        """The place after the last event that this program has taken.

        Store it when you have handled that event, and give it to `Chat.join` as `since` after a
        restart: the events go on from there.
        """
        assert self._buffer is not None
        return self._buffer.position

    @property
    def has_ended(self) -> bool:
        """Whether the room was left or closed; its iteration ends when all events are taken."""
        return self._error is not None

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        assert self._buffer is not None
        while not self._buffer:
            if self._error is not None:
                if _is_our_own(self._error):
                    raise StopAsyncIteration
                raise self._error
            self._arrived.clear()
            await self._arrived.wait()
        return self._buffer.take()

    # Commands

    async def send(
        self,
        text: str = "",
        *,
        reply_to: int | Message | None = None,
        files: Sequence[Source] = (),
        id: str | None = None,
    ) -> Sent:
        """Send a message, and return when the server has stored it.

        It is sent again with the same `id` after a reconnect, and appears once. The client waits if
        the server asks for it. `reply_to` is a message, or its offset: the text then begins with a
        quote of it. `files` are paths, or pairs of a name and the content; their links stand at the
        end of the text. `id` has 1 to 64 bytes; by default the client makes one. A second message
        with the same `id` within 10 minutes is not published: the result is that of the first.

        Raises Refused if the server refuses the message or a file, OSError if a file cannot be
        read, Unconfirmed if it cannot be known whether the message was published, and the error
        with which the chat or the room has ended. If the call is cancelled, the message may have
        been published.
        """
        links = [(await self.upload(file)).link for file in files]
        quote = "" if reply_to is None else await self._quote(reply_to)
        text = quote + "\n".join(([text] if text else []) + links)
        pending = PendingMessage(id or self._new_id(), self._clock)
        command = {"type": "message", "room": self.name, "text": text, "id": pending.id}
        async with self._sending:
            self._messages[pending.id] = pending
            try:
                with self._commands.refusable("id", pending.id, pending.refuse):
                    return await self._settle(command, pending)
            finally:
                del self._messages[pending.id]

    async def edit(self, offset: int, text: str) -> None:
        """Change the text of a message. Returns when the server has stored the change.

        Raises Refused: `forbidden` if the message is somebody else's and the client is no
        moderator, `not_found` if it does not exist, was deleted, or is no longer stored.
        """
        command = {"type": "edit", "offset": offset, "text": text}
        await self._change(command, PendingChange(Edit, offset))

    async def delete(self, offset: int) -> None:
        """Delete a message, and its text at the server. Raises Refused like `edit`."""
        try:
            pending = PendingChange(Delete, offset)
            await self._change({"type": "delete", "offset": offset}, pending)
        except Refused as refusal:
            # An earlier attempt has deleted it, whose answer was lost with the connection.
            if refusal.code != "not_found" or not pending.was_sent_before:
                raise

    async def react(self, offset: int, emoji: str, *, remove: bool = False) -> None:
        """React to a message, or take the reaction back. Raises Refused like `edit`."""
        command = {"type": "react", "offset": offset, "emoji": emoji, "remove": remove}
        await self._change(command, PendingChange(React, offset, emoji=emoji, remove=remove))

    async def typing(self) -> None:
        """Tell the others that this user is writing; it is valid for 5 s.

        Nothing happens while the client is not connected, or if it says so too often.
        """
        if self._link is not None:
            await self._link.try_to_send({"type": "typing", "room": self.name})

    async def history(
        self, *, before: int | None = None, after: int | None = None, limit: int = 50
    ) -> Page:
        """Read messages: the newest ones before an offset, or the oldest ones after it.

        Without both, the newest of the room. `limit` is from 1 to 300; a page can have fewer.
        Raises Refused.
        """
        command: dict[str, Any] = {"type": "history", "limit": limit}
        command |= {} if before is None else {"before": before}
        command |= {} if after is None else {"after": after}
        reply = await self._ask(command)
        return Page(self._page(reply["messages"]), bool(reply["more"]))

    async def search(self, query: str, *, limit: int = 50) -> tuple[Message, ...]:
        """Find messages, newest first. docs/protocol.md says what a query can have."""
        reply = await self._ask({"type": "search", "query": query, "limit": limit})
        return self._page(reply["messages"])

    async def remove(self, user: str, *, seconds: int = 600) -> None:
        """Remove a user from the room, by their id. They cannot come back for `seconds`.

        Raises Refused: `forbidden` if the client is no moderator, `not_found` if the user is not in
        the room.
        """
        await self._ask({"type": "remove", "user": user, "seconds": seconds})

    async def upload(self, file: Source) -> File:
        """Send a file, a path or a pair of a name and the content, and return its link.

        The server deletes the file if no message links to it within an hour. The file is sent from
        its start after a lost connection. Raises OSError if it cannot be read, and Refused.
        """
        upload, ref = await Upload.open(file, self.max_file_bytes), self._commands.new_ref()
        try:
            async with self._commands.uploading:
                while True:
                    link = await self._ready()
                    try:
                        return await upload.send(link, self.name, self._commands, ref)
                    except LinkLost:
                        continue
                    except Refused as refusal:
                        await _wait_for(refusal)
        finally:
            upload.close()

    async def leave(self) -> None:
        """Leave the room, so that the others see it at once. Its iteration ends."""
        link = self._link
        self._on_left(self)
        self.end(Closed("The room was left."))
        if link is not None:
            ref = self._commands.new_ref()
            with self._commands.replies(ref) as replies:
                try:
                    await link.send({"type": "leave", "room": self.name, "ref": ref})
                    await reply_to(link, replies)
                except (LinkLost, Refused):
                    return  # the connection ended, and the membership with it

    async def _quote(self, answered: int | Message) -> str:
        if isinstance(answered, int):
            found = (await self.history(before=answered + 1, limit=1)).messages
            if not found or found[0].offset != answered or found[0].deleted:
                raise Refused("not_found", "The message to reply to does not exist or was deleted.")
            answered = found[0]
        return quote_of(answered.username, answered.offset, answered.text)

    async def _change(self, command: dict[str, Any], pending: PendingChange) -> None:
        ref = self._commands.new_ref()
        self._changes.append(pending)
        try:
            with self._commands.refusable("ref", ref, pending.refuse):
                await self._settle({**command, "room": self.name, "ref": ref}, pending)
        finally:
            self._changes.remove(pending)

    async def _settle(self, command: Mapping[str, Any], pending: Pending[Answer]) -> Answer:
        """Send a command until it is confirmed, and return the answer.

        A command can also be confirmed while the room is joined again.
        """
        while True:
            try:
                if not pending.done.done():
                    link = await self._ready()
                if not pending.done.done():  # it can have been among what was missed
                    pending.sending()
                    await link.send(command)
                    await link.until(pending.done)
                return pending.done.result()
            except LinkLost:
                continue
            except Refused as refusal:
                await _wait_for(refusal)
                pending.again(refusal)

    async def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        """Send a command that can be repeated, and return its reply."""
        while True:
            link = await self._ready()
            ref = self._commands.new_ref()
            with self._commands.replies(ref) as replies:
                try:
                    await link.send({**command, "room": self.name, "ref": ref})
                    return await reply_to(link, replies)
                except LinkLost:
                    continue
                except Refused as refusal:
                    await _wait_for(refusal)

    async def _ready(self) -> Link:
        """Wait until the room is joined, and return the connection. Raises the end's error."""
        while self._error is None:
            link = self._link
            if link is not None and not link.lost.done():
                return link
            self._changed.clear()
            await self._changed.wait()
        raise self._error

    def _page(self, messages: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
        assert self._received is not None
        return tuple(message_of(each, self._received.epoch, self) for each in messages)

    # Called by the chat

    @property
    def ref(self) -> str:
        """The `ref` of this room's joins."""
        return self._ref

    @property
    def is_joined(self) -> bool:
        return self._link is not None and not self._link.lost.done()

    @property
    def was_joined(self) -> bool:
        """Whether the room has been joined, on any connection."""
        return self._buffer is not None

    async def entered(self) -> None:
        """Wait until the room was joined once. Raises the error with which it has ended."""
        while self._buffer is None:
            if self._error is not None:
                raise self._error
            self._changed.clear()
            await self._changed.wait()

    def expect_joined(self) -> PendingJoin:
        """Return the answer to a join that is about to be sent."""
        self._join = PendingJoin()
        return self._join

    def join_command(self) -> dict[str, Any]:
        """The `join` of this room, without the user."""
        command = {"type": "join", "room": self.name, "history": self._history, "ref": self._ref}
        if self._received is not None:
            command |= {"since": self._received._asdict(), "history": MAX_HISTORY}
        return command

    def on_joined(self, event: Mapping[str, Any], link: Link) -> None:
        """Take the reply to a join: the publications behind it follow at once."""
        before, position = self._received, position_of(event)
        received = [publication_of(each, position.epoch, self) for each in event["messages"]]
        recovered = bool(event["recovered"])
        self._on_details(event)
        if self._buffer is None:
            self._buffer = Buffer(self.name, self._limit, before or position)
        else:
            self._put(self._rejoined(event))
        self._received = position
        if before is None:
            self.messages = _messages(received)
        elif recovered:
            for each in received:
                if each.offset > before.offset:
                    self._put(each)
        else:
            self._put(_gap(self.name, before, position, _messages(received)))
        for each in received:
            self._confirm(each)
        if recovered:
            for pending in self._messages.values():
                pending.was_not_published()
        self._link = link
        self._changed.set()
        if self._join is not None:
            self._join.settle()

    def on_publication(self, raw: Mapping[str, Any]) -> None:
        """Take a publication. Raises Disconnected if others before it are missing."""
        if self._received is None or self._link is None:
            return
        missing = int(raw["offset"]) - self._received.offset - 1
        if missing < 0:
            return  # it was received before
        if missing:
            raise Disconnected("Messages are missing.")
        publication = publication_of(raw, self._received.epoch, self)
        self._received = publication.position
        self._put(publication)
        self._confirm(publication)

    def on_ack(self, event: Mapping[str, Any]) -> None:
        pending = self._messages.get(str(event["id"]))
        if pending is not None:
            pending.settle(self._sent(pending.id, int(event.get("offset", 0))))

    def on_other(self, event: Mapping[str, Any]) -> None:
        """Take an event that is not stored, such as a join."""
        match event["type"]:
            case "join" | "leave":
                self._on_movement(movement_of(event))
            case "presence":
                self._on_presence(event)
            case "room":
                change = options_change_of(event)
                self.options = change.options
                self._put(change)
            case "user_erased":
                self._put(erase_of(event))
            case "typing":
                typing = typing_of(event)
                if typing.user is None or typing.user != self.user:
                    self._put(typing)

    def on_renewed(self, event: Mapping[str, Any]) -> None:
        self.rights = frozenset(map(str, event["rights"]))

    def on_lost(self) -> None:
        """The connection has ended."""
        self._link = None

    def end(self, error: Exception) -> None:
        """End the room: its iteration, and every call that waits. Safe to call again."""
        if self._error is None:
            self._error = error
            self._link = None
            failure = error if isinstance(error, ChatError) else Closed(str(error))
            waiting: list[Pending[Any]] = [*self._messages.values(), *self._changes]
            for pending in waiting:
                pending.refuse(failure)
            self._changed.set()
            self._arrived.set()

    def _on_details(self, event: Mapping[str, Any]) -> None:
        self.user = event.get("user")
        self.username = event["username"]
        self.rights = frozenset(map(str, event.get("rights", ())))
        self.online = int(event.get("online", 0))
        self.spectators = int(event.get("spectators", 0))
        self.max_file_bytes = int((event.get("files") or {}).get("max_bytes", 0))
        self.options = options_of(event.get("options"))
        users = users_of(event.get("users"))
        self._users = None if users is None else list(users)

    def _rejoined(self, event: Mapping[str, Any]) -> Rejoined:
        return Rejoined(
            raw=event,
            room=self.name,
            username=self.username,
            online=self.online,
            spectators=self.spectators,
            users=self.users,
        )

    def _on_movement(self, event: Join | Leave) -> None:
        self.online = event.online
        if self._users is not None:
            user = User(event.user, event.username)
            if isinstance(event, Join):
                self._users.append(user)
            elif user in self._users:
                self._users.remove(user)
        self._put(event)

    def _on_presence(self, raw: Mapping[str, Any]) -> None:
        event = presence_of(raw)
        self.online, self.spectators = event.online, event.spectators
        if "users" in raw:
            self._users = None if event.users is None else list(event.users)
        self._put(event)

    def _put(self, event: Event | Publication) -> None:
        assert self._buffer is not None
        self._buffer.put(event)  # type: ignore[arg-type]  # a publication is one of four events
        self._arrived.set()

    def _confirm(self, publication: Publication) -> None:
        """Settle the command whose effect this publication is."""
        if self.user is not None and publication.user != self.user:
            return
        if isinstance(publication, Message):
            message = self._messages.get(publication.id or "")
            if message is not None:
                message.settle(self._sent(message.id, publication.offset, publication))
            return
        for change in self._changes:
            if change.is_done_by(publication):
                change.settle()

    def _sent(self, id: str, offset: int, message: Message | None = None) -> Sent:
        assert self._received is not None
        time = None if message is None else message.timestamp
        return Sent(self.name, self._received.epoch, offset, time, id)


async def _wait_for(refusal: Refused) -> None:
    """Wait as long as the server asks for. Raises the refusal if it does not."""
    if not refusal.asks_to_wait:
        raise refusal
    await asyncio.sleep(RETRY_S if refusal.retry_after is None else refusal.retry_after)


def _gap(room: str, before: Position, position: Position, messages: tuple[Message, ...]) -> Gap:
    """What is missing after a join whose `recovered` was false."""
    is_reset = (
        before.epoch != position.epoch
        or position.offset < before.offset
        # An older copy of the history was put back, and offsets belong to other publications.
        or any(_is_new_at_old_offset(each, before) for each in messages)
    )
    return Gap(
        room=room,
        reason="reset" if is_reset else "away",
        after=0 if is_reset else before.offset,
        before=position.offset + 1,
        position=position,
        messages=messages,
    )


def _is_new_at_old_offset(message: Message, before: Position) -> bool:
    stamp = before.timestamp
    return (
        message.offset <= before.offset and stamp is not None and message.raw["timestamp"] > stamp
    )


def _messages(publications: Sequence[Publication]) -> tuple[Message, ...]:
    return tuple(each for each in publications if isinstance(each, Message))


def _is_our_own(error: Exception) -> bool:
    return isinstance(error, Closed) and error.close_code is None
