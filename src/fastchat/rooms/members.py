"""The users of all rooms, the processes that they are connected to, and events about them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fastchat import protocol
from fastchat.errors import CommandError
from fastchat.limits.rooms import price_of
from fastchat.protocol.names import name_key
from fastchat.rooms import Member, Occupancy
from fastchat.rooms.presence import Roster, User
from fastchat.rooms.refusals import name_taken
from fastchat.rooms.subscribers import PresenceChange, Subscriber
from fastchat.rooms.watching import Watcher

__all__ = ["GRACE_TICKS", "MAX_LISTED_USERS", "Members", "Room"]

#: If a user comes back within this many ticks, the others do not hear that the user was away. That
#: is 5 s, and up to one more, because the tick in which the connection was lost had begun.
GRACE_TICKS = 6
#: A room with more users than this is a crowd: its members hear the number of its users once a
#: second, instead of each join and leave, and have no list of the users.
MAX_LISTED_USERS = 200


class Room:
    """A room with users and spectators.

    * `subscribers`: the processes with connections in the room, and the number of these.
    * `spectators`: the public ids of those who read without a name, each with the number of its
      connections; `spectator_count` is the number of all of these.
    * `is_crowd`: whether the members have no list of the users.
    * `price`: the tokens that a message costs (`limits.rooms.price_of`).
    """

    __slots__ = (
        "is_crowd",
        "price",
        "roster",
        "spectator_count",
        "spectators",
        "subscribers",
    )

    def __init__(self) -> None:
        self.price = price_of(0)
        self.roster = Roster()
        self.spectators: dict[str, int] = {}
        self.spectator_count = 0
        self.is_crowd = False
        self.subscribers: dict[Subscriber, int] = {}

    @property
    def users(self) -> list[Member] | None:
        """The users that the members know of; None in a crowd."""
        return None if self.is_crowd else self.roster.members()

    def count(self, subscriber: Subscriber, connections: int) -> None:
        """Count so many connections of a process more, or fewer if the number is negative."""
        self.subscribers[subscriber] = self.subscribers.get(subscriber, 0) + connections
        if not self.subscribers[subscriber]:
            del self.subscribers[subscriber]
        self.price = price_of(sum(self.subscribers.values()))


class Members:
    """The users of all rooms. A user of a room is in one of these states:

    * here, with one connection or several;
    * absent: the last connection was lost, and the others do not hear of it before
      `grace_ticks` ticks; until then the name is kept for the user;
    * expelled: a moderator has removed the user, whose connections are being closed. The user
      leaves with the last of them.

    A user who leaves frees the name, and the others hear of it. A spectator has no name and no such
    state: the members hear only how many there are, at most once a second. A room without users and
    spectators is gone. ``clock``: seconds since 1970, for timestamps only.
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
        #: The names of the rooms in `rooms`, by what they look like.
        self._looks: dict[str, set[str]] = {}
        #: Absent users, the longest absent first: in which room, and since which tick.
        self._absent: dict[User, tuple[str, int]] = {}
        #: Rooms with a number that has changed since the last tick, and was not announced.
        self._changed: dict[str, None] = {}
        self._ticks = 0
        #: Is told of everybody who comes and goes, unless it is None.
        self.watcher: Watcher | None = None

    @property
    def occupancy(self) -> Occupancy:
        rooms = self.rooms.values()
        users = sum(len(room.roster) for room in rooms)
        spectators = sum(room.spectator_count for room in rooms)
        return Occupancy(len(rooms), users, len(self._absent), spectators)

    def open(self, name: str) -> Room:
        """The room of this name, which is created if it is not there."""
        room = self.rooms.get(name)
        if room is None:
            room = self.rooms[name] = Room()
            self._looks.setdefault(name_key(name), set()).add(name)
        return room

    def has_lookalike(self, name: str) -> bool:
        """Whether another room with users has a name that looks like this one."""
        return bool(self._looks.get(name_key(name), set()) - {name})

    def admit(self, name: str, member: Member, *, has_token: bool) -> Member | User:
        """Find the user that joins a room, or the name that a new user gets.

        Returns the `User` if `member` is in the room already, and otherwise the member with the
        name that it gets. If another user has the name, a user with a token gets it with a number
        after it. A user without a token is refused: raises CommandError `username_taken`, which has
        the time for which the name is kept if the other user is absent.
        """
        roster = self.rooms[name].roster
        assert member.name is not None
        found = roster.find(member.name)
        if has_token:
            if (own := roster.find_own(member.name, member.user)) is not None:
                return own
            return member if found is None else Member(roster.free_name(member.name), member.user)
        if found is None:
            return member
        if found.id == member.user:
            return found
        raise self._taken(found)

    def _taken(self, user: User) -> CommandError:
        if user not in self._absent:
            return name_taken(None)
        _, left = self._absent[user]
        return name_taken(left + self._grace_ticks - self._ticks)

    def add(self, name: str, member: Member) -> User:
        """Add a user without a connection to a room, and tell the others. The name must be free."""
        assert member.name is not None
        user = self.rooms[name].roster.add(member.name, member.user, self._clock())
        self._announce(name, user, came=True)
        return user

    def remove(self, name: str, user: User) -> None:
        """Remove a user from a room, and tell the others.

        Unless another user is added, the caller has to call `drop_if_empty` afterwards.
        """
        self._absent.pop(user, None)
        self.rooms[name].roster.remove(user)
        self._announce(name, user, came=False)

    def expel(self, name: str, id: str, seconds: int) -> bool:
        """Have a user's connections to a room closed, spectators' too, and let the user leave.

        Returns whether the user was there.
        """
        room = self.rooms[name]
        subscribers = tuple(room.subscribers)
        users = room.roster.find_all(id)
        is_here = bool(users) or id in room.spectators
        for user in users:
            if user.connections:
                user.expelled = True
            else:
                self.remove(name, user)
        self.drop_if_empty(name)
        for subscriber in subscribers if is_here else ():
            subscriber.expel(name, id, seconds)
        return is_here

    def drop_if_empty(self, name: str) -> None:
        room = self.rooms[name]
        if not len(room.roster) and not room.spectators:
            self.forget(name)

    def forget(self, name: str) -> None:
        """Drop a room, whoever is in it. Nobody hears of it."""
        if self.rooms.pop(name, None) is not None:
            look = name_key(name)
            self._looks[look].discard(name)
            if not self._looks[look]:
                del self._looks[look]

    def watch(self, name: str, connections: int) -> None:
        """Take over how many connections of spectators a room has, here and elsewhere."""
        room = self.rooms[name]
        if room.spectator_count != connections:
            room.spectator_count = connections
            self._changed[name] = None

    def count_in(self, name: str, user: User, subscriber: Subscriber, count: int = 1) -> None:
        """Count further connections of a user, who is here from now on."""
        self._absent.pop(user, None)
        user.expelled = False
        user.connections += count
        self.rooms[name].count(subscriber, count)

    def count_out(self, name: str, member: Member, subscriber: Subscriber) -> User | None:
        """Stop counting a connection; returns its user if it was the user's last one."""
        room = self.rooms[name]
        room.count(subscriber, -1)
        assert member.name is not None
        user = room.roster.find(member.name)
        assert user is not None
        user.connections -= 1
        return None if user.connections else user

    def count_spectator_in(
        self, name: str, id: str, subscriber: Subscriber, count: int = 1
    ) -> None:
        """Count further connections of a spectator."""
        room = self.rooms[name]
        room.spectators[id] = room.spectators.get(id, 0) + count
        room.spectator_count += count
        room.count(subscriber, count)
        self._changed[name] = None

    def count_spectator_out(self, name: str, id: str, subscriber: Subscriber) -> None:
        """Stop counting a connection of a spectator.

        The caller has to call `drop_if_empty` afterwards.
        """
        room = self.rooms[name]
        room.spectator_count -= 1
        room.spectators[id] -= 1
        if not room.spectators[id]:
            del room.spectators[id]
        room.count(subscriber, -1)
        self._changed[name] = None

    def mark_absent(self, name: str, user: User) -> None:
        """Make a user without a connection absent, until they come back or the time is over."""
        self._absent[user] = name, self._ticks

    def tick(self) -> None:
        """Announce users who did not come back, numbers that have changed, and the end of crowds.

        A crowd ends here, and not at the moment at which enough users have left. So its members get
        the whole list at most once a second, however often users come and go.
        """
        self._ticks += 1
        for user, (name, left) in tuple(self._absent.items()):
            if left + self._grace_ticks > self._ticks:
                break
            self.remove(name, user)
            self.drop_if_empty(name)
        changed, self._changed = self._changed, {}
        for name in changed:
            room = self.rooms.get(name)
            if room is None:
                continue
            if room.is_crowd and len(room.roster) <= MAX_LISTED_USERS:
                room.is_crowd = False
                self._tell_list(name, room, room.subscribers)
            else:
                payload = protocol.presence(name, len(room.roster), room.spectator_count)
                self._tell_all(room, name, payload)

    def begin_crowd(self, name: str) -> None:
        """Tell the members of a room that they have no list of its users any more."""
        room = self.rooms[name]
        if not room.is_crowd:
            room.is_crowd = True
            self._tell_list(name, room, room.subscribers)
        self._changed[name] = None  # so that the next tick ends it if it is not one

    def catch_up(self, name: str, subscriber: Subscriber, known: list[Member] | None) -> None:
        """Tell a process which users have come and gone. Its members know of `known`.

        `known` is None if they were in a crowd.
        """
        room = self.rooms[name]
        if room.is_crowd:
            self._changed[name] = None
        if (known is None) != room.is_crowd:
            self._tell_list(name, room, (subscriber,))
        elif known is not None:
            here, there = dict.fromkeys(room.roster.members()), dict.fromkeys(known)
            changes = [PresenceChange(False, member) for member in there if member not in here]
            changes += [PresenceChange(True, member) for member in here if member not in there]
            online = len(there)
            for change in changes:
                online += 1 if change.came else -1
                subscriber.announce(name, self._event(name, change, online), change)
        if room.spectators:
            self._changed[name] = None

    def _announce(self, name: str, user: User, *, came: bool) -> None:
        room = self.rooms[name]
        change = PresenceChange(came, user.member)
        if self.watcher is not None:
            payload = self._event(name, change, len(room.roster))
            self.watcher.announced("join" if came else "leave", name, payload)
        if room.is_crowd:
            self._changed[name] = None
        elif len(room.roster) > MAX_LISTED_USERS:
            self.begin_crowd(name)
        else:
            self._tell_all(room, name, self._event(name, change, len(room.roster)), change)

    def _tell_list(self, name: str, room: Room, subscribers: Iterable[Subscriber]) -> None:
        """Tell processes the whole list of a room's users, or that there is none any more."""
        users = room.users
        payload = protocol.presence_list(name, len(room.roster), room.spectator_count, users)
        for subscriber in subscribers:
            subscriber.announce(name, payload)
            subscriber.know(name, users)

    def _event(self, name: str, change: PresenceChange, online: int) -> bytes:
        assert change.member.name is not None
        return protocol.presence_change(
            "join" if change.came else "leave",
            name,
            change.member.user,
            change.member.name,
            protocol.timestamp_of(self._clock()),
            online,
        )

    def _tell_all(
        self, room: Room, name: str, payload: bytes, change: PresenceChange | None = None
    ) -> None:
        for subscriber in room.subscribers:
            subscriber.announce(name, payload, change)
