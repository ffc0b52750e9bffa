"""The registry of sessions."""

from __future__ import annotations

from fastchat.connections.registry import Sessions
from fastchat.errors import CloseReason
from fastchat.metrics import Metrics


class Session:
    """A session that records how it is closed."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self.dismissals: list[tuple[CloseReason, int]] = []
        sessions.add(self)

    def dismiss(self, reason: CloseReason, reconnect_after_ms: int) -> None:
        self.dismissals.append((reason, reconnect_after_ms))
        self._sessions.begin_closing(self)

    def close(self, reason: CloseReason) -> None:
        raise AssertionError("a session was closed without a word")

    def abort(self) -> None:
        """Do nothing."""

    def on_evicted(self, code: int, reason: str) -> None:
        raise AssertionError("a session was evicted")


def sessions() -> Sessions:
    return Sessions(clock=lambda: 0.0, metrics=Metrics(), join_timeout_s=10.0)


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
