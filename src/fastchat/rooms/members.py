"""The users of all rooms, the processes that they are connected to, and events about them."""

from __future__ import annotations

from collections.abc import Callable

from fastchat import protocol
from fastchat.errors import CommandError, ErrorCode
from fastchat.limits.rooms import price_of
from fastchat.rooms import Member
from fastchat.rooms.presence import Roster, User
from fastchat.rooms.subscribers import PresenceChange, Subscriber

__all__ = ["CROWD", "GRACE_TICKS", "Members", "Room"]

#: If a user comes back within this many ticks, the others do not hear that the user was away. That
#: is 5 s, and up to one more, because the tick in which the connection was lost had begun.
GRACE_TICKS = 6
#: A room with more users than this is crowded: instead of each join and leave, it hears the number
#: of its users, once a second.
CROWD = 200


class Room:
    """A room with users. `price` is the tokens that a message costs (`limits.rooms.price_of`)."""

    __slots__ = ("price", "roster", "subscribers")

    def __init__(self) -> None:
        self.price = price_of(0)
        self.roster = Roster()
        self.subscribers: dict[Subscriber, int] = {}  # the connections of each


class Members:
    """The users of all rooms. A user of a room is in one of these states:

    * here, with one connection or several;
    * absent: the last connection was lost, and the others do not hear of it before
      `grace_ticks` ticks; until then the name is kept for the user;
    * expelled: a moderator has removed the user, whose connections are being closed. The user
      leaves with the last of them.

    A user who leaves frees the name, and the others hear of it. A room without users is gone.
    ``clock``: seconds since 1970, for timestamps only.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        grace_ticks: int = GRACE_TICKS,
    ) -> None:
        self._grace_ticks = grace_ticks
        self._clock = clock
        self.rooms: dict[str, Room] = {}
        #: Absent users, the longest absent first: in which room, and since which tick.
        self._absent: dict[User, tuple[str, int]] = {}
        self._crowded: set[str] = set()  # rooms whose number changed since the last tick
        self._ticks = 0

    @property
    def user_count(self) -> int:
        """Users of all rooms; a user of two rooms counts twice."""
        return sum(len(room.roster) for room in self.rooms.values())

    @property
    def absent_count(self) -> int:
        return len(self._absent)

    def admit(self, name: str, member: Member, *, has_token: bool) -> Member | User:
        """The user that a member of a room is here already, or the name that it gets.

        If another user has the name, a user with a token gets it with a number after it. Otherwise
        CommandError `username_taken` is raised, with the time for which the name of an absent user
        is kept.
        """
        roster = self.rooms[name].roster
        found = roster.find(member.name)
        if has_token:
            if (own := roster.find_own(*member)) is not None:
                return own
            return member if found is None else Member(roster.free_name(member.name), member.user)
        if found is None:
            return member
        if found.id == member.user:
            return found
        raise self._taken(found)

    def _taken(self, user: User) -> CommandError:
        if user not in self._absent:
            return CommandError(
                ErrorCode.USERNAME_TAKEN,
                "A user in this room has this name, or one that looks like it. "
                "Choose another name.",
                temporary=True,
            )
        _, left = self._absent[user]
        wait_s = left + self._grace_ticks - self._ticks
        return CommandError(
            ErrorCode.USERNAME_TAKEN,
            "This name, or one that looks like it, is kept for a user whose connection was lost. "
            f"Try again in {wait_s} s, or choose another name.",
            temporary=True,
            retry_after_ms=wait_s * 1000,
        )

    def add(self, name: str, member: Member) -> User:
        """Add a user without a connection to a room, and tell the others. The name must be free."""
        user = self.rooms[name].roster.add(*member)
        self._announce(name, user, came=True)
        return user

    def remove(self, name: str, user: User) -> None:
        """Remove a user from a room, and tell the others.

        Unless another user is added, the caller has to call `drop_if_empty` afterwards.
        """
        self._absent.pop(user, None)
        self.rooms[name].roster.remove(user)
        self._announce(name, user, came=False)

    def drop_if_empty(self, name: str) -> None:
        if not len(self.rooms[name].roster):
            del self.rooms[name]

    def count_in(self, name: str, user: User, subscriber: Subscriber, count: int = 1) -> None:
        """Count further connections of a user, who is here from now on."""
        room = self.rooms[name]
        self._absent.pop(user, None)
        user.expelled = False
        user.connections += count
        room.subscribers[subscriber] = room.subscribers.get(subscriber, 0) + count
        room.price = price_of(sum(room.subscribers.values()))

    def count_out(self, name: str, member: Member, subscriber: Subscriber) -> User | None:
        """Stop counting a connection; returns its user if it was the user's last one."""
        room = self.rooms[name]
        room.subscribers[subscriber] -= 1
        if not room.subscribers[subscriber]:
            del room.subscribers[subscriber]
        room.price = price_of(sum(room.subscribers.values()))
        user = room.roster.find(member.name)
        assert user is not None
        user.connections -= 1
        return None if user.connections else user

    def mark_absent(self, name: str, user: User) -> None:
        """Make a user without a connection absent, until they come back or the time is over."""
        self._absent[user] = name, self._ticks

    def known(self, name: str) -> dict[str, str]:
        """The names and ids of the users that the members of a room know.

        There are none if the room is crowded.
        """
        roster = self.rooms[name].roster
        return {user.name: user.id for user in roster} if len(roster) <= CROWD else {}

    def tick(self) -> None:
        """Announce users who did not come back, and tell crowded rooms their number."""
        self._ticks += 1
        for user, (name, left) in tuple(self._absent.items()):
            if left + self._grace_ticks > self._ticks:
                break
            self.remove(name, user)
            self.drop_if_empty(name)
        crowded, self._crowded = self._crowded, set()
        for name in crowded:
            if (room := self.rooms.get(name)) is not None:
                self._tell_all(room, name, protocol.presence(name, len(room.roster)))

    def catch_up(self, name: str, subscriber: Subscriber, known: list[Member]) -> None:
        """Tell a process which users have come and gone; its members know of `known`."""
        roster = self.rooms[name].roster
        if len(roster) > CROWD:
            self._crowded.add(name)
            subscriber.know(name, {})
            return
        here = {user.member: None for user in roster}
        there = dict.fromkeys(known)
        changes = [PresenceChange(False, member) for member in there if member not in here]
        changes += [PresenceChange(True, member) for member in here if member not in there]
        for change in changes:
            subscriber.deliver(name, 0, self._event(name, change), None, change)

    def _announce(self, name: str, user: User, *, came: bool) -> None:
        room = self.rooms[name]
        online = len(room.roster)
        if online > CROWD:
            self._crowded.add(name)
        else:
            change = PresenceChange(came, user.member)
            self._tell_all(room, name, self._event(name, change), change)
        if online == CROWD + came:  # it is a crowd now, or no longer
            for subscriber in room.subscribers:
                subscriber.know(name, self.known(name))

    def _event(self, name: str, change: PresenceChange) -> bytes:
        return protocol.presence_change(
            "join" if change.came else "leave",
            name,
            change.member.user,
            change.member.name,
            protocol.timestamp_of(self._clock()),
            len(self.rooms[name].roster),
        )

    def _tell_all(
        self, room: Room, name: str, payload: bytes, change: PresenceChange | None = None
    ) -> None:
        for subscriber in room.subscribers:
            subscriber.deliver(name, 0, payload, None, change)
