"""How many connections there can be: in all, from one address, and of one user.

Theory
------
Connections are counted for the whole server by one `ConnectionCount`: in the only process, or in
the relay. A worker first asks a count of its own connections. If that refuses a connection, so
would the relay. Otherwise the worker admits the connection, tells the relay, and does not wait
for an answer: if the connection exceeds a limit of the whole server, the relay says so and the
worker closes it.

While there is no relay, the worker's own count is the only limit. A new relay is told of all
connections. When a worker dies, its connections leave the relay's count together with its peer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any, Protocol

from fastchat.errors import CommandError, ErrorCode

__all__ = ["Admission", "ConnectionCount", "Counted", "Limit", "ProcessCount", "SharedCount"]


class Limit(StrEnum):
    """The limit that a connection or a handshake exceeded; a label of the metrics."""

    CONNECTIONS = "connections"
    ADDRESS = "address"
    USER = "user"
    UPGRADES = "upgrades"
    ADDRESS_UPGRADES = "address_upgrades"


class ConnectionCount:
    """Counts connections and refuses those that exceed a limit; it does not count refused ones.

    A limit of 0 is no limit. A connection without an address or a user is not limited by it.
    """

    def __init__(self, *, total: int = 0, per_address: int = 0, per_user: int = 0) -> None:
        self._total = total
        self._per_address = per_address
        self._per_user = per_user
        self.count = 0
        self.addresses: Counter[str] = Counter()
        self.users: Counter[str] = Counter()

    def enter(self, address: str) -> Limit | None:
        """Count a connection; returns the limit that it exceeds, or None."""
        if self._total and self.count >= self._total:
            return Limit.CONNECTIONS
        if address:
            if self._per_address and self.addresses[address] >= self._per_address:
                return Limit.ADDRESS
            self.addresses[address] += 1
        self.count += 1
        return None

    def identify(self, user: str) -> Limit | None:
        """Count a connection for its user, after `enter`; returns the limit that it exceeds."""
        if self._per_user and self.users[user] >= self._per_user:
            return Limit.USER
        self.users[user] += 1
        return None

    def leave(self, address: str, user: str) -> None:
        """Stop counting a connection; `user` is empty if the connection was not identified."""
        self.count -= 1
        for counter, key in ((self.addresses, address), (self.users, user)):
            if key:
                counter[key] -= 1
                if not counter[key]:
                    del counter[key]


class ProcessCount:
    """The connections of one process in a `ConnectionCount` of the whole server.

    Connections are identified by numbers, which their process has assigned.
    """

    def __init__(self, server: ConnectionCount) -> None:
        self._server = server
        self._own = ConnectionCount()
        self._refused: set[int] = set()  # connections that their process has not closed yet

    def enter(self, number: int, address: str, user: str = "") -> Limit | None:
        """Count a connection; returns the limit that it exceeds, or None."""
        limit = self._server.enter(address)
        if limit is None:
            self._own.enter(address)
            return self.identify(number, address, user) if user else None
        self._refused.add(number)
        return limit

    def identify(self, number: int, address: str, user: str) -> Limit | None:
        """Count a connection for its user; returns the limit that it exceeds, or None."""
        if number in self._refused:
            return None  # its process knows already
        limit = self._server.identify(user)
        if limit is None:
            self._own.identify(user)
        else:
            self.leave(number, address, "")
            self._refused.add(number)
        return limit

    def leave(self, number: int, address: str, user: str) -> None:
        """Stop counting a connection. A refused one was not counted."""
        if number in self._refused:
            self._refused.discard(number)
        else:
            self._own.leave(address, user)
            self._server.leave(address, user)

    def check(self, number: int) -> None:
        """Raise CommandError `unavailable` for a refused connection, which will be closed soon."""
        if number in self._refused:
            raise CommandError(
                ErrorCode.UNAVAILABLE,
                "There are too many connections. Connect again later.",
                temporary=True,
            )

    def close(self) -> None:
        """Stop counting all connections of the process, which has ended."""
        self._server.count -= self._own.count
        self._server.addresses -= self._own.addresses
        self._server.users -= self._own.users
        self._own = ConnectionCount()


class Counted:
    """A connection that an `Admission` has admitted. `user` is empty until it is identified."""

    __slots__ = ("address", "number", "owner", "user")

    def __init__(self, number: int, address: str, owner: object) -> None:
        self.number = number
        self.address = address
        self.user = ""
        self.owner = owner


class SharedCount(Protocol):
    """Counts the connections of all processes; calls `Admission.turn_away` beyond a limit."""

    def entered(self, counted: Counted, /) -> None: ...
    def identified(self, counted: Counted, /) -> None: ...
    def left(self, counted: Counted, /) -> None: ...


class Admission:
    """Admits the connections of this process. Each has an `owner`, which is opaque here.

    `turn_away` is called with the owner of a connection that exceeds a limit: at once, or later
    if the connection exceeds a limit of the whole server. That connection is not counted any more.
    """

    _shared: SharedCount | None = None

    def __init__(self, count: ConnectionCount, turn_away: Callable[[Any, Limit], None]) -> None:
        self._count = count
        self._turn_away = turn_away
        self._counted: dict[int, Counted] = {}
        self._numbers = 0

    def open(self, shared: SharedCount) -> None:
        """Report connections to `shared` as well; call it before the first connection."""
        self._shared = shared

    def enter(self, owner: object, address: str) -> Counted | None:
        """Count a connection; None if it was turned away."""
        limit = self._count.enter(address)
        if limit is not None:
            self._turn_away(owner, limit)
            return None
        self._numbers += 1
        counted = self._counted[self._numbers] = Counted(self._numbers, address, owner)
        if self._shared is not None:
            self._shared.entered(counted)
        return counted

    def identify(self, counted: Counted, user: str) -> None:
        """Count a connection for its user. Only the first call for a connection counts."""
        if counted.user or counted.number not in self._counted:
            return
        limit = self._count.identify(user)
        if limit is not None:
            self.leave(counted)
            self._turn_away(counted.owner, limit)
            return
        counted.user = user
        if self._shared is not None:
            self._shared.identified(counted)

    def leave(self, counted: Counted) -> None:
        """Stop counting a connection. Safe to call again."""
        if self._counted.pop(counted.number, None) is not None:
            self._count.leave(counted.address, counted.user)
            if self._shared is not None:
                self._shared.left(counted)

    def turn_away(self, number: int, limit: Limit) -> None:
        """Turn away a connection that exceeds a limit of the whole server."""
        counted = self._counted.get(number)
        if counted is not None:
            self.leave(counted)
            self._turn_away(counted.owner, limit)

    def counted(self) -> Iterator[Counted]:
        """All connections of this process that are counted."""
        return iter(self._counted.values())
