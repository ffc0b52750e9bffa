"""`fastchat status`: the state of a running server, as a table or as JSON."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from fastchat.metrics import quantile, since, with_usage
from fastchat.ops.status import ask
from fastchat.streams import output

__all__ = ["run", "table"]

#: The longest wait for an answer of the server.
ASK_TIMEOUT_S = 2.0
#: The time between the two requests for a table. Workers report to the relay once a second, so each
#: worker sends a new report in this time.
INTERVAL_S = 1.25


def run(
    directory: Path,
    *,
    json: bool,
    timeout_s: float = ASK_TIMEOUT_S,
    interval_s: float = INTERVAL_S,
) -> int:
    """Print the status of the server on a data directory, and return the exit status.

    With `json`, the counters of each process are printed. Otherwise the server is asked twice,
    `interval_s` seconds apart, and a table shows the rates. Raises NotAnswering if no server runs
    there, or if it does not answer within `timeout_s` seconds, and OutputError if the status
    cannot be printed.
    """
    if json:
        parts = asyncio.run(ask(directory, timeout_s))
        text = orjson.dumps({"parts": with_usage(parts)}).decode() + "\n"
    else:
        earlier, later, seconds = asyncio.run(_ask_twice(directory, timeout_s, interval_s))
        text = table(earlier, later, seconds)
    with output() as out:
        out.write(text)
    return 0


async def _ask_twice(
    directory: Path, timeout_s: float, interval_s: float
) -> tuple[dict[str, Any], dict[str, Any], float]:
    earlier = with_usage(await ask(directory, timeout_s))
    started_s = time.monotonic()
    await asyncio.sleep(interval_s)
    later = with_usage(await ask(directory, timeout_s))
    return earlier, later, time.monotonic() - started_s


_Parts = Mapping[str, Mapping[str, Any]]


def table(earlier: _Parts, later: _Parts, seconds: float) -> str:
    """Return a table that compares two snapshots of a server, taken `seconds` apart.

    The first line is about the server. A sentence follows if it cannot store messages, or one for
    each of several ledgers that it cannot use. If there are webhooks, or if several machines share
    an engine, lines about them follow. Each further line is about a part, that is, a process. Rates
    and times are those between the snapshots. An unknown value is `-`.
    """
    is_failing = any(part.get("history_writable") == 0 for part in later.values())
    pairs = {name: (_earlier_of(earlier.get(name, {}), now), now) for name, now in later.items()}
    return "\n".join(
        [
            *_aligned([_SERVER_TITLES, _server_cells(pairs)], 0),
            *([_FAILING] if is_failing else ()),
            *_ledger_lines(_head(pairs)[1]),
            *_webhook_lines(_head(pairs)[1]),
            *_machine_lines(*_head(pairs)),
            "",
            *_aligned(
                [
                    _PART_TITLES,
                    *(_part_cells(name, *pairs[name], seconds) for name in _in_order(pairs)),
                ],
                1,
            ),
            "",
        ]
    )


def _earlier_of(before: Mapping[str, Any], now: Mapping[str, Any]) -> Mapping[str, Any]:
    """The earlier snapshot, or an empty one if another process has taken its place."""
    return before if before.get("pid") == now.get("pid") else {}


def _in_order(names: Mapping[str, Any]) -> list[str]:
    """Sort names for the table: the workers are last, and `worker-10` follows `worker-9`."""
    return sorted(names, key=lambda name: (name.startswith("worker"), len(name), name))


_Pair = tuple[Mapping[str, Any], Mapping[str, Any]]

_SERVER_TITLES = (
    *("uptime", "workers", "clients", "rooms", "users"),
    *("published/s", "delivered/s", "commit p99"),
)
_MACHINE_TITLES = (
    *("machine", "version", "heard", "clients", "rooms"),
    *("published/s", "delivered/s", "commit"),
)
_WEBHOOK_TITLES = ("webhook", "delivered", "failed", "given up", "behind", "for")
_FAILING = "Messages cannot be stored at the moment; the log says why."
_PART_TITLES = ("part", "pid", "uptime", "clients", "loop p99", "relay p99", "cpu", "memory")


def _head(pairs: Mapping[str, _Pair]) -> _Pair:
    """The process with the rooms, which counts all rooms and users. A worker counts its own."""
    return pairs.get("server") or pairs.get("relay") or ({}, {})


def _ledger_lines(head: Mapping[str, Any]) -> list[str]:
    """What is wrong with some of several ledgers; empty if nothing is, or if there is only one."""
    faults = head.get("engine_faults") or {}
    if len(faults) < 2:
        return []
    return [f"{place} cannot be used: {fault}." for place, fault in faults.items() if fault]


def _machine_lines(before: Mapping[str, Any], head: Mapping[str, Any]) -> list[str]:
    """A table of the machines that share an engine; empty if there is none."""
    reports = head.get("machine_reports")
    if not reports:
        return []
    earlier = {each["machine"]: each for each in before.get("machine_reports", ())}
    cells = [_machine_cells(earlier.get(each["machine"], {}), each) for each in reports]
    return ["", *_aligned([_MACHINE_TITLES, *cells], 2)]


def _webhook_lines(head: Mapping[str, Any]) -> list[str]:
    """A table of the webhooks; empty if there is none."""
    names = head.get("webhook_behind")
    if not names:
        return []
    keys = ("webhook_delivered", "webhook_failed", "webhook_given_up", "webhook_behind")
    cells = [
        [
            name + (" (ended)" if head["webhook_ended"][name] else ""),
            *(_number(head[key][name]) for key in keys),
            _duration(head["webhook_behind_s"][name]),
        ]
        for name in names
    ]
    return ["", *_aligned([_WEBHOOK_TITLES, *cells], 1)]


def _machine_cells(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    is_here = not now["is_silent"]
    return [
        now["machine"],
        str(now.get("version", "-")),
        "now" if is_here else f"{_duration(now['age_s'])} ago",
        *(_number(now.get(key) if is_here else None) for key in ("connections", "rooms")),
        *(_number(_rate(before, now, key)) for key in ("publications_total", "deliveries")),
        _p99(before, now, "commit_s") if before and is_here else "-",
    ]


def _server_cells(pairs: Mapping[str, _Pair]) -> list[str]:
    before, head = _head(pairs)
    serving = [pair for name, pair in pairs.items() if name != "relay"]
    return [
        _duration(head.get("uptime_s")),
        _number(len(serving)),
        _number(_sum(now.get("connections") for _, now in serving)),
        _number(head.get("rooms")),
        _number(head.get("users")),
        _number(_rate(before, head, "publications_total")),
        _number(_sum(_rate(*pair, "deliveries") for pair in serving)),
        _p99(before, head, "commit_s"),
    ]


def _part_cells(
    name: str, before: Mapping[str, Any], now: Mapping[str, Any], seconds: float
) -> list[str]:
    cpu = "-"
    if "cpu_s" in before and "cpu_s" in now:
        cpu = f"{(now['cpu_s'] - before['cpu_s']) / seconds:.0%}"
    resident = now.get("resident_bytes")
    return [
        name,
        str(now.get("pid", "-")),
        _duration(now.get("uptime_s")),
        _number(now.get("connections")),
        _p99(before, now, "loop_lag_s"),
        _p99(before, now, "relay_lag_s"),
        cpu,
        "-" if resident is None else f"{resident / 1e6:,.0f} MB",
    ]


def _sum(values: Any) -> float | None:
    """The sum, or None if a value is missing: an incomplete sum would look like a complete one."""
    found = list(values)
    return None if not found or None in found else sum(found)


def _rate(before: Mapping[str, Any], now: Mapping[str, Any], key: str) -> float | None:
    passed = now.get("uptime_s", 0) - before.get("uptime_s", 0)
    if key not in before or key not in now or passed <= 0:
        return None
    return float((now[key] - before[key]) / passed)


def _p99(before: Mapping[str, Any], now: Mapping[str, Any], key: str) -> str:
    seconds = quantile(since(before.get(key), now.get(key)), 0.99)
    if seconds is None:
        return "-"
    if seconds == float("inf"):
        return f"> {now[key]['bounds'][-1]:g} s"
    return f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1000:g} ms"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if days >= 100:
        return f"{days}d"
    if days:
        return f"{days}d {hours % 24:02}h"
    if hours:
        return f"{hours}h {minutes % 60:02}m"
    return f"{minutes}m {int(seconds) % 60:02}s"


def _aligned(rows: list[Any], left: int) -> list[str]:
    """Join rows of cells to lines. The first `left` columns are aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
