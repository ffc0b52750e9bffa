"""How the rooms reach a process with members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from fastchat import protocol
from fastchat.errors import CommandError
from fastchat.history import Duplicate
from fastchat.protocol import Position, Publication
from fastchat.rooms import Member

__all__ = ["MAX_RUN", "PresenceChange", "Subscriber", "deliver_run"]

#: The most publications that a subscriber gets at once. It bounds the memory for them: a subscriber
#: that sends them on can cut what it sends between two runs only.
MAX_RUN = 100


class PresenceChange(NamedTuple):
    """The content of a join event (`came`) or a leave event, for processes that track users."""

    came: bool
    member: Member


class Subscriber(Protocol):
    """A process with members, which the rooms tell what happens.

    The rooms call it in the loop's thread, in the order in which things happen. A `draft_key` is
    what the subscriber gave `Rooms.publish` with a draft; the rooms do not look at it.
    """

    def deliver(
        self, room: str, offset: int, payloads: Sequence[bytes], draft_keys: Sequence[Any] | None, /
    ) -> None:
        """Deliver publications of a room whose offsets follow each other, from `offset` on.

        They are at most `MAX_RUN`. For each of them, `draft_keys` has the key of its draft if the
        draft came from here, and None otherwise. It is None if no draft came from here.
        """
        ...

    def announce(self, room: str, payload: bytes, change: PresenceChange | None = None, /) -> None:
        """Deliver an event, which is not stored."""
        ...

    def kept(self, draft_key: Any, offset: int, /) -> None:
        """Learn that a draft has been published in a room where this process has no member."""
        ...

    def answer(self, draft_key: Any, outcome: Duplicate | CommandError, /) -> None:
        """Learn why a draft became no publication."""
        ...

    def know(self, room: str, users: Sequence[Member] | None, /) -> None:
        """Learn which users the members of a room know from now on; None in a crowd."""
        ...

    def lost(self, room: str, /) -> None:
        """Have the members of a room come back by themselves: its stream cannot be continued.

        None of them is counted any more.
        """
        ...

    def restarted(self, room: str, position: Position, /) -> None:
        """Close the connections of a room's members; each of them counts until it is lost.

        The room's stream was deleted, and begins anew at a position.
        """
        ...

    def expel(self, room: str, user: str, seconds: int, /) -> None:
        """Close, and then lose, the connections of a user whom a moderator has removed."""
        ...

    def send_away(self, share: float, /) -> None:
        """Have this share of all clients come back by themselves, best to another machine.

        The rooms cannot be reached from this machine for long.
        """
        ...

    def end_turn(self) -> None:
        """Send what has been collected: everything of a turn has been told."""
        ...


def deliver_run(
    room: str,
    subscribers: Mapping[Subscriber, int],
    run: Sequence[Publication],
    senders: Sequence[tuple[Subscriber | None, Any]],
) -> None:
    """Deliver publications of a room, whose offsets follow each other, to its subscribers.

    They are at most `MAX_RUN`, and each of them has a sender: the process that the draft came from,
    and the draft's key. It is (None, None) if the draft came from another machine; if all of them
    did, `senders` can be empty. A sender that is no subscriber of the room learns only that the
    publication was stored (`Subscriber.kept`).
    """
    origins = {origin for origin, _ in senders}
    if not origins <= subscribers.keys():
        for publication, (origin, draft_key) in zip(run, senders, strict=True):
            if origin is not None and origin not in subscribers:
                origin.kept(draft_key, publication.offset)
    if subscribers:
        offset = run[0].offset
        payloads = list(map(protocol.encode, run))
        for subscriber in subscribers:
            draft_keys = None
            if subscriber in origins:
                draft_keys = [key if origin is subscriber else None for origin, key in senders]
            subscriber.deliver(room, offset, payloads, draft_keys)
