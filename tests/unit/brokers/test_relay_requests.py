"""Requests to the relay: each is answered or given up once, and outlives a relay."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from fastchat.brokers.relay import records
from fastchat.brokers.relay.deadlines import DeadlineTimer
from fastchat.brokers.relay.requests import Requests
from fastchat.brokers.relay.wire import BadRecord
from fastchat.errors import CommandError, ErrorCode
from fastchat.rooms import Member

ALICE = Member("Alice", "user")
REFUSAL = records.Refusal(ErrorCode.FORBIDDEN, "No.", False, None)


class Asked:
    """Requests, the records that they send, and the replies that they get."""

    def __init__(self) -> None:
        self.sent: list[records.Request] = []
        self.replied: list[records.Reply] = []
        self.timer = DeadlineTimer(lambda: None)
        self.requests = Requests(self.sent.append, self.timer)

    async def search(self, replied: Callable[[records.Page], Any] | None = None) -> None:
        await self.requests.ask(
            lambda number, deadline: records.Search(number, deadline, "a", "x", 9),
            records.Page,
            replied or self.replied.append,
            60.0,
        )

    async def leave(self) -> None:
        await self.requests.ask(
            lambda number, deadline: records.Leave(number, deadline, "a", ALICE),
            records.Left,
            self.replied.append,
            60.0,
        )


def run(test: Callable[[Asked], Coroutine[Any, Any, None]]) -> None:
    async def body() -> None:
        asked = Asked()
        await test(asked)
        asked.timer.cancel()
        assert len(asked.requests) == 0

    asyncio.run(body())


async def started(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = asyncio.create_task(coroutine)
    await asyncio.sleep(0)
    return task


def test_reply_is_called_at_its_position_in_the_stream() -> None:
    """The callback runs in the step that reads the reply, and a second reply is ignored."""

    async def test(asked: Asked) -> None:
        task = await started(asked.search())
        (request,) = asked.sent
        page = records.Page(request.number, [b"{}"], False)
        assert asked.requests.on_reply(page)
        assert asked.replied == [page]
        await task
        assert not asked.requests.on_reply(page)
        assert asked.replied == [page]

    run(test)


def test_refusal_is_raised() -> None:
    """A refusal is raised as the error that it was in the relay."""

    async def test(asked: Asked) -> None:
        task = await started(asked.search())
        asked.requests.on_refused(records.Refused(asked.sent[0].number, REFUSAL))
        with pytest.raises(CommandError, match=r"^No\.$"):
            await task

    run(test)


def test_reply_of_another_type_is_refused() -> None:
    """The caller gets an error, and the request is not sent again."""

    async def test(asked: Asked) -> None:
        task = await started(asked.search())
        asked.requests.on_reply(records.Left(asked.sent[0].number))
        with pytest.raises(BadRecord, match="a Left record in reply to a Search record"):
            await task

    run(test)


def test_exception_of_a_callback_reaches_its_caller_only() -> None:
    """An exception in a caller's callback leaves the connection to the relay open."""

    async def test(asked: Asked) -> None:
        def fail(page: records.Page) -> None:
            raise RuntimeError("a planted fault")

        task = await started(asked.search(fail))
        assert asked.requests.on_reply(records.Page(asked.sent[0].number, [], False))
        with pytest.raises(RuntimeError, match="planted"):
            await task

    run(test)


def test_late_request_is_unavailable() -> None:
    """A request whose deadline has passed is refused, and the others wait on."""

    async def test(asked: Asked) -> None:
        now = time.monotonic()
        tasks = [await started(asked.search()) for _ in range(2)]
        first, second = asked.sent
        assert asked.requests.give_up(now) == []
        assert asked.requests.first_deadline == first.deadline
        assert asked.requests.give_up(first.deadline) == [first]
        with pytest.raises(CommandError) as refusal:
            await tasks[0]
        assert (refusal.value.code, refusal.value.temporary) == (ErrorCode.UNAVAILABLE, True)
        assert list(asked.requests.open_requests()) == [second]
        asked.requests.on_reply(records.Page(second.number, [], False))
        await tasks[1]
        assert asked.requests.first_deadline is None

    run(test)


def test_introduction_omits_members_that_leave() -> None:
    """The new relay has not counted a member that is leaving."""

    async def test(asked: Asked) -> None:
        tasks = [await started(asked.search()), await started(asked.leave())]
        search, leave = asked.sent
        asked.requests.forget_leaving_members()
        assert isinstance(leave, records.Leave)
        assert list(asked.requests.open_requests()) == [search, leave._replace(member=None)]
        asked.requests.on_reply(records.Page(search.number, [], False))
        asked.requests.on_reply(records.Left(leave.number))
        await asyncio.gather(*tasks)

    run(test)
