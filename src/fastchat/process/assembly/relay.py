"""Builds the objects of the relay: the rooms, and its connections to the workers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fastchat.brokers.relay.server import Relay
from fastchat.files.retention import Retention
from fastchat.history import History
from fastchat.metrics import Metrics
from fastchat.process.assembly.limits import connection_count_of
from fastchat.process.assembly.storage import build_rooms, open_retention
from fastchat.settings import Settings

__all__ = ["RelayComponents", "build_relay"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayComponents:
    """The objects of the relay's process. Each lives as long as the process."""

    metrics: Metrics
    relay: Relay
    retention: Retention | None


def build_relay(
    settings: Settings, history: History, *, workers: int, again: bool
) -> RelayComponents:
    """Build the relay for so many workers, in its running loop.

    `again` is whether it takes the place of another relay. Raises SettingError.
    """
    metrics = Metrics()
    rooms = build_rooms(settings, history, metrics, is_shared=True)
    return RelayComponents(
        metrics=metrics,
        relay=Relay(
            Path(settings.data),
            rooms,
            metrics,
            workers=workers,
            connection_count=connection_count_of(settings),
        ),
        retention=open_retention(settings, metrics, history, create=not again),
    )
