"""A history that fails: what clients, the log, the probe and the metrics say of it."""

from __future__ import annotations

import logging

import pytest

from contracts.broker import Faulty
from contracts.history import NOW_S, draft
from fastchat.errors import CommandError, ErrorCode, HistoryError
from fastchat.metrics import Metrics
from fastchat.rooms.local import LocalRooms
from fastchat.rooms.storage import Storage
from support.relay import new_history


@pytest.fixture
def history() -> Faulty:
    return Faulty(new_history())


def messages(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_fault_is_found_by_the_check_and_logged_once(
    history: Faulty, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault is known after the next tick, without a message, and is logged once, as is its
    end."""
    caplog.set_level(logging.INFO)
    storage = Storage(history)
    storage.tick()
    assert storage.fault is None
    history.failing = {"append"}
    for _ in range(3):
        storage.tick()
        assert storage.fault == "disk I/O error"
        with pytest.raises(CommandError) as raised, storage.use("append"):
            history.append([])
        assert (raised.value.code, raised.value.temporary) == (ErrorCode.UNAVAILABLE, True)
    history.failing.clear()
    storage.tick()
    assert storage.fault is None
    assert messages(caplog) == [
        ("ERROR", "the history fails (append), so clients get `unavailable`: disk I/O error"),
        ("INFO", "the history works again (append)"),
    ]


def test_fault_at_the_start_is_known_at_once(history: Faulty) -> None:
    """A server that starts on a full disk is not ready before its first tick either."""
    history.failing = {"append"}
    assert Storage(history).fault == "disk I/O error"


def test_append_that_works_ends_a_fault(history: Faulty) -> None:
    """Clients' messages find out that the history works again, before the next tick does."""
    history.failing = {"append"}
    storage = Storage(history)
    history.failing.clear()
    with storage.use("append") as working:
        working.append([draft("one")])
    assert storage.fault is None


def test_failed_read_is_no_fault(history: Faulty) -> None:
    """A room that cannot be read does not mean that nothing can be stored."""
    storage = Storage(history)
    with pytest.raises(CommandError), storage.use("join"):
        raise HistoryError("disk I/O error")
    storage.tick()
    assert storage.fault is None


def test_nothing_is_pruned_while_nothing_can_be_stored(
    history: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A history that cannot be written is not asked to delete old messages."""
    pruned: list[None] = []
    monkeypatch.setattr(history, "prune", lambda: pruned.append(None))
    storage = Storage(history)
    storage.tick()
    assert len(pruned) == 1
    history.failing = {"append"}
    storage.tick()
    assert len(pruned) == 1


def test_failed_commits_are_counted(history: Faulty) -> None:
    """Each append that fails is counted once, and the rooms know the fault."""
    metrics = Metrics()
    turns = []
    rooms = LocalRooms(
        history,
        at_end_of_turn=turns.append,
        soon=turns.append,
        clock=lambda: NOW_S,
        metrics=metrics,
    )
    history.failing = {"append"}

    class Nobody:
        def answer(self, key: object, outcome: object) -> None:
            assert isinstance(outcome, CommandError)

        def end_turn(self) -> None:
            pass

    nobody = Nobody()
    for _ in range(2):
        rooms.publish(nobody, None, draft("one"))  # type: ignore[arg-type]
        rooms.publish(nobody, None, draft("two"))  # type: ignore[arg-type]
        rooms.commit()
    assert metrics.failed_commits_total == 2
    assert metrics.publications_total == 0
    assert rooms.fault == "disk I/O error"
