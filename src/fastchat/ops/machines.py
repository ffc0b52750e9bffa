"""What a machine tells the others of itself, for `fastchat status`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastchat._version import __version__

__all__ = ["report_of"]


def report_of(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The counters of a whole machine, from those of its parts.

    A count is None if a part does not say it.
    """
    head = parts.get("server") or parts.get("relay") or {}
    serving = [part for name, part in parts.items() if name not in ("relay", "supervisor")]
    return {
        "version": __version__,
        "uptime_s": head.get("uptime_s"),
        "workers": len(serving),
        "connections": _sum(serving, "connections"),
        "deliveries": _sum(serving, "deliveries"),
        **{key: head.get(key) for key in ("rooms", "publications_total", "commit_s")},
    }


def _sum(parts: list[Mapping[str, Any]], key: str) -> int | None:
    found = [part.get(key) for part in parts]
    return None if None in found else sum(each for each in found if each is not None)
