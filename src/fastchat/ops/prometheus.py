"""The table of a server's metrics, and their rendering in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from fastchat.metrics import with_usage

__all__ = ["SERIES", "Parts", "Series", "render"]

#: The counters of each part (a process of the server), by the part's name.
Parts = Mapping[str, Mapping[str, Any]]


class Series(NamedTuple):
    """A metric, and the key of its value in the snapshot of a part.

    Every metric has the label `part`. If the metric has further `labels`, the value in the snapshot
    maps each value of the first of them to a count, or to such a mapping for the next one. `kind`
    is gauge, counter or histogram.
    """

    name: str
    kind: str
    key: str
    help: str
    labels: tuple[str, ...] = ()


#: docs/operations.md has the same table; a test compares the two.
SERIES = (
    Series("fastchat_up", "gauge", "up", "1 while the process runs, 0 while it is down."),
    Series("fastchat_uptime_seconds", "gauge", "uptime_s", "Seconds since the process started."),
    Series(
        "fastchat_restarts_total",
        "counter",
        "restarts",
        "Times that the supervisor restarted the process because it had died; rolling restarts do "
        "not count.",
    ),
    Series(
        "fastchat_relay_connected",
        "gauge",
        "relay_connected",
        "1 while the worker is connected to the relay, 0 while its clients are refused.",
    ),
    Series(
        "fastchat_resident_memory_bytes",
        "gauge",
        "resident_bytes",
        "Resident memory of the process.",
    ),
    Series("fastchat_cpu_seconds_total", "counter", "cpu_s", "CPU time that the process has used."),
    Series("fastchat_connections", "gauge", "connections", "Open WebSocket connections."),
    Series(
        "fastchat_blocked_connections",
        "gauge",
        "blocked",
        "Open connections whose client reads more slowly than the server sends.",
    ),
    Series("fastchat_rooms", "gauge", "rooms", "Rooms with members."),
    Series("fastchat_users", "gauge", "users", "Users in rooms; a user in two rooms counts twice."),
    Series(
        "fastchat_spectators",
        "gauge",
        "spectators",
        "Connections in rooms that read without a name; one in two rooms counts twice.",
    ),
    Series(
        "fastchat_log_bytes",
        "gauge",
        "log_bytes",
        "Bytes in the logs of rooms, kept in memory for connections that lag behind.",
    ),
    Series(
        "fastchat_lag_bytes",
        "gauge",
        "lag_bytes",
        "Bytes kept in memory for slow connections, in logs and in write buffers; "
        "--max-lag-total-bytes bounds them.",
    ),
    Series(
        "fastchat_accepted_connections_total",
        "counter",
        "connections_total",
        "WebSocket handshakes that the server accepted.",
    ),
    Series(
        "fastchat_publications_total",
        "counter",
        "publications_total",
        "Publications that the history stored.",
    ),
    Series(
        "fastchat_history_writable",
        "gauge",
        "history_writable",
        "1 while the history can store messages, 0 while it cannot.",
    ),
    Series(
        "fastchat_failed_commits_total",
        "counter",
        "failed_commits_total",
        "Appends to the history that failed; the senders got `unavailable`.",
    ),
    Series(
        "fastchat_broadcasts_total",
        "counter",
        "publications",
        "Publications, joins and leaves sent to the members of a room.",
    ),
    Series(
        "fastchat_deliveries_total",
        "counter",
        "deliveries",
        "Broadcasts written to sockets, counted once for each member.",
    ),
    Series("fastchat_sent_bytes_total", "counter", "bytes", "Bytes written to client sockets."),
    Series(
        "fastchat_evictions_total",
        "counter",
        "evictions",
        "Connections that the server closed because the client read too slowly or vanished, by "
        "close code.",
        ("code",),
    ),
    Series(
        "fastchat_slow_evictions_total",
        "counter",
        "slow_evictions",
        "Connections evicted with 4008, by cause: `room`, `connection` and `total` for "
        "--max-lag-bytes, --max-connection-lag-bytes and --max-lag-total-bytes, `time` for "
        "--max-lag-seconds, `replies` for replies that the client did not read.",
        ("cause",),
    ),
    Series(
        "fastchat_closes_total",
        "counter",
        "closes",
        "Connections that ended, by close code: 1006 without a close frame, `other` for codes that "
        "only clients use.",
        ("code",),
    ),
    Series(
        "fastchat_refusals_total",
        "counter",
        "refusals",
        "Commands that the server refused, by error code.",
        ("reason",),
    ),
    Series(
        "fastchat_refused_connections_total",
        "counter",
        "turned_away",
        "Connections and handshakes refused because of a limit, by limit.",
        ("limit",),
    ),
    Series(
        "fastchat_handshake_refusals_total",
        "counter",
        "handshake_refusals",
        "WebSocket handshakes refused over HTTP, by status.",
        ("status",),
    ),
    Series("fastchat_files", "gauge", "kept_files", "Shared files that the server keeps."),
    Series(
        "fastchat_file_bytes",
        "gauge",
        "kept_file_bytes",
        "Bytes of shared files that count against --max-files-bytes.",
    ),
    Series(
        "fastchat_orphaned_files",
        "gauge",
        "orphaned_files",
        "Shared files that are kept although their messages or their index entries are missing.",
    ),
    Series("fastchat_uploads_total", "counter", "files_total", "Uploads that completed."),
    Series(
        "fastchat_uploaded_bytes_total",
        "counter",
        "file_bytes_total",
        "Bytes of the uploads that completed.",
    ),
    Series(
        "fastchat_file_refusals_total",
        "counter",
        "file_refusals",
        "Uploads and downloads refused over HTTP, by status.",
        ("status",),
    ),
    Series(
        "fastchat_api_requests_total",
        "counter",
        "api_requests",
        "Requests to the HTTP API, by the name of the key, the operation and the status; `-` if "
        "there was no key or no such operation.",
        ("key", "operation", "status"),
    ),
    Series(
        "fastchat_incoming_webhook_requests_total",
        "counter",
        "incoming_requests",
        "Requests to incoming webhooks, by the id of the webhook and the status; `-` if there was "
        "no such webhook.",
        ("webhook", "status"),
    ),
    Series(
        "fastchat_full_disk_refusals_total",
        "counter",
        "full_disk_refusals_total",
        "Uploads refused to keep disk space free for messages.",
    ),
    Series(
        "fastchat_deleted_files_total",
        "counter",
        "deleted_files_total",
        "Shared files deleted because no message links to them.",
    ),
    Series(
        "fastchat_dropped_log_lines_total",
        "counter",
        "dropped_log_lines_total",
        "Log lines that were dropped because standard error did not take them.",
    ),
    Series(
        "fastchat_commit_seconds", "histogram", "commit_s", "Duration of an append to the history."
    ),
    Series(
        "fastchat_api_seconds",
        "histogram",
        "api_s",
        "Duration of a request to the HTTP API, except streams.",
    ),
    Series(
        "fastchat_machines", "gauge", "machines", "Machines that share the engine and are there."
    ),
    Series(
        "fastchat_engine_up",
        "gauge",
        "engine_up",
        "1 while the engine answers, 0 while it does not; `ledger` has its host, database and "
        "schema.",
        ("ledger",),
    ),
    Series(
        "fastchat_engine_beat_seconds",
        "gauge",
        "engine_beat_s",
        "Time that the engine took to answer the last beat, which is sent once a second.",
        ("ledger",),
    ),
    Series(
        "fastchat_engine_clock_skew_seconds",
        "gauge",
        "engine_skew_s",
        "How far this machine's clock is ahead of the engine's.",
        ("ledger",),
    ),
    Series(
        "fastchat_engine_queue_usage_ratio",
        "gauge",
        "engine_queue_usage",
        "Share of PostgreSQL's queue of notifications that is used; above 0.25 messages of other "
        "machines arrive later.",
        ("ledger",),
    ),
    Series(
        "fastchat_engine_waiting",
        "gauge",
        "engine_waiting",
        "Publications that have not been committed yet.",
        ("ledger",),
    ),
    Series(
        "fastchat_engine_reconnects_total",
        "counter",
        "engine_reconnects_total",
        "Times that the connections to the engine were lost and made again.",
        ("ledger",),
    ),
    Series(
        "fastchat_engine_doubts_total",
        "counter",
        "engine_doubts",
        "Commits whose answer was lost, by what was found out: `kept`, `lost` or `unknown`.",
        ("ledger", "outcome"),
    ),
    Series(
        "fastchat_engine_gaps_total",
        "counter",
        "engine_gaps_total",
        "Gaps in the streams of rooms, most of them closed by a notification that came late.",
        ("ledger",),
    ),
    Series(
        "fastchat_engine_reads_total",
        "counter",
        "engine_reads_total",
        "Reads of publications that no notification brought.",
        ("ledger",),
    ),
    Series(
        "fastchat_engine_tokens_total",
        "counter",
        "engine_tokens_total",
        "Times that the rooms got new epochs, because the engine may lack messages.",
        ("ledger",),
    ),
    Series(
        "fastchat_loop_lag_seconds",
        "histogram",
        "loop_lag_s",
        "Delay between when a callback was due and when the event loop ran it.",
    ),
    Series(
        "fastchat_before_publish_total",
        "counter",
        "before_publish",
        "Commands about which the hook before publishing was asked, by outcome: `allowed`, "
        "`changed`, `refused`, `disconnected`, `failed` without a valid answer, or `skipped` "
        "while the hook keeps failing.",
        ("outcome",),
    ),
    Series(
        "fastchat_before_join_total",
        "counter",
        "before_join",
        "Joins about which the hook before joining was asked, by the same outcomes.",
        ("outcome",),
    ),
    Series(
        "fastchat_hook_failing",
        "gauge",
        "hooks_failing",
        "1 while a hook keeps failing and is not asked, 0 otherwise.",
        ("hook",),
    ),
    Series("fastchat_hook_seconds", "histogram", "hook_s", "Duration of a question to a hook."),
    Series(
        "fastchat_webhook_deliveries_total",
        "counter",
        "webhook_delivered",
        "Events that the receiver of a webhook has accepted.",
        ("webhook",),
    ),
    Series(
        "fastchat_webhook_failures_total",
        "counter",
        "webhook_failed",
        "Deliveries to a webhook that failed, and are repeated.",
        ("webhook",),
    ),
    Series(
        "fastchat_webhook_dropped_total",
        "counter",
        "webhook_dropped",
        "Joins and leaves that a webhook was not told of.",
        ("webhook",),
    ),
    Series(
        "fastchat_webhook_given_up_total",
        "counter",
        "webhook_given_up",
        "Publications that could not be delivered to a webhook for a day, and were given up.",
        ("webhook",),
    ),
    Series(
        "fastchat_webhook_gaps_total",
        "counter",
        "webhook_gaps",
        "Times that publications were dropped before a webhook was told of them.",
        ("webhook",),
    ),
    Series(
        "fastchat_webhook_behind",
        "gauge",
        "webhook_behind",
        "Publications that a webhook is to be told of.",
        ("webhook",),
    ),
    Series(
        "fastchat_webhook_behind_seconds",
        "gauge",
        "webhook_behind_s",
        "Age of the oldest publication that a webhook is to be told of.",
        ("webhook",),
    ),
    Series(
        "fastchat_webhook_ended",
        "gauge",
        "webhook_ended",
        "1 if the receiver of a webhook has answered that it wants no events any more, 0 "
        "otherwise.",
        ("webhook",),
    ),
    Series(
        "fastchat_relay_lag_seconds",
        "histogram",
        "relay_lag_s",
        "Round-trip time from a worker to the relay and back.",
    ),
)

_FAMILIES: dict[str, Any] = {
    "gauge": GaugeMetricFamily,
    "counter": CounterMetricFamily,
    "histogram": HistogramMetricFamily,
}


def render(parts: Parts) -> bytes:
    """Render the snapshots in Prometheus' text format.

    If a snapshot lacks a value, or has a value of another shape, the sample is left out.
    """
    registry = CollectorRegistry()
    registry.register(_Snapshots(with_usage(parts)))
    return generate_latest(registry)


class _Snapshots(Collector):
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def describe(self) -> list[Metric]:
        return []  # the registry would check for duplicate names, but has only this collector

    def collect(self) -> Iterator[Metric]:
        for series in SERIES:
            labels = ["part", *series.labels]
            family = _FAMILIES[series.kind](series.name, series.help, labels=labels)
            for name, part in self._parts.items():
                try:
                    samples = _samples(series, part[series.key])
                except (KeyError, TypeError, ValueError, AttributeError):
                    continue  # the part does not count this, or runs another version
                for values_of_labels, *values in samples:
                    family.add_metric([name, *values_of_labels], *values)
            if family.samples:
                yield family


def _samples(series: Series, value: Any) -> list[tuple[Any, ...]]:
    """The labels and arguments for `add_metric` of the metric's family."""
    if series.kind == "histogram":
        total, buckets = 0, []
        bounds = [*(repr(float(bound)) for bound in value["bounds"]), "+Inf"]
        for bound, count in zip(bounds, value["counts"], strict=True):
            total += int(count)
            buckets.append((bound, total))
        return [((), buckets, float(value["sum"]))]
    return list(_counts(value, len(series.labels)))


def _counts(value: Any, depth: int) -> Iterator[tuple[tuple[str, ...], float]]:
    """The numbers in mappings of so many labels, each with the values of its labels."""
    if not depth:
        yield (), float(value)
        return
    for label, inner in value.items():
        for labels, count in _counts(inner, depth - 1):
            yield (str(label), *labels), count
