"""The relay: one process that has the rooms, for all workers of a machine.

Workers connect to a Unix socket in the data directory (`fastchat.brokers.relay.client` is their
side of it). A worker's connection is a `Peer`, which is a subscriber of the rooms. When it ends,
its members are lost, and have the usual time to come back by another worker.

A relay that takes the place of another does not know the users: it waits until all workers
have told it theirs, and welcomes them together, so that nobody's name is given away.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from pathlib import Path

from fastchat.brokers.relay.peer import Peer
from fastchat.brokers.relay.records import Status
from fastchat.brokers.relay.wire import SOCKET_NAME, bind_socket
from fastchat.limits.connections import ConnectionCount
from fastchat.metrics import Metrics
from fastchat.rooms.rooms import Rooms

__all__ = ["Relay"]

#: A relay that takes the place of another waits this long for all workers to be back. It answers
#: nobody meanwhile, and a client's request waits 2 s.
GATHERING_S = 1.0
#: What a worker can leave unread before it is cut off.
MAX_BACKLOG_BYTES = 32 * 1024 * 1024


class Relay:
    """The rooms, offered to workers in `directory`.

    It welcomes the first `workers` together, but waits for the last of them at most for
    `gathering_s`. `connection_count` counts the connections of all of them. A worker that leaves
    more than `max_backlog_bytes` unread is cut off; it comes back and resumes.
    """

    def __init__(
        self,
        directory: Path,
        rooms: Rooms,
        metrics: Metrics,
        *,
        workers: int,
        connection_count: ConnectionCount | None = None,
        gathering_s: float = GATHERING_S,
        max_backlog_bytes: int = MAX_BACKLOG_BYTES,
    ) -> None:
        self.rooms = rooms
        self.connection_count = ConnectionCount() if connection_count is None else connection_count
        self._directory = directory
        self._metrics = metrics
        self._expected = workers
        self._gathering_s = gathering_s
        self.max_backlog_bytes = max_backlog_bytes
        self.gathered = False
        self._peers: dict[Peer, None] = {}  # the newest last
        self._server: asyncio.AbstractServer | None = None
        self._left = asyncio.Event()  # set whenever a peer has left

    async def start(self) -> None:
        """Listen. The directory's lock is ours: a socket that is there is a dead relay's.

        Raises OSError.
        """
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(
            functools.partial(Peer, self), sock=bind_socket(self._directory)
        )
        loop.call_later(self._gathering_s, self._end_gathering)

    def close(self) -> None:
        """Hang up; what has been kept is kept."""
        self.rooms.commit()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._directory / SOCKET_NAME)
        if self._server is not None:
            self._server.close()
        for peer in tuple(self._peers):
            peer.close()

    async def deserted(self) -> None:
        """Wait until no worker is connected."""
        while any(peer.name for peer in self._peers):
            self._left.clear()
            await self._left.wait()

    def status(self) -> Status:
        """The last report of each worker, and our own.

        Of a worker and the one that replaces it, the latter's.
        """
        own = self._metrics.snapshot(rooms=self.rooms.room_count, users=self.rooms.user_count)
        reports = {peer.name: peer.report for peer in self._peers if peer.report is not None}
        return Status({"relay": own, **reports})

    # Of the peers

    def opened(self, peer: Peer) -> None:
        self._peers[peer] = None

    def closed(self, peer: Peer) -> None:
        self._peers.pop(peer, None)
        self._left.set()

    def restored(self, peer: Peer) -> None:
        """A worker has told all it knows."""
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
