"""The count of connections over all workers of a machine, as a worker takes part in it."""

from __future__ import annotations

from collections.abc import Callable

from fastchat.brokers.relay import records
from fastchat.limits.connections import Admission, Counted

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
        return records.Connections([_connection(counted) for counted in self._admission.counted()])

    def turn_away(self, record: records.TurnAway) -> None:
        """Close a connection that is one too many on the machine."""
        self._admission.turn_away(record.number, record.limit)

    # As the machine that an admission tells

    def entered(self, counted: Counted) -> None:
        self._say(records.Enter(counted.number, counted.address))

    def identified(self, counted: Counted) -> None:
        self._say(records.Identify(_connection(counted)))

    def left(self, counted: Counted) -> None:
        self._say(records.Exit(_connection(counted)))


def _connection(counted: Counted) -> records.Connection:
    return records.Connection(counted.number, counted.address, counted.author)


def _say_nothing(record: records.Counting) -> None:
    """Before there is a link: the introduction tells the relay of all connections."""
