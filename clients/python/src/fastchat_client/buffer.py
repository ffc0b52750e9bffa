"""The events of a room that this program has not taken yet.

The buffer is bounded. If it is full, the oldest event is dropped for each new one, and the next
event to be taken is a `Gap`. So a program that is too slow goes on with what is new, and knows what
it has not seen.
"""

from __future__ import annotations

from collections import deque

from fastchat_client.events import Event, Gap, Position, Publication

__all__ = ["Buffer"]


class Buffer:
    """A bounded queue of one room's events. `position` is the place of the last one taken."""

    def __init__(self, room: str, limit: int, position: Position) -> None:
        if limit < 1:
            raise ValueError("The buffer must have space for at least one event.")
        self.position = position
        self._room = room
        self._limit = limit
        self._events: deque[Event] = deque()
        self._dropped = False
        self._newest = position  # of the last publication that was put
        self._was_reset = False  # a `Gap` with this reason is among what was dropped

    def __len__(self) -> int:
        return len(self._events) + self._dropped

    def put(self, event: Event) -> None:
        """Add an event; drop the oldest one if the buffer is full."""
        if len(self._events) >= self._limit:
            oldest = self._events.popleft()
            self._dropped = True
            if isinstance(oldest, Gap) and oldest.reason == "reset":
                self._was_reset = True
        if isinstance(event, Publication | Gap):
            self._newest = event.position
        self._events.append(event)

    def take(self) -> Event:
        """Take the next event. Raises IndexError if there is none."""
        if self._dropped:
            self._dropped = False
            gap = self._gap()
            if gap is not None:
                self.position = gap.position
                return gap
        event = self._events.popleft()
        if isinstance(event, Publication | Gap):
            self.position = event.position
        return event

    def _gap(self) -> Gap | None:
        """The gap that dropped events leave; None if the next event says as much."""
        was_reset, self._was_reset = self._was_reset, False
        following = next((e for e in self._events if isinstance(e, Publication | Gap)), None)
        if following is None:
            before, epoch = self._newest.offset + 1, self._newest.epoch
        elif isinstance(following, Publication):
            before, epoch = following.offset, following.epoch
        elif following.reason == "reset":
            return None
        else:
            before, epoch = following.after + 1, following.position.epoch
        return Gap(
            room=self._room,
            reason="reset" if was_reset else "slow",
            after=0 if was_reset else self.position.offset,
            before=before,
            position=Position(epoch, before - 1),
        )
