"""All connections of a worker: what they share, how long they may take, and their end."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Hashable
from itertools import takewhile
from typing import Protocol

from fastchat._fanout import Connection
from fastchat.chat import Chat
from fastchat.errors import CloseReason
from fastchat.hub import Hub
from fastchat.limits.commands import SessionLimits, Throttle
from fastchat.limits.connections import Admission, Limit
from fastchat.metrics import Metrics

__all__ = ["Endable", "Sessions"]

logger = logging.getLogger("fastchat.session")

#: From a message's first fragment to its last.
MESSAGE_TIMEOUT_S = 30.0
#: As the hub's: a connection that is closed but does not end is aborted.
CLOSE_GRACE_S = 2.0
#: A server that stops may be back after this long at the earliest; and whoever fetches a token.
RECONNECT_AFTER_MS = 250
#: Who was one connection too many may find a place in this time.
TURNED_AWAY_MS = (10_000, 30_000)
_REASONS = {
    Limit.CONNECTIONS: CloseReason.SERVER_FULL,
    Limit.ADDRESS: CloseReason.ADDRESS_FULL,
    Limit.USER: CloseReason.USER_FULL,
}


class Endable(Hashable, Protocol):
    """A session, as `fastchat.connections.session` has it."""

    def close(self, reason: CloseReason) -> None: ...
    def dismiss(self, reason: CloseReason, reconnect_after_ms: int) -> None: ...
    def evicted(self, code: int, reason: str) -> None: ...
    def abort(self) -> None: ...


class Sessions:
    """All sessions of a worker: what they share, their deadlines, and their end.

    `sweep` runs once a second. `max_message_bytes` bounds a whole message, `limits` what
    one connection may do. `open` says whom sessions talk to.
    """

    chat: Chat
    hub: Hub
    admission: Admission

    def __init__(
        self,
        *,
        max_message_bytes: int,
        clock: Callable[[], float],
        metrics: Metrics,
        limits: SessionLimits,
    ) -> None:
        self.throttle = Throttle(limits, clock)
        self._join_timeout_s = limits.join_timeout_s
        self.metrics = metrics
        self.max_message_bytes = max_message_bytes
        self.clock = clock
        self.draining = False
        self._spread_ms = 0
        # Sessions with their deadlines, in the order of these.
        self._unjoined: dict[Endable, float] = {}
        self._unfinished: dict[Endable, float] = {}
        self._ending: dict[Endable, float] = {}
        # When tokens expire, in seconds since 1970: in no order, and not before `_next_expiry_s`.
        self._expiring: dict[Endable, float] = {}
        self._next_expiry_s = 0.0
        self._all: set[Endable] = set()
        self._none_left = asyncio.Event()

    def __len__(self) -> int:
        return len(self._all)

    def open(self, chat: Chat, hub: Hub, admission: Admission) -> None:
        """Say whom sessions talk to: before the first connection, once.

        `admission` says how many connections there can be. All three call the registry, which
        is therefore made before them.
        """
        self.chat = chat
        self.hub = hub
        self.admission = admission

    def drain(self, spread_s: float) -> None:
        """Tell every client that the server stops, and close its connection with 1012.

        They are asked to come back spread over `spread_s`; so is who connects from now on.
        """
        self.draining = True
        self._spread_ms = int(spread_s * 1000)
        for session in tuple(self._all):
            self._restart(session)

    def _restart(self, session: Endable) -> None:
        after_ms = RECONNECT_AFTER_MS + random.randint(0, self._spread_ms)  # noqa: S311 spreads load
        session.dismiss(CloseReason.RESTART, after_ms)

    async def ended(self) -> None:
        """Wait until the last session has ended, after `drain`."""
        if self._all:
            await self._none_left.wait()

    def sweep(self) -> None:
        """Close who joined or finished nothing in time; abort who was closed and does not end."""
        now = self.clock()
        for session in _due(self._unjoined, now):
            session.close(CloseReason.JOIN_TIMEOUT)
        for session in _due(self._unfinished, now):
            session.close(CloseReason.MESSAGE_TIMEOUT)
        for session in _due(self._ending, now):
            session.abort()
        self.throttle.sweep()
        self.chat.sweep()
        self._expire()

    def _expire(self) -> None:
        """Close those whose token has expired, by the clock on the wall, which may have jumped."""
        now = time.time()
        if self._expiring and now >= self._next_expiry_s:
            for session, expires_s in tuple(self._expiring.items()):
                if expires_s <= now:
                    session.dismiss(CloseReason.TOKEN_EXPIRED, RECONNECT_AFTER_MS)
            self._next_expiry_s = min(self._expiring.values(), default=0.0)

    def turn_away(self, session: Endable, limit: Limit) -> None:
        """Close a connection that is one too many."""
        self.metrics.turned_away[limit] += 1
        logger.info("turned a client away: %s", _REASONS[limit].text)
        after_ms = random.randint(*TURNED_AWAY_MS)  # noqa: S311 spreads load
        session.dismiss(_REASONS[limit], after_ms)

    def evicted(self, connection: Connection, code: int, reason: str) -> None:
        """The hub has closed a connection on its own account."""
        session: Endable = connection.owner
        session.evicted(code, reason)

    # What sessions tell of themselves

    def add(self, session: Endable) -> None:
        self.metrics.connections_total += 1
        self._all.add(session)
        if self._join_timeout_s:
            self._unjoined[session] = self.clock() + self._join_timeout_s
        if self.draining:
            self._restart(session)

    def note_joined(self, session: Endable) -> None:
        self._unjoined.pop(session, None)

    def watch_expiry(self, session: Endable, expires_s: float) -> None:
        """Close a session when its token, the first one or a further one, expires."""
        if not self._expiring or expires_s < self._next_expiry_s:
            self._next_expiry_s = expires_s
        self._expiring[session] = expires_s

    def begin_message(self, session: Endable) -> None:
        self._unfinished[session] = self.clock() + MESSAGE_TIMEOUT_S

    def end_message(self, session: Endable) -> None:
        self._unfinished.pop(session, None)

    def begin_closing(self, session: Endable) -> None:
        self._unjoined.pop(session, None)
        self._unfinished.pop(session, None)
        self._expiring.pop(session, None)
        self._ending.setdefault(session, self.clock() + CLOSE_GRACE_S)

    def remove(self, session: Endable, code: int) -> None:
        self.metrics.closes[code] += 1
        self._all.discard(session)
        self._unjoined.pop(session, None)
        self._unfinished.pop(session, None)
        self._expiring.pop(session, None)
        self._ending.pop(session, None)
        self.throttle.forget(session)
        if self.draining and not self._all:
            self._none_left.set()


def _due(deadlines: dict[Endable, float], now: float) -> list[Endable]:
    return [session for session, _ in takewhile(lambda item: item[1] <= now, deadlines.items())]
