"""The relay: the process that has the rooms of all workers of a server.

Workers connect to a Unix socket in the data directory (`fastchat.brokers.relay.client` is their
end). Each connection of a worker is a `Peer`, which subscribes to the rooms. When the connection
ends, its members count as lost, and their users have the usual time to come back through another
worker.

A relay that replaces another does not know the users. It waits until all workers have sent their
rooms, and then welcomes the workers together. Otherwise a client of the first worker could take
the name of a user in the second.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from fastchat.brokers.relay.listener import UnixListener
from fastchat.brokers.relay.peer import Peer
from fastchat.brokers.relay.records import Status
from fastchat.limits.connections import ConnectionCount
from fastchat.metrics import Metrics
from fastchat.rooms.contract import Rooms
from fastchat.rooms.refusals import unavailable

__all__ = ["Operate", "Relay"]

#: The longest time for which a new relay waits for all workers. It accepts no requests meanwhile.
#: Workers try to connect every 0.05 s, and a client's request waits for 2 s (`bounds.Bounds`).
GATHERING_S = 1.0
#: If a worker has more than this still to read, the relay closes its connection. This bounds the
#: memory for a worker that hangs.
MAX_BACKLOG_BYTES = 32 * 1024 * 1024


#: Runs an operation of an operator by its name, with its arguments.
Operate = Callable[[str, Mapping[str, Any]], Awaitable[Any]]


class Relay:
    """Serves the rooms to workers, over a socket in `directory`.

    It welcomes the first `workers` workers together, but waits for the last of them at most for
    `gathering_s` seconds. `connection_count` counts the connections of all workers. If a worker has
    more than `max_backlog_bytes` still to read, besides what it missed before it came back, its
    connection is closed; the worker reconnects and resumes. `gauges` returns what the relay's own
    report has beside the usual counters. `operate` runs the operations of an operator, who
    connects to the socket too; by default they are refused.
    """

    def __init__(
        self,
        directory: Path,
        rooms: Rooms,
        metrics: Metrics,
        *,
        workers: int,
        connection_count: ConnectionCount | None = None,
        gauges: Callable[[], Mapping[str, Any]] | None = None,
        operate: Operate | None = None,
        gathering_s: float = GATHERING_S,
        max_backlog_bytes: int = MAX_BACKLOG_BYTES,
    ) -> None:
        self.rooms = rooms
        self.connection_count = ConnectionCount() if connection_count is None else connection_count
        self._metrics = metrics
        self._gauges = gauges
        self._operate = operate
        self._expected = workers
        self._gathering_s = gathering_s
        self.max_backlog_bytes = max_backlog_bytes
        self.gathered = False
        self._peers: dict[Peer, None] = {}  # the newest last
        self._listener = UnixListener(directory, functools.partial(Peer, self))
        self._left = asyncio.Event()  # set whenever a peer has left

    async def start(self) -> None:
        """Listen on the socket.

        The caller must hold the directory's lock, because the socket of an earlier relay is
        replaced. Raises OSError if the directory cannot hold a socket.
        """
        await self._listener.open()
        asyncio.get_running_loop().call_later(self._gathering_s, self._end_gathering)

    def check_socket(self) -> None:
        """Bind the socket again if its file is gone; call it once a second.

        While another directory is in the place of the history's, no socket is created in it.
        """
        if not self.rooms.is_away:
            self._listener.check()

    async def close(self) -> None:
        """Remove the socket, store what was published and disconnect from all workers.

        Safe to call again.
        """
        self._listener.close()
        await self.rooms.close()
        for peer in tuple(self._peers):
            peer.close()

    async def deserted(self) -> None:
        """Wait until no worker is connected."""
        while any(peer.name for peer in self._peers):
            self._left.clear()
            await self._left.wait()

    def status(self) -> Status:
        """Return the last report of each worker, and the relay's own counters.

        While a worker is replaced, two workers have the same name. The report of the newer one is
        returned.
        """
        occupancy = self.rooms.occupancy
        own = self._metrics.snapshot(
            rooms=occupancy.rooms,
            users=occupancy.users,
            spectators=occupancy.spectators,
            history_writable=int(self.rooms.fault is None),
            **(self._gauges() if self._gauges is not None else {}),
        )
        reports = {peer.name: peer.report for peer in self._peers if peer.report is not None}
        return Status({"relay": own, **reports})

    async def operate(self, verb: str, arguments: Mapping[str, Any]) -> Any:
        """Run an operation of an operator. Raises CommandError."""
        if self._operate is None:
            raise unavailable()
        return await self._operate(verb, arguments)

    # Called by the peers

    def opened(self, peer: Peer) -> None:
        self._peers[peer] = None

    def closed(self, peer: Peer) -> None:
        self._peers.pop(peer, None)
        self._left.set()

    def restored(self, peer: Peer) -> None:
        """Welcome a worker that has sent all its rooms, or wait for the other workers."""
        if self.gathered:
            peer.welcome()
        elif sum(each.is_restored for each in self._peers) >= self._expected:
            self._end_gathering()

    def _end_gathering(self) -> None:
        if not self.gathered:
            self.gathered = True
            for peer in self._peers:
                if peer.is_restored:
                    peer.welcome()
