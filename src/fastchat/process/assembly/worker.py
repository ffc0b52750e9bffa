"""Builds the objects that serve clients, in the only process and in each of several workers."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastchat.auth import GUEST_RIGHTS, Authenticator, Right
from fastchat.brokers import Broker, Pages, Presence
from fastchat.chat import Chat
from fastchat.chat.operations import Operations
from fastchat.connections.context import Context
from fastchat.connections.registry import Sessions
from fastchat.files import Files
from fastchat.files.endpoints import FileEndpoints
from fastchat.files.incoming import IncomingFiles
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
    new_secret,
    open_files,
)
from fastchat.process.timings import WorkerTimings
from fastchat.rooms.administration import Administration
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
    "Base",
    "WorkerComponents",
    "build_base",
    "build_worker",
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
    files: Files | None
    readers: FairQueue
    hub: Hub
    broker: Broker
    operations: Operations
    sessions: Sessions
    context: Context
    handshakes: HandshakeLimiter
    server: HttpServer


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
class Base:
    """The objects that do not depend on how the process reaches the rooms."""

    settings: Settings
    timings: WorkerTimings
    metrics: Metrics
    authenticator: Authenticator | None
    tls: Tls | None
    files: Files | None
    incoming_files: IncomingFiles | None
    transfers: int
    capacity: Capacity
    sessions: Sessions
    hub: Hub
    admission: Admission


def build_base(
    settings: Settings,
    timings: WorkerTimings,
    metrics: Metrics,
    reserved: int = 0,
    capacity: Capacity | None = None,
    transfers: int | None = None,
    incoming_files: IncomingFiles | None = None,
) -> Base:
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
    return Base(
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


def build_worker(
    base: Base,
    listener: socket.socket,
    broker: Broker,
    *,
    presence: Presence,
    pages: Pages,
    administration: Administration,
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
        operations=Operations(broker, pages, administration, clock=time.time),
        sessions=base.sessions,
        context=context,
        handshakes=handshakes,
        server=_build_server(base, listener, context, handshakes, readers),
    )


def _build_context(base: Base, chat: Chat, clock: Callable[[], float]) -> Context:
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
    base: Base,
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
