"""A worker's part in the relay's count of the connections of all workers."""

from __future__ import annotations

from collections.abc import Callable

from fastchat.brokers.relay import records
from fastchat.limits.connections import Admission, Counted

__all__ = ["Counts"]


class Counts:
    """Implements `fastchat.limits.connections.SharedCount`: reports connections to the relay.

    It reports each connection that this worker's `admission` admits, and its end. It reports all
    current connections to a new relay. If a connection exceeds a limit of the whole server, the
    relay says so and the worker turns the connection away. Without a relay, only the worker's own
    limits apply.
    """

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._say: Callable[[records.Counting], None] = _say_nothing

    def open(self, say: Callable[[records.Counting], None]) -> None:
        """Use `say` to send records to a relay that has received the introduction."""
        self._say = say

    def introduction(self) -> records.Connections:
        """All connections of this worker."""
        return records.Connections([_connection(counted) for counted in self._admission.counted()])

    def turn_away(self, record: records.TurnAway) -> None:
        """Close a connection that exceeds a limit of the whole server."""
        self._admission.turn_away(record.number, record.limit)

    # As the shared count of an admission

    def entered(self, counted: Counted) -> None:
        self._say(records.Enter(counted.number, counted.address))

    def identified(self, counted: Counted) -> None:
        self._say(records.Identify(_connection(counted)))

    def left(self, counted: Counted) -> None:
        self._say(records.Exit(_connection(counted)))


def _connection(counted: Counted) -> records.Connection:
    return records.Connection(counted.number, counted.address, counted.user)


def _say_nothing(record: records.Counting) -> None:
    """Do nothing before `open`: the introduction contains all connections."""
