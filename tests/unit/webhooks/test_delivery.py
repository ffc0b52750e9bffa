"""The deliveries of a webhook: what is repeated, given up and counted."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from contracts.history import GENERATION
from fastchat import protocol
from fastchat.errors import CommandError, ErrorCode
from fastchat.history.memory import MemoryHistory
from fastchat.protocol import MessageDraft, Position, timestamp_of
from fastchat.rooms.administration import StoredRoom
from fastchat.webhooks.config import Webhook, read_config
from fastchat.webhooks.cursors import Cursors
from fastchat.webhooks.delivery import GIVE_UP_S, MAX_LIVE, Delivery
from support.receiver import Receiver, Request, ok, receiving, respond, written_config
from support.server import PATIENCE_S

NOW_S = 1_700_000_000.0


class Rooms:
    """A log of rooms, which a test writes to."""

    def __init__(self) -> None:
        self.history = MemoryHistory(
            max_messages=1000, new_generation=lambda: GENERATION, user_key=bytes(32)
        )
        self.reads = 0

    def publish(self, room: str, text: str, at_s: float = NOW_S) -> int:
        draft = MessageDraft(room, "Alice", text, timestamp_of(at_s), "u_alice")
        (publication,) = self.history.append([draft])
        assert isinstance(publication, protocol.Message)
        return publication.offset

    async def position(self, room: str) -> Position:
        return self.history.position(room)

    async def rooms(self, prefix: str, after: str, limit: int) -> Sequence[StoredRoom]:
        return [
            StoredRoom(room, epoch, head, 0, last_at, size)
            for room, epoch, head, last_at, size in self.history.streams(prefix, after, limit)
        ]

    async def since(self, room: str, position: Position, limit: int) -> Sequence[bytes] | None:
        self.reads += 1
        found = self.history.following(room, position, limit)
        return None if found is None else list(map(protocol.encode, found))


class World:
    """A webhook, its receiver, the rooms and a clock."""

    def __init__(self, webhook: Webhook, receiver: Receiver) -> None:
        self.receiver = receiver
        self.rooms = Rooms()
        self.cursors = Cursors(None)
        self.webhook = webhook
        self.now_s = NOW_S
        self.delivery = self.new_delivery()

    def new_delivery(self) -> Delivery:
        return Delivery(
            self.webhook,
            self.rooms,
            self.cursors,
            clock=lambda: self.now_s,
            jitter=lambda: 1.0,
            first_delay_s=0.001,
        )

    def publish(self, room: str, text: str, at_s: float = NOW_S) -> None:
        self.delivery.published(room, self.rooms.publish(room, text, at_s))

    async def until(self, holds: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not holds():  # noqa: ASYNC110  # threads make it so
                await asyncio.sleep(0.002)

    @property
    def texts(self) -> list[str]:
        return [body["text"] for body in self.receiver.bodies("message")]


def run(folder: Path, test: Callable[[World], Awaitable[None]]) -> None:
    """Run a test with a delivery that has begun."""
    with receiving() as receiver:
        table = f'[[webhook]]\nname = "shop"\nurl = "{receiver.url}"\nsecret-file = "{{secret}}"\n'
        (webhook,) = read_config(written_config(folder, table)).webhooks

        async def run_test() -> None:
            world = World(webhook, receiver)
            world.delivery.start()
            await world.until(lambda: world.delivery._is_started)
            try:
                await test(world)
            finally:
                await world.delivery.close()
                await world.cursors.close()

        asyncio.run(run_test())


def fail(_request: Request, _connection: socket.socket) -> bytes:
    return respond(500)


def test_publications_are_given_up_after_a_day(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Only those that are a day old; one line says which."""

    async def test(world: World) -> None:
        world.receiver.answer = fail
        for number in range(3):
            world.publish("lobby", f"old {number}")
        world.publish("lobby", "new", NOW_S + 3600)
        await world.until(lambda: world.delivery.counts["failed"] >= 5)
        world.now_s += GIVE_UP_S + 1
        await world.until(lambda: world.delivery.counts["given_up"])
        world.receiver.answer = ok
        await world.until(lambda: not world.delivery._pending)
        assert world.delivery.counts["given_up"] == 3
        assert world.texts[-1] == "new"
        assert "old 1" not in world.texts

    run(tmp_path, test)
    lines = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert lines == [
        "webhook shop: gave up the publications 1 to 3 of room lobby after a day: it answered with "
        "status 500"
    ]


def test_clock_that_is_set_forward_gives_nothing_up(tmp_path: Path) -> None:
    """Some attempts must have failed before."""

    async def test(world: World) -> None:
        failures = 0

        def fail_some(request: Request, connection: socket.socket) -> bytes:
            nonlocal failures
            failures += 1
            world.now_s += GIVE_UP_S
            return respond(500 if failures < 8 else 200)

        world.receiver.answer = fail_some
        world.publish("lobby", "one")
        await world.until(lambda: not world.delivery._pending)
        assert world.delivery.counts["given_up"] == 0
        assert world.delivery.counts["delivered"] == 1

    run(tmp_path, test)


def test_failures_are_remembered_over_a_restart(tmp_path: Path) -> None:
    """A server that restarts every hour gives up after a day, too."""

    async def test(world: World) -> None:
        world.receiver.answer = fail
        world.publish("lobby", "one")
        await world.until(lambda: world.delivery.counts["failed"])
        await world.delivery.close()
        world.now_s += GIVE_UP_S + 1
        world.delivery = world.new_delivery()
        world.delivery.start()
        await world.until(lambda: world.delivery.counts["given_up"] == 1)

    run(tmp_path, test)


def test_room_that_fails_holds_up_no_other(tmp_path: Path) -> None:
    """However many rooms fail, the others get their turns."""

    async def test(world: World) -> None:
        def fail_bad(request: Request, connection: socket.socket) -> bytes:
            return respond(500 if request.json["room"].startswith("bad") else 200)

        world.receiver.answer = fail_bad
        for number in range(20):
            world.publish(f"bad-{number}", "no")
        for number in range(100):
            world.publish("good", str(number))
        good = [str(number) for number in range(100)]
        await world.until(lambda: [text for text in world.texts if text != "no"] == good)
        publications, seconds = world.delivery.lag
        assert (publications, seconds) == (20, 0.0)
        world.now_s += 7
        assert world.delivery.lag == (20, 7.0)

    run(tmp_path, test)


def test_busy_room_takes_turns(tmp_path: Path) -> None:
    """A room with a long backlog does not hold up a room that gets a publication now."""

    async def test(world: World) -> None:
        for room in range(10):
            for number in range(200):
                world.rooms.publish(f"busy-{room}", str(number))
            world.delivery.published(f"busy-{room}", 200)
        world.publish("quiet", "now")
        await world.until(lambda: "now" in world.texts)
        assert len(world.texts) < 1000

    run(tmp_path, test)


def test_publications_that_arrive_during_a_delivery_are_delivered(tmp_path: Path) -> None:
    """Nothing is forgotten between the end of the log and the end of the work."""

    async def test(world: World) -> None:
        for number in range(300):
            world.publish("lobby", str(number))
            await asyncio.sleep(0.0002 * (number % 7))
        await world.until(lambda: not world.delivery._pending)
        assert world.texts == [str(number) for number in range(300)]

    run(tmp_path, test)


def test_log_that_cannot_be_read_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not the receiver's failure."""
    monkeypatch.setattr("fastchat.webhooks.delivery.UNREADABLE_S", 0.001)

    async def test(world: World) -> None:
        since, failures = world.rooms.since, 3

        async def fails(*arguments: Any) -> Any:
            nonlocal failures
            if failures:
                failures -= 1
                raise CommandError(ErrorCode.UNAVAILABLE, "No.", temporary=True)
            return await since(*arguments)

        monkeypatch.setattr(world.rooms, "since", fails)
        world.publish("lobby", "one")
        await world.until(lambda: world.texts == ["one"])
        assert world.delivery.counts["failed"] == 0

    run(tmp_path, test)


def test_joins_wait_in_a_short_queue(tmp_path: Path) -> None:
    """Of too many, the oldest are dropped and counted; none is sent twice."""

    async def test(world: World) -> None:
        world.receiver.answer = fail
        for number in range(MAX_LIVE + 20):
            world.delivery.announced("join", "lobby", b'{"type":"join","number":%d}' % number)
        await world.until(lambda: world.delivery.counts["dropped"] == MAX_LIVE + 20)
        numbers = [body["number"] for body in world.receiver.bodies("join")]
        assert numbers == list(range(20, MAX_LIVE + 20))
        assert all(body["stored"] is False for body in world.receiver.bodies("join"))

    run(tmp_path, test)
