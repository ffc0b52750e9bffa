"""The relay's count of the connections of all workers: the worker's end, and the relay's end."""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from fastchat.brokers.relay import records
from fastchat.limits.connections import Admission, ConnectionCount, Counted, Limit, ProcessCount

__all__ = ["Counts", "WorkerCount"]


class Counts:
    """The worker's end: reports connections to the relay.

    Implements `fastchat.limits.connections.SharedCount`. It reports each connection that this
    worker's `admission` admits, and its end. It reports all current connections to a new relay. If
    a connection exceeds a limit of the whole server, the relay says so and the worker turns the
    connection away. Without a relay, only the worker's own limits apply.
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


class WorkerCount:
    """The relay's end: counts the connections that one worker reports.

    `server` counts those of all workers. If a connection exceeds a limit, `say` sends a TURN_AWAY
    record to the worker.
    """

    def __init__(self, server: ConnectionCount, say: Callable[[records.TurnAway], None]) -> None:
        self._count = ProcessCount(server)
        self._say = say

    def handle(self, record: records.Counting) -> None:
        match record:
            case records.Enter(number, address):
                self._turn_away(number, self._count.enter(number, address))
            case records.Identify(connection):
                self._turn_away(connection.number, self._count.identify(*connection))
            case records.Exit(connection):
                self._count.leave(*connection)
            case records.Connections(connections):
                for connection in connections:
                    self._turn_away(connection.number, self._count.enter(*connection))
            case _:
                assert_never(record)

    def check(self, number: int) -> None:
        """Raise CommandError if the connection was turned away."""
        self._count.check(number)

    def close(self) -> None:
        """Stop counting the connections of this worker, because it is gone."""
        self._count.close()

    def _turn_away(self, number: int, limit: Limit | None) -> None:
        if limit is not None:
            self._say(records.TurnAway(number, limit))


def _connection(counted: Counted) -> records.Connection:
    return records.Connection(counted.number, counted.address, counted.user)


def _say_nothing(record: records.Counting) -> None:
    """Do nothing before `open`: the introduction contains all connections."""
