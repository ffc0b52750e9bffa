"""What operators and backends have decided, as each machine hears of it.

A decision is stored with a notice, and told afterwards. What is told can be lost. So each machine
looks once a second for notices that it has not heard: they have serials in the order of their
commits, and the ledger keeps them for an hour.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from fastchat.ledger.session import Session
from fastchat.ledger.tasks import Tasks

__all__ = ["Deleted", "Erased", "Lifted", "Notice", "Notices", "Optioned"]

#: A machine that has not looked for so long starts its rooms anew: notices may be gone.
LOOKED_S = 3000.0
#: Notices that one statement reads.
READ_AT_ONCE = 1000
_NEWEST = "SELECT coalesce(max(serial), 0) FROM notices"
_MISSED = "SELECT serial, line FROM notices WHERE serial > $1 ORDER BY serial LIMIT $2"


class Optioned(NamedTuple):
    """Options of a room were set; `options` has all of them that differ from the usual ones."""

    room: str
    options: dict[str, Any]
    serial: int


class Deleted(NamedTuple):
    """A room was deleted."""

    room: str
    nothing: None
    serial: int


class Erased(NamedTuple):
    """What a user has said in a room was erased.

    `said` has the user, and the number of the erasure, which can go through a room in several
    steps.
    """

    room: str
    said: tuple[str, int]
    serial: int


class Lifted(NamedTuple):
    """A user can come into a room again, or into all rooms if it is `removals.ALL_ROOMS`."""

    room: str
    user: str
    serial: int


Notice = Optioned | Deleted | Erased | Lifted


class Notices:
    """The notices that a machine hears.

    `take` is called once with the line of each notice that was missed, and has to call `is_new`
    with its notice. `lose` is called if notices can be gone that this machine has not heard.
    """

    def __init__(
        self,
        session: Session,
        tasks: Tasks,
        *,
        take: Callable[[str], None],
        lose: Callable[[], None],
    ) -> None:
        self._session = session
        self._tasks = tasks
        self._take = take
        self._lose = lose
        self._token: str | None = None
        self._read: int | None = None  # up to this serial, everything was heard
        self._heard: set[int] = set()  # and these, which are newer
        self._read_s = 0.0

    def connected(self) -> None:
        """The session has connected. If it is to another ledger, only its new notices matter."""
        if self._session.identity.token != self._token:
            self._token = self._session.identity.token
            self._read = None
            self._heard.clear()
            self._tasks.start(self._begin())  # its read comes before those of rooms

    def tell(self, line: str) -> None:
        """Take in a notice that this machine has stored, and tell all others."""
        self._take(line)
        self._session.tell([f"c\n{line}"])

    def is_new(self, notice: Notice) -> bool:
        """Whether a notice was not heard before; it counts as heard from now on."""
        if notice.serial in self._heard or (self._read is not None and notice.serial <= self._read):
            return False
        self._heard.add(notice.serial)
        return True

    async def _begin(self) -> None:
        token = self._token
        ((newest,),) = await self._session.fetch(_NEWEST)
        if self._read is None and token == self._token:
            self._looked(newest)

    async def tick(self) -> None:
        """Take in what was missed; to be called once a second. Raises LedgerError."""
        if self._read is None:
            await self._begin()
            return
        if asyncio.get_running_loop().time() > self._read_s + LOOKED_S:
            self._lose()
        rows = await self._session.fetch(_MISSED, self._read, READ_AT_ONCE)
        for _, line in rows:
            self._take(line)
        self._looked(rows[-1][0] if rows else self._read)

    def _looked(self, newest: int) -> None:
        self._read = newest
        self._read_s = asyncio.get_running_loop().time()
        self._heard = {serial for serial in self._heard if serial > newest}
