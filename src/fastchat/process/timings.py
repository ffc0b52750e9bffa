"""How long the processes of a server wait for things, in seconds or in ticks of one second.

The builder and the processes take these as arguments, so that a test can pass shorter ones.
The defaults are what a server runs with.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fastchat.connections.registry import CLOSE_GRACE_S, MESSAGE_TIMEOUT_S
from fastchat.limits.queue import WAIT_S
from fastchat.rooms.members import GRACE_TICKS
from fastchat.web.context import HttpTimings

__all__ = ["RelayTimings", "SupervisorTimings", "WorkerTimings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerTimings:
    """The timings of a process with clients."""

    #: Deadlines are checked this often.
    sweep_interval_s: float = 1.0
    #: A client that disappears without closing has left after 40 s at most: an interval, a
    #: timeout and two sweeps.
    ping_interval_s: float = 25.0
    pong_timeout_s: float = 10.0
    #: For a fragmented message, and for a client to answer our close frame; see `Sessions`.
    message_timeout_s: float = MESSAGE_TIMEOUT_S
    close_grace_s: float = CLOSE_GRACE_S
    #: Ticks in which a user whose last connection was lost can come back, if the process has the
    #: rooms.
    grace_ticks: int = GRACE_TICKS
    #: A download waits this long for its turn; then the client is asked to try again later.
    download_wait_s: float = WAIT_S
    #: Clients have this long to answer the close frames of a server that stops. Together with the
    #: rest of stopping that is less than 5 s, after which other programs would kill the process.
    drain_s: float = 3.0
    #: The clients of a server that stops are told to come back at times spread over this long, or
    #: longer if there are many.
    reconnect_s: float = 2.0
    #: How long HTTP waits for requests and for answers to be read.
    http: HttpTimings = field(default_factory=HttpTimings)
    #: An HTTP connection without a further request is closed after this time, as uvicorn does
    #: by default.
    keep_alive_s: int = 5
    #: One of several workers waits this long for the relay when it starts; then it serves without
    #: it.
    relay_wait_s: float = 3.0
    #: A worker that must not serve without the relay ends after this time. That is less than the
    #: supervisor's patience (`start_ticks`), so that the worker can say why.
    relay_deadline_s: float = 10.0
    #: If the supervisor is gone, such a worker drains this long; after `channel.END_S` it ends.
    lost_drain_s: float = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayTimings:
    """The timings of the relay's process."""

    tick_interval_s: float = 1.0
    #: If all processes are asked to stop at once, the workers have this long to end first.
    workers_stop_s: float = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorTimings:
    """The timings of the supervisor."""

    #: A child is watched by ticks, not by time: while a machine sleeps, children send no beats,
    #: but the supervisor does not tick either.
    tick_s: float = 1.0
    #: A child has this many ticks from its start until it serves.
    start_ticks: int = 30
    #: A worker that was asked to stop is killed after this time: it drains, and then it ends.
    worker_stop_s: float = WorkerTimings().drain_s + 2.0
    relay_stop_s: float = 3.0
    #: If a child has served for less than this, the cause of its death may still be there.
    early_s: float = 1.0
