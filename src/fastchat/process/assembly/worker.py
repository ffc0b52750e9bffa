"""Builds the objects that serve clients, in the only process and in each of several workers."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from fastchat.auth import GUEST_RIGHTS, Authenticator, Right
from fastchat.brokers import Broker, Delivery, Pages, Presence
from fastchat.chat import Chat
from fastchat.chat.operations import Operations
from fastchat.connections.context import Context
from fastchat.connections.registry import Sessions
from fastchat.files import Files
from fastchat.files.endpoints import FileEndpoints
from fastchat.files.incoming import IncomingFiles
from fastchat.files.transfers import BodyRule
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
from fastchat.protocol import FILES_URL
from fastchat.rooms.administration import Administration
from fastchat.settings import Settings
from fastchat.web.capacity import TRANSFER_KINDS, Capacity, count_transfers, measure_capacity
from fastchat.web.context import HttpContext
from fastchat.web.mounts import Mount, Mounts, not_found
from fastchat.web.origins import Origins
from fastchat.web.page import build_app
from fastchat.web.proxies import TrustedProxies
from fastchat.web.server import HttpServer
from fastchat.webhooks.asking import Hooks
from fastchat.webhooks.config import Config, read_config

if TYPE_CHECKING:
    from fastchat.api.application import Api
    from fastchat.api.hooks import IncomingHooks
    from fastchat.api.keys import ApiKeys
    from fastchat.api.receiving import HookReceiver
    from fastchat.web.tls import Tls

__all__ = [
    "Base",
    "WorkerComponents",
    "build_base",
    "build_worker",
    "open_api_keys",
    "open_authenticator",
    "open_incoming_hooks",
    "open_tls",
    "use_hooks",
]


#: Connections to the API in a process, if it has its own port. Backends keep theirs open, so these
#: are enough for hundreds of them among several workers.
API_CAPACITY = Capacity(served=240, accepted=256)


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
    hooks: Hooks
    server: HttpServer
    api_keys: ApiKeys | None
    api: Api | None
    incoming_hooks: IncomingHooks | None
    hook_receiver: HookReceiver | None
    api_server: HttpServer | None

    @property
    def servers(self) -> tuple[HttpServer, ...]:
        """The servers of all ports."""
        return (self.server,) if self.api_server is None else (self.server, self.api_server)


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


def open_api_keys(settings: Settings) -> ApiKeys | None:
    """The keys of the API; None if there is no API. Raises SettingError for a wrong file."""
    if not settings.api_key_file:
        return None
    from fastchat.api.keys import ApiKeys  # imported here, because most servers have no API

    return ApiKeys(settings.api_key_file)


def open_incoming_hooks(settings: Settings) -> IncomingHooks | None:
    """The incoming webhooks; None if there are none. Raises SettingError for a wrong file."""
    if not settings.hook_file:
        return None
    from fastchat.api.hooks import IncomingHooks  # imported here for the same reason

    return IncomingHooks(settings.hook_file)


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
    """The objects that do not depend on how the process reaches the rooms.

    `config` is what the file of the settings says about webhooks and hooks.
    """

    settings: Settings
    timings: WorkerTimings
    metrics: Metrics
    authenticator: Authenticator | None
    tls: Tls | None
    api_keys: ApiKeys | None
    incoming_hooks: IncomingHooks | None
    files: Files | None
    incoming_files: IncomingFiles | None
    transfers: int
    capacity: Capacity
    sessions: Sessions
    hub: Hub
    admission: Admission
    config: Config


def build_base(
    settings: Settings,
    timings: WorkerTimings,
    metrics: Metrics,
    reserved: int = 0,
    capacity: Capacity | None = None,
    transfers: int | None = None,
    incoming_files: IncomingFiles | None = None,
) -> Base:
    config = read_config(settings.config_file)
    authenticator = open_authenticator(settings)
    tls = open_tls(settings)
    api_keys = open_api_keys(settings)
    incoming_hooks = open_incoming_hooks(settings)
    files = open_files(settings, metrics)
    if transfers is None:
        transfers = count_transfers()
    if incoming_files is None and files is not None:
        incoming_files = IncomingFiles(files, transfers_of(settings, transfers))
    if capacity is None:
        reserved += 0 if files is None else TRANSFER_KINDS * transfers
        capacity = measure_capacity(reserved + (API_CAPACITY.accepted if settings.api_port else 0))
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
        api_keys=api_keys,
        incoming_hooks=incoming_hooks,
        files=files,
        incoming_files=incoming_files,
        transfers=transfers,
        capacity=capacity,
        sessions=sessions,
        hub=hub,
        admission=admission,
        config=config,
    )


def build_worker(
    base: Base,
    listener: socket.socket,
    broker: Broker,
    *,
    presence: Presence,
    pages: Pages,
    administration: Administration,
    api_listener: socket.socket | None = None,
) -> WorkerComponents:
    """Build the objects that serve clients, the API if there are keys of it, and webhooks.

    With an `api_listener`, the API is there, and otherwise it is at the address of the page, where
    incoming webhooks always are.
    """
    settings = base.settings
    operations = Operations(broker, pages, administration, clock=time.time)
    delivery: Delivery = base.hub
    api = None
    if base.api_keys is not None:
        from fastchat.process.assembly.api import build_api  # as in `open_api_keys`

        api = build_api(base, base.api_keys, operations)
        delivery = api.delivery
    receiver = None
    if base.incoming_hooks is not None:
        from fastchat.process.assembly.hooks import build_receiver  # as in `open_api_keys`

        receiver = build_receiver(base, base.incoming_hooks, operations)
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
        reserves=_reserving(base),
        incoming_files=base.incoming_files,
        max_chunk_bytes=settings.max_message_bytes,
    )
    hooks = Hooks(base.metrics)
    use_hooks(base.config, hooks, chat)
    broker.open(delivery=delivery, receiver=chat)
    clock = asyncio.get_running_loop().time
    context = _build_context(base, chat, clock)
    handshakes = handshake_limiter_of(settings, clock)
    readers = readers_of(settings, base.transfers, wait_s=base.timings.download_wait_s)
    http_context = _build_http_context(base, context, handshakes)
    mounts = []
    if api is not None and api_listener is None:
        mounts.append(api.mount)
    if receiver is not None:
        from fastchat.process.assembly.hooks import mount_of

        mounts.append(mount_of(receiver))
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
        operations=operations,
        sessions=base.sessions,
        context=context,
        handshakes=handshakes,
        hooks=hooks,
        server=_build_page_server(base, listener, http_context, readers, mounts),
        api_keys=base.api_keys,
        api=None if api is None else api.api,
        incoming_hooks=base.incoming_hooks,
        hook_receiver=receiver,
        api_server=(
            _build_api_server(base, api_listener, http_context, api.mount)
            if api is not None and api_listener is not None
            else None
        ),
    )


def _reserving(base: Base) -> Callable[[str, str], bool]:
    """Whether a name is reserved in a room, for a key of the API or for an incoming webhook."""
    sources = [each for each in (base.api_keys, base.incoming_hooks) if each is not None]

    def reserves(room: str, name: str) -> bool:
        return any(each.reserves(room, name) for each in sources)

    return reserves


def use_hooks(config: Config, hooks: Hooks, chat: Chat) -> None:
    """Have the chat ask the hooks of a configuration from now on."""
    hooks.use(config)
    chat.use_hooks(hooks.before_publish, hooks.before_join)


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


def _build_http_context(base: Base, context: Context, handshakes: HandshakeLimiter) -> HttpContext:
    settings = base.settings
    return HttpContext(
        context,
        Origins(settings.allow_origin),
        base.capacity,
        TrustedProxies(
            settings.trusted_proxy, max_address_connections=settings.max_address_connections
        ),
        handshakes,
        visitors_of(settings, served=base.capacity.served),
        echo=settings.debug_echo,
        timings=base.timings.http,
    )


def _build_page_server(
    base: Base,
    listener: socket.socket,
    context: HttpContext,
    readers: FairQueue,
    mounts: Sequence[Mount],
) -> HttpServer:
    """The server of the page, the files, the WebSockets and `mounts`."""
    files = base.files
    routes = []
    if files is not None:
        receiving = transfers_of(base.settings, base.transfers)
        routes = FileEndpoints(files, receiving, readers, base.metrics).routes()

    def body_rule(method: str, path: str) -> BodyRule | None:
        if files is not None and method == "POST" and path == FILES_URL:
            return BodyRule(files.max_bytes, is_file=True)
        rules = (mount.body_rule(method, path) for mount in mounts)
        return next((rule for rule in rules if rule is not None), None)

    app = build_app(
        origins=context.origins,
        frames=base.settings.allow_frame,
        routes=routes,
        mounts={mount.path: mount.app for mount in mounts},
    )
    return _build_server(base, listener, app, context._replace(body_rule=body_rule))


def _build_api_server(
    base: Base, listener: socket.socket, context: HttpContext, api: Mount
) -> HttpServer:
    """The server of the API at its own address, where there is nothing else."""
    context = context._replace(
        capacity=API_CAPACITY, body_rule=api.body_rule, takes_sockets=False, echo=False
    )
    return _build_server(base, listener, Mounts({api.path: api.app}, not_found), context)


def _build_server(
    base: Base, listener: socket.socket, app: ASGIApp, context: HttpContext
) -> HttpServer:
    return HttpServer(
        listener,
        app,
        context,
        base.tls,
        stop_s=base.timings.drain_s,
        keep_alive_s=base.timings.keep_alive_s,
    )
