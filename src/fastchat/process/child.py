"""A part's process as the supervisor has it: its start, what it says, its end.

`channel` has the other end of the channel, and what is said on it.
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
from collections.abc import Sequence
from typing import Any

__all__ = ["COMMAND", "HUNG_TICKS", "Child"]

logger = logging.getLogger("fastchat.supervisor")

#: How a part is started; its arguments follow. `-P`: not with modules from wherever the
#: server was started.
COMMAND = (sys.executable, "-P", "-m", "fastchat.process")
#: A part without a beat for so long hangs. Ticks of our own are counted, not time: on a
#: machine that slept nobody has beaten, nor have we ticked.
HUNG_TICKS = 6
#: A killed process is gone by then, unless the kernel holds it.
KILL_S = 2.0


class Child:
    """One process. It has `settled` when it serves, or when it has `ended` before.

    It has `start_ticks` from its start until it serves. Raises OSError when it cannot be
    started. Whoever owns it calls `reap` whenever a
    child may have ended, and `tick` once a second.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        first: dict[str, Any],
        listener: socket.socket | None,
        *,
        start_ticks: int,
    ) -> None:
        self.name = name
        self._start_ticks = start_ticks
        self.settled = asyncio.Event()
        self.ended = asyncio.Event()
        self.ready = False  # it has served, at least
        self.relay = False  # whether it has the relay
        self.failure: str | None = None  # the setting that it could not start with
        self.stopping = False
        self._loop = asyncio.get_running_loop()
        self._unread = b""
        self._quiet_ticks = 0
        self._started_s = self._loop.time()
        self._ready_s: float | None = None
        self._ended_s = 0.0
        self._channel, theirs = socket.socketpair()
        try:
            with theirs:
                # It waits in the channel until the part reads it.
                self._channel.sendall(json.dumps(first).encode() + b"\n")
                self._process = _spawn(command, theirs, listener)
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
    def serving(self) -> bool:
        """Whether it serves now, as far as it is known."""
        return self.ready and not self.ended.is_set() and self._channel.fileno() >= 0

    def quiet_for(self, ticks: int) -> bool:
        """Whether it serves, but has not beaten for so many ticks."""
        return self.serving and self._quiet_ticks >= ticks

    @property
    def status(self) -> int | None:
        """The exit status, or the negative number of a signal."""
        return self._process.returncode

    @property
    def lived_s(self) -> float:
        return self._ended_s - self._started_s

    @property
    def served_s(self) -> float:
        """For how long it has served; 0 if it never did."""
        return 0.0 if self._ready_s is None else self._ended_s - self._ready_s

    def end(self) -> str:
        """How it ended, as the middle of a sentence."""
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

    async def stop(self, within_s: float) -> None:
        """SIGTERM, and SIGKILL if that has not ended it in time."""
        self.stopping = True
        self.signal(signal.SIGTERM)
        if not await self._has_ended(within_s):
            logger.warning("%s has not ended in %.1f s; killing it", self, within_s)
            await self.kill()

    async def kill(self) -> None:
        """SIGKILL, which works on stopped ones as well."""
        self.stopping = True
        self.signal(signal.SIGKILL)
        await self._has_ended(KILL_S)

    async def _has_ended(self, within_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self.ended.wait()
        return self.ended.is_set()

    def tick(self) -> None:
        """A second has passed; whoever has been silent for too many is killed, and it is said."""
        if self.stopping or self.ended.is_set():
            return
        self._quiet_ticks += 1
        if self._quiet_ticks < (HUNG_TICKS if self.ready else self._start_ticks):
            return
        why = "hangs" if self.ready else "does not become ready"
        logger.error("%s %s; killing it", self, why)
        self.signal(signal.SIGKILL)

    def reap(self) -> bool:
        """Whether it has ended; then all of it is gone."""
        if self.ended.is_set():
            return True
        if self._process.poll() is None:
            return False
        self._receive()  # its last words
        self._close()
        self._ended_s = self._loop.time()
        self.ended.set()
        self.settled.set()
        return True

    # What it says

    def _receive(self) -> None:
        try:
            while self._channel.fileno() >= 0:
                if not (data := self._channel.recv(65536)):
                    self._close()
                *lines, self._unread = (self._unread + data).split(b"\n")
                for line in lines:
                    self._heard(line)
        except BlockingIOError:
            pass
        except OSError:  # reset by its end
            self._close()

    def _heard(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except ValueError:
            logger.warning("%s says what is not JSON", self)
            return
        if "beat" in message:
            self._quiet_ticks = 0
            self.relay = bool(message.get("relay"))
        elif "ready" in message:
            self._quiet_ticks = 0
            self.ready = True
            self._ready_s = self._loop.time()
            self.settled.set()
        elif "failed" in message:
            self.failure = str(message["failed"])

    def _close(self) -> None:
        if self._channel.fileno() >= 0:
            self._loop.remove_reader(self._channel)
            self._channel.close()


def _spawn(
    command: Sequence[str], channel: socket.socket, listener: socket.socket | None
) -> subprocess.Popen[bytes]:
    passed = [channel.fileno()]
    arguments = [*command, "--channel", str(channel.fileno())]
    if listener is not None:
        passed.append(listener.fileno())
        arguments += ["--listener", str(listener.fileno())]
    # Blocked in the part as well: until it can read files anew, a SIGHUP waits, and the relay,
    # which has none, never hears of it.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        return subprocess.Popen(  # noqa: S603 our own command
            arguments,
            stdin=subprocess.DEVNULL,
            pass_fds=passed,
            process_group=0,  # Ctrl+C is for the supervisor
            # The parts take their modules from where we have ours.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
