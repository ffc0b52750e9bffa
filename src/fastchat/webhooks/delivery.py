"""The deliveries of one webhook.

Theory
------
The log of each room and a cursor in it are the queue: nothing else is kept. A room with
publications behind its cursor is *pending*. Up to MAX_ROOMS pending rooms are worked on at the same
time, each by a task that reads a few publications and delivers them one after the other. After a
few, the room goes to the end of the line, so a busy room does not hold up others.

If a delivery fails, its room waits and gives its place to another room. The time grows with each
attempt. After a day of failures, publications older than a day are given up.

    idle ──published──▶ ready ──▶ worked on ──▶ idle           everything was delivered
                          ▲          │ │
                          └──────────┘ └──▶ waiting ──▶ ready   a delivery has failed

Joins and leaves are not stored. They have a short queue of their own, from which the oldest are
dropped, and are sent once.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

import apsw
import orjson

from fastchat.errors import CommandError
from fastchat.protocol import Position
from fastchat.rooms.administration import MAX_LISTED_ROOMS, StoredRoom
from fastchat.webhooks.config import LIVE_EVENTS, Webhook
from fastchat.webhooks.cursors import Cursor, Cursors
from fastchat.webhooks.outcome import Answer, NotDeliveredError

__all__ = ["Delivery", "Log"]

logger = logging.getLogger("fastchat.webhooks")

#: Rooms that are worked on at the same time. It bounds what a receiver that hangs costs.
MAX_ROOMS = 8
#: Publications that are read at once. They are at most 1 MiB (`Administration.since`).
WINDOW = 32
#: The time for a whole answer. Standard Webhooks recommends 15 to 30 s.
TIMEOUT_S = 15.0
#: The time before the second attempt, which doubles with each further one, and the longest.
FIRST_DELAY_S, MAX_DELAY_S = 1.0, 600.0
#: The longest time that a receiver can ask for by `Retry-After`.
MAX_RETRY_AFTER_S = 3600.0
#: After this time without success, older publications are given up. A clock that is set forward,
#: or a server that was down, is no reason: so many attempts must have failed since the start.
GIVE_UP_S, GIVE_UP_ATTEMPTS = 86400.0, 10
#: Joins and leaves that wait to be sent.
MAX_LIVE = 1000
#: The time until another look at rooms that cannot be read.
UNREADABLE_S = 1.0
#: Deliveries under way have this long when the server stops.
CLOSE_S = 1.0


class Log(Protocol):
    """The part of `fastchat.rooms.administration.Administration` that webhooks need."""

    async def position(self, room: str) -> Position: ...
    async def rooms(self, prefix: str, after: str, limit: int) -> Sequence[StoredRoom]: ...
    async def since(self, room: str, position: Position, limit: int) -> Sequence[bytes] | None: ...


class _Failed(Exception):
    """A delivery has failed, and is to be repeated. The message says why."""


class _Ended(Exception):
    """The receiver wants nothing any more."""


class _Pending:
    """A room with publications behind the cursor.

    * `head`: the newest publication, as far as is known. `is_changed` is whether another was
      published since the log was read last.
    * `cursor`: None until it is loaded.
    * `oldest_s`: the time of the oldest publication that is not delivered, in seconds since 1970.
    * `attempts`: failures in a row since the server started.
    * `waiting`: until the next attempt.
    """

    __slots__ = ("attempts", "cursor", "head", "is_changed", "name", "oldest_s", "waiting")

    def __init__(self, name: str, head: int, oldest_s: float) -> None:
        self.name = name
        self.head = head
        self.is_changed = True
        self.oldest_s = oldest_s
        self.cursor: Cursor | None = None
        self.attempts = 0
        self.waiting: asyncio.TimerHandle | None = None

    @property
    def behind(self) -> int:
        """Publications that are not delivered; at least one."""
        return max(1, self.head - (self.cursor.position.offset if self.cursor else self.head - 1))


class Delivery:
    """Delivers to one webhook, from `start` to `close`. It must be used in one running loop.

    `clock`: seconds since 1970. `jitter` returns a factor for the time before another attempt.
    """

    def __init__(
        self,
        webhook: Webhook,
        log: Log,
        cursors: Cursors,
        *,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = lambda: random.uniform(0.5, 1.5),  # noqa: S311
        first_delay_s: float = FIRST_DELAY_S,
    ) -> None:
        self.webhook = webhook
        self.counts: Counter[str] = Counter()
        self.is_ended = False
        self._log = log
        self._cursors = cursors
        self._clock = clock
        self._jitter = jitter
        self._first_delay_s = first_delay_s
        self._pending: dict[str, _Pending] = {}
        self._ready: deque[_Pending] = deque()
        self._failing: set[str] = set()  # rooms whose last delivery has failed
        self._has_stored_events = not webhook.events <= frozenset(LIVE_EVENTS)
        self._live: deque[bytes] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._working = 0
        self._paused: asyncio.TimerHandle | None = None  # as the receiver has asked
        self._is_started = False
        self._is_sending_live = False
        # Imported here: it takes 0.3 s, and most servers have no webhook.
        from fastchat.webhooks.sending import Sender

        self._sender = Sender(webhook.target, connections=MAX_ROOMS + 1)
        self._is_closed = False

    def start(self) -> None:
        """Find the rooms with something to deliver, and begin."""
        if self._has_stored_events:
            self._run(self._start())

    def published(self, room: str, head: int) -> None:
        """Learn that a room has a new publication, with the offset `head`."""
        if not self._has_stored_events or not self.webhook.rooms.fullmatch(room):
            return
        pending = self._pending.get(room)
        if pending is not None:
            pending.head, pending.is_changed = head, True
        elif not self.is_ended and not self._is_closed:
            pending = self._pending[room] = _Pending(room, head, self._clock())
            self._ready.append(pending)
            self._work_on()

    def announced(self, event: str, room: str, payload: bytes) -> None:
        """Learn of a join or a leave."""
        if (
            event not in self.webhook.events
            or self.is_ended
            or self._is_closed
            or not self.webhook.rooms.fullmatch(room)
        ):
            return
        if len(self._live) >= MAX_LIVE:
            self._live.popleft()
            self.counts["dropped"] += 1
        self._live.append(payload[:-1] + b',"stored":false}')
        if not self._is_sending_live:
            self._is_sending_live = True
            self._run(self._send_live())

    @property
    def lag(self) -> tuple[int, float]:
        """How many publications are behind the cursors, and for how many seconds the oldest is."""
        if not self._pending:
            return 0, 0.0
        pending = self._pending.values()
        oldest_s = min(each.oldest_s for each in pending)
        return sum(each.behind for each in pending), max(0.0, self._clock() - oldest_s)

    async def close(self) -> None:
        """Stop. Deliveries under way have CLOSE_S; what they have not reached is repeated later."""
        self._is_closed = True
        if self._paused is not None:
            self._paused.cancel()
        for pending in self._pending.values():
            if pending.waiting is not None:
                pending.waiting.cancel()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=CLOSE_S)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        await self._sender.close()

    # The line of rooms

    def _run(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self) -> None:
        name = self.webhook.name
        while not self._is_closed:
            try:
                await self._find_pending()
            except (CommandError, apsw.Error) as error:
                logger.warning("webhook %s: the rooms cannot be read: %s", name, error)
                await asyncio.sleep(UNREADABLE_S)
            else:
                self._is_started = True
                self._work_on()
                return

    async def _find_pending(self) -> None:
        """Find what happened while the server was down; a new webhook begins at the present."""
        name, pattern = self.webhook.name, self.webhook.rooms.pattern
        is_begun = await self._cursors.is_begun(name, pattern)
        beginnings: dict[str, Position] = {}
        after, page = "", await self._log.rooms("", "", MAX_LISTED_ROOMS)
        while page:
            rooms = {each.room: each for each in page if each.head}
            rooms = {room: rooms[room] for room in rooms if self.webhook.rooms.fullmatch(room)}
            cursors = await self._cursors.load(name, tuple(rooms))
            for room, (_, epoch, head, _, last_at, _) in rooms.items():
                position = cursors[room].position if room in cursors else None
                if position is None and not is_begun:
                    beginnings[room] = Position(epoch, head, last_at)
                elif position is None or position[:2] != (epoch, head):
                    self.published(room, head)
            after = page[-1].room
            page = await self._log.rooms("", after, MAX_LISTED_ROOMS)
        if not is_begun:
            await self._cursors.begin(name, pattern, beginnings)
            logger.info("webhook %s: it begins with what is published from now on", name)

    def _work_on(self) -> None:
        """Begin to work on rooms that are ready, as many as is allowed."""
        while (
            self._ready
            and self._is_started
            and self._working < MAX_ROOMS
            and self._paused is None
            and not self._is_closed
        ):
            self._working += 1
            self._run(self._work(self._ready.popleft()))

    async def _work(self, pending: _Pending) -> None:
        delay_s: float | None = None
        try:
            is_done = await self._deliver_some(pending)
        except _Failed as error:
            is_done, delay_s = False, self._fail(pending, str(error))
        except _Ended:
            self._end()
            return
        except (CommandError, apsw.Error):
            is_done, delay_s = False, UNREADABLE_S
        except Exception:
            logger.exception("internal error in webhook %s", self.webhook.name)
            is_done, delay_s = False, MAX_DELAY_S
        finally:
            self._working -= 1
        if self.is_ended or self._is_closed:
            return
        if is_done:
            del self._pending[pending.name]
        elif delay_s is None:
            self._ready.append(pending)
        else:
            loop = asyncio.get_running_loop()
            pending.waiting = loop.call_later(delay_s, self._be_ready, pending)
        self._work_on()

    def _be_ready(self, pending: _Pending) -> None:
        pending.waiting = None
        self._ready.append(pending)
        self._work_on()

    def _end(self) -> None:
        if not self.is_ended:
            self.is_ended = True
            logger.error(
                "webhook %s: the receiver wants no events any more (410); none is sent until the "
                "next SIGHUP or start",
                self.webhook.name,
            )
        self._ready.clear()
        self._live.clear()
        self._failing.clear()
        for pending in self._pending.values():
            if pending.waiting is not None:
                pending.waiting.cancel()
        self._pending.clear()

    # A room

    async def _deliver_some(self, pending: _Pending) -> bool:
        """Deliver the next publications of a room; returns whether these were all.

        Raises _Failed or _Ended at the first that could not be delivered.
        """
        room = pending.name
        if pending.cursor is None:
            found = await self._cursors.load(self.webhook.name, (room,))
            if room in found:
                pending.cursor = found[room]
            else:  # the room has appeared since the webhook began
                pending.cursor = Cursor(Position((await self._log.position(room)).epoch, 0))
        pending.is_changed = False
        payloads = await self._log.since(room, pending.cursor.position, WINDOW)
        if payloads is None:
            await self._tell_gap(pending, pending.cursor.position)
            return False
        for payload in payloads:
            if self._is_closed:
                return False
            event = orjson.loads(payload)
            pending.oldest_s = _seconds_of(event)
            try:
                await self._deliver(pending, pending.cursor.position.epoch, event, payload)
            except _Failed as error:
                if not self._is_to_be_given_up(pending, pending.cursor):
                    raise
                self._give_up(pending, pending.cursor, payloads, str(error))
                return False
        # If something was published meanwhile, the room can even have begun anew.
        is_at_end = not payloads or pending.cursor.position.offset >= pending.head
        return is_at_end and not pending.is_changed

    async def _deliver(
        self, pending: _Pending, epoch: str, event: Mapping[str, Any], payload: bytes
    ) -> None:
        if event["type"] in self.webhook.events:
            body = payload[:-1] + b',"epoch":' + orjson.dumps(epoch) + b"}"
            await self._post(self._id(pending.name, epoch, event["offset"]), body)
            self.counts["delivered"] += 1
        self._succeed(pending)
        self._move(pending, Position(epoch, event["offset"], event["timestamp"]))

    def _give_up(
        self, pending: _Pending, cursor: Cursor, payloads: Sequence[bytes], why: str
    ) -> None:
        """Leave out the next publication, and those after it that are as old."""
        past_s = self._clock() - GIVE_UP_S
        first = last = cursor.position.offset + 1
        for event in map(orjson.loads, payloads):
            if event["offset"] < first:
                continue
            if event["offset"] > first and _seconds_of(event) > past_s:
                break
            last = event["offset"]
            position = Position(cursor.position.epoch, last, event["timestamp"])
            self._move(pending, position, cursor.failing_since)
        self.counts["given_up"] += last - first + 1
        logger.error(
            "webhook %s: gave up the publications %d to %d of room %s after a day: %s",
            *(self.webhook.name, first, last, pending.name, why),
        )

    async def _tell_gap(self, pending: _Pending, position: Position) -> None:
        """Tell the receiver that publications after a position are not stored any more."""
        room, end = pending.name, await self._log.position(pending.name)
        is_same = end.epoch == position.epoch and position.offset <= end.offset
        first = await self._first_stored(room, end, position.offset if is_same else 0)
        body = {
            "type": "gap",
            "room": room,
            "from": {"epoch": position.epoch, "offset": position.offset},
            "to": {"epoch": end.epoch, "offset": first},
        }
        id = self._id(room, *position[:2], end.epoch, first)
        await self._post(id, orjson.dumps(body))
        logger.warning(
            "webhook %s: publications of room %s after %d were dropped before they were delivered",
            *(self.webhook.name, room, position.offset),
        )
        self.counts["gaps"] += 1
        self._succeed(pending)
        self._move(pending, Position(end.epoch, first))

    async def _first_stored(self, room: str, end: Position, low: int) -> int:
        """The smallest offset from `low` on, after which all publications are stored."""
        high = end.offset
        while low < high:
            middle = (low + high) // 2
            if await self._log.since(room, Position(end.epoch, middle), 1) is None:
                low = middle + 1
            else:
                high = middle
        return low

    def _move(
        self, pending: _Pending, position: Position, failing_since: float | None = None
    ) -> None:
        pending.cursor = Cursor(position, failing_since)
        self._cursors.note(self.webhook.name, pending.name, pending.cursor)

    def _id(self, room: str, *parts: str | int) -> str:
        """The `webhook-id`: the same for each attempt, also after a restart."""
        text = "\0".join(map(str, (self.webhook.name, room, *parts)))
        return f"msg_{hashlib.sha256(text.encode()).hexdigest()[:32]}"

    # Success and failure

    async def _post(self, id: str, body: bytes) -> None:
        """Send a request. Raises _Failed or _Ended unless the receiver has accepted it."""
        answer = await self._ask(id, body)
        if 200 <= answer.status < 300:
            return
        if answer.status == 410:
            raise _Ended
        if answer.retry_after_s:
            self._pause(min(answer.retry_after_s, MAX_RETRY_AFTER_S))
        raise _Failed(f"it answered with status {answer.status}")

    async def _ask(self, id: str, body: bytes) -> Answer:
        try:
            return await self._sender.post(id, body, timeout_s=TIMEOUT_S)
        except NotDeliveredError as error:
            raise _Failed(str(error)) from None

    def _pause(self, seconds: float) -> None:
        """Begin no further deliveries for so long: the receiver has asked for it."""
        if self._paused is not None:
            self._paused.cancel()
        self._paused = asyncio.get_running_loop().call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        self._paused = None
        self._work_on()

    def _succeed(self, pending: _Pending) -> None:
        pending.attempts = 0
        if pending.name in self._failing:
            self._failing.discard(pending.name)
            if not self._failing:
                logger.info("webhook %s: deliveries succeed again", self.webhook.name)

    def _fail(self, pending: _Pending, why: str) -> float:
        """Count a failure; returns the time until the next attempt."""
        self.counts["failed"] += 1
        pending.attempts += 1
        if not self._failing:
            logger.warning(
                "webhook %s: deliveries fail, and are repeated for a day: %s",
                *(self.webhook.name, why),
            )
        self._failing.add(pending.name)
        cursor = pending.cursor
        if cursor is not None and cursor.failing_since is None:
            self._move(pending, cursor.position, self._clock())
        delay_s = self._first_delay_s * 2.0 ** min(pending.attempts - 1, 20)
        return min(delay_s, MAX_DELAY_S) * self._jitter()

    def _is_to_be_given_up(self, pending: _Pending, cursor: Cursor) -> bool:
        past_s = self._clock() - GIVE_UP_S
        return (
            cursor.failing_since is not None
            and cursor.failing_since <= past_s
            and pending.oldest_s <= past_s
            and pending.attempts >= GIVE_UP_ATTEMPTS
        )

    # Joins and leaves

    async def _send_live(self) -> None:
        try:
            while self._live and not self._is_closed:
                body = self._live.popleft()
                try:
                    await self._post(f"live_{secrets.token_hex(16)}", body)
                except _Failed:
                    self.counts["dropped"] += 1
                else:
                    self.counts["delivered"] += 1
        except _Ended:
            self._end()
        finally:
            self._is_sending_live = False


def _seconds_of(event: Mapping[str, Any]) -> float:
    """The time of a publication, in seconds since 1970."""
    return datetime.fromisoformat(event["timestamp"]).timestamp()


def gauges_of(deliveries: Sequence[Delivery]) -> Mapping[str, Any]:
    """The numbers of webhooks for operators, by the keys of `fastchat.ops.prometheus`."""
    if not deliveries:
        return {}
    lags = {each.webhook.name: each.lag for each in deliveries}
    counts = {each.webhook.name: each.counts for each in deliveries}
    return {
        **{
            f"webhook_{key}": {name: count[key] for name, count in counts.items()}
            for key in ("delivered", "failed", "dropped", "given_up", "gaps")
        },
        "webhook_behind": {name: publications for name, (publications, _) in lags.items()},
        "webhook_behind_s": {name: seconds for name, (_, seconds) in lags.items()},
        "webhook_ended": {each.webhook.name: int(each.is_ended) for each in deliveries},
    }
