"""What operators' machines ask: `/metrics` for Prometheus, `/livez` and `/readyz` for probes.

On an address of its own, so that it need not be where clients are. Whoever asks gets
one answer a connection, and a few seconds for it: a scraper that stalls holds nothing.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, NamedTuple

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from fastchat.errors import SettingError
from fastchat.metrics import with_usage

__all__ = ["SERIES", "Admin", "Parts", "Series", "listen_admin", "render"]

#: The snapshots of all parts, by the part's name.
Parts = Mapping[str, Mapping[str, Any]]

#: From accept to the end of the answer; Prometheus gives up after as long.
CONNECTION_S = 10.0
MAX_CONNECTIONS = 32
#: A request, whatever is in it. Prometheus' are some 300 bytes.
MAX_REQUEST_BYTES = 16 * 1024
#: Answers that are under way when the server stops.
CLOSE_S = 0.5
BACKLOG = 64


def listen_admin(host: str, port: int) -> socket.socket:
    """A listening socket for an `Admin`; raises SettingError when it cannot be had."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise SettingError(f"--admin-host {host!r} is not an address of this machine.") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise SettingError(_why_not(error, host, port)) from None
    listener.setblocking(False)
    return listener


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"--admin-port {port} is taken on {host}; choose another port."
    if error.errno == errno.EACCES:
        return f"--admin-port {port} needs privileges; choose one from 1024 on."
    why = os.strerror(error.errno or 0)
    return f"--admin-host {host} --admin-port {port} cannot be listened on: {why}."


# The metrics


class Series(NamedTuple):
    """A metric, and where a part's snapshot has it. All are labelled with their `part`."""

    name: str
    kind: str  # gauge, counter or histogram
    key: str
    help: str
    label: str | None = None  # then the snapshot has a count for each of its values


#: docs/operations.md has the same table; a test holds the two together.
SERIES = (
    Series("fastchat_up", "gauge", "up", "Whether the part runs."),
    Series("fastchat_uptime_seconds", "gauge", "uptime_s", "Time since the part's start."),
    Series(
        "fastchat_restarts_total", "counter", "restarts", "Times that the part was started again."
    ),
    Series(
        "fastchat_resident_memory_bytes", "gauge", "resident_bytes", "Memory that the part holds."
    ),
    Series("fastchat_cpu_seconds_total", "counter", "cpu_s", "CPU time that the part has used."),
    Series("fastchat_connections", "gauge", "connections", "Connections that are open."),
    Series(
        "fastchat_blocked_connections",
        "gauge",
        "blocked",
        "Connections that read more slowly than they are sent to.",
    ),
    Series("fastchat_rooms", "gauge", "rooms", "Rooms with members."),
    Series("fastchat_users", "gauge", "users", "Names in use, counted once a room."),
    Series("fastchat_log_bytes", "gauge", "log_bytes", "Kept for connections that lag behind."),
    Series(
        "fastchat_accepted_connections_total",
        "counter",
        "connections_total",
        "Connections that became WebSockets.",
    ),
    Series(
        "fastchat_publications_total",
        "counter",
        "publications_total",
        "Publications that the history has kept.",
    ),
    Series(
        "fastchat_broadcasts_total",
        "counter",
        "publications",
        "Publications, joins and leaves that went to the members of a room.",
    ),
    Series(
        "fastchat_deliveries_total",
        "counter",
        "deliveries",
        "Broadcasts handed to the sockets of members.",
    ),
    Series("fastchat_sent_bytes_total", "counter", "bytes", "Bytes handed to sockets."),
    Series(
        "fastchat_evictions_total",
        "counter",
        "evictions",
        "Connections that the server gave up, by close code.",
        "code",
    ),
    Series(
        "fastchat_closes_total",
        "counter",
        "closes",
        "Connections that ended, by close code: 1006 for none, `other` for a client's own.",
        "code",
    ),
    Series(
        "fastchat_refusals_total",
        "counter",
        "refusals",
        "Commands that were refused, by the error's code.",
        "reason",
    ),
    Series(
        "fastchat_refused_connections_total",
        "counter",
        "turned_away",
        "Connections and handshakes that were one too many, by limit.",
        "limit",
    ),
    Series("fastchat_files", "gauge", "kept_files", "Shared files that are kept."),
    Series(
        "fastchat_file_bytes", "gauge", "kept_file_bytes", "What these count against the limit."
    ),
    Series("fastchat_uploads_total", "counter", "files_total", "Files that came, and were kept."),
    Series("fastchat_uploaded_bytes_total", "counter", "file_bytes_total", "Bytes of these."),
    Series(
        "fastchat_file_refusals_total",
        "counter",
        "file_refusals",
        "Files that were refused over HTTP, sent or asked for, by status.",
        "status",
    ),
    Series(
        "fastchat_full_disk_refusals_total",
        "counter",
        "full_disk_refusals_total",
        "Files that were refused because the disk's rest is for messages.",
    ),
    Series(
        "fastchat_deleted_files_total",
        "counter",
        "deleted_files_total",
        "Files that were deleted because no message has them.",
    ),
    Series("fastchat_commit_seconds", "histogram", "commit_s", "Time of an append to the history."),
    Series(
        "fastchat_loop_lag_seconds", "histogram", "loop_lag_s", "How late the event loop comes."
    ),
    Series(
        "fastchat_relay_lag_seconds",
        "histogram",
        "relay_lag_s",
        "Time from a worker to the relay and back.",
    ),
)

_FAMILIES: dict[str, Any] = {
    "gauge": GaugeMetricFamily,
    "counter": CounterMetricFamily,
    "histogram": HistogramMetricFamily,
}


def render(parts: Parts) -> bytes:
    """The snapshots as Prometheus reads them; what a snapshot lacks is left out."""
    registry = CollectorRegistry()
    registry.register(_Snapshots(with_usage(parts)))
    return generate_latest(registry)


class _Snapshots(Collector):
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def describe(self) -> list[Metric]:
        return []  # the names clash with nothing: the registry has one collector

    def collect(self) -> Iterator[Metric]:
        for series in SERIES:
            labels = ["part"] if series.label is None else ["part", series.label]
            family = _FAMILIES[series.kind](series.name, series.help, labels=labels)
            for name, part in self._parts.items():
                try:
                    samples = _samples(series, part[series.key])
                except (KeyError, TypeError, ValueError, AttributeError):
                    continue  # a part of another version, or none of this part's business
                for label, *values in samples:
                    family.add_metric([name, *label], *values)
            if family.samples:
                yield family


def _samples(series: Series, value: Any) -> list[tuple[Any, ...]]:
    """The labels and arguments of a family's `add_metric`."""
    if series.kind == "histogram":
        total, buckets = 0, []
        bounds = [*(repr(float(bound)) for bound in value["bounds"]), "+Inf"]
        for bound, count in zip(bounds, value["counts"], strict=True):
            total += int(count)
            buckets.append((bound, total))
        return [((), buckets, float(value["sum"]))]
    if series.label is not None:
        return [((str(label),), float(count)) for label, count in value.items()]
    return [((), float(value))]


# The server


class Admin:
    """The endpoints: whether it lives, whether it is ready (None, or why not), and its parts."""

    def __init__(
        self,
        live: Callable[[], bool],
        ready: Callable[[], str | None],
        parts: Callable[[], Awaitable[Parts]],
    ) -> None:
        self._live = live
        self._ready = ready
        self._parts = parts
        self._state = ServerState()
        self._state.default_headers = _HEADERS
        self._server: asyncio.Server | None = None

    async def serve(self, listener: socket.socket) -> None:
        """Answer on `listener`, in the running loop, until `close`; returns at once."""
        config = uvicorn.Config(
            self._app(),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
        )
        config.load()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Protocol(config=config, server_state=self._state, app_state={}),
            sock=listener,
        )

    async def close(self) -> None:
        """Stop listening and end every connection; an answer under way has a moment."""
        if self._server is not None:
            self._server.close()
        if self._state.tasks:
            await asyncio.wait(tuple(self._state.tasks), timeout=CLOSE_S)
        for connection in tuple(self._state.connections):
            connection.transport.abort()

    def _app(self) -> Starlette:
        async def livez(request: Request) -> Response:
            return _text("live", 200) if self._live() else _text("not live", 503)

        async def readyz(request: Request) -> Response:
            reason = self._ready()
            return _text("ready", 200) if reason is None else _text(reason, 503)

        async def metrics(request: Request) -> Response:
            body = render(await self._parts())
            return Response(body, headers={"content-type": CONTENT_TYPE_LATEST})

        async def nothing(request: Request) -> Response:
            return _text("Not found", 404)

        return Starlette(
            routes=[
                Route("/livez", livez),
                Route("/readyz", readyz),
                Route("/metrics", metrics),
                Route("/{path:path}", nothing),
            ]
        )


#: Of every answer.
_HEADERS = [(b"cache-control", b"no-store"), (b"connection", b"close")]


def _text(line: str, status: int) -> PlainTextResponse:
    return PlainTextResponse(line + "\n", status)


class _Protocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol for one small request, and a deadline for all of it."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._received_bytes = 0
        self._deadline = self.loop.call_later(CONNECTION_S, transport.abort)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received_bytes += len(data)
        if self._received_bytes > MAX_REQUEST_BYTES:
            self.transport.abort()
        else:
            super().data_received(data)
