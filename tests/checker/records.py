"""What a run leaves: each client's events in their order, and the history at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple


class Kind(StrEnum):
    """Anomalies: each is a promise that was broken."""

    ORDER = "publications came in another order than that of their offsets"
    GAP = "an offset is missing in a view without interruption, or in the history"
    DOUBLE = "a publication came twice in a view without interruption"
    CONTENT = "one publication had different contents"
    REUSED = "two publications had the same offset in one epoch"
    LOST = "a publication that was seen or acknowledged is not in the final history"
    TWICE = "an id was published twice"
    ACK = "an acknowledgement named another publication"
    PHANTOM = "a message that nobody sent"
    RECOVERY = "recovered was true, and yet something was skipped or repeated"
    EPOCH = "recovered was true, and yet the epoch is another"
    PAGE = "a page of history skipped, repeated or invented messages"
    FOLD = "a message was not in the state that its edits, deletion and reactions make"
    UNSETTLED = "a client did not get, or get rid of, everything in the end"


class Position(NamedTuple):
    epoch: str
    offset: int


class Seen(NamedTuple):
    """A publication as somebody saw it. The first five fields never change.

    `facts` are the username, the timestamp, the target, the emoji and `remove`. A
    message in a page may have been changed: then it is `edited` or `deleted`, or has
    `reactions`, pairs of an emoji and its names.
    """

    room: str
    offset: int
    kind: str
    id: str | None
    facts: tuple[Any, ...]
    text: str
    edited: str | None = None
    deleted: bool = False
    reactions: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def username(self) -> str:
        return str(self.facts[0])


class Sent(NamedTuple):
    """A message was sent, for the first time or again."""

    room: str
    username: str
    id: str
    text: str


class Acked(NamedTuple):
    """The server said of a message that was sent again that it has it, and where."""

    room: str
    username: str
    id: str
    offset: int


class Joined(NamedTuple):
    """A `joined` reply to a `join` with `since`."""

    room: str
    since: Position | None
    position: Position
    recovered: bool
    publications: tuple[Seen, ...]


class Live(NamedTuple):
    """A publication came after a `joined` reply."""

    publication: Seen


class Lost(NamedTuple):
    """The connection ended, and with it every view."""


Event = Sent | Acked | Joined | Live | Lost


class Final(NamedTuple):
    """A room at the end: what its pages give, and the rows of its file."""

    position: Position
    pages: tuple[Seen, ...]
    rows: tuple[Seen, ...]


@dataclass
class Records:
    """`clients` are the events of each; `unsettled` says in words what did not end well.

    `refusals` counts errors by code: for people to see that a disk was full, say.
    """

    clients: dict[str, list[Event]] = field(default_factory=dict)
    final: dict[str, Final] = field(default_factory=dict)
    unsettled: list[str] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)


def seen(fields: Mapping[str, Any]) -> Seen:
    """A publication from the wire."""
    reactions = fields.get("reactions") or {}
    return Seen(
        fields["room"],
        fields["offset"],
        fields["type"],
        fields.get("id"),
        (
            fields["username"],
            fields["timestamp"],
            fields.get("target"),
            fields.get("emoji"),
            bool(fields.get("remove")),
        ),
        fields.get("text", ""),
        fields.get("edited"),
        bool(fields.get("deleted")),
        tuple(sorted((emoji, tuple(names)) for emoji, names in reactions.items())),
    )
