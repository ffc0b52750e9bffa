"""The supervisor: the process that starts a relay and workers, and keeps them running.

It serves no clients and has nothing that could be lost. If a child dies, the supervisor starts
another. If a child hangs, the supervisor kills it. If the supervisor dies, its children end by
themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
import socket
import time
import types
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastchat.errors import FastchatError, SettingError
from fastchat.history.users import new_user_key
from fastchat.logs import dropped_lines
from fastchat.ops import status
from fastchat.process.announcing import announce
from fastchat.process.child import COMMAND, STUCK_TICKS, Child
from fastchat.process.signals import on_hang_up, on_stop_signals
from fastchat.process.timings import SupervisorTimings
from fastchat.process.waiting import wait_first
from fastchat.settings import Settings
from fastchat.web.sockets import listen_admin, listen_all

if TYPE_CHECKING:
    from fastchat.ops.admin import Admin

__all__ = ["Supervisor", "run"]

logger = logging.getLogger("fastchat.supervisor")

MAX_DELAY_S = 5.0
#: The exit status of a child that cannot start with its settings.
WRONG_SETTING = 2


class _NotStarted(FastchatError):
    """A child did not start, and not because of a setting."""


class Role:
    """The task of a process: to be the relay, or the worker with a certain number.

    One child has the role at a time; another child takes its place when it dies. The states:

    * `child` is None: no process has been started yet;
    * `child` has not ended: it has the role;
    * `child` and `successor`: during a rolling restart, the successor gets the role as soon as it
      serves, or if the child dies before;
    * `child` has ended, and there is no successor: another is started after `delay_s`, which
      grows with `early_deaths`, the number of children in a row that died early.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        listeners: Mapping[str, socket.socket] = types.MappingProxyType({}),
    ) -> None:
        self.name = name
        self.arguments = arguments
        self.listeners = listeners  # by the flags with which children get them
        self.child: Child | None = None
        self.successor: Child | None = None
        self.replaced = asyncio.Event()
        self.early_deaths = 0
        self.restarts = 0  # because a child had died; a rolling restart is none
        self._vacant_ticks = 0

    @property
    def is_vacant(self) -> bool:
        """Whether no child has served in this role for STUCK_TICKS, because children keep dying."""
        return self._vacant_ticks >= STUCK_TICKS and not self._is_served

    @property
    def _is_served(self) -> bool:
        return self.child is not None and self.child.is_serving

    def tick(self) -> None:
        """A second has passed."""
        self._vacant_ticks = 0 if self._is_served else self._vacant_ticks + 1

    @property
    def delay_s(self) -> float:
        """The time until the next start."""
        if self.early_deaths < 2:
            return 0.0
        return min(MAX_DELAY_S, 0.1 * float(1 << min(self.early_deaths, 10)))

    def count_death(self, *, early: bool) -> None:
        self.restarts += 1
        self.early_deaths = self.early_deaths + 1 if early else 0


class Supervisor:
    """Runs the relay and the workers, which are started by `command`, until it is asked to stop.

    * The relay starts first and stops last: workers need it, and what their clients say last
      goes through it.
    * Each role has a task that keeps a child in it (`_keep`). A rolling restart (`_roll_forever`)
      replaces one worker after the other, each by one that serves already.
    * `_children` are all processes that have not ended, whether they have a role or not.
    * However `serve` ends, no child is left running.
    """

    def __init__(
        self,
        settings: Settings,
        listeners: Sequence[socket.socket],
        admin_listener: socket.socket | None = None,
        api_listeners: Sequence[socket.socket] = (),
        *,
        timings: SupervisorTimings,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._settings = settings
        self._timings = timings
        self._listeners = listeners
        self._admin_listener = admin_listener
        self._api_listeners = api_listeners
        self._command = command
        self._relay = Role("relay", ["relay"])
        self._workers = [
            Role(f"worker {number}", ["worker", str(number)], sockets)
            for number, sockets in enumerate(_by_worker(listeners, api_listeners), 1)
        ]
        #: The secret for a history in memory. The supervisor has it because it outlives the relay,
        #: and users keep their ids.
        self._user_key = new_user_key()
        self._children: set[Child] = set()
        self._status = 0
        self._started_s = time.monotonic()
        self._asked_to_stop = asyncio.Event()
        self._asked_to_roll = asyncio.Event()

    # Probes of load balancers

    def live(self) -> bool:
        """Whether the server is alive. It is not if all workers are stuck: a restart would help."""
        return not all(role.child is not None and role.child.is_stuck for role in self._workers)

    def ready(self) -> str | None:
        """None if clients are served; otherwise what is missing."""
        if self._asked_to_stop.is_set():
            return "draining"
        if not (self._relay.child is not None and self._relay.child.is_alive):
            return "no relay"
        if self._relay.child.fault is not None:
            return f"messages cannot be stored: {self._relay.child.fault}"
        workers = [role.child for role in self._workers if role.child is not None]
        if not any(child.is_alive and child.relay for child in workers):
            return "no worker"
        # The kernel gives each worker's socket its share of the clients, whatever becomes of them.
        for role in self._workers:
            if role.is_vacant:
                return f"{role.name} is not running"
        for child in workers:
            if child.is_stuck:
                return f"{child.name} hangs"
            if child.has_no_relay:
                return f"{child.name} has no relay"
        return None

    async def _parts(self) -> Mapping[str, Mapping[str, Any]]:
        known: dict[str, dict[str, Any]] = {
            "supervisor": {
                "up": 1,
                "pid": os.getpid(),
                "uptime_s": time.monotonic() - self._started_s,
                "dropped_log_lines_total": dropped_lines(),
            }
        }
        for role in (self._relay, *self._workers):
            part: dict[str, Any] = {"up": 0, "restarts": role.restarts}
            if role.child is not None and role.child.is_serving:
                part |= {"up": 1, "pid": role.child.pid}
                if role is not self._relay:
                    part["relay_connected"] = int(role.child.relay)
            known[role.name.replace(" ", "-")] = part
        return await status.collect(Path(self._settings.data), known)

    # From the start to the end

    async def serve(self) -> int:
        """Serve until SIGTERM or SIGINT; returns the exit status.

        Raises SettingError if a child cannot start with the settings.
        """
        self._listen_to_signals()
        loop = asyncio.get_running_loop()
        admin = await self._serve_admin()
        ticking = loop.create_task(self._tick_forever())
        working = loop.create_task(self._work())
        asked = loop.create_task(self._asked_to_stop.wait())
        try:
            await asyncio.wait({working, asked}, return_when=asyncio.FIRST_COMPLETED)
            if not self._asked_to_stop.is_set():
                working.result()  # it only ends by raising
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            await self._drain()
        except _NotStarted as error:
            logger.error("%s while the server started", error)
            return 1
        finally:
            working.cancel()
            asked.cancel()
            await asyncio.gather(*(child.kill() for child in self._children))
            ticking.cancel()
            if admin is not None:
                await admin.close()
        logger.info("stopped")
        return self._status

    async def _serve_admin(self) -> Admin | None:
        """Serve the admin port; None if there is none."""
        if self._admin_listener is None:
            return None
        # Imported here: uvicorn, Starlette and prometheus_client take as long to import as the rest
        # of the supervisor, which needs them only for this port.
        from fastchat.ops.admin import Admin

        admin = Admin(self.live, self.ready, self._parts)
        await admin.serve(self._admin_listener)
        return admin

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        on_stop_signals(loop, self._asked_to_stop.set, self._kill_all)
        on_hang_up(loop, self._reload, self._asked_to_stop.set)
        loop.add_signal_handler(signal.SIGUSR2, self._asked_to_roll.set)
        loop.add_signal_handler(signal.SIGCHLD, self._poll)

    def _reload(self) -> None:
        """Have all processes read their files again; a new one reads them anyway."""
        for child in self._children:
            child.signal(signal.SIGHUP)

    def _kill_all(self) -> None:
        self._status = 1
        for child in self._children:
            child.signal(signal.SIGKILL)

    async def _work(self) -> None:
        await self._begin(self._relay)
        await asyncio.gather(*(self._begin(role) for role in self._workers))
        announce(self._settings, self._listeners[0], workers=len(self._workers))
        async with asyncio.TaskGroup() as group:
            for role in (self._relay, *self._workers):
                group.create_task(self._keep(role))
            group.create_task(self._roll_forever())

    async def _begin(self, role: Role) -> None:
        try:
            child = role.child = self._spawn(role, must_connect=role is not self._relay)
        except OSError as error:
            raise _NotStarted(f"{role.name} cannot be started ({error})") from None
        await child.wait_started()
        if child.failure is not None and child.status == WRONG_SETTING:
            raise SettingError(child.failure)
        if not child.ready:
            raise _NotStarted(child.ending())

    async def _drain(self) -> None:
        """Stop the workers, and then the relay."""
        for listener in (*self._listeners, *self._api_listeners):
            listener.close()  # a client that connects now is refused at once, and does not wait
        workers = self._children - {self._relay.child}
        worker_stop_s, relay_stop_s = self._timings.worker_stop_s, self._timings.relay_stop_s
        await asyncio.gather(*(worker.stop(worker_stop_s) for worker in workers))
        if self._relay.child in self._children:
            await self._relay.child.stop(relay_stop_s)

    # Keeping them running

    async def _keep(self, role: Role) -> None:
        """Start another child whenever the one that has the role dies."""
        while True:
            child = role.child
            assert child is not None
            role.replaced.clear()
            await wait_first(child.ended.wait(), role.replaced.wait())
            if role.child is not child or not child.ended.is_set():
                continue
            if role.successor is not None:
                role.restarts += 1
                logger.warning("%s; another is starting already", child.ending())
                role.child, role.successor = role.successor, None
                continue
            if role is self._relay:
                self._forget_relay()
            early = child.served_s < self._timings.early_s
            role.count_death(early=early)
            logger.warning("%s", _death_message(role, child, early=early))
            await self._restart(role)

    def _forget_relay(self) -> None:
        """A relay has died: workers are not connected to the next one yet."""
        for role in self._workers:
            if role.child is not None:
                role.child.relay = False

    async def _restart(self, role: Role) -> None:
        while True:
            await asyncio.sleep(role.delay_s)
            try:
                role.child = self._spawn(role)
            except OSError as error:
                role.early_deaths += 1
                logger.error("%s cannot be started (%s); trying again", role.name, error)
            else:
                return

    def _spawn(self, role: Role, *, must_connect: bool = False) -> Child:
        """Start a child; a worker that `must_connect` is not ready before it has the relay."""
        first = {
            "settings": dataclasses.asdict(self._settings),
            "workers": len(self._workers),
            "again": role.child is not None,
        }
        if role is self._relay:
            first["user_key"] = self._user_key.hex()
        child = Child(
            role.name,
            [*self._command, *role.arguments, *(["--must-connect"] if must_connect else [])],
            first,
            role.listeners,
            start_ticks=self._timings.start_ticks,
        )
        self._children.add(child)
        return child

    def _poll(self) -> None:
        self._children = {child for child in self._children if not child.poll()}

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(self._timings.tick_s)
            self._poll()
            for child in self._children:
                child.tick()
            for role in self._workers:
                role.tick()

    # Replacing them

    async def _roll_forever(self) -> None:
        while True:
            await self._asked_to_roll.wait()
            self._asked_to_roll.clear()
            await self._roll()

    async def _roll(self) -> None:
        """Replace one worker after the other; stop at the first that cannot be replaced."""
        logger.info("rolling restart: SIGUSR2")
        for role in self._workers:
            if role.child is None or role.child.ended.is_set():
                continue  # `_keep` starts another already
            if why := await self._replace(role, role.child):
                logger.error(
                    "the rolling restart stopped; %s keeps its old process: %s", role.name, why
                )
                return
        logger.info("rolling restart: all workers are new")

    async def _replace(self, role: Role, old: Child) -> str | None:
        """Give the role to a new child, then end the old one; returns why that failed.

        The new child must be connected to the relay. Otherwise the old one, which can still be
        connected, would be replaced by one that refuses every message.
        """
        try:
            new = role.successor = self._spawn(role, must_connect=True)
        except OSError as error:
            return f"another cannot be started ({error})"
        await new.wait_started()
        if new.ended.is_set():
            if role.successor is new:
                role.successor = None
            return new.ending()
        role.child, role.successor = new, None
        role.replaced.set()
        await old.stop(self._timings.worker_stop_s)
        return None


def _death_message(role: Role, child: Child, *, early: bool) -> str:
    sentence = child.ending()
    if early:
        sentence += f", {child.lived_s:.1f} s after its start"
        if role.early_deaths > 1:
            sentence += f", {role.early_deaths} times in a row"
    if role.delay_s:
        return f"{sentence}; the next start is in {role.delay_s:.1f} s"
    return f"{sentence}; starting another"


def run(settings: Settings) -> int:
    """Serve with several processes until SIGTERM or SIGINT; returns the exit status.

    Raises SettingError if an address cannot be listened on, or if a child cannot start with
    these settings.
    """
    with contextlib.ExitStack() as stack:
        listeners = listen_all(settings.host, settings.port, settings.workers)
        for listener in listeners:
            stack.enter_context(listener)
        api_listeners: Sequence[socket.socket] = ()
        if settings.api_port:
            flags = ("--api-host", "--api-port")
            api_listeners = listen_all(
                settings.api_host, settings.api_port, settings.workers, flags
            )
            for listener in api_listeners:
                stack.enter_context(listener)
        admin_listener = None
        if settings.admin_port:
            admin_listener = listen_admin(settings.admin_host, settings.admin_port)
            stack.enter_context(admin_listener)
        with asyncio.Runner() as runner:
            return runner.run(_serve(settings, listeners, admin_listener, api_listeners))


async def _serve(
    settings: Settings,
    listeners: Sequence[socket.socket],
    admin_listener: socket.socket | None,
    api_listeners: Sequence[socket.socket],
) -> int:
    timings = SupervisorTimings()
    supervisor = Supervisor(settings, listeners, admin_listener, api_listeners, timings=timings)
    return await supervisor.serve()


def _by_worker(
    listeners: Sequence[socket.socket], api_listeners: Sequence[socket.socket]
) -> Iterator[dict[str, socket.socket]]:
    """The listening sockets of each worker, by the flags with which it gets them."""
    for listener, api_listener in zip_longest(listeners, api_listeners):
        yield {
            "--listener": listener,
            **({} if api_listener is None else {"--api": api_listener}),
        }
