"""The count of connections over all workers of a machine, as a worker takes part in it."""

from __future__ import annotations

from collections.abc import Callable

from fastchat.brokers.relay import records
from fastchat.limits.connections import Admission, Guest

__all__ = ["Counts"]


class Counts:
    """Implements `fastchat.limits.connections.Machine`: tells the relay, which counts.

    The relay is told of every connection that this worker's `admission` lets in, and of its end;
    a new relay, of all that there are. A connection that is one too many on the machine is turned
    away as soon as the relay says so. Without a relay, the worker's own limits hold alone.
    """

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._say: Callable[[records.Counting], None] = _say_nothing

    def open(self, say: Callable[[records.Counting], None]) -> None:
        """From now on `say` sends a record to a relay that has had the introduction."""
        self._say = say

    def introduction(self) -> records.Connections:
        """All connections of this worker."""
        return records.Connections([_connection(guest) for guest in self._admission.guests()])

    def turn_away(self, record: records.TurnAway) -> None:
        """Close a connection that is one too many on the machine."""
        self._admission.refused(record.number, record.limit)

    # As the machine that an admission tells

    def entered(self, guest: Guest) -> None:
        self._say(records.Enter(guest.number, guest.address))

    def identified(self, guest: Guest) -> None:
        self._say(records.Identify(_connection(guest)))

    def left(self, guest: Guest) -> None:
        self._say(records.Exit(_connection(guest)))


def _connection(guest: Guest) -> records.Connection:
    return records.Connection(guest.number, guest.address, guest.author)


def _say_nothing(record: records.Counting) -> None:
    """Before there is a link: the introduction tells the relay of all connections."""
