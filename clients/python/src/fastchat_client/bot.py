"""Bots: functions that are called for the commands and messages of a chat.

Theory
------
A bot follows each of its rooms in a task, which takes one event at a time and waits until its
functions have ended. So the events of a room are handled in their order, and those of different
rooms side by side.

After each message that a function was called for, the bot writes its position in the room to the
state file, and only then takes the next event. So a bot that was stopped or killed goes on with the
first message that it had not finished. If it is killed while a function runs, the function is
called again for that message. What it sends then has the same ids as before: an id is made from the
message that is handled, and from the number of messages that were sent for it. The server publishes
an id once within 10 minutes, so an answer appears once even if its message is handled twice.

The ids of all bots begin with the same letters. By these a bot recognises messages of other bots,
and does not react to them; otherwise two bots could answer each other for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import inspect
import logging
import secrets
import signal
import ssl
from collections.abc import Callable, Coroutine, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fastchat_client.arguments import Parameters, UsageError
from fastchat_client.chat import Chat, Token
from fastchat_client.errors import Closed, Refused
from fastchat_client.events import Event, Gap, Message, Publication
from fastchat_client.replies import mentions
from fastchat_client.room import MAX_HISTORY, Room
from fastchat_client.state import State

__all__ = ["Bot"]

#: The beginning of the ids of all messages that bots send.
ID_PREFIX = "bot-"
#: How long functions that run may go on when the bot is stopped, in seconds.
GRACE_S = 10.0
#: How often the position is written while no message concerns the bot, in seconds.
SAVE_INTERVAL_S = 1.0
#: The longest pause before a room that has refused the bot is joined again.
MAX_PAUSE_S = 600.0

_logger = logging.getLogger("fastchat_client.bot")

Handler = Callable[..., Coroutine[Any, Any, object]]
AnyHandler = TypeVar("AnyHandler", bound=Handler)


@dataclass(frozen=True, slots=True)
class _Command:
    name: str
    help: str
    parameters: Parameters
    handler: Handler


class _Handling:
    """A publication that is being handled; it makes the ids of what is sent meanwhile."""

    def __init__(self, event: Publication) -> None:
        place = f"{event.room}\n{event.epoch}\n{event.offset}".encode()
        self._digest = hashlib.sha256(place).hexdigest()[:24]
        self._count = 0

    def new_id(self) -> str:
        self._count += 1
        return f"{ID_PREFIX}{self._digest}-{self._count}"


_handling: ContextVar[_Handling | None] = ContextVar("handling", default=None)


class Bot:
    """A bot in some rooms of a chat.

    * ``url``, ``token``, ``username``, ``tls``: as for `Chat`. A bot needs a token or a name.
    * ``state``: a file in which the bot stores how far it has come. With it, the bot handles each
      message once over restarts, also those that were sent while it was not running. Without it, or
      in a room for the first time, it begins with what comes after its start.
    * ``prefix``: what a command begins with.

    If the bot is killed while one of its functions runs, that message is handled again after the
    restart. Messages that the function had sent are not published twice, if the restart comes
    within 10 minutes. An exception in a function is logged, and the message counts as handled.

    The bot ignores its own messages and those of other bots.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token | None = None,
        username: str | None = None,
        state: str | Path | None = None,
        prefix: str = "!",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if token is None and username is None:
            raise ValueError("A bot needs a token or a username.")
        if not prefix or prefix != prefix.strip():
            raise ValueError("The prefix needs a character, and no spaces around it.")
        self._url = url
        self._token = token
        self._username = username
        self._tls = tls
        self._file = None if state is None else Path(state)
        self._state = State(None)
        self._prefix = prefix
        self._commands: dict[str, _Command] = {}
        self._messages: list[tuple[Handler, bool]] = []
        self._events: list[tuple[Handler, tuple[type[Event], ...]]] = []
        self._stopped: asyncio.Event | None = None
        self._busy: set[asyncio.Task[Any]] = set()  # in which an event is being handled
        self._saving = asyncio.Lock()
        self.command("help", help="List the commands.")(self._help)

    # Functions

    def command(self, name: str, *, help: str = "") -> Callable[[AnyHandler], AnyHandler]:
        """Call a function for messages that begin with the prefix and this name.

        The function gets the message, and the words after the name, converted to the types of its
        parameters (`Parameters` has the rules). If the words do not fit, the bot replies with the
        reason and the usage. `!help` lists all commands with their `help`; a command of that name
        takes its place. Raises TypeError if the function has other parameters.
        """
        if not name or name.split() != [name]:
            raise ValueError(f"{name!r} is not one word.")

        def add(handler: AnyHandler) -> AnyHandler:
            self._commands[name.casefold()] = _Command(name, help, Parameters(handler), handler)
            return handler

        return add

    def message(self, *, mention: bool = False) -> Callable[[AnyHandler], AnyHandler]:
        """Call a function for messages that are no command of this bot.

        With `mention`, only for those that have `@` and the bot's name, or reply to the bot. All
        functions that a message fits are called, one after the other.
        """

        def add(handler: AnyHandler) -> AnyHandler:
            _check(handler)
            self._messages.append((handler, mention))
            return handler

        return add

    def event(self, *kinds: type[Event]) -> Callable[[AnyHandler], AnyHandler]:
        """Call a function for other events, such as `Join` and `React`.

        Joins and leaves are not stored: those that come while the bot is away are not handled.
        """

        def add(handler: AnyHandler) -> AnyHandler:
            _check(handler)
            self._events.append((handler, kinds))
            return handler

        return add

    # Running

    def run(self, rooms: Iterable[str]) -> None:
        """Run the bot until SIGTERM or Ctrl+C. Call it in the main thread.

        It then lets functions that run go on for at most 10 s, writes the state, and returns.
        Raises what `serve` raises. If the program has not set up logging, it logs to standard
        error.
        """
        logging.basicConfig(level=logging.INFO)
        asyncio.run(self._run(rooms))

    async def _run(self, rooms: Iterable[str]) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(NotImplementedError):  # on Windows, Ctrl+C raises an exception
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self.stop)
        await self.serve(rooms)

    async def serve(self, rooms: Iterable[str]) -> None:
        """Run the bot until `stop` is called, in an event loop of the program.

        Raises StateError if the state file cannot be read or written, the error that ends the chat,
        for example because the token is not valid, and Refused if all rooms refuse the bot for
        good.
        """
        self._state = State.load(self._file)
        self._stopped = asyncio.Event()
        chat = Chat(
            self._url,
            token=self._token,
            username=self._username,
            session=self._state.session,
            tls=self._tls,
            new_id=_new_id,
        )
        async with chat:
            following = [
                asyncio.create_task(self._follow(chat, room)) for room in dict.fromkeys(rooms)
            ]
            stopping = asyncio.create_task(self._stopped.wait())
            saving = asyncio.create_task(self._save_often())
            try:
                await self._until_end(following, stopping, saving)
            finally:
                for task in (*following, stopping, saving):
                    task.cancel()
                await asyncio.gather(*following, stopping, saving, return_exceptions=True)
                await self._save()

    async def _until_end(
        self,
        following: list[asyncio.Task[None]],
        stopping: asyncio.Task[Any],
        saving: asyncio.Task[None],
    ) -> None:
        """Wait until the bot is stopped, and then until no function runs, or until it fails."""
        refusals: list[BaseException] = []
        running = set(following)
        while running and not stopping.done():
            done, _ = await asyncio.wait(
                {*running, stopping, saving}, return_when=asyncio.FIRST_COMPLETED
            )
            if saving in done:
                saving.result()
            for task in done & running:
                running.discard(task)
                error = task.exception()
                if error is not None and not isinstance(error, Refused):
                    raise error
                refusals += [] if error is None else [error]
        if stopping.done():
            if busy := running & self._busy:
                await asyncio.wait(busy, timeout=GRACE_S)
        elif len(refusals) == len(following) and refusals:
            raise refusals[0]

    def stop(self) -> None:
        """Stop the bot, as SIGTERM does. Call it in the event loop of the bot."""
        if self._stopped is not None:
            self._stopped.set()

    @property
    def _is_stopping(self) -> bool:
        return self._stopped is not None and self._stopped.is_set()

    # Rooms

    async def _follow(self, chat: Chat, name: str) -> None:
        """Handle the events of a room until the bot is stopped. Raises the error of the room."""
        while True:
            try:
                since = self._state.positions.get(name)
                room = await chat.join(name, history=0, since=since)
                self._state.session = chat.session
                self._state.positions.setdefault(name, room.position)
                await self._save()
                _logger.info("in the room %s as %s", room.name, room.username)
                await self._handle_all(name, room)
                return
            except Refused as refusal:
                _logger.error("The room %s refuses the bot: %s", name, refusal.message)
                if refusal.retry_after is None:
                    raise
                await asyncio.sleep(min(refusal.retry_after, MAX_PAUSE_S))

    async def _handle_all(self, name: str, room: Room) -> None:
        task = asyncio.current_task()
        assert task is not None
        async for event in room:
            self._busy.add(task)
            try:
                if isinstance(event, Gap):
                    await self._catch_up(name, room, event)
                else:
                    await self._handle(name, room, event)
            finally:
                self._busy.discard(task)
            if self._is_stopping:
                return

    async def _catch_up(self, name: str, room: Room, gap: Gap) -> None:
        """Handle the messages of a gap that are still stored."""
        if gap.reason == "reset":
            last = self._state.positions[name]
            _logger.warning("The room %s has another history now.", name)
            for message in gap.messages:
                is_new = message.raw["timestamp"] > (last.timestamp or "")
                if is_new and not self._is_stopping:
                    await self._handle(name, room, message)
        else:
            after = gap.after
            while after + 1 < gap.before and not self._is_stopping:
                page = await room.history(after=after, limit=MAX_HISTORY)
                for message in page.messages:
                    if message.offset < gap.before and not self._is_stopping:
                        await self._handle(name, room, message)
                if not page.more or not page.messages:
                    break
                after = page.messages[-1].offset
        if not self._is_stopping:
            self._state.positions[name] = gap.position

    async def _handle(self, name: str, room: Room, event: Event) -> None:
        """Call the functions for an event, and note that it was handled."""
        if not isinstance(event, Publication):
            await self._on_event(event)
            return
        handling = _handling.set(_Handling(event))
        try:
            was_handled = await self._on_event(event)
            if isinstance(event, Message) and _is_for_bots(event, room):
                was_handled = await self._on_message(room, event) or was_handled
        finally:
            _handling.reset(handling)
        self._state.positions[name] = event.position
        if was_handled:
            await self._save()

    async def _on_event(self, event: Event) -> bool:
        """Call the functions for this type of events; returns whether there was one."""
        handlers = [handler for handler, kinds in self._events if isinstance(event, kinds)]
        for handler in handlers:
            await self._call(handler, event, event)
        return bool(handlers)

    async def _on_message(self, room: Room, message: Message) -> bool:
        """Call the functions for a message; returns whether there was one."""
        text = message.own_text.strip()
        if text.startswith(self._prefix):
            word, _, rest = text.removeprefix(self._prefix).partition(" ")
            first, *more = word.split("\n", 1)
            command = self._commands.get(first.casefold())
            if command is not None:
                await self._run_command(message, command, " ".join((*more, rest)))
                return True
        was_called = False
        for handler, needs_mention in self._messages:
            if not needs_mention or mentions(message.text, room.username or ""):
                was_called = True
                await self._call(handler, message, message)
        return was_called

    async def _run_command(self, message: Message, command: _Command, text: str) -> None:
        try:
            arguments, named = command.parameters.parse(text.strip())
        except UsageError as error:
            usage = f"Usage: {self._prefix}{command.name} {command.parameters.usage}".rstrip()
            await self._call(message.reply, message, f"{error} {usage}")
        else:
            await self._call(command.handler, message, message, *arguments, **named)

    async def _call(self, handler: Handler, event: Event, *arguments: Any, **named: Any) -> None:
        """Call a function. Its exceptions are logged; that of a chat that has ended is raised."""
        try:
            await handler(*arguments, **named)
        except Closed:
            raise
        except Exception:
            _logger.exception("A function has failed for %r", event)

    async def _help(self, message: Message) -> None:
        lines = []
        for command in sorted(self._commands.values(), key=lambda each: each.name.casefold()):
            usage = f"{self._prefix}{command.name} {command.parameters.usage}".rstrip()
            lines.append(f"`{usage}` {command.help}".rstrip())
        await message.reply("\n".join(lines))

    # State

    async def _save(self) -> None:
        async with self._saving:
            await asyncio.to_thread(self._state.save)

    async def _save_often(self) -> None:
        while True:
            await asyncio.sleep(SAVE_INTERVAL_S)
            await self._save()


def _new_id() -> str:
    handling = _handling.get()
    return ID_PREFIX + secrets.token_urlsafe(12) if handling is None else handling.new_id()


def _is_for_bots(message: Message, room: Room) -> bool:
    """Whether a message is neither this bot's nor another bot's, and has not been deleted."""
    is_of_a_bot = message.id is not None and message.id.startswith(ID_PREFIX)
    return message.user != room.user and not is_of_a_bot and not message.deleted


def _check(handler: Handler) -> None:
    if not inspect.iscoroutinefunction(handler):
        raise TypeError(f"{handler!r} must be a coroutine function: async def …")
