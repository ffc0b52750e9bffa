"""A child process as the supervisor sees it: how it starts, what it says, and how it ends.

`fastchat.process.channel` is the child's end of the channel, and documents what is said on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["COMMAND", "STUCK_TICKS", "Child"]

logger = logging.getLogger("fastchat.supervisor")

#: The command that starts a child; its arguments follow. `-P` keeps modules in the directory
#: where the server was started from being imported.
COMMAND = (sys.executable, "-P", "-m", "fastchat.process")
#: A child that has sent no beat for this many ticks hangs, and is killed. The supervisor counts its
#: own ticks, not time: while a machine sleeps, children send no beats, but the supervisor does not
#: tick either.
HUNG_TICKS = 6
#: Before a child is killed, it counts as stuck for the probes of load balancers.
STUCK_TICKS = HUNG_TICKS // 2
#: A killed process is gone after this time, unless the kernel holds it.
KILL_S = 2.0


class Child:
    """One process, started for the role `name`, with `listeners` by their flags.

    Its states, in this order:

    * starting: it has `start_ticks` until it says that it is ready, and is killed after that;
    * serving: it is ready, and sends a beat every second. It is alive as long as it does, stuck
      after STUCK_TICKS without, and killed after HUNG_TICKS;
    * stopping: `stop` or `kill` was called. Its beats do not matter any more;
    * ended: the process is gone. A child can end in any state.

    `ended` is set when it has ended. The owner calls `poll` whenever a child may have ended, and
    `tick` once a second.

    Raises OSError when it cannot be started.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        first: dict[str, Any],
        listeners: Mapping[str, socket.socket],
        *,
        start_ticks: int,
    ) -> None:
        self.name = name
        self._start_ticks = start_ticks
        self.ended = asyncio.Event()
        self.ready = False  # it serves, or has served
        self.relay = False  # whether it is connected to the relay
        self.fault: str | None = None  # why it cannot store messages, if it is the relay
        self.failure: str | None = None  # why it could not start
        self.stopping = False
        self._started = asyncio.Event()  # or ended
        self._loop = asyncio.get_running_loop()
        self._unread = b""
        self._quiet_ticks = 0
        self._unconnected_ticks = 0  # since it had the relay
        self._started_s = self._loop.time()
        self._ready_s: float | None = None
        self._ended_s = 0.0
        self._channel, theirs = socket.socketpair()
        try:
            with theirs:
                # It waits in the channel until the child reads it.
                self._channel.sendall(json.dumps(first).encode() + b"\n")
                self._process = _spawn(command, theirs, listeners)
        except BaseException:
            self._channel.close()
            raise
        self._channel.setblocking(False)
        self._loop.add_reader(self._channel, self._receive)

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_serving(self) -> bool:
        """Whether it serves now, as far as is known."""
        return self.ready and not self.ended.is_set() and self._channel.fileno() >= 0

    @property
    def is_alive(self) -> bool:
        """Whether it serves, and has sent a beat lately."""
        return self.is_serving and self._quiet_ticks < STUCK_TICKS

    @property
    def is_stuck(self) -> bool:
        """Whether it serves, but has not sent a beat for STUCK_TICKS."""
        return self.is_serving and self._quiet_ticks >= STUCK_TICKS

    @property
    def has_no_relay(self) -> bool:
        """Whether it serves, but has not been connected to the relay for STUCK_TICKS."""
        return self.is_serving and self._unconnected_ticks >= STUCK_TICKS

    @property
    def status(self) -> int | None:
        """The exit status, or the negative number of a signal."""
        return self._process.returncode

    @property
    def lived_s(self) -> float:
        return self._ended_s - self._started_s

    @property
    def served_s(self) -> float:
        """How long it has served; 0 if it never did."""
        return 0.0 if self._ready_s is None else self._ended_s - self._ready_s

    def ending(self) -> str:
        """How it ended, as a part of a sentence."""
        if self.failure is not None:
            return f"{self} could not start: {self.failure.rstrip('.')}"
        assert self.status is not None
        if self.status < 0:
            return f"{self} was killed by {_signal_name(-self.status)}"
        return f"{self} ended with status {self.status}"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if it has ended."""
        with contextlib.suppress(OSError):
            self._process.send_signal(number)

    async def wait_started(self) -> None:
        """Wait until it serves, or until it has ended before it did."""
        await self._started.wait()

    async def stop(self, within_s: float) -> None:
        """Ask it to end by SIGTERM, and kill it if it has not ended in time."""
        self.stopping = True
        self.signal(signal.SIGTERM)
        if not await self.join(within_s):
            logger.warning("%s has not ended in %.1f s; killing it", self, within_s)
            await self.kill()

    async def kill(self) -> None:
        """End it by SIGKILL, which also ends a process that was stopped by a signal."""
        self.stopping = True
        self.signal(signal.SIGKILL)
        await self.join(KILL_S)

    async def join(self, within_s: float) -> bool:
        """Wait for its end; returns whether it has ended in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self.ended.wait()
        return self.ended.is_set()

    def tick(self) -> None:
        """A second has passed: kill it if it has been silent for too long."""
        if self.stopping or self.ended.is_set():
            return
        self._quiet_ticks += 1
        self._unconnected_ticks = 0 if self.relay or not self.ready else self._unconnected_ticks + 1
        if self._quiet_ticks < (HUNG_TICKS if self.ready else self._start_ticks):
            return
        why = "hangs" if self.ready else "does not become ready"
        logger.error("%s %s; killing it", self, why)
        self.signal(signal.SIGKILL)

    def poll(self) -> bool:
        """Whether it has ended. If so, everything that belongs to it is released."""
        if self.ended.is_set():
            return True
        if self._process.poll() is None:
            return False
        self._receive()  # what it sent last
        self._close()
        self._ended_s = self._loop.time()
        self.ended.set()
        self._started.set()
        return True

    # Lines from the child

    def _receive(self) -> None:
        try:
            while self._channel.fileno() >= 0:
                if not (data := self._channel.recv(65536)):
                    self._close()
                *lines, self._unread = (self._unread + data).split(b"\n")
                for line in lines:
                    self._on_line(line)
        except BlockingIOError:
            pass
        except OSError:  # reset by its end
            self._close()

    def _on_line(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except ValueError:
            logger.warning("%s has sent a line that is not JSON", self)
            return
        if "beat" in message:
            self._quiet_ticks = 0
            self.relay = bool(message.get("relay"))
            self.fault = message.get("fault")
        elif "ready" in message:
            self._quiet_ticks = 0
            self.ready = True
            self._ready_s = self._loop.time()
            self._started.set()
        elif "failed" in message:
            self.failure = str(message["failed"])

    def _close(self) -> None:
        if self._channel.fileno() >= 0:
            self._loop.remove_reader(self._channel)
            self._channel.close()


def _spawn(
    command: Sequence[str], channel: socket.socket, listeners: Mapping[str, socket.socket]
) -> subprocess.Popen[bytes]:
    passed = [channel.fileno()]
    arguments = [*command, "--channel", str(channel.fileno())]
    for flag, listener in listeners.items():
        passed.append(listener.fileno())
        arguments += [flag, str(listener.fileno())]
    # The child inherits the mask: a SIGHUP waits until the child can read its files again.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        return subprocess.Popen(  # noqa: S603 our own command
            arguments,
            stdin=subprocess.DEVNULL,
            pass_fds=passed,
            process_group=0,  # Ctrl+C is for the supervisor
            # Children import their modules from the same folders as the supervisor.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
