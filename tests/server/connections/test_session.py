"""One connection: RFC 6455 as strict as it is written, by frames made by hand."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastchat.errors import CommandError, ErrorCode
from fastchat.process.timings import WorkerTimings
from support import server_in_thread
from support.raw_websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    NO_STATUS,
    PING,
    PONG,
    TEXT,
    connected,
    ends_within,
    frame,
    text,
)
from support.raw_websocket import Client as WireClient
from support.server import TIMEOUT_UNIT_S, wait_until
from support.server_in_thread import Server

HELLO = b'{"type":"ping","ref":"hello"}'
#: A client that answers no ping is closed within 3 s; a busy machine delays a pong by less.
FAST_HEARTBEAT = WorkerTimings(ping_interval_s=0.5, pong_timeout_s=2.0)
_rooms = (f"room-{number}" for number in itertools.count())


def serving(
    *, timings: WorkerTimings | None = None, **settings: Any
) -> contextlib.AbstractContextManager[Server]:
    """A server that tells within 1 s who is gone. The usual time is tested with the rooms."""
    timings = dataclasses.replace(timings or WorkerTimings(), grace_ticks=1)
    return server_in_thread.serving(timings=timings, **settings)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One server with the usual deadlines; each test has rooms of its own."""
    with serving() as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[WireClient]:
    with connected(server.port) as client:
        yield client


@pytest.fixture
def room() -> str:
    return next(_rooms)


@pytest.fixture
def impatient_server() -> Iterator[Server]:
    """A server whose deadlines are short; the hub's own are one and two seconds."""
    timings = WorkerTimings(sweep_interval_s=0.05, close_grace_s=0.3, message_timeout_s=0.3)
    with serving(timings=timings, join_timeout=0.5) as server:
        yield server


def join_query(username: str, room: str) -> str:
    return f"/ws?username={username}&room={room}"


def still_works(client: WireClient) -> bool:
    client.send({"type": "ping", "ref": "still"})
    return client.receive_type("pong")["ref"] == "still"


# Frames that are wrong


@pytest.mark.parametrize("rsv", [1, 2, 4, 7])
@pytest.mark.parametrize("opcode", [TEXT, PING, PONG])
def test_reserved_bit_closes_with_1002(client: WireClient, opcode: int, rsv: int) -> None:
    """RFC 6455 §5.2: no extension was negotiated, so no RSV bit means anything."""
    client.send_frame(opcode, HELLO, rsv=rsv)
    assert client.receive_end() == 1002


@pytest.mark.parametrize("rsv", [1, 2, 4, 7])
def test_reserved_bit_of_a_close_frame_closes_with_1002(client: WireClient, rsv: int) -> None:
    """A close frame is held to the same rule, and ends the connection at once."""
    client.send_frame(CLOSE, b"\x03\xe8", rsv=rsv)
    assert client.receive_close() == 1002
    assert client.read_all() == b""


@pytest.mark.parametrize("opcode", [0x3, 0x4, 0x7, 0xB, 0xF])
def test_reserved_opcode_closes_with_1002(client: WireClient, opcode: int) -> None:
    """RFC 6455 §5.2: an unknown opcode fails the connection."""
    client.send_frame(opcode, b"")
    assert client.receive_end() == 1002


@pytest.mark.parametrize("opcode", [TEXT, PING, CLOSE])
def test_unmasked_frame_closes_with_1002(client: WireClient, opcode: int) -> None:
    """RFC 6455 §5.1: a client masks whatever it sends."""
    client.send_frame(opcode, b"\x03\xe8", mask=None)
    assert client.receive_end() == 1002


@pytest.mark.parametrize("payload", [b"", b"x", HELLO])
def test_binary_message_closes_with_1003(client: WireClient, payload: bytes) -> None:
    """Commands are text; a binary message has no meaning here."""
    client.send_frame(BINARY, payload)
    assert client.receive_end() == 1003


def test_binary_fragment_closes_with_1003(client: WireClient) -> None:
    """The first fragment of a binary message is refused already."""
    client.send_frame(BINARY, b"x", fin=False)
    assert client.receive_end() == 1003


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
def test_control_frame_of_126_bytes_closes_with_1002(client: WireClient, opcode: int) -> None:
    """RFC 6455 §5.5: a control frame has at most 125 bytes."""
    client.send_frame(opcode, b"\x03\xe8" + b"x" * 124)
    assert client.receive_end() == 1002


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
def test_fragmented_control_frame_closes_with_1002(client: WireClient, opcode: int) -> None:
    """RFC 6455 §5.5: control frames are never fragmented."""
    client.send_frame(opcode, b"\x03\xe8", fin=False)
    assert client.receive_end() == 1002


@pytest.mark.parametrize("payload", [b"\xff", b"\xc3", b'{"text":"\xed\xa0\x80"}', b"\xc0\xaf"])
def test_text_that_is_not_utf8_closes_with_1007(client: WireClient, payload: bytes) -> None:
    """RFC 6455 §8.1."""
    client.send_frame(TEXT, payload)
    assert client.receive_end() == 1007


@pytest.mark.parametrize("size", [65_537, 1 << 20, 1 << 40, (1 << 62) + 5])
def test_frame_too_big_is_refused_by_its_length_alone(client: WireClient, size: int) -> None:
    """1009 comes from the length field, before any of the payload is sent."""
    client.send_frame(TEXT, b"", announced=size)
    assert client.receive_close() == 1009


def test_frame_of_the_largest_size_is_read(client: WireClient) -> None:
    """64 KiB are allowed; what is wrong with the command is another matter."""
    command = json.dumps({"type": "ping", "ref": "r", "x": ""}).encode()
    client.send(command.replace(b'""', b'"' + b"x" * (65_536 - len(command)) + b'"'))
    assert client.receive() == {"type": "pong", "ref": "r"}


# Fragments


def test_fragments_are_put_together(client: WireClient) -> None:
    """RFC 6455 §5.4: a message may come in pieces, empty ones among them, with pings between."""
    client.send_frame(TEXT, HELLO[:5], fin=False)
    client.send_frame(CONTINUATION, b"", fin=False)
    client.send_frame(PING, b"between")
    client.send_frame(CONTINUATION, HELLO[5:9], fin=False)
    client.send_frame(PONG, b"unasked")
    client.send_frame(CONTINUATION, HELLO[9:])
    assert client.receive_frame() == (PONG, b"between", True, 0)
    assert client.receive() == {"type": "pong", "ref": "hello"}
    assert still_works(client)


def test_fragments_byte_by_byte_are_put_together(client: WireClient) -> None:
    """The smallest frames, one a write, are a message like any other."""
    for position in range(len(HELLO) - 1):
        opcode = CONTINUATION if position else TEXT
        client.send_frame(opcode, HELLO[position : position + 1], fin=False)
    client.send_frame(CONTINUATION, HELLO[-1:])
    assert client.receive() == {"type": "pong", "ref": "hello"}


def test_character_may_be_split_between_fragments(client: WireClient) -> None:
    """RFC 6455 §5.6: UTF-8 is checked over the whole message."""
    payload = json.dumps({"type": "ping", "ref": "a😀b"}, ensure_ascii=False).encode()
    split = payload.index("😀".encode()) + 2
    client.send_frame(TEXT, payload[:split], fin=False)
    client.send_frame(CONTINUATION, payload[split:])
    assert client.receive() == {"type": "pong", "ref": "a😀b"}


def test_fragments_that_are_not_utf8_close_with_1007_at_once(client: WireClient) -> None:
    """The message need not be complete for that."""
    client.send_frame(TEXT, b'{"text":"\xc3', fin=False)
    client.send_frame(CONTINUATION, b'\xc3"', fin=False)
    assert client.receive_end() == 1007


def test_message_that_ends_within_a_character_closes_with_1007(client: WireClient) -> None:
    """What is cut off at the end is not UTF-8 either."""
    client.send_frame(TEXT, b"\xf0\x9f", fin=False)
    client.send_frame(CONTINUATION, b"\x98")
    assert client.receive_end() == 1007


@pytest.mark.parametrize("fin", [True, False])
@pytest.mark.parametrize("payload", [b"", b"x"])
def test_stray_continuation_closes_with_1002(client: WireClient, payload: bytes, fin: bool) -> None:
    """RFC 6455 §5.4: nothing is continued that has not begun."""
    client.send_frame(CONTINUATION, payload, fin=fin)
    assert client.receive_end() == 1002


def test_continuation_after_the_last_fragment_closes_with_1002(client: WireClient) -> None:
    """A message that has ended is not continued."""
    client.send_frame(TEXT, HELLO[:5], fin=False)
    client.send_frame(CONTINUATION, HELLO[5:])
    client.send_frame(CONTINUATION, b"x")
    assert client.receive_end() == 1002


@pytest.mark.parametrize("fin", [True, False])
def test_message_within_a_message_closes_with_1002(client: WireClient, fin: bool) -> None:
    """RFC 6455 §5.4: fragments of two messages are not interleaved."""
    client.send_frame(TEXT, HELLO[:5], fin=False)
    client.send_frame(TEXT, HELLO, fin=fin)
    assert client.receive_end() == 1002


def test_sum_of_fragments_is_bounded(client: WireClient) -> None:
    """1009: many small frames are no way around the largest message."""
    client.send_frame(TEXT, b" " * 40_000, fin=False)
    client.send_frame(CONTINUATION, b" " * 25_536, fin=False)
    assert still_has_begun(client)
    client.send_frame(CONTINUATION, b" ", fin=False)
    assert client.receive_end() == 1009


def still_has_begun(client: WireClient) -> bool:
    """Whether the connection is open within a fragmented message."""
    client.send_frame(PING, b"open?")
    return client.receive_frame().payload == b"open?"


def test_number_of_fragments_is_bounded(client: WireClient) -> None:
    """Empty fragments without end are flooding: 4504."""
    client.send_frame(TEXT, b"", fin=False)
    with contextlib.suppress(OSError):
        client.write(frame(CONTINUATION, b"", fin=False) * 100_000)
    assert client.receive_close() == 4504


# Closing


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1011, 1012, 1014, 3000, 3999, 4000, 4999])
def test_valid_close_code_is_echoed(client: WireClient, code: int) -> None:
    """RFC 6455 §5.5.1: the answer to a close frame carries its code; the server ends TCP."""
    client.send_frame(CLOSE, code.to_bytes(2, "big") + "bye é".encode())
    assert client.receive_close() == code
    assert client.read_all() == b""


def test_empty_close_frame_is_answered_by_an_empty_one(client: WireClient) -> None:
    """Without a code there is none to echo."""
    client.send_frame(CLOSE)
    assert client.receive_close() == NO_STATUS
    assert client.read_all() == b""


INVALID_CODES = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]


@pytest.mark.parametrize("code", INVALID_CODES)
def test_invalid_close_code_closes_with_1002(client: WireClient, code: int) -> None:
    """RFC 6455 §7.4: codes that may not be sent are answered with 1002."""
    client.send_close(code)
    assert client.receive_close() == 1002
    assert client.read_all() == b""


def test_close_frame_of_one_byte_closes_with_1002(client: WireClient) -> None:
    """RFC 6455 §5.5.1: the body is empty or begins with a code of two bytes."""
    client.send_frame(CLOSE, b"\x03")
    assert client.receive_close() == 1002
    assert client.read_all() == b""


def test_close_reason_that_is_not_utf8_is_refused(client: WireClient) -> None:
    """RFC 6455 §5.5.1: the reason is UTF-8."""
    client.send_frame(CLOSE, b"\x03\xe8\xff\xff")
    assert client.receive_close() in (1002, 1007)
    assert client.read_all() == b""


def test_text_after_a_close_frame_is_ignored(server: Server, room: str) -> None:
    """RFC 6455 §5.5.1: nothing counts after a close frame, in the same segment neither."""
    with connected(server.port, join_query("Bob", room)) as bob:
        bob.receive_type("joined")
        with connected(server.port, join_query("Alice", room)) as alice:
            alice.receive_type("joined")
            alice.write(
                text({"text": "before"}) + frame(CLOSE, b"\x03\xe8") + text({"text": "after"})
            )
            assert alice.receive_close() == 1000
            assert alice.read_all() == b""
        assert bob.receive_type("message")["text"] == "before"
        assert bob.receive()["type"] == "leave"
        bob.send({"text": "done"})
        assert bob.receive()["text"] == "done"


def test_close_during_a_fragmented_message_is_answered(client: WireClient) -> None:
    """A control frame may come between fragments, a close frame too."""
    client.send_frame(TEXT, b'{"text":', fin=False)
    client.send_close(1001)
    assert client.receive_close() == 1001
    assert client.read_all() == b""


def test_nothing_follows_an_error(client: WireClient) -> None:
    """After a violation what is left in the buffer is not run; one close frame is all."""
    client.write(frame(BINARY, b"") + text({"type": "ping"}) + frame(PING) + frame(BINARY, b""))
    assert client.receive_frame().opcode == CLOSE
    client.send_close(1003)
    assert client.read_all() == b""


# Pings


@pytest.mark.parametrize("payload", [b"", b"x", b"\x00\xff" * 62 + b"y"])
def test_ping_is_answered_with_its_payload(client: WireClient, payload: bytes) -> None:
    """RFC 6455 §5.5.3."""
    client.send_frame(PING, payload)
    assert client.receive_frame() == (PONG, payload, True, 0)


def test_pong_that_nobody_asked_for_is_ignored(client: WireClient) -> None:
    """RFC 6455 §5.5.3: a one-way heartbeat is allowed."""
    client.write(frame(PONG, b"x") * 15 + frame(PONG))
    assert still_works(client)


def test_pings_have_a_budget(client: WireClient) -> None:
    """A flood of pings is closed with 4504, after a burst that is answered."""
    with contextlib.suppress(OSError):
        client.write(frame(PING, b"x" * 125) * 100_000)
    pongs = 0
    while (received := client.receive_frame()).opcode == PONG:
        pongs += 1
    assert received.opcode == CLOSE
    assert int.from_bytes(received.payload[:2], "big") == 4504
    assert 20 <= pongs <= 40


# Commands


def test_commands_behind_a_join_run_in_order(server: Server, room: str) -> None:
    """What is sent in one segment with a `join` waits for it, and is run in its order."""
    with connected(server.port) as client:
        commands = [
            {"type": "join", "room": room, "username": "Alice"},
            {"text": "one", "id": "1"},
            {"type": "history", "ref": "h"},
            {"text": "two", "id": "2"},
            {"type": "leave"},
            {"type": "ping", "ref": "end"},
        ]
        client.write(b"".join(text(command) for command in commands))
        events = [client.receive() for _ in commands]
        assert [event["type"] for event in events] == [
            "joined",
            "message",
            "history",
            "message",
            "left",
            "pong",
        ]
        assert [message["text"] for message in events[2]["messages"]] == ["one"]
        assert still_works(client)


def test_commands_before_a_close_frame_still_count(server: Server, room: str) -> None:
    """A client that joins, speaks and closes in one segment has spoken."""
    with connected(server.port, join_query("Bob", room)) as bob:
        bob.receive_type("joined")
        with connected(server.port) as alice:
            join = text({"type": "join", "room": room, "username": "Alice"})
            alice.write(join + text({"text": "hi"}) + frame(CLOSE, b"\x03\xe8") + text("{}"))
            assert alice.receive()["type"] == "joined"
            assert alice.receive()["text"] == "hi"
            assert alice.receive_close() == 1000
            assert alice.read_all() == b""
        assert [bob.receive()["type"] for _ in range(3)] == ["join", "message", "leave"]


def test_thousands_of_commands_behind_a_join_run_in_order(room: str) -> None:
    """However many are sent at once, none is lost or overtaken."""
    with serving(limits="off") as server, connected(server.port) as client:
        client.send({"type": "join", "room": room, "username": "Alice"})
        client.write(b"".join(text({"text": str(number)}) for number in range(3000)))
        client.receive_type("joined")
        for number in range(3000):
            assert client.receive_type("message")["text"] == str(number)


def test_error_carries_ref_and_id(client: WireClient, room: str) -> None:
    """A refusal says which command it is about, whoever refuses it."""
    client.send({"text": "", "ref": "r1", "id": "i1"})
    error = client.receive_type("error")
    assert (error["code"], error["ref"], error["id"]) == ("bad_command", "r1", "i1")
    client.send({"text": "x", "ref": "r2", "id": "i2"})
    error = client.receive_type("error")
    assert (error["code"], error["ref"], error["id"]) == ("not_joined", "r2", "i2")
    client.send({"type": "leave", "room": room, "ref": "r3"})
    error = client.receive_type("error")
    assert (error["code"], error["ref"]) == ("not_joined", "r3")
    assert "id" not in error
    client.send({"type": "join", "room": room, "ref": "r4"})
    assert client.receive_type("error")["ref"] == "r4"


def test_error_does_not_close_the_connection(client: WireClient) -> None:
    """A refused command costs an `error`, and the next one is served."""
    for payload in (b"nonsense", b"[]", b'{"a":NaN}', b'{"text":1}', b"[" * 60_000):
        client.send(payload)
        assert client.receive_type("error")["temporary"] is False
    assert still_works(client)


def test_errors_that_keep_coming_close_with_4504(client: WireClient) -> None:
    """After twenty in a row the next is the last."""
    client.write(text("nonsense") * 100)
    for _ in range(20):
        assert client.receive()["code"] == "bad_json"
    assert client.receive_close() == 4504


def test_query_that_is_wrong_is_answered_and_may_be_mended(server: Server, room: str) -> None:
    """The connection of a bad `?username=` stays, and joins by a command."""
    with connected(server.port, "/ws?username=%E2%80%8B") as client:
        assert client.receive()["code"] == "bad_username"
        assert client.join(room=room, username="Alice")["username"] == "Alice"


def test_query_without_a_username_joins_nothing(server: Server, room: str) -> None:
    """`/ws?room=…` alone leaves the first word to the client."""
    with connected(server.port, f"/ws?room={room}&token=secret") as client:
        assert still_works(client)
        assert server.names(room) == []


@pytest.mark.parametrize("name", ["Zo%C3%AB", "Ann+Lee", "Ann%20Lee", "%3Cb%3E"])
def test_query_is_decoded(server: Server, room: str, name: str) -> None:
    """Names of any script can be written in an address."""
    decoded = {"Zo%C3%AB": "Zoë", "%3Cb%3E": "<b>"}.get(name, "Ann Lee")
    with connected(server.port, join_query(name, room)) as client:
        assert client.receive_type("joined")["username"] == decoded


def test_query_position_recovers(server: Server, room: str) -> None:
    """`epoch` and `offset` in the address recover as `since` does."""
    with connected(server.port, join_query("Bob", room)) as bob:
        epoch = bob.receive_type("joined")["epoch"]
        for number in range(5):
            bob.send({"text": str(number)})
            bob.receive_type("message")
        query = join_query("Alice", room) + f"&epoch={epoch}&offset=3&history=0"
        with connected(server.port, query) as alice:
            reply = alice.receive_type("joined")
            assert reply["recovered"] is True
            assert [message["offset"] for message in reply["messages"]] == [4, 5]


# Our own faults


@pytest.fixture
def faulty_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server whose broker fails over one text."""
    with serving() as server:
        publish = server.broker.publish

        def fail(draft: Any, *arguments: Any) -> None:
            if draft.text == "fail":
                raise ZeroDivisionError("secret detail")
            publish(draft, *arguments)

        monkeypatch.setattr(server.broker, "publish", fail)
        yield server


@pytest.mark.parametrize("behind_a_join", [False, True])
def test_internal_error_closes_with_1011_and_tells_nothing(
    faulty_server: Server, caplog: pytest.LogCaptureFixture, behind_a_join: bool
) -> None:
    """1011 with an empty reason, one line in the log, and nothing lost for anybody else."""
    with (
        connected(faulty_server.port, join_query("Bob", "a")) as bob,
        connected(faulty_server.port) as alice,
        caplog.at_level(logging.ERROR),
    ):
        bob.receive_type("joined")
        join = text({"type": "join", "room": "a", "username": "Alice"})
        rest = text({"text": "fail"}) + text({"text": "never"})
        if behind_a_join:
            alice.write(join + rest)
        else:
            alice.write(join)
            alice.receive_type("joined")
            alice.write(rest)
        assert alice.receive_end() == 1011
        assert alice.reason == ""
        assert [bob.receive()["type"] for _ in range(2)] == ["join", "leave"]
        assert still_works(bob)
    assert len(caplog.records) == 1
    assert "internal error" in caplog.records[0].getMessage()


class NoHistory:
    """In the place of a broker's `join`: fails, with an error for the client or ours."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def __call__(self, *arguments: object) -> None:
        raise self.error


def test_join_refused_late_leaves_the_connection_open(
    room: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CommandError out of a command that waited is answered like any other."""
    with serving() as server, connected(server.port) as client:
        refusal = CommandError(ErrorCode.BAD_COMMAND, "Not now.", temporary=True)
        monkeypatch.setattr(server.broker, "join", NoHistory(refusal))
        client.send({"type": "join", "username": "Alice", "ref": "r"})
        error = client.receive_type("error")
        assert (error["message"], error["temporary"], error["ref"]) == ("Not now.", True, "r")
        assert still_works(client)
        monkeypatch.setattr(server.broker, "join", NoHistory(OSError("disk")))
        client.send({"type": "join", "username": "Alice", "ref": "r"})
        assert client.receive_end() == 1011
        assert client.reason == ""


class FailsOnce:
    """In the place of a `tick` that has a fault."""

    failed = False

    def __call__(self) -> None:
        if not self.failed:
            self.failed = True
            raise ZeroDivisionError


def test_fault_in_the_sweep_ends_no_deadline(
    impatient_server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A sweep that fails is logged, and those after it do their work."""
    with connected(impatient_server.port) as client:
        monkeypatch.setattr(impatient_server.broker, "tick", FailsOnce())
        assert client.receive_end() == 4502
    assert [record.getMessage() for record in caplog.records if record.exc_info] == [
        "internal error in the sweep"
    ]


# Departures


@contextlib.contextmanager
def witnessed(server: Server, room: str) -> Iterator[tuple[WireClient, WireClient]]:
    """Alice in a room, and Bob who sees what becomes of her."""
    with (
        connected(server.port, join_query("Bob", room)) as bob,
        connected(server.port, join_query("Alice", room)) as alice,
    ):
        alice.receive_type("joined")
        bob.receive_type("join")
        yield alice, bob


def saw_leave(bob: WireClient) -> bool:
    event = bob.receive_type("leave")
    return (event["username"], event["online"]) == ("Alice", 1)


def test_close_frame_is_told_as_a_leave(server: Server, room: str) -> None:
    """Whoever closes has left."""
    with witnessed(server, room) as (alice, bob):
        alice.send_close()
        assert saw_leave(bob)


def test_end_of_tcp_is_told_as_a_leave(server: Server, room: str) -> None:
    """A connection that ends without a close frame, by FIN, has left."""
    with witnessed(server, room) as (alice, bob):
        alice.close()
        assert saw_leave(bob)


def test_half_closed_tcp_is_told_as_a_leave(server: Server, room: str) -> None:
    """Nobody stays who will never answer a ping."""
    with witnessed(server, room) as (alice, bob):
        alice.socket.shutdown(socket.SHUT_WR)
        assert saw_leave(bob)
        alice.read_all()


def test_reset_of_tcp_is_told_as_a_leave(server: Server, room: str) -> None:
    """By RST, too."""
    with witnessed(server, room) as (alice, bob):
        alice.reset()
        assert saw_leave(bob)


def test_violation_is_told_as_a_leave(server: Server, room: str) -> None:
    """Whoever is closed by the server has left at once, before it answers."""
    with witnessed(server, room) as (alice, bob):
        alice.send_frame(BINARY)
        assert saw_leave(bob)
        assert alice.receive_close() == 1003


def test_killed_client_is_told_as_a_leave(server: Server, room: str) -> None:
    """The kernel of a killed client process ends its connection."""
    program = textwrap.dedent(f"""
        import time
        from support.raw_websocket import Client
        client = Client({server.port}, "{join_query("Alice", room)}")
        client.receive_type("joined")
        time.sleep(600)
    """)
    with connected(server.port, join_query("Bob", room)) as bob:
        bob.receive_type("joined")
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        try:
            bob.receive_type("join")
            process.send_signal(signal.SIGKILL)
            assert saw_leave(bob)
        finally:
            process.kill()
            process.wait()


def test_missed_heartbeat_closes_with_4009() -> None:
    """Who answers no ping is closed and has left; who does stays."""
    with (
        serving(timings=FAST_HEARTBEAT) as server,
        connected(server.port, join_query("Alice", "a")) as alice,
        connected(server.port, join_query("Bob", "a")) as bob,
    ):
        received = bob.receive_frame()
        while b'"leave"' not in received.payload:
            if received.opcode == PING:
                bob.send_frame(PONG, received.payload)
            received = bob.receive_frame()
        assert alice.receive_end() == 4009


def test_slow_reader_is_evicted_with_4008() -> None:
    """Who reads nothing while much is published has left, and is told why when it reads again."""
    with (
        serving(max_lag_bytes=65_536) as server,
        connected(server.port, join_query("Alice", "a"), receive_buffer=4096) as alice,
        connected(server.port, join_query("Bob", "a")) as bob,
    ):
        bob.receive_type("joined")
        for number in range(5000):
            bob.send({"text": f"{number} " + "x" * 3900})
            bob.receive_type("message")
            if server.call(server.hub.stats)["evictions"][4008]:
                break
        assert saw_leave(bob)
        assert server.call(server.hub.stats)["evictions"][4008] == 1
        with contextlib.suppress(EOFError):  # the abort may come before the end of the backlog
            assert alice.receive_close() == 4008


# Connections that do not end by themselves


def test_who_joins_nothing_in_time_is_closed_with_4502(impatient_server: Server) -> None:
    """Commands that are no `join`, and refused joins, do not stop the clock."""
    with connected(impatient_server.port) as client:
        client.send({"type": "ping"})
        client.send({"type": "join", "username": ""})
        assert client.receive_end() == 4502


def test_who_has_joined_stays(impatient_server: Server) -> None:
    """The deadline is over with the first join, also when the room is left again."""
    with (
        connected(impatient_server.port, "/ws?username=Alice") as one,
        connected(impatient_server.port) as two,
    ):
        two.join(username="Bob", room="b")
        two.send({"type": "leave"})
        two.receive_type("left")
        time.sleep(0.8)
        assert still_works(one)
        assert still_works(two)


def test_half_sent_fragmented_message_ends(impatient_server: Server) -> None:
    """Who never sends the last fragment is closed, though it answers pings."""
    with connected(impatient_server.port, "/ws?username=Alice") as client:
        client.send_frame(TEXT, b'{"text":', fin=False)
        assert client.receive_close() == 4504


def test_finished_fragmented_messages_do_not_end_anything() -> None:
    """The clock runs for one message only, and begins anew with the next."""
    timings = WorkerTimings(sweep_interval_s=0.05, message_timeout_s=1.0)
    with (
        serving(timings=timings) as server,
        connected(server.port, "/ws?username=Alice") as client,
    ):
        client.receive_type("joined")
        for _ in range(4):
            client.send_frame(TEXT, HELLO[:5], fin=False)
            time.sleep(0.3)
            client.send_frame(CONTINUATION, HELLO[5:])
            client.receive_type("pong")
        assert still_works(client)


def test_half_sent_frame_misses_its_heartbeat() -> None:
    """Who is stuck within a frame cannot answer a ping, dripping bytes or not."""
    with (
        serving(timings=FAST_HEARTBEAT) as server,
        connected(server.port, "/ws?username=Alice") as client,
    ):
        client.write(frame(TEXT, b"x" * 60_000)[:100])
        client.socket.settimeout(0.1)
        while b"\x0f\xa9" not in client.unread:  # 4009
            client.write(b"x")
            with contextlib.suppress(TimeoutError):
                client.read(1 << 30)


@pytest.mark.parametrize("how", ["violation", "malformed frame", "joined nothing"])
def test_close_ends_when_the_peer_never_answers(impatient_server: Server, how: str) -> None:
    """A peer that keeps its side open after our close frame is aborted."""
    with connected(impatient_server.port) as client:
        if how == "violation":
            client.send_frame(BINARY)
        elif how == "malformed frame":
            client.send_frame(TEXT, mask=None)
        assert ends_within(client, 3 * TIMEOUT_UNIT_S)
        wait_until(lambda: len(impatient_server.sessions) == 0)


@pytest.mark.parametrize("how", ["violation", "malformed frame", "close"])
def test_close_ends_when_the_peer_never_reads(impatient_server: Server, how: str) -> None:
    """A full socket does not keep a connection that is closed."""
    with (
        connected(impatient_server.port, join_query("A", "a"), receive_buffer=4096) as client,
        connected(impatient_server.port, join_query("B", "a")) as other,
    ):
        client.receive_type("joined")
        other.receive_type("joined")
        while not impatient_server.call(impatient_server.hub.stats)["blocked"]:
            other.send({"text": "x" * 4000})
            other.receive_type("message")
        if how == "violation":
            client.send_frame(BINARY)
        elif how == "malformed frame":
            client.send_frame(TEXT, mask=None)
        else:
            client.send_close()
        assert other.receive_type("leave")["username"] == "A"
        wait_until(lambda: len(impatient_server.sessions) == 1)


def test_close_during_a_command_that_never_ends_is_found_by_the_heartbeat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When the history hangs, connections that wait for it still come to an end."""

    async def hang(*arguments: object) -> None:
        await asyncio.Event().wait()

    with serving(timings=FAST_HEARTBEAT) as server:
        monkeypatch.setattr(server.broker, "join", hang)
        with connected(server.port, "/ws?username=Alice") as client:
            client.send({"text": "x"})
            client.send_close()
            assert client.receive_close() == 4009
        wait_until(lambda: len(server.sessions) == 0)


def test_sessions_leave_nothing_behind(server: Server, room: str) -> None:
    """After a hundred connections of all kinds no session, presence or deadline is left."""
    wait_until(lambda: len(server.sessions) == 0)
    for number in range(100):
        with connected(server.port, join_query(f"u{number}", room)) as client:
            if number % 4 == 0:
                client.send_close()
            elif number % 4 == 1:
                client.send_frame(BINARY)
            elif number % 4 == 2:
                client.send_frame(TEXT, b"", fin=False)
    wait_until(lambda: len(server.sessions) == 0)
    sessions = server.sessions
    assert not sessions._unjoined
    assert not sessions._unfinished
    assert not sessions._closing
    wait_until(lambda: server.names(room) == [])
    assert server.call(server.hub.stats)["connections"] == 0


def test_publication_is_what_the_wire_says(server: Server, room: str) -> None:
    """What one client sends is what another gets, character by character."""
    sent = 'Grüße 👋🏽 "quoted" <b>\\n</b>\n\tlast line'
    with witnessed(server, room) as (alice, bob):
        alice.send({"text": sent, "id": "i"})
        message = bob.receive_type("message")
        assert message.pop("timestamp").endswith("Z")
        assert message == {
            "type": "message",
            "room": room,
            "offset": 1,
            "username": "Alice",
            "text": sent,
            "id": "i",
        }


# Commands that wait for a disk


def test_commands_behind_a_search_run_in_order(room: str, tmp_path: Path) -> None:
    """A search runs on another thread; what was sent behind it waits for its results."""
    with (
        serving(history="sqlite", data=str(tmp_path)) as server,
        connected(server.port, join_query("Alice", room)) as alice,
    ):
        commands: list[dict[str, object]] = [
            {"text": "word one"},
            {"type": "search", "query": "word", "ref": "1"},
            {"text": "word two"},
            {"type": "edit", "offset": 1, "text": "another"},
            {"type": "search", "query": "word", "ref": "2"},
            {"type": "ping"},
        ]
        alice.receive_type("joined")
        alice.write(b"".join(text(command) for command in commands))
        events = [alice.receive() for _ in commands]
        assert [event["type"] for event in events] == [
            *("message", "results", "message", "edit", "results", "pong")
        ]
        for results, expected in ((events[1], "word one"), (events[4], "word two")):
            assert [message["text"] for message in results["messages"]] == [expected]


@pytest.mark.parametrize("how", ["close frame", "drop", "violation"])
def test_client_that_goes_while_it_searches_costs_nothing(
    how: str, room: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its results are sent to nobody, and nothing is logged as a fault."""
    with serving(history="sqlite", data=str(tmp_path)) as server:
        with connected(server.port, join_query("Alice", room)) as alice:
            alice.receive_type("joined")
            search = text({"text": "word"}) + text({"type": "search", "query": "word"})
            if how == "close frame":
                alice.write(search * 5 + frame(CLOSE, b"\x03\xe8"))
                kinds = [alice.receive()["type"] for _ in range(10)]
                assert kinds == ["message", "results"] * 5
                assert alice.receive_close() == 1000
            elif how == "drop":
                alice.write(search * 5)
                alice.reset()
            else:
                alice.write(search * 5 + frame(TEXT, b"\xff"))
                assert alice.receive_close() == 1007
        wait_until(lambda: len(server.sessions) == 0)
        wait_until(lambda: server.names(room) == [])
        with connected(server.port, join_query("Bob", room)) as bob:
            assert bob.receive_type("joined")["offset"] >= 1
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_what_an_operator_counts(room: str) -> None:
    """Connections, their ends by close code, and refusals by reason."""
    with serving() as server:
        metrics = server.metrics
        with connected(server.port, join_query("Alice", room)) as client:
            client.send({"type": "edit", "offset": 7, "text": "x"})  # refused by the history
            assert client.receive_type("error")["code"] == "not_found"
            client.send({"type": "nonsense"})  # and by the parser
            assert client.receive_type("error")["code"] == "bad_command"
            client.send_close(1000)
            assert client.receive_close() == 1000
        with connected(server.port) as client:
            client.send_frame(BINARY)
            assert client.receive_close() == 1003
        with connected(server.port) as client:
            client.reset()
        wait_until(lambda: len(server.sessions) == 0)
        assert metrics.connections_total == 3
        assert metrics.closes == {1000: 1, 1003: 1, 1006: 1}
        assert metrics.refusals == {"not_found": 1, "bad_command": 1}
