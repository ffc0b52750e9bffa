"""What the figures were measured on, and where the processes run."""

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

PACKAGES = ("fastchat", "uvloop", "Cython", "picows", "uvicorn", "orjson", "websockets")


@dataclass(frozen=True, slots=True)
class Pins:
    """The CPU of what sends and the CPU of what receives; None: not pinned."""

    sender: int | None
    load: int | None

    @classmethod
    def choose(cls) -> Pins:
        """Take two CPUs that are not two threads of one core, if there are."""
        cpus = sorted(os.sched_getaffinity(0))
        if len(cpus) < 2:
            return cls(None, None)
        siblings = _siblings(cpus[0])
        apart = [cpu for cpu in cpus[1:] if cpu not in siblings]
        return cls(cpus[0], (apart or cpus[1:])[0])

    def pin_sender(self) -> None:
        """Pin this process, and with it every server that it starts later."""
        if self.sender is not None:
            os.sched_setaffinity(0, {self.sender})

    @property
    def load_argument(self) -> str:
        """The load's CPU as bench/load/drain.c takes it."""
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
    """Everything a reader needs to compare these figures with others."""
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
    """How much of the machine others used while this ran: a busy neighbour spoils figures.

    Made when the run begins; our own time is ours and that of children that have ended.
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
        return f"used {others:.1f} % of the CPUs meanwhile, the host's other guests {stolen:.1f} %"

    @staticmethod
    def _others() -> tuple[float, float]:
        """Seconds used by other processes, and seconds that the hypervisor gave to others."""
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
    """The installed version; None when it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        # Run from a checkout: built in place, but not installed.
        module = sys.modules.get(package)
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
        return "no: only one CPU, so the load takes time from what it measures"
    return f"hub and servers on CPU {pins.sender}, load on CPU {pins.load}"
