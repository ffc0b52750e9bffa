"""The inbox, a client's queue of commands, without frames: order, refusals and end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest

from fastchat.chat import Client
from fastchat.connections.context import Context
from fastchat.connections.inbox import Inbox
from fastchat.errors import CloseReason, CommandError, ErrorCode, Violation
from fastchat.limits.buckets import Budget
from fastchat.limits.commands import SessionLimits, Throttle
from fastchat.metrics import Metrics
from fastchat.protocol import Chunk, Command, Join
from support.chat import RecordingEndpoint

NOTHING = Budget(0, 1)


class SlowChat:
    """A chat whose commands with a `ref` wait for `gate`; it records the commands that have run."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.ran: list[str | None] = []
        self.failure: Exception | None = None

    def handle(self, client: Client, command: Command) -> Coroutine[Any, Any, None] | None:
        if self.failure is not None:
            raise self.failure
        if command.ref is None and type(command) is not Chunk:
            self.ran.append(None)
            return None
        return self._wait(command)

    def authenticate(self, client: Client, token: str) -> None:
        if self.failure is not None:
            raise self.failure

    async def _wait(self, command: Command) -> None:
        self.ran.append(command.ref)
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure


class RecordingOwner:
    """The session as an inbox sees it; it records every call in order."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.on_close: Callable[[], None] = lambda: None

    def close(self, reason: CloseReason, /) -> None:
        self._end(reason)

    def close_with(self, code: int, text: str, /) -> None:
        self._end((code, text))

    def close_for(self, violation: Violation, /) -> None:
        self._end(violation.reason)

    def fail(self) -> None:
        self._end("fail")

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.calls.append("resume")

    def on_idle(self) -> None:
        self.calls.append("idle")

    def on_unavailable(self) -> None:
        self.calls.append("unavailable")

    def _end(self, call: Any) -> None:
        self.calls.append(call)
        self.on_close()


class Rig:
    """An inbox, its owner and its chat."""

    def __init__(self, **limits: Any) -> None:
        self.chat = SlowChat()
        self.owner = RecordingOwner()
        self.sent: list[dict[str, Any]] = []
        self.now_s = 50.0
        unlimited: dict[str, Any] = dict.fromkeys(SessionLimits._fields, NOTHING)
        self.throttle = Throttle(
            SessionLimits(**{**unlimited, "errors": 0, **limits}), lambda: self.now_s
        )
        self.client = Client("Alice", RecordingEndpoint())
        context = Context(
            chat=cast("Any", self.chat),
            hub=cast("Any", self),
            sessions=cast("Any", None),
            throttle=self.throttle,
            admission=cast("Any", None),
            metrics=Metrics(),
            clock=lambda: self.now_s,
            max_message_bytes=1000,
        )
        self.metrics = context.metrics
        self.inbox = Inbox(context, self.owner, self.client)
        self.owner.on_close = self._close

    def send(self, connection: object, payload: bytes) -> None:
        """Send as the hub does."""
        self.sent.append(json.loads(payload))

    def _close(self) -> None:
        """Close as the session does when it leaves the chat."""
        self.inbox.close()
        self.client.gone = True

    def receive(self, **fields: Any) -> None:
        self.inbox.receive(json.dumps(fields).encode())


def run(test: Callable[[Rig], Coroutine[Any, Any, None]], **limits: Any) -> None:
    async def body() -> None:
        await test(Rig(**limits))

    asyncio.run(body())


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_commands_run_one_after_the_other() -> None:
    """While a command waits, no later one starts, and the socket is not read."""

    async def test(rig: Rig) -> None:
        rig.receive(type="leave", ref="first")
        await turns()
        assert rig.owner.calls == []  # nothing waits after it yet
        rig.receive(text="second")
        rig.receive(type="leave", ref="third")
        await turns()
        assert rig.chat.ran == ["first"]
        assert rig.owner.calls == ["pause"]
        assert not rig.inbox.is_idle
        rig.chat.gate.set()
        await turns()
        assert rig.chat.ran == ["first", None, "third"]
        assert rig.owner.calls == ["pause", "resume", "idle"]
        assert rig.inbox.is_idle

    run(test)


def test_close_drops_commands_that_have_not_started() -> None:
    """Reading goes on for the client's close frame, and no more command runs."""

    async def test(rig: Rig) -> None:
        rig.receive(type="leave", ref="first")
        rig.receive(text="second")
        rig.owner.close(CloseReason.REMOVED)
        rig.chat.gate.set()
        await turns()
        assert rig.chat.ran == ["first"]
        assert rig.owner.calls == ["pause", CloseReason.REMOVED, "resume", "idle"]

    run(test)


def test_refusal_names_the_command() -> None:
    """An error has the command's `ref` and `id`, whether the command failed at once or after
    waiting."""

    async def test(rig: Rig) -> None:
        rig.chat.gate.set()
        rig.receive(type="leave", ref="waits")
        rig.chat.failure = CommandError(ErrorCode.NOT_JOINED, "No.")
        await turns()
        rig.receive(text="x", id="i", ref="r")
        rig.inbox.receive(b"{")
        assert [(each["code"], each.get("ref"), each.get("id")) for each in rig.sent] == [
            ("not_joined", "waits", None),
            ("not_joined", "r", "i"),
            ("bad_json", None, None),
        ]
        assert rig.metrics.refusals == {"not_joined": 2, "bad_json": 1}

    run(test)


def test_refusal_with_a_close_code_closes_the_connection() -> None:
    """The close frame has the sentence of the `error` event, and nothing follows it."""

    async def test(rig: Rig) -> None:
        rig.chat.failure = CommandError(ErrorCode.UNAUTHORIZED, "No.", close_code=4501)  # type: ignore[arg-type]
        rig.inbox.open("token", Join("lobby"))
        assert len(rig.sent) == 1
        assert rig.owner.calls == [(4501, "No.")]
        assert rig.chat.ran == []

    run(test)


def test_too_many_errors_close_the_connection() -> None:
    """As many errors as the limit allows are answered first."""

    async def test(rig: Rig) -> None:
        for _ in range(4):
            rig.inbox.receive(b"{")
        assert len(rig.sent) == 4
        assert rig.owner.calls == [CloseReason.TOO_MANY_ERRORS]
        rig.inbox.receive(b"{")
        assert len(rig.sent) == 4

    run(test, errors=3)


def test_command_over_the_rate_never_runs() -> None:
    """A message is refused with the time to wait, and a `typing` is dropped silently."""

    async def test(rig: Rig) -> None:
        for _ in range(2):
            rig.receive(text="x")
            rig.receive(type="typing")
        (error,) = rig.sent
        assert error["code"] == "rate_limited"
        assert 900 < error["retry_after_ms"] <= 1000
        assert rig.chat.ran == [None, None]

    run(test, publications=Budget(1, 1), typing=Budget(1, 1))


@pytest.mark.parametrize("waits", [False, True])
def test_internal_error_is_passed_to_the_session(waits: bool) -> None:
    """The session is informed whether the error happens at once or after waiting."""

    async def test(rig: Rig) -> None:
        rig.chat.gate.set()
        if waits:
            rig.receive(type="leave", ref="waits")
        rig.chat.failure = ZeroDivisionError()
        if not waits:
            rig.receive(text="x")
        await turns()
        assert rig.owner.calls[0] == "fail"

    run(test)


def test_client_that_disconnects_during_a_write_leaves_no_bucket() -> None:
    """Bytes are charged once they are on the disk, and the client can have disconnected by then."""

    async def test(rig: Rig) -> None:
        rig.inbox.receive_bytes(b"x")
        await turns()
        rig.owner.close(CloseReason.REMOVED)
        rig.chat.gate.set()
        await turns()
        assert rig.throttle._uploads.full_s == {}

    run(test, upload_bytes=Budget(1000, 1000))


def test_unavailable_is_no_error_of_the_client() -> None:
    """The session learns of it, and stays open however often it happens."""

    async def test(rig: Rig) -> None:
        rig.chat.failure = CommandError(ErrorCode.UNAVAILABLE, "Try again.", temporary=True)
        for _ in range(10):
            rig.receive(text="hello")
        assert rig.owner.calls == ["unavailable"] * 10
        assert [each["code"] for each in rig.sent] == ["unavailable"] * 10

    run(test, errors=3)
