"""A process with clients: it runs what was built for it, and stops it in reverse order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any, Protocol

from fastchat.logs import log_repeated
from fastchat.metrics import watch_lag
from fastchat.process.assembly.worker import WorkerComponents, use_hooks
from fastchat.webhooks.config import Config, read_again

__all__ = ["Mode", "Worker"]

logger = logging.getLogger("fastchat")

#: The clients of a server that stops come back spread over `timings.reconnect_s`. If more than
#: this many a second would come back then, they are spread over a longer time.
RECONNECTS_PER_S = 2500


class Mode(Protocol):
    """What differs between the only process and one of several, for `Worker.serve`."""

    async def begin(self) -> None:
        """Called before the first client is accepted."""
        ...

    def tick(self) -> None:
        """Called with each sweep."""
        ...

    async def end(self) -> None:
        """Called after the last client has gone."""
        ...


class Worker:
    """Serves clients with the objects that were built for it. It has each of these states once:

    * built: it listens, and accepts no client yet;
    * serving, from `serve` on, once the mode has begun;
    * draining, from `drain` on: it accepts no clients, and tells every client that the server
      stops and when to come back. This lasts until the last client has gone, but at most
      `drain_s`;
    * ended: the mode has ended, connections that are left are aborted, and files are closed.
    """

    def __init__(self, components: WorkerComponents) -> None:
        self._components = components
        self._sessions = components.sessions
        #: While it drains, clients have this long to answer the close frames.
        self._drain_s = components.timings.drain_s

    @property
    def draining(self) -> bool:
        return self._sessions.draining

    async def serve(self, mode: Mode) -> int:
        """Serve until the worker is drained; returns the exit status."""
        loop = asyncio.get_running_loop()
        await mode.begin()
        async with contextlib.AsyncExitStack() as ends:  # if one fails, the others still run
            if self._components.files is not None:
                ends.callback(self._components.files.close)
            ends.push_async_callback(self._components.hooks.close)
            ends.callback(self._components.hub.abort)
            ends.push_async_callback(mode.end)
            for task in (
                loop.create_task(self._sweep_forever(mode)),
                loop.create_task(watch_lag(self._components.metrics.loop_lag_s)),
            ):
                ends.callback(task.cancel)
            await asyncio.gather(*(server.serve() for server in self._components.servers))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._drain_s):
                    await self._sessions.ended()
        logger.info("stopped; %s", self._tally())
        return 0

    def drain(self) -> None:
        """Stop, and have the clients come back later."""
        for server in self._components.servers:
            server.stop_accepting()
        # All workers stop together, and their clients come back to the same relay.
        clients = len(self._sessions) * self._components.settings.workers
        reconnect_s = self._components.timings.reconnect_s
        self._sessions.drain(max(reconnect_s, clients / RECONNECTS_PER_S))
        if self._components.api is not None:
            self._components.api.close()
        for server in self._components.servers:
            server.stop()
        self._components.readers.close()
        if self._components.tls is not None:
            self._components.tls.close()

    def drain_within(self, seconds: float) -> None:
        """Stop in a hurry: clients have only so long to answer, and HTTP answers are cut off."""
        self._drain_s = seconds
        for server in self._components.servers:
            server.stop(at_once=True)
        if not self.draining:
            self.drain()

    def reload(self) -> Config | None:
        """Read certificates, keys and all hooks again; what is not valid is logged, and stays.

        Returns what the file of the settings says about webhooks and hooks; None if there is no
        such file, or if it is not valid.
        """
        components = self._components
        readable = (
            components.tls,
            components.authenticator,
            components.api_keys,
            components.incoming_hooks,
        )
        file = components.settings.config_file
        if not file and not any(each is not None for each in readable):
            logger.info("SIGHUP: there is no certificate, no key and no file to read again")
        for each in readable:
            if each is not None:
                each.reload()
        config = read_again(file) if file else None
        if config is not None:
            use_hooks(config, components.hooks, components.context.chat)
        return config

    def snapshot(self, **gauges: Any) -> dict[str, Any]:
        """The process's metrics, and `gauges`, as values for JSON."""
        components = self._components
        return components.metrics.snapshot(
            **components.hub.stats(), **components.hooks.gauges(), **gauges
        )

    async def _sweep_forever(self, mode: Mode) -> None:
        while True:
            await asyncio.sleep(self._components.timings.sweep_interval_s)
            try:
                self._sweep(mode)
            except Exception:  # a bug must not end all deadlines
                logger.exception("internal error in the sweep")

    def _sweep(self, mode: Mode) -> None:
        self._sessions.sweep()
        self._components.context.throttle.sweep()
        self._components.context.chat.sweep()
        self._components.broker.tick()
        self._components.handshakes.sweep()
        for server in self._components.servers:
            server.sweep()
        if self._components.api is not None:
            self._components.api.sweep()
        if self._components.hook_receiver is not None:
            self._components.hook_receiver.sweep()
        log_repeated()
        mode.tick()

    def _tally(self) -> str:
        stats = self._components.hub.stats()
        evicted = ", ".join(f"{code}: {count}" for code, count in stats["evictions"].items())
        return (
            f"{stats['publications']} publications, {stats['deliveries']} deliveries, "
            f"evictions by close code {evicted}"
        )
