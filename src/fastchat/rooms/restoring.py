"""How a process with members comes back to the rooms, after a lost connection or to new rooms.

If only the connection was cut, the rooms know the users, most of them as absent. If the rooms are
new, they know nothing but the history. Then all processes come back one after the other
(`gathering`). A user whom the members of one process know can be a member in another process that
has not come back yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fastchat import protocol
from fastchat.errors import CommandError
from fastchat.protocol import Position, Publication
from fastchat.rooms import Member
from fastchat.rooms.members import Members, Room
from fastchat.rooms.presence import User
from fastchat.rooms.removals import Removals
from fastchat.rooms.storage import Storage
from fastchat.rooms.subscribers import Subscriber

__all__ = ["MAX_RESUMED", "Restoring", "Returning"]

#: If a process has missed more publications than this, its members recover by themselves.
MAX_RESUMED = 2000


class Returning(NamedTuple):
    """A room of a process that comes back.

    The process knows the room's stream up to `since`. `members` are its users and spectators there,
    each with a number of connections. `known` are the users that these members know of; None in a
    crowd.
    """

    room: str
    since: Position
    members: Sequence[tuple[Member, int]]
    known: Sequence[Member] | None


class Restoring:
    """Brings processes back to the rooms of `members`, whose streams are in `storage`."""

    def __init__(self, members: Members, storage: Storage, removals: Removals) -> None:
        self._members = members
        self._storage = storage
        self._removals = removals

    def restore(self, subscriber: Subscriber, returning: Returning, *, gathering: bool) -> bool:
        """Do what `Rooms.restore` promises, after it has committed."""
        missed = self._missed(returning)
        if missed is None:
            return False
        name = returning.room
        room = self._members.open(name)
        known = None if returning.known is None else list(returning.known)
        if gathering and known is None:
            self._members.begin_crowd(name)
        users = [
            (self._bring_back(name, member), count)
            for member, count in returning.members
            if member.name is not None
        ]
        if gathering and known is not None:
            for member in known:
                if member.name is not None and room.roster.find(member.name) is None:
                    self._members.mark_absent(name, self._bring_back(name, member))
        if returning.members:
            self._members.catch_up(name, subscriber, known)
        for user, count in users:
            self._members.count_in(name, user, subscriber, count)
            if self._expel_again(name, user.id, subscriber):
                user.expelled = True
        for member, count in returning.members:
            if member.name is None:
                self._members.count_spectator_in(name, member.user, subscriber, count)
                self._expel_again(name, member.user, subscriber)
        self._members.drop_if_empty(name)
        for publication in missed:
            subscriber.deliver(name, publication.offset, (protocol.encode(publication),), None)
        return True

    def _missed(self, returning: Returning) -> Sequence[Publication] | None:
        """What the process missed; None if its members must come back by themselves."""
        name, since, members, _ = returning
        room = self._members.rooms.get(name)
        try:
            if room is not None and any(_is_taken(room, member) for member, _ in members):
                return None
            with self._storage.use("join") as history:
                return history.since(name, since, MAX_RESUMED)
        except CommandError:
            return None

    def _expel_again(self, name: str, id: str, subscriber: Subscriber) -> bool:
        """Expel a user who was removed, if the last relay has ended before it could expel them."""
        remaining_s = self._removals.remaining_s(name, id)
        if remaining_s:
            subscriber.expel(name, id, int(remaining_s))
        return bool(remaining_s)

    def _bring_back(self, name: str, member: Member) -> User:
        """The user of a member. A user who is not here yet is added, and the others hear of it."""
        assert member.name is not None
        user = self._members.rooms[name].roster.find(member.name)
        if user is not None:
            if user.id == member.user:
                return user
            self._members.remove(name, user)
        return self._members.add(name, member)


def _is_taken(room: Room, member: Member) -> bool:
    """Whether another user has a member's name, and has a connection."""
    user = None if member.name is None else room.roster.find(member.name)
    return user is not None and bool(user.connections) and user.id != member.user
