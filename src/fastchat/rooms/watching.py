"""How a process learns what happens in all rooms, whether it has members in them or not."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Watcher"]


class Watcher(Protocol):
    """Is called by the rooms in the loop's thread. It must neither wait nor raise.

    A call can be missing, so a watcher that needs everything reads the rooms when it starts, and
    from the positions that it knows.
    """

    def published(self, room: str, head: int, /) -> None:
        """Publications of a room were stored; `head` is the offset of the last one."""
        ...

    def announced(self, event: str, room: str, payload: bytes, /) -> None:
        """A user has come (`join`) or gone (`leave`); `payload` is the event, which is not stored.

        In a crowd it is called too, although the members do not hear of it.
        """
        ...
