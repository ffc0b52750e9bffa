"""The registry of sessions."""

from __future__ import annotations

from collections.abc import Callable

from fastchat.connections.registry import Sessions
from fastchat.errors import CloseReason
from fastchat.metrics import Metrics


class Session:
    """A session that records how it is closed."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self.dismissals: list[tuple[CloseReason, int]] = []
        self.closes: list[CloseReason] = []
        sessions.add(self)

    def dismiss(self, reason: CloseReason, reconnect_after_ms: int) -> None:
        self.dismissals.append((reason, reconnect_after_ms))
        self._sessions.begin_closing(self)

    def close(self, reason: CloseReason) -> None:
        self.closes.append(reason)
        self._sessions.begin_closing(self)

    def abort(self) -> None:
        """Do nothing."""

    def on_evicted(self, code: int, reason: str) -> None:
        raise AssertionError("a session was evicted")


def sessions(clock: Callable[[], float] = lambda: 0.0) -> Sessions:
    return Sessions(clock=clock, metrics=Metrics(), join_timeout_s=10.0)


def test_a_share_of_the_clients_is_sent_away() -> None:
    """Each call closes its share of the connections that are left, and each one once."""
    registry = sessions()
    joined = [Session(registry) for _ in range(10)]
    for each in joined:
        registry.note_joined(each)
    counts = []
    for share in (0.25, 0.5, 1.0, 1.0):
        registry.send_away(share)
        counts.append(sum(len(each.dismissals) for each in joined))
    assert counts == [3, 7, 10, 10]
    for session in joined:
        ((reason, after_ms),) = session.dismissals
        assert reason is CloseReason.CUT_OFF
        assert reason.code.reconnect
        assert 250 <= after_ms <= 2_250


def test_nobody_is_sent_away_who_has_not_joined() -> None:
    """A connection without a room is not closed: it waits for an answer to its join."""
    registry = sessions()
    session = Session(registry)
    registry.send_away(1.0)
    assert not session.dismissals


def test_client_that_could_not_join_comes_back() -> None:
    """If the rooms could not be reached, the deadline for a room is not the client's fault."""
    now_s = 0.0
    registry = sessions(lambda: now_s)
    idle, refused, joined = (Session(registry) for _ in range(3))
    registry.note_unavailable(refused)
    registry.note_unavailable(joined)
    registry.note_joined(joined)
    now_s = 10.0
    registry.sweep()
    assert idle.closes == [CloseReason.JOIN_TIMEOUT]
    assert not refused.closes
    assert [reason for reason, _ in refused.dismissals] == [CloseReason.CUT_OFF]
    assert not joined.closes + joined.dismissals
