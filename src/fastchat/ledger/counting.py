"""Counts the connections of this machine's members, and tells the ledger of their users.

The ledger hears only of the last connection of a user to this machine, and of the spectators. What
is counted for a room is forgotten when the room is lost or closed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from fastchat.ledger import LedgerError
from fastchat.ledger.attendance import Attendance
from fastchat.protocol.names import name_key
from fastchat.rooms import Member
from fastchat.rooms.members import Members
from fastchat.rooms.presence import User
from fastchat.rooms.subscribers import Subscriber

__all__ = ["Counting"]

logger = logging.getLogger("fastchat.ledger")


class Counting:
    """The connections to this machine, in the rooms of `members`."""

    def __init__(self, members: Members, attendance: Attendance) -> None:
        self._members = members
        self._attendance = attendance
        #: The members of each process in each room, with the number of their connections.
        self._counted: dict[str, dict[Subscriber, Counter[Member]]] = {}
        #: The keys of the users of each room whose last connection to this machine was lost.
        self._absent: dict[str, set[str]] = {}

    @property
    def subscribers(self) -> set[Subscriber]:
        """The processes with members."""
        return {subscriber for counted in self._counted.values() for subscriber in counted}

    @property
    def users(self) -> list[tuple[str, Member]]:
        """The users with a connection to this machine, each with the room."""
        return [
            (name, member)
            for name, counted in self._counted.items()
            for members in counted.values()
            for member in members
            if member.name is not None
        ]

    @property
    def absent_count(self) -> int:
        """The users whose last connection to this machine was lost, and who were not seen since."""
        return sum(map(len, self._absent.values()))

    def connections(self, name: str, member: Member) -> int:
        """The connections that a member of a room has to this machine."""
        return sum(members[member] for members in self._counted.get(name, {}).values())

    def user(self, name: str, username: str) -> User:
        """The user of a room under a name. Raises LedgerError if the room was lost meanwhile."""
        room = self._members.rooms.get(name)
        user = None if room is None else room.roster.find(username)
        if user is None:
            raise LedgerError("the room was lost meanwhile")
        return user

    def count_in(self, subscriber: Subscriber, name: str, member: Member, count: int = 1) -> None:
        """Count further connections of a member, whose user must be in the room.

        Raises LedgerError if the user is not, and counts nothing.
        """
        user = None if member.name is None else self.user(name, member.name)
        counted = self._counted.setdefault(name, {}).setdefault(subscriber, Counter())
        counted[member] += count
        if user is None:
            self._members.count_spectator_in(name, member.user, subscriber, count)
            self.spectate(name)
        else:
            self.end_absence(name, user.key)
            self._members.count_in(name, user, subscriber, count)
            self._attendance.count(name, member, self.connections(name, member))

    def count_out(
        self, subscriber: Subscriber, name: str, member: Member, *, gone: bool
    ) -> asyncio.Future[None] | None:
        """Stop counting a connection; if it was the user's last one, this does what `part` does.

        Nothing happens if the connection is not counted, because the room was lost.
        """
        counted = self._counted.get(name, {}).get(subscriber)
        if counted is None or not counted[member]:
            return None
        counted[member] -= 1
        if not counted[member]:
            del counted[member]
        if not counted:
            del self._counted[name][subscriber]
        if member.name is None:
            self._members.count_spectator_out(name, member.user, subscriber)
            self.spectate(name)
            return None
        self._attendance.count(name, member, self.connections(name, member))
        room = self._members.rooms[name]
        room.count(subscriber, -1)
        user = room.roster.find(member.name)
        if user is None or user.id != member.user:
            return self.part(name, member, gone=gone)
        user.connections -= 1
        return None if user.connections else self.part(name, member, gone=gone or user.expelled)

    def part(self, name: str, member: Member, *, gone: bool) -> asyncio.Future[None]:
        """Take a user out, whose last connection to this machine has ended.

        If it was lost, and is not `gone`, the user has the usual time to come back. The result is
        when the ledger knows it.
        """
        assert member.name is not None
        if not gone and name in self._members.rooms:
            self._absent.setdefault(name, set()).add(name_key(member.name))
        parting = self._attendance.part(name, member, gone=gone)
        parting.add_done_callback(_note_failure)
        return parting

    def give_up(self, name: str, member: Member, *, gone: bool = False) -> None:
        """Take out a user who was let in for a connection that has come to nothing.

        The client can try again at once, so the user has the usual time to come back, unless they
        are `gone`.
        """
        if member.name is not None and not self.connections(name, member):
            self.part(name, member, gone=gone)

    def end_absence(self, name: str, key: str) -> None:
        """Note that the user with a name of this key has come back, or that the absence is over."""
        self._absent.get(name, set()).discard(key)

    def spectate(self, name: str) -> None:
        """Note for the ledger which spectators a room has on this machine."""
        room = self._members.rooms.get(name)
        self._attendance.spectate(name, {} if room is None else room.spectators)

    def forget(self, name: str) -> None:
        """Forget a room. Users who were in it have lost their connections."""
        for members in self._counted.pop(name, {}).values():
            for member in members:
                if member.name is not None:
                    self._attendance.count(name, member, 0)
                    self.part(name, member, gone=False)
        self._absent.pop(name, None)


def _note_failure(call: asyncio.Future[None]) -> None:
    """If a call has failed, all users of this machine are said again, or it was not needed."""
    if not call.cancelled() and (error := call.exception()) is not None:
        logger.debug("a call of the ledger has failed: %s", error)
