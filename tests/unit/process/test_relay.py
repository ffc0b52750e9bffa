"""The start of the relay's process."""

from __future__ import annotations

import threading
from typing import Any

from fastchat.process.relay import beating


def test_relay_beats_while_its_history_is_migrated() -> None:
    """The supervisor hears of it as long as it takes, and the thread ends with it."""
    beats: list[dict[str, Any]] = []
    enough = threading.Event()

    class Channel:
        def say(self, **message: Any) -> None:
            beats.append(message)
            if len(beats) == 3:
                enough.set()

    with beating(Channel(), 0.001):  # type: ignore[arg-type]
        assert enough.wait(10)
    assert beats[0] == {"beat": True, "relay": False}
    assert not any(thread.name == "beats" for thread in threading.enumerate())
