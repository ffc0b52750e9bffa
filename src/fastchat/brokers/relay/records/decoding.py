"""Decoding: the type of record for each `RecordKind`, in both directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from fastchat.brokers.relay.records import from_relay, from_worker
from fastchat.brokers.relay.records.from_relay import FromRelay
from fastchat.brokers.relay.records.from_worker import FromWorker
from fastchat.brokers.relay.wire import BadRecord, RecordKind

__all__ = ["decode_from_relay", "decode_from_worker"]

_FROM_WORKER: Mapping[int, Callable[[Any, bytes], FromWorker]] = {
    RecordKind.HELLO: from_worker.Hello.decode,
    RecordKind.RESTORE: from_worker.Restore.decode,
    RecordKind.PUBLISH: from_worker.Publish.decode,
    RecordKind.JOIN: from_worker.Join.decode,
    RecordKind.LEAVE: from_worker.Leave.decode,
    RecordKind.LOSE: from_worker.Lose.decode,
    RecordKind.TELL: from_worker.Tell.decode,
    RecordKind.BEFORE: from_worker.Before.decode,
    RecordKind.AFTER: from_worker.After.decode,
    RecordKind.SEARCH: from_worker.Search.decode,
    RecordKind.REPORT: from_worker.Report.decode,
    RecordKind.PING: from_worker.Ping.decode,
    RecordKind.STATUS: from_worker.AskStatus.decode,
    RecordKind.REMOVE: from_worker.Remove.decode,
    RecordKind.ADMINISTER: from_worker.Administer.decode,
    RecordKind.OPERATE: from_worker.Operate.decode,
    RecordKind.ENTER: from_worker.Enter.decode,
    RecordKind.IDENTIFY: from_worker.Identify.decode,
    RecordKind.EXIT: from_worker.Exit.decode,
    RecordKind.CONNECTIONS: from_worker.Connections.decode,
}
_FROM_RELAY: Mapping[int, Callable[[Any, bytes], FromRelay]] = {
    RecordKind.WELCOME: from_relay.Welcome.decode,
    RecordKind.DELIVER: from_relay.Deliver.decode,
    RecordKind.EVENT: from_relay.Event.decode,
    RecordKind.ANSWER: from_relay.Answer.decode,
    RecordKind.JOINED: from_relay.Joined.decode,
    RecordKind.LEFT: from_relay.Left.decode,
    RecordKind.PAGE: from_relay.Page.decode,
    RecordKind.REFUSED: from_relay.Refused.decode,
    RecordKind.LOST: from_relay.Lost.decode,
    RecordKind.PONG: from_relay.Pong.decode,
    RecordKind.EXPEL: from_relay.Expel.decode,
    RecordKind.REMOVED: from_relay.Removed.decode,
    RecordKind.ADMINISTERED: from_relay.Administered.decode,
    RecordKind.OPERATED: from_relay.Operated.decode,
    RecordKind.RESTARTED: from_relay.Restarted.decode,
    RecordKind.TURN_AWAY: from_relay.TurnAway.decode,
    RecordKind.SEND_AWAY: from_relay.SendAway.decode,
    RecordKind.KNOW: from_relay.Know.decode,
    RecordKind.STATUS: from_relay.Status.decode,
}
#: The kinds that have a tail. In any other record, a tail is an error.
_WITH_TAIL = {
    RecordKind.PUBLISH,
    RecordKind.TELL,
    RecordKind.DELIVER,
    RecordKind.EVENT,
    RecordKind.JOINED,
    RecordKind.PAGE,
    RecordKind.ADMINISTERED,
}

Record = TypeVar("Record")


def decode_from_worker(kind: int, head: Any, tail: bytes) -> FromWorker:
    """Return the record of a worker from the parts that `RecordReader` reads.

    Raises BadRecord if a worker sends no record of this kind, or if a field is wrong.
    """
    return _decode(_FROM_WORKER, kind, head, tail)


def decode_from_relay(kind: int, head: Any, tail: bytes) -> FromRelay:
    """Return the record of the relay from the parts that `RecordReader` reads.

    Raises BadRecord if the relay sends no record of this kind, or if a field is wrong.
    """
    return _decode(_FROM_RELAY, kind, head, tail)


def _decode(
    decoders: Mapping[int, Callable[[Any, bytes], Record]], kind: int, head: Any, tail: bytes
) -> Record:
    decode = decoders.get(kind)
    if decode is None:
        raise BadRecord(f"an unknown kind of record, {kind}")
    try:
        if tail and kind not in _WITH_TAIL:
            raise BadRecord("a tail where there is none")
        return decode(head, tail)
    except BadRecord as error:
        raise BadRecord(f"{RecordKind(kind).name}: {error}") from None
