"""Builds the objects of the relay: the rooms, and its connections to the workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastchat.brokers.memory import MemoryBroker
from fastchat.brokers.relay.server import Operate, Relay
from fastchat.files.retention import Retention
from fastchat.history import History
from fastchat.metrics import Metrics
from fastchat.process.assembly.limits import connection_count_of
from fastchat.process.assembly.storage import build_rooms, open_retention
from fastchat.process.assembly.webhooks import build_webhooks, refuse_webhooks
from fastchat.rooms.contract import Rooms
from fastchat.settings import Settings
from fastchat.webhooks.config import read_config
from fastchat.webhooks.outgoing import Webhooks

if TYPE_CHECKING:
    from fastchat.chat.operations import Operations
    from fastchat.process.assembly.engine import EngineRooms

__all__ = ["RelayComponents", "build_relay"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayComponents:
    """The objects of the relay's process. Each lives as long as the process.

    `shared` are the rooms if other machines have them too; otherwise it is None, and there are
    `webhooks`.
    """

    metrics: Metrics
    relay: Relay
    shared: EngineRooms | None
    retention: Retention | None
    webhooks: Webhooks | None


def build_relay(
    settings: Settings, history: History | None, *, workers: int, again: bool
) -> RelayComponents:
    """Build the relay for so many workers, in its running loop.

    `history` is None if the settings have an engine. `again` is whether it takes the place of
    another relay. Raises SettingError.
    """
    metrics = Metrics()
    retention: Retention | None = None
    shared: EngineRooms | None = None
    webhooks: Webhooks | None = None
    gauges: list[Callable[[], Mapping[str, Any]]] = []
    config = read_config(settings.config_file)
    rooms: Rooms
    if history is None:
        from fastchat.process.assembly.engine import build_shared_rooms  # as in `build_standalone`

        refuse_webhooks(config)
        rooms = shared = build_shared_rooms(settings, metrics)
        gauges.append(shared.gauges)
    else:
        rooms = local = build_rooms(settings, history, metrics)
        retention = open_retention(settings, metrics, history, create=not again)
        webhooks = build_webhooks(settings, local, config)
        gauges.append(webhooks.gauges)
    return RelayComponents(
        metrics=metrics,
        relay=Relay(
            Path(settings.data),
            rooms,
            metrics,
            workers=workers,
            connection_count=connection_count_of(settings),
            gauges=lambda: {key: value for each in gauges for key, value in each().items()},
            operate=_operating(rooms),
        ),
        shared=shared,
        retention=retention,
        webhooks=webhooks,
    )


def _operating(rooms: Rooms) -> Operate:
    """What runs the operations of an operator in this process, which has no members of its own."""

    @cache
    def operations() -> Operations:
        # Imported here: the chat's rules take 4 ms, and most relays are never asked.
        from fastchat.chat.operations import Operations

        broker = MemoryBroker(rooms)
        nobody = _Nobody()
        broker.open(delivery=nobody, receiver=nobody)
        return Operations(broker, rooms.pages, rooms.administration, clock=time.time)

    async def operate(verb: str, arguments: Mapping[str, Any]) -> Any:
        from fastchat.chat.operations import OPERATOR

        return await operations().run(OPERATOR, verb, arguments)

    return operate


class _Nobody:
    """Takes the place of the hub and the chat in a process without members."""

    def publish(self, room: str, payload: bytes) -> None:
        pass

    def end_turn(self) -> None:
        pass

    def evict(self, room: str, code: int, reason: str) -> None:
        pass

    def expel(self, room: str, user: str, seconds: int) -> None:
        pass
