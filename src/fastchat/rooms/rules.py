"""What the options of rooms refuse: writing in a room that is closed, read-only or slow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from fastchat.errors import CommandError
from fastchat.protocol import ChangeDraft, Draft, ModeratorDraft, PostedDraft
from fastchat.protocol.options import RoomOptions
from fastchat.rooms.refusals import read_only, room_closed, too_soon

__all__ = ["RoomRules"]


class RoomRules:
    """Checks drafts against the options of their rooms. `clock` returns seconds since 1970.

    The time of a user's last message is known from the messages that were let through. After a
    restart nobody has to wait.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        #: Until when users have to wait, by room and user.
        self._until_s: dict[tuple[str, str], float] = {}

    def check(
        self, drafts: Sequence[Draft], options: Mapping[str, RoomOptions]
    ) -> dict[int, CommandError]:
        """The refusals of drafts, by index. A message that is let through counts as sent."""
        refused: dict[int, CommandError] = {}
        for index, draft in enumerate(drafts):
            of_room = options.get(draft.room)
            if of_room is None or _is_free(draft):
                continue
            if of_room.closed:
                refused[index] = room_closed()
            elif of_room.read_only:
                refused[index] = read_only()
            elif of_room.slow_s and not isinstance(draft, ChangeDraft):
                wait_s = self._wait_s(draft.room, draft.user, of_room.slow_s)
                if wait_s > 0:
                    refused[index] = too_soon(of_room.slow_s, wait_s)
        return refused

    def note(self, room: str, user: str, slow_s: int) -> None:
        """Note that a user has sent a message, of which `check` does not know."""
        self._until_s[room, user] = self._clock() + slow_s

    def _wait_s(self, room: str, user: str, slow_s: int) -> float:
        now = self._clock()
        # If the room has become faster, or the clock was set back, nobody waits for longer.
        wait_s = min(self._until_s.get((room, user), 0.0) - now, slow_s)
        if wait_s <= 0:
            self._until_s[room, user] = now + slow_s
        return wait_s

    def sweep(self) -> None:
        """Forget those who need not wait any more; to be called once a second."""
        if self._until_s:
            now = self._clock()
            self._until_s = {who: until for who, until in self._until_s.items() if until > now}


def _is_free(draft: Draft) -> bool:
    """Whether no option binds the sender of a draft."""
    if isinstance(draft, ChangeDraft):
        return draft.moderated or draft.posted
    return isinstance(draft, (ModeratorDraft, PostedDraft))
