"""A worker's part in the server's count of connections: what it reports, and how it obeys."""

from __future__ import annotations

from fastchat.brokers.relay import records
from fastchat.brokers.relay.counts import Counts
from fastchat.brokers.relay.records import Connection
from fastchat.limits.connections import Admission, ConnectionCount, Limit

ANN = "192.0.2.1"


def counting() -> tuple[Admission, Counts, list[tuple[object, Limit]]]:
    turned_away: list[tuple[object, Limit]] = []
    admission = Admission(ConnectionCount(), lambda *away: turned_away.append(away))
    counts = Counts(admission)
    admission.open(counts)
    return admission, counts, turned_away


def test_changes_of_the_count_are_reported_in_order() -> None:
    """The relay is informed when a connection opens, when its user is known, and when it ends."""
    admission, counts, _ = counting()
    said: list[records.Counting] = []
    counts.open(said.append)
    guest = admission.enter("owner", ANN)
    assert guest is not None
    admission.identify(guest, "ann")
    admission.leave(guest)
    connection = Connection(guest.number, ANN, "ann")
    assert said == [
        records.Enter(guest.number, ANN),
        records.Identify(connection),
        records.Exit(connection),
    ]


def test_introduction_lists_the_open_connections() -> None:
    """The introduction lists connections from before the relay started, and none that has ended."""
    admission, counts, _ = counting()
    first, second, third = (admission.enter(number, ANN) for number in range(3))
    assert first is not None
    assert second is not None
    assert third is not None
    admission.identify(first, "ann")
    admission.leave(second)
    assert counts.introduction() == records.Connections(
        [Connection(first.number, ANN, "ann"), Connection(third.number, ANN, "")]
    )


def test_connection_over_the_limit_is_closed_once() -> None:
    """A refused connection is closed and reported as ended; one that has ended already is left
    alone."""
    admission, counts, turned_away = counting()
    guest = admission.enter("owner", ANN)
    assert guest is not None
    said: list[records.Counting] = []
    counts.open(said.append)
    for _ in range(2):
        counts.turn_away(records.TurnAway(guest.number, Limit.ADDRESS))
    assert turned_away == [("owner", Limit.ADDRESS)]
    assert said == [records.Exit(Connection(guest.number, ANN, ""))]
    assert counts.introduction() == records.Connections([])
