"""How long a worker waits for the relay, and how much it keeps for it meanwhile."""

from __future__ import annotations

from dataclasses import dataclass

from fastchat.brokers.relay.wire import MAX_RECORD_BYTES

__all__ = ["Bounds"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The bounds of a `RelayBroker`. Tests pass smaller ones."""

    #: A relay that is gone is looked for this often.
    retry_s: float = 0.05
    #: A draft or a request that waits longer than this is answered `unavailable`.
    answer_s: float = 2.0
    #: The same for a search, which can read a lot.
    search_s: float = 5.0
    #: If the relay has left more than this unread, nothing more is asked of it.
    max_backlog_bytes: int = 8 * 1024 * 1024
    #: So many drafts can wait for a relay, whether there is one or not.
    max_drafts: int = 20_000
    #: A relay that sends a larger record than this is not one of ours.
    max_record_bytes: int = MAX_RECORD_BYTES
