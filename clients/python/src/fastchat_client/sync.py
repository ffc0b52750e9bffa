"""A chat for programs without asyncio: scripts, and web applications such as Django.

A `SyncChat` runs a `Chat` in a thread of its own. Its calls can come from any thread, and each
waits until it has its result.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeVar

from fastchat_client.chat import Chat, Token
from fastchat_client.downloads import MAX_DOWNLOAD_BYTES
from fastchat_client.errors import ChatError
from fastchat_client.events import Event, File, Gap, Message, Options, Page, Position, Sent, User
from fastchat_client.room import Room
from fastchat_client.uploads import Source

__all__ = ["SyncChat", "SyncRoom"]

#: The longest wait of a call, in seconds, if the program names no other.
TIMEOUT_S = 30.0
#: How long `close` waits for the chat's own farewell, which takes at most 2 s.
CLOSE_TIMEOUT_S = 5.0

Result = TypeVar("Result")


class SyncChat:
    """One user of a chat. Use it with `with`, or call `close` at the end.

    The arguments are those of `Chat`. A call that takes longer than `timeout` seconds is given up:
    it raises a ChatError whose `code` is "timeout"; a message can have been published all the same.

    The thread starts with the first call. A process that was forked afterwards needs a SyncChat of
    its own, so create it in the worker process of a web server, or at the first use.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token | None = None,
        username: str | None = None,
        session: str | None = None,
        tls: ssl.SSLContext | None = None,
        timeout: float = TIMEOUT_S,
    ) -> None:
        self._chat = Chat(url, token=token, username=username, session=session, tls=tls)
        self._timeout = timeout
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._process = 0  # in which the thread runs
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def session(self) -> str | None:
        """The secret that makes a guest the same user again, once a room was joined."""
        return self._chat.session

    def room(
        self, name: str = "lobby", *, history: int = 50, since: Position | None = None
    ) -> SyncRoom:
        """Join a room, unless the client is in it already. See `Chat.join`."""
        return SyncRoom(self, self.call(self._chat.join(name, history=history, since=since)))

    def download(self, file: File | str, *, max_bytes: int = MAX_DOWNLOAD_BYTES) -> bytes:
        """Read a shared file. See `Chat.download`."""
        return self.call(self._chat.download(file, max_bytes=max_bytes))

    def close(self) -> None:
        """Leave all rooms and end the thread. Safe to call again."""
        with self._lock:
            self._is_closed = True
            loop, self._loop = self._loop, None
        if loop is None or self._process != os.getpid():
            return
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._chat.close(), loop).result(CLOSE_TIMEOUT_S)
        loop.call_soon_threadsafe(loop.stop)
        if self._thread is not None:
            self._thread.join()

    def call(self, work: Coroutine[Any, Any, Result], *, timeout: float | None = None) -> Result:
        """Run a coroutine of the chat, and wait for its result for at most `timeout` seconds."""
        limit = self._timeout if timeout is None else timeout
        try:
            loop = self._started()
        except BaseException:
            work.close()
            raise
        future = asyncio.run_coroutine_threadsafe(_within(work, limit), loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl+C ends the wait, and with it the call
            raise

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._is_closed:
                raise ChatError("closed", "The chat was closed.")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._process = os.getpid()
                # A daemon, so that a script that forgets `close` can end.
                self._thread = threading.Thread(
                    target=_run, args=(self._loop,), name="fastchat-client", daemon=True
                )
                self._thread.start()
            elif self._process != os.getpid():
                raise RuntimeError(
                    "This SyncChat belongs to the parent process. Create one after the fork."
                )
            return self._loop


class SyncRoom:
    """A room of a `SyncChat`. Its methods are those of `Room`, and wait for their results.

    Iterate over it to get its events; the iteration waits without a limit.
    """

    def __init__(self, chat: SyncChat, room: Room) -> None:
        self._chat = chat
        self._room = room

    @property
    def name(self) -> str:
        return self._room.name

    @property
    def user(self) -> str | None:
        return self._room.user

    @property
    def username(self) -> str | None:
        return self._room.username

    @property
    def users(self) -> tuple[User, ...] | None:
        return self._room.users

    @property
    def online(self) -> int:
        return self._room.online

    @property
    def rights(self) -> frozenset[str]:
        return self._room.rights

    @property
    def options(self) -> Options:
        return self._room.options

    @property
    def messages(self) -> tuple[Message, ...]:
        return tuple(map(_alone, self._room.messages))

    @property
    def position(self) -> Position:
        return self._room.position

    def __iter__(self) -> Iterator[Event]:
        while (event := self._chat.call(_next(self._room), timeout=float("inf"))) is not None:
            yield _without_room(event)

    def next_event(self, *, timeout: float) -> Event | None:
        """Return the next event, or None if there is none within `timeout` seconds."""
        try:
            event = self._chat.call(_next(self._room), timeout=timeout)
        except ChatError as error:
            if error.code == "timeout":
                return None
            raise
        return None if event is None else _without_room(event)

    def send(
        self,
        text: str = "",
        *,
        reply_to: int | Message | None = None,
        files: Sequence[Source] = (),
        id: str | None = None,
    ) -> Sent:
        """Send a message, and return when the server has stored it. See `Room.send`."""
        return self._chat.call(self._room.send(text, reply_to=reply_to, files=files, id=id))

    def edit(self, offset: int, text: str) -> None:
        self._chat.call(self._room.edit(offset, text))

    def delete(self, offset: int) -> None:
        self._chat.call(self._room.delete(offset))

    def react(self, offset: int, emoji: str, *, remove: bool = False) -> None:
        self._chat.call(self._room.react(offset, emoji, remove=remove))

    def typing(self) -> None:
        self._chat.call(self._room.typing())

    def history(
        self, *, before: int | None = None, after: int | None = None, limit: int = 50
    ) -> Page:
        page = self._chat.call(self._room.history(before=before, after=after, limit=limit))
        return Page(tuple(map(_alone, page.messages)), page.more)

    def search(self, query: str, *, limit: int = 50) -> tuple[Message, ...]:
        return tuple(map(_alone, self._chat.call(self._room.search(query, limit=limit))))

    def remove(self, user: str, *, seconds: int = 600) -> None:
        self._chat.call(self._room.remove(user, seconds=seconds))

    def upload(self, file: Source) -> File:
        return self._chat.call(self._room.upload(file))

    def leave(self) -> None:
        self._chat.call(self._room.leave())


async def _within(work: Coroutine[Any, Any, Result], limit: float) -> Result:
    try:
        async with asyncio.timeout(None if limit == float("inf") else limit) as timeout:
            return await work
    except TimeoutError:
        if not timeout.expired():
            raise
        raise ChatError(
            "timeout", f"There was no answer within {limit:g} s.", temporary=True
        ) from None


async def _next(room: Room) -> Event | None:
    return await anext(room, None)


def _without_room(event: Event) -> Event:
    """An event whose messages have no coroutines to call."""
    if isinstance(event, Message):
        return _alone(event)
    if isinstance(event, Gap):
        return replace(event, messages=tuple(map(_alone, event.messages)))
    return event


def _alone(message: Message) -> Message:
    return replace(message, _room=None)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
