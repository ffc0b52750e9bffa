"""The machine on which the figures were measured, and the CPUs of the processes."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage

PACKAGES = ("fastchat-server", "uvloop", "Cython", "picows", "uvicorn", "orjson", "websockets")


@dataclass(frozen=True, slots=True)
class Pins:
    """The CPUs of the sending and the receiving processes; None if they are not pinned."""

    sender: int | None
    load: int | None

    @classmethod
    def choose(cls) -> Pins:
        """Choose two CPUs, of two different cores if possible."""
        cpus = sorted(os.sched_getaffinity(0))
        if len(cpus) < 2:
            return cls(None, None)
        siblings = _siblings(cpus[0])
        apart = [cpu for cpu in cpus[1:] if cpu not in siblings]
        return cls(cpus[0], (apart or cpus[1:])[0])

    def pin_sender(self) -> None:
        """Pin this process, and every server that it starts later."""
        if self.sender is not None:
            os.sched_setaffinity(0, {self.sender})

    def pin_load(self) -> None:
        """Pin this process, which is the load."""
        if self.load is not None:
            os.sched_setaffinity(0, {self.load})

    @property
    def load_argument(self) -> str:
        """The load's CPU, as an argument of bench/load/drain.c."""
        return str(-1 if self.load is None else self.load)


def _siblings(cpu: int) -> set[int]:
    path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        text = path.read_text()
    except OSError:
        return {cpu}
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def describe(pins: Pins) -> dict[str, str]:
    """The facts that a reader needs to compare these figures with others."""
    facts = {
        "cpu": _cpu_model(),
        "cores": str(os.cpu_count()),
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "compiler": _compiler(),
        "pinned": _pinned(pins),
        "load average": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }
    for package in PACKAGES:
        facts[package] = package_version(package) or "not installed"
    return facts


class Neighbours:
    """The share of the machine that other processes used during the run. It distorts figures.

    Create it when the run starts. The benchmark's own time is that of this process and of its
    children that have ended.
    """

    def __init__(self) -> None:
        self._started_s = time.monotonic()
        self._before = self._others()

    def describe(self) -> str:
        elapsed_s = (time.monotonic() - self._started_s) * (os.cpu_count() or 1)
        others, stolen = (
            max(0.0, now - then) / elapsed_s * 100
            for now, then in zip(self._others(), self._before, strict=True)
        )
        return f"they used {others:.1f} % of the CPUs, and other virtual machines {stolen:.1f} %"

    @staticmethod
    def _others() -> tuple[float, float]:
        """CPU seconds of other processes, and seconds in which other virtual machines ran."""
        try:
            fields = Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
        except OSError:
            return 0.0, 0.0
        user, nice, system, _, _, irq, softirq, steal = (
            int(field) / os.sysconf("SC_CLK_TCK") for field in fields
        )
        own = sum(
            usage.ru_utime + usage.ru_stime
            for usage in map(getrusage, (RUSAGE_SELF, RUSAGE_CHILDREN))
        )
        return user + nice + system + irq + softirq - own, steal


def package_version(package: str) -> str | None:
    """The installed version of a package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        # The benchmark runs from a checkout that is built in place, but not installed.
        module = sys.modules.get(package.removesuffix("-server"))
        return getattr(module, "__version__", "in place") if module else None


def find_compiler() -> str | None:
    """The C compiler's path: $CC, or cc."""
    return shutil.which(os.environ.get("CC", "cc"))


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


def _compiler() -> str:
    compiler = find_compiler()
    if compiler is None:
        return "none"
    done = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=10)
    return (done.stdout.splitlines() or ["unknown"])[0]


def _pinned(pins: Pins) -> str:
    if pins.sender is None:
        return "no: there is only one CPU, so the load takes CPU time from the server"
    return f"hub and servers on CPU {pins.sender}, load on CPU {pins.load}"
