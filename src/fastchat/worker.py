"""A process with clients: builds what serves them, runs it, stops it in reverse order.

What it is besides, `single` and `worker_part` say: the only process, or one of several.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import socket
import time
from collections.abc import Iterator
from typing import Any

import uvicorn

from fastchat import http
from fastchat.brokers import Broker
from fastchat.chat import Chat
from fastchat.histories import new_secret
from fastchat.hub import Hub
from fastchat.metrics import Metrics, watch_lag
from fastchat.session import Sessions
from fastchat.settings import Settings

__all__ = ["DRAIN_S", "Worker"]

logger = logging.getLogger("fastchat")

PING_INTERVAL_S = 25.0
PONG_TIMEOUT_S = 10.0
SWEEP_INTERVAL_S = 1.0
#: Clients have this long to answer our close frames; with what follows it stays under 5 s.
DRAIN_S = 3.0
#: Clients of a server that stops come back spread over RECONNECT_S; if they are more than
#: RECONNECTS_PER_S then, over longer.
RECONNECT_S = 2.0
RECONNECTS_PER_S = 2500


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers: the worker has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Worker:
    """What the only process and one of several have in common; see "What differs"."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self._settings = settings
        self._listener = listener
        self._metrics = Metrics()
        self._drain_s = DRAIN_S

    async def serve(self) -> int:
        loop = asyncio.get_running_loop()
        self._build(loop)
        await self._begin(loop)
        tasks = [
            loop.create_task(self._sweep_forever()),
            loop.create_task(watch_lag(self._metrics.loop_lag_s)),
        ]
        # Everything so far lives as long as the process: the collector need not look at it.
        gc.collect()
        gc.freeze()
        try:
            await self._server.serve(sockets=[self._listener])
            # Clients have a while to answer our close frames.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._drain_s):
                    await self._sessions.ended()
        finally:
            for task in tasks:
                task.cancel()
            await self._end()
            self._hub.abort()
        logger.info("stopped; %s", self._tally())
        return 0

    # What differs

    def _open_broker(self, loop: asyncio.AbstractEventLoop) -> Broker:
        raise NotImplementedError

    async def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Before the first client is accepted."""
        raise NotImplementedError

    def _tick(self) -> None:
        """Once a second."""

    async def _end(self) -> None:
        """After the last client has gone."""
        raise NotImplementedError

    # What does not

    def _build(self, loop: asyncio.AbstractEventLoop) -> None:
        settings = self._settings
        # Eviction reaches sessions, which need the hub: hence the detour.
        self._hub = Hub(
            max_lag_bytes=settings.max_lag_bytes,
            max_lag_s=settings.max_lag_seconds,
            ping_interval_s=PING_INTERVAL_S,
            pong_timeout_s=PONG_TIMEOUT_S,
            on_evict=lambda *eviction: self._sessions.evicted(*eviction),
        )
        self._broker = self._open_broker(loop)
        chat = Chat(
            self._broker,
            self._hub,
            clock=time.time,
            new_secret=new_secret,
            metrics=self._metrics,
        )
        self._sessions = Sessions(
            chat,
            self._hub,
            max_message_bytes=settings.max_message_bytes,
            clock=loop.time,
            metrics=self._metrics,
        )
        config = uvicorn.Config(
            http.build_app(),
            http=functools.partial(http.HttpProtocol, sessions=self._sessions),  # type: ignore[arg-type]
            ws=functools.partial(http.WebSocketProtocol, sessions=self._sessions),  # type: ignore[arg-type]
            headers=http.SECURITY_HEADERS,
            server_header=False,
            proxy_headers=False,
            access_log=False,
            log_config=None,
            lifespan="off",
            timeout_graceful_shutdown=int(DRAIN_S),
        )
        self._server = _Server(config)

    def _drain(self) -> None:
        # Who waits at a socket that our successor has too is served by that one.
        for server in getattr(self._server, "servers", ()):
            server.close()
        # All workers stop together, and their clients come back to the same relay.
        clients = len(self._sessions) * self._settings.workers
        self._sessions.drain(max(RECONNECT_S, clients / RECONNECTS_PER_S))
        self._server.should_exit = True

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_INTERVAL_S)
            try:
                self._sweep()
            except Exception:  # a fault of ours ends no deadline
                logger.exception("internal error in the sweep")

    def _sweep(self) -> None:
        self._sessions.sweep()
        self._broker.tick()
        now = asyncio.get_running_loop().time()
        for connection in tuple(self._server.server_state.connections):
            connection.sweep(now)  # type: ignore[union-attr]
        self._tick()

    def _snapshot(self, **gauges: Any) -> dict[str, Any]:
        return self._metrics.snapshot(**self._hub.stats(), **gauges)

    def _tally(self) -> str:
        stats = self._hub.stats()
        evicted = ", ".join(f"{code}: {count}" for code, count in stats["evictions"].items())
        return (
            f"{stats['publications']} publications, {stats['deliveries']} deliveries, "
            f"evictions by close code {evicted}"
        )
