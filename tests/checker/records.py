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
    AWAY = "somebody was announced as gone who was there, or back in time"
    ROSTER = "who is in a room was not told, or told wrongly"
    NAME = "two had one name in a room"
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
    """A `joined` reply to a `join` with `since`; `users` are all, if `online` are few."""

    room: str
    since: Position | None
    position: Position
    recovered: bool
    publications: tuple[Seen, ...]
    at: float = 0.0
    users: tuple[str, ...] = ()
    online: int = 0


class Live(NamedTuple):
    """A publication came after a `joined` reply."""

    publication: Seen


class Lost(NamedTuple):
    """The connection ended, and with it every view. `at`: since when it may have been so."""

    at: float = 0.0


class Moved(NamedTuple):
    """Somebody was announced: he `came`, or he left; then so many were there."""

    room: str
    username: str
    came: bool
    online: int
    at: float = 0.0


Event = Sent | Acked | Joined | Live | Lost | Moved


class Final(NamedTuple):
    """A room at the end: what its pages give, the rows of its file, and who is there.

    `doubles` are names that somebody else could get, too.
    """

    position: Position
    pages: tuple[Seen, ...]
    rows: tuple[Seen, ...]
    users: tuple[str, ...] = ()
    online: int = 0
    doubles: tuple[str, ...] = ()


@dataclass
class Break:
    """An end of a client's connection.

    `status` is the answer to its handshake and `code` that of the close frame, if they
    came; `announced`, whether a `closing` did. `ours`: the client did it, or had not read
    for a while. `back_s` is how long it took until it was in all its rooms again.
    """

    client: str
    at: float
    port: int  # its own
    status: int | None = None
    code: int | None = None
    announced: bool = False
    ours: bool = False
    back_s: float | None = None


class Fault(NamedTuple):
    """What was done to a part of the server, and the ports of its clients."""

    what: str
    part: str
    at: float
    ports: frozenset[int] = frozenset()


@dataclass
class Records:
    """`clients` are the events of each; `unsettled` says in words what did not end well.

    `refusals` counts errors by code: for people to see that a disk was full, say.
    """

    clients: dict[str, list[Event]] = field(default_factory=dict)
    final: dict[str, Final] = field(default_factory=dict)
    unsettled: list[str] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)
    breaks: list[Break] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    log: str = ""


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
