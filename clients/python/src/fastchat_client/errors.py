"""The client's exceptions.

    ChatError           the base: `code`, `message`, `temporary`, `retry_after`
    ├── Refused         the server has refused a command; `code` is the protocol's
    ├── Unconfirmed     nobody can say any more whether a message was published
    ├── Disconnected    a connection was lost or refused; the chat connects again by itself
    └── Closed          the chat has ended; `close_code` says why, if the server has closed it

A file that cannot be read is an OSError, and a wrong argument is a ValueError or a TypeError.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

__all__ = ["ChatError", "CloseCode", "Closed", "Disconnected", "Refused", "Unconfirmed"]


class CloseCode(IntEnum):
    """Close codes of docs/protocol.md, "Closing"."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    INVALID_TEXT = 1007
    TOO_BIG = 1009
    INTERNAL = 1011
    RESTART = 1012
    OVERLOADED = 1013
    EVICTED = 4008
    HEARTBEAT_MISSED = 4009
    LOST_CONTINUITY = 4010
    TOKEN_EXPIRED = 4011
    UNAUTHORIZED = 4501
    JOIN_TIMEOUT = 4502
    REMOVED = 4503
    FLOODING = 4504


_FINAL = frozenset(
    {
        CloseCode.PROTOCOL_ERROR,
        CloseCode.UNSUPPORTED_DATA,
        CloseCode.INVALID_TEXT,
        CloseCode.TOO_BIG,
    }
)


def may_reconnect(close_code: int) -> bool:
    """Whether a client should connect again after this code.

    docs/protocol.md: "If a client does not know a code, it reconnects after 4000 to 4499, and does
    not reconnect after 4500 to 4999."
    """
    return close_code not in _FINAL and not 4500 <= close_code <= 4999


class ChatError(Exception):
    """The base of this package's exceptions.

    * ``code``: a word for programs, such as "forbidden".
    * ``message``: a sentence for a person.
    * ``temporary``: whether the same call can succeed later.
    * ``retry_after``: after how many seconds; None if that is not known.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        temporary: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.temporary = temporary
        self.retry_after = retry_after


class Refused(ChatError):
    """The server has refused a command, and nothing has happened.

    `code` is one of docs/protocol.md, "Errors". A chat waits by itself after `rate_limited` and
    `unavailable`, so a call is not refused with these. `API` waits for a limited time only; after
    `unavailable`, its request can have been carried out.
    """

    @classmethod
    def from_event(cls, event: dict[str, Any]) -> Refused:
        after_ms = event.get("retry_after_ms")
        return cls(
            str(event["code"]),
            str(event["message"]),
            temporary=bool(event["temporary"]),
            retry_after=None if after_ms is None else float(after_ms) / 1000,
        )

    @property
    def asks_to_wait(self) -> bool:
        """Whether the same command is to be sent again after a while."""
        return self.temporary and self.code in ("rate_limited", "unavailable")


class Unconfirmed(ChatError):
    """Nobody can say any more whether a message was published.

    It was sent, and then the connection was lost for so long that the server has forgotten the
    message's id, while more was missed than the server sends again. To send it again can publish it
    twice.
    """

    def __init__(self) -> None:
        super().__init__(
            "unconfirmed",
            "The connection was lost for too long to know whether the message was published.",
        )


class Disconnected(ChatError):
    """A connection was lost, or could not be made. The chat connects again by itself.

    From a call of `API`, it means that there was no answer: the request can have been carried out,
    unless `code` is "unreachable" (there is no API at the address).

    `join` raises it only if there is no chat server at the address (`code` is "unreachable").
    `close_code` is None if the server has sent no close frame.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "disconnected",
        temporary: bool = True,
        retry_after: float | None = None,
        close_code: int | None = None,
    ) -> None:
        super().__init__(code, message, temporary=temporary, retry_after=retry_after)
        self.close_code = close_code


class Closed(ChatError):
    """The chat, or the room, was closed, by this program or by the server, and does not come back.

    `close_code` is the server's code, or None if this program has closed the chat or left the room.
    """

    def __init__(self, message: str, *, close_code: int | None = None) -> None:
        super().__init__("closed", message)
        self.close_code = close_code
