"""Budgets: how much of something may be done before it is refused.

All are token buckets: so much at once, and so much a second in the long run. What is
refused costs nothing, and is told how long to wait.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from itertools import islice
from typing import NamedTuple, Protocol

from fastchat.errors import CommandError, ErrorCode
from fastchat.protocol import Publication

__all__ = ["Budget", "Rates", "RoomLimits", "TokenBucket", "price_of", "rate_limited"]

#: Buckets of one kind that are not full; beyond that, the one that was begun first is forgotten.
MAX_BUCKETS = 100_000
#: Of these, as many are looked at in a sweep: whether they are full again.
SWEPT = 5_000
#: Of a token: sums of floats are not exact, and nobody waits for less.
_EPSILON = 0.01
#: A message costs its sender one more for each so many connections in the room, up to MAX_PRICE.
CONNECTIONS_A_TOKEN = 1000
MAX_PRICE = 5


class TokenBucket:
    """Holds up to `burst` tokens and gains `rate_per_s`.

    `clock` returns monotonic seconds.
    """

    __slots__ = ("_burst", "_clock", "_rate_per_s", "_tokens", "_updated_s")

    def __init__(self, rate_per_s: float, burst: int, clock: Callable[[], float]) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._updated_s = clock()

    def take(self, tokens: float = 1.0) -> bool:
        """Take a token, or as many; False, and nothing taken, when there are not enough."""
        now = self._clock()
        gained = (now - self._updated_s) * self._rate_per_s
        self._tokens = min(self._burst, self._tokens + gained)
        self._updated_s = now
        if self._tokens < tokens:
            return False
        self._tokens -= tokens
        return True


class Budget(NamedTuple):
    """So many a second, and up to `burst` at once; without limit where the rate is 0."""

    rate_per_s: float
    burst: float


class Rates:
    """A token bucket for each key, all of one `budget`; the full ones take no memory.

    A bucket is kept as the time at which it will be full again.
    """

    __slots__ = ("full_s", "interval_s", "span_s")

    def __init__(self, budget: Budget) -> None:
        rate_per_s, burst = budget
        self.interval_s = 1 / rate_per_s if rate_per_s else 0.0  # for one token
        self.span_s = (max(1.0, burst) + _EPSILON) * self.interval_s  # for all of them
        self.full_s: dict[Hashable, float] = {}

    def take(self, key: Hashable, now: float, tokens: float = 1) -> float:
        """Take tokens: 0, or else how many seconds to wait, and nothing is taken."""
        full_s = self.full_s.get(key, 0.0)
        full_s = (full_s if full_s > now else now) + tokens * self.interval_s
        if full_s - now > self.span_s:
            return full_s - now - self.span_s
        self.full_s[key] = full_s
        return 0.0

    def spend(self, key: Hashable, now: float, tokens: float) -> float:
        """Take tokens that may not be there yet; returns how many seconds they are ahead."""
        full_s = max(self.full_s.get(key, 0.0), now) + tokens * self.interval_s
        self.full_s[key] = full_s
        return max(0.0, full_s - now - self.span_s)

    def forget(self, key: Hashable) -> None:
        self.full_s.pop(key, None)

    def sweep(self, now: float) -> None:
        """Forget buckets that are full, and those beyond MAX_BUCKETS; once a second."""
        buckets = self.full_s
        # Keys first: to look for the first one again after each that is gone takes a dict
        # ever longer.
        for key in list(islice(buckets, SWEPT)):
            full_s = buckets.pop(key)
            if full_s > now:
                buckets[key] = full_s  # behind those that were not looked at
        for key in list(islice(buckets, max(0, len(buckets) - MAX_BUCKETS))):
            del buckets[key]


def rate_limited(message: str, wait_s: float) -> CommandError:
    return CommandError(
        ErrorCode.RATE_LIMITED,
        message,
        temporary=True,
        retry_after_ms=math.ceil(wait_s * 1000),
    )


# Of the rooms


class Priced(Protocol):
    """A room: what a message in it costs its sender."""

    price: int


def price_of(connections: int) -> int:
    """What a message in a room costs its sender: in big ones more, for it is sent to everybody."""
    return 1 + min(connections // CONNECTIONS_A_TOKEN, MAX_PRICE - 1)


class RoomLimits:
    """What may be published, and which rooms may be begun, on the whole server.

    * ``user``: publications of one user, in all rooms; ``room``: of one room.
    * ``new_rooms``: rooms begun from one address; ``max_rooms``: in all (0: no limit).
    * ``clock`` returns monotonic seconds.
    """

    def __init__(
        self,
        *,
        user: Budget,
        room: Budget,
        new_rooms: Budget,
        max_rooms: int,
        clock: Callable[[], float],
    ) -> None:
        self._are_messages_limited = bool(user.rate_per_s or room.rate_per_s)
        self._users = Rates(user)
        self._rooms = Rates(room)
        self._new_rooms = Rates(new_rooms)
        self._max_rooms = max_rooms
        self._clock = clock

    def sift(
        self, drafts: Iterable[Publication], rooms: Mapping[str, Priced]
    ) -> dict[int, CommandError]:
        """Which of a turn's drafts are too many, by their place; what each is answered.

        The others are charged: a message to its room, its price to its user. This is done
        for each message there is: hence no calls in it, and `Rates.take` spelled out.
        """
        refused: dict[int, CommandError] = {}
        if not self._are_messages_limited:
            return refused
        now = self._clock()
        users, in_rooms = self._users.full_s, self._rooms.full_s
        user_limit_s, room_limit_s = now + self._users.span_s, now + self._rooms.span_s
        interval_s = self._rooms.interval_s
        price_s, room_s, here = 0.0, now, None
        for index, draft in enumerate(drafts):
            name, author = draft[0], draft[10]
            if name != here:
                if here is not None:
                    in_rooms[here] = room_s
                here, room_s = name, max(in_rooms.get(name, now), now)
                room = rooms.get(name)
                price_s = self._users.interval_s * (1 if room is None else room.price)
            user_s = users.get(author, now)
            user_s = (user_s if user_s > now else now) + price_s
            if user_s > user_limit_s:
                refused[index] = rate_limited(
                    "You write too much at once; wait a bit.", user_s - user_limit_s
                )
            elif room_s + interval_s > room_limit_s:
                refused[index] = rate_limited(
                    "This room is too busy; wait a bit.", room_s + interval_s - room_limit_s
                )
            else:
                users[author] = user_s
                room_s += interval_s
        if here is not None:
            in_rooms[here] = room_s
        return refused

    def check_new_room(self, address: str, rooms: int) -> None:
        """Before a room is begun beside so many others; raises CommandError.

        Nobody is limited by an `address` that is not known.
        """
        if self._max_rooms and rooms >= self._max_rooms:
            raise CommandError(
                ErrorCode.TOO_MANY_ROOMS,
                "The server has no place for another room at the moment.",
                temporary=True,
            )
        if address and (wait_s := self._new_rooms.take(address, self._clock())):
            raise rate_limited("You begin too many rooms; wait a bit.", wait_s)

    def sweep(self) -> None:
        """Forget what need not be known; to be called once a second."""
        now = self._clock()
        for rates in (self._users, self._rooms, self._new_rooms):
            rates.sweep(now)
