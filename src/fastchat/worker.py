"""One process: builds every object, runs the loop, stops them in reverse order."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import gc
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import uvicorn
import uvloop

from fastchat import http
from fastchat.brokers.memory import MemoryBroker
from fastchat.chat import Chat
from fastchat.errors import SettingError
from fastchat.history import History
from fastchat.history.memory import MemoryHistory
from fastchat.history.sqlite import SqliteHistory
from fastchat.hub import Hub
from fastchat.presence import Presence
from fastchat.session import Sessions
from fastchat.settings import Settings

__all__ = ["listen", "run"]

logger = logging.getLogger("fastchat")

PING_INTERVAL_S = 25.0
PONG_TIMEOUT_S = 10.0
SWEEP_INTERVAL_S = 1.0
#: Clients have this long to answer our close frames; with what follows it stays under 5 s.
DRAIN_S = 3.0
#: A stalled client then holds some 150 kB of kernel memory, not 4 MB, and is seen
#: to be stalled after as little.
NOTSENT_LOWAT_BYTES = 16 * 1024
#: Connections that wait to be accepted; the kernel caps it at net.core.somaxconn.
BACKLOG = 4096


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; what it is set to, its connections inherit.

    Raises SettingError when the address cannot be had.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # gaierror; or a family that this machine has not
        raise SettingError(f"--host {host!r} is not an address of this machine.") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listener.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, NOTSENT_LOWAT_BYTES)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise SettingError(_why_not(error, host, port)) from None
    listener.setblocking(False)
    return listener


# Linux's <netinet/tcp.h>; Python names it on some platforms only.
_TCP_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 25)


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"--port {port} is taken on {host}; stop what uses it or choose another port."
    if error.errno == errno.EACCES:
        return f"--port {port} needs privileges; choose one from 1024 on."
    return f"--host {host} --port {port} cannot be listened on: {os.strerror(error.errno or 0)}."


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status.

    Raises SettingError when the address cannot be listened on.
    """
    listener = listen(settings.host, settings.port)
    history = open_history(settings)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_Worker(settings, listener, history).serve())
    finally:
        history.close()


def open_history(settings: Settings) -> History:
    """The history that the settings ask for; raises SettingError when it cannot be had."""
    if settings.history == "memory":
        return MemoryHistory(max_messages=settings.history_max_messages, new_epoch=_new_secret)
    return SqliteHistory(
        Path(settings.data),
        max_messages=settings.history_max_messages,
        max_age_s=settings.history_max_age,
        sync_commits=settings.durability == "power-loss",
        new_epoch=_new_secret,
        clock=time.time,
    )


def _new_secret() -> str:
    """An epoch or a session: 128 random bits."""
    return secrets.token_urlsafe(16)


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers: the worker has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Worker:
    def __init__(self, settings: Settings, listener: socket.socket, history: History) -> None:
        self._settings = settings
        self._listener = listener
        self._history = history
        self._signals = 0

    async def serve(self) -> int:
        loop = asyncio.get_running_loop()
        self._build(loop)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        sweeping = loop.create_task(self._sweep_forever())
        self._say_hello()
        # Everything so far lives as long as the process: the collector need not look at it.
        gc.collect()
        gc.freeze()
        try:
            await self._server.serve(sockets=[self._listener])
            # Clients have a while to answer our close frames.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_S):
                    await self._sessions.ended()
        finally:
            sweeping.cancel()
            self._hub.abort()
        logger.info("stopped; %s", self._tally())
        return 0

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
        broker = MemoryBroker(self._history, at_end_of_turn=loop.call_soon)
        self._chat = Chat(broker, Presence(), self._hub, clock=time.time, new_secret=_new_secret)
        self._sessions = Sessions(
            self._chat, self._hub, max_message_bytes=settings.max_message_bytes, clock=loop.time
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

    def _say_hello(self) -> None:
        host, port = self._listener.getsockname()[:2]
        if host in ("0.0.0.0", "::"):  # noqa: S104 it is only shown
            host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104
        address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        print(f"fastchat is at {address} (stop it with Ctrl+C)", flush=True)
        if self._settings.history == "sqlite":
            print(f"messages are kept in {Path(self._settings.data).resolve()}", flush=True)
        logger.info("serving at %s", address)

    def _on_signal(self, number: int) -> None:
        self._signals += 1
        if self._signals > 1:
            logger.warning("stopping at once")
            sys.stderr.flush()
            os._exit(1)
        logger.info("stopping: %s", signal.Signals(number).name)
        self._sessions.drain()
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
        self._chat.tick()
        self._history.prune()
        now = asyncio.get_running_loop().time()
        for connection in tuple(self._server.server_state.connections):
            connection.sweep(now)  # type: ignore[union-attr]

    def _tally(self) -> str:
        stats = self._hub.stats()
        evicted = ", ".join(f"{code}: {count}" for code, count in stats["evictions"].items())
        return (
            f"{stats['publications']} publications, {stats['deliveries']} deliveries, "
            f"evictions by close code {evicted}"
        )
