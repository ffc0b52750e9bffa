"""Tests of following: every machine delivers the same sequence, whatever it hears or does not."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest

from contracts.history import delete, draft, edit, react
from fastchat.ledger import session
from fastchat.ledger.appending import Committed, Limits
from fastchat.ledger.following import Following
from fastchat.ledger.notes import MAX_NOTE_BYTES, machine_of, note_of, notes_of
from fastchat.ledger.streams import Loaded, Stream
from fastchat.ledger.url import EngineUrl
from fastchat.protocol import Change, Message, Position, Publication
from support.ledger import Machine, in_loop, until

LIMITS = Limits(stored=100_000, slack=100)


class Follower(Machine):
    """A machine that tells what it commits, and follows rooms. `hears` says which notes arrive."""

    def __init__(self, url: EngineUrl, name: str) -> None:
        super().__init__(url, LIMITS, name)
        self.delivered: dict[str, list[Publication]] = {}
        self.lost: list[str] = []
        self.hears: Callable[[str], bool] = lambda payload: True
        self.following = Following(
            self.reader,
            deliver=self._deliver,
            lost=self.lost.append,
            machine=lambda: self.session.machine,
        )

    def _deliver(self, stream: Stream, publications: Sequence[Publication]) -> None:
        self.delivered.setdefault(stream.room, []).extend(publications)

    def connected(self) -> None:
        self.following.connected()

    def heard(self, payload: str) -> None:
        if self.hears(payload):
            self.following.heard(payload)

    def beaten(self, machines: Sequence[Sequence[object]]) -> None:
        self.beats += 1
        self.following.beaten(machines)

    def committed(self, published: Mapping[str, Committed]) -> None:
        runs = {room: each.publications for room, each in published.items()}
        for room, run in runs.items():
            self.following.offer(room, run)
        self.session.tell(notes_of(self.session.machine, self.session.last_commit, runs))

    def offsets(self, room: str) -> list[int]:
        return [each.offset for each in self.delivered.get(room, ())]


@asynccontextmanager
async def followers(url: EngineUrl, *names: str) -> AsyncIterator[list[Follower]]:
    machines = [Follower(url, name) for name in names]
    try:
        for machine in machines:
            await machine.session.open()
        yield machines
    finally:
        for machine in machines:
            machine.following.close()
            await machine.session.close()


@in_loop
async def test_machines_deliver_the_same(url: EngineUrl) -> None:
    """Messages and changes of two machines arrive at both, in one order."""
    async with followers(url, "one", "two") as (one, two):
        for machine in (one, two):
            await machine.following.follow("a")
        await one.append(draft("1"), draft("2"))
        await until(lambda: two.offsets("a") == [1, 2])
        await two.append(edit(1, "better"), react(2), draft("5"))
        await until(lambda: one.offsets("a") == [1, 2, 3, 4, 5])
        assert one.delivered == two.delivered
        for machine in (one, two):
            stream = machine.following.get("a")
            assert stream is not None
            for offset in (1, 2):
                assert (
                    stream.state(offset)
                    == (await machine.reader.states([("a", offset)]))["a", offset]
                )
            assert stream.position == await machine.reader.position("a")
        assert one.following.reads_total == two.following.reads_total == 0


@in_loop
async def test_lost_notes_are_found_by_number(
    url: EngineUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If notes get lost, the next note or the next beats show it, and the ledger is read."""
    monkeypatch.setattr(session, "BEAT_S", 0.1)
    async with followers(url, "one", "two") as (one, two):
        for room in ("a", "b"):
            await two.following.follow(room)
        await one.append(draft("1"))
        await until(lambda: two.offsets("a") == [1])
        two.hears = lambda payload: False
        await one.append(draft("2"), draft("1", room="b"))
        await one.append(draft("3"))
        two.hears = lambda payload: True
        await one.append(draft("4"))  # its number shows that two are missing
        await until(lambda: (two.offsets("a"), two.offsets("b")) == ([1, 2, 3, 4], [1]))
        two.hears = lambda payload: False
        await one.append(draft("5"))  # only beats show it
        await until(lambda: two.offsets("a") == [1, 2, 3, 4, 5])
        assert [each.text for each in two.delivered["a"]] == ["1", "2", "3", "4", "5"]


@in_loop
async def test_lost_notes_of_an_unknown_machine_are_found(url: EngineUrl) -> None:
    """If the first notes of a machine get lost, the next one, or the first beat that has it, shows
    it."""
    async with followers(url, "one") as (one,):
        for room in ("a", "b"):
            await one.following.follow(room)
        one.hears = lambda payload: False
        async with followers(url, "two") as (two,):
            await two.append(draft("1"))
        await until(lambda: one.offsets("a") == [1])
        async with followers(url, "three") as (three,):
            await three.append(draft("2"))
            one.hears, beats = lambda payload: True, one.beats
            await three.append(draft("1", room="b"))
            await until(lambda: (one.offsets("a"), one.offsets("b")) == ([1, 2], [1]))
            assert one.beats <= beats + 1, "beats have shown it, not the note"


@in_loop
async def test_large_publication_is_read(url: EngineUrl) -> None:
    """A publication that is too large for a note is announced, and read."""
    async with followers(url, "one", "two") as (one, two):
        await two.following.follow("a")
        texts = ["small", "x" * 20_000, "\0" * 3000, "small"]
        await one.append(*map(draft, texts))
        await until(lambda: len(two.offsets("a")) == 4)
        assert [each.text for each in two.delivered["a"]] == texts


@in_loop
async def test_room_is_followed_from_its_position(url: EngineUrl) -> None:
    """What is published while a room is loaded is delivered after the position, once."""
    async with followers(url, "one", "two") as (one, two):
        for number in range(30):
            publishing = asyncio.create_task(one.append(draft("early"), draft("late")))
            await asyncio.sleep(random.random() * 0.003)
            two.delivered.clear()
            stream = await two.following.follow("a")
            position = stream.head
            two.delivered.clear()
            await publishing
            await until(lambda at=2 * number + 2, of=stream: of.head == at)  # type: ignore[misc]
            assert two.offsets("a") == [*range(position + 1, 2 * number + 3)]
            two.following.unfollow("a")


@in_loop
async def test_storm_is_the_same_on_all_machines(url: EngineUrl) -> None:
    """Three machines publish at once, and notes get lost at random: all deliver the same, and know
    the same states."""
    rooms = ("a", "b", "c")
    chance = random.Random(1)
    async with followers(url, "one", "two", "three") as machines:
        for machine in machines:
            machine.hears = lambda payload: chance.random() < 0.8
            for room in rooms:
                await machine.following.follow(room)

        async def storm(machine: Follower) -> None:
            for number in range(40):
                room = chance.choice(rooms)
                stream = machine.following.get(room)
                assert stream is not None
                target = chance.randint(1, max(stream.head, 1))
                await machine.append(
                    draft(f"{number}", room=room),
                    chance.choice((edit, delete, react))(target, room=room),
                )

        await asyncio.gather(*map(storm, machines))
        heads = await machines[0].reader.heads(rooms)
        for machine in machines:
            await until(
                lambda of=machine: all(  # type: ignore[misc]
                    of.offsets(room) == list(range(1, heads[room] + 1)) for room in rooms
                )
            )
        for room in rooms:
            targets = [(room, offset) for offset in range(1, heads[room] + 1)]
            states = await machines[0].reader.states(targets)
            for machine in machines:
                stream = machine.following.get(room)
                assert stream is not None
                for target, state in states.items():
                    assert stream.state(target[1]) == state
        assert not any(machine.lost for machine in machines)


@in_loop
async def test_lost_connection_is_caught_up(url: EngineUrl) -> None:
    """What was published while a machine had no connection is delivered when it has one."""
    async with followers(url, "one", "two") as (one, two):
        await two.following.follow("a")
        link = two.session._link
        assert link is not None
        link.listener.terminate()
        await one.append(draft("1"), draft("2"))
        await until(lambda: two.offsets("a") == [1, 2])
        await one.append(draft("3"))
        await until(lambda: two.offsets("a") == [1, 2, 3])


@in_loop
async def test_rows_that_are_gone_lose_the_room(
    url: EngineUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a gap cannot be read any more, the room is lost; nothing is skipped."""
    monkeypatch.setattr(session, "BEAT_S", 1000)  # a beat would read the rows before they are gone
    async with followers(url, "one", "two") as (one, two):
        await two.following.follow("a")
        await one.append(draft("1"))
        await until(lambda: two.offsets("a") == [1])
        two.hears = lambda payload: False
        await one.append(draft("2"), draft("3"))
        await one.session.fetch('DELETE FROM publications WHERE "offset" = 2')
        for _ in range(2):
            two.beaten([(one.session.machine, "one", one.session.last_commit)])
        await until(lambda: two.lost == ["a"])
        assert two.offsets("a") == [1]
        assert (await two.following.follow("a")).head == 3


@pytest.mark.parametrize("size", [1, 10, 100, 3000, MAX_NOTE_BYTES, 30_000])
def test_notes_are_as_small_as_the_server_needs(size: int) -> None:
    """Notes have all publications that fit, in order; the others are announced by their offset."""
    run = [Message("Raum ü", 5 + n, "Zoë", "é" * (size // 2), "t", "u_1", None) for n in range(40)]
    run[7:7] = [Change("Raum ü", 12, "Zoë", "", "t", "u_1", react(3).kind, 3, "👍", True)]
    run = [each._replace(offset=5 + n) for n, each in enumerate(run)]
    notes = notes_of(3, 17, {"Raum ü": run, "b": [run[0]._replace(room="b")]})
    offset = 5
    for each in notes:
        assert len(each.encode()) <= MAX_NOTE_BYTES
        assert machine_of(each) == 3
        note = note_of(each)
        assert note[:2] == (3, 17)
        if note.room == "Raum ü":
            assert note.first == offset
            offset += note.size
            assert note.publications in (run[note.first - 5 : offset - 5], [])
            assert bool(note.lines) == (size < MAX_NOTE_BYTES - 200 or note.first == 12)
    assert offset == 46
    assert (note.room, note.first, note.size) == ("b", 5, 1)


def test_commit_without_publications_has_a_note() -> None:
    """Its number is told, so that nobody looks for it."""
    (payload,) = notes_of(3, 17, {})
    note = note_of(payload)
    assert (note.machine, note.commit, note.size, list(note.lines)) == (3, 17, 0, [])


UNREADABLE = (
    "p",
    "p[]",
    "p[1,2]",
    "p[x,1]",
    'p[9,1,"a",1,2]\n{}',
    'p[9,1,"a",1,1]\n{"type":"message"}',
    'p[9,1,"a",1,1]\n{"type":"another"}',
    'p[9,1,"a",1,1]\n[]',
    'p[9,1,"a",1,1]\n["u","Ann","text"]',
    'p[9,1,"a",1,1]\nx',
)


@in_loop
async def test_note_that_cannot_be_read_is_ignored(url: EngineUrl) -> None:
    """It changes nothing, and the machine goes on with the next one."""
    async with followers(url, "one") as (one,):
        stream = await one.following.follow("a")
        for payload in UNREADABLE:
            one.following.heard(payload)
        assert stream.head == 0
        assert not stream.has_gap
        assert one.delivered == {}


def test_offers_in_any_order_are_delivered_in_theirs() -> None:
    """Whatever the order and the repetitions of offers, each publication is returned once."""
    chance = random.Random(7)
    for _ in range(200):
        messages = [draft(str(n)).numbered(n) for n in range(1, 30)]
        stream = Stream("a", Loaded("e", 1, 3, [(0, each) for each in messages[:3]]))
        got: list[Publication] = []
        parts = [(at, at + chance.randint(1, 4)) for at in range(29)]
        chance.shuffle(parts)
        for start, end in parts:
            got += stream.offer(messages[start:end])
        assert got == messages[3:]
        assert not stream.has_gap
        assert stream.since(Position("e", 20), 9) == messages[20:]
