"""`fastchat_client.Bot` in rooms of real servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastchat_client import Bot, Chat, Closed, Join, Message, Refused, Room
from support.scripted import Peer, scripted
from support.server import PATIENCE_S
from support.server_in_thread import serving


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 2 * PATIENCE_S))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(limits="off") as running:
        yield f"ws://127.0.0.1:{running.port}"


@contextlib.asynccontextmanager
async def running(bot: Bot, *rooms: str) -> AsyncIterator[None]:
    """A bot during an `async with` block; it is stopped at the end."""
    task = asyncio.create_task(bot.serve(rooms))
    try:
        yield
    finally:
        bot.stop()
        await task


@contextlib.asynccontextmanager
async def beside(url: str, bot: Bot, name: str) -> AsyncIterator[Room]:
    """A room with a user and a bot."""
    async with Chat(url, username="Ann") as ann:
        room = await ann.join(name)
        async with running(bot, name):
            async for event in room:
                if isinstance(event, Join):
                    break
            yield room


async def answers(room: Room, count: int) -> list[str]:
    """The next texts of others, without the quotes of replies."""
    found = []
    async for event in room:
        if isinstance(event, Message) and event.user != room.user:
            found.append(event.own_text)
            if len(found) == count:
                break
    return found


# Functions


def test_commands_get_their_words_and_explain_themselves(url: str) -> None:
    """Words are converted; a mistake is answered with the usage, and `!help` lists the commands."""
    bot = Bot(url, username="Dice")

    @bot.command("roll", help="Roll a die.")
    async def roll(message: Message, sides: int = 6) -> None:
        await message.reply(f"{sides} sides")

    @bot.command("Say")
    async def say(message: Message, *, text: str) -> None:
        await message.reply(text)

    async def main() -> None:
        async with beside(url, bot, "commands") as room:
            for text in ("!roll", "!ROLL 20", "!roll six", "!say  two words", "!fly", "!help"):
                await room.send(text)
            assert await answers(room, 5) == [
                "6 sides",
                "20 sides",
                "`sides` must be a whole number, not `six`. Usage: !roll [sides]",
                "two words",
                "`!help` List the commands.\n`!roll [sides]` Roll a die.\n`!Say text`",
            ]

    run(main())


def test_mentions_and_events_have_functions_of_their_own(url: str) -> None:
    """A mention in a quote is none, a reply to the bot is one, and all functions that fit run."""
    bot = Bot(url, username="Echo")
    texts: list[str] = []

    @bot.message(mention=True)
    async def answer(message: Message) -> None:
        await message.react("👋")
        await message.reply("yes?")

    @bot.message()
    async def note(message: Message) -> None:
        texts.append(message.own_text)

    @bot.event(Join)
    async def greet(event: Join) -> None:
        texts.append(f"{event.username} came")

    async def main() -> None:
        async with beside(url, bot, "mentions") as room:
            async with Chat(url, username="Bob") as bob:
                await bob.join("mentions")
                await room.send("hello")
                await room.send("hello @echo")
                assert await answers(room, 1) == ["yes?"]
                await room.send("thanks", reply_to=4)
                await room.send("see", reply_to=2)
                assert await answers(room, 1) == ["yes?"]
            page = await room.history(before=3)
            assert "👋" in page.messages[1].reactions

    run(main())
    assert texts == ["Bob came", "hello", "hello @echo", "thanks", "see"]


def test_bot_answers_no_bot(url: str) -> None:
    """Two bots that answer everything do not answer each other, nor themselves."""
    bots = [Bot(url, username=name) for name in ("One", "Two")]

    for bot in bots:

        @bot.message()
        async def answer(message: Message) -> None:
            await message.reply("I agree.")

    async def main() -> None:
        async with beside(url, bots[0], "bots") as room, running(bots[1], "bots"):
            async for event in room:
                if isinstance(event, Join):
                    break
            await room.send("Nice weather.")
            assert await answers(room, 2) == ["I agree.", "I agree."]
            await room.send("The end.")
            assert await answers(room, 2) == ["I agree.", "I agree."]
            assert room.position.offset == 6

    run(main())


def test_error_in_a_function_is_logged_and_the_bot_goes_on(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The message counts as handled."""
    bot = Bot(url, username="Clumsy")

    @bot.command("fail")
    async def fail(message: Message) -> None:
        await message.delete()

    @bot.command("work")
    async def work(message: Message) -> None:
        await message.reply("done")

    async def main() -> None:
        async with beside(url, bot, "errors") as room:
            await room.send("!fail")
            await room.send("!work")
            assert await answers(room, 1) == ["done"]

    with caplog.at_level(logging.ERROR, "fastchat_client.bot"):
        run(main())
    assert "A function has failed for Message" in caplog.text
    assert "forbidden" in caplog.text or "Only the message's author" in caplog.text


def test_events_of_a_room_wait_for_each_other_but_not_rooms(url: str) -> None:
    """A function that takes long delays its room only."""
    bot = Bot(url, username="Slow")
    may_end = asyncio.Event()
    done: asyncio.Queue[str] = asyncio.Queue()

    @bot.message()
    async def handle(message: Message) -> None:
        if message.text == "wait":
            await may_end.wait()
        done.put_nowait(message.text)

    async def main() -> None:
        async with Chat(url, username="Ann") as ann, running(bot, "rooms-1", "rooms-2"):
            one, two = await ann.join("rooms-1"), await ann.join("rooms-2")
            for room in (one, two):
                while room.online < 2:
                    await anext(room)
            await one.send("wait")
            await one.send("second")
            await two.send("other")
            assert await done.get() == "other"
            may_end.set()
            assert [await done.get() for _ in range(2)] == ["wait", "second"]

    run(main())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Bot("ws://host"),
        lambda: Bot("ws://host", username="Bot", prefix=" !"),
        lambda: Bot("ws://host", username="Bot").command("two words"),
    ],
)
def test_mistakes_are_found_before_the_start(make: Callable[[], object]) -> None:
    """A bot needs a name, a prefix, and commands of one word."""
    with pytest.raises(ValueError, match=r"bot|prefix|word"):
        make()


# Restarts


def test_messages_are_handled_once_over_restarts(url: str, tmp_path: Path) -> None:
    """Messages that came while the bot was away are handled, even more than the server sends at
    once; none is handled twice, and none from before its first start."""
    handled: asyncio.Queue[str] = asyncio.Queue()

    def new_bot() -> Bot:
        bot = Bot(url, username="Memory", state=tmp_path / "bot.json")

        @bot.message()
        async def handle(message: Message) -> None:
            handled.put_nowait(message.text)

        return bot

    async def take(*numbers: int) -> None:
        for number in numbers:
            assert await handled.get() == f"{number}"

    async def main() -> None:
        async with Chat(url, username="Ann") as ann:
            room = await ann.join("restarts")
            await room.send("before")
            async with beside_started(room):
                await room.send("0")
                await take(0)
            for number in range(1, 311):
                await room.send(f"{number}")
            async with running(new_bot(), "restarts"):
                await take(*range(1, 311))
                await room.send("311")
                await take(311)
            async with running(new_bot(), "restarts"):
                await room.send("312")
                await take(312)

    @contextlib.asynccontextmanager
    async def beside_started(room: Room) -> AsyncIterator[None]:
        async with running(new_bot(), "restarts"):
            async for event in room:
                if isinstance(event, Join):
                    break
            yield

    run(main())
    assert handled.empty()


def test_new_history_is_handled_from_its_new_messages_on(tmp_path: Path) -> None:
    """After an older copy of the history was put back, only newer messages are handled."""
    state = tmp_path / "bot.json"
    known = {"epoch": "E", "offset": 7, "timestamp": "2025-01-18T10:07:00.000Z"}
    state.write_text(json.dumps({"version": 1, "session": None, "rooms": {"lobby": known}}))
    handled: list[str] = []
    bot = Bot("ws://host", username="Bot", state=state)

    @bot.message()
    async def handle(message: Message) -> None:
        handled.append(message.text)
        bot.stop()

    async def script(peer: Peer) -> None:
        old = {"type": "message", "room": "lobby", "user": "u", "username": "Ann", "text": "old"}
        old |= {"offset": 3, "timestamp": "2025-01-18T10:03:00.000Z"}
        new = {**old, "offset": 4, "text": "new", "timestamp": "2025-01-18T10:09:00.000Z"}
        join = await peer.welcome(old, new, epoch="F", offset=4)
        assert join["since"] == known
        await peer.stay()

    async def main() -> None:
        async with scripted(script) as url:
            bot._url = url
            await bot.serve(["lobby"])

    run(main())
    assert handled == ["new"]
    assert json.loads(state.read_text())["rooms"]["lobby"]["offset"] == 4


KILLED = """
import os, pathlib, signal, sys
from fastchat_client import Bot

bot = Bot(sys.argv[1], username="Phoenix", state=sys.argv[2])
once = pathlib.Path(sys.argv[2] + ".once")

@bot.command("die")
async def die(message):
    await message.reply("dying")
    if not once.exists():
        once.touch()
        os.kill(os.getpid(), signal.SIGKILL)

@bot.command("live")
async def live(message):
    await message.reply("living")

bot.run(["killed"])
"""


def test_answer_of_a_killed_bot_appears_once(url: str, tmp_path: Path) -> None:
    """A bot that is killed after its answer, and before it has noted it, does not answer twice."""

    async def start() -> asyncio.subprocess.Process:
        command = (sys.executable, "-c", KILLED, url, str(tmp_path / "bot.json"))
        return await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)

    async def main() -> None:
        async with Chat(url, username="Ann") as ann:
            room = await ann.join("killed")
            first = await start()
            async for event in room:
                if isinstance(event, Join):
                    break
            await room.send("!die")
            assert await first.wait() == -signal.SIGKILL
            await room.send("!live")
            second = await start()
            try:
                assert await answers(room, 2) == ["dying", "living"]
            finally:
                second.terminate()
                assert await second.wait() == 0
            page = await room.history()
            assert [each.own_text for each in page.messages] == [
                "!die",
                "dying",
                "!live",
                "living",
            ]

    run(main())


def test_stop_lets_a_function_end_and_starts_no_other(url: str, tmp_path: Path) -> None:
    """After `stop`, as after SIGTERM, the message at hand is finished, and the next one is handled
    by the next bot."""
    handled: list[str] = []

    def new_bot() -> Bot:
        bot = Bot(url, username="Calm", state=tmp_path / "bot.json")

        @bot.message()
        async def handle(message: Message) -> None:
            bot.stop()
            await message.reply("done")
            handled.append(message.text)

        return bot

    async def main() -> None:
        async with Chat(url, username="Ann") as ann:
            room = await ann.join("stopped")
            serving_bot = asyncio.create_task(new_bot().serve(["stopped"]))
            async for event in room:
                if isinstance(event, Join):
                    break
            await asyncio.gather(room.send("first"), room.send("second"))
            await serving_bot
            assert handled == ["first"]
            await new_bot().serve(["stopped"])
            assert await answers(room, 2) == ["done", "done"]

    run(main())
    assert handled == ["first", "second"]


# Refusals


def test_room_that_refuses_the_bot_does_not_stop_the_others(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """If all rooms refuse it for good, the bot ends with the last refusal."""
    bot = Bot(url, username="Stubborn")

    async def main() -> None:
        async with Chat(url, username="Ann") as ann:
            room = await ann.join("allowed")
            async with running(bot, "Not Allowed", "allowed"):
                async for event in room:
                    if isinstance(event, Join):
                        break
            with pytest.raises(Refused) as refused:
                await Bot(url, username="Stubborn").serve(["Not Allowed"])
            assert refused.value.code == "bad_room"

    with caplog.at_level(logging.ERROR, "fastchat_client.bot"):
        run(main())
    assert "The room Not Allowed refuses the bot" in caplog.text


def test_end_of_the_chat_ends_the_bot() -> None:
    """An error after which a client must not come back is raised by `serve`."""

    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.close(4503, "removed by a moderator")

    async def main() -> None:
        async with scripted(script) as url:
            with pytest.raises(Closed, match="removed by a moderator"):
                await Bot(url, username="Bot").serve(["lobby"])

    run(main())
