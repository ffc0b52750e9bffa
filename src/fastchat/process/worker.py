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
from typing import TYPE_CHECKING, Any

import uvicorn

from fastchat.auth import Authenticator
from fastchat.brokers import Broker
from fastchat.chat import Chat
from fastchat.connections.echo import check_loopback
from fastchat.connections.registry import Sessions
from fastchat.files.endpoints import FileEndpoints
from fastchat.files.incoming import Uploads
from fastchat.hub import Hub
from fastchat.limits.connections import Admission
from fastchat.logs import log_repeated
from fastchat.metrics import Metrics, watch_lag
from fastchat.process.assembly.limits import (
    census_of,
    gate_of,
    readers_of,
    session_limits_of,
    transfers_of,
    visitors_of,
)
from fastchat.process.assembly.storage import new_secret, open_files
from fastchat.process.signals import on_hang_up
from fastchat.settings import Settings
from fastchat.web import http
from fastchat.web.capacity import WAYS, count_transfers, measure_capacity
from fastchat.web.headers import SECURITY_HEADERS
from fastchat.web.origins import Origins
from fastchat.web.page import build_app
from fastchat.web.proxies import Proxies

if TYPE_CHECKING:
    from fastchat.web.tls import Tls

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


def open_authenticator(settings: Settings) -> Authenticator | None:
    """What the settings ask for; None where anybody may come in.

    Raises SettingError when a key cannot be used.
    """
    if settings.auth == "none":
        return None
    # Imported here: the libraries take a tenth of a second, which others need not wait for.
    from fastchat.auth.tokens import TokenAuthenticator

    return TokenAuthenticator(
        settings.jwt_key_file, audience=settings.jwt_audience, issuer=settings.jwt_issuer
    )


def open_tls(settings: Settings) -> Tls | None:
    """What the settings ask for; None where TLS is somebody else's.

    Raises SettingError when the certificate or its key cannot be used.
    """
    if not settings.ssl_certfile:
        return None
    from fastchat.web.tls import Tls  # imported here as the above

    return Tls(settings.ssl_certfile, settings.ssl_keyfile)


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
        self._authenticator = open_authenticator(settings)
        self._tls = open_tls(settings)
        self._drain_s = DRAIN_S
        self._reserved = 0  # descriptors that clients may not have, beside the usual ones
        if settings.debug_echo:
            check_loopback(listener)

    async def serve(self) -> int:
        loop = asyncio.get_running_loop()
        self._build(loop)
        on_hang_up(loop, self._reload, self._drain)
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
            if self._files is not None:
                self._files.close()
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
        self._files = open_files(settings, self._metrics)
        transfers = count_transfers()
        self._readers = readers_of(settings, transfers)
        kept_free = 0 if self._files is None else WAYS * transfers
        self._capacity = measure_capacity(self._reserved + kept_free)
        # Eviction reaches sessions, which need the hub: hence the detour.
        self._hub = Hub(
            max_lag_bytes=settings.max_lag_bytes,
            max_lag_s=settings.max_lag_seconds,
            ping_interval_s=PING_INTERVAL_S,
            pong_timeout_s=PONG_TIMEOUT_S,
            on_evict=lambda *eviction: self._sessions.evicted(*eviction),
        )
        self._admission = Admission(
            census_of(settings, served=self._capacity.served),
            lambda *turned_away: self._sessions.turn_away(*turned_away),
        )
        self._broker = self._open_broker(loop)
        uploads = None
        if self._files is not None:
            uploads = Uploads(self._files, transfers_of(settings, transfers))
        chat = Chat(
            self._broker,
            self._hub,
            clock=time.time,
            new_secret=new_secret,
            metrics=self._metrics,
            authenticator=self._authenticator,
            dismiss=lambda *dismissal: self._sessions.dismiss(*dismissal),
            max_rooms=settings.max_connection_rooms,
            uploads=uploads,
            max_chunk_bytes=settings.max_message_bytes,
        )
        self._broker.open(delivery=self._hub, receiver=chat)
        self._sessions = Sessions(
            chat,
            self._hub,
            max_message_bytes=settings.max_message_bytes,
            clock=loop.time,
            metrics=self._metrics,
            limits=session_limits_of(settings),
            admission=self._admission,
        )
        self._gate = gate_of(settings, loop.time)
        edge = http.Edge(
            self._sessions,
            Origins(settings.allow_origin),
            self._capacity,
            Proxies(settings.trusted_proxy),
            self._gate,
            visitors_of(settings, served=self._capacity.served),
            echo=settings.debug_echo,
            max_file_bytes=0 if self._files is None else self._files.max_bytes,
        )
        routes = []
        if self._files is not None:
            receiving = transfers_of(settings, transfers)
            routes = FileEndpoints(self._files, receiving, self._readers, self._metrics).routes()
        config = uvicorn.Config(
            build_app(frames=settings.allow_frame, routes=routes),
            http=functools.partial(self._accept, edge),  # type: ignore[arg-type]
            ws=functools.partial(http.WebSocketProtocol, edge=edge),  # type: ignore[arg-type]
            headers=SECURITY_HEADERS,
            server_header=False,
            proxy_headers=False,
            access_log=False,
            log_config=None,
            lifespan="off",
            timeout_graceful_shutdown=int(DRAIN_S),
        )
        self._server = _Server(config)

    def _accept(self, edge: http.Edge, **uvicorn: Any) -> asyncio.Protocol:
        """What a connection begins with; called as uvicorn does."""
        protocol = http.HttpProtocol(edge=edge, **uvicorn)
        return protocol if self._tls is None else self._tls.entrance(protocol, self._room)

    def _room(self) -> int:
        """How many connections there may be besides those whose handshake is over."""
        known = len(self._server.server_state.connections) + len(self._sessions)
        return self._capacity.accepted - known

    def _reload(self) -> None:
        """Read certificates and keys anew. What is wrong with them is logged, and the old stay."""
        if self._tls is None and self._authenticator is None:
            logger.info("SIGHUP: there is no certificate and no key to read anew")
        if self._tls is not None:
            self._tls.reload()
        if self._authenticator is not None:
            self._authenticator.reload()

    def _drain(self) -> None:
        # Who waits at a socket that our successor has too is served by that one.
        for server in getattr(self._server, "servers", ()):
            server.close()
        # All workers stop together, and their clients come back to the same relay.
        clients = len(self._sessions) * self._settings.workers
        self._sessions.drain(max(RECONNECT_S, clients / RECONNECTS_PER_S))
        self._server.should_exit = True
        self._readers.close()
        if self._tls is not None:
            self._tls.close()

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
        self._gate.sweep()
        now = asyncio.get_running_loop().time()
        for connection in tuple(self._server.server_state.connections):
            connection.sweep(now)  # type: ignore[union-attr]
        log_repeated()
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
