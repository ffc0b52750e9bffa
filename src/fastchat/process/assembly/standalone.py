"""Builds the objects of the only process: those that serve clients, and the rooms."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastchat.brokers.memory import MemoryBroker
from fastchat.files.incoming import IncomingFiles
from fastchat.files.retention import Retention
from fastchat.history import History
from fastchat.metrics import Metrics
from fastchat.process.assembly.storage import build_rooms, open_retention
from fastchat.process.assembly.webhooks import build_webhooks, refuse_webhooks
from fastchat.process.assembly.worker import WorkerComponents, build_base, build_worker
from fastchat.process.timings import WorkerTimings
from fastchat.rooms.contract import Rooms
from fastchat.rooms.local import LocalRooms
from fastchat.settings import Settings
from fastchat.web.capacity import Capacity
from fastchat.webhooks.outgoing import Webhooks

if TYPE_CHECKING:
    from fastchat.process.assembly.engine import EngineRooms

__all__ = ["StandaloneComponents", "build_standalone"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StandaloneComponents:
    """The objects of the only process: those of a worker, the rooms, and the files' retention.

    `shared` are the rooms if other machines have them too; otherwise it is None, and there are
    `webhooks`.
    """

    worker: WorkerComponents
    rooms: Rooms
    shared: EngineRooms | None
    retention: Retention | None
    webhooks: Webhooks | None


def build_standalone(
    settings: Settings,
    listener: socket.socket,
    history: History | None,
    *,
    timings: WorkerTimings,
    reserved: int = 0,
    api_listener: socket.socket | None = None,
    capacity: Capacity | None = None,
    transfers: int | None = None,
    incoming_files: IncomingFiles | None = None,
) -> StandaloneComponents:
    """Build the only process, in its running loop.

    `history` is None if the settings have an engine.

    `reserved` is the number of file descriptors that clients cannot have, besides the usual
    ones. Only tests pass the arguments after it: by default, `capacity` and `transfers` come from
    the limit of open files, and `incoming_files` from the settings. Raises SettingError.
    """
    metrics = Metrics()
    retention: Retention | None = None
    shared: EngineRooms | None = None
    local: LocalRooms | None = None
    rooms: Rooms
    if history is None:
        from fastchat.process.assembly import engine  # here, because most servers have none

        rooms = shared = engine.build_shared_rooms(settings, metrics)
        reserved += engine.CONNECTIONS * len(settings.engine)
    else:
        retention = open_retention(settings, metrics, history)
        rooms = local = build_rooms(settings, history, metrics, grace_ticks=timings.grace_ticks)
    base = build_base(settings, timings, metrics, reserved, capacity, transfers, incoming_files)
    webhooks = None
    if local is not None:
        webhooks = build_webhooks(settings, local, base.config)
    else:
        refuse_webhooks(base.config)
    broker = MemoryBroker(rooms, base.sessions.send_away)
    worker = build_worker(
        base,
        listener,
        broker,
        presence=rooms,
        pages=rooms.pages,
        administration=rooms.administration,
        api_listener=api_listener,
    )
    return StandaloneComponents(
        worker=worker, rooms=rooms, shared=shared, retention=retention, webhooks=webhooks
    )
