"""Tests of what backends and operators decide on one of several machines."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from contracts.broker import Receiver
from contracts.broker.base import decoded
from contracts.history import draft, edit, react
from fastchat.brokers.memory import MemoryBroker
from fastchat.errors import CommandError, ErrorCode
from fastchat.ledger import erasing, notices
from fastchat.ledger.appending import Limits
from fastchat.ledger.erasing import purge
from fastchat.ledger.identity import Witness
from fastchat.ledger.rooms import SharedRooms
from fastchat.ledger.url import EngineUrl
from fastchat.metrics import Metrics
from fastchat.protocol import PostedDraft
from fastchat.protocol.options import RoomOptions
from fastchat.rooms import Entrance, Entry
from fastchat.rooms.administration import Administration, Erased
from support.ledger import in_loop, observer, until
from support.server import PATIENCE_S

FILE = "a" * 32
#: A notification that only tests send.
BARRIER = "~"


class Machine:
    """A machine with one process, and what its clients get."""

    def __init__(self, url: EngineUrl, name: str, limits: Limits) -> None:
        self.rooms = SharedRooms(
            url,
            name,
            secrets.token_hex(8),
            Witness(),
            room_limits=limits,
            clock=lambda: 0.0,
            metrics=Metrics(),
            user_of=lambda credential: credential,
        )
        self.receiver = Receiver()
        self.broker = MemoryBroker(self.rooms)
        self.broker.open(delivery=self.receiver, receiver=self.receiver)

    @property
    def administration(self) -> Administration:
        return self.rooms.administration

    @property
    def types(self) -> list[str]:
        """The types of what the members have received, without joins and leaves."""
        types = [event["type"] for event in self.receiver.received]
        return [each for each in types if each not in ("join", "leave")]

    async def join(self, name: str, room: str = "a") -> Entry:
        entries: list[Entry] = []
        entrance = Entrance(room, name, f"user {name}", None, 50)
        await self.broker.join(entrance, entries.append)
        return entries[0]

    def publish(self, *drafts: object) -> None:
        for each in drafts:
            self.broker.publish(each, self.receiver.answer)  # type: ignore[arg-type]

    def be_deaf(self) -> None:
        """Do not hear what is decided."""
        heard, self.reached = self.rooms.heard, asyncio.Event()

        def without_notices(payload: str) -> None:
            if payload == BARRIER:
                self.reached.set()
            elif not payload.startswith(('c\n["o"', 'c\n["d"', 'c\n["e"', 'c\n["u"', 'c\n["x"')):
                heard(payload)

        self.rooms.heard = without_notices  # type: ignore[method-assign]

    async def look(self, other: Machine) -> None:
        """Find what was not heard of another machine, as each second."""
        other.rooms._session.tell([BARRIER])
        await self.reached.wait()
        del self.rooms.heard  # type: ignore[attr-defined]
        await self.rooms._notices.tick()
        for event in await self.rooms._attendance.tick():
            self.rooms._expel(event)


@asynccontextmanager
async def machines(
    url: EngineUrl, count: int = 2, limits: Limits | None = None
) -> AsyncIterator[list[Machine]]:
    async with AsyncExitStack() as stack:
        made = [
            Machine(url, f"machine-{number}", limits or Limits(stored=1000, slack=10))
            for number in range(count)
        ]
        for each in made:
            await each.rooms.open()
            stack.push_async_callback(each.rooms.close)
        await stack.enter_async_context(asyncio.timeout(4 * PATIENCE_S))
        yield made


@in_loop
async def test_options_hold_on_all_machines(url: EngineUrl) -> None:
    """Members of each machine hear of them, and a slow room counts messages of all machines."""
    async with machines(url) as (one, two):
        await one.join("Alice")
        await two.join("Alice")
        await two.join("Bob")
        await one.administration.set_options("a", {"title": "Lobby", "slow_s": 60}, "shop")
        await two.receiver.until(lambda: "room" in two.types)
        assert one.types == ["room"], "this machine tells its members once"
        one.publish(draft("first"))
        await two.receiver.until_delivered(1)
        two.publish(draft("too soon"), draft("another's", by="Bob"))
        await two.receiver.until_delivered(2)
        assert two.receiver.codes == [ErrorCode.RATE_LIMITED]
        await two.administration.set_options("a", {"closed": True}, "shop")
        await one.receiver.until(lambda: one.types.count("room") == 2)
        with pytest.raises(CommandError):
            await one.join("Carol")
        assert (await one.administration.options("a")).title == "Lobby"


@in_loop
async def test_machine_finds_what_it_has_not_heard(url: EngineUrl) -> None:
    """Options, bans, the end of a ban, erased users and a deleted room."""
    async with machines(url) as (one, two):
        await one.join("Alice")
        await two.join("Bob")
        one.publish(draft("secret"))
        await two.receiver.until_delivered(1)
        await until(lambda: two.rooms._notices._read is not None)
        two.be_deaf()
        await one.administration.set_options("a", {"read_only": True}, "shop")
        await one.administration.ban("user Bob", None, 600, "shop")
        await one.administration.ban("user Carol", "a", 600, "shop")
        assert await one.administration.unban("user Carol", "a", "shop")
        await one.administration.erase_user("user Alice", "shop")
        assert two.types == ["message"]
        await two.look(one)
        assert two.types == ["message", "room", "user_erased"]
        assert two.rooms._options.in_use == {"a": RoomOptions(read_only=True)}
        assert two.receiver.expelled == [("a", "user Bob", 599)]
        assert two.rooms._attendance.removed_s("z", "user Bob") > 500
        assert not two.rooms._attendance.removed_s("a", "user Carol")
        stream = two.rooms._following.get("a")
        assert stream is not None
        assert [each.text for each in stream._tail.publications] == [""]
        two.be_deaf()
        await one.administration.delete_room("a", "shop")
        await two.look(one)
        assert two.types[-1] == "room_deleted"
        assert two.receiver.losses == ["a"]


@in_loop
async def test_position_of_which_a_machine_has_not_heard_is_looked_up(url: EngineUrl) -> None:
    """What a machine has in memory is read there; it can be behind another machine."""
    async with machines(url) as (one, two):
        await one.join("Alice")
        await two.join("Bob")
        two.rooms.heard = lambda payload: None  # type: ignore[method-assign]
        one.publish(draft("first"), draft("second"))
        await one.receiver.until_delivered(2)
        end = await one.administration.position("a")
        assert await two.administration.since("a", end, 10) == []
        start = end._replace(offset=0, timestamp=None)
        found = await one.administration.since("a", start, 1)
        assert [each["text"] for each in decoded(found or ())] == ["first"]
        assert await one.administration.since("a", end._replace(epoch="another"), 10) is None


@in_loop
async def test_machine_that_was_away_for_long_starts_its_rooms_anew(
    url: EngineUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Notices can be gone by then."""
    monkeypatch.setattr(notices, "LOOKED_S", -1.0)
    async with machines(url, 1) as (one,):
        await one.join("Alice")
        await until(lambda: one.rooms._notices._read is not None)
        await one.rooms._notices.tick()
        assert one.receiver.losses == ["a"]


@in_loop
async def test_members_of_a_deleted_room_are_lost_on_all_machines(url: EngineUrl) -> None:
    """Its messages and words are deleted in steps, and its files are released at once."""
    async with machines(url) as (one, two), observer(url) as db:
        await one.join("Alice")
        await two.join("Bob")
        one.publish(draft("old words"), draft(f"/files/{FILE}/photo.png"))
        await two.receiver.until_delivered(2)
        assert await one.rooms.pages.search("a", "words", 10)
        await db.execute(
            'INSERT INTO files (id, room, "user", size, charge, media_type, content, uploaded, '
            "linked) VALUES ($1, 'a', 'u', 1, 1, 'image/png', 1, now(), true)",
            FILE,
        )
        assert await two.administration.delete_room("a", "shop")
        for machine in (one, two):
            await machine.receiver.until(lambda machine=machine: bool(machine.receiver.losses))
            assert machine.types[-1] == "room_deleted"
        assert not await db.fetch("SELECT FROM files")
        back = await one.join("Alice")
        assert (back.payloads, back.position.offset) == ([], 0)
        one.publish(draft("new"))
        await one.receiver.until_delivered(3)
        await purge(one.rooms._session)
        assert await db.fetch("SELECT text FROM publications") == [("new",)]
        assert not await db.fetch("SELECT FROM texts")
        await db.execute("UPDATE deleted SET at = at - interval '61 s'")
        await purge(one.rooms._session)
        assert not await db.fetch("SELECT FROM deleted")
        assert not await db.fetch("SELECT FROM indexed")


@in_loop
async def test_change_by_a_machine_that_has_not_heard_brings_nothing_back(url: EngineUrl) -> None:
    """Neither the text of an erased user nor their reaction."""
    async with machines(url) as (one, two):
        await one.join("Alice")
        await two.join("Bob")
        one.publish(draft("secret"), draft("of Bob", by="Bob"), react(2, by="Alice"))
        await two.receiver.until_delivered(3)
        two.be_deaf()
        assert await one.administration.erase_user("user Alice", "shop") == Erased(1, 1)
        two.publish(edit(1, "moderated")._replace(moderated=True), react(2, "🎉", by="Bob"))
        await two.receiver.until_answered(1)
        await one.receiver.until_delivered(4)
        assert two.receiver.codes == [ErrorCode.NOT_FOUND]
        first, second = decoded((await one.rooms.pages.before("a", None, 10)).payloads)
        assert (first["text"], first["deleted"]) == ("", True)
        assert list(second["reactions"]) == ["🎉"]


@in_loop
async def test_erasure_that_is_cut_off_can_be_made_again(
    url: EngineUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was erased before stays so, and the second call erases the rest."""
    monkeypatch.setattr(erasing, "LOOKED_AT", 2)
    async with machines(url, 1) as (one,), observer(url) as db:
        await one.join("Alice")
        one.publish(*(draft(str(number)) for number in range(5)))
        await one.receiver.until_delivered(5)
        eraser = one.rooms.administration._eraser
        erase, steps = eraser.erase, []

        async def cut_off(*arguments: object) -> object:
            if len(steps) == 1:
                await db.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE query LIKE '%erase_1%' AND pid <> pg_backend_pid()"
                )
            steps.append(arguments)
            return await erase(*arguments)  # type: ignore[arg-type]

        eraser.erase = cut_off  # type: ignore[assignment, method-assign]
        with pytest.raises(CommandError) as caught:
            await one.administration.erase_user("user Alice", "shop")
        assert caught.value.code is ErrorCode.UNAVAILABLE
        await one.receiver.until(lambda: "user_erased" in one.types)
        assert await one.administration.erase_user("user Alice", "shop") == Erased(3, 0)
        assert len(await db.fetch("SELECT FROM publications WHERE deleted AND text = ''")) == 5
        assert one.types.count("user_erased") == 2, "once for each erasure"


@in_loop
async def test_users_are_counted_over_all_machines(url: EngineUrl) -> None:
    """Each connection counts, and one that has gone does not."""
    async with machines(url) as (one, two):
        entry = await one.join("Alice")
        for machine in (one, two, two):
            await machine.join("Alice")
        await two.rooms._attendance.say_connections()
        (found,) = await one.administration.find_user("user Alice")
        assert found.connections == 4
        two.broker.lose("a", entry.member)
        await two.rooms._attendance.say_connections()
        assert [each.connections for each in await one.administration.users("a")] == [3]
        assert await two.administration.disconnect("user Alice", None, "shop") == 1
        await one.receiver.until(lambda: bool(one.receiver.expelled))


@in_loop
async def test_user_who_is_banned_while_they_join_is_refused(url: EngineUrl) -> None:
    """The ban of all rooms is heard before the ledger's answer to the join is used."""
    async with machines(url) as (one, two):
        entered, reading = one.rooms._membership._read_entry, asyncio.Event()
        banned = asyncio.Event()

        async def read_later(entrance: Entrance) -> object:
            reading.set()
            await banned.wait()
            return await entered(entrance)

        one.rooms._membership._read_entry = read_later  # type: ignore[assignment, method-assign]
        joining = asyncio.create_task(one.join("Alice"))
        await reading.wait()
        await two.administration.ban("user Alice", None, 600, "shop")
        await until(lambda: one.rooms._attendance.removed_s("a", "user Alice") > 0)
        banned.set()
        with pytest.raises(CommandError) as caught:
            await joining
        assert caught.value.code is ErrorCode.FORBIDDEN


@in_loop
async def test_what_keys_post_is_beside_the_budget_of_a_room(url: EngineUrl) -> None:
    """It is neither refused nor charged, wherever it is in a turn."""
    limits = Limits(stored=1000, slack=10, rate=0.001, burst=2.0)
    async with machines(url, 1, limits) as (one,):
        await one.join("Alice")
        posted = [PostedDraft(*draft(f"posted {number}", id=str(number))) for number in range(3)]
        one.publish(posted[0], draft("one"), draft("two"), posted[1], draft("three"), posted[2])
        await one.receiver.until_delivered(5)
        await one.receiver.until_answered(1)
        assert one.receiver.texts == ["posted 0", "one", "two", "posted 1", "posted 2"]
        assert one.receiver.offsets == [1, 2, 3, 4, 5]
        assert one.receiver.codes == [ErrorCode.RATE_LIMITED]
