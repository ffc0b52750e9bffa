"""The rooms with members in this worker: the state from which a new relay restores them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import orjson

from fastchat.brokers.relay import records
from fastchat.protocol import Position
from fastchat.rooms import Member
from fastchat.rooms.subscribers import PresenceChange

__all__ = ["WorkerRoom", "WorkerRooms"]


class WorkerRoom:
    """A room with members in this process, or with pending drafts or leaves.

    `epoch` and `offset` are the position of the last publication that was delivered here. `newest`
    is its payload; until one is delivered, `timestamp` is that of the publication at `offset`.
    `members` are the members in this process, each with the number of its connections. `known` are
    the users that these members have been informed of; None in a crowd. `pending` is the number of
    drafts and leaves without a reply.
    """

    __slots__ = ("epoch", "known", "members", "newest", "offset", "pending", "timestamp")

    def __init__(self, position: Position) -> None:
        self.start(position)
        self.members: dict[Member, int] = {}
        self.known: dict[Member, None] | None = {}
        self.pending = 0

    def start(self, position: Position) -> None:
        """Let the stream start at a position."""
        self.epoch, self.offset, self.timestamp = position
        self.newest: bytes | None = None

    def position(self) -> Position:
        """The end of the stream here. It decodes the newest payload, so deliveries need not."""
        if self.newest is not None:
            self.timestamp = orjson.loads(self.newest)["timestamp"]
        return Position(self.epoch, self.offset, self.timestamp)

    def count_out(self, member: Member) -> None:
        """Remove one connection of a member."""
        self.members[member] -= 1
        if not self.members[member]:
            del self.members[member]

    def note(self, change: PresenceChange) -> bool:
        """Note a join or a leave; return False if the members know of the join already.

        A new relay can announce a user whom an earlier relay has announced.
        """
        came, member = change
        if self.known is None:
            return True
        if came:
            if member in self.known:
                return False
            self.known[member] = None
        else:
            self.known.pop(member, None)
        return True

    def know(self, users: Sequence[Member] | None) -> None:
        """Note which users the members know of from now on."""
        self.known = None if users is None else dict.fromkeys(users)


class WorkerRooms(dict[str, WorkerRoom]):
    """The rooms of this worker, by name. It is a dict because each delivery looks up its room."""

    def count_in(self, reply: records.Joined) -> None:
        """Add one connection of a member."""
        member, position, *_ = reply.entry
        room = self.get(reply.room)
        if room is None:
            room = self[reply.room] = WorkerRoom(position)
        elif not room.members:
            # The room exists only because a draft or a leave is pending. Without members, the
            # worker did not receive its publications, so the stream starts anew.
            room.start(position)
        room.know(reply.entry.users)
        room.members[member] = room.members.get(member, 0) + 1

    def settle(self, name: str, room: WorkerRoom | None) -> None:
        """Note that a pending draft or leave of a room has its reply."""
        if room is not None:
            room.pending -= 1
            self.drop_if_empty(name, room)

    def drop_if_empty(self, name: str, room: WorkerRoom) -> None:
        if not room.members and not room.pending and self.get(name) is room:
            del self[name]

    def introduction(self) -> Iterator[records.Restore]:
        """Yield a RESTORE record for each room, for a new relay.

        Members that are leaving are not in it, because `leave` counts them out first.
        """
        for name, room in self.items():
            yield records.Restore(
                name,
                room.position(),
                list(room.members.items()),
                None if room.known is None else list(room.known),
            )
