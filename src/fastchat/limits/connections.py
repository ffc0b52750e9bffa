"""Who may be connected: how many in all, from one address, of one user; how many new ones a second.

Theory
------
Connections are counted on the whole machine, by one `Census`: in the only process, or in
the relay. A worker asks its own census first, which knows of its own connections only:
what is too much for that is too much. Then it tells the relay, and does not wait: a
connection that is one too many on the machine is closed as soon as the relay says so.

Where there is no relay for a while, each worker's own census holds alone. A new relay is
told of all connections, and those of a worker that was killed end with its port.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any, Protocol

from fastchat.errors import CommandError, ErrorCode
from fastchat.limits.buckets import Budget, Rates

__all__ = ["Admission", "Branch", "Census", "Gate", "Guest", "Limit", "Machine"]

logger = logging.getLogger("fastchat.limits")


class Limit(StrEnum):
    """What a connection was one too many for."""

    CONNECTIONS = "connections"
    ADDRESS = "address"
    USER = "user"
    UPGRADES = "upgrades"
    ADDRESS_UPGRADES = "address_upgrades"


class Census:
    """Counts connections. Of each limit 0 is none, and an empty address or author is not limited.

    What is refused is not counted.
    """

    def __init__(self, *, total: int = 0, per_address: int = 0, per_user: int = 0) -> None:
        self._total = total
        self._per_address = per_address
        self._per_user = per_user
        self.count = 0
        self.addresses: Counter[str] = Counter()
        self.authors: Counter[str] = Counter()

    def enter(self, address: str) -> Limit | None:
        """Count a connection in, or say why not."""
        if self._total and self.count >= self._total:
            return Limit.CONNECTIONS
        if address:
            if self._per_address and self.addresses[address] >= self._per_address:
                return Limit.ADDRESS
            self.addresses[address] += 1
        self.count += 1
        return None

    def identify(self, author: str) -> Limit | None:
        """Say whose a connection is that has been counted in already; or why it cannot be."""
        if self._per_user and self.authors[author] >= self._per_user:
            return Limit.USER
        self.authors[author] += 1
        return None

    def leave(self, address: str, author: str) -> None:
        self.count -= 1
        for counter, key in ((self.addresses, address), (self.authors, author)):
            if key:
                counter[key] -= 1
                if not counter[key]:
                    del counter[key]


class Branch:
    """The connections of one process, in the census of the machine; by the numbers it gave them."""

    def __init__(self, census: Census) -> None:
        self._census = census
        self._own = Census()
        self._refused: set[int] = set()  # until they are gone

    def enter(self, number: int, address: str, author: str = "") -> Limit | None:
        limit = self._census.enter(address)
        if limit is None:
            self._own.enter(address)
            return self.identify(number, address, author) if author else None
        self._refused.add(number)
        return limit

    def identify(self, number: int, address: str, author: str) -> Limit | None:
        if number in self._refused:
            return None  # he has been told
        limit = self._census.identify(author)
        if limit is None:
            self._own.identify(author)
        else:
            self.leave(number, address, "")
            self._refused.add(number)
        return limit

    def leave(self, number: int, address: str, author: str) -> None:
        if number in self._refused:
            self._refused.discard(number)
        else:
            self._own.leave(address, author)
            self._census.leave(address, author)

    def check(self, number: int) -> None:
        """Raises CommandError for a connection that is about to be closed."""
        if number in self._refused:
            raise CommandError(
                ErrorCode.UNAVAILABLE, "There are too many connections.", temporary=True
            )

    def close(self) -> None:
        """The process is gone, and all its connections with it."""
        self._census.count -= self._own.count
        self._census.addresses -= self._own.addresses
        self._census.authors -= self._own.authors
        self._own = Census()


class Guest:
    """A connection that has been let in."""

    __slots__ = ("address", "author", "number", "owner")

    def __init__(self, number: int, address: str, owner: object) -> None:
        self.number = number
        self.address = address
        self.author = ""
        self.owner = owner


class Machine(Protocol):
    """Who counts for all processes; what is too much it tells `Admission.refused`."""

    def entered(self, guest: Guest, /) -> None: ...
    def identified(self, guest: Guest, /) -> None: ...
    def left(self, guest: Guest, /) -> None: ...


class Admission:
    """Lets connections of this process in, and out. Each has an `owner`.

    `turn_away` is called with the owner whose connection is one too many: at once, or later
    by the machine's count. He is not counted any more then.
    """

    _machine: Machine | None = None

    def __init__(self, census: Census, turn_away: Callable[[Any, Limit], None]) -> None:
        self._census = census
        self._turn_away = turn_away
        self._guests: dict[int, Guest] = {}
        self._numbers = 0

    def open(self, machine: Machine) -> None:
        """Have `machine` count as well, for all processes; before the first connection."""
        self._machine = machine

    def enter(self, owner: object, address: str) -> Guest | None:
        """Count a connection in; None if it was turned away."""
        limit = self._census.enter(address)
        if limit is not None:
            self._turn_away(owner, limit)
            return None
        self._numbers += 1
        guest = self._guests[self._numbers] = Guest(self._numbers, address, owner)
        if self._machine is not None:
            self._machine.entered(guest)
        return guest

    def identify(self, guest: Guest, author: str) -> None:
        """Say whose connection it is, once that is known; what is said later does not count."""
        if guest.author or guest.number not in self._guests:
            return
        limit = self._census.identify(author)
        if limit is not None:
            self.leave(guest)
            self._turn_away(guest.owner, limit)
            return
        guest.author = author
        if self._machine is not None:
            self._machine.identified(guest)

    def leave(self, guest: Guest) -> None:
        """Count a connection out. Safe to call again."""
        if self._guests.pop(guest.number, None) is not None:
            self._census.leave(guest.address, guest.author)
            if self._machine is not None:
                self._machine.left(guest)

    def refused(self, number: int, limit: Limit) -> None:
        """The machine has not counted a connection, for it was one too many."""
        guest = self._guests.get(number)
        if guest is not None:
            self.leave(guest)
            self._turn_away(guest.owner, limit)

    def guests(self) -> Iterator[Guest]:
        """Who is counted in."""
        return iter(self._guests.values())


class Gate:
    """How many handshakes a second this process takes, in all and from one address.

    `clock` returns monotonic seconds.
    """

    def __init__(self, total: Budget, per_address: Budget, clock: Callable[[], float]) -> None:
        self._total = Rates(total)
        self._addresses = Rates(per_address)
        self._clock = clock

    def enter(self, address: str) -> Limit | None:
        """Take a handshake, or say why not; who comes too often takes nothing of others'."""
        now = self._clock()
        if address and self._addresses.take(address, now):
            return Limit.ADDRESS_UPGRADES
        if self._total.take(None, now):
            return Limit.UPGRADES
        return None

    def sweep(self) -> None:
        """Forget addresses that may do all again; to be called once a second."""
        self._addresses.sweep(self._clock())
