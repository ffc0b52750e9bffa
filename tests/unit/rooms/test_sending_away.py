"""Sending clients away from a machine that cannot reach the rooms."""

from __future__ import annotations

import pytest

from fastchat.rooms.sending_away import SendingAway


def test_clients_are_sent_away_over_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody before the patience is over, then everybody within a minute, which is logged once."""
    sending_away = SendingAway(30.0, "the ledger")
    left = 1.0
    for second in range(91):
        share = sending_away.share(float(second))
        assert 0 <= share <= 1
        left *= 1 - share
        if second < 30:
            assert share == 0
        elif second == 60:
            assert 0.4 < left < 0.6
    assert left == 0
    assert len(caplog.records) == 1
    assert sending_away.share(0.0) == 0
    assert sending_away.share(31.0) > 0
    assert len(caplog.records) == 2


def test_nobody_waits_for_what_is_lost() -> None:
    """If a machine will never reach the rooms again, its clients go at once, over a minute too."""
    assert SendingAway(30.0, "the ledger").share(0.0, is_lost=True) == pytest.approx(1 / 60)
