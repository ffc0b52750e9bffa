"""Fixtures for the tests of the chat."""

from __future__ import annotations

import pytest

from support.chat import Talk


@pytest.fixture(params=[False, True], ids=["local", "slow"])
def each_kind_of_rooms(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test twice: the rooms never suspend, or all their coroutines do."""
    monkeypatch.setattr(Talk, "are_rooms_slow", request.param)
