"""The records that workers and the relay send each other: one type for each kind.

`fastchat.brokers.relay.wire` frames the records; this package defines their fields. The docstring
of a type states the layout of its record: the head, which is JSON, and the tail if there is one.
`encode` and `decode` of a record stand side by side. All times are seconds of the machine's
monotonic clock, which its processes share.

A worker introduces itself with HELLO, one RESTORE for each of its rooms, and CONNECTIONS. The
relay sends the publications that the worker has missed, and then WELCOME. From then on the worker
sends drafts and requests. The relay sends the events of a room in the order in which they happened.

A request carries a number that the worker has chosen, and a deadline after which the worker no
longer waits. The reply (JOINED, LEFT, PAGE, REMOVED, ADMINISTERED) or the refusal (REFUSED)
carries the same number.

`decode` checks each field and raises BadRecord if a record has another shape. Therefore the code
that uses a record sees typed values only.
"""

from __future__ import annotations

from fastchat.brokers.relay.records.decoding import decode_from_relay, decode_from_worker
from fastchat.brokers.relay.records.from_relay import (
    Administered,
    Answer,
    Aside,
    Deliver,
    Deliveries,
    Event,
    Expel,
    FromRelay,
    Joined,
    Know,
    Left,
    Lost,
    Operated,
    Page,
    Pong,
    Refusal,
    Refused,
    Removed,
    Reply,
    Restarted,
    Run,
    SendAway,
    Status,
    TurnAway,
    Welcome,
)
from fastchat.brokers.relay.records.from_worker import (
    Administer,
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
    Operate,
    Ping,
    Publish,
    Remove,
    Report,
    Request,
    Restore,
    Said,
    Search,
    Tell,
    Verb,
)

__all__ = [
    "Administer",
    "Administered",
    "After",
    "Answer",
    "Aside",
    "AskStatus",
    "Before",
    "Connection",
    "Connections",
    "Counting",
    "Deliver",
    "Deliveries",
    "Enter",
    "Event",
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
    "Operate",
    "Operated",
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
    "Restarted",
    "Restore",
    "Run",
    "Said",
    "Search",
    "SendAway",
    "Status",
    "Tell",
    "TurnAway",
    "Verb",
    "Welcome",
    "decode_from_relay",
    "decode_from_worker",
]
