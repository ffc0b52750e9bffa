"""A server of several processes (parts), which are killed, stopped and replaced."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from checker.nemesis import Victim
from checker.records import Break, Fault, Records
from support.server import TIMEOUT_UNIT_S

#: A fault explains the end of a connection if it was at most this long before it. A client
#: that does not read notices the end late.
LATE_S = 5.0
#: A rolling restart takes less than this.
ROLL_S = 60 * TIMEOUT_UNIT_S


def parts_of(pid: int) -> dict[int, str]:
    """The parts of the server whose supervisor is `pid`: "relay", "worker 1" and so on.

    During a rolling restart two processes have one name for a while.
    """
    parts = {}
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text("ascii").split()):
                if name := _name_of(child):
                    parts[child] = name
    return parts


def _name_of(pid: int) -> str | None:
    """The name of a process's part; None if the process is no part, has not started, or has
    ended."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text("utf-8").split("\0")
        where = words.index("fastchat.process")
    except (OSError, ValueError):
        return None
    return "relay" if words[where + 1] == "relay" else " ".join(words[where + 1 : where + 3])


def is_alive(pid: int) -> bool:
    """Whether a process runs or is stopped; a zombie is dead."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text("ascii", errors="replace")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def client_ports(pid: int, port: int) -> frozenset[int]:
    """The ports of the clients on this machine that the process `pid` serves at `port`."""
    inodes = set()
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                target = os.readlink(descriptor)
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
    ports = set()
    for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]:
        _, local, remote, _, _, _, _, _, _, inode, *_ = line.split()
        if inode in inodes and int(local.rpartition(":")[2], 16) == port:
            ports.add(int(remote.rpartition(":")[2], 16))
    return frozenset(ports - {0})


class PartsVictim(Victim):
    """A server of several processes, which are killed one by one."""

    def __init__(self, port: int, data: Path, arguments: Sequence[str], workers: int) -> None:
        super().__init__(port, data, ("--workers", str(workers), *arguments))
        self.faults: list[Fault] = []
        self._workers = workers
        self._log: list[str] = []
        self._reading: threading.Thread | None = None

    @property
    def parts(self) -> dict[int, str]:
        assert self._server is not None
        return parts_of(self._server.pid)

    async def start(self) -> None:
        await super().start()
        assert self._server is not None
        # The log is longer than a pipe's buffer, so a thread reads it.
        errors, self._server.process.stderr = self._server.process.stderr, None
        self._reading = threading.Thread(target=self._read, args=(errors,), daemon=True)
        self._reading.start()

    def _read(self, errors: IO[str]) -> None:
        with errors:
            self._log.extend(errors)

    async def stop(self) -> str:
        """Stop the server with SIGTERM, check that no process is left, and return its log."""
        assert self._reading is not None
        parts = self.parts
        await super().stop()
        await asyncio.to_thread(self._reading.join, 5 * TIMEOUT_UNIT_S)
        left = [name for pid, name in parts.items() if is_alive(pid)]
        assert not left, f"still there after the server's end: {left}"
        return "".join(self._log)

    def kill_part(self, pid: int, name: str) -> None:
        """Kill one part with SIGKILL, and record the ports of its clients."""
        self._signal(pid, signal.SIGSTOP)  # so that no client connects before the kill
        self.kills += 1
        self.faults.append(Fault("kill", name, _now(), client_ports(pid, self.port)))
        self._signal(pid, signal.SIGKILL)

    async def freeze_part(self, pid: int, name: str, seconds: float) -> None:
        """Stop one part with SIGSTOP, and continue it with SIGCONT after some seconds."""
        self.faults.append(Fault("stop", name, _now()))
        self._signal(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._signal(pid, signal.SIGCONT)

    def roll(self) -> None:
        """Replace all workers (SIGUSR2)."""
        assert self._server is not None
        self.faults.append(Fault("roll", "supervisor", _now()))
        self._server.signal(signal.SIGUSR2)

    async def settled(self) -> None:
        """Wait until all parts are running and have been the same for a second."""
        deadline = _now() + ROLL_S
        parts, since = self.parts, _now()
        while len(parts) != 1 + self._workers or _now() - since < 1:
            assert _now() < deadline, f"the parts do not settle: {parts}"
            await asyncio.sleep(0.05)
            if (now := self.parts) != parts:
                parts, since = now, _now()

    def _signal(self, pid: int, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


async def break_parts_often(
    victim: PartsVictim,
    kills: int,
    rolls: int,
    freezes: int,
    chance: random.Random,
    uptime_s: tuple[float, float],
) -> None:
    """Kill, stop and replace parts in random order; some kills hit a part that is just starting."""
    todo = ["kill"] * kills + ["roll"] * rolls + ["freeze"] * freezes
    chance.shuffle(todo)
    async with asyncio.TaskGroup() as freezing:
        for what in todo:
            await asyncio.sleep(chance.uniform(*uptime_s))
            if what == "roll":
                victim.roll()
                continue
            parts = victim.parts
            if not parts:
                continue
            pid = chance.choice(sorted(parts))
            if what == "freeze":
                freezing.create_task(victim.freeze_part(pid, parts[pid], chance.uniform(0.5, 4.0)))
            elif victim.kills < kills:
                victim.kill_part(pid, parts[pid])
                if victim.kills < kills and chance.random() < 0.2:
                    await _kill_successor(victim, set(parts), parts[pid], chance.uniform(0, 0.6))
    await victim.settled()


async def _kill_successor(victim: PartsVictim, known: set[int], name: str, after_s: float) -> None:
    """Kill the next process named `name`, `after_s` seconds after it appeared."""
    deadline = _now() + 5 * TIMEOUT_UNIT_S
    while _now() < deadline:
        for pid, its_name in victim.parts.items():
            if its_name == name and pid not in known:
                await asyncio.sleep(after_s)
                victim.kill_part(pid, name)
                return
        await asyncio.sleep(0.005)


def unexplained(records: Records) -> list[Break]:
    """The ends of connections that no fault explains."""
    return [each for each in records.breaks if not each.ours and not _reason(each, records)]


def _reason(ended: Break, records: Records) -> str | None:
    for fault in records.faults:
        after_s = ended.at - fault.at
        if fault.what == "kill" and ended.port in fault.ports and -0.5 < after_s < LATE_S:
            return "killed"
        if fault.what == "roll" and 0 <= after_s < ROLL_S:
            if ended.status in (None, 503):  # the handshake came too late
                return "refused"
            if ended.code == 1012 and ended.announced:
                return "rolled"
    return None


def back_s(records: Records) -> list[float]:
    """How many seconds the clients of killed workers took to be back in all their rooms, sorted."""
    return sorted(
        each.back_s
        for each in records.breaks
        if each.back_s is not None and not each.ours and _reason(each, records) == "killed"
    )


def figures(records: Records) -> str:
    """The measurements of a run with several processes, as lines of text."""
    times = back_s(records)
    reasons = [_reason(each, records) for each in records.breaks if not each.ours]
    kills = [fault for fault in records.faults if fault.what == "kill"]
    relays = sum(fault.part == "relay" for fault in kills)
    others = [fault.what for fault in records.faults]
    back = (
        f"50% in {_at(times, 0.5):.2f} s, 99% in {_at(times, 0.99):.2f} s, all in {times[-1]:.2f} s"
        if times
        else "no client"
    )
    return (
        f"{len(kills)} kills, {relays} of them of the relay; "
        f"{others.count('roll')} rolling restarts, {others.count('stop')} stops\n"
        f"{reasons.count('killed')} connections ended by a kill, {reasons.count('rolled')} by a "
        f"rolling restart ({reasons.count('refused')} before they began), "
        f"{len(records.breaks) - len(reasons)} by the client, {reasons.count(None)} for nothing\n"
        f"back after a kill: {back}"
    )


def _at(times: Sequence[float], share: float) -> float:
    return times[min(len(times) - 1, int(len(times) * share))]


def percentile_back_s(records: Records, share: float) -> float:
    times = back_s(records)
    return _at(times, share) if times else 0.0


def _now() -> float:
    """The time on the clock of the event loop."""
    return time.monotonic()
