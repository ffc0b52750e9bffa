"""A chat: one user, in any number of rooms, over one connection after the other.

States, which `on_status` is told of:

* **idle**: there is no connection, because no room was joined yet, or all were left.
* **connecting**: a connection is made, or its first room is being joined.
* **connected**: a room is joined on the connection.
* **waiting**: the connection was lost or refused; the next attempt is made after the time that the
  server has named, or after a backoff.
* **closed**: the chat has ended, by `close` or by an error after which a client must not come back.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
import secrets
import ssl
import unicodedata
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, Literal, Self

from fastchat_client.address import http_origin, websocket_url
from fastchat_client.commands import Commands
from fastchat_client.downloads import MAX_DOWNLOAD_BYTES, download
from fastchat_client.errors import ChatError, CloseCode, Closed, Disconnected, Refused
from fastchat_client.events import File, Position
from fastchat_client.link import Link, LinkLost
from fastchat_client.pending import PendingJoin
from fastchat_client.room import RETRY_S, Room

__all__ = ["Chat", "Status", "Token"]

#: A token, or a function that returns one, which can be a coroutine function.
Token = str | Callable[[], str] | Callable[[], Awaitable[str]]

#: The delay before the first reconnect, and the longest delay, in seconds. Each failure doubles it.
BACKOFF_S, MAX_BACKOFF_S = 0.5, 30.0
#: The longest wait for the first room on a connection. Without this bound, the client would wait
#: for ever if the server hangs, or is not a chat server.
JOIN_TIMEOUT_S = 15.0
#: Joins that wait for their replies at once. A server limits how fast commands can come.
JOINS = 8
#: How long `close` waits until the rooms were left.
FAREWELL_S = 1.0

_logger = logging.getLogger("fastchat_client")


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a chat's connection.

    `state` "renewing" means that the token has expired and another one is asked for. `error` is the
    reason for "renewing", "waiting" and "closed"; None if this program has closed the chat.
    `retry_in` is the number of seconds until the next attempt, if the state is "waiting".
    """

    state: Literal["connecting", "connected", "renewing", "waiting", "closed"]
    error: Exception | None = None
    retry_in: float | None = None


class Chat:
    """One user of a chat. Use it with `async with`, or call `close` at the end.

    * ``url``: the address of the server, such as ``wss://chat.example`` or ``https://chat.example``.
    * ``token``: a token, or a function that returns one. A function is called before each
      connection, and when the server says that the token has expired; a plain function runs in a
      thread. If it raises an exception, `join` raises that; after the first connection the chat
      tries again later, unless it is a ChatError that is not temporary.
    * ``username``: a guest's name, or a function that returns another name each time: it is called
      again if the name is taken. Without a token and a name, the client is a spectator.
    * ``session``: the secret of a guest, from the `session` of an earlier chat, which makes them
      the same user again.
    * ``tls``: for certificates that the system does not trust.
    * ``on_status``, ``on_error``: called with each `Status`, and with each error that belongs to no
      call. They must return at once. By default such errors are logged.
    * ``new_id``: makes the ids of messages, which must be unique for this user.

    The chat connects when the first room is joined. It connects again by itself, recovers what was
    missed, and ends only by `close` or by an error after which a client must not come back: then
    every call raises that error.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token | None = None,
        username: str | Callable[[], str] | None = None,
        session: str | None = None,
        tls: ssl.SSLContext | None = None,
        on_status: Callable[[Status], None] | None = None,
        on_error: Callable[[ChatError], None] | None = None,
        new_id: Callable[[], str] | None = None,
    ) -> None:
        self._url = websocket_url(url)
        self._token = token
        self._username = username
        self._tls = tls
        self._on_status = on_status
        self._on_error = on_error
        self._new_id = new_id or _random_id
        self.session = session
        self._name = username if isinstance(username, str) else None
        self._rooms: dict[str, Room] = {}
        self._numbers = 0  # of rooms that were joined
        self._commands = Commands()
        self._joins = asyncio.Semaphore(JOINS)
        self._entering: dict[Room, asyncio.Task[None]] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._wants_rooms = asyncio.Event()
        self._link: Link | None = None
        self._current_token: str | None = None
        self._has_new_token = False  # one that no connection has used yet
        self._was_connected = False
        self._failures = 0  # in a row
        self._retry_after: float | None = None  # as the server has asked for in a `closing`
        self._failure: Exception | None = None  # why the present connection is given up
        self._error: Exception | None = None
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def rooms(self) -> Mapping[str, Room]:
        """The rooms that the client is in, by name."""
        return {room.name: room for room in self._rooms.values() if room.was_joined}

    async def join(
        self,
        room: str = "lobby",
        *,
        history: int = 50,
        since: Position | None = None,
        buffer: int = 2000,
    ) -> Room:
        """Join a room, and return when the server has let the client in.

        `history` is the number of messages in `Room.messages`, at most 300. With `since`, a
        position from `Room.position`, the events go on from there: what was missed comes first, or
        a `Gap`.
        `buffer` is the number of events that can wait for the program. If the client is in the room
        already, the result is that `Room`, and the other arguments have no effect.

        The call waits as long as the server cannot be reached, or asks the client to wait; use
        `asyncio.timeout` to wait less. Raises Refused if the client may not join, Disconnected if
        no chat server is at the address, the exception of a token's function, and the error with
        which the chat has ended.
        """
        self._check_open()
        key = _key(room)
        entered = self._rooms.get(key)
        if entered is None:
            entered = self._rooms[key] = self._new_room(room, history, since, buffer)
            self._wants_rooms.set()
            if self._running is None:
                self._running = asyncio.create_task(self._run())
            elif self._link is not None:
                self._enter(entered, self._link)
        try:
            await entered.entered()
        except BaseException:
            if not entered.was_joined:
                self._forget(entered)
            raise
        return entered

    async def close(self) -> None:
        """Leave all rooms, so that the others see it at once, and close the connection.

        It takes at most 2 s. Iterations over rooms end, and calls that wait raise Closed.
        """
        link = self._link
        if link is not None:
            try:
                async with asyncio.timeout(FAREWELL_S):
                    for room in tuple(self._rooms.values()):
                        if room.is_joined:
                            await link.send({"type": "leave", "room": room.name})
            except (LinkLost, TimeoutError):
                link.abort()
        self._end(Closed("The chat was closed."), None)
        if link is not None:
            await link.close()
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def download(self, file: File | str, *, max_bytes: int = MAX_DOWNLOAD_BYTES) -> bytes:
        """Read a shared file, or a link as it stands in a message.

        Raises Refused if the server has no such file (`not_found`) or if it has more than
        `max_bytes` (`too_long`), Disconnected if the server cannot be reached, and ValueError if
        the link is not one to a shared file.
        """
        link = file.link if isinstance(file, File) else file
        return await download(http_origin(self._url), link, max_bytes, self._tls)

    # Connections

    async def _run(self) -> None:
        try:
            while True:
                await self._wants_rooms.wait()
                lost = await self._connect_once()
                if self._error is not None:
                    return
                if self._rooms:
                    delay = self._delay(lost)
                    self._say(Status("waiting", lost, delay))
                    await asyncio.sleep(delay)
        except ChatError as error:
            self._end(error, error)
        except Exception as error:
            # One of the program's own functions, or a mistake in this library.
            _logger.error("The chat has ended by an exception.", exc_info=True)
            self._end(error, error)

    async def _connect_once(self) -> ChatError:
        """Connect, and return the reason why the connection was lost.

        Raises the exception that ends the chat.
        """
        self._failure = self._retry_after = None
        self._say(Status("connecting"))
        try:
            if not self._has_new_token:
                await self._ask_for_token()
            self._has_new_token = False
            link = await Link.open(self._url, tls=self._tls, is_first=not self._was_connected)
            await self._use(link)
        except Disconnected as lost:
            if not lost.temporary:
                raise
            if isinstance(self._failure, ChatError) and self._failure.temporary:
                return self._failure
            if self._failure is not None:
                raise self._failure from None
            if lost.close_code == CloseCode.TOKEN_EXPIRED:
                await self._renew_token(lost)
            return lost
        except Closed as closed:
            # A connection without a room is closed after 10 s, which harms nothing.
            if closed.close_code == CloseCode.JOIN_TIMEOUT and not self._rooms:
                return Disconnected(closed.message, close_code=closed.close_code)
            raise self._failure or closed from None
        raise AssertionError("a connection ends by an exception")

    async def _use(self, link: Link) -> None:
        """Join the rooms on a connection, and read until it ends, which is an exception."""
        self._link = link
        patience = asyncio.get_running_loop().call_later(JOIN_TIMEOUT_S, self._give_up, link)
        try:
            for room in tuple(self._rooms.values()):
                self._enter(room, link)
            await link.read(self._dispatch)
        except (AttributeError, KeyError, TypeError, ValueError):
            _logger.debug("an event that is not of the protocol", exc_info=True)
            raise ChatError("protocol", "The server does not speak fastchat's protocol.") from None
        finally:
            patience.cancel()
            self._link = None
            link.abort()
            for task in self._entering.values():
                task.cancel()
            for room in self._rooms.values():
                room.on_lost()

    def _give_up(self, link: Link) -> None:
        if link is self._link and not any(room.is_joined for room in self._rooms.values()):
            self._failure = Disconnected("The server does not answer.")
            link.abort()

    def _delay(self, lost: ChatError) -> float:
        """Seconds before the next attempt: the server's, or a backoff with jitter.

        Without the jitter, the clients of a restarted server would reconnect at the same moment.
        """
        requested = self._retry_after if lost.retry_after is None else lost.retry_after
        if requested is not None:
            return min(requested, MAX_BACKOFF_S)
        longest = min(BACKOFF_S * (1 << min(self._failures, 10)), MAX_BACKOFF_S)
        self._failures += 1
        return longest * random.uniform(0.5, 1)  # noqa: S311 spreads load

    # Tokens

    async def _renew_token(self, error: ChatError) -> None:
        """Replace a token that has expired. Raises ChatError if there is no other."""
        if self._token is None or isinstance(self._token, str):
            raise ChatError("token_expired", "The token has expired.")
        self._say(Status("renewing", error))
        try:
            await self._ask_for_token()
        except Disconnected:
            return  # it is asked for again before the next connection
        self._has_new_token = True

    async def _ask_for_token(self) -> None:
        token = self._token
        if token is None or isinstance(token, str):
            self._current_token = token
            return
        try:
            self._current_token = await _called(token)
        except Exception as error:
            is_final = isinstance(error, ChatError) and not error.temporary
            if is_final or not self._was_connected:
                raise
            _logger.warning("The token's function has failed; it is called again.", exc_info=True)
            raise Disconnected(f"There is no token: {error}") from error

    # Rooms

    def _new_room(self, name: str, history: int, since: Position | None, buffer: int) -> Room:
        self._numbers += 1
        return Room(
            name,
            "join" if self._numbers == 1 else f"join-{self._numbers}",
            self._commands,
            history=history,
            since=since,
            buffer=buffer,
            new_id=self._new_id,
            clock=asyncio.get_running_loop().time,
            on_left=self._forget,
        )

    def _forget(self, room: Room) -> None:
        for key, each in tuple(self._rooms.items()):
            if each is room:
                del self._rooms[key]
        task = self._entering.get(room)
        if task is not None:
            task.cancel()
        if not self._rooms:
            self._wants_rooms.clear()

    def _enter(self, room: Room, link: Link) -> None:
        """Start to join a room on a connection."""
        task = self._entering[room] = asyncio.create_task(self._join(room, link))
        task.add_done_callback(lambda done: self._entered(room, done))

    def _entered(self, room: Room, task: asyncio.Task[None]) -> None:
        if self._entering.get(room) is task:
            del self._entering[room]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error if isinstance(error, Exception) else RuntimeError(str(error)))

    async def _join(self, room: Room, link: Link) -> None:
        async with self._joins:
            while True:
                joined = room.expect_joined()
                refuse = partial(self._on_join_refused, joined)
                with self._commands.refusable("ref", room.ref, refuse):
                    try:
                        await link.send(self._join_command(room))
                        await link.until(joined.done)
                        return
                    except LinkLost:
                        return
                    except Refused as refusal:
                        if not await self._may_try_again(room, refusal):
                            return

    def _on_join_refused(self, joined: PendingJoin, error: ChatError) -> None:
        if error.code == "unauthorized" and not error.temporary:
            self._failure = error  # at once, because the server closes the connection next
        joined.refuse(error)

    def _join_command(self, room: Room) -> dict[str, Any]:
        command = room.join_command()
        if self._name is None and callable(self._username):
            self._name = self._username()
        if self._name is not None:
            command["username"] = self._name
        if self._current_token is not None:
            command["token"] = self._current_token
        if self.session is not None:
            command["session"] = self.session
        return command

    async def _may_try_again(self, room: Room, refusal: Refused) -> bool:
        """Whether a refused join is sent again on this connection; otherwise see to the end."""
        if refusal.code == "unauthorized":
            return False  # the server closes the connection
        if refusal.code == "username_taken":
            if callable(self._username):
                self._name = self.session = None
                return True
            is_final = not room.was_joined and refusal.retry_after is None
        else:
            # A removal by a moderator is temporary, but can last for days.
            is_final = refusal.code == "forbidden" or not refusal.temporary
        if is_final:
            self._forget(room)
            room.end(refusal)
            return False
        if not any(each.is_joined for each in self._rooms.values()):
            # The server closes a connection that joins nothing for 10 s.
            self._fail(refusal)
            return False
        await asyncio.sleep(RETRY_S if refusal.retry_after is None else refusal.retry_after)
        return True

    def _fail(self, error: Exception) -> None:
        """Give the present connection up, for this reason."""
        self._failure = self._failure or error
        if self._link is not None:
            self._link.abort()

    # Events of the server

    def _dispatch(self, event: dict[str, Any]) -> None:
        handler = self._HANDLERS.get(event["type"])
        if handler is not None:  # otherwise the event is that of a newer protocol
            handler(self, event)

    def _on_publication(self, event: dict[str, Any]) -> None:
        if (room := self._room_of(event)) is not None:
            room.on_publication(event)

    def _on_other(self, event: dict[str, Any]) -> None:
        room = self._room_of(event)
        if room is not None and room.is_joined:
            room.on_other(event)

    def _on_deleted(self, event: dict[str, Any]) -> None:
        # The server closes the connection next; the chat comes back to its other rooms.
        if (room := self._room_of(event)) is not None:
            self._forget(room)
            room.end(Refused("room_deleted", "The room was deleted."))

    def _on_ack(self, event: dict[str, Any]) -> None:
        if (room := self._room_of(event)) is not None:
            room.on_ack(event)

    def _on_reply(self, event: dict[str, Any]) -> None:
        self._commands.on_reply(event)

    def _on_renewed(self, event: dict[str, Any]) -> None:
        if (room := self._room_of(event)) is not None:
            room.on_renewed(event)

    def _on_closing(self, event: dict[str, Any]) -> None:
        self._retry_after = event["reconnect_after_ms"] / 1000

    def _room_of(self, event: Mapping[str, Any]) -> Room | None:
        return self._rooms.get(event["room"])

    def _on_joined(self, event: dict[str, Any]) -> None:
        name = str(event["room"])
        room = self._rooms.get(name) or next(
            (each for each in self._rooms.values() if each.ref == event.get("ref")), None
        )
        if room is None or self._link is None:
            self._leave(name)  # the program has given the room up before the reply came
            return
        if room.name != name:  # the server has folded the name
            self._rooms = {name if each is room else key: each for key, each in self._rooms.items()}
            room.name = name
        self.session = str(event["session"])
        self._name = event["username"] or self._name
        room.on_joined(event, self._link)
        self._failures = 0
        self._was_connected = True
        self._say(Status("connected"))

    def _leave(self, name: str) -> None:
        link = self._link
        if link is not None:
            task = asyncio.create_task(link.try_to_send({"type": "leave", "room": name}))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    def _on_error_event(self, event: dict[str, Any]) -> None:
        if self._commands.on_error(event):
            return
        error = Refused.from_event(event)
        if self._on_error is None:
            _logger.warning("The server refuses a command: %s", error.message)
        else:
            self._on_error(error)

    _HANDLERS: ClassVar[dict[str, Callable[[Chat, dict[str, Any]], None]]] = {
        **dict.fromkeys(("message", "edit", "delete", "react"), _on_publication),
        **dict.fromkeys(("join", "leave", "presence", "typing", "room", "user_erased"), _on_other),
        "room_deleted": _on_deleted,
        **dict.fromkeys(("history", "results", "upload", "file", "removed", "left"), _on_reply),
        "joined": _on_joined,
        "ack": _on_ack,
        "renewed": _on_renewed,
        "closing": _on_closing,
        "error": _on_error_event,
    }

    # The end

    def _check_open(self) -> None:
        if self._error is not None:
            raise self._error

    def _end(self, error: Exception, cause: Exception | None) -> None:
        if self._error is None:
            self._error = error
            for room in self._rooms.values():
                room.end(error)
            self._say(Status("closed", cause))

    def _say(self, status: Status) -> None:
        if self._on_status is not None and (self._error is None or status.state == "closed"):
            self._on_status(status)


async def _called(token: Callable[[], str] | Callable[[], Awaitable[str]]) -> str:
    """The token of a function. A plain one can wait for a server, so it runs in a thread."""
    found: str | Awaitable[str]
    if inspect.iscoroutinefunction(token):
        found = token()
    else:
        found = await asyncio.to_thread(token)
    return found if isinstance(found, str) else await found


def _random_id() -> str:
    return secrets.token_urlsafe(12)


def _key(room: str) -> str:
    """A room's name as the server writes it: in NFC and case-folded, unless it is ASCII."""
    if room.isascii():
        return room
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", room).casefold())
