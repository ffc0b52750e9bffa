"""A clock that a test advances."""

from __future__ import annotations

__all__ = ["Clock"]


class Clock:
    """Seconds that a test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now
