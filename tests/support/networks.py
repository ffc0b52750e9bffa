"""Networks of their own for servers, which can be cut.

A test that uses them runs in a network of its own (`support.namespaces`), which is the rest of the
machine for them.
"""

from __future__ import annotations

import os
import subprocess
from itertools import count

from support.server import wait_until

__all__ = ["Network", "why_no_networks"]

_numbers = count()
#: A queue without a place for any packet.
_NOTHING_PASSES = ("root", "pfifo", "limit", "0")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def why_no_networks() -> str:
    """The reason why this user cannot make a `Network`; "" if there is none."""
    if os.geteuid() != 0:
        return "needs root, to make networks"
    try:
        Network().close()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no networks can be made here: {getattr(error, 'stderr', None) or error}"
    return ""


class Network:
    """A network with two wires to the rest of the machine: one for clients, one for the database.

    Servers run in it if their command begins with `before`. Clients reach them at `address`, and
    they reach the database at `outside`. Only the second wire can be cut.
    """

    def __init__(self) -> None:
        number = next(_numbers)
        process = os.getpid()
        self._ends: list[tuple[str, str]] = []
        self._cut: list[tuple[str, ...]] = []
        # A network without a name lasts as long as a process in it, and leaves no mount behind.
        self._holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        self._place = str(self._holder.pid)
        self.before = ("nsenter", "--target", self._place, "--net", "--")
        # Networks of four addresses, in a part of 10.0.0.0/8 that this process has for itself.
        start = f"10.{100 + process % 128}.{process // 128 % 256}"
        try:
            wait_until(self._is_apart)
            _run(*self.before, "ip", "link", "set", "lo", "up")
            _, self.address = self._connect(f"f{number}x{process}", start, 8 * number % 256)
            self.outside, _ = self._connect(f"b{number}x{process}", start, (8 * number + 4) % 256)
        except BaseException:
            self.close()
            raise

    def _is_apart(self) -> bool:
        """Whether the network is there."""
        if self._holder.poll() is not None:
            raise OSError("unshare has failed")
        here, there = (f"/proc/{each}/ns/net" for each in ("thread-self", self._place))
        return os.readlink(here) != os.readlink(there)

    def _connect(self, name: str, start: str, last: int) -> tuple[str, str]:
        near, far = f"{start}.{last + 1}", f"{start}.{last + 2}"
        outer, inner = f"{name}o", f"{name}i"
        self._ends.append((outer, inner))
        _run(
            "ip", "link", "add", outer, "type", "veth", "peer", "name", inner, "netns", self._place
        )
        _run("ip", "addr", "add", f"{near}/30", "dev", outer)
        _run("ip", "link", "set", outer, "up")
        _run(*self.before, "ip", "addr", "add", f"{far}/30", "dev", inner)
        _run(*self.before, "ip", "link", "set", inner, "up")
        return near, far

    def cut(self, *, questions: bool, answers: bool) -> None:
        """Lose what the servers send to the database, or what it sends to them, or both."""
        outer, inner = self._ends[1]
        for is_lost, inside, wire in ((questions, True, inner), (answers, False, outer)):
            if is_lost:
                queue = (*(self.before if inside else ()), "tc", "qdisc")
                _run(*queue, "add", "dev", wire, *_NOTHING_PASSES)
                self._cut.append((*queue, "del", "dev", wire, "root"))

    def heal(self) -> None:
        while self._cut:
            _run(*self._cut.pop())

    def close(self) -> None:
        """Delete it; what still runs in it keeps a network that leads nowhere."""
        for outer, _ in self._ends:
            subprocess.run(["ip", "link", "del", outer], check=False, capture_output=True)
        self._holder.kill()
        self._holder.wait()
