"""How many commands, heartbeats and bytes one connection can send, and how quickly."""

from __future__ import annotations

import pytest

from fastchat.limits.buckets import Budget
from fastchat.limits.commands import (
    HEARTBEATS,
    MAX_PAUSE_S,
    MIN_CHUNK_BYTES,
    SessionLimits,
    Throttle,
)
from fastchat.protocol import (
    Command,
    Delete,
    Edit,
    GetHistory,
    Join,
    Leave,
    Ping,
    React,
    Remove,
    Search,
    Send,
    Typing,
    Upload,
)
from support.clock import Clock

PUBLICATIONS: list[Command] = [Send("hi"), Edit(1, "hi"), Delete(1), React(1, "👋", False)]
COMMANDS: list[Command] = [
    *(Join("lobby"), Leave(None), GetHistory(None, None, None, 50)),
    *(Remove(None, "Ann", 60), Upload("a", 1), Ping()),
]
NOTHING = Budget(0, 1)


def throttle(**limits: object) -> Throttle:
    return Throttle(throttle_limits(**limits), Clock())


def throttle_limits(**limits: object) -> SessionLimits:
    usual = {
        "publications": Budget(2.0, 8),
        "commands": Budget(2.0, 10),
        "typing": Budget(1.0, 3),
        "errors": 20,
        "address_publications": Budget(2.0, 12),
        "address_commands": Budget(2.0, 12),
        "upload_bytes": Budget(100_000.0, 100_000),
        "address_upload_bytes": Budget(200_000.0, 200_000),
    }
    return SessionLimits(**{**usual, **limits})  # type: ignore[arg-type]


def passed(throttle: Throttle, commands: list[Command], sender: str = "ann") -> int:
    """The number of these commands that are allowed."""
    return sum(not throttle.wait_s(sender, command) for command in commands)


def test_publications_share_one_budget() -> None:
    """A message, an edit, a reaction and a deletion cost the same; other commands have other
    budgets."""
    limits = throttle()
    assert passed(limits, PUBLICATIONS * 10) == 8
    assert limits.wait_s("ann", Send("hi")) == pytest.approx(0.5, rel=0.02)
    assert passed(limits, PUBLICATIONS * 10, "bob") == 8


def test_requests_have_a_budget_of_their_own() -> None:
    """A client without tokens for messages can still read and search; typing has a third budget."""
    limits = throttle()
    passed(limits, PUBLICATIONS * 10)
    assert passed(limits, COMMANDS * 10) == 10
    assert passed(limits, [Typing(None)] * 10) == 3


def test_search_costs_more_than_a_page() -> None:
    """A search takes more tokens than a page of the history."""
    assert passed(throttle(), [Search("x", 1)] * 10) == 2


@pytest.mark.parametrize(
    ("name", "commands"),
    [
        ("publications", PUBLICATIONS),
        ("commands", [*COMMANDS, Search("x", 1)]),
        ("typing", [Typing(None)]),
    ],
)
def test_each_rate_of_0_is_no_limit(name: str, commands: list[Command]) -> None:
    """A rate of 0 switches off the limit of that kind of command only."""
    assert passed(throttle(**{name: NOTHING}), commands * 100) == 100 * len(commands)


def test_error_rate_of_0_is_no_limit() -> None:
    """With a rate of 0 a client can cause any number of errors."""
    limits, unlimited = throttle(), throttle(errors=0)
    assert sum(limits.is_error_allowed("ann", 1.0) for _ in range(100)) == 20
    assert limits.is_error_allowed("bob", 1.0)
    assert all(unlimited.is_error_allowed("ann", 1.0) for _ in range(100))


def test_heartbeats_are_limited_by_connection() -> None:
    """Pings and pongs beyond the burst are refused until time has passed."""
    clock = Clock()
    limits = Throttle(throttle_limits(), clock)
    assert sum(limits.is_heartbeat_allowed("ann") for _ in range(100)) == HEARTBEATS.burst
    assert limits.is_heartbeat_allowed("bob")
    clock.now += 1
    assert sum(limits.is_heartbeat_allowed("ann") for _ in range(100)) == HEARTBEATS.rate_per_s
    limits.forget("ann")
    assert sum(limits.is_heartbeat_allowed("ann") for _ in range(100)) == HEARTBEATS.burst


def test_connections_of_an_address_share_its_budget() -> None:
    """A connection refused for its address's budget keeps the tokens of its own."""
    limits = throttle()
    for commands, first in ((PUBLICATIONS, 8), (COMMANDS, 10)):
        passed = [
            sum(not limits.wait_s(sender, command, "192.0.2.1") for command in commands * 10)
            for sender in ("ann", "bob", "cid")
        ]
        assert passed == [first, 12 - first, 0]
        assert limits.wait_s("cid", commands[0], "192.0.2.1") == pytest.approx(0.5, rel=0.02)
        assert not limits.wait_s("cid", commands[0], "192.0.2.2")
        assert not limits.wait_s("dan", commands[0])


def test_pieces_of_files_are_delayed_and_not_refused() -> None:
    """Bytes over the rate are accepted, and pause the connection."""
    limits = throttle()
    assert limits.pace_s("ann", 100_000) == 0
    assert limits.pace_s("ann", 50_000) == pytest.approx(0.5)
    assert limits.pace_s("ann", 50_000) == pytest.approx(1)
    assert limits.pace_s("bob", 50_000) == 0


def test_small_pieces_cost_a_minimum() -> None:
    """A piece below the minimum size costs as much as one of that size."""
    limits = throttle()
    assert limits.pace_s("ann", 100_000) == 0
    assert limits.pace_s("ann", 0) == pytest.approx(MIN_CHUNK_BYTES / 100_000)


def test_pause_is_bounded() -> None:
    """A pause is at most MAX_PAUSE_S, so that a paused client still answers its pings in time."""
    assert throttle().pace_s("ann", 1 << 24) == MAX_PAUSE_S


def test_files_from_one_address_share_a_rate() -> None:
    """Connections of one address share the rate for bytes of files."""
    limits = throttle()
    pauses = [limits.pace_s(sender, 100_000, "192.0.2.1") for sender in ("ann", "bob", "cid")]
    assert pauses == [0, 0, pytest.approx(0.5)]
    assert limits.pace_s("dan", 100_000, "192.0.2.2") == 0
    assert limits.pace_s("eve", 100_000) == 0


def test_file_rate_of_0_is_no_limit() -> None:
    """With a rate of 0 no piece of a file pauses its connection."""
    limits = throttle(upload_bytes=NOTHING, address_upload_bytes=NOTHING)
    assert not any(limits.pace_s("ann", 1 << 24, "192.0.2.1") for _ in range(100))


def test_address_with_a_full_budget_is_forgotten() -> None:
    """An address that has its full budget again takes no memory."""
    clock = Clock()
    limits = Throttle(throttle_limits(), clock)
    limits.wait_s("ann", Send("hi"), "192.0.2.1")
    limits.pace_s("ann", 1000, "192.0.2.1")
    _, _, _, shared, _, _ = limits._charges[Send]
    uploads = limits._address_uploads
    limits.sweep()
    assert "192.0.2.1" in shared
    assert "192.0.2.1" in uploads.full_s
    clock.now += 10
    limits.sweep()
    assert not shared
    assert not uploads.full_s


def test_closed_connection_is_forgotten() -> None:
    """The throttle stores open connections only, however many there have been."""
    limits = throttle()
    for command in (Send("hi"), Typing(None), Ping()):
        limits.wait_s("ann", command)
    limits.pace_s("ann", 1000)
    limits.is_error_allowed("ann", 1.0)
    limits.is_heartbeat_allowed("ann")
    limits.forget("ann")
    assert not any(buckets.full_s for buckets in limits._of_senders)
