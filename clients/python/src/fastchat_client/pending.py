"""Commands that the server has not answered yet, and when it is safe to send one again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from fastchat_client.errors import ChatError, Refused, Unconfirmed
from fastchat_client.events import Delete, Edit, Publication, React, Sent

__all__ = ["Answer", "Pending", "PendingChange", "PendingJoin", "PendingMessage"]

#: The server remembers the `id` of a message for 10 minutes (docs/protocol.md, "Sending twice").
#: Half a minute of it is for messages that were on their way.
MEMORY_S = 570.0

Answer = TypeVar("Answer")


class Pending(Generic[Answer]):
    """A command until the server has answered it: `done` is the answer, or an exception."""

    def __init__(self) -> None:
        self.done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def sending(self) -> None:
        """Note that the command is sent."""

    def refuse(self, error: ChatError) -> None:
        if not self.done.done():
            self.done.set_exception(error)
            self.done.exception()  # it is retrieved, even if the caller has given up

    def again(self, refusal: Refused) -> None:
        """Prepare for another attempt, because the server has asked for it by this refusal."""
        self.done = asyncio.get_running_loop().create_future()


class PendingJoin(Pending[None]):
    """A `join` until the server has answered it."""

    def settle(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class PendingMessage(Pending[Sent]):
    """A message until it is confirmed or refused.

    A message that was sent is in doubt until its answer comes. If its connection is lost, the next
    `joined` shows whether it was published, as long as the server can say what was missed.
    Otherwise the message can be sent again for MEMORY_S, because the server recognises its id.
    """

    def __init__(self, id: str, clock: Callable[[], float]) -> None:
        super().__init__()
        self.id = id
        self._clock = clock
        self._in_doubt_since: float | None = None

    def sending(self) -> None:
        """Note that the message is sent. Raises Unconfirmed if that could publish it twice."""
        now = self._clock()
        if self._in_doubt_since is None:
            self._in_doubt_since = now
        elif now - self._in_doubt_since > MEMORY_S:
            raise Unconfirmed

    def again(self, refusal: Refused) -> None:
        super().again(refusal)
        # docs/protocol.md: "After `unavailable`, a message can still be published."
        if refusal.code != "unavailable":
            self._in_doubt_since = None

    def was_not_published(self) -> None:
        """Note that the server has sent everything that was missed, and this was not part of it."""
        self._in_doubt_since = None

    def settle(self, sent: Sent) -> None:
        if not self.done.done():
            self.done.set_result(sent)


class PendingChange(Pending[None]):
    """An edit, a deletion or a reaction until it is confirmed or refused.

    It has no id. It is confirmed by the next publication of this user that has the same effect, and
    can be sent again at any time, because to do the same change twice changes nothing more.
    """

    def __init__(
        self,
        kind: type[Edit | Delete | React],
        target: int,
        *,
        emoji: str = "",
        remove: bool = False,
    ) -> None:
        super().__init__()
        #: Whether an attempt was made before the present one.
        self.was_sent_before = False
        self._was_sent = False
        self._kind = kind
        self._target = target
        self._reaction = emoji, remove

    def sending(self) -> None:
        """Note that the change is sent."""
        self.was_sent_before, self._was_sent = self._was_sent, True

    def is_done_by(self, publication: Publication) -> bool:
        """Whether a publication of this user can be this change."""
        return (
            isinstance(publication, Delete | Edit | React)
            and isinstance(publication, self._kind)
            and publication.target == self._target
            and (
                not isinstance(publication, React)
                or (publication.emoji, publication.remove) == self._reaction
            )
        )

    def settle(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
