"""The records of a run: each client's events in order, and the history at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple


class Kind(StrEnum):
    """Kinds of anomalies; each breaks one promise."""

    ORDER = "publications arrived in another order than that of their offsets"
    GAP = "an offset is missing in a view without interruption, or in the history"
    DOUBLE = "a publication arrived twice in a view without interruption"
    CONTENT = "one publication had different contents"
    REUSED = "two publications had the same offset in one epoch"
    LOST = "a publication that was received or acknowledged is not in the final history"
    TWICE = "an id was published twice"
    ACK = "an acknowledgement named another publication"
    PHANTOM = "a message that no client sent"
    RECOVERY = "recovered was true, but a publication was skipped or repeated"
    EPOCH = "recovered was true, but the epoch is another"
    RENEWED = "a room got another epoch, although no older history was put back"
    PAGE = "a page of history skipped, repeated or invented messages"
    FOLD = "a message did not have the state that its edits, deletion and reactions give"
    AWAY = "a leave was announced of a user who was present, or back in time"
    ROSTER = "the users of a room were not announced, or wrongly"
    NAME = "two users had one name in a room"
    MACHINES = "two machines have a room differently at the end"
    LEFTOVER = "the text of a deleted message is still stored"
    UNSETTLED = "a client lacked a publication or a confirmation at the end"


class Position(NamedTuple):
    epoch: str
    offset: int
    timestamp: str | None = None  # of the publication at `offset`, if the client notes it


class Seen(NamedTuple):
    """A publication as a client received it. The first five fields never change.

    `facts` are the username, the timestamp, the target, the emoji and `remove`. A message in a page
    can have changed: then it is `edited` or `deleted`, or has `reactions`, pairs of an emoji and
    the names.
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


class SentOnce(NamedTuple):
    """A message without an id was sent, which is never sent again."""

    room: str
    username: str
    text: str


class Acked(NamedTuple):
    """The server acknowledged a repeated message, with the offset of the first one."""

    room: str
    username: str
    id: str
    offset: int


class Joined(NamedTuple):
    """A `joined` reply to a join with `since`; `users` are all users if `online` is at most 200."""

    room: str
    since: Position | None
    position: Position
    recovered: bool
    publications: tuple[Seen, ...]
    at: float = 0.0
    users: tuple[str, ...] = ()
    online: int = 0
    machine: int = 0  # the place of the client's machine in the list of all


class Live(NamedTuple):
    """A publication that arrived after a `joined` reply."""

    publication: Seen


class Lost(NamedTuple):
    """The connection ended, and with it every view. `at` is the earliest time at which it can have
    ended."""

    at: float = 0.0


class Moved(NamedTuple):
    """A join (`came`) or a leave was announced; `online` is the number of users afterwards."""

    room: str
    username: str
    came: bool
    online: int
    at: float = 0.0


Event = Sent | SentOnce | Acked | Joined | Live | Lost | Moved


class Final(NamedTuple):
    """A room at the end: the messages of its pages, the rows of its file, and its users.

    `doubles` are names that a second user could take, too.
    """

    position: Position
    pages: tuple[Seen, ...]
    rows: tuple[Seen, ...]
    users: tuple[str, ...] = ()
    online: int = 0
    doubles: tuple[str, ...] = ()


@dataclass
class Break:
    """The end of a client's connection.

    `status` is that of the answer to the handshake, and `code` that of the close frame, if they
    arrived. `announced` says whether a `closing` event arrived. `ours` says whether the client
    ended the connection, or had not read for a while. `back_s` is the number of seconds until the
    client was in all its rooms again.
    """

    client: str
    at: float
    port: int  # the client's own
    status: int | None = None
    code: int | None = None
    announced: bool = False
    ours: bool = False
    back_s: float | None = None


class Fault(NamedTuple):
    """A fault that was caused in one part of the server, and the ports of that part's clients."""

    what: str
    part: str
    at: float
    ports: frozenset[int] = frozenset()


class Outage(NamedTuple):
    """A time in which a machine was stopped, or could not reach the others."""

    machine: int
    began: float
    ended: float


@dataclass
class Records:
    """The records of a run.

    `clients` are the events of each client. `unsettled` says in words what a client lacked at the
    end. `refusals` counts errors by code, so that a reader sees that a disk was full, for example.
    """

    clients: dict[str, list[Event]] = field(default_factory=dict)
    final: dict[str, Final] = field(default_factory=dict)
    unsettled: list[str] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)
    breaks: list[Break] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    log: str = ""
    restores: int = 0  # how often an older copy of the history was put back
    #: Times for which a client was away from a room, if its events do not show them.
    absences: dict[tuple[str, str], list[tuple[float, float]]] = field(default_factory=dict)
    outages: list[Outage] = field(default_factory=list)
    machines: list[dict[str, Final]] = field(default_factory=list)  # the rooms on each, at the end
    stored: str = ""  # everything that is stored at the end, as text


def seen(fields: Mapping[str, Any]) -> Seen:
    """A publication from its JSON fields."""
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
        tuple(
            sorted(
                (emoji, tuple(each["username"] for each in reactors))
                for emoji, reactors in reactions.items()
            )
        ),
    )
