"""Tests of publishing: order, refusals, locked rooms, bad data, and a server that is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from contracts.history import draft, react
from fastchat.errors import CommandError, ErrorCode
from fastchat.history import Duplicate
from fastchat.ledger import NotCommittedError, publishing, session
from fastchat.ledger.appending import Committed, Limits, State, Target
from fastchat.ledger.publishing import Publishing
from fastchat.ledger.rows import NULL, SEPARATOR
from fastchat.ledger.url import EngineUrl, parse_url
from fastchat.protocol import Message
from support.ledger import Machine, in_loop, observer
from support.postgresql import PostgreSQL
from support.server import PATIENCE_S
from support.wire import Wire

LIMITS = Limits(stored=100_000, slack=100)


class Publisher(Machine):
    """A machine that publishes; what it knows of messages is in `states`."""

    def __init__(self, url: EngineUrl, name: str = "one", limits: Limits = LIMITS) -> None:
        super().__init__(url, limits, name)
        self.outcomes: dict[Any, int | Duplicate | CommandError] = {}
        self.commits_made: list[int] = []  # how many publications each has had
        self.states: dict[Target, State] = {}
        self.publishing = Publishing(
            self.session,
            self.reader,
            limits,
            known=lambda target: self.states.get(target),
            committed=self._on_committed,
            answered=self._on_answered,
        )

    def _on_committed(
        self, rooms: Mapping[str, tuple[Committed, Sequence[Any]]], seconds: float
    ) -> None:
        assert seconds > 0
        self.commits_made.append(sum(len(each.publications) for each, _ in rooms.values()))
        for committed, senders in rooms.values():
            for publication, sender in zip(committed.publications, senders, strict=True):
                if sender is not None:
                    self._on_answered(sender, publication.offset)

    def _on_answered(self, sender: Any, outcome: int | Duplicate | CommandError) -> None:
        assert sender not in self.outcomes
        self.outcomes[sender] = outcome

    def codes(self) -> list[Any]:
        return [
            each.code if isinstance(each, CommandError) else each
            for _, each in sorted(self.outcomes.items())
        ]


@asynccontextmanager
async def opened(
    url: EngineUrl, name: str = "one", limits: Limits = LIMITS
) -> AsyncIterator[Publisher]:
    publisher = Publisher(url, name, limits)
    try:
        await publisher.session.open()
        yield publisher
    finally:
        await publisher.publishing.close()
        await publisher.session.close()


async def settled(publisher: Publisher) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while publisher.publishing.count:  # noqa: ASYNC110 nothing tells of it
            await asyncio.sleep(0.005)


@in_loop
async def test_turn_is_one_commit(url: EngineUrl) -> None:
    """All drafts of a turn are one commit, and those that come during it are the next."""
    async with opened(url) as one:
        for number in range(5):
            one.publishing.publish(number, draft(str(number)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for number in range(5, 12):
            one.publishing.publish(number, draft(str(number)))
        await settled(one)
        assert one.commits_made == [5, 7]
        assert one.codes() == list(range(1, 13))


@in_loop
async def test_order_is_kept_beside_changes_of_others(url: EngineUrl) -> None:
    """Two machines react to the same message at the same time, with messages in between: nothing is
    lost, and what each of them publishes stays in its order."""
    async with opened(url, "one") as one, opened(url, "two") as two:
        await one.append(draft("first"))
        for number in range(40):
            for machine, name in ((one, "Ann"), (two, "Ben")):
                by = f"{name} {number}"
                machine.publishing.publish((number, 0), react(1, "👍", by=by))
                machine.publishing.publish((number, 1), draft(by, by=name))
            if number % 3 == 0:
                await asyncio.sleep(0.001)
        await settled(one)
        await settled(two)
        for machine in (one, two):
            offsets = machine.codes()
            assert offsets == sorted(offsets)
        stored = await one.stored()
        assert len(stored) == 161
        reactions = (await one.reader.states([("a", 1)]))["a", 1].publication.reactions  # type: ignore[union-attr]
        assert sorted(each.username for each in reactions["👍"]) == sorted(
            f"{name} {number}" for name in ("Ann", "Ben") for number in range(40)
        )


@in_loop
async def test_outdated_state_is_read_again(url: EngineUrl) -> None:
    """A change of a message that this machine knows in an older state does not undo the newer."""
    async with opened(url, "one") as one, opened(url, "two") as two:
        await one.append(draft("first"))
        one.states = await one.reader.states([("a", 1)])
        await two.append(react(1, "🎉", by="Ben"))
        one.publishing.publish(1, react(1, "👍", by="Ann"))
        one.publishing.publish(2, draft("after"))
        await settled(one)
        assert one.codes() == [3, 4]
        (state,) = (await one.reader.states([("a", 1)])).values()
        assert state.changed == 3
        assert set(state.publication.reactions) == {"🎉", "👍"}  # type: ignore[union-attr]


@in_loop
async def test_locked_room_stops_no_other_room(url: EngineUrl) -> None:
    """While somebody has locked a room, other rooms go on, and the room follows in its order."""
    async with opened(url) as one, observer(url) as db:
        await one.append(draft("0"), draft("0", room="b"))
        async with db.transaction():
            await db.execute("SELECT 1 FROM rooms WHERE name = 'a' FOR UPDATE")
            for number in range(1, 4):
                one.publishing.publish(("a", number), draft(str(number)))
                one.publishing.publish(("b", number), draft(str(number), room="b"))
            async with asyncio.timeout(PATIENCE_S):
                while len(one.outcomes) < 3:  # noqa: ASYNC110 nothing tells of it
                    await asyncio.sleep(0.01)
            assert sorted(one.outcomes) == [("b", 1), ("b", 2), ("b", 3)]
        await settled(one)
        assert [each.text for each in await one.stored("a")] == ["0", "1", "2", "3"]


@in_loop
async def test_bad_data_harms_no_other_draft(url: EngineUrl) -> None:
    """A draft that PostgreSQL cannot store is refused alone."""
    async with opened(url) as one:
        # Nobody can send an emoji with U+0000; it is not escaped.
        drafts = [draft("1"), react(1, "\0"), draft("2"), draft("3")]
        await one.append(draft("0"))
        for number, each in enumerate(drafts):
            one.publishing.publish(number, each)
        await settled(one)
        assert one.codes() == [2, ErrorCode.BAD_COMMAND, 3, 4]
        assert [each.text for each in await one.stored()] == ["0", "1", "2", "3"]


@in_loop
@pytest.mark.parametrize("count", [1, 2])
async def test_texts_with_any_characters_are_stored_as_they_are(url: EngineUrl, count: int) -> None:
    """Texts travel as one text with a separator; no text can be taken for it, or for no text."""
    texts = ["", "\0", NULL, SEPARATOR, "\1\2\0\1\3\1\4", f"a{SEPARATOR}b{NULL}", "{,}\\"]
    async with opened(url) as one:
        for at in range(0, len(texts), count):
            drafts = [draft(each, id=each or None, by=each or "Ann") for each in texts[at:][:count]]
            assert len(await one.append(*drafts)) == len(drafts)
        stored = await one.stored()
        assert [each.text for each in stored] == texts
        assert [each.username for each in stored] == [each or "Ann" for each in texts]
        assert [each.id for each in stored if isinstance(each, Message)] == [
            each or None for each in texts
        ]


@in_loop
async def test_refused_change_is_answered_although_its_commit_fails(
    url: EngineUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change that is not allowed has its answer, once, whatever becomes of the others."""
    monkeypatch.setattr(publishing, "REFUSED_S", 0.01)
    async with opened(url) as one:
        commit, failures = one.session.commit, iter([NotCommittedError("no disk", "53100")])

        async def fail_once(*arguments: Any, **options: Any) -> str:
            for error in failures:
                raise error
            return await commit(*arguments, **options)

        monkeypatch.setattr(one.session, "commit", fail_once)
        one.publishing.publish("change", react(7))
        one.publishing.publish("message", draft("1"))
        await settled(one)
        assert one.outcomes["message"] == 1
        assert one.outcomes["change"].code == ErrorCode.NOT_FOUND  # type: ignore[union-attr]


@in_loop
async def test_budget_of_a_room_is_shared(url: EngineUrl) -> None:
    """The publications of all machines count, and the refusal says how long to wait."""
    limits = Limits(stored=1000, slack=100, rate=1.0, burst=10)
    async with opened(url, "one", limits) as one, opened(url, "two", limits) as two:
        for number in range(8):
            for machine in (one, two):
                machine.publishing.publish(number, draft(str(number), id=str(number), by="Ann"))
                machine.publishing.publish(number + 100, draft("other", room="b"))
        await settled(one)
        await settled(two)
        assert len(await one.stored("a")) == 8  # each id once
        outcomes = [each.outcomes[number + 100] for each in (one, two) for number in range(8)]
        refused = [each for each in outcomes if isinstance(each, CommandError)]
        assert len(refused) == 6
        for each in refused:
            assert each.code == ErrorCode.RATE_LIMITED
            assert each.retry_after_ms is not None
            assert 0 < each.retry_after_ms <= 7000


@in_loop
async def test_drafts_wait_for_a_server_that_is_away(
    url: EngineUrl, server: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drafts are kept for a moment. Then they are refused, and nothing of them appears later, but
    for the commit that was under way."""
    monkeypatch.setattr(publishing, "PATIENCE_S", 0.4)
    monkeypatch.setattr(session, "MAX_RETRY_S", 0.1)
    async with Wire(server.port) as wire:
        through = parse_url(
            f"postgresql://postgres@127.0.0.1:{wire.port}/postgres?schema={url.schema}"
        )
        async with opened(through) as one:
            wire.refuses = True
            wire.cut()
            one.publishing.publish(1, draft("under way"))
            await asyncio.sleep(0.2)
            one.publishing.publish(2, draft("waits"))
            await asyncio.sleep(0.3)
            one.publishing.tick()
            assert one.codes() == [ErrorCode.UNAVAILABLE]
            await asyncio.sleep(0.3)
            one.publishing.tick()
            assert one.codes() == [ErrorCode.UNAVAILABLE] * 2
            monkeypatch.setattr(publishing, "PATIENCE_S", PATIENCE_S)
            one.publishing.publish(3, draft("is kept"))
            wire.refuses = False
            await settled(one)
            assert isinstance(one.outcomes[3], int)
            assert [each.text for each in await one.stored()][-1] == "is kept"
            assert "waits" not in [each.text for each in await one.stored()]
            assert one.publishing.fault is None


@in_loop
async def test_flush_waits_for_a_rooms_drafts(url: EngineUrl) -> None:
    """`flushed` returns when all drafts that the room had at that moment have their outcome."""
    async with opened(url) as one:
        await one.publishing.flushed("a")
        for number in range(3):
            one.publishing.publish(number, draft(str(number)))
        async with asyncio.timeout(PATIENCE_S):
            await one.publishing.flushed("a")
        assert one.codes() == [1, 2, 3]
        one.publishing.publish(3, draft("3", room="b"))
        await one.publishing.flushed("a")
        assert 3 not in one.outcomes
        await settled(one)
