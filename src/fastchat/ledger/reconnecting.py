"""What a machine does after each connection to the ledger: it says its users, and reads the others.

Theory
------
For the ledger, all users of a machine are away when it connects (`attendance`). So the machine says
all of them at once, because they must be said in time. Then it reads the users of its rooms again:
it has not heard of anything that happened before.

What fails is tried again by the next `tick`. When all users have been said, and the machine has
said so too (`Attendance.settle`), the other machines need not wait for it any more.

A user can be let in before a connection, and be counted after it. Nobody would say that user again,
so whoever counts them has to ask `say_if_missed`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from fastchat.ledger import LedgerError
from fastchat.ledger.attendance import Attendance, Expelled, Verdict
from fastchat.ledger.counting import Counting
from fastchat.ledger.rosters import Rosters
from fastchat.ledger.tasks import Tasks
from fastchat.rooms import Member

__all__ = ["Reconnecting"]

#: Rooms whose users are read again at once, in statements of several rooms.
_READ_AT_ONCE = 200


class Reconnecting:
    """Brings the users of a machine back after each connection.

    * `expel` is called with a removal of which this machine hears now.
    * `lose` is called with a room in which a user of this machine cannot be any more, because
      another user has the name.
    * `gather_s`: the time after the first connection before the machine says that it has said all
      of its users. The workers of a new relay have to come back with theirs first.
    """

    def __init__(
        self,
        attendance: Attendance,
        counting: Counting,
        rosters: Rosters,
        tasks: Tasks,
        *,
        expel: Callable[[Expelled], None],
        lose: Callable[[str], None],
        gather_s: float,
    ) -> None:
        self._attendance = attendance
        self._counting = counting
        self._rosters = rosters
        self._tasks = tasks
        self._expel = expel
        self._lose = lose
        self._gather_s = gather_s
        self._settling_s = 0.0  # before this time, by the loop's clock, nobody says so
        self._is_settled = False
        self._turn = asyncio.Lock()
        #: Users of this machine whom the ledger has to be told of, and rooms whose users are to be
        #: read, since the last connection.
        self._unsaid: dict[tuple[str, Member], None] = {}
        self._unread: dict[str, None] = {}
        #: The connections that were made until now.
        self.connections = 0

    def connected(self, rooms: Iterable[str]) -> None:
        """Begin with the users of this machine, and with the open rooms."""
        self.connections += 1
        self._is_settled = False
        if self.connections == 1:
            self._settling_s = asyncio.get_running_loop().time() + self._gather_s
        self._unread |= dict.fromkeys(rooms)
        self._unsaid |= dict.fromkeys(self._counting.users)
        self._tasks.start(self._come_back())

    def say(self, name: str, member: Member) -> None:
        """Say a user again, soon."""
        self._unsaid[name, member] = None
        self._tasks.start(self._come_back())

    def say_if_missed(self, connections: int, name: str, member: Member) -> None:
        """Have a user said again who was let in before the last connection, and is here since it.

        `connections` is their number at the time when the user was let in.
        """
        if connections != self.connections and member.name is not None:
            self._unsaid[name, member] = None

    def forget(self, name: str) -> None:
        """Leave out a room that is not open any more."""
        self._unread.pop(name, None)

    async def tick(self) -> None:
        """Do what has failed or was put off. Raises LedgerError."""
        if self._unsaid or self._unread:
            await self._come_back()
        if not self._is_settled and asyncio.get_running_loop().time() >= self._settling_s:
            connections = self.connections
            await self._attendance.settle()
            self._is_settled = connections == self.connections

    async def _come_back(self) -> None:
        """Say the users of this machine again, and read those of others. Raises LedgerError."""
        async with self._turn:
            await self._say_again()
            names = tuple(self._unread)
            for start in range(0, len(names), _READ_AT_ONCE):
                part = names[start : start + _READ_AT_ONCE]
                await asyncio.gather(*map(self._read_again, part))

    async def _say_again(self) -> None:
        unsaid, self._unsaid = self._unsaid, {}
        here = [place for place in unsaid if self._counting.connections(*place)]
        answers = await asyncio.gather(
            *(self._attendance.enter(name, member, again=True) for name, member in here),
            return_exceptions=True,
        )
        failure: BaseException | None = None
        for (name, member), answer in zip(here, answers, strict=True):
            if isinstance(answer, BaseException):
                self._unsaid[name, member] = None
                failure = answer
            elif answer.verdict is Verdict.REMOVED:
                self._expel(Expelled(name, member.user, answer.wait_s or 0.0, 0))
            elif not answer.is_in and self._counting.connections(name, member):
                self._lose(name)
        if failure is not None:
            raise failure

    async def _read_again(self, name: str) -> None:
        self._unread.pop(name, None)
        if name not in self._rosters:
            return
        self._counting.spectate(name)
        try:
            await self._rosters.read(name)
        except LedgerError:
            self._unread[name] = None
            raise
