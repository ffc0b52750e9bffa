"""What workers and the relay say to each other: a type for each kind of record.

`fastchat.brokers.relay.wire` frames records; here is what is in them. `encode` and `decode` of
a record stand together, and its docstring has its layout: the head, which is JSON, and the
tail if there is one. Seconds are of the machine's monotonic clock, which all processes share.

A worker begins with HELLO, a RESTORE for each of its rooms, and CONNECTIONS. The relay returns
what the worker has missed, and ends that with WELCOME. From then on the worker sends drafts
and requests; what the relay says about a room, it says in the order in which it happened.

A request carries a number that the worker has chosen, and the time when the worker gives up.
Its reply (JOINED, LEFT, PAGE, REMOVED) or its refusal (REFUSED) carries the same number.

Decoding checks everything: a record of another shape raises BadRecord, and past this module
there is no list without a type.
"""

from __future__ import annotations

from fastchat.brokers.relay.records.decoding import decode_from_relay, decode_from_worker
from fastchat.brokers.relay.records.from_relay import (
    Answer,
    Aside,
    Deliver,
    Delivered,
    Deliveries,
    Expel,
    FromRelay,
    Joined,
    Know,
    Left,
    Lost,
    Page,
    Pong,
    Refusal,
    Refused,
    Removed,
    Reply,
    Status,
    TurnAway,
    Welcome,
)
from fastchat.brokers.relay.records.from_worker import (
    After,
    AskStatus,
    Before,
    Connection,
    Connections,
    Counting,
    Enter,
    Exit,
    FromWorker,
    Hello,
    Identify,
    Introduction,
    Join,
    Leave,
    Lose,
    Ping,
    Publish,
    Remove,
    Report,
    Request,
    Restore,
    Said,
    Search,
    Tell,
)

__all__ = [
    "After",
    "Answer",
    "Aside",
    "AskStatus",
    "Before",
    "Connection",
    "Connections",
    "Counting",
    "Deliver",
    "Delivered",
    "Deliveries",
    "Enter",
    "Exit",
    "Expel",
    "FromRelay",
    "FromWorker",
    "Hello",
    "Identify",
    "Introduction",
    "Join",
    "Joined",
    "Know",
    "Leave",
    "Left",
    "Lose",
    "Lost",
    "Page",
    "Ping",
    "Pong",
    "Publish",
    "Refusal",
    "Refused",
    "Remove",
    "Removed",
    "Reply",
    "Report",
    "Request",
    "Restore",
    "Said",
    "Search",
    "Status",
    "Tell",
    "TurnAway",
    "Welcome",
    "decode_from_relay",
    "decode_from_worker",
]
