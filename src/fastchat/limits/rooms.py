"""Limits on publications, and on the rooms that can be created, for the whole server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from fastchat.errors import CommandError, ErrorCode
from fastchat.limits.buckets import Budget, TokenBuckets, rate_limited
from fastchat.protocol import Draft, MessageDraft, is_posted

__all__ = ["RoomLimits", "price_of"]

#: A message costs its user one more token for each 1,000 connections in the room, because it is
#: sent to each of them; at most MAX_PRICE.
CONNECTIONS_A_TOKEN = 1000
MAX_PRICE = 5


class Priced(Protocol):
    """A room, with the tokens that a message in it costs its user."""

    price: int


def price_of(connections: int) -> int:
    """The tokens that a message costs its user in a room with so many connections."""
    return 1 + min(connections // CONNECTIONS_A_TOKEN, MAX_PRICE - 1)


class RoomLimits:
    """Limits publications of users and rooms, and new rooms, on the whole server.

    * ``user``: publications of one user in all rooms; ``room``: publications in one room.
    * ``new_rooms``: rooms created from one address.
    * ``max_rooms``: rooms with members at the same time; 0 for no limit.
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
        self._users = TokenBuckets(user)
        self._rooms = TokenBuckets(room)
        self._new_rooms = TokenBuckets(new_rooms)
        self._max_rooms = max_rooms
        self._clock = clock

    def charge(
        self, drafts: Iterable[Draft], rooms: Mapping[str, Priced]
    ) -> dict[int, CommandError]:
        """Charge a turn's drafts; returns the refusals of those that exceed a limit, by index.

        A draft that is not refused costs its room one token and its user the room's price. What a
        key or a webhook posts costs nothing here.
        This runs for each message, so it computes `TokenBuckets.take` itself.
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
            if type(draft) is not MessageDraft and is_posted(draft):
                continue
            name, user = draft.room, draft.user
            if name != here:
                if here is not None:
                    in_rooms[here] = room_s
                here, room_s = name, max(in_rooms.get(name, now), now)
                room = rooms.get(name)
                price_s = self._users.interval_s * (1 if room is None else room.price)
            user_s = users.get(user, now)
            user_s = (user_s if user_s > now else now) + price_s
            if user_s > user_limit_s:
                refused[index] = rate_limited(
                    "You are sending messages too quickly.", user_s - user_limit_s
                )
            elif room_s + interval_s > room_limit_s:
                refused[index] = rate_limited(
                    "The users of this room are sending messages too quickly.",
                    room_s + interval_s - room_limit_s,
                )
            else:
                users[user] = user_s
                room_s += interval_s
        if here is not None:
            in_rooms[here] = room_s
        return refused

    def check_new_room(self, address: str, rooms: int) -> None:
        """Charge the creation of a room while there are `rooms` others.

        A client whose `address` is not known is not limited by it. Raises CommandError if the room
        would exceed a limit.
        """
        if self._max_rooms and rooms >= self._max_rooms:
            raise CommandError(
                ErrorCode.TOO_MANY_ROOMS,
                "The server has reached its limit of rooms. Join another room, or try again later.",
                temporary=True,
            )
        if address and (wait_s := self._new_rooms.take(address, self._clock())):
            raise rate_limited("You are creating rooms too quickly.", wait_s)

    def sweep(self) -> None:
        """Forget users, rooms and addresses whose bucket is full again; call it once a second."""
        now = self._clock()
        for buckets in (self._users, self._rooms, self._new_rooms):
            buckets.sweep(now)
