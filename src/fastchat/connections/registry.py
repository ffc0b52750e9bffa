"""All sessions of a process: their deadlines, and how they end."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable, Hashable
from itertools import takewhile
from typing import Protocol

from fastchat._fanout import Connection
from fastchat.errors import CloseReason
from fastchat.limits.connections import Limit
from fastchat.metrics import Metrics

__all__ = ["Closable", "Sessions"]

logger = logging.getLogger("fastchat.session")

#: From a message's first fragment to its last. Browsers do not fragment; on a phone's network
#: the largest message, 64 KiB, takes a few seconds.
MESSAGE_TIMEOUT_S = 30.0
#: For a client to answer our close frame. The hub gives the clients that it evicts as long.
CLOSE_GRACE_S = 2.0
#: The earliest time to reconnect, for clients of a server that stops and for those that have to
#: fetch a new token first.
RECONNECT_AFTER_MS = 250
#: The retry delay sent to a client that was rejected because a limit was reached.
TURNED_AWAY_MS = (10_000, 30_000)
#: Clients that are sent away to another machine come back at times spread over this long.
SENT_AWAY_MS = 2_000
#: For each limit the reason that the client gets, and the setting that the log names.
_REASONS = {
    Limit.CONNECTIONS: (CloseReason.SERVER_FULL, "--max-connections, or the limit of open files"),
    Limit.ADDRESS: (
        CloseReason.ADDRESS_FULL,
        "--max-address-connections; for the clients of a proxy, see --trusted-proxy",
    ),
    Limit.USER: (CloseReason.USER_FULL, "--max-user-connections"),
}


class Closable(Hashable, Protocol):
    """A session, as its registry closes it; see `fastchat.connections.session`."""

    def close(self, reason: CloseReason) -> None: ...
    def dismiss(self, reason: CloseReason, reconnect_after_ms: int) -> None: ...
    def on_evicted(self, code: int, reason: str) -> None: ...
    def abort(self) -> None: ...


class Sessions:
    """All sessions of a process, by the deadlines that apply to them.

    A session is in `_all` from its upgrade until its socket is closed. It is also in one table
    for each deadline that applies to it:

    | table         | from                    | until                     | then             |
    |---------------|-------------------------|---------------------------|------------------|
    | `_unjoined`   | the upgrade             | it has joined a room      | 4502, or 4010    |
    | `_unfinished` | a first fragment        | the last fragment         | 4504             |
    | `_expiring`   | an accepted token       | the token has expired     | `closing`, 4011  |
    | `_closing`    | it begins to close      | the socket is closed      | it is aborted    |

    A session that begins to close leaves all tables but the last. `_refused` are those in
    `_unjoined` that could not join because the rooms cannot be reached.

    * ``clock`` returns monotonic seconds; tokens expire by the time of day.
    * ``join_timeout_s``: for a client to join its first room; 0 for no limit.
    * ``message_timeout_s``: from a message's first fragment to its last.
    * ``close_grace_s``: from our close frame to the end of the connection.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        metrics: Metrics,
        join_timeout_s: float,
        message_timeout_s: float = MESSAGE_TIMEOUT_S,
        close_grace_s: float = CLOSE_GRACE_S,
    ) -> None:
        self._clock = clock
        self._metrics = metrics
        self._join_timeout_s = join_timeout_s
        self._message_timeout_s = message_timeout_s
        self._close_grace_s = close_grace_s
        self.draining = False
        self._spread_ms = 0
        # Sessions with their deadlines, the earliest deadline first.
        self._unjoined: dict[Closable, float] = {}
        self._refused: set[Closable] = set()
        self._unfinished: dict[Closable, float] = {}
        self._closing: dict[Closable, float] = {}
        # When tokens expire, in seconds since 1970: in no order, and not before `_next_expiry_s`.
        self._expiring: dict[Closable, float] = {}
        self._next_expiry_s = 0.0
        self._all: set[Closable] = set()
        self._none_left = asyncio.Event()

    def __len__(self) -> int:
        return len(self._all)

    def drain(self, spread_s: float) -> None:
        """Tell every client that the server stops, and close its connection with 1012.

        Clients are asked to come back at times spread over `spread_s`. Clients that connect from
        now on are told the same.
        """
        self.draining = True
        self._spread_ms = int(spread_s * 1000)
        for session in tuple(self._all):
            self._restart(session)

    def _restart(self, session: Closable) -> None:
        after_ms = RECONNECT_AFTER_MS + random.randint(0, self._spread_ms)  # noqa: S311 spreads load
        session.dismiss(CloseReason.RESTART, after_ms)

    async def ended(self) -> None:
        """Wait until the last session has ended, after `drain`."""
        if self._all:
            await self._none_left.wait()

    def sweep(self) -> None:
        """Close sessions that missed a deadline, and abort those that do not end; once a second."""
        now = self._clock()
        for session in _due(self._unjoined, now):
            if session in self._refused:
                self._send_away(session)
            else:
                session.close(CloseReason.JOIN_TIMEOUT)
        for session in _due(self._unfinished, now):
            session.close(CloseReason.MESSAGE_TIMEOUT)
        for session in _due(self._closing, now):
            session.abort()
        self._expire()

    def _expire(self) -> None:
        """Close sessions whose token has expired, by the time of day, which can have jumped."""
        now = time.time()
        if self._expiring and now >= self._next_expiry_s:
            for session, expires_s in tuple(self._expiring.items()):
                if expires_s <= now:
                    session.dismiss(CloseReason.TOKEN_EXPIRED, RECONNECT_AFTER_MS)
            self._next_expiry_s = min(self._expiring.values(), default=0.0)

    def turn_away(self, session: Closable, limit: Limit) -> None:
        """Dismiss a session whose connection exceeds a limit; the client can try again later."""
        self._metrics.turned_away[limit] += 1
        reason, setting = _REASONS[limit]
        logger.info("turned a client away: %s (%s)", reason.text, setting)
        after_ms = random.randint(*TURNED_AWAY_MS)  # noqa: S311 spreads load
        session.dismiss(reason, after_ms)

    def send_away(self, share: float) -> None:
        """Close this share of the connections that have joined a room, at least one of them.

        The rooms cannot be reached. Other machines may reach them.
        """
        joined = [
            each for each in self._all if each not in self._unjoined and each not in self._closing
        ]
        for session in random.sample(joined, min(len(joined), math.ceil(share * len(joined)))):
            self._send_away(session)

    def _send_away(self, session: Closable) -> None:
        after_ms = RECONNECT_AFTER_MS + random.randint(0, SENT_AWAY_MS)  # noqa: S311 spreads load
        session.dismiss(CloseReason.CUT_OFF, after_ms)

    def on_evicted(self, connection: Connection, code: int, reason: str) -> None:
        """Tell a session that the hub itself has closed the connection."""
        session: Closable = connection.owner
        session.on_evicted(code, reason)

    # Called by sessions

    def add(self, session: Closable) -> None:
        """Register a session that is open now. If the server is stopping, dismiss it at once."""
        self._metrics.connections_total += 1
        self._all.add(session)
        if self._join_timeout_s:
            self._unjoined[session] = self._clock() + self._join_timeout_s
        if self.draining:
            self._restart(session)

    def note_joined(self, session: Closable) -> None:
        """End the deadline for a first room."""
        self._unjoined.pop(session, None)
        self._refused.discard(session)

    def note_unavailable(self, session: Closable) -> None:
        """Note that a command was refused because the rooms cannot be reached.

        If the session has no room when its deadline ends, its client is asked to come back.
        """
        if session in self._unjoined:
            self._refused.add(session)

    def watch_expiry(self, session: Closable, expires_s: float) -> None:
        """Close a session when its token expires; a later call replaces the time."""
        if not self._expiring or expires_s < self._next_expiry_s:
            self._next_expiry_s = expires_s
        self._expiring[session] = expires_s

    def begin_message(self, session: Closable) -> None:
        """Begin the deadline for a fragmented message."""
        self._unfinished[session] = self._clock() + self._message_timeout_s

    def end_message(self, session: Closable) -> None:
        """End the deadline for a fragmented message."""
        self._unfinished.pop(session, None)

    def begin_closing(self, session: Closable) -> None:
        """Begin the deadline for a closing handshake, and end all others."""
        self._unjoined.pop(session, None)
        self._refused.discard(session)
        self._unfinished.pop(session, None)
        self._expiring.pop(session, None)
        self._closing.setdefault(session, self._clock() + self._close_grace_s)

    def remove(self, session: Closable, code: int) -> None:
        """Forget a session whose socket is closed, and count the code that it ended with."""
        self._metrics.closes[code] += 1
        self._all.discard(session)
        self._unjoined.pop(session, None)
        self._refused.discard(session)
        self._unfinished.pop(session, None)
        self._expiring.pop(session, None)
        self._closing.pop(session, None)
        if self.draining and not self._all:
            self._none_left.set()


def _due(deadlines: dict[Closable, float], now: float) -> list[Closable]:
    return [session for session, _ in takewhile(lambda item: item[1] <= now, deadlines.items())]
