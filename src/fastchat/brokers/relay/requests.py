"""Requests of a worker that wait for the relay's replies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from fastchat.brokers.relay import records
from fastchat.brokers.relay.deadlines import DeadlineTimer
from fastchat.brokers.relay.wire import BadRecord
from fastchat.rooms.refusals import unavailable

__all__ = ["Requests"]

Reply = TypeVar("Reply", bound=records.Reply)


class _Request(Generic[Reply]):
    """A request that waits for a reply of the type `expected`."""

    __slots__ = ("expected", "future", "record", "replied")

    def __init__(
        self, record: records.Request, expected: type[Reply], replied: Callable[[Reply], None]
    ) -> None:
        self.record = record
        self.expected = expected
        self.replied = replied
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_reply(self, reply: records.Reply) -> None:
        if not isinstance(reply, self.expected):
            raise BadRecord(
                f"a {type(reply).__name__} record in reply to a {type(self.record).__name__} record"
            )
        self.replied(reply)


class Requests:
    """The requests without a reply, by number, in the order in which they were made.

    They outlive a relay: the worker sends them to the next relay again. `send` sends a request to
    the relay, if there is one.
    """

    def __init__(self, send: Callable[[records.Request], None], timer: DeadlineTimer) -> None:
        self._send = send
        self._timer = timer
        self._requests: dict[int, _Request[Any]] = {}
        self._newest = 0

    def __len__(self) -> int:
        return len(self._requests)

    async def ask(
        self,
        make: Callable[[int, float], records.Request],
        expected: type[Reply],
        replied: Callable[[Reply], None],
        patience_s: float,
    ) -> None:
        """Send a request, and wait until its reply has arrived and `replied` has returned.

        `replied` is called at the exact place of the reply between the deliveries. `make` is called
        with the request's number and its deadline, and returns the record. Raises CommandError: the
        relay's refusal, or `unavailable` after `patience_s` seconds.
        """
        deadline = time.monotonic() + patience_s
        self._newest += 1
        record = make(self._newest, deadline)
        request = self._requests[self._newest] = _Request(record, expected, replied)
        self._timer.watch(deadline)
        self._send(record)
        await request.future

    def open_requests(self) -> Iterator[records.Request]:
        """The requests that have no reply yet, the oldest first."""
        return (request.record for request in self._requests.values())

    def forget_leaving_members(self) -> None:
        """Take the members out of the LEAVE requests, before an introduction.

        The introduction does not contain members that are leaving. Therefore the new relay does not
        count them, and must not count them out.
        """
        for request in self._requests.values():
            if isinstance(request.record, records.Leave):
                request.record = request.record._replace(member=None)

    def on_reply(self, reply: records.Reply) -> bool:
        """Give a request its reply; return False if the request is unknown or has timed out."""
        request = self._requests.pop(reply.number, None)
        if request is None:
            return False
        try:
            request.on_reply(reply)
        except Exception as error:
            # `replied` has failed. The error goes to the caller of `ask`: only the connection of
            # that client is closed, and not the connection to the relay.
            if request.future.done():
                raise
            request.future.set_exception(error)
        if not request.future.done():
            request.future.set_result(None)
        return True

    def on_refused(self, record: records.Refused) -> None:
        request = self._requests.pop(record.number, None)
        if request is not None and not request.future.done():
            request.future.set_exception(record.refusal.error())

    def give_up(self, now: float) -> list[records.Request]:
        """Refuse the requests whose deadline has passed; return their records."""
        late = [each for each in self._requests.values() if each.record.deadline <= now]
        for request in late:
            del self._requests[request.record.number]
            if not request.future.done():
                request.future.set_exception(unavailable())
        return [request.record for request in late]

    @property
    def first_deadline(self) -> float | None:
        return min((each.deadline for each in self.open_requests()), default=None)
