"""The contract of `fastchat.brokers.Broker`, as tests that every implementation runs.

`BrokerContract` has the tests for one broker, and `SeveralBrokersContract` those and the tests
for several brokers on the same rooms. A test module subclasses one of them.
"""

from __future__ import annotations

from contracts.broker.administration import AdministrationContract
from contracts.broker.base import (
    PATIENCE_S,
    Faulty,
    Receiver,
    at_once,
    decoded,
    join,
    leave,
    member,
    memory_broker,
    names,
    new_rooms,
    offsets,
    run_in_loop,
    texts,
)
from contracts.broker.several import SeveralBrokersContract
from contracts.broker.single import BrokerContract

__all__ = [
    "PATIENCE_S",
    "AdministrationContract",
    "BrokerContract",
    "Faulty",
    "Receiver",
    "SeveralBrokersContract",
    "at_once",
    "decoded",
    "join",
    "leave",
    "member",
    "memory_broker",
    "names",
    "new_rooms",
    "offsets",
    "run_in_loop",
    "texts",
]
