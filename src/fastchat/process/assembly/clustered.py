"""Builds the objects of one of several workers: those that serve clients, and its relay."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from fastchat.brokers import Pages
from fastchat.brokers.relay.administration import RelayAdministration
from fastchat.brokers.relay.client import RelayBroker
from fastchat.brokers.relay.counts import Counts
from fastchat.brokers.relay.pages import FilePages, RelayPages
from fastchat.history.reader import HistoryReader
from fastchat.metrics import Metrics
from fastchat.process.assembly.worker import WorkerComponents, build_base, build_worker
from fastchat.process.timings import WorkerTimings
from fastchat.settings import Settings

__all__ = ["ClusteredComponents", "build_clustered"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusteredComponents:
    """The objects of one of several workers; `relay` is its connection to the relay.

    The `reader` reads the file of the history; None if there is no such file.
    """

    worker: WorkerComponents
    relay: RelayBroker
    reader: HistoryReader | None


def build_clustered(
    settings: Settings,
    listener: socket.socket,
    *,
    name: str,
    timings: WorkerTimings,
    api_listener: socket.socket | None = None,
) -> ClusteredComponents:
    """Build the worker `name` of several, in its running loop. Raises SettingError."""
    base = build_base(settings, timings, Metrics())
    directory = Path(settings.data)
    counts = Counts(base.admission)
    base.admission.open(counts)
    relay = RelayBroker(
        directory,
        name=name,
        metrics=base.metrics,
        counts=counts,
        send_away=base.sessions.send_away,
        # Without an engine there is no other machine to which clients could go.
        patience_s=settings.engine_patience if settings.engine else None,
    )
    pages: Pages = RelayPages(relay)
    reader = HistoryReader(directory) if settings.has_history_file else None
    if reader is not None:
        pages = FilePages(reader, searching=pages)
        # A new relay can have another file, if the directory was replaced by a copy.
        relay.on_welcome = reader.open_again
    worker = build_worker(
        base,
        listener,
        relay,
        presence=relay,
        pages=pages,
        administration=RelayAdministration(relay),
        api_listener=api_listener,
    )
    return ClusteredComponents(worker=worker, relay=relay, reader=reader)
