"""The SQLite history under a day's load."""

from __future__ import annotations

from pathlib import Path

from fastchat.protocol import (
    MessageDraft,
    timestamp_of,
)
from support.sqlite_history import Clock, count, opened


def test_files_of_a_days_load_stay_small(tmp_path: Path) -> None:
    """300,000 messages in 20 rooms that store 1,000 each need less than 32 MB.

    The files then have 20,000 messages, the ids of ten minutes at about 300 bytes, and the log.
    """
    clock = Clock()
    per_turn, turns = 300, 1000
    with opened(tmp_path, clock=clock) as history:
        sizes = []
        for turn in range(turns):
            clock.now += 86_400 / turns
            now = timestamp_of(clock.now)
            history.append(
                [
                    MessageDraft(
                        f"room-{n % 20}", "Alice", "hello world " * 5, now, "", f"{turn} {n}"
                    )
                    for n in range(per_turn)
                ]
            )
            if turn % 10 == 0:
                history.prune()
                sizes.append(history.file.stat().st_size)
        for number in range(20):
            _, head, _ = history.position(f"room-{number}")
            assert head == per_turn * turns / 20
            oldest = history.after(f"room-{number}", 0, 1).publications[0].offset
            assert 1000 <= head - oldest + 1 <= 1000 + 256
    assert max(*sizes, history.file.stat().st_size) < 32e6
    assert count(tmp_path, "SELECT count(*) FROM ids") < 10 * per_turn * turns / 24 / 6
