"""One connection, tested with hand-made frames against the wording of RFC 6455."""

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
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from fastchat.errors import CommandError, ErrorCode
from fastchat.history import Outcome
from fastchat.process.timings import WorkerTimings
from fastchat.protocol import Draft
from fastchat.web.websocket import READ_BYTES
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
#: A client that answers no ping is closed within 3 s, and a busy machine delays a pong by less.
FAST_HEARTBEAT = WorkerTimings(ping_interval_s=0.5, pong_timeout_s=2.0)
_rooms = (f"room-{number}" for number in itertools.count())


def serving(
    *, timings: WorkerTimings | None = None, **settings: Any
) -> contextlib.AbstractContextManager[Server]:
    """A server that announces a lost user after 1 s; the tests of the rooms cover the usual 5 s."""
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
    """A server with short deadlines; the hub's own are one and two seconds."""
    timings = WorkerTimings(sweep_interval_s=0.05, close_grace_s=0.3, message_timeout_s=0.3)
    with serving(timings=timings, join_timeout=0.5) as server:
        yield server


def join_query(username: str, room: str) -> str:
    return f"/ws?username={username}&room={room}"


def still_works(client: WireClient) -> bool:
    client.send({"type": "ping", "ref": "still"})
    return client.receive_type("pong")["ref"] == "still"


# Invalid frames


@pytest.mark.parametrize("rsv", [1, 2, 4, 7])
@pytest.mark.parametrize("opcode", [TEXT, PING, PONG])
def test_reserved_bit_closes_with_1002(client: WireClient, opcode: int, rsv: int) -> None:
    """RFC 6455 §5.2: without a negotiated extension every RSV bit is an error."""
    client.send_frame(opcode, HELLO, rsv=rsv)
    assert client.receive_end() == 1002


@pytest.mark.parametrize("rsv", [1, 2, 4, 7])
def test_reserved_bit_of_a_close_frame_closes_with_1002(client: WireClient, rsv: int) -> None:
    """A reserved bit of a close frame ends the connection at once, too."""
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
    """RFC 6455 §5.1: a client masks every frame."""
    client.send_frame(opcode, b"\x03\xe8", mask=None)
    assert client.receive_end() == 1002


@pytest.mark.parametrize("payload", [b"", b"x", HELLO])
def test_binary_message_closes_with_1003(client: WireClient, payload: bytes) -> None:
    """Commands are text, so an unannounced binary message is refused."""
    client.send_frame(BINARY, payload)
    assert client.receive_end() == 1003


def test_binary_fragment_closes_with_1003(client: WireClient) -> None:
    """A binary message is refused at its first fragment."""
    client.send_frame(BINARY, b"x", fin=False)
    assert client.receive_end() == 1003


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
def test_control_frame_of_126_bytes_closes_with_1002(client: WireClient, opcode: int) -> None:
    """RFC 6455 §5.5: a control frame has at most 125 bytes."""
    client.send_frame(opcode, b"\x03\xe8" + b"x" * 124)
    assert client.receive_end() == 1002


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
def test_fragmented_control_frame_closes_with_1002(client: WireClient, opcode: int) -> None:
    """RFC 6455 §5.5: a control frame is never fragmented."""
    client.send_frame(opcode, b"\x03\xe8", fin=False)
    assert client.receive_end() == 1002


@pytest.mark.parametrize("payload", [b"\xff", b"\xc3", b'{"text":"\xed\xa0\x80"}', b"\xc0\xaf"])
def test_invalid_utf8_closes_with_1007(client: WireClient, payload: bytes) -> None:
    """RFC 6455 §8.1: text that is not UTF-8 fails the connection."""
    client.send_frame(TEXT, payload)
    assert client.receive_end() == 1007


@pytest.mark.parametrize("size", [65_537, 1 << 20, 1 << 40, (1 << 62) + 5])
def test_frame_too_big_is_refused_by_its_length_alone(client: WireClient, size: int) -> None:
    """The length field alone causes 1009, before any of the payload is sent."""
    client.send_frame(TEXT, b"", announced=size)
    assert client.receive_close() == 1009


def test_frame_of_the_maximum_size_is_read(client: WireClient) -> None:
    """A frame of 64 KiB is read, and an invalid command in it gets an `error`."""
    command = json.dumps({"type": "ping", "ref": "r", "x": ""}).encode()
    client.send(command.replace(b'""', b'"' + b"x" * (65_536 - len(command)) + b'"'))
    assert client.receive() == {"type": "pong", "ref": "r"}


# Fragments


def test_fragments_are_joined(client: WireClient) -> None:
    """RFC 6455 §5.4: a message can arrive in fragments, also empty ones, with pings between
    them."""
    client.send_frame(TEXT, HELLO[:5], fin=False)
    client.send_frame(CONTINUATION, b"", fin=False)
    client.send_frame(PING, b"between")
    client.send_frame(CONTINUATION, HELLO[5:9], fin=False)
    client.send_frame(PONG, b"unasked")
    client.send_frame(CONTINUATION, HELLO[9:])
    assert client.receive_frame() == (PONG, b"between", True, 0)
    assert client.receive() == {"type": "pong", "ref": "hello"}
    assert still_works(client)


def test_fragments_of_one_byte_are_joined(client: WireClient) -> None:
    """Fragments of one byte, sent one by one, are a message like any other."""
    for position in range(len(HELLO) - 1):
        opcode = CONTINUATION if position else TEXT
        client.send_frame(opcode, HELLO[position : position + 1], fin=False)
    client.send_frame(CONTINUATION, HELLO[-1:])
    assert client.receive() == {"type": "pong", "ref": "hello"}


def test_character_can_be_split_between_fragments(client: WireClient) -> None:
    """RFC 6455 §5.6: UTF-8 is checked over the whole message."""
    payload = json.dumps({"type": "ping", "ref": "a😀b"}, ensure_ascii=False).encode()
    split = payload.index("😀".encode()) + 2
    client.send_frame(TEXT, payload[:split], fin=False)
    client.send_frame(CONTINUATION, payload[split:])
    assert client.receive() == {"type": "pong", "ref": "a😀b"}


def test_invalid_utf8_in_a_fragment_closes_with_1007_at_once(client: WireClient) -> None:
    """The connection is closed before the message is complete."""
    client.send_frame(TEXT, b'{"text":"\xc3', fin=False)
    client.send_frame(CONTINUATION, b'\xc3"', fin=False)
    assert client.receive_end() == 1007


def test_message_that_ends_within_a_character_closes_with_1007(client: WireClient) -> None:
    """A character cut off at the end of the message is not UTF-8."""
    client.send_frame(TEXT, b"\xf0\x9f", fin=False)
    client.send_frame(CONTINUATION, b"\x98")
    assert client.receive_end() == 1007


@pytest.mark.parametrize("fin", [True, False])
@pytest.mark.parametrize("payload", [b"", b"x"])
def test_stray_continuation_closes_with_1002(client: WireClient, payload: bytes, fin: bool) -> None:
    """RFC 6455 §5.4: a continuation without a started message is an error."""
    client.send_frame(CONTINUATION, payload, fin=fin)
    assert client.receive_end() == 1002


def test_continuation_after_the_last_fragment_closes_with_1002(client: WireClient) -> None:
    """A message that has ended cannot be continued."""
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
    """Small frames whose sum exceeds the largest message get 1009."""
    client.send_frame(TEXT, b" " * 40_000, fin=False)
    client.send_frame(CONTINUATION, b" " * 25_536, fin=False)
    assert is_within_a_message(client)
    client.send_frame(CONTINUATION, b" ", fin=False)
    assert client.receive_end() == 1009


def is_within_a_message(client: WireClient) -> bool:
    """Return whether the connection is open and within a fragmented message."""
    client.send_frame(PING, b"open?")
    return client.receive_frame().payload == b"open?"


def test_number_of_fragments_is_bounded(client: WireClient) -> None:
    """Too many fragments, even empty ones, are flooding and get 4504."""
    client.send_frame(TEXT, b"", fin=False)
    with contextlib.suppress(OSError):
        client.write(frame(CONTINUATION, b"", fin=False) * 100_000)
    assert client.receive_close() == 4504


# Closing


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1011, 1012, 1014, 3000, 3999, 4000, 4999])
def test_valid_close_code_is_echoed(client: WireClient, code: int) -> None:
    """RFC 6455 §5.5.1: the answer to a close frame carries its code, and the server ends TCP."""
    client.send_frame(CLOSE, code.to_bytes(2, "big") + "bye é".encode())
    assert client.receive_close() == code
    assert client.read_all() == b""


def test_empty_close_frame_is_answered_by_an_empty_one(client: WireClient) -> None:
    """An empty close frame has no code that could be echoed."""
    client.send_frame(CLOSE)
    assert client.receive_close() == NO_STATUS
    assert client.read_all() == b""


INVALID_CODES = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]


@pytest.mark.parametrize("code", INVALID_CODES)
def test_invalid_close_code_closes_with_1002(client: WireClient, code: int) -> None:
    """RFC 6455 §7.4: a code that must not be sent gets 1002."""
    client.send_close(code)
    assert client.receive_close() == 1002
    assert client.read_all() == b""


def test_close_frame_of_one_byte_closes_with_1002(client: WireClient) -> None:
    """RFC 6455 §5.5.1: the body is empty or starts with a code of two bytes."""
    client.send_frame(CLOSE, b"\x03")
    assert client.receive_close() == 1002
    assert client.read_all() == b""


def test_close_reason_that_is_not_utf8_is_refused(client: WireClient) -> None:
    """RFC 6455 §5.5.1: the reason is UTF-8."""
    client.send_frame(CLOSE, b"\x03\xe8\xff\xff")
    assert client.receive_close() in (1002, 1007)
    assert client.read_all() == b""


def test_text_after_a_close_frame_is_ignored(server: Server, room: str) -> None:
    """RFC 6455 §5.5.1: data after a close frame is ignored, in the same segment, too."""
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
    """A close frame, as any control frame, can arrive between fragments."""
    client.send_frame(TEXT, b'{"text":', fin=False)
    client.send_close(1001)
    assert client.receive_close() == 1001
    assert client.read_all() == b""


def test_violation_discards_the_rest_of_the_buffer(client: WireClient) -> None:
    """After a violation the rest of the buffer is not run, and exactly one close frame is sent."""
    client.write(frame(BINARY, b"") + text({"type": "ping"}) + frame(PING) + frame(BINARY, b""))
    assert client.receive_frame().opcode == CLOSE
    client.send_close(1003)
    assert client.read_all() == b""


# Pings


@pytest.mark.parametrize("payload", [b"", b"x", b"\x00\xff" * 62 + b"y"])
def test_ping_is_answered_with_its_payload(client: WireClient, payload: bytes) -> None:
    """RFC 6455 §5.5.3: a pong has the payload of its ping."""
    client.send_frame(PING, payload)
    assert client.receive_frame() == (PONG, payload, True, 0)


def test_unsolicited_pong_is_ignored(client: WireClient) -> None:
    """RFC 6455 §5.5.3: an unsolicited pong is a one-way heartbeat."""
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
    """Commands in one segment with a `join` wait for it, and run in their order."""
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


def test_commands_before_a_close_frame_are_run(server: Server, room: str) -> None:
    """A client that joins, sends a message and closes in one segment has published it."""
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
    """However many commands are sent at once, each runs once and in order."""
    with serving(limits="off") as server, connected(server.port) as client:
        client.send({"type": "join", "room": room, "username": "Alice"})
        client.write(b"".join(text({"text": str(number)}) for number in range(3000)))
        client.receive_type("joined")
        for number in range(3000):
            assert client.receive_type("message")["text"] == str(number)


def test_turn_takes_a_bounded_part_of_what_a_client_has_sent(
    room: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that sends very much keeps the loop for one read at once, not for all of it."""
    batches: list[int] = []
    message = text({"text": "x" * 200})
    count = 80_000 // len(message)
    with serving(limits="off") as server, connected(server.port) as client:
        client.send({"type": "join", "room": room, "username": "Alice"})
        client.receive_type("joined")
        append = server.history.append

        def counted(drafts: Sequence[Draft]) -> list[Outcome]:
            batches.append(len(drafts))
            return append(drafts)

        monkeypatch.setattr(server.history, "append", counted)
        for _ in range(2):  # the second time, the first read ends within a frame again
            sent_all = threading.Event()
            server.loop.call_soon_threadsafe(sent_all.wait, 10 * TIMEOUT_UNIT_S)
            client.write(message * count)
            sent_all.set()
            for _ in range(count):
                client.receive_type("message")
    assert sum(batches) == 2 * count
    assert max(batches) <= READ_BYTES // len(message) + 1


def test_paused_client_is_not_read_in_the_next_turn(room: str) -> None:
    """While a command waits, the commands behind it are not read, even if a large read has left the
    rest to the next turn."""
    with serving(limits="off") as server, connected(server.port) as client:
        client.send({"type": "join", "room": room, "username": "Alice"})
        client.receive_type("joined")
        (session,) = server.sessions._all
        transport = session._transport.underlying_transport

        def pause() -> None:
            session.more_to_read()
            session.pause_reading()

        server.call(pause)
        assert server.call(transport.is_reading) is False
        server.call(session.resume_reading)
        assert server.call(transport.is_reading) is True


def test_error_carries_ref_and_id(client: WireClient, room: str) -> None:
    """Every refusal names its command, whichever layer refuses it."""
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
    client.send({"type": "join", "room": room, "username": "", "ref": "r4"})
    assert client.receive_type("error")["ref"] == "r4"


def test_error_does_not_close_the_connection(client: WireClient) -> None:
    """A refused command gets an `error`, and the next command is run."""
    for payload in (b"nonsense", b"[]", b'{"a":NaN}', b'{"text":1}', b"[" * 60_000):
        client.send(payload)
        assert client.receive_type("error")["temporary"] is False
    assert still_works(client)


def test_too_many_errors_close_with_4504(client: WireClient) -> None:
    """After twenty errors in a row the next one closes the connection."""
    client.write(text("nonsense") * 100)
    for _ in range(20):
        assert client.receive()["code"] == "bad_json"
    assert client.receive_close() == 4504


def test_invalid_query_can_be_corrected_by_a_command(server: Server, room: str) -> None:
    """The connection of an invalid `?username=` stays open, and can join by a command."""
    with connected(server.port, "/ws?username=%E2%80%8B") as client:
        assert client.receive()["code"] == "bad_username"
        assert client.join(room=room, username="Alice")["username"] == "Alice"


def test_query_without_a_username_joins_nothing(server: Server, room: str) -> None:
    """With `/ws?room=…` alone the client has to send the first command."""
    with connected(server.port, f"/ws?room={room}&token=secret") as client:
        assert still_works(client)
        assert server.names(room) == []


@pytest.mark.parametrize("name", ["Zo%C3%AB", "Ann+Lee", "Ann%20Lee", "%3Cb%3E"])
def test_query_is_decoded(server: Server, room: str, name: str) -> None:
    """A query can hold percent-encoded names of any script."""
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


# Internal errors


@pytest.fixture
def faulty_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server whose broker fails for one text."""
    with serving() as server:
        publish = server.broker.publish

        def fail(draft: Any, *arguments: Any) -> None:
            if draft.text == "fail":
                raise ZeroDivisionError("secret detail")
            publish(draft, *arguments)

        monkeypatch.setattr(server.broker, "publish", fail)
        yield server


@pytest.mark.parametrize("behind_a_join", [False, True])
def test_internal_error_closes_with_1011_and_discloses_nothing(
    faulty_server: Server, caplog: pytest.LogCaptureFixture, behind_a_join: bool
) -> None:
    """An internal error gets 1011 with an empty reason and one line in the log, and others lose
    nothing."""
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
    """Replaces a broker's `join`, and fails with an error of the client or an internal one."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def __call__(self, *arguments: object) -> None:
        raise self.error


def test_join_refused_late_leaves_the_connection_open(
    room: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CommandError of a command that had to wait is answered like any other."""
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
    """Replaces a `tick`, and fails once."""

    failed = False

    def __call__(self) -> None:
        if not self.failed:
            self.failed = True
            raise ZeroDivisionError


def test_fault_in_the_sweep_ends_no_deadline(
    impatient_server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A sweep that fails is logged, and the next sweeps enforce the deadlines."""
    with connected(impatient_server.port) as client:
        monkeypatch.setattr(impatient_server.broker, "tick", FailsOnce())
        assert client.receive_end() == 4502
    assert [record.getMessage() for record in caplog.records if record.exc_info] == [
        "internal error in the sweep"
    ]


# Lost connections


@contextlib.contextmanager
def witnessed(server: Server, room: str) -> Iterator[tuple[WireClient, WireClient]]:
    """Join a room as Alice, and as Bob who observes her."""
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


def test_close_frame_is_announced_as_a_leave(server: Server, room: str) -> None:
    """A client that sends a close frame has left."""
    with witnessed(server, room) as (alice, bob):
        alice.send_close()
        assert saw_leave(bob)


def test_end_of_tcp_is_announced_as_a_leave(server: Server, room: str) -> None:
    """A connection that ends by FIN without a close frame has left."""
    with witnessed(server, room) as (alice, bob):
        alice.close()
        assert saw_leave(bob)


def test_half_closed_tcp_is_announced_as_a_leave(server: Server, room: str) -> None:
    """A half-closed connection has left, because it can never answer a ping."""
    with witnessed(server, room) as (alice, bob):
        alice.socket.shutdown(socket.SHUT_WR)
        assert saw_leave(bob)
        alice.read_all()


def test_reset_of_tcp_is_announced_as_a_leave(server: Server, room: str) -> None:
    """A connection that ends by RST has left."""
    with witnessed(server, room) as (alice, bob):
        alice.reset()
        assert saw_leave(bob)


def test_violation_is_announced_as_a_leave(server: Server, room: str) -> None:
    """A client that the server closes has left at once, before it answers."""
    with witnessed(server, room) as (alice, bob):
        alice.send_frame(BINARY)
        assert saw_leave(bob)
        assert alice.receive_close() == 1003


def test_killed_client_is_announced_as_a_leave(server: Server, room: str) -> None:
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
    """A client that answers no ping is closed and has left, and a client that answers stays."""
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
    """A client that reads nothing while much is published has left, and reads the reason when it
    reads again."""
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
        with contextlib.suppress(EOFError):  # The abort can arrive before the end of the backlog.
            assert alice.receive_close() == 4008


# Deadlines


def test_client_without_a_room_is_closed_with_4502(impatient_server: Server) -> None:
    """Other commands and refused joins do not stop the deadline for joining."""
    with connected(impatient_server.port) as client:
        client.send({"type": "ping"})
        client.send({"type": "join", "username": ""})
        assert client.receive_end() == 4502


def test_first_join_ends_the_deadline_for_joining(impatient_server: Server) -> None:
    """The deadline ends with the first join, even if the room is left again."""
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


def test_unfinished_message_closes_the_connection(impatient_server: Server) -> None:
    """A client that never sends the last fragment is closed, even if it answers pings."""
    with connected(impatient_server.port, "/ws?username=Alice") as client:
        client.send_frame(TEXT, b'{"text":', fin=False)
        assert client.receive_close() == 4504


def test_finished_messages_restart_the_deadline() -> None:
    """The deadline applies to one message, and starts anew with the next."""
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
    """A client within an unfinished frame cannot answer a ping, even if it sends single bytes."""
    with (
        serving(timings=FAST_HEARTBEAT) as server,
        connected(server.port, "/ws?username=Alice") as client,
    ):
        client.write(frame(TEXT, b"x" * 60_000)[:100])
        client.socket.settimeout(0.1)
        while b"\x0f\xa9" not in client.unread:  # 4009.
            client.write(b"x")
            with contextlib.suppress(TimeoutError):
                client.read(1 << 30)


@pytest.mark.parametrize("how", ["violation", "malformed frame", "joined nothing"])
def test_unanswered_close_frame_ends_by_an_abort(impatient_server: Server, how: str) -> None:
    """A client that leaves its side open after our close frame is aborted."""
    with connected(impatient_server.port) as client:
        if how == "violation":
            client.send_frame(BINARY)
        elif how == "malformed frame":
            client.send_frame(TEXT, mask=None)
        assert ends_within(client, 3 * TIMEOUT_UNIT_S)
        wait_until(lambda: len(impatient_server.sessions) == 0)


@pytest.mark.parametrize("how", ["violation", "malformed frame", "close"])
def test_unread_close_frame_ends_by_an_abort(impatient_server: Server, how: str) -> None:
    """A full socket does not prevent the end of a closed connection."""
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


def test_heartbeat_ends_a_connection_whose_command_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If the history hangs, connections that wait for it still end."""

    async def hang(*arguments: object) -> None:
        await asyncio.Event().wait()

    with serving(timings=FAST_HEARTBEAT) as server:
        monkeypatch.setattr(server.broker, "join", hang)
        with connected(server.port, "/ws?username=Alice") as client:
            client.send({"text": "x"})
            client.send_close()
            assert client.receive_close() == 4009
        wait_until(lambda: len(server.sessions) == 0)


def test_ended_sessions_leave_nothing_behind(server: Server, room: str) -> None:
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


def test_publication_has_the_documented_form(server: Server, room: str) -> None:
    """A message arrives exactly as the protocol describes it."""
    sent = 'Grüße 👋🏽 "quoted" <b>\\n</b>\n\tlast line'
    with witnessed(server, room) as (alice, bob):
        alice.send({"text": sent, "id": "i"})
        message = bob.receive_type("message")
        assert message.pop("timestamp").endswith("Z")
        assert message.pop("user").startswith("g_")
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
    """A search runs on another thread, and the commands behind it wait for its results."""
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
def test_client_that_disconnects_during_a_search_is_no_error(
    how: str, room: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The results are dropped, and no error is logged."""
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


def test_connections_closes_and_refusals_are_counted(room: str) -> None:
    """Connections, their ends by close code, and refusals by reason are counted."""
    with serving() as server:
        metrics = server.metrics
        with connected(server.port, join_query("Alice", room)) as client:
            client.send({"type": "edit", "offset": 7, "text": "x"})  # The history refuses this one.
            assert client.receive_type("error")["code"] == "not_found"
            client.send({"type": "nonsense"})  # The parser refuses this one.
            assert client.receive_type("error")["code"] == "bad_command"
            client.send_close(1000)
            assert client.receive_close() == 1000
        with connected(server.port) as client:
            client.send_frame(BINARY)
            assert client.receive_close() == 1003
        with connected(server.port) as client:
            client.reset()
        # The server can accept the last one after it was reset.
        wait_until(lambda: metrics.connections_total == 3 and len(server.sessions) == 0)
        assert metrics.closes == {1000: 1, 1003: 1, 1006: 1}
        assert metrics.refusals == {"not_found": 1, "bad_command": 1}
