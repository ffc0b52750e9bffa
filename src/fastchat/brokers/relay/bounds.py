"""Bounds of a worker's wait for the relay: in time, in bytes and in drafts."""

from __future__ import annotations

from dataclasses import dataclass

from fastchat.brokers.relay.wire import MAX_RECORD_BYTES

__all__ = ["Bounds"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The bounds of a `RelayBroker`. Tests pass smaller ones."""

    #: While there is no relay, the worker tries to connect at this interval.
    retry_s: float = 0.05
    #: A draft or a request that has waited for this long is refused as `unavailable`. It is longer
    #: than a new relay waits for its workers (`server.GATHERING_S`), so that a request outlasts
    #: the restart of a relay.
    answer_s: float = 2.0
    #: A search has more time than other requests, because it can read a large part of a room.
    search_s: float = 5.0
    #: If the relay has more than this still to read, the worker sends it no drafts and no requests,
    #: and refuses them as `unavailable`. This bounds the memory for a relay that hangs.
    max_backlog_bytes: int = 8 * 1024 * 1024
    #: The drafts that can wait for an outcome. If there are more, the newest are refused.
    max_drafts: int = 20_000
    #: The largest record that the relay can send; a larger one ends the connection.
    max_record_bytes: int = MAX_RECORD_BYTES
