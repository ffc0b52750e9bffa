"""WebSockets of other libraries as members of a hub."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trustme
import uvloop
import websockets

from fastchat import Connection, Hub
from support.hub import (
    CLOSE,
    EVICTED,
    HEARTBEAT,
    LIMIT_S,
    TINY_BYTES,
    Clock,
    Frame,
    close_payload,
    decode,
    encode,
    on_loop,
    turn,
    until,
)
from support.libraries import LIBRARIES, Socket, open_client, serving
from support.raw_websocket import frame

# uvicorn's oldest implementation uses what websockets has deprecated.
pytestmark = pytest.mark.filterwarnings(
    "ignore:remove second argument of ws_handler:DeprecationWarning"
)

NewLoop = Callable[[], asyncio.AbstractEventLoop]

each_loop = pytest.mark.parametrize(
    "loop", [uvloop.new_event_loop, asyncio.SelectorEventLoop], ids=["uvloop", "asyncio"]
)
each_library = pytest.mark.parametrize("library", LIBRARIES)

ROOMY = {
    "max_lag_bytes": 64 << 20,
    "max_connection_lag_bytes": 64 << 20,
    "max_lag_total_bytes": 64 << 20,
}


class Talk:
    """A hub, and both ends of a WebSocket."""

    def __init__(self, hub: Hub, socket: Socket, client: Any) -> None:
        self.hub = hub
        self.socket = socket
        self.client = client

    async def texts(self, count: int) -> list[str]:
        """The next messages that the client receives."""
        async with asyncio.timeout(LIMIT_S):
            return [str(await self.client.recv()) for _ in range(count)]

    async def to_end(self) -> list[str]:
        """All messages that the client receives until the connection ends."""
        texts = []
        async with asyncio.timeout(LIMIT_S):
            with contextlib.suppress(websockets.ConnectionClosed):
                while True:
                    texts.append(str(await self.client.recv()))
        return texts

    async def received(self) -> str | None:
        """What the application receives next; None at the end of the connection."""
        async with asyncio.timeout(LIMIT_S):
            return await self.socket.receive()


@contextlib.asynccontextmanager
async def talking(
    library: str,
    *,
    hub: dict[str, Any] | None = None,
    client: dict[str, Any] | None = None,
    **server: Any,
) -> AsyncIterator[Talk]:
    """Serve with a library, and connect a client whose WebSocket the test can use at both ends."""
    sockets: asyncio.Queue[Socket] = asyncio.Queue()
    done = asyncio.Event()

    async def endpoint(socket: Socket) -> None:
        sockets.put_nowait(socket)
        await done.wait()

    one = Hub(**(hub or {}))
    async with asyncio.timeout(3 * LIMIT_S), serving(library, endpoint, **server) as served:
        far = await open_client(served, **(client or {}))
        try:
            yield Talk(one, await sockets.get(), far)
            one.verify()
        finally:
            done.set()
            far.transport.abort()
            await until(lambda: not served.running)
    one.abort()


# Two writers


@each_library
@on_loop
async def test_messages_of_both_writers_arrive_in_order(library: str) -> None:
    """The application's messages do not overtake publications, nor are they overtaken."""
    async with talking(library) as talk, talk.hub.member(talk.socket.ws, "news"):
        for i in range(0, 20, 4):
            talk.hub.broadcast_text(str(i), "news")
            await talk.socket.send(str(i + 1))
            await talk.socket.send(str(i + 2))
            talk.hub.broadcast_text(str(i + 3), "news")
        assert await talk.texts(20) == [str(i) for i in range(20)]


@each_loop
@each_library
def test_large_message_is_intact_among_broadcasts(library: str, loop: NewLoop) -> None:
    """A message of 20 MB arrives whole among publications, and does not count as lag."""

    async def test() -> None:
        async with talking(library) as talk, talk.hub.member(talk.socket.ws, "news"):
            await _send_among_broadcasts(talk, "x" * 20_000_000)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(test())


@each_loop
@each_library
def test_large_message_is_intact_over_tls(library: str, loop: NewLoop) -> None:
    """With TLS a large message arrives whole among publications, too."""
    near, far = _certified()

    async def test() -> None:
        async with (
            talking(library, tls=near, client={"tls": far}) as talk,
            talk.hub.member(talk.socket.ws, "news"),
        ):
            await _send_among_broadcasts(talk, "x" * 6_000_000)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(test())


@on_loop
async def test_only_the_bytes_of_the_hub_count_as_lag() -> None:
    """Large messages of the application that the client does not read are no lag of the hub."""
    near, far = _certified()
    small = {"tls": far, "receive_buffer": TINY_BYTES}
    async with (
        talking("websockets", tls=near, send_buffer=TINY_BYTES, client=small) as talk,
        talk.hub.member(talk.socket.ws, "news") as connection,
    ):
        for i in range(10):
            talk.hub.broadcast_text(str(i) * 100_000, "news")
            assert await talk.texts(1) == [str(i) * 100_000]
        await until(lambda: not connection.blocked)
        talk.client.transport.pause_reading()
        large = "x" * 5_000_000
        sending = asyncio.gather(talk.socket.send(large), talk.socket.send(large))
        await until(lambda: talk.socket.transport.get_write_buffer_size() >= 5_000_000)
        for _ in range(10):
            talk.hub.broadcast_text("y" * 20_000, "news")
            talk.hub.flush()
        assert connection.blocked
        assert talk.hub.stats()["lag_bytes"] < 300_000
        talk.client.transport.resume_reading()
        assert await talk.texts(12) == [large, large, *["y" * 20_000] * 10]
        await sending


def _certified() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The contexts of a server and of a client that trusts it."""
    authority = trustme.CA()
    near, far = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(near)
    authority.configure_trust(far)
    return near, far


async def _send_among_broadcasts(talk: Talk, large: str) -> None:
    async def broadcast() -> None:
        for i in range(100):
            talk.hub.broadcast_text(str(i), "news")
            await turn()

    async def send() -> None:
        await talk.socket.send(large)
        await talk.socket.send("end")

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(send())
        tasks.create_task(broadcast())
        texts = await talk.texts(102)
    assert [text for text in texts if text.isdecimal()] == [str(i) for i in range(100)]
    assert [text for text in texts if not text.isdecimal()] == [large, "end"]


@each_library
@on_loop
async def test_library_answers_pings(library: str) -> None:
    """The pongs of the library arrive among publications."""
    async with talking(library) as talk, talk.hub.member(talk.socket.ws, "news"):
        receiving = asyncio.create_task(talk.received())
        for i in range(10):
            talk.hub.broadcast_text(str(i), "news")
            pong = await talk.client.ping(str(i))
            assert await talk.texts(1) == [str(i)]
            async with asyncio.timeout(LIMIT_S):
                await pong
        await talk.client.send("done")
        assert await receiving == "done"


@each_library
@on_loop
async def test_compression_can_be_negotiated(library: str) -> None:
    """The library compresses, the hub does not, and the client understands both."""
    async with (
        talking(library, compression=True, client={"compression": True}) as talk,
        talk.hub.member(talk.socket.ws, "news"),
    ):
        assert talk.client.protocol.extensions
        for i in range(0, 10, 2):
            await talk.socket.send(str(i) * 1000)
            talk.hub.broadcast_text(str(i + 1) * 1000, "news")
        assert await talk.texts(10) == [str(i) * 1000 for i in range(10)]


@each_library
@on_loop
async def test_slow_member_catches_up(library: str) -> None:
    """A member whose client stops reading is blocked, and then gets everything in order."""
    small = {"receive_buffer": TINY_BYTES}
    async with (
        talking(library, hub=ROOMY, client=small, send_buffer=TINY_BYTES) as talk,
        talk.hub.member(talk.socket.ws, "news") as connection,
    ):
        published = []
        while not connection.blocked or len(published) < 200:
            published.append(str(len(published)) * 1000)
            talk.hub.broadcast_text(published[-1], "news")
            await turn()
            talk.hub.verify()
        assert await talk.texts(len(published)) == published
        await until(lambda: not connection.blocked)
        await talk.socket.send("reply")
        assert await talk.texts(1) == ["reply"]


@pytest.mark.parametrize("seed", range(3))
@each_library
@on_loop
async def test_any_mixture_of_writes_arrives_intact(library: str, seed: int) -> None:
    """Messages of random sizes from both writers arrive whole, and each writer's in order."""
    draw = random.Random(seed)
    small = {"receive_buffer": TINY_BYTES}
    sent: dict[str, list[str]] = {"hub": [], "application": []}

    def text(writer: str) -> str:
        sent[writer].append(f"{writer} {len(sent[writer])} {'x' * draw.choice((0, 99, 30_000))}")
        return sent[writer][-1]

    async def send() -> None:
        for _ in range(40):
            each = text("application")
            if library == "websockets" and draw.random() < 0.5:
                await talk.socket.ws.send(_pieces(each, draw))
            else:
                await talk.socket.send(each)
            await turn(draw.randrange(3))

    async def broadcast(connection: Connection) -> None:
        for _ in range(40):
            if draw.random() < 0.8:
                talk.hub.broadcast_text(text("hub"), "news")
            elif not connection.blocked:  # otherwise a reply overtakes publications
                talk.hub.send(connection, text("hub"))
            await turn(draw.randrange(3))
            talk.hub.verify()

    async def write(connection: Connection) -> None:
        await asyncio.gather(send(), broadcast(connection))
        talk.hub.broadcast_text("end", "news")

    async with (
        talking(library, hub=ROOMY, client=small, send_buffer=TINY_BYTES) as talk,
        talk.hub.member(talk.socket.ws, "news") as connection,
    ):
        writing = asyncio.create_task(write(connection))
        received: list[str] = []
        while received[-1:] != ["end"]:
            received += await talk.texts(1)
        await writing
        for writer, expected in sent.items():
            assert [each for each in received if each.startswith(writer)] == expected


async def _pieces(text: str, draw: random.Random) -> AsyncIterator[str]:
    """Some fragments of a text, with pauses before them."""
    at = 0
    while at < len(text):
        size = draw.randrange(1, len(text) + 1)
        yield text[at : at + size]
        at += size
        await turn(draw.randrange(3))


# Messages in fragments, which only websockets sends


class Fragments:
    """An asynchronous iterator of fragments, which the test provides one after the other."""

    def __init__(self, socket: Socket) -> None:
        self._fragments: asyncio.Queue[str | None] = asyncio.Queue()
        self.sending = asyncio.create_task(socket.ws.send(self))

    def __aiter__(self) -> Fragments:
        return self

    async def __anext__(self) -> str:
        fragment = await self._fragments.get()
        if fragment is None:
            raise StopAsyncIteration
        return fragment

    async def send(self, fragment: str) -> None:
        self._fragments.put_nowait(fragment)
        await turn(5)

    async def end(self) -> None:
        self._fragments.put_nowait(None)
        await self.sending


@on_loop
async def test_publications_wait_for_the_last_fragment() -> None:
    """Publications and replies of the hub arrive after a message that has begun before them."""
    small = {"receive_buffer": TINY_BYTES}
    async with (
        talking("websockets", client=small, send_buffer=TINY_BYTES) as talk,
        talk.hub.member(talk.socket.ws, "news") as connection,
    ):
        transport = talk.socket.transport
        talk.hub.broadcast_text("before", "news")
        assert await talk.texts(1) == ["before"]
        message = Fragments(talk.socket)
        large = "x" * 200_000
        await message.send(large)
        assert transport.get_write_buffer_size() > 0
        talk.hub.broadcast_text("1", "news")
        talk.hub.send(connection, "reply")
        await until(lambda: transport.get_write_buffer_size() == 0)
        await message.send("end")
        talk.hub.broadcast_text("2", "news")
        await turn(3)
        assert connection.blocked
        talk.hub.verify()
        await message.end()
        assert not connection.blocked
        assert await talk.texts(4) == [f"{large}end", "reply", "1", "2"]


@on_loop
async def test_membership_can_begin_and_end_within_a_message() -> None:
    """What is pending for a member that leaves within a message arrives after the message."""
    async with talking("websockets") as talk:
        transport = talk.socket.ws.transport
        message = Fragments(talk.socket)
        await message.send("be")
        async with talk.hub.member(talk.socket.ws, "news") as connection:
            talk.hub.broadcast_text("1", "news")
            await turn(3)
            assert connection.blocked
        assert connection.closed
        async with talk.hub.member(talk.socket.ws, "news"):
            talk.hub.broadcast_text("2", "news")
        await message.send("gin")
        await message.end()
        assert await talk.texts(3) == ["begin", "1", "2"]
        assert talk.socket.ws.transport is transport
        assert transport.get_protocol() is talk.socket.ws


@on_loop
async def test_close_within_a_message_is_sent_at_once() -> None:
    """The library and the hub can close a connection within a message."""
    async with (
        talking("websockets") as talk,
        talk.hub.member(talk.socket.ws, "news"),
    ):
        message = Fragments(talk.socket)
        await message.send("begin")
        talk.hub.broadcast_text("lost", "news")
        closing = asyncio.create_task(talk.socket.close(1000))
        assert await talk.to_end() == []
        assert talk.client.close_code == 1011  # the library's code for this
        await closing
        message.sending.cancel()
    async with (
        talking("websockets") as talk,
        talk.hub.member(talk.socket.ws, "news") as connection,
    ):
        message = Fragments(talk.socket)
        await message.send("begin")
        talk.hub.close_connection(connection, 4321)
        await message.send("dropped")
        assert await talk.to_end() == []
        assert talk.client.close_code == 4321
        message.sending.cancel()


# Endings


@each_library
@on_loop
async def test_application_can_close(library: str) -> None:
    """The library's close frame is the last frame, behind the publications before it."""
    async with talking(library) as talk, talk.hub.member(talk.socket.ws, "news") as connection:
        talk.hub.broadcast_text("last words", "news")
        closing = asyncio.create_task(talk.socket.close(4321))
        await turn(3)
        assert connection.closed
        assert talk.hub.client_count() == 0
        talk.hub.broadcast_text("too late", "news")
        assert await talk.to_end() == ["last words"]
        assert talk.client.close_code == 4321
        await closing


@each_library
@on_loop
async def test_slow_member_gets_what_is_pending_before_the_close(library: str) -> None:
    """A blocked member gets what it lacks, and then the library's close frame."""
    small = {"receive_buffer": TINY_BYTES}
    async with (
        talking(library, hub=ROOMY, client=small, send_buffer=TINY_BYTES) as talk,
        talk.hub.member(talk.socket.ws, "news") as connection,
    ):
        published = []
        while not connection.blocked or len(published) < 50:
            published.append(str(len(published)) * 1000)
            talk.hub.broadcast_text(published[-1], "news")
            await turn()
        closing = asyncio.create_task(talk.socket.close(4321))
        assert await talk.to_end() == published
        assert talk.client.close_code == 4321
        await closing


@each_library
@on_loop
async def test_client_can_close(library: str) -> None:
    """After a client has closed, the application's receiving ends, and the hub has no member."""
    async with talking(library) as talk, talk.hub.member(talk.socket.ws, "news") as connection:
        receiving = asyncio.create_task(talk.received())
        await talk.client.close(4000)
        assert talk.client.close_code in {1000, 4000}  # aiohttp answers with 1000
        assert await receiving is None
        await until(lambda: connection.closed)
        assert talk.hub.client_count() == 0


@each_library
@on_loop
async def test_lost_member_leaves_the_hub(library: str) -> None:
    """A client that disconnects without a close frame leaves the hub."""
    async with talking(library) as talk, talk.hub.member(talk.socket.ws, "news") as connection:
        receiving = asyncio.create_task(talk.received())
        talk.client.transport.abort()
        assert await receiving is None
        assert connection.closed
        assert talk.hub.client_count() == 0


@pytest.mark.parametrize("how", ["close", "abort", "write_eof"])
@each_library
@on_loop
async def test_library_can_end_the_connection_without_a_close_frame(library: str, how: str) -> None:
    """The hub does not write to a connection that its library has ended, not even at once."""
    async with talking(library) as talk, talk.hub.member(talk.socket.ws, "news") as connection:
        if how != "write_eof" or talk.socket.transport.can_write_eof():
            getattr(talk.socket.transport, how)()
            assert connection.closed
            assert talk.hub.client_count() == 0


@pytest.mark.parametrize("reads", [True, False])
@each_library
@on_loop
async def test_slow_member_is_evicted(library: str, *, reads: bool) -> None:
    """A member that reads too slowly is closed with 4008, and its application's receiving ends."""
    clock, evicted = Clock(), []
    arguments = {
        "clock": clock,
        "max_lag_bytes": 50_000,
        "on_evict": lambda *what: evicted.append(what),
    }
    small = {"receive_buffer": TINY_BYTES}
    async with (
        talking(library, hub=arguments, client=small, send_buffer=TINY_BYTES) as talk,
        talk.hub.member(talk.socket.ws, "news") as connection,
    ):
        receiving = asyncio.create_task(talk.received())
        published = []
        while not connection.closed:
            published.append(str(len(published)) * 1000)
            talk.hub.broadcast_text(published[-1], "news")
            await turn()
        sending = asyncio.create_task(talk.socket.send("dropped"))
        if reads:
            texts = await talk.to_end()
            assert texts == published[: len(texts)]
            assert talk.client.close_code == EVICTED
        else:
            clock.now += 3
            talk.hub.sweep()
        assert await receiving is None
        assert [(each.owner, code) for each, code, _ in evicted] == [(talk.socket.ws, EVICTED)]
        await asyncio.gather(sending, return_exceptions=True)
        assert talk.hub.client_count() == 0


@each_library
@on_loop
async def test_hub_can_close_all_members(library: str) -> None:
    """When the hub closes, the client gets its code, and the application's receiving ends."""
    async with talking(library) as talk, talk.hub.member(talk.socket.ws, "news"):
        receiving = asyncio.create_task(talk.received())
        talk.hub.broadcast_text("last words", "news")
        talk.hub.close(1012, "restart")
        assert await talk.to_end() == ["last words"]
        assert talk.client.close_code == 1012
        assert await receiving is None


@each_library
@on_loop
async def test_nothing_follows_the_close_frame_of_the_hub(library: str) -> None:
    """After the hub has closed a member, what the library writes is dropped."""
    clock = Clock()
    async with talking(library, hub={"clock": clock}, client={"raw": True}) as talk:
        async with talk.hub.member(talk.socket.ws, "news") as connection:
            talk.hub.close_connection(connection, 4321)
            ending = asyncio.gather(
                talk.socket.send("dropped"), talk.socket.close(1000), return_exceptions=True
            )
            await turn(3)
        clock.now += 3
        talk.hub.sweep()
        async with asyncio.timeout(LIMIT_S):
            received = bytearray(await talk.client.reader.read())
            await ending
        assert decode(received) == [Frame(CLOSE, close_payload(4321))]
        assert not received


@each_library
@on_loop
async def test_any_bytes_answer_the_pings_of_the_hub(library: str) -> None:
    """A client that answers the hub's pings stays; one that does not is closed with 4009."""
    clock = Clock()
    arguments = {"clock": clock, "ping_interval_s": 5.0, "pong_timeout_s": 2.0}
    async with (
        talking(library, hub=arguments) as talk,
        talk.hub.member(talk.socket.ws, "news") as connection,
    ):
        receiving = asyncio.create_task(talk.received())
        for _ in range(3):
            clock.now += 3
            talk.hub.sweep()
            await (await talk.client.ping())  # so the answer to the hub's ping has come as well
            assert not connection.closed
        talk.client.transport.pause_reading()
        for _ in range(4):
            clock.now += 2.5
            talk.hub.sweep()
        assert connection.closed
        talk.client.transport.resume_reading()
        assert await talk.to_end() == []
        assert talk.client.close_code == HEARTBEAT
        assert await receiving is None


# Memberships


@each_library
@on_loop
async def test_websocket_works_before_and_after_a_membership(library: str) -> None:
    """An exception, and a cancellation, end the membership and not the connection."""
    async with talking(library) as talk:
        await talk.socket.send("before")
        with contextlib.suppress(ZeroDivisionError):
            async with talk.hub.member(talk.socket.ws, "news") as connection:
                talk.hub.broadcast_text("1", "news")
                raise ZeroDivisionError
        assert connection.closed

        async def stay() -> None:
            async with talk.hub.member(talk.socket.ws, "news"):
                talk.hub.broadcast_text("2", "news")
                await asyncio.Event().wait()

        staying = asyncio.create_task(stay())
        await until(lambda: talk.hub.client_count("news") == 1)
        staying.cancel()
        await asyncio.wait([staying])
        assert talk.hub.client_count() == 0
        await talk.socket.send("after")
        talk.hub.broadcast_text("nobody", "news")
        await talk.client.send("up")
        assert await talk.received() == "up"
        await talk.socket.send("end")
        assert await talk.texts(5) == ["before", "1", "2", "after", "end"]


@each_library
@on_loop
async def test_member_that_leaves_with_too_much_unread_is_evicted(library: str) -> None:
    """A slow client can lack 320 KiB when its membership ends; if it lacks more, it is closed."""
    small = {"receive_buffer": TINY_BYTES}
    async with talking(library, hub=ROOMY, client=small, send_buffer=TINY_BYTES) as talk:
        async with talk.hub.member(talk.socket.ws, "news") as connection:
            published = [str(i) * 1000 for i in range(300)]
            for each in published:
                talk.hub.broadcast_text(each, "news")
                await turn()
        assert connection.closed
        sending = asyncio.create_task(talk.socket.send("dropped"))
        receiving = asyncio.create_task(talk.received())
        assert await talk.to_end() == published
        assert talk.client.close_code == EVICTED
        assert await receiving is None
        await asyncio.gather(sending, return_exceptions=True)


@each_library
@on_loop
async def test_websocket_can_be_in_several_rooms(library: str) -> None:
    """A second membership is of the same connection; a room is left with its last membership."""
    async with talking(library) as talk:
        hub, ws = talk.hub, talk.socket.ws
        async with hub.member(ws, "a") as connection:
            assert isinstance(connection, Connection)
            assert connection.owner is ws
            async with hub.member(ws, "a") as again, hub.member(ws, "b") as other:
                assert connection is again is other
                hub.join(connection, "c")
                assert sorted(connection.rooms) == ["a", "b", "c"]
            assert sorted(connection.rooms) == ["a", "c"]
            for room in "abc":
                hub.broadcast_text(room, room)
        assert connection.closed
        assert hub.client_count() == 0
        await talk.socket.send("end")
        assert sorted(await talk.texts(3)) == ["a", "c", "end"]


@each_library
@on_loop
async def test_flow_control_of_the_library_is_kept(library: str) -> None:
    """The transport, its protocol and its limits are the library's again after the membership."""
    async with talking(library) as talk:
        transport = talk.socket.transport
        protocol, limits = transport.get_protocol(), transport.get_write_buffer_limits()
        async with talk.hub.member(talk.socket.ws, "news"):
            assert talk.socket.transport is not transport
            assert transport.get_write_buffer_limits() == (0, 0)
        assert talk.socket.transport is transport
        assert transport.get_protocol() is protocol
        assert transport.get_write_buffer_limits() == limits


@on_loop
async def test_library_can_set_its_limits_meanwhile() -> None:
    """Limits that the library sets during a membership hold afterwards."""
    async with talking("websockets") as talk:
        transport = talk.socket.transport
        async with talk.hub.member(talk.socket.ws):
            talk.socket.transport.set_write_buffer_limits(5000, 500)
            assert transport.get_write_buffer_limits() == (0, 0)
        assert transport.get_write_buffer_limits() == (500, 5000)


@each_library
@on_loop
async def test_second_hub_is_refused(library: str) -> None:
    """A WebSocket is a member of one hub at a time."""
    async with talking(library) as talk:
        other = Hub()
        async with talk.hub.member(talk.socket.ws):
            with pytest.raises(RuntimeError, match="another hub"):
                async with other.member(talk.socket.ws):
                    pass
        async with other.member(talk.socket.ws):
            other.broadcast_text("from the other")
        assert await talk.texts(1) == ["from the other"]


@each_library
@on_loop
async def test_closed_websocket_does_not_become_a_member(library: str) -> None:
    """If the connection has ended before, the block runs with a closed connection."""
    async with talking(library) as talk:
        receiving = asyncio.create_task(talk.received())
        await talk.client.close()
        assert await receiving is None
        async with talk.hub.member(talk.socket.ws, "news") as connection:
            assert connection.closed
            assert connection.rooms == []
            assert not talk.hub.join(connection, "other")
            assert talk.hub.client_count() == 0


@each_library
@on_loop
async def test_connection_can_have_ended_unnoticed(library: str) -> None:
    """The same holds if the application has not received the end of the connection yet."""
    async with talking(library) as talk:
        transport = talk.socket.transport
        if library != "aiohttp":  # which answers a close frame only when it receives it
            await talk.client.close()
        talk.client.transport.abort()
        await until(transport.is_closing)
        async with talk.hub.member(talk.socket.ws, "news") as connection:
            assert connection.closed


@each_library
@on_loop
async def test_closing_websocket_does_not_become_a_member(library: str) -> None:
    """The same holds while the application waits for the answer to its close frame."""
    async with talking(library, client={"raw": True}) as talk:
        closing = asyncio.create_task(talk.socket.close(1000))
        assert await talk.client.reader.read(4) == encode(CLOSE, close_payload(1000))
        assert not talk.socket.transport.is_closing()
        async with talk.hub.member(talk.socket.ws, "news") as connection:
            assert connection.closed
        talk.client.transport.abort()
        await closing


@on_loop
async def test_close_handshake_can_be_going_on() -> None:
    """uvicorn's oldest implementation answers a close frame before it ends the connection."""
    async with talking("websockets-legacy", client={"raw": True}) as talk:
        talk.client.writer.write(frame(CLOSE, close_payload(1000)))
        assert await talk.client.reader.read(4) == encode(CLOSE, close_payload(1000))
        assert not talk.socket.transport.is_closing()
        async with talk.hub.member(talk.socket.ws, "news") as connection:
            assert connection.closed


@each_library
@on_loop
async def test_closed_hub_has_no_members(library: str) -> None:
    """A closed hub refuses a WebSocket, which is left as it was."""
    async with talking(library) as talk:
        talk.hub.close()
        with pytest.raises(RuntimeError, match="the hub is closed"):
            async with talk.hub.member(talk.socket.ws):
                pass
        await talk.socket.send("goes on")
        assert await talk.texts(1) == ["goes on"]
