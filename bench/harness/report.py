"""Results: medians with quartiles, as a table, and as JSON for figures that documents cite."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any


class BenchError(Exception):
    """The benchmark cannot run, or the measured program has failed."""


class MissingError(BenchError):
    """Some rows need something that this machine does not have. The other rows are measured."""


@dataclass(frozen=True, slots=True)
class Target:
    """The limit that a figure should keep."""

    value: float
    at_least: bool = False

    def met_by(self, figure: float) -> bool:
        return figure >= self.value if self.at_least else figure <= self.value

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {_number(self.value)}"


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table: the samples of one variant with one number of clients."""

    group: str
    variant: str
    clients: int
    unit: str
    samples: tuple[float, ...]
    dropped: int = 0
    target: Target | None = None
    extra: dict[str, float] = field(default_factory=dict)

    @property
    def quartiles(self) -> tuple[float, float, float]:
        return quartiles(self.samples)


@dataclass(slots=True)
class Samples:
    """The samples of one variant, without those that were disturbed.

    If the kernel took the CPU away during a sample (an involuntary context switch), the sample also
    measures other processes. It is counted, but not used.
    """

    kept: list[float] = field(default_factory=list)
    disturbed: list[float] = field(default_factory=list)

    def add(self, value: float, before: int) -> None:
        """Add a value. `before` is the result of preemptions() when the sample started."""
        (self.kept if preemptions() == before else self.disturbed).append(value)

    def result(self, group: str, variant: str, clients: int, unit: str, **more: Any) -> Result:
        # If every sample was disturbed, as on a busy machine, use the disturbed ones.
        used = self.kept or self.disturbed
        dropped = len(self.disturbed) if self.kept else 0
        return Result(group, variant, clients, unit, tuple(used), dropped, **more)


def preemptions() -> int:
    """The number of times that the kernel has taken the CPU away from this thread."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


def quartiles(samples: Iterable[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper quartile."""
    ordered = sorted(samples)
    if len(ordered) == 1:
        return ordered[0], ordered[0], ordered[0]
    low, middle, high = quantiles(ordered, n=4, method="inclusive")
    return low, middle, high


def median(samples: Iterable[float]) -> float:
    return quartiles(samples)[1]


def print_machine(facts: dict[str, str]) -> None:
    for name, value in facts.items():
        print(f"{name:>12}  {value}")


def print_group(title: str, clock: str, results: list[Result], references: list[str]) -> None:
    """Print one group: what its clock includes, its rows, and figures of other programs."""
    width = max(len(result.variant) for result in results) + 1
    print(f"\n{title}\n  clock: {clock}\n")
    print(f"  {'variant':<{width}}{'clients':>8}{'median':>10}  {'quartiles':<21}{'unit':<5}target")
    for result in results:
        low, middle, high = result.quartiles
        spread = f"[{_number(low)} - {_number(high)}]"
        line = (
            f"  {result.variant:<{width}}{result.clients or '':>8}{_number(middle):>10}"
            f"  {spread:<21}{result.unit:<5}{_verdict(result)}"
        )
        print(line.rstrip())
    for line in references:
        print(f"  reference: {line}")


def _verdict(result: Result) -> str:
    if result.target is None:
        return ""
    met = result.target.met_by(result.quartiles[1])
    return f"{result.target} {'met' if met else 'MISSED'}"


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def write_json(
    path: Path,
    command: str,
    facts: dict[str, str],
    groups: list[tuple[str, str, list[Result], list[str]]],
    skipped: list[str],
    *,
    benchmark: str = "fastchat broadcast",
) -> None:
    """Write everything that was printed, and the number of samples of each figure."""
    document = {
        "benchmark": benchmark,
        "version": 1,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": command,
        "machine": facts,
        "groups": [
            {
                "title": title,
                "clock": " ".join(clock.split()),
                "references": references,
                "rows": [_row(result) for result in results],
            }
            for title, clock, results, references in groups
        ],
        "skipped": skipped,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")


def _row(result: Result) -> dict[str, Any]:
    low, middle, high = result.quartiles
    row: dict[str, Any] = {
        "row": result.group,
        "variant": result.variant,
        "clients": result.clients,
        "unit": result.unit,
        "median": round(middle, 4),
        "q1": round(low, 4),
        "q3": round(high, 4),
        "samples": len(result.samples),
        "dropped": result.dropped,
    }
    if result.target is not None:
        row["target"] = asdict(result.target)
        row["met"] = result.target.met_by(middle)
    return row | {key: round(value, 4) for key, value in result.extra.items()}
