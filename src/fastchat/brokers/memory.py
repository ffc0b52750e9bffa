"""The broker of a server with one process: it calls the rooms, which are in the same process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastchat.brokers import Delivery, OnOutcome, Receiver
from fastchat.errors import CloseReason, CommandError
from fastchat.history import Duplicate
from fastchat.protocol import Draft, Position
from fastchat.rooms import Entrance, Entry, Member
from fastchat.rooms.contract import Rooms
from fastchat.rooms.subscribers import PresenceChange

__all__ = ["MemoryBroker"]


class MemoryBroker:
    """Implements `fastchat.brokers.Broker`, and is the only `Subscriber` of its rooms.

    `send_away` is called with a share of the connections that must be closed.

    The other two contracts need no adapter: the rooms implement `Presence`, and their `pages`
    implement `Pages`.
    """

    _delivery: Delivery
    _receiver: Receiver

    def __init__(
        self, rooms: Rooms, send_away: Callable[[float], object] = lambda share: None
    ) -> None:
        self._rooms = rooms
        self._send_away = send_away

    def open(self, *, delivery: Delivery, receiver: Receiver) -> None:
        self._delivery = delivery
        self._receiver = receiver

    def publish(self, draft: Draft, outcome: OnOutcome | None = None) -> None:
        self._rooms.publish(self, outcome, draft)

    async def join(self, entrance: Entrance, enter: Callable[[Entry], None]) -> None:
        await self._rooms.join(self, entrance, enter)

    async def leave(self, room: str, member: Member, left: Callable[[], None]) -> None:
        await self._rooms.leave(self, room, member, left)

    def lose(self, room: str, member: Member) -> None:
        self._rooms.lose(self, room, member)

    def tell(self, room: str, payload: bytes) -> None:
        self._rooms.tell(self, room, payload)

    def tick(self) -> None:
        self._rooms.tick()

    # As a subscriber of the rooms

    def deliver(
        self,
        room: str,
        offset: int,
        payloads: Sequence[bytes],
        on_outcomes: Sequence[OnOutcome | None] | None,
    ) -> None:
        publish = self._delivery.publish
        for payload in payloads:
            publish(room, payload)
        for each, on_outcome in enumerate(on_outcomes or (), offset):
            if on_outcome is not None:
                on_outcome(each)

    def announce(self, room: str, payload: bytes, change: PresenceChange | None = None) -> None:
        self._delivery.publish(room, payload)

    def kept(self, on_outcome: OnOutcome | None, offset: int) -> None:
        if on_outcome is not None:
            on_outcome(offset)

    def know(self, room: str, users: Sequence[Member] | None) -> None:
        """Do nothing: the rooms of this process know their users."""

    def answer(self, on_outcome: OnOutcome | None, outcome: Duplicate | CommandError) -> None:
        if on_outcome is not None:
            on_outcome(outcome)

    def lost(self, room: str) -> None:
        reason = CloseReason.LOST_CONTINUITY
        self._delivery.evict(room, reason.code, reason.text)

    def restarted(self, room: str, position: Position) -> None:
        # The members have been told why, and eviction would drop what is not written yet.
        self._delivery.end_turn()
        self.lost(room)

    def expel(self, room: str, user: str, seconds: int) -> None:
        self._receiver.expel(room, user, seconds)

    def send_away(self, share: float) -> None:
        self._send_away(share)

    def end_turn(self) -> None:
        self._delivery.end_turn()
