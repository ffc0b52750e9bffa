"""The state of a bot is replaced as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastchat_client.events import Position
from fastchat_client.state import State, StateError


def test_state_is_what_was_saved_last(tmp_path: Path) -> None:
    """A file that is not there is an empty state; only its owner can read it."""
    file = tmp_path / "bot.json"
    state = State.load(file)
    assert (state.session, state.positions) == (None, {})
    state.session = "secret"
    state.positions["lobby"] = Position("E", 7, "2025-01-18T10:30:00.000Z")
    state.save()
    assert file.stat().st_mode & 0o777 == 0o600
    again = State.load(file)
    assert (again.session, again.positions) == (state.session, state.positions)
    assert [each.name for each in tmp_path.iterdir()] == ["bot.json"]


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"version":2}', b"\xff"])
def test_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    """It is neither used nor replaced."""
    file = tmp_path / "bot.json"
    file.write_bytes(content)
    with pytest.raises(StateError, match=r"bot\.json is not the state of a bot"):
        State.load(file)


def test_state_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """The old file stays as it is."""
    state = State.load(tmp_path / "missing" / "bot.json")
    with pytest.raises(StateError, match="cannot be written: No such file or directory"):
        state.save()
