"""A client's commands, which run one after the other, in the order in which they came."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine
from typing import Any, Protocol

from fastchat import protocol
from fastchat.chat import Client
from fastchat.connections.context import Context
from fastchat.errors import CloseReason, CommandError, ErrorCode, Violation
from fastchat.limits.buckets import rate_limited
from fastchat.limits.commands import TOO_FAST_ERRORS, TOO_FAST_TYPING
from fastchat.protocol import Chunk, Command, Join, Typing, parsing

__all__ = ["Inbox", "Owner"]

logger = logging.getLogger("fastchat.session")


class Owner(Protocol):
    """The session of an inbox, which sends and receives frames.

    After `close`, `close_with` and `fail` the client is gone (`Client.gone`).
    """

    def close(self, reason: CloseReason, /) -> None: ...
    def close_with(self, code: int, text: str, /) -> None: ...

    def close_for(self, violation: Violation, /) -> None:
        """Log which rule the client broke, and close the connection."""
        ...

    def fail(self) -> None:
        """Log the exception that is being handled, and close the connection."""
        ...

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...

    def on_idle(self) -> None:
        """All commands that came have run."""
        ...

    def on_unavailable(self) -> None:
        """A command was refused because the server could not run it."""
        ...


class Inbox:
    """Runs the commands of one client.

    Most commands have run when `Chat.handle` returns. Those that wait for the broker or the
    disk are coroutines, and the commands behind them wait as well:

    | state   | `_running` | `_waiting` | the next command                                      |
    |---------|------------|------------|-------------------------------------------------------|
    | idle    | None       | None       | runs at once                                          |
    | running | a task     | None       | waits, and from then on the socket is not read        |
    | behind  | a task     | a queue    | waits; picows had read it before the socket was paused |

    When the task has run, the queue is emptied, and the inbox is idle again. So the queue holds
    no more than what was read at once, and TCP holds back the rest. After `close` the queue is
    gone, and a task that still runs is the last one.

    The throttle is asked before all this: a command that comes too soon is refused, and never
    waits or runs.
    """

    __slots__ = ("_client", "_context", "_owner", "_running", "_waiting")

    def __init__(self, context: Context, owner: Owner, client: Client) -> None:
        self._context = context
        self._owner = owner
        self._client = client
        self._running: asyncio.Task[None] | None = None
        self._waiting: deque[Command] | None = None

    @property
    def is_idle(self) -> bool:
        """Whether all commands that came have run."""
        return self._running is None

    @property
    def takes_bytes(self) -> bool:
        """Whether a file was announced, or may be announced by a command that has yet to run."""
        return self._client.incoming is not None or self._running is not None

    def open(self, token: str | None, first: Join | CommandError | None) -> None:
        """Run what the upgrade asked for: authenticate by `token`, then run `first`.

        `first` is an error if the upgrade asked for something that cannot be a command.
        """
        if token is not None and not self._authenticate(token):
            return
        if isinstance(first, CommandError):
            self._refuse(first)
        elif first is not None:
            self._dispatch(first)

    def receive(self, payload: bytes) -> None:
        """Take a text message, which is one command. Raises Violation if it is not UTF-8."""
        try:
            command = parsing.parse(payload)
        except CommandError as refusal:
            self._refuse(refusal)
            return
        wait_s = self._context.throttle.wait_s(self, command, self._client.address)
        if wait_s:
            self._throttle(command, wait_s)
        elif self._running is None:
            self._dispatch(command)
        else:
            self._put_off(command)

    def receive_bytes(self, payload: bytes) -> None:
        """Take a binary message: bytes of a file, behind the `upload` that announced it."""
        if self._running is None:
            self._dispatch(Chunk(payload))
        else:
            self._put_off(Chunk(payload))

    def close(self) -> None:
        """Drop the commands that have not begun to run: the client is gone. Safe to call again."""
        self._context.throttle.forget(self)
        if self._waiting is not None:
            self._waiting = None
            # The client's answer to our close frame must still be read.
            self._owner.resume_reading()

    # Running

    def _authenticate(self, token: str) -> bool:
        """Check a token that came with the upgrade; False if the connection is closed."""
        try:
            self._context.chat.authenticate(self._client, token)
        except CommandError as refusal:
            self._refuse(refusal)
        except Exception:
            self._owner.fail()
        return not self._client.gone

    def _dispatch(self, command: Command) -> None:
        try:
            work = self._context.chat.handle(self._client, command)
        except CommandError as refusal:
            self._refuse(refusal, command)
        except Violation as violation:
            self._owner.close_for(violation)
        except Exception:
            self._owner.fail()
        else:
            if work is not None:
                chunk_bytes = len(command.data) if type(command) is Chunk else None
                run = self._run(work, command.ref, chunk_bytes)
                self._running = asyncio.get_running_loop().create_task(run)

    async def _run(
        self, work: Coroutine[Any, Any, None], ref: str | None, chunk_bytes: int | None
    ) -> None:
        """Run a command that has to wait, then those that came in the meantime.

        The command itself is not kept while it waits, because a `join` can contain a token.
        """
        try:
            await work
        except CommandError as refusal:
            refusal.ref = ref or refusal.ref  # a chunk has none, but its `upload` may have one
            self._refuse(refusal)
        except Exception:
            self._owner.fail()
        if chunk_bytes is not None:
            await self._pace(chunk_bytes)
        self._running = None
        while self._waiting and self._running is None:
            self._dispatch(self._waiting.popleft())
        if self._running is not None:
            return
        if self._waiting is not None:
            self._waiting = None
            self._owner.resume_reading()
        self._owner.on_idle()

    def _put_off(self, command: Command) -> None:
        if self._waiting is None:
            self._waiting = deque()
            self._owner.pause_reading()
        self._waiting.append(command)

    async def _pace(self, chunk_bytes: int) -> None:
        """Wait if a file comes too fast: refusing one piece would ruin the whole file."""
        wait_s = self._context.throttle.pace_s(self, chunk_bytes, self._client.address)
        if self._client.gone:
            self._context.throttle.forget(self)
        elif wait_s:
            await asyncio.sleep(wait_s)

    # Refusing

    def _throttle(self, command: Command, wait_s: float) -> None:
        if type(command) is Typing:  # dropped without an answer, because no client waits for one
            self._count_error(TOO_FAST_TYPING)
        else:
            self._refuse(rate_limited("You are sending commands too quickly.", wait_s), command)

    def _refuse(self, refusal: CommandError, command: Command | None = None) -> None:
        """Answer with an `error` event. Close if the refusal says so, or at too many errors."""
        if self._client.gone:
            return
        if command is not None:
            refusal.ref = command.ref or refusal.ref
            refusal.id = getattr(command, "id", None)
        context = self._context
        context.metrics.refusals[refusal.code] += 1
        context.hub.send(self._client.connection, protocol.error(refusal))
        if refusal.close_code is not None:
            self._owner.close_with(refusal.close_code, refusal.message)
            return
        if refusal.code is ErrorCode.UNAVAILABLE:
            self._owner.on_unavailable()  # the client has made no mistake
        else:
            self._count_error(TOO_FAST_ERRORS if refusal.code is ErrorCode.RATE_LIMITED else 1.0)

    def _count_error(self, tokens: float) -> None:
        """Close the connection if its errors keep coming."""
        if not self._context.throttle.is_error_allowed(self, tokens):
            logger.info("too many errors from %s", self._client.for_log())
            self._owner.close(CloseReason.TOO_MANY_ERRORS)
