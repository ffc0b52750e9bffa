"""What a machine tells the others of itself, for `fastchat status`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from fastchat._version import __version__
from fastchat.settings import Settings

__all__ = ["digest_of", "report_of"]

#: Settings that should be the same on all machines of a chat.
_SHARED = frozenset(
    {
        "auth",
        "files",
        "guest_rights",
        "history_max_age",
        "history_max_messages",
        "jwt_audience",
        "jwt_issuer",
        "jwt_user_claim",
        "limits",
        "max_file_bytes",
        "max_files_bytes",
        "max_user_file_bytes",
        "room_burst",
        "room_rate",
        "spectators",
        "user_burst",
        "user_rate",
    }
)


def digest_of(settings: Settings) -> str:
    """A digest of the settings that should be the same on all machines."""
    shared = {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(settings)
        if field.name in _SHARED
    }
    return hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:16]


def report_of(parts: Mapping[str, Mapping[str, Any]], settings_digest: str) -> dict[str, Any]:
    """The counters of a whole machine, from those of its parts.

    A count is None if a part does not say it.
    """
    head = parts.get("server") or parts.get("relay") or {}
    serving = [part for name, part in parts.items() if name not in ("relay", "supervisor")]
    return {
        "version": __version__,
        "settings": settings_digest,
        "uptime_s": head.get("uptime_s"),
        "workers": len(serving),
        "connections": _sum(serving, "connections"),
        "deliveries": _sum(serving, "deliveries"),
        **{key: head.get(key) for key in ("rooms", "publications_total", "commit_s")},
    }


def _sum(parts: list[Mapping[str, Any]], key: str) -> int | None:
    found = [part.get(key) for part in parts]
    return None if None in found else sum(each for each in found if each is not None)
