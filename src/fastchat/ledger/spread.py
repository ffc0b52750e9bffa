"""The rooms of a chat that are spread over several ledgers.

Each ledger has rooms, machines, commits, users and notifications of its own, and a machine has
`SharedRooms` on each of them. A call is passed on to the ledger of its room
(`fastchat.ledger.sharing`). So a ledger that cannot be reached takes away its own rooms and no
others: what needs them is refused as `unavailable`, and their members stay. Clients are sent to
other machines only if no ledger can be reached.

A machine that starts serves as soon as it knows the ids of all ledgers and has reached one of them.
It tries the others until they are there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from fastchat.errors import FastchatError, SettingError
from fastchat.ledger import LedgerError
from fastchat.ledger.identity import Share
from fastchat.ledger.rooms import SharedRooms
from fastchat.ledger.session import MAX_RETRY_S, PATIENCE_S, RETRY_S
from fastchat.ledger.sharing import Found, agree, discover, discover_all, lay, owner_of
from fastchat.ledger.spread_administration import SpreadAdministration
from fastchat.ledger.url import EngineUrl
from fastchat.protocol import Draft
from fastchat.rooms import Entrance, Entry, Member, Messages, Occupancy, Removal
from fastchat.rooms.administration import Administration
from fastchat.rooms.contract import Pages
from fastchat.rooms.refusals import unavailable
from fastchat.rooms.restoring import Returning
from fastchat.rooms.sending_away import SendingAway
from fastchat.rooms.subscribers import Subscriber

__all__ = ["SpreadRooms"]

logger = logging.getLogger("fastchat.ledger")

#: A machine that can serve the rooms of one ledger waits for the others for so long: at its start,
#: so that somebody who has given a wrong URL learns of it, and with a relay that replaces another.
START_S, OTHERS_S = 10.0, 0.5
#: Rooms whose ledgers are remembered. To find one takes some 5 µs, and 30 µs if the room's name is
#: not ASCII.
_REMEMBERED = 1 << 16


class _Ledger:
    """One of the ledgers.

    `rooms` is None until it was reached for the first time; `failure` says why. `tried` is done
    after the first attempt.
    """

    def __init__(self, url: EngineUrl) -> None:
        self.url = url
        self.rooms: SharedRooms | None = None
        self.failure: FastchatError | None = None
        self.joining: asyncio.Task[None] | None = None
        self.tried = asyncio.Event()
        self.begun_s = time.monotonic()

    @property
    def fault(self) -> str | None:
        if self.rooms is not None:
            return self.rooms.fault
        return f"it was not reached yet ({self.failure})" if self.failure else "it was not reached"

    @property
    def silent_s(self) -> float:
        return time.monotonic() - self.begun_s if self.rooms is None else self.rooms.silent_s


class SpreadRooms:
    """All rooms on the ledgers at `urls`. Implements `fastchat.rooms.contract.Rooms`.

    `make` builds the rooms on one of the ledgers, which must not send clients away by themselves.
    Its last argument returns the number of rooms on the others. Clients are sent away if no ledger
    was reached for `patience_s` seconds.
    """

    def __init__(
        self,
        urls: Sequence[EngineUrl],
        make: Callable[[EngineUrl, Share, Callable[[], int]], SharedRooms],
        *,
        patience_s: float = 30.0,
    ) -> None:
        self._ledgers = [_Ledger(url) for url in urls]
        self._make = make
        self._found: list[Found] = []  # what was at each URL when the ids became known
        self._ids: tuple[str, ...] = ()
        self._user_key = b""
        self._by_id: dict[str, SharedRooms] = {}  # those that were reached
        self._owner = lru_cache(_REMEMBERED)(lambda room: owner_of(room, self._ids))
        self._sending_away = SendingAway(patience_s, "all ledgers")
        self._has_joined = asyncio.Event()
        #: Implements `fastchat.rooms.administration.Administration`.
        self.administration = SpreadAdministration(
            lambda room: self._rooms_of(room).administration, self._administrations
        )
        #: Implements `fastchat.rooms.contract.Pages`.
        self.pages = _SpreadPages(self._rooms_of)

    async def open(self, *, again: bool = False) -> None:
        """Connect to the ledgers, make or migrate their schemas, and store their ids in them.

        This returns when at least one of them can be used; the others are tried until they can be
        reached. Those that are used together for the first time have to be there all.

        Raises SettingError if a ledger cannot be used, or if they do not belong together, and
        LedgerError if none can be reached. With `again`, this tries until it succeeds.
        """
        await (self._agree_again() if again else self._agree(START_S))
        for ledger, found in zip(self._ledgers, self._found, strict=True):
            joining = self._join(ledger, found)
            ledger.joining = asyncio.get_running_loop().create_task(joining)
        waiting = {asyncio.ensure_future(each.tried.wait()) for each in self._ledgers}
        try:
            while waiting:
                done, waiting = await asyncio.wait(
                    waiting,
                    timeout=OTHERS_S if self._by_id else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not done:
                    break
        finally:
            for each in waiting:
                each.cancel()
        if self._by_id:
            return
        if again:
            await self._has_joined.wait()
            return
        faults = [f"--engine {each.url.shown}: {each.failure}" for each in self._ledgers]
        await self.close()
        raise LedgerError("; ".join(faults))

    async def _agree(self, wait_s: float) -> None:
        """Find out the ids of all ledgers, and store them. Raises LedgerError or SettingError.

        When the ids are known from one, the others have `wait_s` seconds to answer.
        """
        found = await discover_all([each.url for each in self._ledgers], wait_s)
        ids = agree(found)
        self._user_key = await lay(found, ids)
        self._found = [_with_ids(each, ids) for each in found]
        self._ids = ids

    async def _agree_again(self) -> None:
        said, wait_s = "", RETRY_S
        while True:
            try:
                return await self._agree(OTHERS_S)
            except (LedgerError, SettingError) as error:
                if str(error) != said:
                    logger.warning("the ledgers cannot be used, and are tried again: %s", error)
                said = str(error)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, MAX_RETRY_S)

    async def _join(self, ledger: _Ledger, found: Found | None) -> None:
        """Try to reach a ledger until that succeeds. `found` is what was at its URL just now."""
        wait_s = RETRY_S
        while True:
            try:
                await self._connect(ledger, found)
                return
            except (LedgerError, SettingError) as error:
                if str(error) != str(ledger.failure):
                    logger.warning(
                        "the ledger %s cannot be used, and is tried again: %s",
                        ledger.url.shown,
                        error,
                    )
                ledger.failure = error
            except Exception:
                # The other ledgers have to be of use, whatever the fault is.
                logger.exception("a fault while connecting to the ledger %s", ledger.url.shown)
            finally:
                ledger.tried.set()
            found = None
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, MAX_RETRY_S)

    async def _connect(self, ledger: _Ledger, found: Found | None) -> None:
        if found is None:
            found = await discover(ledger.url)
            await self._check(ledger, found)
        if found.identity is None:
            raise found.failure or LedgerError("PostgreSQL does not answer")
        id = found.identity.ledger

        def rooms_elsewhere() -> int:
            return self.occupancy.rooms - rooms.occupancy.rooms

        rooms = self._make(ledger.url, Share(id, self._ids), rooms_elsewhere)
        try:
            await rooms.open()
        except BaseException:
            await rooms.close()
            raise
        ledger.rooms = self._by_id[id] = rooms
        self._has_joined.set()

    async def _check(self, ledger: _Ledger, found: Found) -> None:
        """Check a ledger that is found late. Raises SettingError if it is not the missing one."""
        place = self._ledgers.index(ledger)
        known = [*self._found[:place], found, *self._found[place + 1 :]]
        agree(known)
        await lay([found], self._ids, self._user_key)
        self._found[place] = found

    async def close(self) -> None:
        joining = [each.joining for each in self._ledgers if each.joining is not None]
        for task in joining:
            task.cancel()
        await asyncio.gather(*joining, return_exceptions=True)
        await asyncio.gather(*(rooms.close() for rooms in self._by_id.values()))

    # For operators

    @property
    def occupancy(self) -> Occupancy:
        nobody = Occupancy(0, 0, 0, 0)
        counts = zip(nobody, *(each.occupancy for each in self._by_id.values()), strict=True)
        return Occupancy(*map(sum, counts))

    @property
    def fault(self) -> str | None:
        """Why nothing can be stored in any ledger; None if one of them can store."""
        faults = [(each.url.place, each.fault) for each in self._ledgers]
        if any(fault is None for _, fault in faults):
            return None
        return "; ".join(f"{place}: {fault}" for place, fault in faults)

    @property
    def is_away(self) -> bool:
        return False

    def gauges(self) -> dict[str, Any]:
        """What `SharedRooms.gauges` returns, of all ledgers."""
        merged: dict[str, Any] = {"engine_up": {}, "engine_faults": {}}
        reports: dict[str, Mapping[str, Any]] = {}
        for each in self._ledgers:
            if each.rooms is None:
                merged["engine_up"][each.url.place] = 0
                merged["engine_faults"][each.url.place] = each.fault
                continue
            found = each.rooms.gauges()
            for report in found.pop("machine_reports"):
                known = reports.setdefault(report["machine"], report)
                if report["age_s"] < known["age_s"]:
                    reports[report["machine"]] = report
            del found["machines"]
            for key, by_ledger in found.items():
                merged.setdefault(key, {}).update(by_ledger)
        all_reports = [reports[machine] for machine in sorted(reports)]
        merged["machines"] = sum(not each["is_silent"] for each in all_reports)
        merged["machine_reports"] = all_reports
        return merged

    def report(self, counters: Mapping[str, Any]) -> None:
        """Tell the other machines of this one's counters, by each ledger."""
        for rooms in self._by_id.values():
            rooms.report(counters)

    # Of rooms

    def _rooms_of(self, name: str) -> SharedRooms:
        """The rooms of a room's ledger. Raises CommandError if it was not reached yet."""
        rooms = self._by_id.get(self._owner(name))
        if rooms is None:
            raise unavailable()
        return rooms

    def _administrations(self) -> dict[str, Administration]:
        """Those of all ledgers. Raises CommandError if one was not reached yet."""
        if len(self._by_id) < len(self._ids):
            raise unavailable()
        return {id: self._by_id[id].administration for id in self._ids}

    def publish(self, subscriber: Subscriber, draft_key: Any, draft: Draft) -> None:
        self.publish_all(subscriber, (draft_key,), (draft,))

    def publish_all(
        self, subscriber: Subscriber, draft_keys: Sequence[Any], drafts: Sequence[Draft]
    ) -> None:
        parts: dict[str, tuple[list[Any], list[Draft]]] = {}
        for draft_key, draft in zip(draft_keys, drafts, strict=True):
            keys, part = parts.setdefault(self._owner(draft.room), ([], []))
            keys.append(draft_key)
            part.append(draft)
        for id, (keys, part) in parts.items():
            if (rooms := self._by_id.get(id)) is not None:
                rooms.publish_all(subscriber, keys, part)
                continue
            for draft_key in keys:
                asyncio.get_running_loop().call_soon(subscriber.answer, draft_key, unavailable())

    def tell(self, subscriber: Subscriber, name: str, payload: bytes) -> None:
        if (rooms := self._by_id.get(self._owner(name))) is not None:
            rooms.tell(subscriber, name, payload)

    async def join(
        self, subscriber: Subscriber, entrance: Entrance, enter: Callable[[Entry], None]
    ) -> None:
        await self._rooms_of(entrance.room).join(subscriber, entrance, enter)

    async def leave(
        self, subscriber: Subscriber, name: str, member: Member | None, left: Callable[[], None]
    ) -> None:
        rooms = self._by_id.get(self._owner(name))
        if rooms is None:  # nobody can have joined
            left()
        else:
            await rooms.leave(subscriber, name, member, left)

    def lose(self, subscriber: Subscriber, name: str, member: Member) -> None:
        if (rooms := self._by_id.get(self._owner(name))) is not None:
            rooms.lose(subscriber, name, member)

    async def remove(self, removal: Removal) -> Member:
        return await self._rooms_of(removal.room).remove(removal)

    async def restore(
        self, subscriber: Subscriber, returning: Returning, *, gathering: bool
    ) -> bool:
        owner = self._owner(returning.room)
        joining = [each.joining for each in self._ledgers if each.joining is not None]
        if owner not in self._by_id:
            await asyncio.wait(joining, timeout=PATIENCE_S)
        rooms = self._by_id.get(owner)
        return rooms is not None and await rooms.restore(subscriber, returning, gathering=gathering)

    # Time

    def tick(self) -> None:
        for rooms in self._by_id.values():
            rooms.tick()
        share = self._sending_away.share(
            min(each.silent_s for each in self._ledgers),
            is_lost=all(each.rooms is not None and each.rooms.is_lost for each in self._ledgers),
        )
        if share:
            for subscriber in set().union(*(each.subscribers for each in self._by_id.values())):
                subscriber.send_away(share)


def _with_ids(found: Found, ids: tuple[str, ...]) -> Found:
    """What is at a URL, after the ids of all ledgers were stored there."""
    identity = found.identity
    return found if identity is None else found._replace(identity=identity._replace(ledgers=ids))


class _SpreadPages:
    """Implements `fastchat.rooms.contract.Pages`."""

    def __init__(self, rooms_of: Callable[[str], SharedRooms]) -> None:
        self._rooms_of = rooms_of

    async def before(self, room: str, offset: int | None, limit: int) -> Messages:
        return await self._pages(room).before(room, offset, limit)

    async def after(self, room: str, offset: int, limit: int) -> Messages:
        return await self._pages(room).after(room, offset, limit)

    async def search(self, room: str, query: str, limit: int) -> Messages:
        return await self._pages(room).search(room, query, limit)

    def _pages(self, room: str) -> Pages:
        return self._rooms_of(room).pages
