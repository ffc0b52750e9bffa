"""The rooms with members in this process, as a worker keeps them over a relay's end."""

from __future__ import annotations

from collections.abc import Iterator

from fastchat.brokers.relay import records
from fastchat.protocol import Position
from fastchat.rooms import Member
from fastchat.rooms.subscribers import PresenceChange

__all__ = ["LocalRoom", "LocalRooms"]


class LocalRoom:
    """A room with members in this process, or with something that is pending.

    `epoch` and `offset` are the position of what was delivered last. `members` are those of this
    process, with the numbers of their connections; `known` are the names that they were told of,
    and their authors. `pending` counts drafts and leaves that the relay has not answered.
    """

    __slots__ = ("epoch", "known", "members", "offset", "pending")

    def __init__(self, position: Position) -> None:
        self.epoch, self.offset = position
        self.members: dict[Member, int] = {}
        self.known: dict[str, str] = {}
        self.pending = 0

    def count_out(self, member: Member) -> None:
        """Count a connection of a member out."""
        self.members[member] -= 1
        if not self.members[member]:
            del self.members[member]

    def note(self, change: PresenceChange) -> bool:
        """Know who came or went; False if an earlier relay has told the members already."""
        came, (name, author) = change
        if came:
            if self.known.get(name) == author:
                return False
            self.known[name] = author
        else:
            self.known.pop(name, None)
        return True


class LocalRooms(dict[str, LocalRoom]):
    """By name. A dict, because it is asked for the room of each delivery."""

    def count_in(self, reply: records.Joined) -> None:
        """Count a connection of a member in."""
        member, position, *_ = reply.entry
        room = self.get(reply.room)
        if room is None:
            room = self[reply.room] = LocalRoom(position)
        elif not room.members:  # something is pending; what came without members is not missed
            room.epoch, room.offset = position
        room.known = dict(reply.known)
        room.members[member] = room.members.get(member, 0) + 1

    def settle(self, name: str, room: LocalRoom | None) -> None:
        """Something that was pending in a room has its answer."""
        if room is not None:
            room.pending -= 1
            self.drop_if_empty(name, room)

    def drop_if_empty(self, name: str, room: LocalRoom) -> None:
        if not room.members and not room.pending and self.get(name) is room:
            del self[name]

    def introduction(self) -> Iterator[records.Restore]:
        """The rooms as a new relay is told of them: without members that are about to leave."""
        for name, room in self.items():
            yield records.Restore(
                name,
                Position(room.epoch, room.offset),
                list(room.members.items()),
                [Member(*each) for each in room.known.items()],
            )
