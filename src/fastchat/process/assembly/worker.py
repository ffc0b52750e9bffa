"""Builds the objects that serve clients: for the only process, and for one of several workers."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastchat.auth import GUEST_RIGHTS, Authenticator, Right
from fastchat.brokers import Broker, Pages, Presence
from fastchat.brokers.memory import MemoryBroker
from fastchat.brokers.relay.client import RelayBroker
from fastchat.brokers.relay.counts import Counts
from fastchat.brokers.relay.pages import FilePages, RelayPages
from fastchat.chat import Chat
from fastchat.connections.context import Context
from fastchat.connections.registry import Sessions
from fastchat.files.endpoints import FileEndpoints
from fastchat.files.incoming import IncomingFiles
from fastchat.files.retention import Retention
from fastchat.files.store import FileStore
from fastchat.history import History
from fastchat.history.reader import HistoryReader
from fastchat.hub import Hub
from fastchat.limits.commands import Throttle
from fastchat.limits.connections import Admission
from fastchat.limits.handshakes import HandshakeLimiter
from fastchat.limits.queue import FairQueue
from fastchat.metrics import Metrics
from fastchat.process.assembly.limits import (
    connection_count_of,
    handshake_limiter_of,
    readers_of,
    session_limits_of,
    transfers_of,
    visitors_of,
)
from fastchat.process.assembly.storage import (
    build_rooms,
    new_secret,
    open_files,
    open_retention,
)
from fastchat.process.timings import WorkerTimings
from fastchat.rooms.rooms import Rooms
from fastchat.settings import Settings
from fastchat.web.capacity import TRANSFER_KINDS, Capacity, count_transfers, measure_capacity
from fastchat.web.context import HttpContext
from fastchat.web.origins import Origins
from fastchat.web.page import build_app
from fastchat.web.proxies import TrustedProxies
from fastchat.web.server import HttpServer

if TYPE_CHECKING:
    from fastchat.web.tls import Tls

__all__ = [
    "ClusteredComponents",
    "StandaloneComponents",
    "WorkerComponents",
    "build_clustered",
    "build_standalone",
    "open_authenticator",
    "open_tls",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerComponents:
    """The objects that every process with clients has. Each lives as long as the process."""

    settings: Settings
    timings: WorkerTimings
    metrics: Metrics
    authenticator: Authenticator | None
    tls: Tls | None
    files: FileStore | None
    readers: FairQueue
    hub: Hub
    broker: Broker
    sessions: Sessions
    context: Context
    handshakes: HandshakeLimiter
    server: HttpServer


@dataclass(frozen=True, slots=True, kw_only=True)
class StandaloneComponents:
    """The objects of the only process: those of a worker, the rooms, and the files' retention."""

    worker: WorkerComponents
    rooms: Rooms
    retention: Retention | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusteredComponents:
    """The objects of one of several workers; `relay` is its connection to the relay.

    The `reader` reads the file of the history; None if the relay has the history in memory.
    """

    worker: WorkerComponents
    relay: RelayBroker
    reader: HistoryReader | None


def build_standalone(
    settings: Settings,
    listener: socket.socket,
    history: History,
    *,
    timings: WorkerTimings,
    reserved: int = 0,
    capacity: Capacity | None = None,
    transfers: int | None = None,
    incoming_files: IncomingFiles | None = None,
) -> StandaloneComponents:
    """Build the only process, in its running loop.

    `reserved` is the number of file descriptors that clients cannot have, besides the usual
    ones. Only tests pass the arguments after it: by default, `capacity` and `transfers` come from
    the limit of open files, and `incoming_files` from the settings. Raises SettingError.
    """
    metrics = Metrics()
    retention = open_retention(settings, metrics, history)
    rooms = build_rooms(settings, history, metrics, grace_ticks=timings.grace_ticks)
    base = _build_base(settings, timings, metrics, reserved, capacity, transfers, incoming_files)
    worker = _build_worker(base, listener, MemoryBroker(rooms), presence=rooms, pages=rooms.pages)
    return StandaloneComponents(worker=worker, rooms=rooms, retention=retention)


def build_clustered(
    settings: Settings, listener: socket.socket, *, name: str, timings: WorkerTimings
) -> ClusteredComponents:
    """Build the worker `name` of several, in its running loop. Raises SettingError."""
    base = _build_base(settings, timings, Metrics())
    directory = Path(settings.data)
    counts = Counts(base.admission)
    base.admission.open(counts)
    relay = RelayBroker(
        directory,
        name=name,
        metrics=base.metrics,
        counts=counts,
    )
    pages: Pages = RelayPages(relay)
    reader = HistoryReader(directory) if settings.history == "sqlite" else None
    if reader is not None:
        pages = FilePages(reader, searching=pages)
        # A new relay can have another file, if the directory was replaced by a copy.
        relay.on_welcome = reader.open_again
    worker = _build_worker(base, listener, relay, presence=relay, pages=pages)
    return ClusteredComponents(worker=worker, relay=relay, reader=reader)


def open_authenticator(settings: Settings) -> Authenticator | None:
    """The authenticator that the settings ask for; None if the server accepts no tokens.

    Raises SettingError when a key cannot be used.
    """
    if settings.auth == "none":
        return None
    # Imported here: the libraries take a tenth of a second, and only this setting needs them.
    from fastchat.auth.tokens import TokenAuthenticator

    return TokenAuthenticator(
        settings.jwt_key_file,
        audience=settings.jwt_audience,
        issuer=settings.jwt_issuer,
        user_claim=settings.jwt_user_claim,
    )


def open_tls(settings: Settings) -> Tls | None:
    """The certificate that the settings name; None where the server does not encrypt.

    Raises SettingError when the certificate or its key cannot be used.
    """
    if not settings.ssl_certfile:
        return None
    from fastchat.web.tls import Tls  # imported here for the same reason

    return Tls(settings.ssl_certfile, settings.ssl_keyfile)


@dataclass(frozen=True, slots=True)
class _Base:
    """The objects that do not depend on how the process reaches the rooms."""

    settings: Settings
    timings: WorkerTimings
    metrics: Metrics
    authenticator: Authenticator | None
    tls: Tls | None
    files: FileStore | None
    incoming_files: IncomingFiles | None
    transfers: int
    capacity: Capacity
    sessions: Sessions
    hub: Hub
    admission: Admission


def _build_base(
    settings: Settings,
    timings: WorkerTimings,
    metrics: Metrics,
    reserved: int = 0,
    capacity: Capacity | None = None,
    transfers: int | None = None,
    incoming_files: IncomingFiles | None = None,
) -> _Base:
    authenticator = open_authenticator(settings)
    tls = open_tls(settings)
    files = open_files(settings, metrics)
    if transfers is None:
        transfers = count_transfers()
    if incoming_files is None and files is not None:
        incoming_files = IncomingFiles(files, transfers_of(settings, transfers))
    if capacity is None:
        capacity = measure_capacity(reserved + (0 if files is None else TRANSFER_KINDS * transfers))
    sessions = Sessions(
        clock=asyncio.get_running_loop().time,
        metrics=metrics,
        join_timeout_s=settings.join_timeout,
        message_timeout_s=timings.message_timeout_s,
        close_grace_s=timings.close_grace_s,
    )
    hub = Hub(
        max_lag_bytes=settings.max_lag_bytes,
        max_connection_lag_bytes=settings.max_connection_lag_bytes,
        max_lag_total_bytes=settings.max_lag_total_bytes,
        max_lag_s=settings.max_lag_seconds,
        ping_interval_s=timings.ping_interval_s,
        pong_timeout_s=timings.pong_timeout_s,
        on_evict=sessions.on_evicted,
    )
    admission = Admission(connection_count_of(settings, served=capacity.served), sessions.turn_away)
    return _Base(
        settings=settings,
        timings=timings,
        metrics=metrics,
        authenticator=authenticator,
        tls=tls,
        files=files,
        incoming_files=incoming_files,
        transfers=transfers,
        capacity=capacity,
        sessions=sessions,
        hub=hub,
        admission=admission,
    )


def _build_worker(
    base: _Base, listener: socket.socket, broker: Broker, *, presence: Presence, pages: Pages
) -> WorkerComponents:
    settings = base.settings
    chat = Chat(
        broker,
        base.hub,
        presence=presence,
        pages=pages,
        clock=time.time,
        new_secret=new_secret,
        metrics=base.metrics,
        authenticator=base.authenticator,
        admits_guests=settings.auth != "jwt",
        guest_rights=GUEST_RIGHTS if settings.guest_rights == "write" else frozenset({Right.READ}),
        admits_spectators=settings.spectators == "on",
        max_rooms=settings.max_connection_rooms,
        incoming_files=base.incoming_files,
        max_chunk_bytes=settings.max_message_bytes,
    )
    broker.open(delivery=base.hub, receiver=chat)
    clock = asyncio.get_running_loop().time
    context = _build_context(base, chat, clock)
    handshakes = handshake_limiter_of(settings, clock)
    readers = readers_of(settings, base.transfers, wait_s=base.timings.download_wait_s)
    return WorkerComponents(
        settings=settings,
        timings=base.timings,
        metrics=base.metrics,
        authenticator=base.authenticator,
        tls=base.tls,
        files=base.files,
        readers=readers,
        hub=base.hub,
        broker=broker,
        sessions=base.sessions,
        context=context,
        handshakes=handshakes,
        server=_build_server(base, listener, context, handshakes, readers),
    )


def _build_context(base: _Base, chat: Chat, clock: Callable[[], float]) -> Context:
    return Context(
        chat=chat,
        hub=base.hub,
        sessions=base.sessions,
        throttle=Throttle(session_limits_of(base.settings), clock),
        admission=base.admission,
        metrics=base.metrics,
        clock=clock,
        max_message_bytes=base.settings.max_message_bytes,
    )


def _build_server(
    base: _Base,
    listener: socket.socket,
    context: Context,
    handshakes: HandshakeLimiter,
    readers: FairQueue,
) -> HttpServer:
    settings = base.settings
    origins = Origins(settings.allow_origin)
    http_context = HttpContext(
        context,
        origins,
        base.capacity,
        TrustedProxies(
            settings.trusted_proxy, max_address_connections=settings.max_address_connections
        ),
        handshakes,
        visitors_of(settings, served=base.capacity.served),
        echo=settings.debug_echo,
        max_file_bytes=0 if base.files is None else base.files.max_bytes,
        timings=base.timings.http,
    )
    routes = []
    if base.files is not None:
        receiving = transfers_of(settings, base.transfers)
        routes = FileEndpoints(base.files, receiving, readers, base.metrics).routes()
    return HttpServer(
        listener,
        build_app(origins=origins, frames=settings.allow_frame, routes=routes),
        http_context,
        base.tls,
        stop_s=base.timings.drain_s,
        keep_alive_s=base.timings.keep_alive_s,
    )
