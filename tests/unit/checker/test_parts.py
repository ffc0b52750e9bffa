"""Why connections ended in a run with several processes, and what the run measures."""

from __future__ import annotations

import dataclasses
import os
import socket

import pytest

from checker.parts import client_ports, figures, is_alive, percentile_back_s, unexplained
from checker.records import Break, Fault, Records

KILLED = Break("ann", 10.1, 5001, 101, back_s=0.5)


def records() -> Records:
    """Records: a worker with two clients is killed, all workers are replaced, and Cem
    disconnects."""
    records = Records()
    records.faults = [
        Fault("kill", "worker 1", 10.0, frozenset({5001, 5002})),
        Fault("kill", "relay", 15.0),
        Fault("roll", "supervisor", 20.0),
    ]
    records.breaks = [
        KILLED,
        Break("bob", 13.0, 5002, 101, back_s=1.5),
        Break("cem", 15.1, 5003, 101, ours=True, back_s=0.1),
        Break("ann", 21.0, 5004, 101, code=1012, announced=True, back_s=3.0),
    ]
    return records


def test_ends_with_a_cause_are_explained() -> None:
    """Faults explain the ends of connections; only clients of killed workers are measured."""
    assert unexplained(records()) == []
    assert percentile_back_s(records(), 0.99) == 1.5
    assert "2 kills, 1 of them of the relay; 1 rolling restarts" in figures(records())
    assert "2 connections ended by a kill, 1 by a rolling restart" in figures(records())


@pytest.mark.parametrize(
    "change",
    [
        {"port": 5005},  # a client of another worker
        {"at": 9.0},  # before the kill
        {"at": 15.1, "port": 5006},  # when the relay was killed
        {"at": 21.0, "port": 5006},  # during a rolling restart, but without a close frame
        {"at": 21.0, "port": 5006, "code": 1012},  # not announced
        {"port": 5006, "code": 1012, "announced": True},  # before the restart
        {"port": 5006, "code": 4010},
        {"port": 5006, "status": 503},
        {"port": 5006, "status": None},
    ],
)
def test_end_without_a_cause_is_found(change: dict[str, object]) -> None:
    """A connection that ended without a cause is reported."""
    planted = records()
    planted.breaks[0] = dataclasses.replace(KILLED, **change)  # type: ignore[arg-type]
    assert unexplained(planted) == [planted.breaks[0]]


def test_process_has_the_ports_of_its_own_clients() -> None:
    """The ports of a process's clients are found, and no others."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            assert client_ports(os.getpid(), port) == frozenset()
            accepted, _ = listener.accept()
            with accepted:
                ours = client.getsockname()[1]
                assert client_ports(os.getpid(), port) == {ours}
                assert client_ports(1, port) == frozenset()
    assert is_alive(os.getpid())
